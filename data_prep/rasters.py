"""Rasters whole or by window: bands by description, units and backscatter by tag, CRS and nodata always."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine, array_bounds
from rasterio.warp import reproject, transform, transform_bounds
from rasterio.windows import Window

from data_prep import sar
from data_prep.pictures import BARE_COLOUR, SNOW_COLOUR
from data_prep.runs import BadInput, atomic, disk_errors, temporary_name

RADAR = ("VV", "VH")
ANGLES = ("incidence_angle", "local_incidence_angle")
CLASSES = ("SCL", "QA60", "landcover")  # numbers that are names: never averaged, and zero is not "no data"
BACKSCATTER = ("sigma0", "gamma0", "gamma0_rtc")
PROBABILITY_SCALE = 0.004  # probability = byte * scale, written as GDAL scale; 255 = no data
MASK_COLOURS = {0: (*BARE_COLOUR, 255), 1: (*SNOW_COLOUR, 255), 255: (0, 0, 0, 0)}  # snow-free, snow, no data
GDAL = {
    "GDAL_CACHEMAX": 64 << 20,
    "GDAL_TIFF_INTERNAL_MASK": True,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}
GDAL_ERRORS = (RasterioError, CRSError, CPLE_BaseError)  # the last where rasterio passes them on as they are


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an array lie."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    def window(self, row: int, col: int, height: int, width: int) -> "Grid":
        return Grid(self.crs, self.transform * Affine.translation(col, row), height, width)

    def bounds(self) -> tuple[float, float, float, float]:
        return array_bounds(self.height, self.width, self.transform)

    def geographic_bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in WGS84 degrees."""
        return transform_bounds(self.crs, "EPSG:4326", *self.bounds())

    def centre(self) -> tuple[float, float]:
        """Latitude, longitude (WGS84) of the middle."""
        x, y = self.transform * (self.width / 2, self.height / 2)
        (longitude,), (latitude,) = transform(self.crs, "EPSG:4326", [x], [y])
        return latitude, longitude

    def north(self) -> float:
        """Azimuth in degrees of the map's north (its y axis) in the middle, clockwise from true north."""
        x, y = self.transform * (self.width / 2, self.height / 2)
        longitudes, latitudes = transform(self.crs, "EPSG:4326", [x, x], [y, y + 100 * abs(self.transform.e)])
        east = (longitudes[1] - longitudes[0] + 180) % 360 - 180
        return float(
            np.degrees(np.arctan2(east * np.cos(np.radians(latitudes[0])), latitudes[1] - latitudes[0])) % 360
        )

    def pixel_area_m2(self) -> float:
        """Ground area of a pixel in the middle; on a geographic grid that of an equal-area cell there."""
        a, b, _, d, e, _ = self.transform[:6]
        area = abs(a * e - b * d)
        if self.crs is None or not self.crs.is_geographic:
            return area * (self.crs.linear_units_factor[1] ** 2 if self.crs else 1)
        return (
            area * 111320.0**2 * np.cos(np.radians(self.centre()[0]))
        )  # metres a degree on the WGS84 equator


@dataclass(frozen=True)
class Raster:
    """What the header of a raster says."""

    path: Path
    grid: Grid
    bands: tuple[str, ...]
    nodata: float | None
    tags: dict[str, str]
    dtype: str

    @property
    def units(self) -> str | None:
        return self.tags.get("units")


