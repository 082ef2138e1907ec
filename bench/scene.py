"""A whole scene through infer_unet.py: seconds, peak memory, seams, the tiles' rate against the bare model's.

    python bench/scene.py --out bench/results/scene.json

Makes two two-band float32 scenes of noise (25,000 x 17,000 pixels, and one of 1/16 of that), maps each with
the default net (random weights: speed does not depend on them), predicts windows across the seams of the
large one whole and compares. Needs about 8 GB of disk in --work.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_prep import runs  # noqa: E402
from models import training  # noqa: E402

training.use_huge_pages()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

from data_prep import predictions, rasters  # noqa: E402
from models import tiling  # noqa: E402
from models.unet import UNet  # noqa: E402

CONTRACT = {
    "bands": ["vv", "vh"],
    "units": "dB",
    "backscatter": "sigma0",
    "mean": [-12.5, -20.2],
    "std": [5.3, 5.9],
    "tile": 256,
}


def write_scene(path: Path, height: int, width: int) -> None:
    """Speckle over smooth ground, block by block; no data in one corner."""
    grid = rasters.Grid(CRS.from_epsg(32632), from_origin(400000, 5300000, 10, 10), height, width)
    tags = {"units": "dB", "backscatter": "sigma0", "date": "2021-01-10"}
    random = np.random.default_rng(0)
    with rasters.window_writer(path, grid, ("VV", "VH"), "float32", np.nan, **tags) as target:
        for row in range(0, height, 1024):
            rows = min(1024, height - row)
            ground = (
                3 * np.sin(np.arange(row, row + rows) / 90)[:, None] * np.cos(np.arange(width) / 70)[None]
            )
            block = np.empty((2, rows, width), np.float32)
            for band, level in enumerate((-12, -19)):
                block[band] = level + ground + 2 * random.standard_normal((rows, width), np.float32)
            if row == 0:
                block[:, :500, :700] = np.nan
            target.write(block, window=rasters.Window(0, row, width, rows))


def write_checkpoint(path: Path, width: int) -> UNet:
    """The default net with random weights whose norms have seen the data's scale."""
    torch.manual_seed(0)
    net = UNet(2, width).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.3)
    torch.save(training.checkpoint(net, CONTRACT, "total", 0.5, weights=net.state_dict()), path)
    return net


def bare_rate(net: UNet, tile: int, repeats: int = 12) -> float:
    """Pixels a second of the Predictor on one tile in memory."""
    device = torch.device("cpu")
    predictor = training.Predictor(net, CONTRACT, device, training.choose_precision(device))
    image = torch.randn(1, 2, tile, tile)
    for _ in range(3):
        predictor(image)
    began = time.perf_counter()
    for _ in range(repeats):
        predictor(image)
    return repeats * tile * tile / (time.perf_counter() - began)


def tiled_rate(net: UNet, read, height: int, width: int, tile: int) -> float:
    """Pixels pushed through the model a second by tiling.predict, reading with `read`, writing nothing."""
    device = torch.device("cpu")
    predictor = training.Predictor(net, CONTRACT, device, training.choose_precision(device))
    plan = {"tile": (tile, tile), "trim": 112, "blend": 0, "multiple": 16}

    def probability(part):
        return predictor(torch.from_numpy(part)[None])[0].numpy()

    began = time.perf_counter()
    for _ in tiling.predict(read, probability, height, width, **plan):
        pass
    return tiling.overhead(height, width, **plan) * height * width / (time.perf_counter() - began)


def tiled_shares(net: UNet, scene: Path, tile: int, rounds: int = 3) -> dict:
    """Rates of tiling.predict over the bare model's, from memory and from the deflated file, alternating."""
    raster = rasters.open_radar(scene)
    height, width = raster.grid.height, raster.grid.width
    array = rasters.read(raster, ["VV", "VH"])
    from_memory, from_file = [], []
    for _ in range(rounds):
        bare = bare_rate(net, tile)
        memory = tiled_rate(net, lambda r, c, h, w: array[:, r : r + h, c : c + w], height, width, tile)
        file = tiled_rate(net, lambda *w: rasters.read(raster, ["VV", "VH"], w), height, width, tile)
        bare = (bare + bare_rate(net, tile)) / 2
        from_memory.append(memory / bare)
        from_file.append(file / bare)
    return {"from_memory": from_memory, "from_deflated_file": from_file}


