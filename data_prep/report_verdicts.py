"""The first screen of a report: the questions, and what the run answers, with intervals, n and origin."""

from collections import Counter

from data_prep import report_run
from data_prep.report_blocks import interval, stamps
from data_prep.report_run import counted, number, of_kind, part, rows_of

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


def answer(step: dict, text: str, basis: str) -> dict:
    return {"text": text, "basis": f"{step['name']}: {basis}", "stamps": stamps(step)}


# ---- segmentation ------------------------------------------------------------------------------------------


def scores_of(row: dict, name: str) -> str:
    return interval(*(number(row, f"{name}{end}") for end in ("", "_low", "_high")))


def floor_words(row: dict) -> str:
    """What marking everything as snow would score, and whether the score's interval lies above it."""
    share, low, value = number(row, "prevalence"), number(row, "iou_low"), number(row, "iou")
    if share is None or value is None:
        return ""
    words = f" Marking all ground as snow would give IoU {share:.2f}"
    if low is None:
        return f"{words}; there are too few sites for an interval."
    return f"{words}; the interval {'lies' if low > share else 'does not lie'} above that."


def sizes(row: dict) -> str:
    """ "2 sites, 20 scenes, 1 site with snow", as far as a row of scores says."""
    names = {
        "sites": ("site", "sites"),
        "scenes": ("scene", "scenes"),
        "sites_with_snow": ("site with snow", "sites with snow"),
    }
    counts = {key: str(row.get(key)) for key in names if row.get(key) not in (None, "")}
    return ", ".join(f"{count} {names[key][count != '1']}" for key, count in counts.items())


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
    for name in [*step["upstream"], *report_run.ancestors(step, names)]:
        bands = part(names[name]["result"], "contract").get("bands")
        if names[name]["kind"] == "train" and isinstance(bands, list):
            return f"U-Net ({', '.join(map(str, bands))})"
    return "U-Net"


def target_of(step: dict, run: dict) -> str:
    """Which snow the network of a scored step was trained on, "total" or "wet"."""
    names = {other["name"]: other for other in run["steps"]}
    nets = [names[name]["arguments"].get("target") for name in step["nets"] if names[name]["kind"] == "train"]
    return "wet" if nets[:1] == ["wet"] else "total"


def segmentation(run: dict) -> list[dict]:
    answers, judged = [], set()
    for step in of_kind(run, "judge"):
        against = {"truth": "the truth", "label": "optical labels", "stations": "snow stations"}
        against = against.get(str(step["arguments"].get("against")), "what it is judged by")
        split = step["result"].get("split")
        judged |= set(step["upstream"])
        for row in rows_of(step, "scores")[:3]:
            names = {"unet": about_net(step, run), "optical": "Optical masks"}
            name = names.get(row.get("method"), f"Masks “{row.get('method')}”")
            where = f"split {split}, {sizes(row)}; {step['data']}"
            answers.append(answer(step, words_of_score(name, row, f" against {against}"), where))
    for step in of_kind(run, "score"):
        if step["name"] not in judged:
            row = flat_scores(step)
            against = " against optical labels" + " of wet snow" * (target_of(step, run) == "wet")
            where = f"split {step['result'].get('split')}, {sizes(row)}; {step['data']}"
            answers.append(answer(step, words_of_score(about_net(step, run), row, against), where))
    return answers


def words_of_score(name: str, row: dict, against: str) -> str:
    if number(row, "iou") is None:
        snow = number(row, "prevalence")
        why = "there is no snow in what is judged" if snow == 0 else "there is nothing to score"
        return f"{name}: no score{against}, {why}."
    scores = f"IoU of snow {scores_of(row, 'iou')}, balanced accuracy {scores_of(row, 'balanced_accuracy')}"
    return f"{name}: {scores}{against}.{floor_words(row)}"