def open_header(path: Path) -> Raster:
    """Read the header; a file that is missing, empty, truncated or no raster is a BadInput by name."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file.")
    try:
        with rasterio.Env(**GDAL), rasterio.open(path) as source:
            grid = Grid(source.crs, source.transform, source.height, source.width)
            bands = tuple(name or "" for name in source.descriptions)
            return Raster(path, grid, bands, source.nodata, source.tags(), source.dtypes[0])
    except RasterioError as error:
        raise BadInput(f"{path}: not a readable raster ({error}); fetch or write it again.") from None


def need_bands(raster: Raster, bands: tuple[str, ...]) -> None:
    missing = [name for name in bands if name not in raster.bands]
    if missing:
        there = ", ".join(filter(None, raster.bands)) or "none"
        raise BadInput(
            f"{raster.path}: band {', '.join(missing)} not found among {there}; "
            "bands are found by description (rasterio's descriptions, gdal_translate -colorinterp aside)."
        )


def need_crs(raster: Raster) -> None:
    if raster.grid.crs is None:
        raise BadInput(f"{raster.path}: has no coordinate system; set it (gdal_edit.py -a_srs EPSG:...).")


def open_radar(path: Path, units: str | None = None, backscatter: str | None = None) -> Raster:
    """Header of a Sentinel-1 raster, checked: VV or VH, CRS, units and backscatter tags, values that fit.

    units and backscatter state what the file's tags leave out.
    """
    raster = open_header(path)
    if not set(RADAR) & set(raster.bands):
        need_bands(raster, RADAR)
    need_crs(raster)
    tags = dict(raster.tags)
    for name, stated, known in (
        ("units", units, ("dB", "linear")),
        ("backscatter", backscatter, BACKSCATTER),
    ):
        value = tags.setdefault(name, stated or "")
        if value not in known:
            found = f"tag {name}={value!r}" if value else f"no tag {name!r}"
            raise BadInput(
                f"{path}: {found}, expected one of {', '.join(known)}; "
                f"state it with --{name} or in the file's tags."
            )
    raster = replace(raster, tags=tags)
    names = [name for name in RADAR if name in raster.bands]
    values_of = sample(raster, names, 1 << 18)
    if np.isnan(values_of).all() and raster.grid.height * raster.grid.width <= 1 << 18:
        raise BadInput(f"{path}: {' and '.join(names)} hold no valid pixel.")
    for name, values in zip(names, values_of, strict=True):
        if problem := sar.unit_problem(values, raster.units):
            raise BadInput(f"{path}: {name}: {problem}; correct the values or the tag.")
    return raster


def open_reference(path: Path, radar: Raster) -> Raster:
    """Header of a same-track reference, checked against the scene it will be compared with."""
    reference = open_header(path)
    found, wanted = reference.tags.get("backscatter"), radar.tags["backscatter"]
    if found != wanted:
        raise BadInput(
            f"{path}: backscatter {found}, but {radar.path} has {wanted}; make the reference of its kind."
        )
    return reference


def open_optical(path: Path) -> Raster:
    """Header of a Sentinel-2 raster, checked: the bands the snow indices need, CRS, units tag."""
    raster = open_header(path)
    need_bands(raster, ("B02", "B03", "B04", "B08", "B11"))
    need_crs(raster)
    if raster.units not in ("reflectance*10000", "reflectance"):
        raise BadInput(
            f"{path}: tag units={raster.units!r}, expected 'reflectance*10000' or 'reflectance' "
            "(0..1); set the tag to what the values are."
        )
    try:
        float(raster.tags.get("offset", 0))
    except ValueError:
        raise BadInput(f"{path}: tag offset={raster.tags['offset']!r} is no number.") from None
    return raster


def read(raster: Raster, bands, window=None, max_pixels: int | None = None, raw: bool = False) -> np.ndarray:
    """float32 (bands, H, W) of a window (row, col, height, width), NaN = no data, classes as they are.

    max_pixels: read a decimated view of at most about so many pixels. raw: leave no data as it is written.
    Infinite values are a BadInput.
    """
    need_bands(raster, tuple(bands))
    numbers = [raster.bands.index(name) + 1 for name in bands]
    area = as_window(window) if window else None
    height, width = (window[2], window[3]) if window else (raster.grid.height, raster.grid.width)
    step = max(1.0, (height * width / max_pixels) ** 0.5) if max_pixels else 1
    shape = (len(numbers), max(1, round(height / step)), max(1, round(width / step)))
    try:
        with rasterio.Env(**GDAL), rasterio.open(raster.path) as source:
            array = source.read(numbers, window=area, out_shape=shape, out_dtype="float32")
    except RasterioError as error:
        raise BadInput(f"{raster.path}: cannot be read ({error}); fetch or write it again.") from None
    return array if raw else no_data_as_nan(array, raster, bands)


def as_window(window: tuple[int, int, int, int]) -> Window:
    """rasterio's window of (row, col, height, width)."""
    row, col, height, width = window
    return Window(col, row, width, height)


