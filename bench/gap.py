"""Modality gap of many embeddings: seconds and memory of embed_tsne.py --embeddings against their number.

    python bench/gap.py --out bench/results/gap.json

Writes random paired embeddings of --dimensions, RGB and a shifted, noisy SAR, as embeddings.parquet, and
runs the whole job on each of --pairs: reading, every figure of the gap, the null, PCA of all rows, t-SNE of
5,000, figures, page. Told: wall and processor seconds, peak memory, their slopes from each number of pairs to
the next, and what float32 matrix products of the size of the six retrievals take alone, in this very run.
Try it out with --pairs 2000 4000.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from data_prep import embedding_files, runs  # noqa: E402
from models import gap  # noqa: E402

BATCH = 5000


def write(path: Path, pairs: int, dimensions: int, sites: int) -> None:
    """Pairs that share half of their variance, SAR shifted along the first axis."""
    random = np.random.default_rng(0)
    with embedding_files.write(path, dimensions, {"model": "made for a bench"}) as add:
        for start in range(0, pairs, BATCH):
            count = min(BATCH, pairs - start)
            shared, rgb, sar = random.standard_normal((3, count, dimensions), np.float32)
            sar[:, 0] += 5
            row = {"date": "", "split": "", "col": "0", "snow_fraction": ""}
            numbers = range(start, start + count)
            rows = [{"id": f"t{k}", "site": f"s{k % sites}", "row": str(k), **row} for k in numbers]
            add(rows, shared + rgb, shared + sar)


def job(path: Path, out: Path) -> dict:
    """Wall and processor seconds and peak memory of the job on a file."""
    command = [sys.executable, ROOT / "embed_tsne.py", "--embeddings", path, "--out", out]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "pairs": found["pairs"], "seconds": time.perf_counter() - start, "processor_seconds": used,
        "peak_memory_mib": found["peak_memory_mib"], "gallery": found["gallery"], "verdict": found["verdict"],
        "chance_r_at_1": found["retrieval"]["raw"]["sar_to_rgb"]["chance_r_at_1"],
        "r_at_1": found["retrieval"]["raw"]["sar_to_rgb"]["r_at_1"],
    }  # fmt: skip


def products(pairs: int, gallery: int, dimensions: int) -> float:
    """Processor seconds of the matrix products of six retrievals, from some of them."""
    a = np.ones((gap.BLOCK, dimensions), np.float32)
    b, out = np.ones((dimensions, gallery), np.float32), np.empty((gap.BLOCK, gallery), np.float32)
    np.matmul(a, b, out=out)
    start = time.process_time()
    for _ in range(4):
        np.matmul(a, b, out=out)
    return (time.process_time() - start) / 4 * 6 * pairs / gap.BLOCK


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--sites", type=int, default=200, help="0: as many as pairs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for pairs in args.pairs:
            path = Path(folder, f"{pairs}.parquet")
            write(path, pairs, args.dimensions, args.sites or pairs)
            found.append(job(path, Path(folder, str(pairs))))
            path.unlink()
            alone = products(pairs, found[-1]["gallery"], args.dimensions)
            found[-1]["processor_seconds_of_products_alone"] = alone
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    slopes = [
        {f"{name}_per_1000_pairs": 1000 * (b[name] - a[name]) / (b["pairs"] - a["pairs"])
         for name in ("seconds", "processor_seconds", "peak_memory_mib")}
        for a, b in itertools.pairwise(found)
    ]  # fmt: skip
    report = {
        "command": "python bench/gap.py " + " ".join(sys.argv[1:]), "git_commit": runs.git_commit(),
        "cores": os.cpu_count(), "dimensions": args.dimensions, "sites": args.sites or "pairs",
        "runs": found, "slopes": slopes,
        "versions": runs.versions(),
    }  # fmt: skip
    if args.out:
        runs.write_json(args.out, report)
    print(json.dumps(report, indent=1))
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
