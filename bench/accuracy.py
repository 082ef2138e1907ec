"""Who sees what: every baseline and net on one split by site and year of simulated scenes.

    python bench/accuracy.py --work runs/accuracy --out bench/results/accuracy

Simulates, curates and splits once, trains and applies the nets as jobs (finished ones are kept, so it can be
stopped and run again), fits the baselines, and judges all on the same pixels against the truth. Out:
<out>.json with every figure, <out>.md with the tables, <out>_contribution.png. Hours on two cores; nothing
here is measured on real snow.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_prep import pictures, predictions, runs, sim_weather, strata, triplets, truth  # noqa: E402
from models import baselines, metrics  # noqa: E402

CURRENT = ("vv", "vh", "vv-ref", "vh-ref")
REFERENCE = ("reference-vv", "reference-vh")
TERRAIN = ("local-incidence-angle", "elevation", "slope", "northness", "eastness", "season-sin", "season-cos")
WEATHER = (
    "temperature-1", "degree-days-7", "degree-days-30", "degree-days-90", "snowfall-30", "snowfall-180"
)  # fmt: skip
BANDS = {
    "one band": ("vv",),
    "two bands": ("vv", "vh"),
    "two bands and reference": CURRENT,
    "all bands": CURRENT + TERRAIN + WEATHER,  # image and ratio to the reference: the reference is in them
    "control": REFERENCE + TERRAIN + WEATHER,  # all that is known without the current image
}
LEVELS = {"exact": "weather_exact.csv", "reanalysis": "weather.csv", "poor": "weather_poor.csv"}
USUAL = "reanalysis"
TRAIN = ("--epochs", 24, "--batch", 16, "--crop", 128)
SHOWN = ("balanced_accuracy", "f1", "iou", "mcc", "auprc", "snow_area_bias")
PIXELS_A_TRIPLET = 1500  # for the baselines
CONTEXT = {
    "total": "Literature, other ground and labels: total snow from Sentinel-1 0.75-0.85 accuracy with tests "
    "at other places (Tsai 2019, 10.3390/rs11080895).",
    "wet": "Literature, other ground and labels: wet snow by deep learning 85.2 % overall accuracy "
    "(10.3390/rs16193575). Nagler and Rott's ratio is applied without its masks of forest and layover: "
    "see the strata.",
}


# ---- what is to be trained ---------------------------------------------------------------------------------


def plan(args) -> list[dict]:
    """Every net: what it sees, its weather, target, width and seed; what the tables need most comes first."""
    targets, both = ("total", "wet"), ("all bands", "control")
    nets = [net(name, USUAL, target, 16, 0) for target in targets for name in BANDS]
    nets += [net(name, level, t, 16, 0) for t in targets for level in ("exact", "poor") for name in both]
    nets += [net(name, USUAL, "total", 64, 0) for name in ("two bands", "all bands")]
    for seed in range(1, args.seeds):
        nets += [net(name, USUAL, target, 16, seed) for target in targets for name in BANDS]
    return nets


def net(name: str, level: str, target: str, width: int, seed: int) -> dict:
    words = [name.replace(" ", "-"), target, f"w{width}", f"s{seed}"]
    if set(BANDS[name]) & set(WEATHER):
        words.append(level)
    return {
        "folder": "_".join(words), "name": name, "level": level, "target": target, "width": width,
        "seed": seed,
    }  # fmt: skip


def job(*words) -> dict:
    """Run a job of this project; returns its result."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"accuracy.py: {' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def prepare(args) -> dict:
    """Scenes, triplets with each index, the split; folders by name."""
    at = {name: args.work / name for name in ("simulate", "combined", "ndsi", "ndfsi", "split")}
    job("-m", "data_prep.simulate", "--out", at["simulate"], *args.simulate)
    for index in ("combined", "ndsi", "ndfsi"):
        words = ("--index", index, "--need-reference", "--max-cloud-share", 0.5)
        job("-m", "data_prep.curate", "--data", at["simulate"] / "scenes", "--out", at[index], *words)
    words = ("--by", "site-year", "--val", 0.17, "--test", 0.34)
    job("-m", "data_prep.split", "--data", at["combined"], "--out", at["split"], *words)
    return at


def train(args, at: dict, one: dict) -> dict:
    """Train and apply one net; returns the result of training."""
    weather = (
        ("--weather", at["simulate"] / LEVELS[one["level"]]) if set(BANDS[one["name"]]) & set(WEATHER) else ()
    )
    folder, found = args.work / "nets" / one["folder"], args.work / "found" / one["folder"]
    words = ("--bands", ",".join(BANDS[one["name"]]), "--target", one["target"], *args.train)
    cache = ("--cache", args.work / "cache" / f"{one['name'].replace(' ', '-')}-{one['level']}")
    trained = job(
        "train_unet.py", "--data", at["split"], "--out", folder, "--width", one["width"],
        "--seed", one["seed"], *words, *cache, *weather,
    )  # fmt: skip
    job("infer_unet.py", "--data", at["split"], "--weights", folder / "best.pt", "--out", found, *weather)
    runs.say(f"{one['folder']}: {trained['seconds']:.0f} s, val IoU {trained['best']['iou']}")
    return trained


# ---- baselines ---------------------------------------------------------------------------------------------


def planes_of(row: dict, needed) -> dict[str, np.ndarray]:
    return dict(zip(needed, triplets.read_image(row, needed), strict=True))


def fit_baselines(rows: dict[str, list], target: str, level: str, seed: int = 0) -> dict:
    """Every baseline fitted on train, its threshold chosen on val by IoU: by name, for apply_baseline."""
    needed = {
        "majority": ("elevation",),
        "elevation-season": baselines.BASELINES["elevation-season"][0],
        "gradient-boosting": (*baselines.TERRAIN, *WEATHER),
        "otsu-vv": ("vv",),
        "otsu-vh": ("vh",),
        "random-forest": ("vv", "vh", "vv-ref", "vh-ref", "local-incidence-angle"),
        "nagler-ratio": baselines.BASELINES["nagler-ratio"][0],
    }
    names = [name for name in needed if name != "nagler-ratio" or target == "wet"]
    if level != USUAL:
        names = ["gradient-boosting"]
    fitted = {}
    for name in names:
        _, features, fit, predict = baselines.BASELINES[name]
        model = None
        if name not in baselines.RULES:
            parts = [
                baselines.sample_pixels(
                    features(planes_of(row, needed[name])),
                    triplets.read_mask(row, target),
                    PIXELS_A_TRIPLET,
                    k,
                )
                for k, row in enumerate(rows["train"])
            ]
            sites = np.concatenate(
                [[row["site"]] * len(y) for row, (_, y) in zip(rows["train"], parts, strict=True)]
            )
            x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            model = fit(x, y, sites, seed, 1 if name == "gradient-boosting" else 2)
        histogram = metrics.Histogram()
        threshold = 0.5
        if name not in (*baselines.RULES, "majority"):  # a constant is above or below one half
            for row in rows["val"]:
                probability = predict(model, features(planes_of(row, needed[name])), 1)
                histogram.add(probability, triplets.read_mask(row, target))
            threshold = histogram.best_threshold() or 0.5
        fitted[name] = (needed[name], features, model, predict, threshold)
        runs.say(f"baseline {name} ({target}, {level}) is fitted, threshold {threshold:.3f}")
    return fitted


def apply_baseline(fitted, row) -> tuple[np.ndarray, np.ndarray]:
    """(mask, probability) of a triplet."""
    needed, features, model, predict, threshold = fitted
    probability = predict(model, features(planes_of(row, needed)), 1)
    return metrics.to_mask(probability, threshold), probability


# ---- judging -----------------------------------------------------------------------------------------------


def judge(args, at: dict, nets: list[dict], target: str, level: str) -> dict:
    """Tallies of every method: {"truth" | "label": {method: Tally}}, and of each net alone against truth."""
    folder = at["simulate"] / LEVELS[level]
    manifest = triplets.read_manifest(at["split"], weather=folder)
    rows = {split: manifest.of(split).rows for split in ("train", "val", "test")}
    chosen = [one for one in nets if one["target"] == target and one["level"] == level]
    fitted = fit_baselines(rows, target, level)
    against = ("truth", "label") if target == "total" else ("truth",)
    methods = list(dict.fromkeys(["all snow", *fitted, *(label(one) for one in chosen)]))
    tallies = {a: {m: metrics.Tally(strata.CLASSES, strata.SNOW_ONLY) for m in methods} for a in against}
    by_seed = {one["folder"]: metrics.Tally(strata.CLASSES, strata.SNOW_ONLY) for one in chosen}
    for row in runs.progress(rows["test"], len(rows["test"]), f"judging {target}, {level}"):
        masks = {name: apply_baseline(one, row) for name, one in fitted.items()}
        outputs = [(name, name, *found) for name, found in masks.items()]
        for one in chosen:
            found = args.work / "found" / one["folder"]
            pair = [predictions.read(found / kind / f"{row['id']}.tif") for kind in ("mask", "probability")]
            outputs.append((label(one), one["folder"], *pair))
        planes = strata.read_truth(row, at["simulate"] / "scenes")
        snow, wet = truth.snow(planes), truth.wet(planes)
        outputs.append(("all snow", "", np.ones(snow.shape, np.uint8), None))
        seen = np.logical_and.reduce([mask != metrics.NO_DATA for _, _, mask, _ in outputs])
        seen &= truth.known(planes)  # water has no label
        reference = {"truth": wet if target == "wet" else snow, "label": triplets.read_mask(row)}
        codes = strata.codes(row, seen.shape, planes, wet)
        for name, key, mask, probability in outputs:
            for a in against:
                ground = np.where(seen, reference[a], metrics.NO_DATA).astype(np.uint8)
                tallies[a][name].add(row["site"], row["s1_date"], mask, ground, codes, probability)
                if a == "truth" and key in by_seed:
                    by_seed[key].add(row["site"], row["s1_date"], mask, ground, codes, probability)
    return {"tallies": tallies, "by_seed": by_seed}


def label(one: dict) -> str:
    return f"U-Net {one['name']}" + (", width 64" if one["width"] == 64 else "")


def judge_labels(at: dict) -> dict:
    """The optical masks themselves against truth, {index: Tally}: triplets that every index kept, and the
    pixels on which all three say something."""
    rows = {
        index: {row["id"]: row for row in triplets.read_manifest(at[index]).rows}
        for index in ("ndsi", "ndfsi", "combined")
    }
    tallies = {index: metrics.Tally(strata.CLASSES, strata.SNOW_ONLY) for index in rows}
    for name in sorted(set.intersection(*(set(table) for table in rows.values()))):
        masks = {index: triplets.read_mask(table[name]) for index, table in rows.items()}
        row = rows["combined"][name]
        planes = strata.read_truth(row, at["simulate"] / "scenes")
        seen = np.logical_and.reduce([mask != metrics.NO_DATA for mask in masks.values()])
        ground = np.where(seen & truth.known(planes), truth.snow(planes), metrics.NO_DATA).astype(np.uint8)
        codes = strata.codes(row, ground.shape, planes, truth.wet(planes))
        for index, mask in masks.items():
            tallies[index].add(row["site"], row["s1_date"], mask, ground, codes)
    return tallies


# ---- tables ------------------------------------------------------------------------------------------------


def kept(table: list[dict]) -> list[dict]:
    """The rows of a table with the scores shown, to five digits: what results/accuracy.json holds."""
    names = ("stratum", "class", "sites", "scenes", "sites_with_snow", "pixels", "prevalence")
    names += tuple(f"{score}{end}" for score in SHOWN for end in ("", "_low", "_high"))
    rows = [{name: row.get(name) for name in names} for row in table]
    return [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def value(row: dict, name: str) -> str:
    if row[name] is None:
        return "-"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{row[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def table(tallies: dict, note: str) -> list[str]:
    """A Markdown table: a line a method, scores with intervals."""
    whole = {name: tally.table()[0] for name, tally in tallies.items()}
    any_row = next(iter(whole.values()))
    lines = [
        f"Prevalence {any_row['prevalence']:.3f}; {any_row['sites']} sites, {any_row['scenes']} scenes, "
        f"{any_row['pixels']:,} pixels; 95 % intervals over sites and scenes. {note}",
        "",
        "| method | " + " | ".join(name.replace("_", " ") for name in SHOWN) + " |",
        "|---|" + "---|" * len(SHOWN),
    ]
    return lines + [
        f"| {name} | " + " | ".join(value(row, score) for score in SHOWN) + " |"
        for name, row in whole.items()
    ]


def strata_table(tallies: dict, score: str) -> list[str]:
    """A Markdown table of one score: a line a stratum, a column a method."""
    groups = next(iter(tallies.values())).groups()
    lines = ["| stratum | " + " | ".join(tallies) + " |", "|---|" + "---|" * len(tallies)]
    for group in groups:
        found = [tally.scores(*group)[score] for tally in tallies.values()]
        cells = ["-" if one is None else f"{one:.3f}" for one in found]
        lines.append(f"| {': '.join(group) if group[0] != 'all' else 'all'} | " + " | ".join(cells) + " |")
    return lines


def difference(found: dict | None) -> str:
    if not found:
        return "-"
    if found["low"] is None:
        return f"{found['difference']:+.3f}"
    excludes = {True: "", False: " (holds 0)", None: " (too few sites to tell)"}[found["excludes_0"]]
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]{excludes}"


def paired(first: metrics.Tally, other: metrics.Tally, group=("all", "all")) -> dict:
    return metrics.paired_bootstrap(first.rows(*group), other.rows(*group), names=SHOWN)


def contributions(judged: dict) -> dict:
    """All bands minus control by target, weather level and stratum: with seed 0, and with all seeds."""
    found = {}
    for (target, level), one in judged.items():
        first = [
            one["by_seed"].get(net(name, level, target, 16, 0)["folder"]) for name in ("all bands", "control")
        ]
        pooled = [one["tallies"]["truth"].get(f"U-Net {name}") for name in ("all bands", "control")]
        for what, (a, b) in (("seed 0", first), ("all seeds", pooled)):
            if a and b and (what == "seed 0" or level == USUAL):
                found[f"{target}, {level}, {what}"] = {": ".join(g): paired(a, b, g) for g in a.groups()}
    return found


def sentences(judged: dict, contribution: dict) -> list[str]:
    """What one image sees of dry and wet snow, what the reference adds, what the radar adds to the rest."""
    lines = []

    def score(target, method, group, name="balanced_accuracy"):
        tally = judged[target, USUAL]["tallies"]["truth"].get(method)
        rows = [row for row in tally.table() if (row["stratum"], row["class"]) == group] if tally else []
        return value(rows[0], name) if rows else "-"

    for kind in ("dry", "wet"):
        found = score("total", "U-Net two bands", ("wetness", kind))
        lines.append(
            f"- One image (VV and VH) tells {kind} snow from snow-free ground with a balanced accuracy of "
            f"{found}; 0.5 is chance."
        )
    wet = score("wet", "U-Net two bands", ("all", "all"), "f1")
    lines.append(f"- Asked for wet snow alone, one image reaches F1 {wet}.")
    for target in ("total", "wet"):
        tallies = judged[target, USUAL]["tallies"]["truth"]
        if {"U-Net two bands and reference", "U-Net two bands"} <= tallies.keys():
            found = paired(tallies["U-Net two bands and reference"], tallies["U-Net two bands"])["f1"]
            lines.append(
                f"- The same-track reference adds {difference(found)} F1 to one image ({target} snow)."
            )
        one = contribution.get(f"{target}, {USUAL}, all seeds", {})
        if one:
            parts = [
                f"{difference((one.get(group) or {}).get('f1'))} on {name}"
                for group, name in (
                    ("all: all", "everything"),
                    ("wetness: dry", "dry snow"),
                    ("wetness: wet", "wet snow"),
                )
                if one.get(group) and one[group]["f1"]
            ]
            lines.append(
                f"- The current radar image adds to terrain, season, weather and reference ({target}, F1): "
                + ", ".join(parts)
                + "."
            )
    return lines


def contribution_figure(path: Path, found: dict) -> None:
    """Dots and intervals of all bands minus control (F1), by stratum, a panel a target, a colour a level."""
    colours = dict(zip(LEVELS, ("#0072B2", "#E69F00", "#CC79A7"), strict=True))
    groups = list(dict.fromkeys(group for one in found.values() for group in one))
    fig = pictures.figure(7.2, 0.24 * len(groups) + 1.4)
    fig.suptitle(
        "What the current radar image adds to terrain, season, weather and reference (simulated data, seed 0)"
    )
    panels = fig.subplots(1, 2, sharey=True)
    for axes, target in zip(panels, ("total", "wet"), strict=True):
        for shift, level in zip((-0.22, 0, 0.22), LEVELS, strict=True):
            one = found.get(f"{target}, {level}, seed 0", {})
            places = [
                k
                for k, group in enumerate(groups)
                if one.get(group) and one[group]["f1"] and one[group]["f1"]["low"] is not None
            ]
            if places:
                values = [one[groups[k]]["f1"] for k in places]
                middle = np.array([v["difference"] for v in values])
                span = np.abs(np.array([[v["low"], v["high"]] for v in values]).T - middle)
                axes.errorbar(
                    middle,
                    np.array(places) + shift,
                    xerr=span,
                    fmt="o",
                    ms=3,
                    lw=1,
                    color=colours[level],
                    label=f"weather {level}",
                )
        axes.axvline(0, color="#666666", lw=0.8)
        axes.set(title=f"target: {target} snow", xlabel="F1, all bands minus control, 95 % interval")
    panels[0].set(
        yticks=range(len(groups)), yticklabels=[g.removeprefix("all: ").replace("_", " ") for g in groups]
    )
    panels[0].invert_yaxis()
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=3, frameon=False)
    pictures.save(fig, path)


def widths(args) -> list[str]:
    """Width 16 and 64 at equal samples and at equal minutes, from the validation IoU of their logs.

    An epoch counts as long as the faster quarter of its run's epochs: the slower ones shared the cores.
    """
    lines = [
        "| bands | width | minutes of training | best val IoU, equal samples | best val IoU, equal minutes |",
        "|---|---|---|---|---|",
    ]
    for name in ("two bands", "all bands"):
        folders = {w: args.work / "nets" / net(name, USUAL, "total", w, 0)["folder"] for w in (16, 64)}
        if not all((folder / "result.json").exists() for folder in folders.values()):
            continue
        logs = {w: (f / "log.jsonl").read_text().splitlines() for w, f in folders.items()}
        logs = {w: [json.loads(line) for line in lines_] for w, lines_ in logs.items()}
        epoch_s = {w: np.percentile([record["seconds"] for record in logs[w]], 25) for w in logs}
        limit = epoch_s[16] * len(logs[16])
        for width, records in logs.items():
            seconds = epoch_s[width] * np.arange(1, len(records) + 1)
            iou = np.array([record["val"]["iou"] or 0 for record in records])
            within = iou[seconds <= limit * 1.001]
            best = f"{within.max():.3f}" if len(within) else "no epoch done"
            lines.append(f"| {name} | {width} | {seconds[-1] / 60:.1f} | {iou.max():.3f} | {best} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs/accuracy")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/accuracy")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--simulate", type=shlex.split, default=[], help="flags for simulate, as one word")
    parser.add_argument(
        "--train", type=shlex.split, default=list(TRAIN), help="flags for train_unet, as one word"
    )
    parser.add_argument(
        "--only-finished", action="store_true", help="judge the nets that are done, train none"
    )
    args = parser.parse_args()
    began, at, nets = time.time(), prepare(args), plan(args)
    if args.only_finished:
        nets = [one for one in nets if (args.work / "found" / one["folder"] / "result.json").exists()]
    done = {one["folder"]: train(args, at, one) for one in nets}
    judged = {
        (target, level): judge(args, at, nets, target, level)
        for target in ("total", "wet")
        for level in LEVELS
    }
    write(args, at, nets, done, judged, judge_labels(at), time.time() - began)
    return runs.DONE


def write(args, at, nets, done, judged, labels, seconds) -> None:
    contribution = contributions(judged)
    seeds = [(k, tally.scores()["iou"]) for one in judged.values() for k, tally in one["by_seed"].items()]
    total, wet = judged["total", USUAL], judged["wet", USUAL]
    trained = sum(one["seconds"] for one in done.values())
    commits = {
        name: json.loads((folder / "result.json").read_text())["git_commit"] for name, folder in at.items()
    }
    commits |= {"training": ", ".join(sorted({str(one["git_commit"])[:10] for one in done.values()}))}
    commits |= {"judging": str(runs.git_commit())}
    lines = [
        "# Who sees what: simulated data",
        "",
        "Simulated Sentinel-1 and -2 scenes of known truth (data_prep.simulate); **no figure here is",
        "measured on real snow**. Held out by site and by year: new places in a new winter. Nets learn total",
        "snow from the optical label (combined), and wet snow from the truth, for no optical index sees",
        "wetness; thresholds are chosen on validation labels. Weather has the errors of a reanalysis and",
        "includes the day of the pass. Water is left out: no label covers it. Scores of a net are those of",
        "its seeds' pixels together.",
        "",
        f"Command: `python bench/accuracy.py`; {trained:.0f} s of training on two cores, shared with other "
        "work, most nets two at a time with a thread each; commits: "
        + ", ".join(f"{name} {commit[:10]}" for name, commit in commits.items()) + ".",
        "",
        "## In one sentence each", "", *sentences(judged, contribution), "",
        "## Total snow, against truth", "", *table(total["tallies"]["truth"], CONTEXT["total"]), "",
        "## Total snow, the same against the optical label", "", *table(total["tallies"]["label"], ""), "",
        "## Wet snow, against truth", "", *table(wet["tallies"]["truth"], CONTEXT["wet"]), "",
    ]  # fmt: skip
    comparisons = {}
    for target, one in (("total", total), ("wet", wet)):
        tallies = one["tallies"]["truth"]
        if "U-Net all bands" not in tallies:
            continue
        comparisons[target] = {
            name: paired(tallies["U-Net all bands"], tally)
            for name, tally in tallies.items()
            if name != "U-Net all bands"
        }
        lines += [
            f"## U-Net with all bands minus each other method, {target} snow",
            "",
            "| method | F1 | IoU | balanced accuracy | MCC |",
            "|---|---|---|---|---|",
        ]
        for name, found in comparisons[target].items():
            cells = [difference(found[score]) for score in ("f1", "iou", "balanced_accuracy", "mcc")]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += ["", f"### F1 by stratum, {target} snow", "", *strata_table(tallies, "f1"), ""]
    lines += ["## What the current radar image adds: all bands minus control (F1)", ""]
    if contribution:
        groups = list(dict.fromkeys(group for one in contribution.values() for group in one))
        lines += ["| stratum | " + " | ".join(contribution) + " |", "|---|" + "---|" * len(contribution)]
        for group in groups:
            cells = [difference((one.get(group) or {}).get("f1")) for one in contribution.values()]
            lines.append(f"| {group.removeprefix('all: ')} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Weather errors (lasting K, daily K, lasting ln P, daily ln P), fixed before any net was trained: "
        + "; ".join(f"{level} {values}" for level, values in sim_weather.ERRORS.items())
        + ". One seed at exact and",
        "poor; compare levels by the columns of seed 0.",
    ]
    lines += [
        "",
        "## The optical mask's own error, all triplets, against truth",
        "",
        "| index | stratum | recall | precision | F1 | IoU | bias |",
        "|---|---|---|---|---|---|---|",
    ]
    for index, tally in labels.items():
        for group in (("all", "all"), ("surface", "open"), ("surface", "forest")):
            row = tally.scores(*group)
            cells = [
                "-" if row[s] is None else f"{row[s]:.3f}"
                for s in ("recall", "precision", "f1", "iou", "snow_area_bias")
            ]
            lines.append(f"| {index} | {group[1]} | " + " | ".join(cells) + " |")
    lines += ["", "## Width", "", *widths(args), "", "## Seeds (IoU against truth)", ""]
    lines += [f"- {key}: {'none' if iou is None else f'{iou:.4f}'}" for key, iou in seeds]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(args.out.with_suffix(".md"), "\n".join(lines) + "\n")
    figures = {
        "command": ("python bench/accuracy.py " + " ".join(sys.argv[1:])).replace(f"{ROOT}/", ""),
        "git_commit": runs.git_commit(),
        "seconds_of_this_call": seconds,
        "seconds_of_training": {name: one["seconds"] for name, one in done.items()},
        "commits": commits,
        "scores": {
            f"{target}, {level}, {against}": {name: kept(tally.table()) for name, tally in tallies.items()}
            for (target, level), one in judged.items()
            for against, tallies in one["tallies"].items()
        },
        "all_bands_minus": comparisons,
        "contribution": contribution,
        "optical_labels": {name: kept(tally.table()) for name, tally in labels.items()},
        "iou_by_seed": dict(seeds),
        "weather_errors": LEVELS,
        "versions": runs.versions(),
    }
    text = json.dumps(runs.plain(figures), ensure_ascii=False, separators=(",", ":"))
    runs.write_text(args.out.with_suffix(".json"), text + "\n")
    if contribution:
        contribution_figure(args.out.with_name(args.out.name + "_contribution.png"), contribution)
    runs.say(f"written: {args.out}.md")


if __name__ == "__main__":
    sys.exit(main())
