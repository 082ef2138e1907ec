"""Figures of the modality gap as JSON, as a table of numbers, and as a table for people."""

from pathlib import Path

from data_prep import runs

WAYS = ("rgb_to_sar", "sar_to_rgb")
COMPARISONS = {  # of modality_gap.json: what is held against what
    "model": "RGB against SAR",
    "shuffled": "RGB against SAR, pairs shuffled",
    "moved": "RGB against the same RGB, moved 8 pixels",
    "random": "RGB against SAR, random weights",
}
SHOWN = ("comparison", "SAR moved by", "left of the distance", "taken from it", "probe",
         "neighbours of its kind", "R@1 SAR to RGB", "R@1 RGB to SAR", "R@5 SAR to RGB", "R@5 RGB to SAR",
         "median rank SAR to RGB", "median rank RGB to SAR")  # fmt: skip


def comparisons(found: dict) -> dict[str, dict]:
    """{key of COMPARISONS: figures}: those measured, and the shuffled pairs inside the model's."""
    whole = {"model": found["model"], "shuffled": found["model"]["shuffled"]}
    return whole | {name: found[name] for name in ("moved", "random") if found.get(name)}


def rows_of(found: dict, treatments) -> list[dict]:
    """A row a comparison and treatment, all figures flat: gap_norm, cosines_paired, rgb_to_sar_r_at_1, ..."""
    rows = []
    for name, figures in comparisons(found).items():
        common = {}
        for key, value in figures.items():
            if key not in treatments and key != "shuffled":
                common |= flat(key, value)
        for treatment in treatments:
            row = {"comparison": COMPARISONS[name], "treatment": treatment, **common}
            for key, value in figures[treatment].items():
                row |= flat(key, value)
            rows.append(row)
    return rows


def flat(key: str, value) -> dict:
    if not isinstance(value, dict):
        return {key: value}
    return {name: one for part, inner in value.items() for name, one in flat(f"{key}_{part}", inner).items()}


def as_text(row: dict, key: str, form: str = ".3f") -> str:
    """A figure with its interval, "-" where there is none."""
    value, low, high = (row.get(key + end) for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return f"{value:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def markdown(rows: list[dict], heading: list[str]) -> str:
    """Lines of text, then the main figures as a table of Markdown."""
    lines = [*heading, "", "| " + " | ".join(SHOWN) + " |", "|" + "---|" * len(SHOWN)]
    for row in rows:
        cells = [row["comparison"], {"raw": "nothing"}.get(row["treatment"], row["treatment"])]
        cells += [as_text(row, key) for key in ("unexplained", "taken", "probe", "neighbours")]
        cells += [as_text(row, f"{way}_r_at_{k}") for k in (1, 5) for way in reversed(WAYS)]
        cells += [as_text(row, f"{way}_median_rank", ".1f") for way in reversed(WAYS)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(out: Path, found: dict, treatments, heading: list[str]) -> list[dict]:
    """modality_gap.json, .csv and .md in `out`; returns the rows."""
    rows = rows_of(found, treatments)
    runs.write_json(out / "modality_gap.json", found)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    runs.write_csv(out / "modality_gap.csv", columns, rows)
    runs.write_text(out / "modality_gap.md", markdown(rows, heading))
    return rows
