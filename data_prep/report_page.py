"""A report as one HTML file that loads nothing: its template filled, its policy made from its own scripts.

Needs jinja2 and plotly. Texts are escaped by the template; data of interactive figures stand as JSON without
"<" in scripts that are not run. Scripts run by their hash alone, so that none can come from a file's name.
"""

import base64
import gzip
import hashlib
from pathlib import Path

from data_prep import embedding_page, pictures, report_verdicts, runs

HERE = Path(__file__).parent
VIEWS = ("chips", "pairs", "series")  # blocks that a script draws


def number(sections: list[dict]) -> None:
    """Number figures and tables through the whole page."""
    counts = {"Figure": 0, "Table": 0}
    for section in sections:
        for block in section["blocks"]:
            kind = {"table": "Table", "funnel": "Table"}.get(block["kind"])
            kind = "Figure" if block["kind"] in ("figure", "map", "gallery", *VIEWS) else kind
            if kind:
                counts[kind] += 1
                block["number"] = counts[kind]


def sha256(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def render(name: str, verdicts: list[dict], sections: list[dict]) -> str:
    """The page. name: of the run; verdicts: of report_verdicts; sections: dicts of id, title and blocks."""
    import jinja2
    from markupsafe import Markup

    number(sections)
    blocks = [block for section in sections for block in section["blocks"]]
    script = (HERE / "report.js").read_text(encoding="utf-8")
    style = (HERE / "report.css").read_text(encoding="utf-8")
    scripts, plotly = [], ""
    if any(block["kind"] in ("pairs", "series") for block in blocks):
        from plotly.offline import get_plotlyjs

        source = get_plotlyjs()
        scripts.append(source)
        plotly = base64.b64encode(gzip.compress(source.encode(), 9, mtime=0)).decode()
        script, style = embedding_page.SCRIPT + script, style + embedding_page.STYLE
    scripts.append(script)
    policy = (
        "default-src 'none'; script-src "
        + " ".join(map(sha256, scripts))
        + "; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    for block in blocks:
        if block["kind"] in VIEWS:
            block["json"] = Markup(embedding_page.in_script(block["data"]))
    stamps = {stamp for block in blocks for stamp in block.get("stamps", ())}
    note = {
        "simulated data": "“Simulated data”: the scenes are drawn by this project, and no measurement.",
        "trained on simulated data": "“Trained on simulated data”: the network learned from drawn scenes; "
        "nothing in the run says that what it looked at is drawn, too.",
        "random weights": "“Random weights”: the network was not trained; such figures check the plumbing.",
    }
    errors = {"snow missed": pictures.MISSED_SNOW, "marked, no snow": pictures.FALSE_SNOW}
    key = {"chips": {**pictures.MASK_KEY, **errors}, "gallery": pictures.MASK_KEY}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        name=name, question=report_verdicts.QUESTION, verdicts=verdicts, sections=sections, policy=policy,
        style=Markup(style), script=Markup(script), plotly=Markup(plotly), keys=key,
        stamp_note=" ".join(words for stamp, words in note.items() if stamp in stamps),
        commit=(runs.git_commit() or "unknown")[:13],
    )  # fmt: skip
    return page.encode("utf-8", "replace").decode()  # half characters of broken names
