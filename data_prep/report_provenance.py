"""The last section of a report: which code, arguments, versions, data and licences it all comes from."""

import json
from collections import Counter
from pathlib import Path

from data_prep import report_run
from data_prep.report_blocks import in_run, missing, short, table, text
from data_prep.report_run import counted, number, part


def section(run: dict) -> dict:
    steps = run["steps"]
    rows = [
        [
            step["name"],
            step["job"] or "a job unknown here",
            "finished" if step["finished"] else "not finished",
            short(number(step["result"], "seconds")),
            short(number(step["result"], "peak_memory_mib")),
            report_run.commit_of(step) or "–",
            step["data"],
        ]
        for step in steps
    ]
    seconds = sum(number(step["result"], "seconds") or 0 for step in steps)
    commits = Counter(
        str(step["result"].get("git_commit") or "unknown") for step in steps if step["finished"]
    )
    blocks = [
        text(
            "Commit of the code: "
            + "; ".join(f"{name} ({counted(count, 'step')})" for name, count in commits.most_common(6))
            + ". A + behind it: tracked files had been changed."
        )
    ]
    columns = ["step", "job", "state", "seconds", "peak memory (MiB)", "commit", "made from"]
    blocks.append(table(f"Steps of the run; {short(seconds)} seconds together", columns, rows))
    versions = {}
    for step in steps:
        for name, version in part(step["result"], "versions").items():
            versions.setdefault(str(name), Counter())[str(version)] += 1
    cells = [[name, ", ".join(found)] for name, found in sorted(versions.items())]
    blocks.append(
        table("Versions", ["package", "version"], cells) if cells else missing("No step names its versions.")
    )
    cells = sources(run)
    blocks.append(
        table("Data, weights, and their licences", ["what", "step", "source", "licence"], cells)
        if cells
        else missing("No step says where its data come from, and under which licence.")
    )
    blocks.append(
        {
            "kind": "arguments",
            "steps": [
                {
                    "name": step["name"],
                    "job": step["job"],
                    "rows": [(key, shown(value, run)) for key, value in step["arguments"].items()][:80],
                }
                for step in steps
                if step["arguments"]
            ],
        }
    )
    problems = [*run["problems"], *(problem for step in steps for problem in step["problems"])]
    for problem in problems[:40]:
        blocks.append(missing(problem))
    if len(problems) > 40:
        blocks.append(missing(f"{len(problems) - 40} more files cannot be read."))
    return {"id": "provenance", "title": "Provenance", "blocks": blocks}


def shown(value, run: dict) -> str:
    """An argument as text, without where the run folder lies."""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return in_run(words, run)[:500]


def sources(run: dict) -> list[list]:
    """Rows of what, step, source, licence: of scenes, triplets, weather, weights, as the files say."""
    found = []
    for step in run["steps"]:
        folder, sites = Path(step["folder"]), Counter()
        if step["kind"] in ("simulate", "download", "sample"):
            for path in sorted(folder.glob("scenes/*/site.json"))[:2000]:
                about = report_run.read_json(path, step["problems"])
                sites[
                    str(about.get("source") or "not stated"), str(about.get("licence") or "not stated")
                ] += 1
        found += [
            [f"scenes of {counted(count, 'site')}", step["name"], *about]
            for about, count in sites.most_common(8)
        ]
        card = folder / "DATASET_CARD.md"
        if step["kind"] == "curate" and card.is_file() and card.stat().st_size < 1 << 20:
            lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
            said = {
                word: next(
                    (line[len(word) + 2 :] for line in lines if line.startswith(f"{word}: ")), "not stated"
                )
                for word in ("Sources", "Licences")
            }
            found.append(["triplets", step["name"], said["Sources"], said["Licences"]])
        if step["kind"] in ("simulate", "weather") and (folder / "weather.json").is_file():
            about = report_run.read_json(folder / "weather.json", step["problems"])
            found.append(
                ["weather", step["name"], about.get("source") or about.get("model"), about.get("licence")]
            )
        if step["result"].get("provenance"):
            found.append(["weights", step["name"], str(step["result"]["provenance"]), None])
        for name, model in part(step["result"], "models").items():
            if isinstance(model, dict) and model.get("provenance"):
                found.append([f"weights of {name}", step["name"], str(model["provenance"]), None])
    return found
