"""Segment Anything, image encoder and prompts apart. Needs torch and segment_anything, for vit_t also timm.

    net = load("mobile-sam.safetensors")                     # or an official sam_vit_*.pth
    embedding = encode(net, frame(image)[None])[0]           # image: uint8 (H, W, 3); once an image
    logits, scores = decode(net, embedding, [Prompt([[x, y]], [1])], image.shape[:2])
    mask = choose(logits, scores, "score")[0] > 0            # (H, W)

Kirillov 2023 (arXiv:2304.02643). vit_t is MobileSAM's (Zhang 2023, arXiv:2306.14289): TinyViT-5M (Wu 2022,
arXiv:2207.10666) from timm, with MobileSAM's stride of 1 before its last stage and SAM's neck behind it.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models import sam_decoder
from models.sam_decoder import SIDE

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # segment_anything/build_sam.py
ENCODERS = {  # width, depth, heads, blocks with global attention: segment_anything/build_sam.py
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
MODELS = ("vit_t", *ENCODERS)
RULES = ("score", "smallest", "middle", "largest", "oracle")
AT_ONCE = {"cpu": 2}  # prompts of a decoder batch: 2 stay in a core's cache (1, 2, 4, 10 tried), 32 elsewhere
OUTSIDE = -20.0  # logit of the frame beside the image in a mask prompt; SAM's own lie in -30..30


# ---- weights -----------------------------------------------------------------------------------------------


class TinyViTEncoder(nn.Module):
    """MobileSAM's image encoder: (B, 3, 1024, 1024) to (B, 256, 64, 64)."""

    def __init__(self):
        super().__init__()
        try:
            from timm.models.tiny_vit import TinyVit
        except ImportError:
            raise ValueError("vit_t needs timm: python -m pip install -r requirements-extra.txt") from None
        self.img_size = SIDE
        self.trunk = TinyVit(
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0.0,
        )
        self.trunk.head = nn.Identity()
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)  # MobileSAM: 64 x 64 to the end
        self.neck = nn.Sequential(
            nn.Conv2d(320, 256, kernel_size=1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neck(self.trunk.forward_features(x))

    def fold(self) -> None:
        """Put every BatchNorm into the convolution before it: the same result in five sixths of the time."""
        for module in self.trunk.modules():
            if isinstance(getattr(module, "bn", None), nn.BatchNorm2d):
                module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()


def build(model: str, device="cpu") -> Sam:
    """SAM without weights; the encoder's parameters on `device` ("meta" takes no memory)."""
    if model == "vit_t":
        encoder = TinyViTEncoder()
    else:
        width, depth, heads, everywhere = ENCODERS[model]
        with torch.device(device):
            encoder = ImageEncoderViT(
                depth=depth,
                embed_dim=width,
                img_size=SIDE,
                mlp_ratio=4,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                num_heads=heads,
                patch_size=16,
                qkv_bias=True,
                use_rel_pos=True,
                global_attn_indexes=everywhere,
                window_size=14,
                out_chans=256,
            )
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(64, 64), input_image_size=(SIDE, SIDE), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
    return Sam(encoder, prompts, decoder, list(PIXEL_MEAN), list(PIXEL_STD))


def load(path, model: str = "auto", device="cpu", seed: int = 0) -> Sam:
    """SAM in eval mode, with `.model` (its name) and `.provenance` (a line for captions and results).

    path: .pth or .pt (the official files and MobileSAM's mobile_sam.pt), .safetensors, or "random" for seeded
    random weights of `model`. model: one of MODELS, or "auto": told from the tensors.
    Raises ValueError, one sentence: no such file, no SAM, tensors missing or of another model, timm missing.
    """
    if model not in (*MODELS, "auto"):
        raise ValueError(f"model {model!r} is none of {', '.join(MODELS)}")
    if str(path) == "random":
        model = "vit_t" if model == "auto" else model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sam = build(model)
        sam.provenance = f"random weights ({model}, seed {seed})"
    else:
        tensors, provenance = read_tensors(Path(path))
        found = model_of(tensors, path)
        if model not in (found, "auto"):
            raise ValueError(f"{path}: holds {found}, not {model}; name the right file or model")
        model, sam = found, build(found, "meta")
        tensors = translate_tiny_vit(tensors) if model == "vit_t" else tensors
        check_tensors(sam.state_dict(), tensors, path, model)
        sam.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        sam.provenance = provenance or f"{model} of {Path(path).name}"
    sam.model = model
    for parameter in sam.parameters():
        parameter.requires_grad_(False)
    sam.train().eval()  # TinyViT keeps attention biases in eval mode, also stale ones: train() drops them
    if model == "vit_t":
        sam.image_encoder.fold()
    return sam.to(device)


def read_tensors(path: Path) -> tuple[dict, str]:
    """Tensors of a weights file by name, and the provenance its metadata states ('' if none)."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give an official sam_vit_*.pth, or make one with "
            "python -m data_prep.weights --model mobile-sam --out DIR"
        )
    try:  # both readers raise a dozen kinds on foreign, cut or hostile files, and run none of them
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                provenance = (file.metadata() or {}).get("provenance", "")
                return {name: file.get_tensor(name) for name in list(file.keys())}, provenance
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: is no readable weights file ({type(error).__name__})") from None
    published = "use SAM's weights file as published"
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise ValueError(f"{path}: is no table of tensors by name; {published}")
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path}: holds more than tensors by name; {published}")
    return tensors, ""


def model_of(tensors: dict, path) -> str:
    """Which of MODELS these tensors are, by name and width."""
    if "image_encoder.patch_embed.seq.0.c.weight" in tensors:
        return "vit_t"
    position = tensors.get("image_encoder.pos_embed")
    width = position.shape[-1] if position is not None and position.ndim else None
    for model, (width_of_model, *_) in ENCODERS.items():
        if width == width_of_model:
            return model
    known = ", ".join(MODELS)
    raise ValueError(f"{path}: holds no SAM encoder ({known}); use SAM's weights file as published")


def translate_tiny_vit(tensors: dict) -> dict:
    """MobileSAM's names of tensors as timm's TinyViT has them; its unused ImageNet head is left out."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("image_encoder.") and not name.startswith("image_encoder.neck."):
            name = name.replace("image_encoder.", "trunk.").replace(".c.", ".conv.")
            name = name.replace("embed.seq.0.", "embed.conv1.").replace("embed.seq.2.", "embed.conv2.")
            stage = re.match(r"trunk\.layers\.(\d+)\.(downsample)?", name)
            if stage:  # in timm a stage begins with the downsampling that ends MobileSAM's stage before it
                number = int(stage[1]) + bool(stage[2])
                name = name.replace(f"layers.{stage[1]}.", f"stages.{number}.", 1)
            if name.startswith(("trunk.head.", "trunk.norm_head.")):
                continue
            name = f"image_encoder.{name}"
        renamed[name] = tensor
    return renamed


def check_tensors(expected: dict, found: dict, path, model: str) -> None:
    """One sentence if `found` is not exactly what the model has."""
    counted = {name for name in expected if not name.endswith("num_batches_tracked")}
    for what, names in (("lacks", counted - found.keys()), ("has unknown", found.keys() - expected.keys())):
        if names:
            raise ValueError(f"{path}: {what} {len(names)} tensors for {model}, first {min(names)}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            raise ValueError(f"{path}: tensor {name} of {model} has shape {shapes}")


def weights_hash(path, model: str = "auto", seed: int = 0) -> str:
    """sha256 of the weights file, hex; of the model's name and the seed for "random"."""
    if str(path) == "random":
        return hashlib.sha256(f"random {model} {seed}".encode()).hexdigest()
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- images ------------------------------------------------------------------------------------------------


def frame(image: np.ndarray) -> torch.Tensor:
    """Image as the encoder takes it: longest side 1024, SAM's mean and deviation, zeros beside it.

    image: uint8 (H, W, 3), RGB, 0..255. Returns float32 (3, 1024, 1024). Raises TypeError for anything else:
    a float image in 0..1 would pass as almost black and give masks that mean nothing.
    """
    kind = getattr(image, "dtype", type(image).__name__)
    if kind != np.uint8:
        raise TypeError(f"SAM takes uint8 images of 0..255, not {kind}; stretch to uint8 first")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise TypeError(f"SAM takes images of shape (H, W, 3), not {image.shape}")
    resized = torch.from_numpy(ResizeLongestSide(SIDE).apply_image(image)).permute(2, 0, 1)
    mean, std = torch.tensor(PIXEL_MEAN)[:, None, None], torch.tensor(PIXEL_STD)[:, None, None]
    normal = (resized - mean) / std
    return F.pad(normal, (0, SIDE - normal.shape[2], 0, SIDE - normal.shape[1]))


@torch.no_grad()
def encode(sam: Sam, frames: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Embeddings float32 (B, 256, 64, 64) of frames (B, 3, 1024, 1024); dtype: of autocast, None for none."""
    device = sam.device
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        return sam.image_encoder(frames.to(device)).float()


# ---- prompts -----------------------------------------------------------------------------------------------


@dataclass
class Prompt:
    """One question to SAM. Pixels are (x, y) = (column, row) of the image, centres at whole numbers.

    points: (N, 2); labels: (N,), 1 of the object and 0 not; box: (4,) x0 y0 x1 y1, or None; mask: (H, W)
    logits at the image's pixels, or None.
    """

    points: np.ndarray = ()
    labels: np.ndarray = ()
    box: np.ndarray | None = None
    mask: np.ndarray | None = None

    def __post_init__(self):
        self.points = np.asarray(self.points, np.float64).reshape(-1, 2)
        self.labels = np.asarray(self.labels, np.int64).reshape(-1)
        self.box = None if self.box is None else np.asarray(self.box, np.float64).reshape(4)
        self.mask = None if self.mask is None else np.asarray(self.mask, np.float32)
        if len(self.points) != len(self.labels):
            raise ValueError(f"{len(self.points)} points, but {len(self.labels)} labels")
        if not set(self.labels.tolist()) <= {0, 1}:
            raise ValueError("labels of points are 1 (of the object) or 0 (not)")
        if not len(self.points) and self.box is None and self.mask is None:
            raise ValueError("a prompt holds points, a box or a mask")

    def kind(self) -> tuple:
        """Prompts of one kind have equally many tokens and can share a decoder batch."""
        return len(self.points), self.box is not None, self.mask is not None


@torch.no_grad()
def decode(sam: Sam, embedding: torch.Tensor, prompts: list[Prompt], size: tuple[int, int], multimask=True):
    """Masks of all prompts of one image: what SamPredictor answers to each of them alone.

    embedding: (256, 64, 64); size: (H, W) of the image. Returns float32 logits (P, 3, H, W), above 0 in the
    mask, and SAM's own guess of their IoU, (P, 3); (P, 1, ...) without multimask. On the net's device.
    """
    count = 3 if multimask else 1
    logits = torch.empty(len(prompts), count, *size, device=sam.device)
    scores = torch.empty(len(prompts), count, device=sam.device)
    kinds = {}
    for index, prompt in enumerate(prompts):
        kinds.setdefault(prompt.kind(), []).append(index)
    for indices in kinds.values():
        asked = tokens([prompts[index] for index in indices], size, sam.device)
        logits[indices], scores[indices] = answer(sam, embedding, *asked, size, multimask)
    return logits, scores


def tokens(prompts: list[Prompt], size: tuple[int, int], device):
    """Points with labels, boxes, masks of prompts of one kind as SAM takes them: in the frame's pixels."""
    scale = ResizeLongestSide(SIDE)
    points = boxes = masks = None
    if len(prompts[0].points):
        xy = scale.apply_coords(np.stack([prompt.points for prompt in prompts]), size)
        labels = torch.from_numpy(np.stack([prompt.labels for prompt in prompts])).int()
        points = torch.from_numpy(xy).float().to(device), labels.to(device)
    if prompts[0].box is not None:
        corners = scale.apply_boxes(np.stack([prompt.box for prompt in prompts]), size)
        boxes = torch.from_numpy(corners).float().to(device)
    if prompts[0].mask is not None:
        masks = torch.stack([mask_frame(prompt.mask, size) for prompt in prompts]).to(device)
    return points, boxes, masks


def mask_frame(mask: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Logits (H, W) at the image's pixels as SAM's mask prompt, (1, 256, 256) over the whole frame."""
    if mask.shape != tuple(size):
        raise ValueError(f"a mask prompt has the image's size {tuple(size)}, not {mask.shape}")
    height, width = ResizeLongestSide.get_preprocess_shape(*size, SIDE)
    whole = F.interpolate(
        torch.from_numpy(mask)[None, None], (height, width), mode="bilinear", antialias=True
    )
    whole = F.pad(whole, (0, SIDE - width, 0, SIDE - height), value=OUTSIDE)
    return F.avg_pool2d(whole, 4)[0]


def answer(sam: Sam, embedding, points, boxes, masks, size, multimask: bool):
    """Logits (P, C, H, W) and scores (P, C) for prompts of one kind as `tokens` gives them."""
    image, position = embedding.to(sam.device).float()[None], sam.prompt_encoder.get_dense_pe()
    count = len(next(x for x in (points and points[0], boxes, masks) if x is not None))
    logits, scores = [], []
    for start in range(0, count, AT_ONCE.get(sam.device.type, 32)):
        part = slice(start, start + AT_ONCE.get(sam.device.type, 32))
        some = points and (points[0][part], points[1][part])
        rest = (x if x is None else x[part] for x in (boxes, masks))
        sparse, dense = sam.prompt_encoder(some, *rest)
        small, guessed = sam_decoder.small_masks(
            sam.mask_decoder, image + dense[: 1 if masks is None else None], position, sparse
        )
        chosen = slice(1, None) if multimask else slice(1)
        logits.append(sam_decoder.to_image(small[:, chosen], size))
        scores.append(guessed[:, chosen])
    return torch.cat(logits), torch.cat(scores)


def grid_masks(sam: Sam, embedding: torch.Tensor, size: tuple[int, int], points_per_side: int = 32, **more):
    """SamAutomaticMaskGenerator's list of masks, from an embedding (256, 64, 64): the encoder does not run.

    size: (H, W) of the image; more: the generator's thresholds (pred_iou_thresh, stability_score_thresh).
    Each item: segmentation bool (H, W), area, bbox (x y w h), predicted_iou, stability_score, point_coords.
    """
    if more.get("crop_n_layers"):
        raise ValueError("crops of the image need embeddings of their own; crop_n_layers must be 0")
    generator = SamAutomaticMaskGenerator(sam, points_per_side, **more)
    predictor = generator.predictor

    def predict(points, labels, multimask_output, return_logits):
        return *answer(sam, embedding, (points, labels), None, None, size, multimask_output), None

    predictor.set_image, predictor.predict_torch = lambda image: None, predict
    return generator.generate(np.zeros((*size, 3), np.uint8))


def choose(logits, scores, rule: str = "score", truth=None) -> torch.Tensor:
    """One of the masks of each prompt: (P, C, H, W) and (P, C) to (P, H, W).

    rule: "score": SAM's own guess is highest; "smallest", "middle", "largest": by area; "oracle": IoU with
    `truth` (H, W), 255 ignored, is highest, which is an upper bound and no result.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is none of {', '.join(RULES)}")
    logits, scores = torch.as_tensor(logits), torch.as_tensor(scores)
    by_area = (logits > 0).sum((2, 3)).argsort(dim=1, stable=True)
    if rule == "score":
        best = scores.argmax(1)
    elif rule == "oracle":
        if truth is None:
            raise ValueError("rule 'oracle' needs the truth")
        truth = torch.as_tensor(truth, device=logits.device)
        found, snow = (logits > 0) & (truth != 255), truth == 1
        iou = (found & snow).sum((2, 3)) / (found | snow).sum((2, 3)).clamp(min=1)
        best = by_area.gather(1, iou.gather(1, by_area).argmax(1, keepdim=True))[
            :, 0
        ]  # the smaller of equals
    else:
        best = by_area[:, {"smallest": 0, "middle": (by_area.shape[1] - 1) // 2, "largest": -1}[rule]]
    return logits[torch.arange(len(logits), device=logits.device), best]
