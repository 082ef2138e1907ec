"""What a run folder holds, as plain dicts: each step's job, arguments, results, tables. Standard library.

A step is a folder with args.json or result.json in the run folder. Which job wrote it is told from its
arguments, not from its name. Steps are found by looking; a path that a file
says is only compared with them.
"""

import csv
import filecmp
import json
import math
import re
from collections import Counter
from itertools import islice
from pathlib import Path

from data_prep.runs import BadInput, counted

# What each kind of step is, the arguments that no other job has, and the tables that are read of it.
KINDS = {
    "simulate": ("python -m data_prep.simulate", {"lapse_k_per_km", "tracks"}, ()),
    "download": ("python -m data_prep.download", {"catalog", "max_cloud_percent"}, ()),
    "sample": ("python -m data_prep.sample", {"wheel"}, ()),
    "weather": ("python -m data_prep.weather", {"imports", "timezone"}, ()),
    "curate": ("python -m data_prep.curate", {"max_gap_hours", "max_cloud_share"}, ("triplets", "rejected")),
    "split": ("python -m data_prep.split", {"block_m", "fractions"}, ("triplets", "split")),
    "train": ("train_unet.py", {"snow_weight", "loss"}, ()),
    "infer": ("infer_unet.py", {"elevation_step_m", "tile", "weights"},
              ("per_image", "strata", "snow_cover")),
    "judge": ("score_masks.py", {"against", "masks"}, ("scores", "paired", "strata")),
    "cover": ("python -m data_prep.snow_cover", {"elevation_step_m", "tables"}, ("snow_cover",)),
    "climate": ("climate_analysis.py", {"snow_season_fraction", "response_scale"},
                ("verdicts", "joined", "monthly", "trends", "seasonal", "associations", "regression",
                 "snow_season", "gaps", "vif")),
    "sam": ("run_sam.py", {"grid_points", "prompts"}, ("scores", "paired", "strata")),
    "probe": ("probe_activations.py", {"attention_layer", "cam_class"}, ("layers",)),
    "pairs": ("train_sar_rgb.py", {"sar_encoder", "rgb_encoder"}, ()),
    "embed": ("embed_tsne.py", {"perplexity", "points"}, ("modality_gap",)),
    "onnx": ("export_onnx.py", {"weights"}, ()),
    "cover_export": ("python -m data_prep.export_cover", {"data", "sites"}, ()),
    "report": ("make_report.py", {"run_folder"}, ()),
}  # fmt: skip
MAX_STEPS = 60
MAX_ROWS = 20_000  # of a table that are read; the others are counted
MAX_BYTES = 64 << 20  # of a JSON file; a table's rows beyond four times as much are not even counted
SIMULATED = "simulated"
NETS = ("weights", "init", "unet")  # arguments that name what was trained, not what is looked at


