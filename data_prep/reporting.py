"""Scores as tables, lines for people and figures, from plain dicts as models.metrics.Tally makes them."""

from pathlib import Path

import numpy as np

from data_prep import foreign_masks
from data_prep.runs import BadInput, say, write_csv

COUNTS = ("true_snow", "missed_snow", "false_snow", "true_bare")
MAIN = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "iou", "mcc", "auprc", "snow_area_bias")
OTHERS = ("specificity", "iou_snow_free", "brier", "expected_calibration_error")
LIMITS = tuple(f"{name}{end}" for name in (*MAIN, "iou_gain") for end in ("", "_low", "_high"))
SCORES = ("pixels", "prevalence", *COUNTS, *LIMITS, *OTHERS)
SIZES = ("sites", "scenes", "sites_with_snow")
PAIRED = ("first", "other", "stratum", "class", "score", "difference", "low", "high", "excludes_0", *SIZES)
FEWEST_SITES = 6  # with such snow, to tell whether an interval leaves something out: models.metrics' rule
EVERYWHERE = 0.95  # share of the ground from which on a method is said to mark all of it
SHOWN = ("iou", "f1", "balanced_accuracy", "mcc", "auprc", "snow_area_bias")


# ---- judging -----------------------------------------------------------------------------------------------


def judge_triplet(row, reference, codes, found: dict, tallies: dict, sure) -> tuple[list[dict], dict]:
    """Count a triplet in every method's tally, on the pixels valid in all of them and in the reference.

    reference: uint8 (H, W) 0, 1, 255; codes: of its strata; found: method -> its mask (0, 1, 255; None = no
    file) and probability (NaN = none); tallies: method -> models.metrics.Tally; sure: methods whose
    probabilities count. Returns per_image.csv's rows of the methods that have a mask, and how many of the
    reference's valid pixels each method covers.
    """
    common, covered, rows = reference, {}, []
    for name, (mask, _) in found.items():
        here = np.zeros(reference.shape, bool) if mask is None else mask != 255
        covered[name] = int((here & (reference != 255)).sum())
        common = np.where(here, common, 255)
    chances = foreign_masks.in_common({name: found[name][1] for name in sure}, reference.shape)
    scene = row["s1_date"] or row["id"]
    about = {"id": row["id"], "site": row["site"], "scene": scene, "split": row["split"]}
    for name, (mask, _) in found.items():
        if mask is not None:
            scores = tallies[name].add(row["site"], scene, mask, common, codes, chances.get(name))
            rows.append({"method": name, **about, **scores})
    return rows, covered


def require_common(where, tallies: dict, covered: dict[str, int], valid: int) -> None:
    """Something must be valid in all methods and in the reference, which has `valid` valid pixels."""
    if not any(tally.groups() for tally in tallies.values()):
        each = ", ".join(f"{name} {count}" for name, count in covered.items())
        raise BadInput(
            f"{where}: no pixel is valid in all of them and in the reference; of its {valid} valid pixels "
            f"they cover: {each}. Judge them one by one."
        )


# ---- tables ------------------------------------------------------------------------------------------------


def write_tables(out: Path, tallies, coverage, title: str, seed: int, metrics) -> tuple[dict, list[dict]]:
    """Write scores.csv, strata.csv and its figure, and with several methods paired.csv; say the main ones.

    tallies: method -> Tally; metrics: the module models.metrics, for cluster_bootstrap and paired_table.
    Returns what metrics.json holds of each method (coverage, scores, interval_95), and paired.csv's rows.
    """
    first, *others = tallies
    tables = {name: tally.table(seed) for name, tally in tallies.items()}
    pairs = [
        {"first": first, "other": other, **row}
        for other in others
        for row in metrics.paired_table(tallies[first], tallies[other], seed)
    ]
    write_scores(out / "scores.csv", tables, coverage)
    write_strata(out / "strata.csv", tables)
    if others:
        write_paired(out / "paired.csv", pairs)
    write_figures(out, tables, title)
    say_table(tables, coverage, pairs)
    methods = {
        name: {
            "coverage": coverage[name],
            "scores": tally.scores(),
            "interval_95": metrics.cluster_bootstrap(tally.rows(), seed),
        }
        for name, tally in tallies.items()
    }
    return methods, pairs


def write_strata(path: Path, tables: dict[str, list[dict]]) -> None:
    """strata.csv: a row a method, stratum and class: scores, 95 % limits, numbers of sites and scenes."""
    rows = [{"method": name, **row} for name, table in tables.items() for row in table]
    write_csv(path, ("method", "stratum", "class", *SIZES, *SCORES), rows)


