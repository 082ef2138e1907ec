"""What a window of a large COG moves over the network: our reader, GDAL's /vsicurl and whole files.

    python bench/download.py --out bench/results/download.json

A 10,980 x 10,980 Sentinel-2-like COG (512-pixel blocks) behind nginx on loopback; windows of 2 km that touch
one, two and four blocks, and one of 20 km. Bytes and requests are counted from nginx's access log. Rivals in
the same run: rasterio over /vsicurl with GDAL's defaults and with the usual settings for COGs, and the whole
file. Prints a table; the JSON holds command, versions and every figure.
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

from data_prep import rasters, remote, remote_pixels, runs  # noqa: E402

SIDE, BLOCK, WEST, NORTH = 10980, 512, 600000, 5300040
WINDOWS = {  # row, col, side in pixels
    "2 km, one block": (5200, 5200, 200),
    "2 km, two blocks": (5200, 5030, 200),
    "2 km, four blocks": (5030, 5030, 200),
    "20 km": (4000, 4000, 2000),
}
TUNED = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "VSI_CACHE": True,
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES", "GDAL_INGESTED_BYTES_AT_OPEN": "16384",
}  # fmt: skip


def make(folder: Path) -> Path:
    """Noise of 12 bits, about as hard to compress as reflectance, in the middle of an empty scene."""
    path, draft = folder / "B04.tif", folder / "draft.tif"
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "sparse_ok": True, "nodata": 0}
    where = {"crs": CRS.from_epsg(32632), "transform": from_origin(WEST, NORTH, 10, 10)}
    noise = np.random.default_rng(0).integers(1000, 5000, (1536, 1536), dtype=np.uint16)
    with rasterio.open(
        draft, "w", driver="GTiff", height=SIDE, width=SIDE, count=1, dtype="uint16", **layout, **where
    ) as target:
        for row in range(3072, 7680, 1536):
            for col in range(3072, 7680, 1536):
                target.write(noise, 1, window=Window(col, row, 1536, 1536))
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


def ours(url: str, row: int, col: int, side: int) -> np.ndarray:
    grid = rasters.Grid(
        CRS.from_epsg(32632), from_origin(WEST + 10 * col, NORTH - 10 * row, 10, 10), side, side
    )
    with remote.RemoteFile(remote.Connection(), url, {"signing": "none"}) as file:
        return remote_pixels.read_on(file, grid, "level", None)[0]


def vsicurl(url: str, row: int, col: int, side: int, settings: dict) -> np.ndarray:
    with rasterio.Env(**settings), rasterio.open(f"/vsicurl/{url}") as opened:
        return opened.read(1, window=Window(col, row, side, side))


def whole(url: str, row: int, col: int, side: int) -> np.ndarray:
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
        path = make(files)
        with stac_services.files_served(server, files) as port:
            log = server / "access.log"
            for number, (name, window) in enumerate(WINDOWS.items()):
                blocks = touched(path, *window)
                for rival, read in rivals.items():
                    # a name of its own, so that no cache of GDAL's knows the file already
                    link = files / f"{number}-{rival.strip('/').replace(', ', '-').replace(' ', '-')}.tif"
                    link.symlink_to(path)
                    before, began = len(log.read_text().splitlines()), time.perf_counter()
                    values = read(f"http://127.0.0.1:{port}/{link.name}", *window)
                    seconds = time.perf_counter() - began
                    time.sleep(0.1)
                    lines = [line.split() for line in log.read_text().splitlines()[before:]]
                    moved = sum(int(line[3]) for line in lines if line[0] == "GET")
                    rows.append({
                        "window": name, "reader": rival, "bytes": moved, "requests": len(lines),
                        "bytes_of_touched_blocks": blocks, "ratio": moved / blocks, "seconds": seconds,
                        "sum": int(values.astype(np.float64).sum()),
                    })  # fmt: skip
                    runs.say(f"{name:18} {rival:20} {moved / 1e6:8.2f} MB  {len(lines):3} requests "
                             f"{moved / blocks:6.2f} x the blocks  {seconds:6.2f} s")  # fmt: skip
    assert len({(row["window"], row["sum"]) for row in rows}) == len(WINDOWS), "the readers disagree"
    figures = {
        "rows": rows,
        "file": "10,980 x 10,980 uint16 COG, 512-pixel blocks",
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
