"""What kind of ground each pixel of a triplet is, as class indices: surface, wetness, depth, angle..."""

from pathlib import Path

import numpy as np

from data_prep import rasters, scenes, truth
from data_prep.runs import BadInput
from data_prep.snow_index import TREE_COVER, WATER

NONE = -1  # a pixel that belongs to no class of a stratum
CLASSES = {
    "surface": ("open", "forest"),
    "wetness": ("dry", "wet"),
    "depth": ("0-0.3 m", "0.3-1 m", "over 1 m"),
    "local_incidence_angle": ("under 30 deg", "30-45 deg", "over 45 deg"),
    "incidence_angle": ("under 30 deg", "30-45 deg", "over 45 deg"),  # to the ellipsoid: flat ground
    "radar_view": ("seen", "layover or shadow"),
    "season": ("DJF", "MAM", "JJA", "SON"),
    "elevation": ("under 1000 m", "1000-2000 m", "over 2000 m"),
}
SNOW_ONLY = ("wetness", "depth")  # see models.metrics.Tally: snow-free ground belongs to every class of these
EDGES = {
    "depth": (0.3, 1.0),
    "local_incidence_angle": (30, 45),
    "incidence_angle": (30, 45),
    "elevation": (1000, 2000),
}


def by_edges(stratum: str, values: np.ndarray) -> np.ndarray:
    """int8 class index of values in the stratum's unit (a value on an edge counts upwards); NaN is none."""
    return np.where(np.isfinite(values), np.digitize(values, EDGES[stratum]), NONE).astype(np.int8)


def season(date: str, shape) -> np.ndarray | None:
    """int8 class index of a date YYYY-MM-DD for every pixel; None without a date."""
    month = date[5:7]
    return np.full(shape, int(month) % 12 // 3, np.int8) if month.isdigit() else None


def surface(landcover: np.ndarray) -> np.ndarray:
    """Forest is WorldCover's tree cover, open everything else but water and no data (0 or NaN)."""
    known = np.isfinite(landcover) & (landcover > 0) & (landcover != WATER)
    return np.where(known, landcover == TREE_COVER, NONE).astype(np.int8)


def codes(row: dict, shape, planes: dict | None = None, wet: np.ndarray | None = None) -> dict:
    """Stratum -> int8 (H, W) of class indices, for what a triplet's files and its truth tell.

    planes: those of data_prep.truth on the triplet's grid; wet: bool (H, W), the truth's wet snow.
    """
    planes, found = dict(planes or {}), {"season": season(row.get("s1_date") or row.get("date", ""), shape)}
    if row["sar"].suffix != ".png":
        for kind, names in (("sar", rasters.ANGLES), ("dem", ("elevation",)), ("landcover", ("landcover",))):
            if row.get(kind) is None:
                continue
            raster = rasters.open_header(row[kind])
            if kind != "sar":
                raster = rasters.replace(raster, bands=(names[0], *raster.bands[1:]))
            have = [name for name in names if name in raster.bands]
            if have and (raster.grid.height, raster.grid.width) == tuple(shape):
                planes |= dict(zip(have, rasters.read(raster, have), strict=True))
    if "landcover" in planes:
        found["surface"] = surface(planes["landcover"])
    if wet is not None:
        found["wetness"] = np.where(truth.known(planes) & truth.snow(planes), wet, NONE).astype(np.int8)
    if "layover_shadow" in planes:
        view = planes["layover_shadow"]
        found["radar_view"] = np.where(np.isfinite(view), view > 0, NONE).astype(np.int8)
    angle = "local_incidence_angle" if "local_incidence_angle" in planes else "incidence_angle"
    for stratum, plane in (("depth", "snow_depth"), (angle, angle), ("elevation", "elevation")):
        if plane in planes:
            found[stratum] = by_edges(stratum, planes[plane])
    return {stratum: values for stratum, values in found.items() if values is not None}


def read_truth(row: dict, scenes_folder: Path) -> dict[str, np.ndarray] | None:
    """Planes (H, W) of the truth of a triplet's radar scene on its grid; None where there is no truth."""
    path = truth.find(Path(scenes_folder) / row["site"], scene_stem(row))
    if path is None:
        return None
    return truth.read_on(path, rasters.open_header(row["sar"]).grid)


def scene_stem(row: dict) -> str:
    """Stem of the radar scene's file, from the triplet's id: <site>_<radar scene>_<optical scene>_<place>."""
    if row["s1_date"] and not scenes.SAFE_NAME.fullmatch(row["s1_date"]):
        raise BadInput(f"{row['id']}: s1_date {row['s1_date']!r} is no date; mend triplets.csv.")
    date, orbit, *_ = (*row["id"].removeprefix(f"{row['site']}_").split("_"), "", "")
    if not date.startswith(row["s1_date"][:10]):
        return row["s1_date"]
    return date if not orbit or scenes.SCENE_NAME.fullmatch(f"{orbit}.tif") else f"{date}_{orbit}"
