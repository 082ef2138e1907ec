"""CLIP, DINOv2 and DeepLabV3 behind one call. Needs torch, numpy, transformers and torchvision.

    backbone = load("dinov2", "weights/dinov2-small")      # a folder, a hub name, or "random"
    x = prepare(backbone, images)                          # uint8 (B, H, W, 3) -> float (B, 3, h, w)
    out = backbone(x)                                      # {"tokens": (B, T, C)} or {"logits": (B, K, h, w)}
    names = match(layers(backbone), ["encoder.layer.*"])   # what models/activations.py can capture

Weights come from a path, from the hub or from torchvision's site; where none of these serves, ValueError says
so in one sentence. No code of a hub's repository is run, and files of torch are read with weights_only=True.
"""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models import hub_files, random_weights, torchvision_files
from models.activations import first_tensor
from models.backbone_contract import HUB, LARGEST, TORCHVISION

FAMILIES = ("clip", "dinov2", "deeplabv3")
PROBES = ((64, 96), (96, 160))  # pixels (patches / 32 of tokens): two shapes tell what scales with an input


@dataclass
class Backbone:
    """A network in eval mode with its input contract; calling it runs the forward pass.

    size: pixels of the longer side of an input; patch: pixels a token (1 without tokens); heads: of attention
    (0 without); prefix: tokens before the patches (class, registers); labels: class names of a head, else ().
    mean, std: of RGB in 0..1; reverse: channels are wanted as BGR.
    """

    net: nn.Module
    family: str
    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    patch: int
    heads: int
    prefix: int
    labels: tuple[str, ...]
    provenance: str
    random: bool = False
    reverse: bool = False

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, h, w) -> {"tokens": (B, T, C)}, of the last layer, or {"logits": (B, K, h', w')}."""
        if self.family == "clip":
            native = x.shape[-2:] == (self.net.config.image_size,) * 2
            return {"tokens": self.net(x, interpolate_pos_encoding=not native).last_hidden_state}
        if self.family == "dinov2":
            return {"tokens": self.net(x).last_hidden_state}
        out = self.net(x)
        return {"logits": out["out"] if isinstance(out, dict) and "out" in out else out.logits}


# ---- loading -----------------------------------------------------------------------------------------------


def load(
    family: str,
    weights: str | None = None,
    seed: int = 0,
    size: int | None = None,
    device: str | torch.device = "cpu",
    say: Callable[[str], None] | None = None,
) -> Backbone:
    """A network of a family with trained weights, frozen and in eval mode.

    family: "clip", "dinov2" or "deeplabv3". weights: None for HUB's name; a hub name; a folder of
    transformers (any segmentation model for deeplabv3); for deeplabv3 also one of TORCHVISION or a .pth file
    of theirs; "random" for seeded random weights. size: pixels of the longer side, default the network's own.
    say: called with one line before something is fetched over the network.
    Raises ValueError, one sentence, where weights are missing, incomplete or of another family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, expected one of {', '.join(FAMILIES)}")
    weights = str(weights) if weights is not None else HUB[family]
    if weights == "random":
        backbone = Backbone(**random_weights.random_network(family, seed), random=True)
    elif family == "deeplabv3" and (weights in TORCHVISION or Path(weights).suffix in (".pth", ".pt")):
        backbone = Backbone(**torchvision_files.load(weights, say))
    else:
        backbone = Backbone(**hub_files.load(family, weights, say))
    if size is not None:
        if not backbone.patch <= size <= LARGEST or size % backbone.patch:
            raise ValueError(
                f"size is {size} pixels, expected a multiple of the patch of {backbone.patch} pixels, "
                f"{LARGEST} at most"
            )
        backbone.size = size
    backbone.net.eval().requires_grad_(False).to(device)
    return backbone


