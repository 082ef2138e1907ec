"""Tables of a manuscript from a run's tables: captions with n and kind of interval, columns, rows."""

from data_prep.manuscript_latex import caption_of, numbers, whole
from data_prep.manuscript_steps import (
    RESAMPLED,
    first,
    judged,
    method_name,
    series_name,
    stratum_name,
    text,
    treatment_name,
    where,
)
from data_prep.report_blocks import general, interval, p_value, short
from data_prep.report_run import number, part, rows_of
from data_prep.report_verdicts import scores_of

SCORES = {"iou": "IoU of snow", "f1": "F1", "balanced_accuracy": "Bal. accuracy", "mcc": "MCC",
          "auprc": "AUPRC", "snow_area_bias": "Area bias"}  # fmt: skip
DEFAULT_P = "p: corrected for all tests made."


def nothing(why: str) -> dict:
    return {"rows": [], "why": why}


def limits(row: dict, name: str, low: str, high: str):
    return numbers(general(number(row, name), number(row, low), number(row, high)))


def p_of(row: dict):
    return numbers(p_value(number(row, "p_corrected")))


def split(run: dict) -> dict:
    step = first(run, "split")
    balance = part(step["result"], "balance") if step else {}
    rows = [
        [name, *(whole(row.get(key)) for key in ("triplets", "sites", "tiles_with_snow")),
         short(number(row, "snow_share"))]
        for name, row in balance.items() if isinstance(row, dict)
    ]  # fmt: skip
    if not rows:
        return nothing("no finished step of data_prep.split")
    total = [sum(number(row, key) or 0 for row in balance.values()) for key in ("triplets", "sites")]
    words = f"Splits by {step['result'].get('by')}, {whole(total[0])} triplets in all."
    if step["result"].get("shares_ground") is False:
        words += " No piece of ground is in two splits."
    columns = ["Split", "Triplets", "Sites", "With snow", "Snow share of pixels"]
    return {"caption": caption_of(words, step), "columns": columns, "rows": rows}


def score_table(step: dict, rows: list[dict], title: str) -> dict:
    cells = [
        [method_name(row.get("method")), *(numbers(scores_of(row, name)) for name in SCORES),
         short(number(row, "coverage"))]
        for row in rows
    ]  # fmt: skip
    share = number(rows[0], "prevalence")
    if share:
        floor = (share, 2 * share / (1 + share), 0.5, None, share, 1 - share)
        words = [numbers(f"{value:.2f}") if value is not None else None for value in floor]
        cells.append(["all marked as snow", *words, "1"])
    words = f"{title} {where(step, rows[0])}. Brackets: {RESAMPLED}"
    note = "Area bias: snow area mapped in excess, as a share of the ground. "
    note += "Coverage: share of the reference's pixels that a method maps."
    columns = ["Method", *SCORES.values(), "Coverage"]
    return {"caption": caption_of(words, step), "columns": columns, "rows": cells, "note": note}


def scores(run: dict) -> dict:
    step, rows = judged(run)
    if not rows:
        return nothing("no finished step of score_masks.py or infer_unet.py has a score")
    return score_table(step, rows, "Scores of snow masks")


def sam(run: dict) -> dict:
    step = first(run, "sam", table="scores")
    rows = [r for r in rows_of(step, "scores") if number(r, "iou") is not None]
    if not rows:
        return nothing("no finished step of run_sam.py has a score")
    made = score_table(
        step, rows, "Scores of Segment Anything by prompt, and of the U-Net on the same pixels,"
    )
    made["note"] += " Oracle prompts are drawn from the reference: upper bounds, not results."
    return made


