"""Snow masks made by anyone, read on another grid or at points as 0, 1, 255, or as probability."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.warp import reproject, transform

from data_prep import rasters
from data_prep.mask_folders import GDAL, GDAL_ERRORS, MaskFolder, by_date, find, leave_out, open_header
from data_prep.rasters import Grid, Raster
from data_prep.runs import BadInput, say
from data_prep.snow_index import NO_DATA

MUCH_FINER = 0.5  # below half the grid's pixel side a majority (probability: mean) is taken, else the nearest
PIXELS_AT_ONCE = 1 << 24  # of a mask in memory


def to_classes(masks: MaskFolder, values: np.ndarray, known: np.ndarray, nodata, path: Path) -> np.ndarray:
    """uint8 0, 1, 255 of a mask's codes, by the folder's --snow and --snow-free; notes what it met.

    A stated code that is also the file's no-data value is a class; a default one never is.
    """
    known = known & np.isfinite(values)
    if nodata is not None and not any(low <= nodata <= high for low, high in masks.stated):
        if not masks.stated and any(low <= nodata <= high for low, high in (*masks.snow, *masks.snow_free)):
            raise BadInput(
                f"{path}: its no-data value {nodata:g} is also the code of a class; if those pixels are a "
                "class state --snow and --snow-free, else mend the file's no-data value."
            )
        known &= values != nodata
    classes = np.full(values.shape, NO_DATA, np.uint8)
    for code, ranges in ((0, masks.snow_free), (1, masks.snow)):
        for low, high in ranges:
            chosen = known & (values >= low) & (values <= high)
            classes[chosen] = code
            if chosen.any():
                masks.met.add(code)
    odd = known & (classes == NO_DATA) & (values != nodata)
    if odd.any() and len(masks.unknown) < 100:
        masks.unknown.update(np.unique(values[odd])[:100].tolist())
    return classes


def to_probability(values: np.ndarray, known: np.ndarray, nodata, scale: float, path: Path) -> np.ndarray:
    """float32 probability, NaN = no data."""
    known = known & np.isfinite(values) & (True if nodata is None else values != nodata)
    probability = np.where(known, values * scale, np.nan).astype(np.float32)
    if np.nanmax(probability, initial=0) > 1.0001 or np.nanmin(probability, initial=0) < -0.0001:
        raise BadInput(
            f"{path}: values {np.nanmin(probability):g} to {np.nanmax(probability):g}, a probability lies in "
            "0..1; write it so, or set the band's scale."
        )
    return np.clip(probability, 0, 1)


def snow_band(source, kind: str, path: Path) -> int:
    """Number of the band described as snow or snow_probability, else of the only one (alpha aside)."""
    names = ("snow", "snow_probability") if kind == "mask" else ("snow_probability", "probability", "snow")
    named = [name for name in names if name in source.descriptions]
    if named:
        return source.descriptions.index(named[0]) + 1
    bands = [k for k, what in enumerate(source.colorinterp, 1) if what != ColorInterp.alpha]
    if len(bands) != 1:
        raise BadInput(
            f"{path}: {len(bands)} bands, none of them described as {names[0]!r}; describe one so."
        )
    return bands[0]


def read_window(raster: Raster, window, masks: MaskFolder, kind: str) -> np.ndarray:
    """Classes (uint8) or probability (float32) of a window (row, col, height, width) of a raster.

    No data are the file's no-data value and what its mask or alpha band hides.
    """
    area = rasters.as_window(window)
    try:
        with rasterio.Env(**GDAL), rasterio.open(raster.path, driver="GTiff") as source:
            number = snow_band(source, kind, raster.path)
            values, scale = source.read(number, window=area), source.scales[number - 1]
            known, flags = np.ones(values.shape, bool), source.mask_flag_enums[number - 1]
            if not {MaskFlags.all_valid, MaskFlags.nodata} & set(flags):
                known = source.read_masks(number, window=area) > 0
    except GDAL_ERRORS as error:
        raise BadInput(f"{raster.path}: cannot be read ({error}); fetch or write it again.") from None
    if kind == "mask":
        return to_classes(masks, values, known, raster.nodata, raster.path)
    return to_probability(values, known, raster.nodata, scale, raster.path)


def read_on(raster: Raster, grid: Grid, masks: MaskFolder, kind: str) -> np.ndarray:
    """Classes or probability (H, W) of a raster on another grid; 255 or NaN outside it."""
    empty = NO_DATA if kind == "mask" else np.nan
    own = raster.grid
    if grid.crs is None or (own.crs is None and own.transform.is_identity):  # named by id, pixel for pixel
        if (own.height, own.width) != (grid.height, grid.width):
            raise BadInput(
                f"{raster.path}: {own.height} x {own.width} pixels, but the triplet has {grid.height} x "
                f"{grid.width}, and one of the two has no coordinates; write it pixel for pixel."
            )
        return read_window(raster, (0, 0, grid.height, grid.width), masks, kind)
    rasters.need_crs(raster)
    if own.crs == grid.crs and (window := rasters.aligned_window(own, grid)):
        return read_window(raster, window, masks, kind)
    target = np.full((grid.height, grid.width), empty, np.uint8 if kind == "mask" else np.float32)
    finer = (own.pixel_area_m2() / grid.pixel_area_m2()) ** 0.5 < MUCH_FINER
    method = ("mode" if kind == "mask" else "average") if finer else "nearest"
    step, row = grid.height, 0
    while row < grid.height:
        strip = grid.window(row, 0, min(step, grid.height - row), grid.width)
        first_row, first_col, height, width = rasters.covering_window(own, strip)
        if height > 0 and width > 0:
            if height * width > PIXELS_AT_ONCE and step > 1:
                step = max(1, step // 2)
                continue
            reproject(
                read_window(raster, (first_row, first_col, height, width), masks, kind),
                target[row : row + strip.height],
                src_transform=own.window(first_row, first_col, height, width).transform,
                src_crs=own.crs,
                src_nodata=empty,
                dst_transform=strip.transform,
                dst_crs=strip.crs,
                dst_nodata=empty,
                resampling=rasters.Resampling[method],
            )
        row += strip.height
    return target


def read_file(masks: MaskFolder, path: Path, row: dict, shape, kind: str) -> np.ndarray:
    """Classes or probability (H, W) of one file on a triplet's grid."""
    if path.suffix == ".png":
        image = rasters.read_png(path)
        if image.shape != tuple(shape) or not set(np.unique(image).tolist()) <= {0, 255}:
            raise BadInput(
                f"{path}: a picture as mask needs the triplet's {shape[0]} x {shape[1]} pixels and "
                "levels 0 (snow-free) and 255 (snow) only; use a GeoTIFF."
            )
        masks.met.update(np.unique(image == 255).astype(int).tolist())
        return (image == 255).astype(np.uint8)
    picture = row["sar"].suffix == ".png"
    grid = Grid(None, rasters.Affine.identity(), *shape) if picture else rasters.open_header(row["sar"]).grid
    try:
        return read_on(open_header(path), grid, masks, kind)
    except GDAL_ERRORS as error:
        raise BadInput(f"{path}: cannot be laid on {row['sar'].name} ({error}); mend its CRS.") from None


