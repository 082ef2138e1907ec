"""Curation of many candidates: pairs a second and peak memory at two numbers of them, with two workers.

    python bench/curate.py --out bench/results/curate.json

Makes simulated sites of 64 x 64 pixels, 60 dates each, and curates a tenth of them and all.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import write_site  # noqa: E402

from data_prep import runs  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=25)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = {"command": "python bench/curate.py " + " ".join(sys.argv[1:]), "git_commit": runs.git_commit()}
    first = datetime.date(2015, 1, 1)
    dates = [str(first + datetime.timedelta(days=12 * number)) for number in range(60)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for seed in range(args.sites):
            write_site(work / "scenes", f"site-{seed:03d}", seed, 64, 64, dates)
        for name, limit in (("tenth", args.sites * len(dates) // 10), ("all", args.sites * len(dates))):
            words = ("--data", work / "scenes", "--out", work / name, "--limit", limit, "--workers", 2)
            command = [sys.executable, "-m", "data_prep.curate", *map(str, words)]
            done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            report[name] = {
                "candidates": limit,
                "kept": result["kept"],
                "seconds": result["seconds"],
                "pairs_per_second": limit / result["seconds"],
                "peak_memory_mib_of_one_process": result["peak_memory_mib"],
            }
    report["versions"] = runs.versions()
    if args.out:
        runs.write_json(args.out, report)
    print(json.dumps(report, indent=1))
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
