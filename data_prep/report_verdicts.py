"""The first screen of a report: the questions, and what the run answers, with intervals, n and origin."""

from collections import Counter
from pathlib import Path

from data_prep import report_run, reporting, runs
from data_prep.report_blocks import interval, minus, stamps
from data_prep.report_run import counted, number, of_kind, part, rows_of

AGAINST = {"truth": "the truth", "label": "optical labels", "stations": "snow stations"}
FALLEN = "snow cover has fallen"  # of climate_analysis.py's claims the one on its question
QUESTION = "Where does radar show snow, and what does the snow cover say about the climate?"


def verdicts(run: dict) -> list[dict]:
    """Dicts of question, link (the section's id) and answers: dicts of text, basis, stamps."""
    found = [
        ("Does the network find the snow in the radar?", "segmentation", segmentation(run)),
        ("What does Segment Anything make of the radar?", "segmentation", segment_anything(run)),
        ("What do networks trained on photographs see in radar?", "activations", activations(run)),
        ("Is the SAR cloud the RGB cloud, shifted?", "embeddings", embeddings(run)),
        ("Does snow cover go with the weather, and does it change?", "climate", climate(run)),
    ]
    nothing = [{"text": "This run does not say: no finished step answers it.", "basis": "", "stamps": []}]
    return [
        {"question": question, "link": link, "answers": answers or nothing}
        for question, link, answers in found
    ]


def answer(step: dict, text: str, *basis: str) -> dict:
    in_part = "its files were read in part, see Provenance" if step["problems"] else ""
    words = "; ".join(filter(None, (*basis, in_part)))
    return {"text": minus(text), "basis": f"{step['name']}: {words}", "stamps": stamps(step)}


def finished(run: dict, *kinds: str) -> list[dict]:
    return [step for step in of_kind(run, *kinds) if step["finished"]]


def split_of(step: dict) -> str:
    split = step["result"].get("split")
    return f"split {split}" if isinstance(split, str) else ""


# ---- segmentation ------------------------------------------------------------------------------------------


def scores_of(row: dict, name: str) -> str:
    return interval(*(number(row, f"{name}{end}") for end in ("", "_low", "_high")))


def above_floor(row: dict) -> bool | None:
    """Whether IoU is more than that of marking everything as snow; None: too few sites to tell."""
    low, sites = number(row, "iou_gain_low"), number(row, "sites_with_snow")
    return None if low is None or sites is None or sites < reporting.FEWEST_SITES else low > 0


def floor_words(row: dict) -> str:
    """What marking everything as snow would score, and whether the difference on equal resamples tells."""
    share = number(row, "prevalence")
    if share is None or number(row, "iou") is None:
        return ""
    words = f" Marking all ground as snow would give IoU {share:.2f}"
    if number(row, "iou_gain") is None:
        return f"{words}."
    told = {True: "lies above 0", False: "does not lie above 0", None: "is of too few sites to tell"}
    return f"{words}; the difference {scores_of(row, 'iou_gain')} {told[above_floor(row)]}."


def sizes(row: dict) -> str:
    """ "2 sites, 20 scenes, 1 site with snow", as far as a row of scores says."""
    names = {
        "sites": ("site", "sites"),
        "scenes": ("scene", "scenes"),
        "sites_with_snow": ("site with snow", "sites with snow"),
    }
    counts = {key: count for key in names if (count := number(row, key)) is not None}
    return ", ".join(f"{count:,.0f} {names[key][count != 1]}" for key, count in counts.items())


def flat_scores(step: dict) -> dict:
    """The row "all" of a scoring of infer_unet.py, as score_masks.py has it."""
    row = next((row for row in rows_of(step, "strata") if row.get("stratum") == "all"), None)
    if row:
        return row
    limits = part(step["result"], "interval_95")
    row = dict(part(step["result"], "scores"))
    for name, value in limits.items():
        if isinstance(value, list) and len(value) == 2:
            row[f"{name}_low"], row[f"{name}_high"] = value
        elif not isinstance(value, (list, dict)):
            row.setdefault(name, value)
    return row


def about_net(step: dict, run: dict) -> str:
    """Which bands a scored net reads, where its training lies in the run."""
    names = {other["name"]: other for other in run["steps"]}
    back = [step, *(names[name] for name in report_run.ancestors(step, names))]
    for name in [*step["upstream"], *report_run.ancestors(step, names)]:
        bands = part(names[name]["result"], "contract").get("bands")
        if names[name]["kind"] == "train" and isinstance(bands, list):
            if any(trained_anew(other, names[name]) for other in back):
                return f"U-Net (of an earlier training than that in {name})"
            return f"U-Net ({', '.join(map(str, bands))})"
    return "U-Net"


def trained_anew(step: dict, train: dict) -> bool:
    """Whether a step read a checkpoint of `train` that is another one by now."""
    for path, found in step["inputs"].items():
        here = train["folder"] / Path(path).name
        if Path(path).parent.name == train["name"] and here.suffix == ".pt" and here.is_file():
            now = runs.fingerprint(here)["sha256"]
            if isinstance(found, dict) and found.get("sha256", now) != now:
                return True
    return False


