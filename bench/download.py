"""What a window of a large COG moves over the network: our reader, GDAL's /vsicurl and whole files.

    python bench/download.py --out bench/results/download.json

Sentinel-2-like COGs (512-pixel blocks) behind nginx on loopback: a 10 m band of 10,980 x 10,980 pixels, a
20 m band and a 20 m map of classes of 5,490 x 5,490. Windows of 2 km that touch one, two and four blocks, of
20 km, and of 44 km, which our reader takes in windows of 2048 pixels as data_prep.download does. Bytes and
requests are counted from nginx's access log. Rivals in the same run: rasterio over /vsicurl with GDAL's
defaults and with the usual settings for COGs, and the whole file. Prints a table; the JSON holds command,
versions and every figure.

The bound of 1.5 x the touched blocks is for the 10 m band. A file costs its header beside its blocks, 16 KiB:
that is 4 % of a block of B04 or B11, and more than a block of SCL itself.
"""

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import stac_services  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.shutil import copy  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402
from rasterio.windows import Window  # noqa: E402

from data_prep import rasters, remote, remote_file, remote_pixels, runs, scene_files  # noqa: E402

BLOCK, WEST, NORTH = 512, 600000, 5300040
FILES = {
    "B04": (10, 10980, "uint16"),
    "B11": (20, 5490, "uint16"),
    "SCL": (20, 5490, "uint8"),
}  # m, side, type
WINDOWS = {  # file, row, col, side in its pixels
    "B04, 2 km, one block": ("B04", 5200, 5200, 200),
    "B04, 2 km, two blocks": ("B04", 5200, 5030, 200),
    "B04, 2 km, four blocks": ("B04", 5030, 5030, 200),
    "B04, 20 km": ("B04", 4000, 4000, 2000),
    "B04, 44 km": ("B04", 3180, 3180, 4400),
    "B11, 2 km, one block": ("B11", 2600, 2600, 100),
    "B11, 2 km, four blocks": ("B11", 2510, 2510, 100),
    "SCL, 2 km, one block": ("SCL", 2600, 2600, 100),
    "SCL, 2 km, four blocks": ("SCL", 2510, 2510, 100),
}
TUNED = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "VSI_CACHE": True,
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES", "GDAL_INGESTED_BYTES_AT_OPEN": "16384",
}  # fmt: skip


