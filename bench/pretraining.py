"""A U-Net started from the SAR encoder of a SAR-RGB model, against one from scratch, by share of the labels.

    python bench/pretraining.py --work runs/sar_rgb --out bench/results/pretraining

Simulated sites, as bench/sar_rgb.py makes them (run it first: its three models are the starts). For 10 %,
30 % and 100 % of the labelled triplets of train and val, and three seeds: two U-Nets of default width on VV
and VH, the same triplets, steps and order of batches; judged on the held-out sites against truth and against
the optical labels. Resumable: finished jobs are skipped.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_prep import predictions, runs, strata, triplets, truth  # noqa: E402
from models import metrics  # noqa: E402

SHARES = {10: 40, 30: 13, 100: 4}  # per cent of the labels: epochs, so that all take about as many steps
STARTS = ("encoder", "scratch")
SHOWN = ("iou", "f1", "balanced_accuracy", "auprc")
LINKED = ("sar", "rgb", "mask", "dem", "landcover", "ref")


def job(*words) -> dict:
    """Run a job of this project from the repository; returns its result."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"pretraining.py: {' '.join(map(str, words))} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def labelled(work: Path, share: int) -> Path:
    """A triplets folder with `share` per cent of the train and val triplets, chosen by a hash of the id."""
    folder, source = work / "labels" / str(share), work / "split"
    manifest = folder / "triplets.csv"
    if manifest.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        if (source / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to(os.path.relpath(source / name, folder))
    header, *lines = (source / "triplets.csv").read_text(encoding="utf-8").splitlines()
    split = header.split(",").index("split")
    kept = [
        line
        for line in lines
        if line.split(",")[split] == "test"
        or int(hashlib.sha256(line.split(",")[0].encode()).hexdigest(), 16) % 100 < share
    ]
    with runs.atomic(manifest) as temporary:
        temporary.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    return folder


def train(work: Path, share: int, start: str, seed: int) -> dict:
    """Train one U-Net and map the held-out triplets with it; returns the result of training."""
    data, name = labelled(work, share), f"{start}_{share}_seed-{seed}"
    init = ("--init", work / f"simulated/seed-{seed}/best.pt") if start == "encoder" else ()
    words = (
        "--bands",
        "vv,vh",
        "--batch",
        16,
        "--epochs",
        SHARES[share],
        "--seed",
        seed,
        "--workers",
        0,
        "--cache",
        work / "cache",
    )
    net = work / "nets" / name
    result = job("train_unet.py", "--data", data, "--out", net, *words, *init)
    found = work / "found" / name
    job("infer_unet.py", "--data", work / "split", "--weights", net / "best.pt", "--out", found)
    runs.say(f"{name}: {result['seconds']:.0f} s, val IoU {result['best']['iou']}")
    return result


def judge(work: Path, seeds: int) -> dict:
    """{(against, share, start): Tally} of all seeds on the pixels of the held-out sites that all map."""
    rows = triplets.read_manifest(work / "split").of("test").rows
    tallies = {(a, share, s): metrics.Tally() for a in ("truth", "label") for share in SHARES for s in STARTS}
    for row in runs.progress(rows, len(rows), "judging"):
        planes = strata.read_truth(row, work / "simulate/scenes")
        outputs = []
        for share in SHARES:
            for start in STARTS:
                for seed in range(seeds):
                    folder = work / "found" / f"{start}_{share}_seed-{seed}"
                    kinds = ("mask", "probability")
                    found = [predictions.read(folder / kind / f"{row['id']}.tif") for kind in kinds]
                    outputs.append((share, start, *found))
        seen = np.logical_and.reduce([mask != metrics.NO_DATA for *_, mask, _ in outputs])
        seen &= truth.known(planes)
        for a, reference in (("truth", truth.snow(planes)), ("label", triplets.read_mask(row))):
            ground = np.where(seen, reference, metrics.NO_DATA).astype(np.uint8)
            for share, start, mask, probability in outputs:
                tallies[a, share, start].add(row["site"], row["s1_date"], mask, ground, None, probability)
    return tallies


def cell(row: dict, name: str, sign: str = "") -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return "-"
    return f"{value:{sign}.3f}" + (f" [{low:{sign}.3f}, {high:{sign}.3f}]" if low is not None else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/sar_rgb"), help="of bench/sar_rgb.py")
    parser.add_argument("--out", type=Path, default=Path("bench/results/pretraining"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=STARTS, help="only train these, for two processes side by side")
    args = parser.parse_args()
    began = time.time()
    trained = {}
    for seed in range(args.seeds):
        for share in SHARES:
            for start in [args.only] if args.only else STARTS:
                trained[f"{start}_{share}_seed-{seed}"] = train(args.work, share, start, seed)
    if args.only:
        return
    tallies = judge(args.work, args.seeds)
    found, lines = [], []
    for a in ("truth", "label"):
        for share in SHARES:
            first, other = (tallies[a, share, start] for start in STARTS)
            rows = [tally.table()[0] for tally in (first, other)]
            pair = metrics.paired_bootstrap(first.rows(), other.rows(), names=SHOWN)
            difference = {
                f"{name}{end}": pair[name][key]
                for name in SHOWN
                for end, key in (("", "difference"), ("_low", "low"), ("_high", "high"))
            }
            about = {"against": a, "labels_percent": share}
            found += [
                {
                    **about,
                    "start": s,
                    **{k: row[k] for k in row if k.split("_low")[0].split("_high")[0] in SHOWN},
                }
                for s, row in zip(STARTS, rows, strict=True)
            ]
            found.append({**about, "start": "encoder minus scratch", **difference})
            for name, row in (*zip(STARTS, rows, strict=True), ("**encoder minus scratch**", difference)):
                sign = "+" if "minus" in name else ""
                lines.append(
                    f"| {a} | {share} % | {name} | " + " | ".join(cell(row, s, sign) for s in SHOWN) + " |"
                )
    rows = triplets.read_manifest(args.work / "split").of("test").rows
    labels = {share: triplets.read_manifest(labelled(args.work, share)).of("train").rows for share in SHARES}
    counts = {share: len(chosen) for share, chosen in labels.items()}
    steps = {name: one["steps"] for name, one in trained.items()}
    seconds, sites = sum(one["seconds"] for one in trained.values()), {row["site"] for row in rows}
    text = [
        "# A U-Net from the SAR encoder, and one from scratch: simulated data",
        "",
        f"Command: `python bench/pretraining.py`; {seconds:.0f} s of training, two nets side by side on two "
        "cores, shared with other work.",
        f"Width 16, VV and VH, batches of 16 x 128 px, {min(steps.values())} to {max(steps.values())} steps "
        f"each; labelled triplets of train: {', '.join(f'{k} %: {v}' for k, v in counts.items())} (of val as "
        f"large a share); {args.seeds} seeds in one tally, each from the SAR-RGB model of its seed, which "
        f"saw no label. Held out: {len(sites)} sites, {len(rows)} triplets. 95 % intervals over sites and "
        "scenes; differences on the same resamples.",
        "",
        "| against | labels | start | " + " | ".join(name.replace("_", " ") for name in SHOWN) + " |",
        "|---|---|---|" + "---|" * len(SHOWN),
        *lines,
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
    report = {
        "command": "python bench/pretraining.py", "seconds": time.time() - began, "labelled": counts,
        "steps": steps, "scores": found, "training_seconds": {k: v["seconds"] for k, v in trained.items()},
        "best_val_iou": {k: v["best"]["iou"] for k, v in trained.items()},
    }  # fmt: skip
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
