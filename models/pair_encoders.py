"""Vectors of the RGB and the SAR of a place, by one of the encoders that embed_tsne.py compares.

    encoder = load("dinov2", "weights/dinov2-small")
    clouds = encoder.embed(batch, ("rgb", "sar"))             # {"rgb": (B, d), "sar": (B, d)} float32

batch: a dict of tensors: pictures uint8 (B, 2, H, W, 3), RGB first, with valid bool (B, 2, H, W), or sar
(B, C, H, W) and rgb (B, 3, H, W) with NaN for no data. Clouds: rgb, sar, and rgb_moved, the same RGB
picture MOVED pixels off, which a gap between modalities is held against.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from models import backbones, frozen, random_weights, sar_rgb, training
from models.picture_statistics import picture_statistics

MODELS = ("sar-rgb", "clip", "dinov2", "statistics")
MOVED = 8  # pixels, as far as pairs of the two satellites are off where they were laid on each other badly
TOKENS = "class token and mean of the patches, last layer"
VECTORS = {"sar-rgb": "its two heads", "clip": TOKENS, "dinov2": TOKENS, "statistics": "of grey levels"}


@dataclass
class Encoder:
    """embed: (batch, clouds) -> {cloud: (B, d)}; random: the same with random weights, None if there is none.

    about: what a file says of the vectors; its seen: hashes of the sites a checkpoint was trained on;
    trained_on_these_splits: it does not say, and splits must be trusted. channels: of `sar` in a batch, ()
    where pictures alone are seen; pictures: whether a batch needs them, their radar composed as `how` says
    (None: any). contract: of a checkpoint.
    """

    embed: Callable
    random: Callable | None
    about: dict
    channels: tuple[str, ...] = ()
    pictures: bool = True
    how: str | None = None
    contract: dict = field(default_factory=dict)


def load(
    model: str, weights=None, frozen_weights=None, seed=0, size=None, device="cpu", amp="off", say=None
) -> Encoder:
    """An encoder of MODELS; ValueError, one sentence, where its weights are missing or of something else.

    weights: of sar-rgb a checkpoint, else as backbones.load. frozen_weights: {family: weights} of networks
    a checkpoint was trained on. size: of what clip and dinov2 see. amp: as training.choose_precision has it.
    """
    device = torch.device(device)
    dtype = training.choose_precision(device, amp)
    if model == "sar-rgb":
        encoder = load_sar_rgb(weights, frozen_weights or {}, seed, device, dtype, say)
    elif model == "statistics":
        encoder = Encoder(of_statistics, None, {"provenance": "no network", "random": False})
    else:
        net = backbones.load(model, weights, seed, size, device, say)
        random = None if net.random else of_backbone(backbones.floor(net, seed), dtype)
        about = {"provenance": f"{net.name}, {net.provenance}", "random": net.random, "size": net.size}
        encoder = Encoder(of_backbone(net, dtype), random, about)
        encoder.about["weights_sha256"] = frozen.weights_hash(net.net)
    encoder.about |= {"model": model, "vector": VECTORS[model], "precision": str(dtype or torch.float32)}
    if model == "sar-rgb" and "seen" in encoder.contract:
        encoder.about["seen"] = list(encoder.contract["seen"])
    encoder.about["trained_on_these_splits"] = model == "sar-rgb" and "seen" not in encoder.about
    return encoder


def load_sar_rgb(weights, frozen_weights: dict, seed: int, device, dtype, say) -> Encoder:
    """A checkpoint of train_sar_rgb.py; its floor is a fresh net on the same frozen networks."""
    net, state = sar_rgb.load(weights, device)
    contract = state["contract"]
    networks = frozen_networks(weights, contract, frozen_weights, state.get("seed", 0), device, say)
    with torch.random.fork_rng(devices=[]):
        fresh = untrained(state["arguments"], seed).to(device)
    trained, random = (of_sar_rgb(one, contract, networks, device, dtype) for one in (net, fresh))
    names = {side: contract[f"{side}_encoder"]["name"] for side in ("sar", "rgb")}
    provenance = f"SAR ({', '.join(contract['bands'])}) by {names['sar']}, RGB by {names['rgb']}"
    provenance += f", epoch {state['epoch']}" if "epoch" in state else ""
    about = {
        "provenance": provenance + (", trained on simulated data" if contract.get("origin") else ", trained"),
        "weights_sha256": frozen.weights_hash(net),
        "random": any(network.random for network in networks.values()),
    }
    channels = () if len(networks) == 2 else tuple(contract["bands"])
    how = contract["sar_encoder"].get("compose") or None
    return Encoder(trained, random, about, channels, bool(networks), how, contract)


def untrained(arguments: dict, seed: int) -> sar_rgb.SarRgb:
    """A SarRgb of random weights in eval mode, its batch norms have seen images; seeds torch's generator."""
    torch.manual_seed(seed)
    net = sar_rgb.SarRgb(**arguments)

    def look():
        for side, embed in (("sar", net.embed_sar), ("rgb", net.embed_rgb)):
            if arguments[side] != "features":
                embed(random_weights.octaves(arguments[f"{side}_bands"], 16))

    random_weights.settle_norms(net, look)
    return net