def floor(backbone: Backbone, seed: int = 0) -> Backbone:
    """The same architecture with random weights: the floor that a trained network's numbers must clear."""
    net = random_weights.renewed(backbone.net, seed, backbone.name, len(backbone.labels))
    device = next(backbone.net.parameters()).device
    fields = {**vars(backbone), "net": net.eval().requires_grad_(False).to(device)}
    return Backbone(**{**fields, "provenance": f"random weights (seed {seed})", "random": True})


# ---- images ------------------------------------------------------------------------------------------------


def input_size(backbone: Backbone, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the input for an image: its longer side becomes `size`; both are multiples of the patch."""
    scale = backbone.size / max(height, width)
    return tuple(
        max(round(side * scale / backbone.patch), 1) * backbone.patch for side in (height, width)
    )  # fmt: skip


def prepare(backbone: Backbone, images: np.ndarray) -> torch.Tensor:
    """uint8 RGB (B, H, W, 3) -> float32 (B, 3, h, w), resized and normalised as the network was trained.

    The whole image is seen, none of it cropped off. Raises TypeError for anything but uint8: floats already
    stretched or normalised would be taken for a picture.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise TypeError(f"images are {getattr(images, 'dtype', type(images))}, expected uint8 of 0 to 255")
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise TypeError(f"images have shape {images.shape}, expected (B, H, W, 3)")
    x = torch.tensor(images, device=next(backbone.net.parameters()).device)
    x = x.permute(0, 3, 1, 2).float() / 255
    size = input_size(backbone, *images.shape[1:3])
    if x.shape[-2:] != size:
        mode = "bilinear" if backbone.family == "deeplabv3" else "bicubic"  # as each was trained
        x = F.interpolate(x, size=size, mode=mode, align_corners=False, antialias=True).clamp(0, 1)
    mean, std = (
        torch.tensor(values, device=x.device).view(3, 1, 1) for values in (backbone.mean, backbone.std)
    )
    x = x.flip(1) if backbone.reverse else x
    return (x - mean) / std


def grid(backbone: Backbone, x: torch.Tensor) -> tuple[int, int]:
    """Patches (h, w) of a prepared input."""
    return x.shape[-2] // backbone.patch, x.shape[-1] // backbone.patch


def as_map(backbone: Backbone, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """A captured output of a layer as (B, C, h, w): tokens laid out on the grid, class token left out.

    x: the prepared input the output belongs to. Four dimensions are taken for a map: ask layers() first. None
    for what has no place in the image (vectors, positions).
    """
    if output.ndim == 4:
        return output
    height, width = grid(backbone, x)
    if output.ndim != 3 or len(output) != len(x):
        return None
    extra = output.shape[1] - height * width
    if extra not in (0, backbone.prefix):
        return None
    return output[:, extra:].transpose(1, 2).reshape(len(output), -1, height, width)


def segment(backbone: Backbone, x: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Logits (B, K, H, W) of a network with a head, bilinear to `size` (default: that of x)."""
    if not backbone.labels:
        raise ValueError(f"{backbone.name} has no segmentation head")
    logits = backbone(x)["logits"].float()
    return F.interpolate(logits, size=tuple(size or x.shape[-2:]), mode="bilinear", align_corners=False)


# ---- layers ------------------------------------------------------------------------------------------------


def layers(backbone: Backbone) -> list[tuple[str, str]]:
    """(name, kind) of every module that runs in a forward pass and gives a tensor, in the network's order.

    kind: "map" (B, C, h, w), h and w growing with the image; "tokens" (B, T, C) with the class token;
    "patches" (B, T, C) without; "vector" (B, C) or (B, C, 1, 1); "constant": the same for any image
    (positions); "other": what is none of these, such as channels last, windows or attention. Found by passes
    over blank images of two shapes and batches: the names of dimensions are what changes with which.
    """
    patch, native = backbone.patch, (backbone.size, backbone.size)
    sizes = [tuple(side // 32 * patch if patch > 1 else side for side in size) for size in PROBES]
    try:
        first, second = (shapes(backbone, count, size) for count, size in zip((2, 3), sizes, strict=True))
    except (RuntimeError, ValueError):  # a network of one input size
        sizes = [native] * 2
        first, second = (shapes(backbone, count, native) for count in (2, 3))
    # CLIP's positions run as a module at the native size alone
    whole = shapes(backbone, 2, native) if patch > 1 else {}
    kinds = {name: "constant" if shape[:1] == (1,) else "other" for name, shape in whole.items()}
    for name, shape in first.items():
        kinds[name] = kind_of(backbone, shape, second.get(name, ()), *sizes)
    return [(name, kinds[name]) for name, _ in backbone.net.named_modules() if name in kinds]


def shapes(backbone: Backbone, count: int, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """What every module gives for `count` blank images of (h, w) pixels."""
    found = {}

    def note(name):
        def hook(module, arguments, output):
            output = first_tensor(output)
            if output is not None:
                found[name] = tuple(output.shape)

        return hook

    named = [(name, module) for name, module in backbone.net.named_modules() if name]
    handles = [module.register_forward_hook(note(name)) for name, module in named]
    try:
        with torch.no_grad():
            backbone(torch.zeros(count, 3, *size, device=next(backbone.net.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def kind_of(backbone: Backbone, a: tuple, b: tuple, size_a: tuple[int, int], size_b: tuple[int, int]) -> str:
    """The kind of a layer that gives shape a for 2 images of size_a, and b for 3 images of size_b, larger."""
    if not a or len(a) != len(b):
        return "other"
    if a[0] == b[0]:
        return "constant"
    if (a[0], b[0]) != (2, 3):  # windows, heads or positions first
        return "other"
    if len(a) == 2 and a == (2, *b[1:]):
        return "vector"
    if len(a) == 3:
        patches = [size[0] * size[1] // backbone.patch**2 for size in (size_a, size_b)]
        extra = [shape[1] - count for shape, count in zip((a, b), patches, strict=True)]
        kinds = {0: "patches", backbone.prefix: "tokens"} if backbone.prefix else {0: "patches"}
        return kinds.get(extra[0], "other") if extra[0] == extra[1] and a[2] == b[2] else "other"
    if len(a) != 4 or a[1] != b[1]:
        return "other"
    if a[2:] == b[2:] == (1, 1):
        return "vector"
    return (
        "map" if all(scales(*sides) for sides in zip(a[2:], b[2:], size_a, size_b, strict=True)) else "other"
    )


def scales(a: int, b: int, pixels_a: int, pixels_b: int) -> bool:
    """Whether a side grew from a to b as the image's did, up to what strides and borders round off."""
    expected = a * pixels_b / pixels_a
    return b > a and abs(b - expected) <= max(2, 0.1 * expected)


def match(known: list[tuple[str, str]], patterns: list[str]) -> list[str]:
    """Names among layers() that fit a name or a shell pattern ("encoder.layer.*"), in the network's order.

    ValueError for a pattern that fits nothing.
    """
    names = [name for name, _ in known]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no layer fits {pattern!r}; --list-layers prints the {len(names)} there are")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def blocks(backbone: Backbone) -> list[str]:
    """Names of the main blocks, first to last: what to look at where no layer is asked for.

    The layers of a transformer; the stages of a ResNet, the inverted residuals of a MobileNet.
    """
    running = {name for name, kind in layers(backbone) if kind in ("map", "tokens")}
    modules = dict(backbone.net.named_modules())
    lists = {n: m for n, m in modules.items() if isinstance(m, (nn.ModuleList, nn.ModuleDict))}
    trunk = max(lists, key=lambda name: len(lists[name]), default="")
    inside = [n for n in modules if n.startswith(f"{trunk}.") and n in running and any(modules[n].children())]
    if not inside:
        raise ValueError(f"none of the main blocks of {backbone.name} gives maps or tokens")
    depth = min(name.count(".") for name in inside)
    return [name for name in inside if name.count(".") == depth]
