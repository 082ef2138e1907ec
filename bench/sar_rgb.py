"""Does a SAR-RGB model find the pair of a picture it has never seen, and is the gap between them a shift?

    python bench/sar_rgb.py --work runs/sar_rgb --pairs ../shared/data/pairs --out bench/results/sar_rgb

Simulated: 120 sites of a year, tiles of 128 px, split by site; a model a seed, judged on one date of each
held-out ground. Real: the pairs of a folder with pairs.csv (file, fragment, s1_date, s2_date), rgb/ and sar/
of 8-bit pictures, brought to 128 px; five folds by fragment, fragments that show the same land in one, from
scratch and with both encoders a frozen DINOv2; ranks within each held-out fold, pooled. Corrections are
fitted on the pairs of training. Resumable: finished jobs are skipped.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_prep import embedding_files, rasters, runs, triplets  # noqa: E402
from models import gap, retrieval  # noqa: E402

PX, FOLDS, SEEDS = 128, 5, 3
SAME_LAND = (
    0.8  # correlation of a quarter of a picture with a place in another; no pair lies from 0.73 to 0.85
)
WAYS = {"sar_to_rgb": "SAR to RGB", "rgb_to_sar": "RGB to SAR"}
METHODS = {
    "scratch": ("--epochs", 80, "--crop", 112),
    "dinov2": ("--epochs", 100, "--sar-encoder", "dinov2", "--rgb-encoder", "dinov2"),
}


def job(*words) -> dict:
    """Run a job of this project from the repository; returns its result."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"sar_rgb.py: {' '.join(map(str, words))} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- simulated ---------------------------------------------------------------------------------------------


def simulated(work: Path) -> list[dict]:
    """Scenes, tiles, split, and of each seed a model, its log, and its figures on the held-out sites."""
    sites = ("--sites", 120, "--years", 1, "--interval-days", 24, "--seed", 7)
    job("-m", "data_prep.simulate", "--out", work / "simulate", *sites)
    words = ("--tile", PX, "--max-cloud-share", 0.3, "--min-class-share", 0)
    job("-m", "data_prep.curate", "--data", work / "simulate/scenes", "--out", work / "curate", *words)
    job("-m", "data_prep.split", "--data", work / "curate", "--out", work / "split")
    found = []
    for seed in range(SEEDS):
        net, out = work / f"simulated/seed-{seed}", work / f"simulated/embed-{seed}"
        trained = job(
            "train_sar_rgb.py", "--data", work / "split", "--out", net, "--seed", seed, "--epochs", 20
        )
        words = ("--model", "sar-rgb", "--weights", net / "best.pt", "--seed", seed, "--dates", "one")
        job("embed_tsne.py", "--data", work / "split", "--out", out, *words)
        log = [json.loads(line) for line in (net / "log.jsonl").read_text().splitlines()]
        about = json.loads((out / "modality_gap.json").read_text())
        found.append({"seed": seed, "trained": trained, "log": log, "gap": about})
    return found


