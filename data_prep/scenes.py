"""Scenes on disk: sites, acquisitions by name and date, tracks, and the stretch of a whole scene."""

import datetime
import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import sar, terrain
from data_prep.rasters import RADAR, Grid, Raster, open_header, read_on, sample
from data_prep.runs import BadInput, say

SCENE_NAME = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})(?:T(?P<time>\d{6}))?(?:_(?P<orbit>[A-Za-z0-9-]+))?\.tif"
)
HEIGHTS_M = (-500, 9000)  # where ground can be
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Scene:
    """One acquisition in a site's s1/ or s2/ folder."""

    site: str
    path: Path
    date: str  # YYYY-MM-DD, UTC
    time: str  # HHMMSS, or "" where the name has none
    orbit: str


def list_sites(folder: Path) -> list[Path]:
    """Folders with a site.json, in order of name; a site's name must be safe to use in file names."""
    if not Path(folder).is_dir():
        raise BadInput(
            f"{folder}: no such folder; --data names a scenes folder (<site>/s1/*.tif, <site>/s2/*.tif)."
        )
    if (Path(folder) / "site.json").is_file():
        raise BadInput(
            f"{folder}: holds a site.json, so it is one site; --data names the folder of sites: pass "
            f"{Path(folder).resolve().parent}."
        )
    sites = sorted(path.parent for path in Path(folder).glob("*/site.json"))
    if not sites:
        raise BadInput(
            f"{folder}: no <site>/site.json found; lay scenes out as docs/own-data.md says, "
            "under 'Your own scenes'."
        )
    for site in sites:
        if not SAFE_NAME.fullmatch(site.name):
            raise BadInput(
                f"{site}: a site's name may hold letters, digits, '.', '_' and '-' only; rename the folder."
            )
    return sites


def leave_out_overlooked(folder: Path, skip_bad: bool) -> None:
    """What looks like scenes but would not be read is refused, or with `skip_bad` said."""
    places = [place for place in sorted(Path(folder).glob("*/s[12]")) if place.is_dir()]
    bare = sorted({place.parent for place in places if not (place.parent / "site.json").exists()})
    found = [f"{site}: holds scenes but no site.json (site, latitude, longitude); write one" for site in bare]
    for path in (path for place in places for path in sorted(place.iterdir())):
        if (
            path.suffix.lower() in (".tif", ".tiff")
            and path.suffix != ".tif"
            and path.parent.parent not in bare
        ):
            found.append(f"{path}: ends in {path.suffix}, scenes end in .tif; rename it")
    if found and not skip_bad:
        more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
        raise BadInput(f"{found[0]}{more}, or leave such out with --skip-bad.")
    for problem in found:
        say(f"left out: {problem}")


def read_site(folder: Path) -> dict:
    path = Path(folder) / "site.json"
    try:
        site = json.loads(path.read_text(encoding="utf-8"))
        site["latitude"], site["longitude"] = float(site["latitude"]), float(site["longitude"])
        if not (abs(site["latitude"]) <= 90 and abs(site["longitude"]) <= 180):
            raise ValueError("latitude or longitude out of range")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: needs JSON with site, latitude and longitude in degrees ({error!r})."
        ) from None
    return {**site, "site": Path(folder).name}


def list_scenes(site: Path, sensor: str) -> list[Scene]:
    """The scenes of <site>/<sensor>/ in order of date; a file whose name has no date is a BadInput."""
    found = []
    for path in sorted((Path(site) / sensor).glob("*.tif")):
        match = SCENE_NAME.fullmatch(path.name)
        if match is None:
            raise BadInput(
                f"{path}: named neither <YYYY-MM-DD>.tif nor <YYYY-MM-DD>T<HHMMSS>_<orbit>.tif; rename it."
            )
        try:
            time = match["time"] or "000000"
            datetime.datetime.fromisoformat(f"{match['date']}T{time[:2]}:{time[2:4]}:{time[4:]}")
        except ValueError:
            raise BadInput(f"{path}: its name holds no date and time of day that exist; rename it.") from None
        found.append(Scene(Path(site).name, path, match["date"], match["time"] or "", match["orbit"] or ""))
    return found


def relative_orbit(raster: Raster, scene: Scene) -> str:
    """The track, from the tags or the file's name, "" if neither says; a safe name, for it names files."""
    orbit = str(raster.tags.get("relative_orbit") or scene.orbit)
    if orbit and not SAFE_NAME.fullmatch(orbit):
        raise BadInput(f"{raster.path}: relative orbit {orbit!r} holds odd characters; mend the tag.")
    return orbit


def look_azimuth(raster: Raster, latitude: float) -> float | None:
    """Where the radar looks, degrees from north; None where its tags have no orbit_state that says so."""
    try:
        return terrain.look_azimuth(latitude, raster.tags.get("orbit_state", "").lower())
    except ValueError:
        return None


def terrain_planes(dem: Raster, grid: Grid) -> dict[str, np.ndarray]:
    """Elevation in metres, slope and aspect in degrees from true north, float32 (H, W), on a metric grid.

    Read with a margin of a pixel, so that windows of one grid have no seams. A height that no ground has is a
    BadInput.
    """
    wide = grid.window(-1, -1, grid.height + 2, grid.width + 2)
    metres = read_on(dem, dem.bands[:1], wide, "bilinear")[0]
    outside = metres[(metres < HEIGHTS_M[0]) | (metres > HEIGHTS_M[1])]
    if outside.size:
        raise BadInput(
            f"{dem.path}: holds an elevation of {outside[0]:g} m; set its nodata value, voids are no ground."
        )
    elevation = metres[1:-1, 1:-1]
    for edge, beside in ((np.s_[0], np.s_[1]), (np.s_[-1], np.s_[-2])):  # where the DEM itself ends
        for side in (metres, metres.T):
            side[edge] = np.where(np.isnan(side[edge]), side[beside], side[edge])
    down = 1 if grid.transform.e < 0 else -1  # rows go south, or north in a raster that stands on its head
    slope, aspect = terrain.slope_aspect(metres[::down], grid.pixel_area_m2() ** 0.5)
    aspect = np.where(slope > 0, (aspect + np.float32(grid.north())) % 360, aspect).astype(np.float32)
    slope, aspect = slope[::down][1:-1, 1:-1], aspect[::down][1:-1, 1:-1]
    return {"elevation": elevation, "slope": slope, "aspect": aspect}


@functools.lru_cache(maxsize=32)
def scene_limits(path: Path, band: str, units: str | None = None) -> tuple[float, float]:
    """Stretch limits of a whole scene's band (backscatter in dB), from at most a million pixels."""
    raster = open_header(path)
    values = sample(raster, [band])[0]
    if band in RADAR and (units or raster.units) == "linear":
        values = sar.to_db(values)
    return sar.stretch_limits(values)


@functools.lru_cache(maxsize=32)
def rgb_limits(path: Path) -> tuple[float, float]:
    """Stretch limits common to B04, B03 and B02 of a scene, so that snow stays white; at least 0.2 apart."""
    raster = open_header(path)
    low, high = sar.stretch_limits(sample(raster, ["B04", "B03", "B02"]))
    return low, max(high, low + (0.2 if raster.units == "reflectance" else 2000))  # flat cloud keeps its grey