def write_scores(path: Path, tables: dict[str, list[dict]], coverage: dict[str, float | None]) -> None:
    """scores.csv: the "all" row of each method.

    With its coverage (share of the reference's pixels that it covers) and the share that it marks as snow.
    """
    rows = [
        {"method": name, "coverage": coverage[name], "share_marked": share_marked(table[0]), **table[0]}
        for name, table in tables.items()
    ]
    write_csv(path, ("method", "coverage", "share_marked", *SIZES, *SCORES), rows)


def share_marked(scores: dict) -> float | None:
    """Share of the pixels that a method marks as snow; None without pixels."""
    return (scores["true_snow"] + scores["false_snow"]) / scores["pixels"] if scores["pixels"] else None


def write_paired(path: Path, pairs: list[dict]) -> None:
    """paired.csv: first - other for each stratum, class and score; is 0 outside the 95 % interval?

    excludes_0 is empty where fewer than six sites hold what the score needs.
    """
    yes_no = {True: "yes", False: "no", None: ""}
    write_csv(path, PAIRED, [{**row, "excludes_0": yes_no[row["excludes_0"]]} for row in pairs])


def comparisons(pairs: list[dict]) -> dict:
    """How many differences were looked at, and how many would exclude 0 were all methods equal."""
    told = sum(row["excludes_0"] is not None for row in pairs)
    return {"primary": "all pixels, iou", "differences": told, "by_chance": round(0.05 * told, 1)}


def write_figures(out: Path, tables: dict[str, list[dict]], title: str) -> None:
    """strata.csv where any stratum was told apart, and strata.png where any of them has a score."""
    rows = [row for table in tables.values() for row in table]
    if not any(row["stratum"] != "all" for row in rows):
        return
    from data_prep import pictures

    write_strata(out / "strata.csv", tables)
    if all(row[name] is None for row in rows for name in ("iou", "balanced_accuracy")):
        say("no strata.png: no stratum has a score")
        return
    pictures.intervals(out / "strata.png", tables, title)


def as_text(value: float | None, low=None, high=None) -> str:
    if value is None:
        return "none"
    return f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def say_table(tables: dict[str, list[dict]], coverage: dict[str, float | None], pairs: list[dict]) -> None:
    """For people: each method's main scores with intervals, what marking all as snow gives, differences."""
    lines = [("method", "coverage", "share_marked", *SHOWN)]
    for name, table in tables.items():
        row = table[0]
        cells = [as_text(row[score], row[f"{score}_low"], row[f"{score}_high"]) for score in SHOWN]
        lines.append((name, as_text(coverage[name]), as_text(share_marked(row)), *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    row = next(iter(tables.values()))[0]
    say_floor(row)
    say_everywhere({name: table[0] for name, table in tables.items()})
    sites = f"{row['sites']} sites ({row['sites_with_snow']} with snow)"
    say(f"95 % intervals over {sites}, {row['scenes']} scenes; {row['pixels']} pixels")
    for pair in pairs:
        if pair["stratum"] == "all" and pair["score"] in ("iou", "balanced_accuracy", "mcc"):
            verdict = {True: "excludes 0", False: "does not exclude 0", None: "too few sites to tell"}
            limits = as_text(pair["difference"], pair["low"], pair["high"])
            say(f"{pair['first']} - {pair['other']}: {pair['score']} {limits}, {verdict[pair['excludes_0']]}")
    found = comparisons(pairs)
    if found["differences"]:
        say(
            f"the comparison to go by is {found['primary']}; of the {found['differences']} differences in "
            f"paired.csv about {found['by_chance']:g} would exclude 0 by chance"
        )


def say_floor(scores: dict) -> None:
    share = scores["prevalence"]
    if share:
        say(f"the floor, everything marked as snow: iou {share:.4f}, f1 {2 * share / (1 + share):.4f}")


def say_everywhere(scores: dict[str, dict]) -> None:
    """Name the methods whose scores are of marking nearly everything as snow."""
    shares = {name: share_marked(row) for name, row in scores.items()}
    everywhere = [name for name, share in shares.items() if share is not None and share >= EVERYWHERE]
    if everywhere:
        share = f"{100 * EVERYWHERE:.0f} % or more of the ground"
        say(f"{share} marked as snow, hardly more than that floor: {'; '.join(everywhere)}")


def best_to_worst(per_image: list[dict], count: int) -> list[tuple[dict, str]]:
    """Up to `count` rows, evenly over their rank by accuracy, each with a caption."""
    ranked = sorted((row for row in per_image if row["pixels"]), key=lambda row: -row["accuracy"])
    count, chosen = min(count, len(ranked)), []
    for place in sorted({round(k * (len(ranked) - 1) / max(1, count - 1)) for k in range(count)}):
        row = ranked[place]
        iou = "no snow to find" if row["iou"] is None else f"IoU {row['iou']:.2f}"
        chosen.append((row, f"{row['id'][:44]}\n{iou}, accuracy {row['accuracy']:.2f}"))
    return chosen