def frozen_networks(path, contract: dict, given: dict, seed: int, device, say) -> dict:
    """The frozen networks before a checkpoint's heads, {"sar" or "rgb": Backbone}; the very same weights."""
    found = {}
    for side in ("sar", "rgb"):
        about = contract[f"{side}_encoder"]
        if "sha256" not in about:
            continue
        family, weights = about["name"], given.get(about["name"], "random" if about["random"] else None)
        try:
            found[side] = backbones.load(family, weights, seed, about["size"], device, say)
        except ValueError as error:
            raise ValueError(f"{path} was trained on frozen {family}: {error}; give --frozen") from None
        if frozen.weights_hash(found[side].net) != about["sha256"]:
            raise ValueError(
                f"{found[side].name} is not the frozen {family} that {path} was trained on "
                f"({about['network']}, {about['provenance']}); give its weights with --frozen {family}=PATH"
            )
    return found


# ---- from batches to vectors -------------------------------------------------------------------------------


def pictures_of(both: torch.Tensor, cloud: str) -> np.ndarray:
    """(B, H, W, ...) of (B, 2, H, W, ...): RGB, SAR, or RGB moved."""
    chosen = both[:, int(cloud == "sar")].numpy()
    return moved(chosen, 1) if cloud == "rgb_moved" else chosen


def moved(images, first: int):
    """Images whose axes `first` and the next are height and width, MOVED pixels off, edges mirrored."""
    for axis in (first, first + 1):
        length = images.shape[axis]
        place = np.arange(length) + min(MOVED, length // 4)
        place = np.where(place < length, place, 2 * length - 2 - place)
        images = images[(slice(None),) * axis + (place,)]
    return images


def of_statistics(batch: dict, clouds) -> dict[str, np.ndarray]:
    """Plain statistics of the pictures (picture_statistics.py), of one definition for both."""
    found = {}
    for cloud in clouds:
        parts = (pictures_of(batch[name], cloud) for name in ("pictures", "valid"))
        found[cloud] = np.stack([picture_statistics(*part) for part in zip(*parts, strict=True)])
    return found


def of_backbone(backbone: backbones.Backbone, dtype=None) -> Callable:
    """A frozen CLIP or DINOv2 on both pictures: class token and mean of the patches (frozen.py)."""

    def embed(batch: dict, clouds) -> dict[str, np.ndarray]:
        pictures = {cloud: pictures_of(batch["pictures"], cloud) for cloud in clouds}
        return {cloud: frozen.features(backbone, images, dtype) for cloud, images in pictures.items()}

    return embed


def of_sar_rgb(net: sar_rgb.SarRgb, contract: dict, networks: dict, device, dtype=None) -> Callable:
    """A model of train_sar_rgb.py; networks: {"sar" or "rgb": the frozen network before its head}."""
    statistics = {side: (contract[f"{end}mean"], contract[f"{end}std"])
                  for side, end in (("sar", ""), ("rgb", "rgb_"))}  # fmt: skip

    @torch.inference_mode()
    def embed(batch: dict, clouds) -> dict[str, np.ndarray]:
        found = {}
        for cloud in clouds:
            side = cloud[:3]
            if side in networks:
                pictures = pictures_of(batch["pictures"], cloud)
                x = torch.from_numpy(frozen.features(networks[side], pictures, dtype)).to(device)
            else:
                image = moved(batch[side], 2) if cloud == "rgb_moved" else batch[side]
                mean, std = (torch.tensor(values, device=device) for values in statistics[side])
                x = training.normalise(image.to(device), mean, std)
            with training.autocast(device, dtype):
                rows = net.embed_sar(x) if side == "sar" else net.embed_rgb(x)
            found[cloud] = rows.float().cpu().numpy()
        return found

    return embed
