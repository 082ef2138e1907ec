"""Bring six real Sentinel-1/-2 pairs (BigEarthNet's example, one of them snow) and lay them out as scenes.

    python -m data_prep.sample --out data/sample

In: the package bigearthnet_common 2.8.0, by pip or as a wheel (--wheel).
Out: <out>/scenes/<site>/{site.json,s1,s2}.
The pairs are plumbing for the chain, 1.2 km wide each; they are too few to learn or to judge anything from.
"""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

PACKAGE = "bigearthnet_common==2.8.0"
WHEEL_SHA256 = "6c2bcf2b1d39a3f48925b0d941557152f9e523576fbb9d2b881a842ed92fd6af"
ARCHIVES = {
    sensor: f"bigearthnet_common/BigEarthNet-{sensor.upper()}-Example.tar.bz2" for sensor in ("s1", "s2")
}
OPTICAL = ("B02", "B03", "B04", "B08", "B11", "B12")
LICENCE = "CDLA-Permissive-1.0 (BigEarthNet); contains modified Copernicus Sentinel data 2017-2018"
SOURCE = "BigEarthNet-MM example patches (10.1109/MGRS.2021.3089174) in PyPI bigearthnet_common 2.8.0"
MAX_MEMBER_BYTES = 10 << 20


def fetch_wheel(folder: Path) -> Path:
    """Download the package with pip into `folder`."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel arrived"])[-1]
        raise BadInput(
            f"pip could not bring {PACKAGE} ({reason}); fetch the wheel elsewhere and pass it with --wheel."
        )
    return wheels[0]


def read_archive(wheel: Path, sensor: str) -> dict[str, bytes]:
    """Files of one example archive by name, in memory; links, odd sizes and odd names are refused."""
    with zipfile.ZipFile(wheel) as package:
        packed = package.read(ARCHIVES[sensor])
    files = {}
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:bz2") as archive:
        for member in archive:
            if member.isdir():
                continue
            name = Path(member.name).name
            if (
                not member.isfile()
                or member.size > MAX_MEMBER_BYTES
                or not re.fullmatch(r"[\w-]+\.(tif|json)", name)
            ):
                raise BadInput(
                    f"{wheel}: unexpected archive member {member.name!r}; the package is not the known one."
                )
            files[name] = archive.extractfile(member).read()
    return files


def decode(content: bytes):
    """(array, grid) of a one-band GeoTIFF held in memory."""
    import rasterio

    from data_prep.rasters import Grid

    with rasterio.MemoryFile(content) as memory, memory.open() as source:
        return source.read(1), Grid(source.crs, source.transform, source.height, source.width)


def lay_out_pair(scenes: Path, radar_name: str, radar: dict[str, bytes], optical: dict[str, bytes]) -> str:
    """Write one pair as a site and return its name."""
    import numpy as np

    from data_prep.rasters import write

    labels = json.loads(radar[f"{radar_name}_labels_metadata.json"])
    optical_name = labels["corresponding_s2_patch"]
    optical_labels = json.loads(optical[f"{optical_name}_labels_metadata.json"])
    platform, tile = radar_name.split("_")[0], radar_name.split("_")[5]
    # Sentinel-1A and -1B: relative orbit from the absolute one (ESA, Sentinel-1 product specification)
    orbit = (int(labels["scene_source"].split("_")[6]) - {"S1A": 73, "S1B": 27}[platform]) % 175 + 1
    acquired, sensed = labels["acquisition_time"], optical_labels["acquisition_date"].replace(" ", "T")
    ascending = (
        12 <= int(acquired[11:13]) <= 23
    )  # these sites are in Europe: evening passes ascend, morning ones descend
    site = f"{tile}-{'-'.join(radar_name.split('_')[6:])}"  # Sentinel-2 tile, row and column of the patch
    folder = scenes / site
    for sensor in ("s1", "s2"):
        (folder / sensor).mkdir(parents=True, exist_ok=True)

    bands = [decode(radar[f"{radar_name}_{name}.tif"]) for name in ("VV", "VH")]
    grid = bands[0][1]
    write(
        folder / "s1" / f"{acquired[:10]}T{acquired[11:].replace(':', '')}_{orbit:03d}.tif",
        np.stack([array for array, _ in bands]).astype(np.float32),
        ("VV", "VH"),
        grid,
        float("nan"),
        units="dB",
        backscatter="sigma0",
        product="S1 IW GRD, terrain-corrected",
        date=acquired,
        platform=platform,
        relative_orbit=orbit,
        orbit_state="ascending" if ascending else "descending",
    )

    arrays = {name: decode(optical[f"{optical_name}_{name}.tif"])[0] for name in OPTICAL}
    size = arrays["B02"].shape[0]  # 20 m bands are repeated onto the 10 m grid: no information is invented
    stack = np.stack([np.kron(a, np.ones((size // len(a),) * 2, a.dtype)) for a in arrays.values()])
    write(
        folder / "s2" / f"{sensed[:10]}T{sensed[11:19].replace(':', '')}.tif",
        stack.astype(np.uint16),
        OPTICAL,
        grid,
        0,
        units="reflectance*10000",
        product="S2 L2A",
        date=sensed,
        platform=optical_name.split("_")[0],
        offset=0,
    )
    latitude, longitude = grid.centre()
    runs.write_json(
        folder / "site.json",
        {
            "site": site,
            "latitude": round(latitude, 6),
            "longitude": round(longitude, 6),
            "source": SOURCE,
            "licence": LICENCE,
            "s1_patch": radar_name,
            "s2_patch": optical_name,
        },
    )
    return site


def get_parser():
    parser = runs.get_parser(__doc__, "--out", "--config", "--overwrite", "--dry-run")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="use this wheel instead of asking pip")
    return parser


def main(args) -> int:
    run = runs.Run(args, [])
    if run.finished():
        return runs.DONE
    if args.dry_run:
        runs.say(f"would fetch {PACKAGE} and write six sites to {args.out / 'scenes'}")
        return runs.DONE
    run.begin()
    with tempfile.TemporaryDirectory() as folder:
        wheel = args.wheel or fetch_wheel(Path(folder))
        if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
            raise BadInput(f"{wheel}: sha256 differs from {WHEEL_SHA256}; expected the wheel of {PACKAGE}.")
        radar, optical = read_archive(wheel, "s1"), read_archive(wheel, "s2")
    names = sorted(name.removesuffix("_VV.tif") for name in radar if name.endswith("_VV.tif"))
    sites = [lay_out_pair(args.out / "scenes", name, radar, optical) for name in names]
    runs.say(f"{len(sites)} real pairs in {args.out / 'scenes'}: for plumbing, not for scores")
    return run.finish(sites=sites, source=SOURCE, licence=LICENCE, wheel_sha256=WHEEL_SHA256)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
