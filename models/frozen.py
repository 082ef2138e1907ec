"""What a frozen DINOv2 or CLIP says of a picture, as one vector. Needs torch, numpy and backbones.py beside.

vectors = features(backbone, pictures)          # uint8 (B, H, W, 3) -> float32 (B, 2 C)
"""

import hashlib

import numpy as np
import torch

from models import backbones

FAMILIES = ("dinov2", "clip")


def load(kinds: dict[str, str], given: dict[str, str], seed: int = 0, device="cpu", say=None) -> dict:
    """{name: Backbone} of those of kinds, {name: kind}, that are of FAMILIES; one of each in memory.

    given: {family: weights}, as backbones.load takes them. Raises ValueError, one sentence.
    """
    used = [family for family in FAMILIES if family in kinds.values()]
    idle = set(given) - set(used)
    if idle:
        raise ValueError(f"--weights {idle.pop()}=...: no encoder is of that kind")
    loaded = {
        family: backbones.load(family, given.get(family), seed, device=device, say=say) for family in used
    }
    return {name: loaded[kind] for name, kind in kinds.items() if kind in loaded}


def about(backbone: backbones.Backbone) -> dict:
    """What a checkpoint says of a frozen network: enough to find it again, and to know it for the same."""
    return {
        "name": backbone.family, "network": backbone.name, "provenance": backbone.provenance,
        "random": backbone.random, "sha256": weights_hash(backbone.net), "size": backbone.size,
    }  # fmt: skip


@torch.inference_mode()
def features(backbone: backbones.Backbone, pictures: np.ndarray, dtype=None) -> np.ndarray:
    """float32 (B, 2 C) of whole pictures uint8 (B, H, W, 3): class token and mean of the patches' tokens.

    Both of the last layer, side by side, as DINOv2's linear evaluation has them (Oquab 2023,
    arXiv:2304.07193). dtype: of autocast, None for float32.
    """
    x = backbones.prepare(backbone, pictures)
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        tokens = backbone(x)["tokens"].float()
    patches = tokens[:, backbone.prefix :]
    return torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1).cpu().numpy()


def length(backbone: backbones.Backbone) -> int:
    """How long a vector of `features` is."""
    return 2 * backbone.net.config.hidden_size


def weights_hash(net: torch.nn.Module) -> str:
    """sha256, hex, of every tensor of a network and its name: what its features depend on."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()
