"""The parts a report is made of, as plain dicts that its template draws: words, tables, figures, gaps."""

import math
import re
from pathlib import Path

from data_prep import report_images

MOST_ROWS = 60  # of a table on the page
MOST_STEPS = 4  # of one kind that are shown in full
MOST_TEXT = 400  # letters of a cell
SPACE = "\u00a0"  # at which a line is not broken
THIN = "\u202f"  # likewise, between thousands in an interval


def text(words: str) -> dict:
    return {"kind": "text", "text": words}


TITLES = {
    "curate": "Curation", "split": "Split", "train": "Training of the U-Net", "score": "Scores of the U-Net",
    "judge": "Methods on the same pixels", "sam": "Segment Anything", "probe": "Activations",
    "map": "Snow maps", "cover": "Snow cover", "climate": "Climate",
    "pairs": "Training of a model of pairs", "embed": "Two clouds of embeddings",
}  # fmt: skip


def heading(step: dict) -> dict:
    """The title of a step: what it is, its name, and what it was made from."""
    about = f"{step['name']}, {step['data']}"
    return {
        "kind": "heading",
        "text": TITLES.get(step["kind"], step["name"]),
        "about": about,
        "stamps": stamps(step),
    }


def in_run(words: str, run: dict) -> str:
    """A text without where the run folder lies, as far as its paths begin with that."""
    for folder in (str(run["folder"].resolve()), str(run["folder"])):
        if folder not in (".", "/"):
            words = re.sub(rf"(?<![\w./\\-]){re.escape(folder)}/", "", words)
    return words


def missing(words: str) -> dict:
    return {"kind": "missing", "text": words}


def stamps(step: dict) -> list[str]:
    """What must stand on every figure of a step."""
    taught = step["taught"] and not step["simulated"]
    found = (("simulated data", step["simulated"]), ("trained on simulated data", taught))
    found += (("random weights", step["random"]),)
    return [name for name, so in found if so]


def table(
    caption: str, columns: list[str], rows: list[list], step: dict | None = None, note="", file: str = ""
) -> dict:
    """A table; the first cell of a row is its header. Rows beyond MOST_ROWS are counted, not shown.

    file: of the step, which holds all of them.
    """
    if len(rows) > MOST_ROWS:
        where = f"; all are in {step['name']}/{file}" if step and file else ""
        note = f"The first {MOST_ROWS} of {len(rows):,} rows are shown{where}. {note}".strip()
    cells = [[cell_text(cell) for cell in row] for row in rows[:MOST_ROWS]]
    return {
        "kind": "table", "caption": caption, "columns": columns, "rows": cells, "note": note,
        "stamps": stamps(step) if step else [],
    }  # fmt: skip


def minus(words: str) -> str:
    """Hyphens before numbers as minus signs, at which a line is not broken."""
    return re.sub(r"(?<![\w.])-(?=\d)|(?<=\de)-(?=\d)", "−", words)


def cell_text(cell) -> str:
    words = minus(cell if isinstance(cell, str) else "–" if cell is None else str(cell))
    return words if len(words) <= MOST_TEXT else words[:MOST_TEXT] + "…"


def figure(step: dict, name: str, caption: str) -> dict:
    """A picture file of a step, or the block that says why it is not there."""
    path = Path(step["folder"]) / name
    if not path.is_file():
        return missing(f"{step['name']}/{name} is not there: {caption[:1].lower()}{caption[1:]}")
    try:
        picture = report_images.figure(path)
    except report_images.NoPicture as error:
        return missing(f"{step['name']}/{name} {error}.")
    return {"kind": "figure", "caption": caption, "stamps": stamps(step), **picture}


def some(steps: list[dict], blocks: list[dict]) -> list[dict]:
    """The steps that are shown in full; the others are named."""
    if len(steps) > MOST_STEPS:
        names = ", ".join(step["name"] for step in steps[MOST_STEPS:])
        blocks.append(
            missing(f"Shown are {MOST_STEPS} of {len(steps)} steps of this kind; left out: {names}.")
        )
    return steps[:MOST_STEPS]


def unfinished(step: dict) -> dict:
    return missing(
        f"{step['name']} ({step['job']}) has no result.json that can be read: not finished, or damaged."
    )


# ---- numbers -----------------------------------------------------------------------------------------------


def short(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, – for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10**digits or value == int(value):
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def interval(value, low, high, digits: int = 2) -> str:
    """Estimate and 95 % interval with as many decimals: "0.83 [0.70, 0.91]"; "0.83 (no interval)"."""
    if value is None:
        return "–"
    form = f"z.{digits}f"  # z: no sign of a zero
    if low is None or high is None:
        return f"{value:{form}} (no interval)"
    return f"{value:{form}} [{low:{form}},{SPACE}{high:{form}}]"


def general(value, low, high) -> str:
    """The same for numbers of any size, with three significant digits."""
    if value is None:
        return "–"
    value, low, high = (None if v is None else short(v).replace(",", THIN) for v in (value, low, high))
    return value + ("" if low is None or high is None else f" [{low},{SPACE}{high}]")


def p_value(value: float | None) -> str:
    return "–" if value is None else f"<{SPACE}0.001" if value < 0.001 else f"{value:.3f}"