def paired(run: dict) -> dict:
    cells, steps = [], []
    for step in (first(run, "judge", table="paired"), first(run, "sam", table="paired")):
        found = {}
        for row in rows_of(step, "paired"):
            if row.get("stratum") == "all" and row.get("score") in ("iou", "balanced_accuracy"):
                found.setdefault((row.get("first"), row.get("other")), {})[row["score"]] = row
        for (one, other), by_score in found.items():
            row = by_score.get("iou", {})
            told = {"yes": "yes", "no": "no"}.get(row.get("excludes_0"), "too few sites")
            both = [
                numbers(
                    interval(*(number(by_score.get(name, {}), key) for key in ("difference", "low", "high")))
                )
                for name in ("iou", "balanced_accuracy")
            ]
            about = f"{row.get('sites') or '?'}/{row.get('scenes') or '?'}"
            cells.append([f"{method_name(one)} − {method_name(other)}", *both, told, about])
        if found:
            steps.append(step)
    if not cells:
        return nothing("no paired.csv compares two methods")
    words = "Paired differences of scores, on the same pixels and resamples, all pixels. "
    words += f"Brackets: {RESAMPLED} The comparison to go by is IoU."
    columns = ["Difference", "IoU of snow", "Bal. accuracy", "IoU excludes 0", "Sites/scenes"]
    return {"caption": caption_of(words, *steps), "columns": columns, "rows": cells}


def strata(run: dict) -> dict:
    step, rows = judged(run)
    found, methods = {}, []
    for row in rows_of(step, "strata"):
        if number(row, "iou") is not None:
            found.setdefault((row.get("stratum"), row.get("class")), {})[row.get("method")] = row
            methods += [row.get("method")] if row.get("method") not in methods else []
    if len(found) < 2:
        return nothing("no strata.csv of a judged step tells strata apart")
    methods = methods[:3]
    cells = []
    for by_method in found.values():
        row = next(iter(by_method.values()))
        about = [row.get(key) or None for key in ("sites", "sites_with_snow", "scenes")]
        cells.append([stratum_name(row), *about, short(number(row, "prevalence")),
                      *(numbers(scores_of(by_method.get(name, {}), "iou")) for name in methods)])  # fmt: skip
    words = f"IoU of snow by stratum, {where(step, rows[0])}. Brackets: {RESAMPLED}"
    columns = ["Stratum", "Sites", "With snow", "Scenes", "Snow share"]
    columns += [method_name(name) for name in methods]
    return {"caption": caption_of(words, step), "columns": columns, "rows": cells}


def gap(run: dict) -> dict:
    step = first(run, "embed", table="modality_gap")
    keys = ("unexplained", "probe", "sar_to_rgb_r_at_1", "rgb_to_sar_r_at_1")
    cells = [
        [
            row.get("comparison"),
            treatment_name(row.get("treatment")),
            *(numbers(scores_of(row, k)) for k in keys),
        ]
        for row in rows_of(step, "modality_gap")
    ]
    if not cells:
        return nothing("no finished step of embed_tsne.py")
    pairs, sites = (whole(step["result"].get(key)) for key in ("pairs_measured", "sites_measured"))
    words = f"The modality gap on {pairs} pairs of {sites} sites, "
    words += f"{step['result'].get('judged') or 'one date each'}. "
    words += "Brackets: 95 % intervals over sites."
    note = (
        "Left: squared distance of pairs over that of strangers. Probe: accuracy of a linear probe for the "
    )
    note += "modality, 0.5 cannot tell them apart. R@1: share of queries whose pair is nearest."
    columns = ["Comparison", "Correction", "Left", "Probe", "R@1 SAR to RGB", "R@1 RGB to SAR"]
    return {"caption": caption_of(words, step), "columns": columns, "rows": cells, "note": note}


def climate_words(step: dict, title: str) -> str:
    result = step["result"]
    count, sites = whole(result.get("rows")), whole(result.get("sites"))
    source = {"unet": "U-Net masks"}.get(text(result.get("source")), text(result.get("source")))
    words = f"{title}, {count} dates and places, {sites} sites"
    return words + (f", snow from {source}." if source else ".")


def verdicts(run: dict) -> dict:
    step = first(run, "climate", table="verdicts")
    cells = [
        [row.get("claim"), row.get("verdict"), limits(row, "estimate", "low", "high"), row.get("unit"),
         numbers(p_value(number(row, "p"))), numbers(short(number(row, "smallest"))), row.get("n")]
        for row in rows_of(step, "verdicts")
    ]  # fmt: skip
    if not cells:
        return nothing("no finished step of climate_analysis.py has verdicts")
    words = climate_words(step, "What was claimed of snow and climate, and the verdicts")
    words += " Brackets: 95 % intervals. p: corrected for all claims. Smallest: effect that would show."
    columns = ["Claim", "Verdict", "Estimate", "Unit", "p", "Smallest", "n"]
    return {"caption": caption_of(words, step), "columns": columns, "rows": cells}