def read_run(folder: Path) -> dict:
    """All steps of a run folder, in the order of their numbers.

    Returns {"folder", "name", "steps", "problems"}. A step: name, number (None without one), kind (a key of
    KINDS, or "" for what no job of KINDS wrote), job (how it is started), folder, finished, arguments,
    inputs, result ({} without one), tables {name: {"columns", "rows" (dicts of text), "total"}}, upstream
    (names of the steps it read, "read" of them as data, "nets" for their weights), simulated (its data),
    taught (its networks saw simulated data), random, data (what it was made from, in words), problems
    (sentences on files that cannot be read). BadInput: not a run folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; --data names a run folder, such as runs/default.")
    problems, steps = [], []
    found = [path for path in folder.iterdir() if path.is_dir() and is_step(path)]
    found.sort(key=lambda path: (number_of(path.name) is None, number_of(path.name) or 0, path.name))
    if len(found) > MAX_STEPS:
        problems.append(f"{len(found)} steps, of which the first {MAX_STEPS} are shown.")
    for path in found[:MAX_STEPS]:
        step = read_step(path)
        if step["kind"] != "report":
            steps.append(step)
    if not steps:
        if is_step(folder) and kind_of(read_step(folder)["arguments"]) not in ("", "report"):
            raise BadInput(f"{folder}: is one step of a run; --data names the folder that holds the steps.")
        raise BadInput(
            f"{folder}: no run: no folder in it holds an args.json or result.json; "
            "make one with OUT=runs/mine ./runbook.sh."
        )
    link(steps, {folder.name, folder.resolve().name})
    return {"folder": folder, "name": folder.resolve().name, "steps": steps, "problems": problems}


def is_step(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("args.json", "result.json"))


def number_of(name: str) -> int | None:
    found = re.match(r"(\d{1,6})_", name)
    return int(found[1]) if found else None


def of_kind(run: dict, *kinds: str) -> list[dict]:
    return [step for step in run["steps"] if step["kind"] in kinds]


# ---- a step ------------------------------------------------------------------------------------------------


def read_step(folder: Path) -> dict:
    problems = []
    result = read_json(folder / "result.json", problems) if (folder / "result.json").is_file() else {}
    begun = read_json(folder / "args.json", problems) if (folder / "args.json").is_file() else {}
    arguments = next((d["arguments"] for d in (result, begun) if isinstance(d.get("arguments"), dict)), {})
    inputs = next((d["inputs"] for d in (result, begun) if isinstance(d.get("inputs"), dict)), {})
    kind = kind_of(arguments)
    tables = {}
    for name in KINDS[kind][2] if kind else ():
        if (folder / f"{name}.csv").is_file():
            tables[name] = read_table(folder / f"{name}.csv", problems)
    check_counts(tables, kind, result, folder.name, problems)
    if kind == "infer":
        kind = "map" if "scenes" in result or "by_scene" in result or "scores" not in result else "score"
    return {
        "name": folder.name, "number": number_of(folder.name), "kind": kind, "folder": folder,
        "job": KINDS["infer" if kind in ("map", "score") else kind][0] if kind else "",
        "finished": bool(result), "arguments": arguments, "inputs": inputs, "result": result,
        "tables": tables, "upstream": [], "read": [], "nets": [], "simulated": False, "taught": False,
        "random": False, "data": "",
        "problems": problems,
    }  # fmt: skip


def kind_of(arguments: dict) -> str:
    return next((kind for kind, (_, flags, _) in KINDS.items() if flags <= set(arguments)), "")


def read_json(path: Path, problems: list[str]) -> dict:
    """The object in a JSON file, {} where it cannot be read; the reason goes to `problems`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except (OSError, ValueError, RecursionError) as error:
        problems.append(
            f"{path.parent.name}/{path.name} cannot be read ({' '.join(str(error).split())[:200]})."
        )
        return {}


def read_table(path: Path, problems: list[str]) -> dict:
    """{"columns", "rows", "total"} of a CSV file: its first MAX_ROWS rows; total None: not counted."""
    table = {"columns": [], "rows": [], "total": 0}
    try:
        whole = path.stat().st_size <= 4 * MAX_BYTES
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restkey="")
            table["columns"] = [name for name in reader.fieldnames or () if name]
            for row in islice(reader, MAX_ROWS):
                if None in row.values():
                    raise ValueError(f"line {reader.line_num} has too few fields")
                table["rows"].append({name: row[name] for name in table["columns"]})
            rest = sum(1 for _ in reader.reader) if whole else 0
        if table["rows"] and not rest and not ends_in_newline(path):  # cut off in its last field, maybe
            table["rows"].pop()
            raise ValueError("its last line has no end")
        table["total"] = len(table["rows"]) + rest
        if not whole and len(table["rows"]) == MAX_ROWS:
            table["total"] = None
        if rest or not whole:
            count = f"{table['total']:,}" if table["total"] else "more"
            problems.append(
                f"{path.parent.name}/{path.name}: the first {MAX_ROWS:,} of {count} rows are read."
            )
    except (OSError, ValueError, csv.Error) as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read to its end ({str(error)[:200]}).")
        table["total"] = len(table["rows"])
    return table


