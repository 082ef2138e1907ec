"""Pixels of remote Cloud Optimized GeoTIFFs on a grid: only the blocks that its window touches are moved."""

import contextlib
import warnings

import numpy as np
import rasterio
from affine import AffineError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import reproject

from data_prep import rasters, sar
from data_prep.rasters import Grid
from data_prep.remote import BadFile, without_query
from data_prep.remote_file import RemoteFile
from data_prep.runs import BadInput
from data_prep.tiff_window import Header, read_header, small_tiff

# need_map() says it in a sentence. For the whole process: catch_warnings is not safe among threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def read_on(remote: RemoteFile, grid: Grid, kind: str, nodata: float | None):
    """float32 (H, W) of a remote raster's first band on `grid`, NaN where it has none; how; its file tags.

    kind: "class" (nearest), "power" (linear power), "dB" (resampled in linear power) or "level".
    Pixels that are the grid's own are copied; others are bilinear, or averaged where finer than the grid's.
    """
    try:
        remote.chunk(0)
        header = remote.tiff = remote.tiff or read_header(remote.header, remote.size)
        with opened(header, {}) as source:
            need_map(remote, source)
            nodata = source.nodata if source.nodata is not None else nodata
            own, tags = Grid(source.crs, source.transform, source.height, source.width), source.tags()
        values, how = on_grid(header, remote, own, grid, kind, nodata)
    except (*rasters.GDAL_ERRORS, ValueError, AffineError) as error:
        why = " ".join(str(error).split())[:200]  # GDAL may cite a whole CRS
        raise BadFile(f"{without_query(remote.url)}: not a readable GeoTIFF ({why}).") from None
    return values, how, tags


@contextlib.contextmanager
def opened(header: Header, blocks: dict[int, bytes]):
    """The raster of a header, with only these blocks of its pixels; GDAL finds all of it in memory."""
    with (
        rasterio.Env(**rasters.GDAL),
        rasterio.MemoryFile(small_tiff(header, blocks)) as memory,
        memory.open(driver="GTiff") as source,
    ):
        yield source


def need_map(remote: RemoteFile, source) -> None:
    if source.crs is None or source.gcps[0] or source.transform.is_identity:
        raise BadInput(
            f"{without_query(remote.url)}: lies in radar geometry or on no map; choose a geocoded, "
            "calibrated product (sentinel-1-rtc, OPERA RTC-S1) in the catalogue."
        )


def on_grid(header: Header, remote: RemoteFile, own: Grid, grid: Grid, kind: str, nodata: float | None):
    """(float32 (H, W), how its pixels were made) of a raster that lies on the grid `own`."""
    target = np.full((grid.height, grid.width), np.nan, np.float32)
    shift = own_pixels(own, grid)
    if shift is not None:
        row, col = shift
        top, left = max(0, row), max(0, col)
        bottom, right = min(own.height, row + grid.height), min(own.width, col + grid.width)
        if bottom > top and right > left:
            inside = read_window(header, remote, (top, left, bottom - top, right - left), nodata, kind)
            target[top - row : bottom - row, left - col : right - col] = inside
        return target, "own pixels"
    row, col, height, width = rasters.covering_window(own, grid)
    pixel_m = (own.pixel_area_m2() / grid.pixel_area_m2()) ** 0.5 * 10
    method = "nearest" if kind == "class" else "average" if pixel_m < 7.5 else "bilinear"
    if height > 0 and width > 0:
        values = read_window(header, remote, (row, col, height, width), nodata, kind)
        reproject(
            sar.to_linear(values) if kind == "dB" else values,
            target,
            src_transform=own.window(row, col, height, width).transform,
            src_crs=own.crs,
            src_nodata=np.nan,
            dst_transform=grid.transform,
            dst_crs=grid.crs,
            dst_nodata=np.nan,
            resampling=Resampling[method],
        )
    in_power = " in linear power" if kind in ("power", "dB") else ""
    return sar.to_db(target) if kind == "dB" else target, f"{method}{in_power} from {pixel_m:.0f} m"


def own_pixels(own: Grid, grid: Grid) -> tuple[int, int] | None:
    """(row, col) of `grid`'s corner in `own` if their pixels are the same ones, whether inside or not."""
    if own.crs != grid.crs:
        return None
    shift = ~own.transform * grid.transform
    row, col = round(shift.f), round(shift.c)
    same = np.allclose([shift.a, shift.b, shift.d, shift.e], [1, 0, 0, 1], atol=1e-9)
    return (row, col) if same and abs(shift.c - col) < 0.01 and abs(shift.f - row) < 0.01 else None


def read_window(header: Header, remote: RemoteFile, window, nodata: float | None, kind: str) -> np.ndarray:
    """float32 (H, W) of a window (row, col, height, width); its blocks come in as few requests as can be."""
    blocks, again = header.blocks(window)
    bodies = remote.blocks(list(blocks.values()), again)
    with opened(header, dict(zip(blocks, bodies, strict=True))) as source:
        values = source.read(1, window=rasters.as_window(window), out_dtype="float32")
    if nodata is not None:
        values[values == np.float32(nodata)] = np.nan
    if kind in ("power", "dB"):
        values[values == 0] = np.nan  # the fill of a frame's edge, in dB as in power
    return values
