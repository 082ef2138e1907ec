"""Gather what a run folder holds into one page, report.html, that needs no network and no server.

    python make_report.py --data runs/default --out runs/default

In: a run folder, whose steps are folders with args.json or result.json, told apart by what is in them and not
by their names. Out: report.html: the question and the verdicts with their intervals, then data, segmentation,
maps, activations, embeddings, climate, provenance. What is missing is named; random weights and simulated
data are stamped on their figures. --out may be the run folder itself: this job writes report.html, args.json
and result.json there and touches no step. --manuscript also writes the run as parts of a paper into a folder:
figures and tables at IEEE widths with captions, a methods section, manuscript.tex.
"""

import importlib.util
import os
import sys
from pathlib import Path

from data_prep import report_run, runs
from data_prep.runs import BadInput

EXTRAS = ("jinja2", "plotly")  # of requirements-extra.txt
SECTIONS = ("data", "segmentation", "maps", "activations", "embeddings", "climate", "provenance")
LARGE = 15_000_000  # bytes of a page, above which a line says so


def check(args) -> list[Path]:
    """Refuse what cannot be; returns the files that tell one state of the run folder from another."""
    lacking = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if lacking:
        pip = "python -m pip install -r requirements-extra.txt"
        raise BadInput(f"{' and '.join(lacking)} is missing; install it with {pip}.")
    if not args.data.is_dir():
        raise BadInput(f"{args.data}: no such folder; --data names a run folder, such as runs/default.")
    steps = [path for path in sorted(args.data.iterdir()) if path.is_dir() and report_run.is_step(path)]
    out = args.out.resolve()
    for path in steps:
        if path.resolve() == out and report_run.read_step(path)["kind"] != "report":
            raise BadInput(f"{args.out}: is a step of the run; --out names the run folder or a new one.")
    if args.manuscript:
        from data_prep import manuscript

        if args.manuscript.resolve() in [path.resolve() for path in steps]:
            raise BadInput(f"{args.manuscript}: is a step of the run; --manuscript names another folder.")
        manuscript.check(args.manuscript)
    return [path / name for path in steps if path.resolve() != out
            for name in ("args.json", "result.json") if (path / name).is_file()]  # fmt: skip


def sections(run: dict) -> list[dict]:
    """All sections of the page, in its order."""
    from data_prep import report_climate, report_maps, report_networks, report_provenance, report_sections

    makers = (report_sections.data, report_sections.segmentation, report_maps.section)
    makers += (report_networks.activations, report_networks.embeddings, report_climate.section)
    makers += (report_provenance.section,)
    found = []
    for make, name in zip(makers, SECTIONS, strict=True):
        try:
            found.append(make(run))
        except Exception as error:  # a file of a kind nobody foresaw costs its section, not the page
            why = f"The section could not be made ({type(error).__name__}: {str(error)[:200]})."
            block = {"kind": "missing", "text": f"{name.capitalize()}: {why}"}
            found.append({"id": name, "title": name.capitalize(), "blocks": [block]})
    return found


def get_parser():
    flags = ("--data", "--out", "--config", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *flags, data="a run folder")
    parser.add_argument(
        "--manuscript", type=Path, metavar="DIR", help="also write figures and LaTeX of a paper here"
    )
    return parser


def main(args) -> int:
    args.data = args.data.resolve()  # one folder, whatever it is called
    inputs = check(args)
    args.run_folder = os.path.relpath(args.data, args.out)  # by which a report's own result.json is known
    run = runs.Run(args, inputs)
    if run.finished():
        return runs.DONE
    found = report_run.read_run(args.data)
    if args.dry_run:
        runs.say(
            f"{args.data}: {report_run.counted(len(found['steps']), 'step')}: "
            f"{', '.join(step['name'] for step in found['steps'])}"
        )
        return runs.DONE
    from data_prep import report_page, report_verdicts

    run.begin("report.html")
    parts = sections(found)
    page = report_page.render(found["name"], report_verdicts.verdicts(found), parts)
    runs.write_text(args.out / "report.html", page)
    size = len(page.encode())
    absent = [block["text"] for part in parts for block in part["blocks"] if block["kind"] == "missing"]
    counts = (report_run.counted(len(found["steps"]), "step"), report_run.counted(len(absent), "part"))
    about = f"{size / 1e6:.1f} MB, {counts[0]}, {counts[1]} missing"
    runs.say(f"{args.out / 'report.html'}: {about}")
    if size > LARGE:
        runs.say("that is large for a page to send around; runs with fewer steps give smaller ones")
    figures = {}
    if args.manuscript:
        from data_prep import manuscript

        figures["manuscript"] = manuscript.write(found, args.manuscript)
        runs.say(f"{args.manuscript / 'manuscript.tex'}: {len(figures['manuscript']['files'])} files")
    names = [step["name"] for step in found["steps"]]
    return run.finish(page="report.html", bytes=size, steps=names, missing=absent, **figures)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