def target_of(step: dict, run: dict) -> str:
    """Which snow the network of a scored step was trained on, "total" or "wet"."""
    names = {other["name"]: other for other in run["steps"]}
    nets = [names[name]["arguments"].get("target") for name in step["nets"] if names[name]["kind"] == "train"]
    return "wet" if nets[:1] == ["wet"] else "total"


def against(step: dict) -> str:
    """ " against the truth of wet snow": what a step of score_masks.py judges by."""
    name = AGAINST.get(str(step["arguments"].get("against")), "what it is judged by")
    return f" against {name}" + " of wet snow" * (step["arguments"].get("target") == "wet")


def segmentation(run: dict) -> list[dict]:
    answers, judged = [], set()
    for step in finished(run, "judge"):
        rows = rows_of(step, "scores")[:3]
        judged |= set(step["upstream"]) if rows else set()
        for row in rows:
            names = {"unet": about_net(step, run), "optical": "Optical masks"}
            name = names.get(row.get("method"), f"Masks “{row.get('method')}”")
            words = words_of_score(name, row, against(step))
            answers.append(answer(step, words, split_of(step), sizes(row), step["data"]))
    for step in finished(run, "score"):
        if step["name"] not in judged:
            row = flat_scores(step)
            labels = " against optical labels" + " of wet snow" * (target_of(step, run) == "wet")
            words = words_of_score(about_net(step, run), row, labels)
            answers.append(answer(step, words, split_of(step), sizes(row), step["data"]))
    return answers


def finds_snow(run: dict) -> bool:
    """Whether the run's own U-Net is shown to beat marking everything, by the first step that judges it."""
    rows = [row for step in finished(run, "judge") for row in rows_of(step, "scores")
            if row.get("method") == "unet"]  # fmt: skip
    row = next(iter([*rows, *map(flat_scores, finished(run, "score"))]), {})
    return bool(above_floor(row))


def words_of_score(name: str, row: dict, against: str) -> str:
    counts = {key: number(row, key) or 0 for key in ("true_snow", "false_snow", "pixels")}
    share = reporting.share_marked(counts) or 0
    everywhere = f" {100 * share:.0f} % of the ground is marked as snow." * (share >= reporting.EVERYWHERE)
    if number(row, "iou") is None:
        snow = number(row, "prevalence")
        why = "there is no snow in what is judged" if snow == 0 else "there is nothing to score"
        return f"{name}: no score{against}, {why}.{everywhere}"
    scores = f"IoU of snow {scores_of(row, 'iou')}, balanced accuracy {scores_of(row, 'balanced_accuracy')}"
    return f"{name}: {scores}{against}.{floor_words(row)}{everywhere}"


def segment_anything(run: dict) -> list[dict]:
    answers = []
    for step in finished(run, "sam"):
        rows = [row for row in rows_of(step, "scores") if row.get("method", "").startswith("sam")]
        wet = " of wet snow" * (step["result"].get("target") == "wet")
        judged_by = f"against optical labels{wet}, {split_of(step)}".removesuffix(", ")
        if not any(number(row, "iou") is not None for row in rows):
            row = rows[0] if rows else {}
            words = words_of_score("Segment Anything", row, "")
            answers.append(answer(step, words, sizes(row), judged_by, step["data"]))
        for oracle in (False, True):
            mine = [
                row
                for row in rows
                if ("oracle" in row["method"]) == oracle and number(row, "iou") is not None
            ]
            if not mine:
                continue
            best = max(mine, key=lambda row: number(row, "iou"))
            which = "drawn from the labels (an upper bound)" if oracle else "that know no label"
            name, scored = best["method"].partition(",")[0], scores_of(best, "iou")
            words = f"Best of {counted(len(mine), 'prompt')} {which}: {name}, IoU {scored}."
            words += "" if oracle else floor_words(best) + difference(step, best["method"])
            answers.append(answer(step, words, sizes(best), judged_by, step["data"]))
    return answers


def difference(step: dict, method: str) -> str:
    """U-Net minus a method on the same pixels, with its interval."""
    for row in rows_of(step, "paired"):
        if (row.get("other"), row.get("stratum"), row.get("score")) == (method, "all", "iou"):
            told = {"yes": "excludes 0", "no": "does not exclude 0"}
            limits = interval(*(number(row, name) for name in ("difference", "low", "high")))
            told = told.get(row.get("excludes_0"), "too few sites to tell")
            return f" {row.get('first')} − {method}: {limits} IoU, {told}."
    return ""


# ---- the others --------------------------------------------------------------------------------------------


