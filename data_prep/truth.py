"""The truth of simulated sites: which file belongs to a radar scene, and when a pixel is snow, and wet."""

from pathlib import Path

import numpy as np

from data_prep import rasters
from data_prep.snow_index import WATER

TRUTH_SNOW_FRACTION = 0.5  # a pixel is snow when at least half of its ground is under snow
WET_LIQUID_WATER = 0.01  # a choice: about where radar sees wet snow (Nagler & Rott 2000, 10.1109/36.842004)
BANDS = ("snow_fraction", "liquid_water", "snow_depth", "landcover", "layover_shadow")


def find(site: Path, scene: str) -> Path | None:
    """The truth file of a radar scene, by the stem of its name, else by its date; None without one."""
    folder = Path(site) / "truth"
    paths = (folder / f"{name}.tif" for name in (scene, scene[:10]))
    return next((path for path in paths if path.is_file()), None)


def read_on(path: Path, grid: rasters.Grid) -> dict[str, np.ndarray]:
    """float32 (H, W) of each band the file has, nearest pixel, NaN outside.

    snow_fraction 0..1, liquid_water as volume share of the snow, snow_depth in metres, landcover as codes,
    layover_shadow 0 seen, 1 layover, 2 shadow.
    """
    raster = rasters.open_header(path)
    rasters.need_crs(raster)
    rasters.need_bands(raster, BANDS[:2])
    names = [name for name in BANDS if name in raster.bands]
    return dict(zip(names, rasters.read_on(raster, names, grid, "nearest"), strict=True))


def known(planes: dict[str, np.ndarray]) -> np.ndarray:
    """bool (H, W): snow and its wetness are known, and it is not water, which no label of snow covers."""
    water = planes["landcover"] == WATER if "landcover" in planes else False
    said = np.isfinite(planes["liquid_water"]) | ~snow(planes)
    return np.isfinite(planes["snow_fraction"]) & said & ~np.asarray(water)


def snow(planes: dict[str, np.ndarray]) -> np.ndarray:
    return planes["snow_fraction"] >= TRUTH_SNOW_FRACTION


def wet(planes: dict[str, np.ndarray]) -> np.ndarray:
    return snow(planes) & (planes["liquid_water"] >= WET_LIQUID_WATER)
