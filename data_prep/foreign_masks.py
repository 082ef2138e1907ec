"""Snow masks made by anyone: found by id, or by date and ground, and read on another grid as 0, 1, 255."""

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.warp import reproject, transform

from data_prep import rasters
from data_prep.rasters import Grid, Raster
from data_prep.runs import BadInput, say
from data_prep.scenes import SAFE_NAME
from data_prep.snow_index import NO_DATA

DATE_IN_NAME = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?:T?(\d{6}))?(?!\d)")
CODES = re.compile(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")
MUCH_FINER = 0.5  # below half the grid's pixel side a majority (probability: mean) is taken, else the nearest
PIXELS_AT_ONCE = 1 << 24  # of a mask in memory


@dataclass
class Entry:
    """A raster of the folder: time HHMMSS, relative orbit and where (WGS84 west, south, east, north)."""

    path: Path
    time: str
    orbit: str
    bounds: tuple[float, float, float, float]


@dataclass
class MaskFolder:
    """One method's masks: where they lie, what their codes mean, and what was met so far."""

    name: str
    folder: Path
    snow: tuple = ((1, 1),)  # ranges of codes, both ends included
    snow_free: tuple = ((0, 0),)
    stated: bool = False  # the codes were given, so that they win over the file's no-data tag
    skip_bad: bool = False
    entries: dict[tuple[str, str], list[Entry]] | None = None  # by kind and date, made when first needed
    bad: list[str] = field(default_factory=list)
    met: set = field(default_factory=set)  # 0, 1: the classes met so far
    unknown: set = field(default_factory=set)  # codes that are neither class nor the file's no data


def parse_codes(text: str, flag: str) -> tuple:
    """Ranges of "110", "50-100" or "1,2,5-7"."""
    parts = [CODES.fullmatch(part.strip()) for part in text.split(",")]
    if not all(parts):
        raise BadInput(f"{flag} {text}: expected codes such as 110, 1,2 or 50-100.")
    ranges = tuple((float(part[1]), float(part[2] or part[1])) for part in parts)
    if any(low > high for low, high in ranges):
        raise BadInput(f"{flag} {text}: a range goes from low to high.")
    return ranges


def mask_folders(folders, snow, snow_free, skip_bad: bool = False) -> list[MaskFolder]:
    """Methods of pairs (name or "", folder), with codes of pairs (name or "" for all, codes), all checked."""
    found = []
    for name, path in folders:
        folder = Path(path)
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; --masks names folders of GeoTIFF masks.")
        name = name or folder.resolve().name
        if not SAFE_NAME.fullmatch(name):
            raise BadInput(
                f"--masks {path}: {name!r} may hold letters, digits, '.', '_', '-' only; use NAME=DIR."
            )
        if name in [other.name for other in found]:
            raise BadInput(f"--masks: two are named {name!r}; tell them apart with NAME=DIR.")
        found.append(MaskFolder(name, folder, skip_bad=skip_bad))
    for flag, pairs in (("--snow", snow), ("--snow-free", snow_free)):
        for name, text in pairs:
            chosen = [masks for masks in found if name in ("", masks.name)]
            if not chosen:
                raise BadInput(f"{flag} {name}={text}: --masks names no {name!r}.")
            for masks in chosen:
                setattr(masks, "snow" if flag == "--snow" else "snow_free", parse_codes(text, flag))
                masks.stated = True
    for masks in found:
        for low, high in masks.snow:
            if any(low <= other_high and other_low <= high for other_low, other_high in masks.snow_free):
                raise BadInput(
                    f"--snow and --snow-free of {masks.name} overlap; give both, one code in one of them."
                )
    return found


# ---- finding -----------------------------------------------------------------------------------------------


def date_and_time(path: Path, tags: dict) -> tuple[str, str]:
    """YYYY-MM-DD and HHMMSS of the tag `date`, or else of the first date in the file's name; "" if none.

    A tag without a time takes that of the same date in the name.
    """
    found = []
    for match in DATE_IN_NAME.finditer(f"{tags.get('date', '').replace(':', '')} {path.stem}"):
        try:
            found.append((datetime.date(*map(int, match.groups()[:3])).isoformat(), match[4] or ""))
        except ValueError:
            continue
    if not found:
        return "", ""
    day = found[0][0]
    return day, next((time for date, time in found if date == day and time), "")


def entries_of(masks: MaskFolder) -> dict[tuple[str, str], list[Entry]]:
    """Every dated GeoTIFF under the folder by (kind, date), in order of name; headers are read once."""
    if masks.entries is not None:
        return masks.entries
    masks.entries = {}
    for path in sorted(masks.folder.rglob("*")):
        if path.suffix.lower() not in (".tif", ".tiff") or path.name.startswith(".") or not path.is_file():
            continue
        try:
            raster = rasters.open_header(path)
            date, time = date_and_time(path, raster.tags)
            if not date:
                continue
            rasters.need_crs(raster)
            bounds = raster.grid.geographic_bounds()
        except BadInput as error:
            if not masks.skip_bad:
                raise BadInput(
                    f"{str(error).rstrip('.')}. Mend it, or leave such masks out with --skip-bad."
                ) from None
            say(f"left out: {error}")
            masks.bad.append(str(error))
            continue
        except RasterioError as error:
            raise BadInput(f"{path}: its ground cannot be found ({error}); mend its CRS.") from None
        kind = "probability" if "probability" in path.stem or path.parent.name == "probability" else "mask"
        orbit = raster.tags.get("relative_orbit", "").lstrip("0")
        masks.entries.setdefault((kind, date), []).append(Entry(path, time, orbit, bounds))
    return masks.entries


def by_date(masks: MaskFolder, kind: str, date: str, orbit: str, bounds) -> list[Path]:
    """Rasters of the day that touch the bounds; those of the very time, where any name holds it, alone.

    date: YYYY-MM-DD[THHMMSS]. A raster tagged with another relative orbit is another pass.
    """
    day, time = date[:10], date[11:17]
    west, south, east, north = bounds
    found = [
        entry
        for entry in entries_of(masks).get((kind, day), [])
        if (not orbit or not entry.orbit or entry.orbit == orbit.lstrip("0"))
        and (entry.bounds[0] <= east and entry.bounds[2] >= west)
        and (entry.bounds[1] <= north and entry.bounds[3] >= south)
    ]
    exact = [entry for entry in found if time and entry.time == time]
    return [entry.path for entry in exact or found]


def by_id(masks: MaskFolder, row: dict, kind: str) -> list[Path]:
    """<id>.tif or .png of a triplet in the folder or its mask/, or <id>.tif in its probability/."""
    folders, ends = [masks.folder / kind], (".tif",)
    if kind == "mask":
        folders, ends = [masks.folder, *folders], (".tif", ".png")
    paths = (folder / f"{row['id']}{end}" for folder in folders for end in ends)
    return [path for path in paths if path.is_file()][:1]


def find(masks: MaskFolder, row: dict, kind: str = "mask") -> list[Path]:
    """A triplet's rasters: the one named by its id, else those of its date and ground."""
    found = by_id(masks, row, kind)
    date = row.get("s1_date") or row.get("date") or ""
    if found or row["sar"].suffix == ".png" or not date or (kind != "mask" and by_id(masks, row, "mask")):
        return found
    grid = rasters.open_header(row["sar"]).grid
    return by_date(masks, kind, date, row["relative_orbit"], grid.geographic_bounds())


# ---- reading -----------------------------------------------------------------------------------------------


def to_classes(masks: MaskFolder, values: np.ndarray, nodata: float | None, path: Path) -> np.ndarray:
    """uint8 0, 1, 255 of a mask's codes, by the folder's --snow and --snow-free; notes what it met."""
    known = np.isfinite(values)
    if nodata is not None and not masks.stated:
        if any(low <= nodata <= high for low, high in (*masks.snow, *masks.snow_free)):
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


def to_probability(values: np.ndarray, nodata: float | None, scale: float, path: Path) -> np.ndarray:
    """float32 probability, NaN = no data."""
    missing = ~np.isfinite(values) if nodata is None else ~np.isfinite(values) | (values == nodata)
    probability = np.where(missing, np.nan, values * scale).astype(np.float32)
    if np.nanmax(probability, initial=0) > 1.0001 or np.nanmin(probability, initial=0) < 0:
        raise BadInput(
            f"{path}: values {np.nanmin(probability):g} to {np.nanmax(probability):g}, a probability lies in "
            "0..1; write it so, or set the band's scale."
        )
    return np.minimum(probability, 1)


def snow_band(raster: Raster) -> int:
    """Number of the band described as snow or probability, else the first."""
    names = [name for name in ("snow", "snow_probability") if name in raster.bands]
    return raster.bands.index(names[0]) + 1 if names else 1


def read_window(raster: Raster, window, masks: MaskFolder, kind: str) -> np.ndarray:
    """Classes (uint8) or probability (float32) of a window (row, col, height, width) of a raster."""
    number = snow_band(raster)
    try:
        with rasterio.Env(**rasters.GDAL), rasterio.open(raster.path) as source:
            values, scale = source.read(number, window=rasters.as_window(window)), source.scales[number - 1]
    except RasterioError as error:
        raise BadInput(f"{raster.path}: cannot be read ({error}); fetch or write it again.") from None
    if kind == "mask":
        return to_classes(masks, values, raster.nodata, raster.path)
    return to_probability(values, raster.nodata, scale, raster.path)


def read_on(raster: Raster, grid: Grid, masks: MaskFolder, kind: str) -> np.ndarray:
    """Classes or probability (H, W) of a raster on another grid; 255 or NaN outside it."""
    empty = NO_DATA if kind == "mask" else np.nan
    if raster.grid.crs is None and raster.grid.transform.is_identity:  # named by id, pixel for pixel
        if (raster.grid.height, raster.grid.width) != (grid.height, grid.width):
            rasters.need_crs(raster)
        return read_window(raster, (0, 0, grid.height, grid.width), masks, kind)
    rasters.need_crs(raster)
    own = raster.grid
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


def read(masks: MaskFolder, row: dict, shape, kind: str = "mask") -> np.ndarray | None:
    """A triplet's mask (0, 1, 255) or probability (NaN = none) by this method; None if there is no file.

    Several rasters of the day are laid together in order of name: the first valid value of a pixel wins.
    """
    result = None
    for path in find(masks, row, kind):
        if path.suffix == ".png":
            image = rasters.read_png(path)
            if image.shape != tuple(shape) or not set(np.unique(image).tolist()) <= {0, 255}:
                raise BadInput(
                    f"{path}: a picture as mask needs the triplet's {shape[0]} x {shape[1]} pixels and "
                    "levels 0 (snow-free) and 255 (snow) only; use a GeoTIFF."
                )
            values = (image == 255).astype(np.uint8)
            masks.met.update(np.unique(values).tolist())
        else:
            raster, grid = rasters.open_header(path), None
            if row["sar"].suffix == ".png":
                grid = Grid(None, raster.grid.transform, *shape)
            values = read_on(raster, grid or rasters.open_header(row["sar"]).grid, masks, kind)
        if result is None:
            result = values
        else:
            empty = result == NO_DATA if kind == "mask" else np.isnan(result)
            result = np.where(empty, values, result)
        if not (result == NO_DATA if kind == "mask" else np.isnan(result)).any():
            break
    return result


def read_at(masks: MaskFolder, date: str, latitude: float, longitude: float, kind: str = "mask"):
    """The method's class 0, 1, 255 (or probability) at a point (WGS84) on a day; None if nothing is there."""
    result = None
    for path in by_date(masks, kind, date, "", (longitude, latitude, longitude, latitude)):
        raster = rasters.open_header(path)
        (x,), (y,) = transform("EPSG:4326", raster.grid.crs, [longitude], [latitude])
        col, row = (int(np.floor(v)) for v in ~raster.grid.transform * (x, y))
        if 0 <= row < raster.grid.height and 0 <= col < raster.grid.width:
            result = read_window(raster, (row, col, 1, 1), masks, kind)[0, 0]
            if result != NO_DATA and np.isfinite(result):
                break
    return result


def read_points(masks: MaskFolder, date: str, places: list[dict], kind: str = "mask") -> np.ndarray:
    """Classes uint8 (n,), 255 = none, or probabilities float32 (n,), NaN = none, at rows of stations."""
    found = (read_at(masks, date, place["latitude"], place["longitude"], kind) for place in places)
    none, dtype = (NO_DATA, np.uint8) if kind == "mask" else (np.nan, np.float32)
    return np.array([none if value is None else value for value in found], dtype)


def check_codes(masks: MaskFolder) -> None:
    """After reading: refuse masks without any known code, or without snow beside codes nobody explained."""
    odd = ", ".join(f"{code:g}" for code in sorted(masks.unknown)[:8]) + (", ..." * (len(masks.unknown) > 8))
    if not masks.met and masks.unknown:
        raise BadInput(
            f"{masks.folder}: no pixel has a known code, found {odd}; say which mean what with --snow and "
            "--snow-free."
        )
    if 1 not in masks.met and masks.unknown and not masks.stated:
        raise BadInput(
            f"{masks.folder}: code 1 (snow) never occurs, but {odd}; say what means what with --snow and "
            "--snow-free, also if there is no snow."
        )
    if masks.unknown:
        say(f"{masks.name}: codes counted as no data: {odd}")