def make(folder: Path, name: str) -> Path:
    """Noise of 12 bits, as hard to compress as reflectance, or patches of classes, in an empty scene."""
    pixel_m, size, dtype = FILES[name]
    path, draft, patch = folder / f"{name}.tif", folder / "draft.tif", 1536 * 10 // pixel_m
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "sparse_ok": True, "nodata": 0}
    where = {"crs": CRS.from_epsg(32632), "transform": from_origin(WEST, NORTH, pixel_m, pixel_m)}
    noise = np.random.default_rng(0).integers(1000, 5000, (patch, patch), dtype=np.uint16)
    if dtype == "uint8":
        classes = np.random.default_rng(0).integers(2, 12, (patch // 8, patch // 8), dtype=np.uint8)
        noise = np.kron(classes, np.ones((8, 8), np.uint8))
    with rasterio.open(
        draft, "w", driver="GTiff", height=size, width=size, count=1, dtype=dtype, **layout, **where
    ) as target:
        for row in range(2 * patch, 5 * patch, patch):
            for col in range(2 * patch, 5 * patch, patch):
                target.write(noise, 1, window=Window(col, row, patch, patch))
    copy(
        draft, path, driver="COG", compress="deflate", level=1, blocksize=BLOCK, overview_resampling="nearest"
    )
    draft.unlink()
    return path


def touched(path: Path, row: int, col: int, side: int) -> int:
    with rasterio.open(path) as opened:
        blocks = [
            (x, y)
            for x in range(col // BLOCK, (col + side - 1) // BLOCK + 1)
            for y in range(row // BLOCK, (row + side - 1) // BLOCK + 1)
        ]
        return sum(int(opened.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)) for x, y in blocks)


def ours(url: str, row: int, col: int, side: int, pixel_m: int) -> np.ndarray:
    corner = from_origin(WEST + pixel_m * col, NORTH - pixel_m * row, pixel_m, pixel_m)
    grid, values = rasters.Grid(CRS.from_epsg(32632), corner, side, side), np.empty((side, side), np.float32)
    file = remote_file.RemoteFile(remote.Connection(), url, {"signing": "none"})
    for y in range(0, side, scene_files.WINDOW_PX):
        for x in range(0, side, scene_files.WINDOW_PX):
            box = (y, x, min(scene_files.WINDOW_PX, side - y), min(scene_files.WINDOW_PX, side - x))
            part, how, _ = remote_pixels.read_on(file, grid.window(*box), "level", None)
            assert how == "own pixels"
            values[y : y + box[2], x : x + box[3]] = part
    return values


def vsicurl(url: str, row: int, col: int, side: int, _, settings: dict) -> np.ndarray:
    with rasterio.Env(**settings), rasterio.open(f"/vsicurl/{url}") as opened:
        return opened.read(1, window=Window(col, row, side, side))


def whole(url: str, row: int, col: int, side: int, _) -> np.ndarray:
    with (
        urllib.request.urlopen(url) as answer,
        rasterio.MemoryFile(answer.read()) as memory,
        memory.open() as opened,
    ):
        return opened.read(1, window=Window(col, row, side, side))


def main(args) -> int:
    rivals = {
        "ours": ours,
        "/vsicurl, defaults": lambda *what: vsicurl(*what, {}),
        "/vsicurl, tuned": lambda *what: vsicurl(*what, TUNED),
        "whole file": whole,
    }
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files, server = folder / "files", folder / "server"
        files.mkdir(), server.mkdir()
        paths = {name: make(files, name) for name in FILES}
        with stac_services.files_served(server, files) as port:
            log = server / "access.log"
            for number, (name, (band, *window)) in enumerate(WINDOWS.items()):
                blocks = touched(paths[band], *window)
                for rival, read in rivals.items():
                    # a name of its own, so that no cache of GDAL's knows the file already
                    link = files / f"{number}-{rival.strip('/').replace(', ', '-').replace(' ', '-')}.tif"
                    link.symlink_to(paths[band])
                    before, began = len(log.read_text().splitlines()), time.perf_counter()
                    values = read(f"http://127.0.0.1:{port}/{link.name}", *window, FILES[band][0])
                    seconds = time.perf_counter() - began
                    time.sleep(0.1)
                    lines = [line.split() for line in log.read_text().splitlines()[before:]]
                    moved = sum(int(line[3]) for line in lines if line[0] == "GET")
                    rows.append({
                        "window": name, "reader": rival, "bytes": moved, "requests": len(lines),
                        "bytes_of_touched_blocks": blocks, "ratio": moved / blocks, "seconds": seconds,
                        "sum": int(values.astype(np.float64).sum()),
                    })  # fmt: skip
                    runs.say(f"{name:23} {rival:20} {moved / 1e6:8.2f} MB  {len(lines):3} requests "
                             f"{moved / blocks:6.2f} x the blocks  {seconds:6.2f} s")  # fmt: skip
    assert len({(row["window"], row["sum"]) for row in rows}) == len(WINDOWS), "the readers disagree"
    figures = {
        "rows": rows,
        "files": {
            name: f"{size} x {size} {dtype} COG of {m} m, 512-pixel blocks"
            for name, (m, size, dtype) in FILES.items()
        },
        "versions": runs.versions(),
    }
    runs.write_json(args.out, {"command": "python bench/download.py", **figures, "commit": runs.git_commit()})
    print(json.dumps(runs.plain(figures)))
    return runs.DONE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "download.json")
    sys.exit(main(parser.parse_args()))
