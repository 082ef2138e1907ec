"""From two scenes to judged tiles: which radar goes with which optical, one grid, one mask, the rules."""

import contextlib
import datetime
import itertools
from pathlib import Path

import numpy as np

from data_prep import rasters, references, sar, scenes, shares, snow_index, terrain, truth
from data_prep.runs import BadInput

RULES = {  # in the order in which they are applied; the first that fails names the rejection
    "unreadable": "a file cannot be read or is not what its tags say",
    "no-radar": "the site has no Sentinel-1 scene",
    "no-optical": "the site has no Sentinel-2 scene",
    "gap": "no partner within --max-gap-hours",
    "no-reference": "the scene has no same-track reference (--need-reference)",
    "radar-border": "less than --min-valid-share of the tile is lit by the radar (swath edge, zero fill)",
    "optical-border": "less than --min-valid-share of the tile has optical data",
    "cloud": "more than --max-cloud-share of the optical pixels are cloud or cloud shadow",
    "no-valid-pixel": "no pixel has both radar and a label",
    "valid-share": "less than --min-valid-share of the tile has both radar and a label",
    "class-share": "snow or snow-free pixels are fewer than --min-class-share of the valid ones",
    "superseded": "the radar tile has another optical partner, nearer in time or as near and no less valid",
    "near-duplicate": "the radar tile repeats another one of this place, pixel for pixel",
}


# ---- candidates --------------------------------------------------------------------------------------------


def gap_hours(s1, s2) -> float:
    """Hours from the radar to the optical acquisition; whole days where a time of day is unknown."""

    def moment(scene, time):
        return datetime.datetime.fromisoformat(f"{scene.date}T{time[:2]}:{time[2:4]}:{time[4:]}")

    both = s1.time and s2.time
    difference = moment(s2, s2.time if both else "120000") - moment(s1, s1.time if both else "120000")
    return difference.total_seconds() / 3600


def candidates(args):
    """Yield, by site in order of name: (site folder, s1, s2, gap) to work on, or a rejection as a dict."""
    for site in scenes.list_sites(args.data):
        found = {sensor: scenes.list_scenes(site, sensor) for sensor in ("s1", "s2")}
        partnered = set()
        for s1, s2 in itertools.product(found["s1"], found["s2"]):
            gap = gap_hours(s1, s2)
            if abs(gap) <= args.max_gap_hours:
                partnered |= {s1.path, s2.path}
                yield site, s1, s2, gap
        for sensor, other, empty in (("s1", "s2", "no-optical"), ("s2", "s1", "no-radar")):
            for scene in found[sensor]:
                if scene.path in partnered:
                    continue
                gaps = [gap_hours(*((scene, o) if sensor == "s1" else (o, scene))) for o in found[other]]
                nearest = min(gaps, key=abs, default=None)
                rule = "gap" if gaps else empty
                reason = RULES[rule] + (
                    f" {args.max_gap_hours:g}; the nearest is {nearest:+.1f} h away" if gaps else ""
                )
                yield {
                    "site": site.name,
                    sensor: scene.path.name,
                    "rule": rule,
                    "reason": reason,
                    "gap_hours": nearest,
                }


def need_one_backscatter(args, tasks) -> None:
    """Radar with a partner must be of one kind at all sites; files that cannot be read are refused later."""
    places = {task[1].path: task[0].name for task in tasks if not isinstance(task, dict)}
    kinds: dict[str, set[str]] = {}
    for path, site in places.items():
        with contextlib.suppress(BadInput):
            kind = rasters.open_header(path).tags.get("backscatter", args.backscatter)
            if kind in rasters.BACKSCATTER:
                kinds.setdefault(kind, set()).add(site)
    if len(kinds) > 1:
        each = [f"{kind} at {shares.some(sorted(kinds[kind])).replace('; ', ', ')}" for kind in sorted(kinds)]
        raise BadInput(
            f"{args.data}: mixes kinds of backscatter, which differ by several dB on slopes "
            f"({'; '.join(each)}). Curate each kind from a folder of its own, or make them one."
        )


def tiles_of(height: int, width: int, tile: int) -> list[tuple[int, int, int, int]]:
    """(row, col, height, width) of tiles without overlap; edge tiles of at least half keep their size."""

    def cuts(length):
        if length <= tile:
            return [(0, length)]
        starts = range(0, length, tile)
        return [
            (start, min(tile, length - start)) for start in starts if min(tile, length - start) * 2 >= tile
        ]

    return [(row, col, h, w) for row, h in cuts(height) for col, w in cuts(width)]