def sample(raster: Raster, bands, pixels: int = 1 << 20) -> np.ndarray:
    """float32 (bands, n) of about so many pixels: everything, or 8 x 8 windows spread over a large raster."""
    height, width = raster.grid.height, raster.grid.width
    if height * width <= pixels:
        return read(raster, bands).reshape(len(bands), -1)
    side = max(1, int((pixels / 64) ** 0.5))
    tall, wide = min(side, height), min(side, width)
    corners = [(i * (height - tall) // 7, j * (width - wide) // 7) for i in range(8) for j in range(8)]
    windows = [read(raster, bands, (row, col, tall, wide)) for row, col in corners]
    return np.concatenate([window.reshape(len(bands), -1) for window in windows], axis=1)


def no_data_as_nan(array: np.ndarray, raster: Raster, bands) -> np.ndarray:
    for name, values in zip(bands, array, strict=True):
        if name in CLASSES:
            continue
        if raster.nodata is not None and np.isfinite(raster.nodata):
            values[values == np.float32(raster.nodata)] = np.nan
        if name in RADAR:
            values[values == 0] = np.nan  # zero power, or the zero fill of a raster in dB
        if np.isinf(values).any():
            raise BadInput(
                f"{raster.path}: {name} holds {int(np.isinf(values).sum())} infinite values "
                "(10 log10 of zero power?); set them to nodata."
            )
    return array


def read_on(raster: Raster, bands, grid: Grid, resampling: str = "nearest") -> np.ndarray:
    """float32 (bands, H, W) of the raster on another grid, NaN outside; reads only the window it needs.

    Backscatter in dB is resampled in linear power and returned in dB.
    """
    own = raster.grid
    if own.crs == grid.crs and (window := aligned_window(own, grid)):
        return read(raster, bands, window)
    row, col, height, width = covering_window(own, grid)
    if height <= 0 or width <= 0:
        return np.full((len(bands), grid.height, grid.width), np.nan, np.float32)
    source = read(raster, bands, (row, col, height, width))
    in_db = raster.units == "dB" and resampling != "nearest"
    for index, name in enumerate(bands):
        if in_db and name.removesuffix("_ref") in RADAR:
            source[index] = sar.to_linear(source[index])
    target = np.full((len(bands), grid.height, grid.width), np.nan, np.float32)
    reproject(
        source,
        target,
        src_transform=own.window(row, col, height, width).transform,
        src_crs=own.crs,
        src_nodata=np.nan,
        dst_transform=grid.transform,
        dst_crs=grid.crs,
        dst_nodata=np.nan,
        resampling=Resampling[resampling],
    )
    for index, name in enumerate(bands):
        if in_db and name.removesuffix("_ref") in RADAR:
            target[index] = sar.to_db(target[index])
    return target


def aligned_window(own: Grid, grid: Grid) -> tuple[int, int, int, int] | None:
    """The window of `own` whose pixels are `grid`'s, if there is one inside it."""
    shift = ~own.transform * grid.transform
    col, row = shift.c, shift.f
    same = np.allclose([shift.a, shift.b, shift.d, shift.e], [1, 0, 0, 1], atol=1e-9)
    if not same or abs(col - round(col)) > 0.01 or abs(row - round(row)) > 0.01:
        return None
    row, col = round(row), round(col)
    inside = row >= 0 and col >= 0 and row + grid.height <= own.height and col + grid.width <= own.width
    return (row, col, grid.height, grid.width) if inside else None


def covering_window(own: Grid, grid: Grid, margin: int = 4) -> tuple[int, int, int, int]:
    """The window of `own` that covers `grid`, with a margin for resampling."""
    left, bottom, right, top = transform_bounds(grid.crs, own.crs, *grid.bounds())
    corners = [~own.transform * (x, y) for x in (left, right) for y in (top, bottom)]
    cols, rows = [c for c, _ in corners], [r for _, r in corners]
    first_row, first_col = max(0, int(min(rows)) - margin), max(0, int(min(cols)) - margin)
    last_row, last_col = (
        min(own.height, int(max(rows)) + 1 + margin),
        min(own.width, int(max(cols)) + 1 + margin),
    )
    return first_row, first_col, last_row - first_row, last_col - first_col


def utm_grid(grid: Grid, resolution_m: float) -> Grid:
    """A north-up grid of square metre pixels in the UTM zone of the middle, inside the extent of `grid`."""
    latitude, longitude = grid.centre()
    zone = int((longitude + 180) // 6) % 60 + 1
    crs = CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)
    left, bottom, right, top = transform_bounds(grid.crs, crs, *grid.bounds())
    left, top = np.ceil(left / resolution_m) * resolution_m, np.floor(top / resolution_m) * resolution_m
    height, width = int((top - bottom) // resolution_m), int((right - left) // resolution_m)
    return Grid(crs, Affine(resolution_m, 0, left, 0, -resolution_m, top), max(1, height), max(1, width))


# ---- writing -----------------------------------------------------------------------------------------------


def profile(grid: Grid, count: int, dtype: str, nodata: float, **more) -> dict:
    tiled = (
        {"tiled": True, "blockxsize": 512, "blockysize": 512} if min(grid.height, grid.width) >= 512 else {}
    )
    predictor = 3 if dtype.startswith("float") else 2
    return {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": count,
        "dtype": dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": nodata,
        "compress": "deflate",
        "predictor": predictor,
        "BIGTIFF": "IF_SAFER",
        **tiled,
        **more,
    }


def write(path: Path, array: np.ndarray, bands, grid: Grid, nodata: float, **tags) -> None:
    """Write (bands, H, W) as a GeoTIFF with its bands, nodata and tags named, atomically."""
    with window_writer(path, grid, bands, array.dtype.name, nodata, **tags) as target:
        target.write(array)


@contextlib.contextmanager
def window_writer(path: Path, grid: Grid, bands, dtype: str, nodata: float, scale: float = 1, **tags):
    """Yield a raster to fill window by window; on a clean exit it takes the name `path`."""
    with rasterio.Env(**GDAL), atomic(path) as temporary:
        with (
            disk_errors(path, RasterioError),
            rasterio.open(temporary, "w", **profile(grid, len(bands), dtype, nodata)) as target,
        ):
            target.descriptions = tuple(bands)
            target.update_tags(**{key: str(value) for key, value in tags.items() if value not in (None, "")})
            target.scales = (scale,) * len(bands)
            if tuple(bands) == ("snow",) and dtype == "uint8":  # a mask shows its colours in any GIS
                target.write_colormap(1, MASK_COLOURS)
            yield target
        with (
            disk_errors(path, RasterioError),
            rasterio.open(temporary) as written,
        ):  # GDAL may be silent when closing fails
            written.read(1, window=Window(grid.width - 1, grid.height - 1, 1, 1))


@contextlib.contextmanager
def cog_writer(
    path: Path, grid: Grid, dtype: str, nodata: float, band: str, overviews: str, scale: float = 1, **tags
):
    """Like window_writer for one band, but `path` becomes a Cloud Optimized GeoTIFF with overviews."""
    from rasterio.shutil import copy

    draft = temporary_name(Path(path).with_suffix(".draft"))
    try:
        with window_writer(draft, grid, (band,), dtype, nodata, scale, **tags) as target:
            yield target
        with rasterio.Env(**GDAL), atomic(path) as temporary, disk_errors(path, RasterioError):
            copy(
                draft,
                temporary,
                driver="COG",
                compress="deflate",
                level=1,
                predictor="NO",
                blocksize=512,
                overview_resampling=overviews,
                bigtiff="IF_SAFER",
                num_threads="ALL_CPUS",
            )
    finally:
        draft.unlink(missing_ok=True)


# ---- pictures and arrays that carry no tags ----------------------------------------------------------------


def read_png(path: Path) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) of an 8-bit image; damaged files and other depths are a BadInput."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode in ("P", "1", "LA", "RGBA"):
                image = image.convert("RGB" if image.mode in ("P", "RGBA") else "L")
            if image.mode not in ("L", "RGB"):
                raise BadInput(f"{path}: image mode {image.mode}, expected 8-bit grey or RGB.")
            return np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: not a readable image ({error}); write it again.") from None


def read_npy(path: Path) -> np.ndarray:
    """float32 (bands, H, W) of a .npy array of numbers; nothing in it is ever executed."""
    try:
        array = np.load(path, allow_pickle=False)
        array = np.asarray(array, np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path}: not a readable array of numbers ({error}).") from None
    if array.ndim not in (2, 3):
        raise BadInput(f"{path}: shape {array.shape}, expected (bands, height, width) or (height, width).")
    return array.reshape(-1, *array.shape[-2:])
