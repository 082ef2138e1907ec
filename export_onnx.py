"""Write a trained U-Net as ONNX, ready for onnxruntime or any other engine, and check it against torch.

    python export_onnx.py --weights runs/default/4_train/best.pt --out runs/onnx

In: a checkpoint of train_unet.py. Out: unet.onnx and unet.json, which says what to feed it (also in the
model's metadata, each entry as JSON). Input `image`: float32 (batch, bands, height, width) of any size, in
the contract's bands and units, NaN = no data. Output `probability`: float32 (batch, height, width) of snow,
NaN where any band has none. Normalising, padding to what the net needs and the sigmoid are inside.

The job runs the file with onnxruntime on several sizes, holes included; if it differs from torch by more
than 1e-4 anywhere, nothing is kept and the exit code is 1.
"""

import importlib.util
import json
import logging
import sys
import warnings
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

EXTRAS = ("onnx", "onnxscript", "onnxruntime")  # of requirements-extra.txt
OPSET = 18  # the one torch writes without converting; onnxruntime 1.14 and newer run it
TOLERANCE = 1e-4  # largest difference of a probability


# ---- what is in the file -----------------------------------------------------------------------------------


def contract_module(net, contract: dict):
    """A torch module from images in contract units to probabilities: what training.Predictor does."""
    import torch

    from models import training

    class FromContract(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = training.fold_norms(net)
            self.register_buffer("mean", torch.tensor(contract["mean"]))
            self.register_buffer("std", torch.tensor(contract["std"]))

        def forward(self, image):
            probability = torch.sigmoid(self.net(training.normalise(image, self.mean, self.std))[:, 0])
            return torch.where(torch.isnan(image).any(dim=1), torch.nan, probability)

    return FromContract().eval()


def to_onnx(module, bands: int, multiple: int):
    """The module as an ONNX model of batches, heights and widths of any size; the same bytes every time."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(2, bands, 3 * multiple + 1, 5 * multiple + 1)  # 1 would be taken for fixed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (example,), input_names=["image"], output_names=["probability"], opset_version=OPSET,
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},), dynamo=True, verbose=False,
        )  # fmt: skip
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output,
                 *model.graph.value_info, *model.graph.initializer, *model.functions):  # fmt: skip
        part.doc_string = ""  # the exporter notes lines of code and folders of this machine
        del part.metadata_props[:]
    return model


def description(state: dict, net, weights: Path) -> dict:
    """What to feed the model and what comes out; also written into its metadata."""
    from data_prep import channels

    contract = state["contract"]
    return {
        "model": "unet",
        "arguments": state["arguments"],
        "checkpoint_sha256": runs.fingerprint(weights).get("sha256"),
        "opset": OPSET,
        "input": {"image": ["batch", len(contract["bands"]), "height", "width"]},
        "output": {"probability": ["batch", "height", "width"]},
        "type": "float32",
        "no_data": "NaN",
        **contract,
        "planes": {name: channels.CHANNELS[name][0] for name in contract["bands"]},
        "target": state["target"],
        "threshold": state["threshold"],
        "padded_inside_to_multiples_of": 1 << len(net.up),
        "receptive_radius": net.receptive_radius(),
        "tiles_equal_the_whole": state["arguments"]["norm"] == "batch",
    }


# ---- parity ------------------------------------------------------------------------------------------------


def shapes_to_try(tile: int, multiple: int) -> list[tuple[int, int, int]]:
    """(batch, height, width): a training tile, sizes that are no multiple, strips, fewer pixels than one."""
    return [
        (1, tile, tile), (3, multiple, multiple), (2, 3 * multiple + 1, 5 * multiple - 1), (1, 101, 143),
        (1, 8 * multiple, 1), (2, 1, 3),
    ]  # fmt: skip


def images(contract: dict, shapes):
    """Random images (B, C, H, W) about the contract's mean, up to six deviations off, with holes in bands."""
    import torch

    random = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(contract[name]).view(-1, 1, 1) for name in ("mean", "std"))
    for batch, height, width in shapes:
        image = mean + std * 2 * torch.randn(batch, len(mean), height, width, generator=random).clamp(-3, 3)
        if height > 8 and width > 8:
            image[0, 0, 2:6, 3:7] = torch.nan
            image[-1, -1, -3:] = torch.nan
        yield image


def largest_difference(image, expected, found) -> float:
    """Of two arrays of probabilities; infinite unless both are numbers just where every band has data."""
    import numpy as np

    missing = np.isnan(image).any(axis=1)
    if not all(np.array_equal(np.isnan(values), missing) for values in (expected, found)):
        return float("inf")
    return float(np.nanmax(np.abs(found - expected), initial=0))


def parity(content: bytes, net, contract: dict) -> list[dict]:
    """Largest absolute difference of onnxruntime from infer_unet.py in float32, at each size."""
    import onnxruntime
    import torch

    from models import training

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runs.core_count()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    predictor, found = training.Predictor(net, contract, torch.device("cpu"), None), []
    for image in images(contract, shapes_to_try(contract["tile"], 1 << len(net.up))):
        expected, fed = predictor(image).numpy(), image.numpy()
        difference = largest_difference(fed, expected, session.run(None, {"image": fed})[0])
        found.append({"shape": list(image.shape), "max_absolute_difference": difference})
    return found


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    parser = runs.get_parser(__doc__, "--out", "--config", "--overwrite", "--dry-run")
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="PT", help="a checkpoint of train_unet.py"
    )
    return parser


def main(args) -> int:
    lacking = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if lacking:
        pip = "python -m pip install -r requirements-extra.txt"
        raise BadInput(f"{' and '.join(lacking)} is missing; install it with {pip}.")
    run = runs.Run(args, [args.weights])
    if run.finished():
        return runs.DONE
    from data_prep.channels import check_channels
    from models import training

    try:
        state = training.load_checkpoint(args.weights)
        net = training.build_net(state, args.weights)
        check_channels(tuple(state["contract"]["bands"]))
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    about = description(state, net, args.weights)
    if args.dry_run:
        runs.say(f"would write {args.out / 'unet.onnx'}: {len(about['bands'])} bands, opset {OPSET}")
        return runs.DONE
    run.begin("unet.onnx", "unet.json")
    import onnx

    model = to_onnx(contract_module(net, state["contract"]), len(about["bands"]), 1 << len(net.up))
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    found = parity(content, net, state["contract"])
    for row in found:
        shape = " x ".join(map(str, row["shape"]))
        runs.say(f"{shape}: largest difference from torch {row['max_absolute_difference']:.2g}")
    worst = max(row["max_absolute_difference"] for row in found)
    if not worst <= TOLERANCE:
        runs.say(
            f"{args.weights}: onnxruntime differs from torch by {worst:.2g}, over {TOLERANCE:g}: no file."
        )
        return runs.FAILED
    with runs.atomic(args.out / "unet.onnx") as temporary:
        temporary.write_bytes(content)
    runs.write_json(args.out / "unet.json", about)
    versions = {name: importlib.import_module(name).__version__ for name in EXTRAS}
    return run.finish(
        max_absolute_difference=worst, tolerance=TOLERANCE, parity=found, opset=OPSET, bytes=len(content),
        exported_with=versions,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