def segment_anything(run: dict) -> list[dict]:
    answers = []
    for step in of_kind(run, "sam"):
        rows = [row for row in rows_of(step, "scores") if row.get("method", "").startswith("sam")]
        if step["finished"] and not any(number(row, "iou") is not None for row in rows):
            row = rows[0] if rows else {}
            basis = "; ".join(filter(None, (sizes(row), step["data"])))
            answers.append(answer(step, words_of_score("Segment Anything", row, ""), basis))
        for oracle in (False, True):
            mine = [
                row
                for row in rows
                if ("oracle" in row["method"]) == oracle and number(row, "iou") is not None
            ]
            if not mine:
                continue
            best = max(mine, key=lambda row: number(row, "iou"))
            which = "drawn from the truth (an upper bound)" if oracle else "not drawn from the truth"
            name = best["method"].partition(",")[0]
            words = f"Best of {counted(len(mine), 'prompt')} {which}: {name}, IoU {scores_of(best, 'iou')}."
            words += "" if oracle else floor_words(best) + difference(step, best["method"])
            answers.append(answer(step, words, f"{sizes(best)}; {step['data']}"))
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
    for step in of_kind(run, "probe"):
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
                found = step["result"]
                basis = f"{found.get('triplets')} triplets of {found.get('sites')} sites; {step['data']}"
            else:
                text = f"{model}: too few sites with both classes for an AUC on held-out sites."
                basis = step["data"]
            answers.append(answer(step, text, basis))
    return answers


def embeddings(run: dict) -> list[dict]:
    answers = []
    for step in of_kind(run, "embed"):
        sentence = step["result"].get("sentence")
        if isinstance(sentence, str):
            brief = sentence.partition(" (before:")[0].partition("; a linear probe")[0].rstrip(".") + "."
            found = step["result"]
            brief = unpaired(found) or brief
            basis = f"{found.get('pairs_measured')} pairs of {found.get('sites_measured')} sites"
            answers.append(answer(step, brief, f"{basis}; {found.get('judged')}; {step['data']}"))
    return answers


def unpaired(found: dict) -> str:
    """Why a SAR-RGB model that finds pairs no better than chance, either way, answers nothing; else ""."""
    if part(found, "about").get("model") != "sar-rgb":  # of the others it is no task
        return ""
    told = []
    for way, name in (("sar_to_rgb", "SAR to RGB"), ("rgb_to_sar", "RGB to SAR")):
        row = part(found, "retrieval", "raw", way)
        value, low, chance = (number(row, key) for key in ("r_at_1", "r_at_1_low", "chance_r_at_1"))
        if value is None or chance is None or (value if low is None else low) > chance:
            return ""
        told.append(f"R@1 from {name} {scores_of(row, 'r_at_1')}, chance {chance:.2f}")
    return f"Not answered: the model finds pairs no better than chance ({'; '.join(told)})."


def climate(run: dict) -> list[dict]:
    answers = []
    for step in of_kind(run, "climate"):
        rows = rows_of(step, "verdicts")
        counts = Counter(row.get("verdict") or "without a verdict" for row in rows)
        if not rows:
            continue
        result = step["result"]
        basis = (
            f"{result.get('rows')} dates and places, {result.get('sites')} sites, snow from "
            f"{result.get('source') or 'the table'}; anomalies, p corrected for all claims"
        )
        words = "; ".join(f"{count} {name}" for name, count in counts.most_common())
        answers.append(answer(step, f"Of {counted(len(rows), 'claim')}: {words}.", basis))
        supported = [row for row in rows if row.get("verdict") == "supported"]
        for row in supported[:4]:
            words = row.get("in_words") or row.get("claim", "")
            answers.append(answer(step, words[:1].upper() + words[1:], f"n = {row.get('n')}"))
        if len(supported) > 4:
            names = "; ".join(str(row.get("claim"))[:200] for row in supported[4:24])
            basis = counted(len(supported), "supported claim")
            answers.append(answer(step, f"Supported too: {names}.", basis))
    return answers
