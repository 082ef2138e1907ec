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


def read_record(path: Path, of: dict) -> list[dict] | None:
    """The layers of a record written of the very same thing, else None: not there, cut, or of another."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record["layers"] if record["of"] == runs.plain(of) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(path: Path, of: dict, layers: list[dict]) -> list[dict]:
    """Write what was measured and what it is of; returns the layers as they will be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, {"of": of, "layers": layers})
    return runs.plain(layers)