def activations(run: dict) -> list[dict]:
    answers = []
    for step in finished(run, "probe"):
        looked_at = sizes_of(step, "triplets", "sites")
        for model in dict.fromkeys(row.get("model") for row in rows_of(step, "layers")):
            words = []
            for modality in ("rgb", "sar"):
                rows = [
                    row
                    for row in rows_of(step, "layers")
                    if row.get("model") == model and row.get("weights") == "given"
                ]
                held = f"held_out_auc_{modality}"
                rows = [row for row in rows if number(row, held) is not None]
                pictured = next((row for row in rows if row.get("layer") == "input"), None)
                rows = [row for row in rows if row.get("layer") != "input"]
                untrained = [
                    number(row, held)
                    for row in rows_of(step, "layers")
                    if row.get("model") == model and row.get("weights") == "random"
                ]
                untrained = [value for value in untrained if value is not None]
                if rows:
                    best = max(rows, key=lambda row: number(row, held))
                    floor = [f"the picture itself {number(pictured, held):.2f}"] if pictured else []
                    floor += [f"random weights {max(untrained):.2f}"] if untrained else []
                    which = f"layer {best.get('layer')}, best of {counted(len(rows), 'layer')}"
                    words.append(f"{modality.upper()} {scores_of(best, held)} ({'; '.join([which, *floor])})")
            if words:
                text = (
                    f"{model}: the channel that tells snow best has a held-out AUC in {', in '.join(words)}; "
                )
                text += "0.5 is chance."
            else:
                text = f"{model}: too few sites with both classes for an AUC on held-out sites."
            answers.append(answer(step, text, looked_at, f"out of {step['data']}"))
    return answers


def sizes_of(step: dict, many: str, of: str) -> str:
    """ "2 triplets of 2 sites", as far as a step's result says; the keys begin with what is counted."""
    counts = [(number(step["result"], key), key.partition("_")[0]) for key in (many, of)]
    return " of ".join(counted(count, name.removesuffix("s")) for count, name in counts if count is not None)


def embeddings(run: dict) -> list[dict]:
    answers = []
    for step in finished(run, "embed"):
        sentence = step["result"].get("sentence")
        if isinstance(sentence, str):
            brief = sentence.partition(" (before:")[0].partition("; a linear probe")[0].rstrip(".") + "."
            found = step["result"]
            brief = unpaired(found) or brief
            judged = found.get("judged") if isinstance(found.get("judged"), str) else ""
            measured = sizes_of(step, "pairs_measured", "sites_measured")
            answers.append(answer(step, brief, measured, judged, step["data"]))
    return answers


def unpaired(found: dict) -> str:
    """Why a SAR-RGB model that is not shown to find pairs, neither way, answers nothing; else ""."""
    if part(found, "about").get("model") != "sar-rgb":  # of the others it is no task
        return ""
    told = []
    for way, name in (("sar_to_rgb", "SAR to RGB"), ("rgb_to_sar", "RGB to SAR")):
        row = part(found, "retrieval", "raw", way)
        value, low, chance = (number(row, key) for key in ("r_at_1", "r_at_1_low", "chance_r_at_1"))
        if value is None or chance is None or (value if low is None else low) > chance:
            return ""
        told.append(f"R@1 from {name} {scores_of(row, 'r_at_1')}, chance {chance:.2f}")
    return f"Not answered: the model is not shown to find pairs better than chance ({'; '.join(told)})."


def climate(run: dict) -> list[dict]:
    answers = []
    for step in finished(run, "climate"):
        rows, result = rows_of(step, "verdicts"), step["result"]
        if not rows:
            continue
        counts = Counter(row.get("verdict") or "without a verdict" for row in rows)
        words = "; ".join(f"{count} {name}" for name, count in counts.most_common())
        joined, sites = number(result, "rows"), number(result, "sites")
        over = f" of {counted(sites, 'site')}" if sites is not None else ""
        places = f"{joined:,.0f} dates and places{over}" if joined is not None else ""
        granted = taken_for_granted(step)
        source = result.get("source") if isinstance(result.get("source"), str) else "the table"
        if source == "unet" and not finds_snow(run):
            source += ", whose masks are not shown to be better than marking all ground as snow"
        how = "anomalies, p corrected for all claims"
        answers.append(
            answer(step, f"Of {counted(len(rows), 'claim')}: {words}.", places, f"snow from {source}", how)
        )
        supported = [row for row in rows if row.get("verdict") == "supported"]
        for row in supported[:4]:
            answers.append(answer(step, sentence(row), f"n = {row.get('n')}{over}", *granted))
        if len(supported) > 4:
            names = "; ".join(str(row.get("claim"))[:200] for row in supported[4:24])
            basis = counted(len(supported), "supported claim")
            answers.append(answer(step, f"Supported too: {names}.", basis))
        fallen = next((row for row in rows if row.get("claim") == FALLEN), None)
        if fallen and fallen not in supported:
            answers.append(answer(step, sentence(fallen), f"n = {fallen.get('n')}{over}", *granted))
    return answers


def sentence(row: dict) -> str:
    words = row.get("in_words") or row.get("claim") or ""
    return words[:1].upper() + words[1:]


def taken_for_granted(step: dict) -> list[str]:
    """The period of a climate analysis, and what its intervals hold by."""
    days = [row["date"] for row in rows_of(step, "joined") if row.get("date")]
    said = [f"{min(days)} to {max(days)}"] if days else []
    if step["result"].get("errors") == "site":
        said.append("errors by site: the interval holds only if sites err independently")
    return said