# ---- one pair of scenes ------------------------------------------------------------------------------------


def open_pair(site: Path, s1, s2, args) -> dict:
    """Checked headers and everything about a pair that its tiles share."""
    radar, optical = rasters.open_radar(s1.path, args.units, args.backscatter), rasters.open_optical(s2.path)
    grid = optical.grid
    if grid.crs.is_geographic:
        grid = rasters.utm_grid(grid, args.resolution_m)
    about = scenes.read_site(site)
    extra = {
        name: rasters.open_header(site / f"{name}.tif")
        for name in ("dem", "landcover")
        if (site / f"{name}.tif").exists()
    }
    orbit = scenes.relative_orbit(radar, s1)
    if args.reference != "none" and orbit:
        name = references.name_for(orbit, s1.date, about["latitude"], args)
        reference = args.out / "ref" / site.name / name
        if reference.exists():
            extra["ref"] = rasters.open_reference(reference, radar)
    for raster in extra.values():
        rasters.need_crs(raster)
    cloud_band = next((name for name in ("SCL", "QA60") if name in optical.bands), None)
    if (
        cloud_band == "QA60"
        and snow_index.qa60_is_blank(s2.date)
        and not (rasters.sample(optical, ["QA60"]) > 0).any()
    ):
        cloud_band = None
    return {
        "site": about,
        "radar": radar,
        "optical": optical,
        "grid": grid,
        "extra": extra,
        "orbit": orbit,
        "truth": truth.find(site, s1.path.stem),
        "cloud_band": cloud_band,
        "rgb_limits": scenes.rgb_limits(s2.path),
        "season": snow_index.in_snow_season(int(s2.date[5:7]), about["latitude"], *args.snow_season),
    }


def read_radar_tile(pair: dict, grid, args):
    """float32 (bands, H, W) in dB, filtered if asked for, border set to NaN; and the names of the bands."""
    radar = pair["radar"]
    bands = [name for name in (*rasters.RADAR, *rasters.ANGLES) if name in radar.bands]
    margin = args.speckle_window if args.speckle == "lee" else 0
    wide = grid.window(-margin, -margin, grid.height + 2 * margin, grid.width + 2 * margin)
    values = rasters.read_on(radar, bands, wide, "bilinear")
    inner = slice(margin, margin + grid.height), slice(margin, margin + grid.width)
    planes = []
    for name, plane in zip(bands, values, strict=True):
        if name in rasters.RADAR:
            linear = sar.clean_border(plane if radar.units == "linear" else sar.to_linear(plane))
            plane = sar.to_db(sar.lee(linear, args.speckle_window, args.looks) if margin else linear)
        planes.append(plane[inner])
    stack = np.stack(planes)
    measured = np.array([name in rasters.RADAR for name in bands])
    lit = ~np.isnan(stack[measured]).any(axis=0)
    stack[measured] = np.where(
        lit, stack[measured], np.nan
    )  # angles stay: they do not tell what was measured
    return stack, bands, lit