def draw(path: Path, found: list[dict]) -> None:
    """Temperature, gap and retrieval over the epochs, a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    panels = ("temperature (bounds 0.01 and 1)", "norm of the gap", "R@1 on validation (both ways)")
    for one, colour in zip(found, ("#0072b2", "#d55e00", "#009e73"), strict=False):
        epochs = [record["epoch"] + 1 for record in one["log"]]
        hits = [np.mean([record[way]["r_at_1"] for way in WAYS]) for record in one["log"]]
        values = (
            [record["temperature"] for record in one["log"]],
            [record["gap"] for record in one["log"]],
            hits,
        )
        for axis, name, line in zip(axes, panels, values, strict=True):
            axis.plot(epochs, line, color=colour, label=f"seed {one['seed']}")
            axis.set(xlabel="epoch", ylabel=name)
    axes[0].set_ylim(0, 0.08)
    for axis in axes[1:]:
        axis.set_ylim(bottom=0)
    size = found[0]["log"][-1]["gallery"]
    axes[2].axhline(1 / size, color="0.5", linestyle=":", label=f"chance, 1 of {size}")
    axes[2].legend(frameon=False, fontsize=7, loc="lower right")
    figure.suptitle("SAR-RGB model from scratch over its training (simulated data)", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# ---- real pairs --------------------------------------------------------------------------------------------


def lands(pictures: list[np.ndarray], fragments: np.ndarray) -> np.ndarray:
    """A number a picture, the same for all of fragments of which some pictures overlap."""
    names, number = np.unique(fragments, return_inverse=True)
    together = np.zeros((len(names),) * 2, bool)
    half = PX // 2
    for place, picture in enumerate(pictures):
        for row, col in ((0, 0), (0, half), (half, 0), (half, half)):
            quarter = picture[row : row + half, col : col + half]
            if quarter.std() < 5:  # hardly anything to see: it correlates with everything
                continue
            for other in np.flatnonzero(number != number[place]):
                if cv2.matchTemplate(pictures[other], quarter, cv2.TM_CCOEFF_NORMED).max() > SAME_LAND:
                    together[number[place], number[other]] = True
    count, group = connected_components(together, directed=False)
    runs.say(f"{len(names)} fragments of {count} lands")
    return group[number]


def write_folds(work: Path, source: Path) -> list[Path]:
    """A triplets folder a fold: pictures of PX by averaging, split train and test by fragment."""
    from sklearn.model_selection import GroupKFold

    if (work / f"fold-{FOLDS - 1}" / "triplets.csv").exists():
        return [work / f"fold-{fold}" for fold in range(FOLDS)]
    with open(source / "pairs.csv", newline="", encoding="utf-8") as stream:
        pairs = list(csv.DictReader(stream))
    for kind in ("sar", "rgb"):
        (work / kind).mkdir(parents=True, exist_ok=True)
        for pair in pairs:
            picture = rasters.read_png(source / kind / pair["file"]).astype(np.float32)
            times = picture.shape[0] // PX
            blocks = picture.reshape(PX, times, PX, times, -1).mean(axis=(1, 3))
            target = work / kind / pair["file"]
            if not target.exists():
                with runs.atomic(target) as temporary:
                    Image.fromarray(np.rint(blocks).astype(np.uint8).squeeze()).save(temporary, "PNG")
    fragments = np.array([Path(pair["fragment"]).stem for pair in pairs])
    folders = []
    groups = lands([cv2.imread(str(work / "rgb" / pair["file"]), 0) for pair in pairs], fragments)
    for fold, (_, held_out) in enumerate(GroupKFold(FOLDS).split(fragments, groups=groups)):
        folder = work / f"fold-{fold}"
        folder.mkdir(exist_ok=True)
        for kind in ("sar", "rgb"):
            if not (folder / kind).exists():
                (folder / kind).symlink_to(f"../{kind}")
        rows = [
            {
                **dict.fromkeys(triplets.COLUMNS, ""), "id": Path(pair["file"]).stem, "site": fragment,
                "date": pair["s1_date"], "s1_date": pair["s1_date"], "s2_date": pair["s2_date"],
                "platform": "Sentinel-1", "backscatter": "8-bit", "latitude": 34.0, "longitude": -118.0,
                "sar": f"sar/{pair['file']}", "rgb": f"rgb/{pair['file']}", "row": number, "col": 0,
                "height": PX, "width": PX, "valid_fraction": 1, "snow_fraction": 0,
                "split": "test" if number in held_out else "train",
            }
            for number, (pair, fragment) in enumerate(zip(pairs, fragments, strict=True))
        ]  # fmt: skip
        triplets.write_manifest(folder / "triplets.csv", rows)
        folders.append(folder)
    return folders


def real(work: Path, source: Path, weights: Path, seed: int) -> dict:
    """{method: {"seconds", "folds": [embeddings of each fold]}} of the pairs in `source`."""
    found = {}
    for method, words in METHODS.items():
        frozen = ("--weights", f"dinov2={weights}") if method == "dinov2" else ()
        needs = ("--frozen", f"dinov2={weights}") if method == "dinov2" else ()
        seconds, folds = 0.0, []
        for number, folder in enumerate(write_folds(work, source)):
            net, out = (
                work / f"{method}_seed-{seed}/fold-{number}",
                work / f"{method}_seed-{seed}/embed-{number}",
            )
            trained = job(
                "train_sar_rgb.py", "--data", folder, "--out", net, "--seed", seed,
                "--cache", work / "features", *words, *frozen,
            )  # fmt: skip
            embedded = job(
                "embed_tsne.py", "--data", folder, "--out", out, "--model", "sar-rgb", "--weights",
                net / "best.pt", "--seed", seed, "--no-floor", *needs,
            )  # fmt: skip
            seconds += trained["seconds"] + embedded["seconds"]
            folds.append(embedding_files.read(out / "embeddings.parquet"))
        found[method] = {"seconds": seconds, "folds": folds}
    return found


def pooled(folds: list[dict], seed: int, mixed: bool = False) -> dict:
    """{treatment: {way: {r_at_1, ..., median_rank, with intervals over fragments}}} over all folds.

    mixed: the pairs of each held-out fold are shuffled before they are ranked: the null.
    """
    result = {}
    for treatment in gap.TREATMENTS:
        found, sites = {way: [] for way in WAYS}, []
        for number, fold in enumerate(folds):
            test = np.array([row["split"] == "test" for row in fold["rows"]])
            rgb, sar = gap.unit(fold["rgb"]), gap.unit(fold["sar"])
            fit = gap.FITS[treatment]
            moved = fit(rgb[~test], sar[~test])(sar[test]) if fit else sar[test]
            if mixed:
                moved = moved[np.random.default_rng([seed, number]).permutation(len(moved))]
            found["sar_to_rgb"].append(gap.ranks(moved, rgb[test]))
            found["rgb_to_sar"].append(gap.ranks(rgb[test], moved))
            sites += [row["site"] for row in fold["rows"] if row["split"] == "test"]
        sizes = np.concatenate([np.full(len(ranks), len(ranks)) for ranks in found["sar_to_rgb"]])
        result[treatment] = {
            way: retrieval.rank_figures(np.concatenate(ranks), sizes, sites) for way, ranks in found.items()
        }
    return result


# ---- report ------------------------------------------------------------------------------------------------


def cells(row: dict) -> list[str]:
    """R@1, R@5, R@10 and median rank of one way, each with its interval."""

    def with_interval(name: str, form: str) -> str:
        value, low, high = (row[name + end] for end in ("", "_low", "_high"))
        return f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low is not None else "")

    return [*(with_interval(f"r_at_{k}", ".3f") for k in (1, 5, 10)), with_interval("median_rank", ".1f")]


def lines_of(tables: dict) -> list[str]:
    """A Markdown table of {name: {treatment: {way: figures}}}."""
    lines = ["| model | N | treatment | way | R@1 | R@5 | R@10 | median rank |", "|" + "---|" * 8]
    for name, table in tables.items():
        for treatment in gap.TREATMENTS:
            for way, words in WAYS.items():
                row = table[treatment][way]
                about = (name, str(row["gallery"]), treatment, words, *cells(row))
                lines.append("| " + " | ".join(about) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/sar_rgb"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/sar_rgb"))
    parser.add_argument("--pairs", type=Path, default=Path("../shared/data/pairs"))
    parser.add_argument("--weights", type=Path, default=Path("data/weights/dinov2-small"), help="DINOv2")
    parser.add_argument("--seed", type=int, default=0, help="of the real pairs")
    parser.add_argument("--only", choices=("simulated", "real"), help="only these jobs, no report")
    args = parser.parse_args()
    began = time.time()
    sim = simulated(args.work) if args.only != "real" else []
    pairs = real(args.work / "pairs", args.pairs, args.weights, args.seed) if args.only != "simulated" else {}
    if args.only:
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(args.out.with_name(f"{args.out.name}_training.png"), sim)
    tables = {name: pooled(one["folds"], args.seed) for name, one in pairs.items()}
    tables |= {
        f"{name}, shuffled pairs": pooled(one["folds"], args.seed, True) for name, one in pairs.items()
    }
    folds = next(iter(pairs.values()))["folds"]
    sizes = [sum(row["split"] == "test" for row in fold["rows"]) for fold in folds]
    chance = tables["scratch"]["raw"]["sar_to_rgb"]
    verdicts = [f"- Seed {one['seed']}: {one['gap']['sentence']}" for one in sim]
    sites, fragments = sim[0]["gap"]["model"]["sites"], {row["site"] for row in folds[0]["rows"]}
    trained = sum(one["trained"]["seconds"] for one in sim)
    took = ", ".join(f"{name} {one['seconds']:.0f} s" for name, one in pairs.items())
    text = [
        "# SAR against RGB: finding the pair",
        "",
        f"Command: `python bench/sar_rgb.py`; training {trained:.0f} s for {SEEDS} seeds of simulated sites; "
        f"real pairs, all {FOLDS} folds, training and embedding, seed {args.seed}: {took}; on two cores "
        "shared with other work.",
        "",
        f"## Simulated sites ({sites} held out), one date of each ground (chance R@1 1 / N), from scratch",
        "",
        "95 % intervals over sites. Corrections fitted on the sites of training and validation.",
        "",
        *lines_of({f"seed {one['seed']}": one["gap"]["model"] for one in sim}),
        "",
        *verdicts,
        "",
        f"![temperature and gap]({args.out.name}_training.png)",
        "",
        f"## {sum(sizes)} real pairs around Los Angeles (8-bit, no snow), five folds by fragment",
        "",
        f"Pictures of {PX} px (20 m, 2 x 2 pixels averaged). Ranks in the gallery of the held-out fold "
        f"({min(sizes)} to {max(sizes)} pairs), pooled; chance R@1 {chance['chance_r_at_1']:.3f}, R@5 "
        f"{chance['chance_r_at_5']:.3f}, median rank about {chance['chance_median_rank']:.0f}. 95 % "
        f"intervals over {len(fragments)} fragments. dinov2: DINOv2 ViT-S/14 architecture, trained "
        "weights, frozen on both sides. Epochs from scratch: chosen among 60 to 100 on one of the folds; "
        "heads on DINOv2: compared on all five.",
        "",
        *lines_of(tables),
    ]
    args.out.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
    kept = ("epoch", "train_loss", "loss", "temperature", "gap", *WAYS)
    report = {
        "command": "python bench/sar_rgb.py",
        "seconds": time.time() - began,
        "simulated": [
            {
                "seed": one["seed"],
                "training_seconds": one["trained"]["seconds"],
                "gap": one["gap"],
                "log": [{key: record[key] for key in kept} for record in one["log"]],
            }
            for one in sim
        ],
        "real": {
            "galleries": sizes,
            "seconds": {name: one["seconds"] for name, one in pairs.items()},
            "tables": tables,
        },
    }
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
