"""Scores as tables, lines for people and figures, from plain dicts as models.metrics.Tally makes them."""

from pathlib import Path

from data_prep.runs import say, write_csv

COUNTS = ("true_snow", "missed_snow", "false_snow", "true_bare")
MAIN = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "iou", "mcc", "auprc", "snow_area_bias")
OTHERS = ("specificity", "iou_snow_free", "brier", "expected_calibration_error")
LIMITS = tuple(f"{name}{end}" for name in MAIN for end in ("", "_low", "_high"))
SCORES = ("pixels", "prevalence", *COUNTS, *LIMITS, *OTHERS)
SIZES = ("sites", "scenes", "sites_with_snow")
PAIRED = ("first", "other", "stratum", "class", "score", "difference", "low", "high", "excludes_0", *SIZES)
SHOWN = ("iou", "f1", "balanced_accuracy", "mcc", "auprc", "snow_area_bias")


def write_strata(path: Path, tables: dict[str, list[dict]]) -> None:
    """strata.csv: a row a method, stratum and class: scores, 95 % limits, numbers of sites and scenes."""
    rows = [{"method": name, **row} for name, table in tables.items() for row in table]
    write_csv(path, ("method", "stratum", "class", *SIZES, *SCORES), rows)


def write_scores(path: Path, tables: dict[str, list[dict]], coverage: dict[str, float | None]) -> None:
    """scores.csv: the "all" row of each method with its coverage (share of reference pixels it covers)."""
    rows = [{"method": name, "coverage": coverage[name], **table[0]} for name, table in tables.items()]
    write_csv(path, ("method", "coverage", *SIZES, *SCORES), rows)


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


def write_figures(out: Path, tables: dict[str, list[dict]], title: str) -> bool:
    """strata.csv and strata.png where any stratum was told apart; says whether there was one."""
    if not any(row["stratum"] != "all" for table in tables.values() for row in table):
        return False
    from data_prep import pictures

    write_strata(out / "strata.csv", tables)
    pictures.intervals(out / "strata.png", tables, title)
    return True


def as_text(value: float | None, low=None, high=None) -> str:
    if value is None:
        return "none"
    return f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def say_table(tables: dict[str, list[dict]], coverage: dict[str, float | None], pairs: list[dict]) -> None:
    """For people: each method's main scores with intervals, what marking all as snow gives, differences."""
    lines = [("method", "coverage", *SHOWN)]
    for name, table in tables.items():
        row = table[0]
        cells = [as_text(row[score], row[f"{score}_low"], row[f"{score}_high"]) for score in SHOWN]
        lines.append((name, as_text(coverage[name]), *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    row = next(iter(tables.values()))[0]
    say_floor(row)
    sites = f"{row['sites']} sites ({row['sites_with_snow']} with snow)"
    say(f"95 % intervals over {sites}, {row['scenes']} scenes; {row['pixels']} pixels")
    for pair in pairs:
        if pair["stratum"] == "all" and pair["score"] in ("iou", "balanced_accuracy", "mcc"):
            verdict = {True: "excludes 0", False: "does not exclude 0", None: "too few sites to tell"}
            limits = as_text(pair["difference"], pair["low"], pair["high"])
            say(f"{pair['first']} - {pair['other']}: {pair['score']} {limits}, {verdict[pair['excludes_0']]}")
    if pairs:
        found = comparisons(pairs)
        say(
            f"the comparison to go by is {found['primary']}; of the {found['differences']} differences in "
            f"paired.csv about {found['by_chance']:g} would exclude 0 by chance"
        )


def say_floor(scores: dict) -> None:
    share = scores["prevalence"]
    if share:
        say(f"the floor, everything marked as snow: iou {share:.4f}, f1 {2 * share / (1 + share):.4f}")


def best_to_worst(per_image: list[dict], count: int) -> list[tuple[dict, str]]:
    """Up to `count` rows, evenly over their rank by accuracy, each with a caption."""
    ranked = sorted((row for row in per_image if row["pixels"]), key=lambda row: -row["accuracy"])
    count, chosen = min(count, len(ranked)), []
    for place in sorted({round(k * (len(ranked) - 1) / max(1, count - 1)) for k in range(count)}):
        row = ranked[place]
        iou = "none" if row["iou"] is None else f"{row['iou']:.2f}"
        chosen.append((row, f"{row['id'][:44]}\nIoU {iou}, accuracy {row['accuracy']:.2f}"))
    return chosen
