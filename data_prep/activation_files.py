"""What a probe of networks leaves on disk: outputs of layers, and records of what is measured."""

import json
import shutil
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput


def check_space(out: Path, needed: int) -> None:
    """Say how many bytes will be written; refuse what the disk of `out` cannot hold."""
    place = out.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    runs.say(f"--save-activations: {needed / 1e6:,.1f} MB to write, {free / 1e6:,.0f} MB free")
    if needed > free:
        raise BadInput(
            f"{out}: --save-activations needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "choose fewer --layers, a smaller --sample or another --out."
        )


def save(path: Path, tensors: dict, about: dict[str, str]) -> None:
    """Tensors by name as safetensors, atomically; a full disk is an OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with runs.atomic(path) as temporary, runs.disk_errors(path, SafetensorError):
        save_file(tensors, temporary, metadata=about)


def outputs_of(whole: dict, modalities: dict[str, int]) -> dict:
    """{"RGB/<layer>": tensor, ...}: what whole outputs {layer: (tensor, kind)} have at each place."""
    return {
        f"{modality}/{name}": (output if kind == "constant" else output[place]).clone().contiguous()
        for name, (output, kind) in whole.items()
        for modality, place in modalities.items()
    }


def read_record(path: Path, of: dict | None = None) -> dict | None:
    """What write_record wrote, of the very same thing where `of` is given.

    None: not there, cut, or of another. A record of weights that were not there has `left_out`: why.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        whole = "left_out" in record or all(name in record for name in ("of", "about", "layers"))
        return record if whole and (of is None or record.get("of") == runs.plain(of)) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_record(path: Path, of: dict, about: dict, layers: list[dict]) -> dict:
    """Write what was measured, what it is of and by what; returns the record as it will be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = runs.plain({"of": of, "about": about, "layers": layers})
    runs.write_json(path, record)
    return record


def record_path(out: Path, family: str, weights: str) -> Path:
    return out / "records" / f"{family}_{weights}.json"


def figure_names(family: str, heads: bool) -> list[str]:
    names = [f"{family}_activations_comparison", *([f"{family}_attention_heads"] if heads else [])]
    return [f"{name}.{end}" for name in names for end in ("png", "pdf")]


def is_measured(record: dict | None) -> bool:
    return record is not None and "left_out" not in record


def measured(args, family: str, weights: str, rows: list[dict]) -> dict | None:
    """The record of a model or floor on these triplets, if figures and activations are there too.

    weights: "given" or "random". It may be the record of weights that were not there.
    """
    record = read_record(record_path(args.out, family, weights))
    if not is_measured(record):
        return record
    about, names, needed = record["about"], [row["id"] for row in rows], []
    if weights == "given" or about["random"]:  # no floor
        needed = [args.out / name for name in figure_names(family, bool(about["heads"]))]
        if args.save_activations:
            needed += [args.out / "activations" / family / f"{name}.safetensors" for name in names]
    return record if record["of"]["triplets"] == names and all(file.exists() for file in needed) else None


def tables(records: dict[tuple[str, str], dict], shown: list[str]) -> tuple[list, list, dict]:
    """(rows of the layers, rows of their channels, the account of each model).

    records: by model and weights, a model before its floor. shown: ids of the triplets in the figures.
    """
    rows, channels, models = [], [], {}
    for (family, weights), record in records.items():
        about = record["about"]
        floor = weights == "random" and not about["random"]
        if not floor:
            told = {name: about[name] for name in ("name", "provenance", "random", "input_pixels")}
            models[family] = {**told, "shown": shown, "layers": []}
        for layer in record["layers"]:
            if floor and layer["row"]["layer"] == "input":
                continue
            of = {"model": family, "weights": weights}
            rows.append({**of, **layer["row"]})
            models[family]["layers"].append(rows[-1])
            channels += [{**of, "layer": layer["row"]["layer"], **best} for best in layer["best"]]
    return rows, channels, models
