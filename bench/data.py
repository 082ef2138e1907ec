"""Share of a training step spent waiting for data, on triplets read from disk.

    python bench/data.py --out bench/results/data.json

Makes 16 simulated sites of 512 x 512 pixels, curates and splits them into 256 px triplets, and trains the
default net and one of width 64 (batch 4, 256 px) for two epochs with the job itself; the figures are those
of its log.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import write_site  # noqa: E402

from data_prep import runs  # noqa: E402


def call(*words) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = {"command": "python bench/data.py " + " ".join(sys.argv[1:]), "git_commit": runs.git_commit()}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for seed in range(16):
            write_site(work / "scenes", f"site-{seed}", seed, 512, 512)
        call("-m", "data_prep.curate", "--data", work / "scenes", "--out", work / "c")
        call("-m", "data_prep.split", "--data", work / "c", "--out", work / "s")
        for width in (16, 64):
            words = ("--width", width, "--batch", 4, "--epochs", 2)
            call("train_unet.py", "--data", work / "s", "--out", work / f"w{width}", *words)
            log = [json.loads(line) for line in (work / f"w{width}" / "log.jsonl").read_text().splitlines()]
            steps = log[-1]["step"] / len(log)
            report[f"width_{width}"] = {
                "steps_per_epoch": steps,
                "seconds_per_step": [record["seconds"] / steps for record in log],
                "data_share": [record["data_share"] for record in log],
            }
    report["versions"] = runs.versions()
    if args.out:
        runs.write_json(args.out, report)
    print(json.dumps(report, indent=1))
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