def associations(run: dict) -> dict:
    step = first(run, "climate", table="associations")
    found = {}
    for row in rows_of(step, "associations"):
        if row.get("row", "row") == "row":
            found.setdefault(row.get("variable"), {})[row.get("treatment")] = row
    cells = []
    for name, by in found.items():
        raw, rest = by.get("raw", {}), by.get("deseasonalised", {})
        row = rest or raw
        cells.append([series_name(name), limits(raw, "r", "r_low", "r_high"),
                      limits(rest, "r", "r_low", "r_high"),
                      limits(rest, "slope", "slope_low", "slope_high"), row.get("unit"), p_of(rest),
                      row.get("n")])  # fmt: skip
    if not cells:
        return nothing("no finished step of climate_analysis.py has associations")
    words = climate_words(step, "Association of snow cover with weather")
    words += f" Brackets: 95 % intervals, errors by {step['result'].get('errors') or '?'}. {DEFAULT_P}"
    columns = ["Weather", "r, raw", "r, deseasonalised", "Slope, deseasonalised", "Unit", "p", "n"]
    return {"caption": caption_of(words, step), "columns": columns, "rows": cells}


def trends(run: dict) -> dict:
    step = first(run, "climate")
    rows = [
        ("snow", row) for row in rows_of(step, "seasonal") if row.get("default") == "True"
    ] + [(row.get("series"), row) for row in rows_of(step, "trends")
        if row.get("default") == "True"]  # fmt: skip
    cells = [
        [series_name(name), row.get("season"), row.get("years"),
         limits(row, "slope", "slope_low", "slope_high") if number(row, "slope") is not None
         else row.get("why_not") or None,
         row.get("unit"), p_of(row), numbers(short(number(row, "detectable")))]
        for name, row in rows
    ]  # fmt: skip
    if not cells:
        return nothing("no finished step of climate_analysis.py has trends")
    words = climate_words(step, f"Trends by {rows[0][1].get('method') or 'the default method'}")
    words += f" Brackets: 95 % intervals. {DEFAULT_P} Detectable: slope that would show with 80 % power."
    columns = ["Series", "Season", "Years", "Slope", "Unit", "p", "Detectable"]
    return {"caption": caption_of(words, step), "columns": columns, "rows": cells}


def regression(run: dict) -> dict:
    step = first(run, "climate", table="regression")
    cells = [
        [series_name(row.get("name")), limits(row, "coefficient", "low", "high"), row.get("unit"), p_of(row),
         *(numbers(short(number(row, key))) for key in ("standardised", "partial_r2", "vif"))]
        for row in rows_of(step, "regression") if row.get("default") == "True"
    ]  # fmt: skip
    if not cells:
        return nothing("no finished step of climate_analysis.py has a regression")
    model = part(step["result"], "regression")
    about = [
        ("R²", number(model, "r2")),
        ("on years left out", number(part(model, "leave_one_year_out"), "r2")),
    ]
    told = ", ".join(f"{name} {short(value)}" for name, value in about if value is not None)
    words = (
        f"Regression of deseasonalised snow cover on all predictors, {told}, n = {whole(model.get('n'))}. "
    )
    words += f"Brackets: 95 % intervals, errors by {model.get('errors') or '?'}. {DEFAULT_P}"
    columns = ["Predictor", "Coefficient", "Unit", "p", "Standardised", "Partial R²", "VIF"]
    return {"caption": caption_of(words, step), "columns": columns, "rows": cells}


TABLES = {
    "tab_split": split, "tab_scores": scores, "tab_paired": paired, "tab_strata": strata, "tab_sam": sam,
    "tab_gap": gap, "tab_verdicts": verdicts, "tab_associations": associations, "tab_trends": trends,
    "tab_regression": regression,
}  # fmt: skip
