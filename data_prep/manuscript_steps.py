"""Which steps of a run a manuscript is about, and what its methods and variables are called in it."""

import re

from data_prep import report_run
from data_prep.climate_words import words as variable_words
from data_prep.report_run import number, of_kind, rows_of
from data_prep.report_verdicts import AGAINST, flat_scores, sizes

RESAMPLED = "95 % intervals of a bootstrap over sites, then over scenes within them."


def first(run: dict, *kinds: str, table: str = "") -> dict | None:
    """The first finished step of a kind, with rows in a table where one is named."""
    return next((s for s in of_kind(run, *kinds) if s["finished"] and (not table or rows_of(s, table))), None)


def judged(run: dict) -> tuple[dict | None, list[dict]]:
    """The first step of score_masks.py, or else of infer_unet.py, with scores, and its rows with an IoU."""
    for step in of_kind(run, "judge"):
        rows = [row for row in rows_of(step, "scores") if number(row, "iou") is not None]
        if step["finished"] and rows:
            return step, rows
    for step in of_kind(run, "score"):
        row = {"method": "unet", **flat_scores(step)} if step["finished"] else {}
        if number(row, "iou") is not None:
            return step, [row]
    return None, []


def text(value) -> str | None:
    """A word of a JSON file, None for anything else."""
    return value if isinstance(value, str) and value else None


def method_name(name) -> str:
    """What a method of a table is called: "sam-unet-box" is "SAM, U-Net box"."""
    name = str(name or "?").partition(",")[0]
    if name.startswith("sam-"):
        words = name.removeprefix("sam-").replace("-", " ").replace("unet", "U-Net").replace("otsu", "Otsu")
        return f"SAM, {words}"
    return {"unet": "U-Net", "optical": "optical masks"}.get(name, name)


def stratum_name(row: dict) -> str:
    if row.get("stratum") == "all":
        return "all pixels"
    return f"{row.get('stratum', '').replace('_', ' ')}: {row.get('class', '')}"


def treatment_name(name) -> str:
    return {"raw": "none"}.get(name, str(name or "?"))


def series_name(name) -> str:
    return "snow cover" if name == "snow" else variable_words(str(name or "?"))


def where(step: dict, row: dict) -> str:
    """ "against the truth, split test, 7 sites, 211 scenes": what scores of a step are over."""
    against = AGAINST.get(text(step["arguments"].get("against")), "optical labels")
    if step["kind"] == "sam":
        against = "the labels"
    if "wet" in (step["arguments"].get("target"), step["result"].get("target")):
        against += " of wet snow"
    split = step["result"].get("split")
    parts = [f"against {against}", f"split {split}" if split else "", sizes(row)]
    return ", ".join(part for part in parts if part)


def places(run: dict) -> tuple[dict | None, list[dict]]:
    """The split step with the most sites (or else a curated one), and its sites.

    A site: site, latitude, longitude, split, n (triplets).
    """
    best, found = None, []
    for step in of_kind(run, "split", "curate"):
        sites = {}
        for row in rows_of(step, "triplets"):
            latitude, longitude = number(row, "latitude"), number(row, "longitude")
            if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
                continue
            about = {"latitude": latitude, "longitude": longitude, "split": row.get("split") or ""}
            sites.setdefault(row.get("site") or "?", {"site": row.get("site") or "?", **about, "n": 0})[
                "n"
            ] += 1
        more = (step["kind"] == "split", len(sites)) > (
            best is not None and best["kind"] == "split",
            len(found),
        )
        if sites and (best is None or more):
            best, found = step, list(sites.values())
    return best, found


def triplets_of(run: dict, step: dict) -> dict | None:
    return report_run.triplets_step(step, {other["name"]: other for other in run["steps"]})


def layer_number(row: dict) -> float | None:
    depth = number(row, "depth")
    if depth is None and (found := re.search(r"(\d+)$", row.get("layer", ""))):
        depth = float(found[1])
    return depth
