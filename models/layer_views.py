"""What a figure shows of a backbone for RGB and SAR pictures of the same places: maps, as plain arrays.

Needs torch, numpy, models/activations.py and models/backbones.py. `inputs`: prepared images (2, 3, h, w) of
each place, RGB then SAR. A view is a dict: title; kind ("colour": maps (h, w, 3) of 0..1, "heat": numbers
(h, w) with a `unit`, "classes": class numbers (h, w) with `names`); maps, a pair (RGB, SAR) a place; note.
"""

import numpy as np
import torch

from models import activations, backbones

BACKGROUND = ("background", "__background__")


def layer_maps(backbone, inputs: list[torch.Tensor], names) -> dict[str, list[np.ndarray]]:
    """{layer: (2, C, h, w) float32 of each place}."""
    held = {name: [] for name in names}
    for x in inputs:
        with torch.inference_mode(), activations.Capture(backbone.net, held) as capture:
            backbone(x)
        for name, output in capture.outputs.items():
            held[name].append(backbones.as_map(backbone, output, x).float().cpu().numpy())
    return held


def pca(maps: list[np.ndarray], name: str, basis: str) -> dict:
    """The first three components of a layer's channels as colour."""
    rgb, sar, about = activations.patch_pca(*([one[k] for one in maps] for k in (0, 1)), basis=basis)
    shares = [about["explained"][which] or 0 for which in ("rgb", "sar")]
    how = {
        "common": "one basis and one mean for RGB and SAR, so that their gap shows",
        "centred": "one basis, RGB and SAR each about its own mean: their gap is taken out",
    }[basis]
    short = ".".join(name.split(".")[-2:])
    return {
        "title": f"PCA {short}\n" + {"common": "one mean", "centred": "own means"}[basis],
        "kind": "colour", "maps": list(zip(rgb, sar, strict=True)),
        "note": f"PCA of {name}: {how}; three components explain {shares[0]:.0%} of RGB's variance about its "
        f"mean, {shares[1]:.0%} of SAR's.",
    }  # fmt: skip


def attention(backbone, inputs: list[torch.Tensor]) -> list[dict]:
    """The class token's attention in the last layer and its rollout, in multiples of even attention."""

    def pairs(function):
        maps = [function(x) for x in inputs]
        return [(one * (backbone.prefix + one.shape[-2] * one.shape[-1])).cpu().numpy() for one in maps]

    last = pairs(lambda x: activations.attention_maps(backbone, x).mean(1))
    rollout = pairs(lambda x: activations.attention_rollout(backbone, x))
    return [
        {
            "title": "attention,\nlast layer", "kind": "heat", "unit": "times even", "maps": last,
            "note": "Attention: of the class token to the patches, mean over heads; 1: spread evenly.",
        },
        {
            "title": "attention\nrollout", "kind": "heat", "unit": "times even", "maps": rollout,
            "note": "Rollout: attention followed through all layers (Abnar and Zuidema 2020).",
        },
    ]  # fmt: skip


def classes(backbone, inputs: list[torch.Tensor], layer: str, asked: int | None = None) -> list[dict]:
    """The predicted classes, and the class activation of the one `asked` for or that wins most pixels."""
    with torch.inference_mode():
        logits = [backbones.segment(backbone, x).cpu() for x in inputs]
    winners = [one.argmax(1).numpy() for one in logits]
    label = strongest(backbone.labels, winners, logits) if asked is None else asked
    maps = [activations.class_activation(backbone, x, layer, label).cpu().numpy() for x in inputs]
    name, share = backbone.labels[label], np.mean([(one == label).mean() for one in winners])
    rule = "asked for" if asked is not None else "of all but background it wins most here"
    return [
        {
            "title": "predicted\nclass", "kind": "classes", "names": backbone.labels, "maps": winners,
            "note": "",
        },
        {
            "title": f"class activation\n{name}", "kind": "heat", "unit": "logit", "maps": maps,
            "note": f"Class activation: Grad-CAM (Selvaraju 2017) of {layer} for {name} ({rule}: {share:.1%} "
            "of pixels), over the pixels where it wins, or over all where it wins none.",
        },
    ]  # fmt: skip


def strongest(labels, winners: list[np.ndarray], logits: list[torch.Tensor]) -> int:
    """The class that wins most pixels, background aside; of equals the one with the larger mean logit."""
    counts = np.bincount(np.concatenate([one.ravel() for one in winners]), minlength=len(labels))
    strength = np.mean([one.mean((0, 2, 3)).numpy() for one in logits], axis=0)
    order = sorted(range(len(labels)), key=lambda k: (counts[k], strength[k]), reverse=True)
    return next((k for k in order if labels[k] not in BACKGROUND), order[0])
