"""Predicted masks and probabilities on disk, and the pictures of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from data_prep import pictures, rasters, sar, triplets
from data_prep.runs import atomic
from data_prep.snow_index import NO_DATA


def probability_bytes(probability: np.ndarray) -> np.ndarray:
    """Probability (NaN = no data) as bytes of rasters.PROBABILITY_SCALE, 255 = no data."""
    missing = np.isnan(probability)
    scaled = np.where(missing, 0, probability) / rasters.PROBABILITY_SCALE + 0.5
    return np.where(missing, NO_DATA, scaled).astype(np.uint8)


def write(out: Path, row: dict, probability: np.ndarray, mask: np.ndarray, **tags) -> float | None:
    """Write a triplet's mask (0, 1, 255) and probability; returns the area of a pixel in km2 where known.

    The original's PNG triplets give PNG masks of 0 and 255, as they are.
    """
    if row["sar"].suffix == ".png":
        with atomic(out / "mask" / f"{row['id']}.png") as path:
            Image.fromarray((mask == 1).astype(np.uint8) * 255).save(path, "png")
        return None
    grid, name = rasters.open_header(row["sar"]).grid, f"{row['id']}.tif"
    rasters.write(out / "mask" / name, mask[None], ("snow",), grid, NO_DATA, **tags)
    with rasters.window_writer(
        out / "probability" / name,
        grid,
        ("snow_probability",),
        "uint8",
        NO_DATA,
        rasters.PROBABILITY_SCALE,
        **tags,
    ) as target:
        target.write(probability_bytes(probability), 1)
    return grid.pixel_area_m2() / 1e6


def read(path: Path, max_pixels: int | None = None) -> np.ndarray:
    """A written mask as uint8 (H, W), or a written probability as float32 with NaN."""
    raster = rasters.open_header(path)
    values = rasters.read(raster, raster.bands[:1], max_pixels=max_pixels, raw=True)[0]
    if raster.bands[0] == "snow":
        return values.astype(np.uint8)
    return np.where(values == NO_DATA, np.nan, values * rasters.PROBABILITY_SCALE)


def read_written(out: Path, row: dict) -> tuple[np.ndarray, np.ndarray | None]:
    """A triplet's mask and probability as `write` wrote them; for the original's PNGs the mask alone."""
    if row["sar"].suffix == ".png":
        return (rasters.read_png(out / "mask" / f"{row['id']}.png") == 255).astype(np.uint8), None
    mask, probability = (read(out / kind / f"{row['id']}.tif") for kind in ("mask", "probability"))
    return mask, probability


def panel(row: dict, caption: str, reference: np.ndarray, mask: np.ndarray, probability=None) -> dict:
    """What pictures.overlays shows of a triplet: radar, RGB, reference mask, probability, errors."""
    rgb = None
    if row["sar"].suffix == ".png":
        image = triplets.read_image(row, ["grey"])[0]
        rgb = rasters.read_png(row["rgb"]) if row["rgb"] else None
    else:
        raster = rasters.open_header(row["sar"])
        band = next(name for name in (*rasters.RADAR, raster.bands[0]) if name in raster.bands)
        image = rasters.read(raster, [band])[0]
        if row["rgb"]:
            raster = rasters.open_header(row["rgb"])
            rgb = rasters.read(raster, raster.bands, raw=True).astype(np.uint8).transpose(1, 2, 0)
    return {
        "radar": sar.stretch(image, sar.stretch_limits(image)), "rgb": rgb, "reference mask": reference,
        "probability": probability, "errors": pictures.error_colours(reference, mask), "caption": caption,
    }  # fmt: skip


def preview(path: Path, raster: rasters.Raster, mask: Path, probability: Path, title: str) -> None:
    """A scene's radar, probability and mask at screen size, from decimated reads."""
    band = next(name for name in rasters.RADAR if name in raster.bands)
    radar = rasters.read(raster, [band], max_pixels=600 * 600)[0]
    radar = sar.to_db(radar) if raster.units == "linear" else radar
    shown = sar.stretch(radar, sar.stretch_limits(radar))
    pictures.scene_preview(path, shown, read(probability, 600 * 600), read(mask, 600 * 600), title)