def map_scene(scene: Path, weights: Path, out: Path, tile: int) -> dict:
    """Run the job as a user does; returns its result and the wall seconds of the whole command."""
    began = time.perf_counter()
    command = [
        sys.executable,
        str(ROOT / "infer_unet.py"),
        "--data",
        scene,
        "--weights",
        weights,
        "--out",
        out,
        "--tile",
        tile,
    ]
    done = subprocess.run([*map(str, command), "--device", "cpu"], capture_output=True, text=True, check=True)
    import json

    result = json.loads(done.stdout.splitlines()[-1])
    return {"wall_seconds": time.perf_counter() - began, "peak_memory_mib": result["peak_memory_mib"],
            "overhead": result["overhead"]}  # fmt: skip


def seam_difference(net: UNet, scene: Path, probability: Path, tile: int, windows: int = 12) -> int:
    """Largest difference, in bytes of 0.004, between the map and windows across its seams predicted whole."""
    device = torch.device("cpu")
    predictor = training.Predictor(net, CONTRACT, device, training.choose_precision(device))
    raster, written = rasters.open_radar(scene), rasters.open_header(probability)
    rows = tiling.seams(tiling.starts(raster.grid.height, tile, 112, 0, 16), 112)
    cols = tiling.seams(tiling.starts(raster.grid.width, tile, 112, 0, 16), 112)
    worst = 0
    for number in range(windows):
        row, col = rows[number * len(rows) // windows][0], cols[number % len(cols)][0]
        row, col = (row - 256) // 16 * 16, (col - 256) // 16 * 16
        whole = predictor(torch.from_numpy(rasters.read(raster, ["VV", "VH"], (row, col, 512, 512)))[None])[
            0
        ].numpy()
        mapped = rasters.read(written, ["snow_probability"], (row, col, 512, 512), raw=True)[0]
        expected = predictions.probability_bytes(whole).astype(int)
        inner = (slice(112, -112),) * 2
        worst = max(worst, int(np.abs(expected - mapped.astype(int))[inner].max()))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(25000, 17000), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--tile", type=int, default=1600)
    parser.add_argument("--work", type=Path, help="folder for the scenes (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        net = write_checkpoint(work / "net.pt", args.width)
        report = {
            "command": "python bench/scene.py " + " ".join(sys.argv[1:]),
            "git_commit": runs.git_commit(),
        }
        report |= {"width": args.width, "tile": args.tile}
        report["bare_pixels_per_second"] = [bare_rate(net, args.tile)]
        for name, divisor in (("sixteenth", 4), ("whole", 1)):
            height, width = (side // divisor for side in args.size)
            scene = work / f"{name}.tif"
            write_scene(work / "scene.tif", height, width)
            (work / "scene.tif").rename(scene)
            report[name] = {"height": height, "width": width,
                            **map_scene(scene, work / "net.pt", work / name, args.tile)}  # fmt: skip
            pushed = report[name]["overhead"] * height * width
            report[name]["pushed_pixels_per_second_of_wall"] = pushed / report[name]["wall_seconds"]
            report["bare_pixels_per_second"].append(bare_rate(net, args.tile))
            if name == "sixteenth":
                report["tiled_share_of_bare"] = tiled_shares(net, scene, args.tile)
        bare = float(np.median(report["bare_pixels_per_second"]))
        report["whole_job_share_of_bare"] = report["whole"]["pushed_pixels_per_second_of_wall"] / bare
        probability = next((work / "whole").rglob("*_probability.tif"))
        report["seam_difference_bytes"] = seam_difference(net, scene, probability, args.tile)
        report["versions"] = runs.versions()
        shutil.rmtree(work / "whole")
    if args.out:
        runs.write_json(args.out, report)
    for key in (
        "sixteenth",
        "whole",
        "tiled_share_of_bare",
        "whole_job_share_of_bare",
        "seam_difference_bytes",
    ):
        print(key, report[key])
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
