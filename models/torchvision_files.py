"""DeepLabV3 of torchvision, by name or from a .pth file of its tensors. Needs torch, torchvision.

    fields = load("deeplabv3_resnet50")                  # what models/backbones.py's Backbone takes

Files are read with weights_only=True: none can run code.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from models.backbone_contract import (
    DEEPLAB_SIZE,
    IMAGENET,
    TORCHVISION,
    file_hash,
    missing,
    offline,
    reason,
    short,
)

MANY = 10_000  # classes of a head; more is a broken file


def load(weights: str, say: Callable[[str], None] | None = None) -> dict:
    """One of torchvision's three by name, or a file of its tensors, whose names tell which of them it is."""
    if weights in TORCHVISION:
        import torchvision

        chosen = torchvision.models.get_model_weights(weights).DEFAULT
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(chosen.url).name
        if not file.is_file():
            if offline():
                raise missing("deeplabv3", f"{file.name} is not in torch's cache and HF_HUB_OFFLINE is set")
            if say:
                say(f"fetching {file.name} from torchvision's site")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # torch's own line about it
                tensors = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:  # URLError is one
            raise missing("deeplabv3", f"{file.name} could not be fetched ({reason(error)})") from error
        except Exception as error:  # a broken file raises whatever pickle or zip meets first
            raise ValueError(f"{file}: not a file of tensors ({type(error).__name__}); delete it") from error
        name, source = weights, f"torchvision {chosen}"
        labels = tuple(chosen.meta["categories"])
    else:
        tensors, name = read_tensors(Path(weights))
        count = len(tensors["classifier.4.bias"])
        labels = voc_labels(name) if count == 21 else tuple(f"class {i}" for i in range(count))
        source = f"DeepLabV3 on {TORCHVISION[name]}, {Path(weights).name}, sha256 {file_hash(weights)[:12]}"
    net = torchvision_network(name, len(labels), any(key.startswith("aux_classifier") for key in tensors))
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not fit torchvision's {name}: {reason(error)}") from error
    return torchvision_fields(net, name, source, labels)


def torchvision_fields(net: nn.Module, name: str, source: str, labels: tuple[str, ...] = ()) -> dict:
    mean, std = IMAGENET
    return {
        "net": net,
        "family": "deeplabv3",
        "name": name,
        "mean": mean,
        "std": std,
        "size": DEEPLAB_SIZE["torchvision"],
        "patch": 1,
        "heads": 0,
        "prefix": 0,
        "labels": tuple(labels or voc_labels(name)),
        "provenance": source,
    }


def torchvision_network(name: str, classes: int, auxiliary: bool) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=classes, aux_loss=auxiliary
    )


def voc_labels(name: str) -> tuple[str, ...]:
    """The 21 classes of Pascal VOC, which torchvision's three share."""
    import torchvision

    return tuple(torchvision.models.get_model_weights(name).DEFAULT.meta["categories"])


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors of a .pth file and the name of torchvision's network they belong to."""
    if not path.is_file():
        raise missing("deeplabv3", f"{path} does not exist")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises whatever pickle or zip meets first
        raise ValueError(f"{path}: not a file of tensors ({type(error).__name__})") from error
    wanted = f"{path}: expected the tensors of torchvision's DeepLabV3, found"
    if not isinstance(tensors, dict) or "classifier.4.bias" not in tensors:
        raise ValueError(f"{wanted} none named classifier.4.bias")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{wanted} {short(name)} to be a {type(value).__name__}")
    shape = tuple(tensors["classifier.4.bias"].shape)
    if len(shape) != 1 or not 1 <= shape[0] <= MANY:
        raise ValueError(f"{wanted} classifier.4.bias of shape {shape}, which counts no classes")
    if "backbone.0.0.weight" in tensors:
        return tensors, "deeplabv3_mobilenet_v3_large"
    deep = "backbone.layer3.22.conv1.weight" in tensors
    return tensors, "deeplabv3_resnet101" if deep else "deeplabv3_resnet50"