def read(masks: MaskFolder, row: dict, shape, kind: str = "mask") -> np.ndarray | None:
    """A triplet's mask (0, 1, 255) or probability (NaN = none) by this method; None without a valid pixel.

    Several rasters of the pass are laid together in order of name: the first valid value of a pixel wins.
    """
    result = np.full(shape, NO_DATA, np.uint8) if kind == "mask" else np.full(shape, np.nan, np.float32)
    empty = np.ones(shape, bool)
    for path in find(masks, row, kind):
        try:
            result = np.where(empty, read_file(masks, path, row, shape, kind), result)
        except BadInput as error:
            leave_out(masks, path, error)
        empty = result == NO_DATA if kind == "mask" else np.isnan(result)
        if not empty.any():
            break
    return None if empty.all() else result


def read_at(masks: MaskFolder, date: str, latitude: float, longitude: float, kind: str = "mask"):
    """The method's class 0, 1, 255 (or probability) at a point (WGS84) on a day; None if nothing is there."""
    result = None
    for path in by_date(masks, kind, date, "", (longitude, latitude, longitude, latitude)):
        if path in masks.bad:
            continue
        try:
            raster = open_header(path)
            (x,), (y,) = transform("EPSG:4326", raster.grid.crs, [longitude], [latitude])
            col, row = np.floor(~raster.grid.transform * (x, y)) if np.isfinite([x, y]).all() else (-1, -1)
            if 0 <= row < raster.grid.height and 0 <= col < raster.grid.width:
                result = read_window(raster, (int(row), int(col), 1, 1), masks, kind)[0, 0]
        except GDAL_ERRORS as error:
            leave_out(masks, path, BadInput(f"{path}: its ground cannot be found ({error}); mend its CRS."))
        except BadInput as error:
            leave_out(masks, path, error)
        if result is not None and result != NO_DATA and np.isfinite(result):
            break
    return result


def read_points(masks: MaskFolder, date: str, places: list[dict], kind: str = "mask") -> np.ndarray:
    """Classes uint8 (n,), 255 = none, or probabilities float32 (n,), NaN = none, at rows of stations."""
    found = (read_at(masks, date, place["latitude"], place["longitude"], kind) for place in places)
    none, dtype = (NO_DATA, np.uint8) if kind == "mask" else (np.nan, np.float32)
    return np.array([none if value is None else value for value in found], dtype)


def in_common(chances: dict, shape) -> dict:
    """Probabilities by method, none (NaN) where any of these methods has none, so that AUPRC compares."""
    have = [np.zeros(shape, bool) if values is None else np.isfinite(values) for values in chances.values()]
    everywhere = np.all(have, axis=0) if have else False
    return {n: None if v is None else np.where(everywhere, v, np.nan) for n, v in chances.items()}


def check_codes(masks: MaskFolder) -> None:
    """After reading: refuse codes nobody explained if a class never occurs; say them if they were stated."""
    odd = ", ".join(f"{code:g}" for code in sorted(masks.unknown)[:8]) + (", ..." * (len(masks.unknown) > 8))
    if masks.unknown and not masks.met:
        raise BadInput(
            f"{masks.folder}: no pixel has a known code, found {odd}; say which mean what with --snow and "
            "--snow-free."
        )
    never = [name for code, name in ((1, "snow"), (0, "snow-free")) if code not in masks.met]
    if masks.unknown and never and not masks.stated:
        code = "1 (snow)" if never == ["snow"] else "0 (snow-free)"
        raise BadInput(
            f"{masks.folder}: code {code} never occurs, but {odd}; say what means what with --snow and "
            "--snow-free, also if that is so."
        )
    if masks.unknown:
        masks.said.append(f"{masks.name}: codes counted as no data: {odd}")
        if never:
            masks.said.append(
                f"{masks.name}: NO PIXEL IS {never[0].upper()}; are --snow and --snow-free right?"
            )
    for line in masks.said:
        say(line)
