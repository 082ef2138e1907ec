"""A run as the parts of a paper: figures at IEEE widths, booktabs tables, methods, and a document of all.

    manuscript.write(report_run.read_run(Path("runs/default")), Path("paper"))

Writes figures as PDF and PNG (fig_*.pdf, 88.9 or 181 mm wide), one .tex a table (tab_*.tex) and a figure
(fig_*.tex), methods.tex, references.bib and manuscript.tex, which takes them in. All numbers are the run's.
"""

from pathlib import Path

from data_prep import manuscript_draw, manuscript_figures, manuscript_tables, manuscript_words, runs
from data_prep.manuscript_latex import MARK, document, figure, table

TITLE = "Snow cover from radar, and what it goes with"
OURS = ("manuscript.tex", "methods.tex", "references.bib")


def check(folder: Path) -> None:
    """BadInput where files in the folder would be lost that are not this job's own.

    A folder is its own where manuscript.tex is, which `write` marks before anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise runs.BadInput(f"{folder}: is a file; --manuscript names a folder.")
    mark = folder / "manuscript.tex"
    if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace").startswith(MARK[:36]):
        return
    theirs = next((folder / name for name in [*OURS, *parts_of()] if (folder / name).exists()), None)
    if theirs:
        raise runs.BadInput(
            f"{theirs}: not written by make_report.py; --manuscript names a new folder, or one it made."
        )


def parts_of() -> list[str]:
    """Names of all figures and tables that any run may have."""
    names = [*manuscript_figures.FIGURES, *manuscript_tables.TABLES]
    return [f"{name}{ending}" for name in names for ending in (".pdf", ".png", ".tex")]


def write(run: dict, folder: Path) -> dict:
    """Write the manuscript of report_run.read_run's answer; {"files": names, "left_out": sentences}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "manuscript.tex").exists():
        runs.write_text(folder / "manuscript.tex", f"{MARK}\n")
    parts, left_out = [], []
    for name, draw in manuscript_figures.FIGURES.items():
        try:
            drawn = draw(run)
        except manuscript_draw.Nothing as reason:
            left_out.append(f"{name}: {reason}")
            continue
        except Exception as error:  # a table of a kind nobody foresaw costs its figure, not the paper
            left_out.append(f"{name}: {cannot(error)}")
            continue
        manuscript_draw.save(drawn["figure"], folder / name)
        runs.write_text(folder / f"{name}.tex", figure(name, drawn["caption"], drawn["wide"]))
        parts += [f"{name}.pdf", f"{name}.png", f"{name}.tex"]
    for name, make in manuscript_tables.TABLES.items():
        try:
            made = make(run)
        except Exception as error:
            made = manuscript_tables.nothing(cannot(error))
        if not made["rows"]:
            left_out.append(f"{name}: {made['why']}")
            continue
        text = table(name, made["caption"], made["columns"], made["rows"], made.get("note", ""))
        runs.write_text(folder / f"{name}.tex", text)
        parts.append(f"{name}.tex")
    methods, cited, others = manuscript_words.methods(run)
    left_out += others
    runs.write_text(folder / "methods.tex", methods)
    runs.write_text(folder / "references.bib", manuscript_words.bibliography(cited))
    floats = [rf"\input{{{name}}}" for name in parts if name.endswith(".tex")]
    body = [r"\section{Methods}", r"\input{methods.tex}", r"\section{Results}", *floats]
    runs.write_text(folder / "manuscript.tex", document(TITLE, body, left_out))
    for name in set(parts_of()) - set(parts):  # of an earlier run of this folder
        (folder / name).unlink(missing_ok=True)
    return {"files": [*parts, *OURS], "left_out": left_out}


def cannot(error: Exception) -> str:
    return f"cannot be made of what the run holds ({type(error).__name__}: {str(error)[:200]})"