def read_optical_tile(pair: dict, grid, args) -> dict:
    """Mask (0, 1, 255), RGB picture, and the shares of optical data and cloud in the tile."""
    optical, cloud_band = pair["optical"], pair["cloud_band"]
    names = ["B02", "B03", "B04", "B08", "B11"] + ([cloud_band] if cloud_band else [])
    margin = 0 if cloud_band == "SCL" else args.cloud_buffer_px + args.shadow_reach_px
    wide = grid.window(-margin, -margin, grid.height + 2 * margin, grid.width + 2 * margin)
    inner = slice(margin, margin + grid.height), slice(margin, margin + grid.width)
    values = dict(zip(names, rasters.read_on(optical, names, wide, "nearest"), strict=True))
    scale = 10000 if optical.units == "reflectance*10000" else 1
    offset = float(optical.tags.get("offset", 0))
    bands = {name: snow_index.reflectance(values[name], offset, scale) for name in names[:5]}
    seen = ~np.isnan(np.stack(list(bands.values()))).any(axis=0)
    snow = snow_index.ndsi(bands["B03"], bands["B11"])
    if cloud_band == "SCL":
        cloud = snow_index.cloud_from_scl(values["SCL"])
    else:
        cloud = (
            snow_index.cloud_from_qa60(values["QA60"])
            if cloud_band == "QA60"
            else snow_index.cloud_from_brightness(bands["B02"], snow)
        )
        cloud = snow_index.grow(cloud & seen, args.cloud_buffer_px)
        cloud |= snow_index.cloud_shadow(bands["B08"], snow, cloud, args.shadow_reach_px)
    bands, seen, cloud = {name: band[inner] for name, band in bands.items()}, seen[inner], cloud[inner]
    landcover = pair["extra"].get("landcover")
    cover = rasters.read_on(landcover, landcover.bands[:1], grid, "nearest")[0] if landcover else None
    mask = snow_index.snow_mask(bands, args.index, cloud, pair["season"], cover)
    mask[~seen] = snow_index.NO_DATA
    low, high = (snow_index.reflectance(np.float32(limit), offset, scale) for limit in pair["rgb_limits"])
    rgb = np.stack([sar.stretch(bands[name], (low, high)) for name in ("B04", "B03", "B02")])
    return {
        "mask": mask,
        "rgb": rgb,
        "nir": bands["B08"],
        "landcover": cover,
        "optical_share": float(seen.mean()),
        "cloud_share": float((cloud & seen).sum() / max(1, seen.sum())),
    }


def judge_tile(pair: dict, box, args) -> dict:
    """Figures, arrays and, if a rule fails, its name, of one tile (row, col, height, width)."""
    grid = pair["grid"].window(*box)
    radar, bands, lit = read_radar_tile(pair, grid, args)
    tile = {"grid": grid, "radar": radar, "bands": bands, "lit": lit, **read_optical_tile(pair, grid, args)}
    tile["mask"] = np.where(lit, tile["mask"], np.uint8(snow_index.NO_DATA))
    valid = tile["mask"] != snow_index.NO_DATA
    tile["radar_share"], tile["valid_fraction"] = float(lit.mean()), float(valid.mean())
    tile["snow_fraction"] = fraction = snow_index.snow_fraction(tile["mask"])
    failed = {
        "no-reference": args.need_reference and "ref" not in pair["extra"],
        "radar-border": tile["radar_share"] < args.min_valid_share,
        "optical-border": tile["optical_share"] < args.min_valid_share,
        "cloud": tile["cloud_share"] > args.max_cloud_share,
        "no-valid-pixel": fraction is None,
        "valid-share": tile["valid_fraction"] < args.min_valid_share,
        "class-share": fraction is not None and min(fraction, 1 - fraction) < args.min_class_share,
    }
    tile["rule"] = next((rule for rule, fails in failed.items() if fails), None)
    return tile


def add_local_incidence(tile: dict, planes: dict, azimuth: float | None) -> bool:
    """Add local_incidence_angle to a tile's radar from the DEM, if it has only the angle to the ellipsoid."""
    ellipsoid, local = rasters.ANGLES
    if azimuth is None or ellipsoid not in tile["bands"] or local in tile["bands"]:
        return False
    incidence = tile["radar"][tile["bands"].index(ellipsoid)]
    angle = terrain.local_incidence_angle(planes["slope"], planes["aspect"], incidence, azimuth)
    tile["radar"] = np.concatenate([tile["radar"], angle[None]])
    tile["bands"] = [*tile["bands"], local]
    return True


def wet_mask(tile: dict, path: Path) -> np.ndarray:
    """uint8 (H, W): 1 wet snow, 0 dry or none, 255 where the radar or the truth has no data."""
    planes = truth.read_on(path, tile["grid"])
    return np.where(tile["lit"] & truth.known(planes), truth.wet(planes), np.uint8(snow_index.NO_DATA))


def misregistration(radar_db, nir) -> tuple[float, float]:
    """(shift in pixels, response 0..1) between the edges of radar and near infrared, by phase correlation."""
    import cv2

    def edges(image):
        image = np.where(np.isfinite(image), image, np.nanmedian(image)).astype(np.float32)
        image = cv2.GaussianBlur(image, (0, 0), 2)
        gradient = np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        return ((gradient - gradient.mean()) / (gradient.std() + 1e-6)).astype(np.float64)

    a, b = edges(radar_db), edges(nir)
    (x, y), response = cv2.phaseCorrelate(a, b, cv2.createHanningWindow(a.shape[::-1], cv2.CV_64F))
    return float(np.hypot(x, y)), float(response)