def ends_in_newline(path: Path) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) in b"\r\n"


def check_counts(tables: dict, kind: str, result: dict, name: str, problems: list[str]) -> None:
    """A sentence on a table that holds fewer rows than its step's result tells of: it was cut at a line."""
    counts = {
        "curate": ("triplets", number(result, "kept")),
        "split": ("triplets", sum(number(row, "triplets") or 0 for row in part(result, "balance").values())),
        "climate": ("verdicts", len(part(result, "verdicts"))),
    }
    table, count = counts.get(kind, ("", None))
    if table in tables and count and (tables[table]["total"] or count) < count:
        problems.append(f"{name}/{table}.csv holds {tables[table]['total']:,} of {count:,.0f} rows.")


def commit_of(step: dict) -> str:
    """The commit a step ran on, shortened; a + behind it: tracked files had been changed; "" without one."""
    commit = str(step["result"].get("git_commit") or "")
    return commit[:12] + "+" * (len(commit) > 12 and commit.endswith("+"))


def rows_of(step: dict | None, table: str) -> list[dict]:
    return step["tables"].get(table, {}).get("rows", []) if step else []


def number(row: dict, name: str) -> float | None:
    """A finite number of a table's row or a result, else None."""
    try:
        value = float(row.get(name))
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def part(value, *names) -> dict:
    """The dict at value[names[0]][names[1]]..., {} where something on the way is no dict."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


# ---- what steps have of each other -------------------------------------------------------------------------


def link(steps: list[dict], names: set[str]) -> None:
    """Fill upstream, read, simulated, taught, random and data, from the paths of each step's inputs.

    names: what the run folder is called. Where no path has one, it was renamed: then the commonest is its.
    """
    by_name = {step["name"]: step for step in steps}
    paths = {step["name"]: [*map(str, step["inputs"]), *words_of(step["arguments"])] for step in steps}
    parents = Counter(place[0] for words in paths.values() for p in words if (place := place_of(p, by_name)))
    if not names & set(parents):
        names = names | {name for name, _ in parents.most_common(1)}
    names = names | {"", ".", ".."}

    def steps_in(words) -> list[str]:
        places = [place for word in words if (place := place_of(word, by_name))]
        mine = [name for parent, name, path in places
                if parent in names and not is_another(path, by_name[name]["folder"])]  # fmt: skip
        return list(dict.fromkeys(mine))

    for step in steps:
        arguments = {key: value for key, value in step["arguments"].items() if key not in NETS}
        nets = steps_in(words_of({key: step["arguments"].get(key) for key in NETS}))
        step["read"] = [name for name in steps_in(words_of(arguments)) if name != step["name"]]
        others = [name for name in steps_in(map(str, step["inputs"])) if name not in nets]
        step["read"] += [name for name in others if name not in (step["name"], *step["read"])]
        nets = [name for name in nets if name != step["name"]]
        step["upstream"] = step["read"] + [name for name in nets if name not in step["read"]]
        step["nets"] = nets
        step["simulated"] = says_simulated(step)
        step["random"] = says_random(step["result"])
    own = {step["name"]: (step["simulated"], step["random"]) for step in steps}
    for step in steps:
        back = [step["name"], *ancestors(step, by_name, "read")]
        step["simulated"] = any(own[name][0] for name in back)
        trained = [net for name in back for net in by_name[name]["nets"]]
        trained += [name for net in trained for name in ancestors(by_name[net], by_name)]
        step["taught"] = any(own[name][0] for name in trained)
        step["random"] = any(own[name][1] for name in (step["name"], *step["nets"]))
    for step in steps:
        step["data"] = made_from(step, by_name)


def place_of(path: str, by_name: dict) -> tuple[str, str, Path] | None:
    """(name of the folder around it, a step's name, its path) of the last part of a path that a step has."""
    if "/" not in path and "\\" not in path:
        return None
    parts = re.split(r"[/\\]", path)
    if "=" in parts[0]:  # NAME=PATH
        parts[0] = parts[0].partition("=")[2]
    at = next((k for k in reversed(range(len(parts))) if parts[k] in by_name), None)
    if at is None:
        return None
    return parts[at - 1] if at else "", parts[at], Path("/".join(parts[: at + 1]))


def is_another(path: Path, folder: Path) -> bool:
    """Whether a path is there and neither a step's folder nor what that is a copy of, by its arguments.

    Of relative paths nobody knows the folder that they were relative to.
    """
    try:
        if not path.is_absolute() or not path.is_dir() or path.samefile(folder):
            return False
        return not any((path / name).is_file() and (folder / name).is_file()
                       and filecmp.cmp(path / name, folder / name, shallow=False)
                       for name in ("args.json", "result.json"))  # fmt: skip
    except (OSError, ValueError):
        return False


def words_of(value) -> list[str]:
    if isinstance(value, dict):
        return [word for item in value.values() for word in words_of(item)]
    if isinstance(value, list):
        return [word for item in value[:1000] for word in words_of(item)]
    return [value] if isinstance(value, str) else []


def ancestors(step: dict, by_name: dict, by: str = "upstream") -> list[str]:
    """Names of all steps that a step goes back to, nearest first; by "read": through data alone."""
    found, queue = [], list(step[by])
    while queue:
        name = queue.pop(0)
        if name not in found:
            found.append(name)
            queue += by_name[name][by]
    return found


def says_simulated(step: dict) -> bool:
    """Whether a step itself made or read simulated data: by its job, its triplets, or what it says."""
    if step["kind"] == "simulate" or SIMULATED in str(part(step["result"], "about").get("origin")):
        return True
    return any(row.get("product", "").startswith(SIMULATED) for row in rows_of(step, "triplets"))


def says_random(result: dict) -> bool:
    """Whether any network of a step had random weights in place of trained ones."""
    models = [*part(result, "models").values()]
    models += [part(result, "contract", f"{name}_encoder") for name in ("sar", "rgb")]
    return bool(
        result.get("random_weights") or part(result, "about").get("random")
        or any(isinstance(model, dict) and model.get("random") for model in models)
    )  # fmt: skip


def triplets_step(step: dict, by_name: dict) -> dict | None:
    """The step whose triplets a step read, itself included; None where they lie outside the run."""
    names = [step["name"], *ancestors(step, by_name, "read")]
    return next((by_name[name] for name in names if "triplets" in by_name[name]["tables"]), None)


def made_from(step: dict, by_name: dict) -> str:
    """What a step's data are, for titles: "106 simulated triplets of 12 sites"."""
    kind = "simulated " if step["simulated"] else ""
    back = [step, *(by_name[name] for name in ancestors(step, by_name, "read"))]
    if step["kind"] in ("map", "cover", "climate", "cover_export"):  # of scenes, whose triplets are a part
        scenes = next((number(s["result"], "scenes") for s in back if s["kind"] == "map"), None)
        count = counted(scenes, f"{kind}scene date") if scenes is not None else f"{kind}data"
        return count if kind else f"{count} from outside the run folder" if scenes is not None else "data"
    source = triplets_step(step, by_name)
    if source is None:
        return f"{kind}data".capitalize() if kind else "data from outside the run folder"
    table = source["tables"]["triplets"]
    sites = len({row.get("site") for row in table["rows"]})
    count = len(table["rows"]) if table["total"] is None else table["total"]
    more = "at least " if count > len(table["rows"]) else ""
    name = f"{kind or 'real '}triplet"
    return f"{counted(count, name)} of {more}{counted(sites, 'site')}"
