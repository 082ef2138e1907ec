"""A U-Net started from the SAR encoder of a SAR-RGB model, against one from scratch, by share of the labels.

    python bench/pretraining.py --work runs/sar_rgb --out bench/results/pretraining

Simulated sites, as bench/sar_rgb.py makes them (run it first: its three models are the starts). For 10 %,
30 % and 100 % of the labelled triplets of train and val, and three seeds: two U-Nets of default width on VV
and VH, the same triplets, steps and order of batches, and one from scratch with twice the steps; judged on
the held-out sites against truth and against the optical labels. Resumable: finished jobs are skipped.
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
STARTS = {  # how the nets begin, and of which shares
    "encoder": (10, 30, 100),
    "scratch": (10, 30, 100),
    "longer": (10, 100),  # from scratch as well, twice as many steps: what the encoder took to train
}
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
        SHARES[share] * (2 if start == "longer" else 1),
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
    """{(against, share, start, seed): Tally} on pixels of held-out sites that all map; seed None: all."""
    rows = triplets.read_manifest(work / "split").of("test").rows
    nets = [(share, start) for start, shares in STARTS.items() for share in shares]
    each = (None, *range(seeds))
    tallies = {(a, *net, seed): metrics.Tally() for a in ("truth", "label") for net in nets for seed in each}
    for row in runs.progress(rows, len(rows), "judging"):
        planes = strata.read_truth(row, work / "simulate/scenes")
        outputs = []
        for share, start in nets:
            for seed in range(seeds):
                folder = work / "found" / f"{start}_{share}_seed-{seed}"
                kinds = ("mask", "probability")
                found = [predictions.read(folder / kind / f"{row['id']}.tif") for kind in kinds]
                outputs.append((share, start, seed, *found))
        seen = np.logical_and.reduce([mask != metrics.NO_DATA for *_, mask, _ in outputs])
        seen &= truth.known(planes)
        for a, reference in (("truth", truth.snow(planes)), ("label", triplets.read_mask(row))):
            ground = np.where(seen, reference, metrics.NO_DATA).astype(np.uint8)
            for share, start, seed, mask, probability in outputs:
                for key in (None, seed):
                    scene = row["site"], row["s1_date"]
                    tallies[a, share, start, key].add(*scene, mask, ground, None, probability)
    return tallies


def difference(first: metrics.Tally, other: metrics.Tally) -> dict:
    """Scores of the first minus those of the other, with intervals, keys as in a tally's table."""
    pair = metrics.paired_bootstrap(first.rows(), other.rows(), names=SHOWN)
    ends = (("", "difference"), ("_low", "low"), ("_high", "high"))
    return {f"{name}{end}": pair[name][key] for name in SHOWN for end, key in ends}


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
                if share in STARTS[start]:
                    trained[f"{start}_{share}_seed-{seed}"] = train(args.work, share, start, seed)
    if args.only:
        return
    tallies = judge(args.work, args.seeds)
    found, lines = [], []
    for a in ("truth", "label"):
        for share in SHARES:
            here = {start: tallies[a, share, start, None] for start in STARTS if share in STARTS[start]}
            scores = {start: tally.table()[0] for start, tally in here.items()}
            scores |= {f"encoder minus {start}": difference(here["encoder"], here[start])
                       for start in here if start != "encoder"}  # fmt: skip
            for start, row in scores.items():
                kept = {
                    name: row[name]
                    for name in row
                    if name.removesuffix("_low").removesuffix("_high") in SHOWN
                }
                found.append({"against": a, "labels_percent": share, "start": start, **kept})
                by_seed = [
                    tallies[a, share, start.split()[-1], seed].scores()["iou"] for seed in range(args.seeds)
                ]
                if "minus" in start:
                    ours = [tallies[a, share, "encoder", seed].scores()["iou"] for seed in range(args.seeds)]
                    by_seed = [one - other for one, other in zip(ours, by_seed, strict=True)]
                found[-1]["iou_by_seed"] = by_seed
                cells = [cell(row, name, "+" if "minus" in start else "") for name in SHOWN]
                cells.append(", ".join(f"{one:{'+' if 'minus' in start else ''}.3f}" for one in by_seed))
                lines.append("| " + " | ".join((a, f"{share} %", start, *cells)) + " |")
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
        f"Width 16, VV and VH, batches of 16 x 128 px, {min(steps.values())} to "
        f"{max(one for name, one in steps.items() if 'longer' not in name)} steps each (longer: "
        "from scratch, twice as many); "
        f"labelled triplets of train: {', '.join(f'{k} %: {v}' for k, v in counts.items())} (of val as "
        f"large a share); {args.seeds} seeds in one tally, each from the SAR-RGB model of its seed, which "
        f"saw no label. Held out: {len(sites)} sites, {len(rows)} triplets. 95 % intervals over sites and "
        "scenes; differences on the same resamples.",
        "",
        "| against | labels | start | "
        + " | ".join(name.replace("_", " ") for name in SHOWN)
        + " | iou by seed |",
        "|---|---|---|---|" + "---|" * len(SHOWN),
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
