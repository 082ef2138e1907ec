"""What a figure shows of a backbone for RGB and SAR pictures of the same places: maps, as plain arrays.

Needs torch, numpy, and activations, backbones and layer_numbers of models. `inputs`: prepared images
(2, 3, h, w) of each place, RGB then SAR. A view is a dict: title; kind ("colour": maps (h, w, 3) of 0..1,
"heat": numbers (h, w) with a `unit`, "classes": class numbers (h, w) with `names`); maps, a pair (RGB, SAR) a
place; note.
"""

from collections import Counter

import numpy as np
import torch

from models import activations, backbones, layer_numbers

SHOWN_DEPTHS, SHOWN_CHANNELS = 4, 6  # of feature maps
NOTE = (
    "Feature maps: of the first triplet; above each its channel and the AUC in RGB and in SAR with which "
    "it tells snow from bare ground within triplets (below 0.5: low on snow). They are the best of RGB and "
    "of SAR in turn, chosen on these same triplets: their AUC are optimistic; layers.csv has those of "
    "channels chosen on other sites. RGB and SAR of a channel share one scale, its 1 to 99 %."
)
BACKGROUND = ("background", "__background__")


def shapes(backbone) -> list[tuple[str, str, tuple | None]]:
    """(name, kind, shape of what one blank square image gives) of every layer."""
    kinds = dict(backbones.layers(backbone))
    x = backbones.prepare(backbone, np.zeros((1, backbone.size, backbone.size, 3), np.uint8))
    with torch.no_grad(), activations.Capture(backbone.net, kinds, lambda out: tuple(out.shape)) as capture:
        backbone(x)
    return [(name, kind, capture.outputs.get(name)) for name, kind in kinds.items()]


def bytes_of(backbone, names, sizes: list[tuple[int, int]]) -> int:
    """Bytes of these layers' outputs for RGB and SAR images of (height, width) each, float32."""
    counts = Counter(backbones.input_size(backbone, *size) for size in sizes)
    return sum(
        2 * count * sum(activations.size_of(backbone, names, size).values()) for size, count in counts.items()
    )


def class_number(text: str | None, backbone) -> int | None:
    """Of a class's name or number, None of None; ValueError for a class the head does not have."""
    names = list(backbone.labels)
    if text is None or text in names:
        return None if text is None else names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    known = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    raise ValueError(f"{backbone.name} has no such class; it has {known}")


def all_of(
    backbone, inputs: list[torch.Tensor], layers: list[dict], attention_layer: int, label: int | None
) -> tuple[list[dict], list[dict], list[dict], str]:
    """Views of all places, attention head by head (or none), feature maps of some depths, and a note on all.

    layers: {"row", "best"} of each measured layer, as layer_numbers gives them; label: the class asked for.
    """
    measured = {layer["row"]["layer"]: layer for layer in layers if layer["row"]["layer"] != "input"}
    names = list(measured)
    deep = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, SHOWN_DEPTHS).round().astype(int))]
    middle, last = names[len(names) // 2], names[-1]
    maps = layer_maps(backbone, inputs, dict.fromkeys([*deep, middle, last]))
    views, heads = [pca(maps[last], last, "common")], []
    views += [pca(maps[name], name, "centred") for name in dict.fromkeys([last, middle])]
    if backbone.heads:
        found, heads = attention(backbone, inputs, attention_layer)
        views += found
    kinds = dict(backbones.layers(backbone))
    under_head = [name for name in backbones.blocks(backbone) if kinds[name] == "map"]
    if backbone.labels and under_head:
        views += classes(backbone, inputs, under_head[-1], label)
    depths = [feature_maps(maps[name], measured[name]["row"], measured[name]["best"]) for name in deep]
    return views, heads, depths, " ".join([*(view["note"] for view in views if view["note"]), NOTE])


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


def attention(backbone, inputs: list[torch.Tensor], layer: int = -1) -> tuple[list[dict], list[dict]]:
    """The class token's attention in a layer (-1: the last) and its rollout, in multiples of even attention.

    Second: that attention head by head.
    """

    def pairs(function):
        maps = [function(x) for x in inputs]
        return [(one * (backbone.prefix + one.shape[-2] * one.shape[-1])).cpu().numpy() for one in maps]

    each = pairs(lambda x: activations.attention_maps(backbone, x, layer))  # 2 heads h w a place
    rollout = pairs(lambda x: activations.attention_rollout(backbone, x))
    name = "last layer" if layer == -1 else f"layer {layer}"
    heads = [
        {
            "title": f"head {head}", "kind": "heat", "unit": "times even", "note": "",
            "maps": [one[:, head] for one in each],
        }
        for head in range(backbone.heads)
    ]  # fmt: skip
    views = [
        {
            "title": f"attention,\n{name}", "kind": "heat", "unit": "times even",
            "maps": [one.mean(1) for one in each],
            "note": f"Attention: of the class token of the {name} to the patches, mean over heads; 1: spread "
            "evenly.",
        },
        {
            "title": "attention\nrollout", "kind": "heat", "unit": "times even", "maps": rollout,
            "note": "Rollout: attention followed through all layers (Abnar and Zuidema 2020).",
        },
    ]  # fmt: skip
    return views, heads


def feature_maps(maps: list[np.ndarray], row: dict, best: list[dict]) -> dict:
    """Maps of the best channels of a layer, or of the first where none is known, for the first place."""
    shown = layer_numbers.best_in_turn(best, SHOWN_CHANNELS)
    shown = shown or [(channel, []) for channel in range(min(SHOWN_CHANNELS, row["channels"]))]
    return {
        "title": f"{row['layer']}: {row['channels']} channels, {row['map']}",
        "channels": [
            {"title": f"{k}\n" + " ".join(f"{auc:.2f}" for auc in both), "maps": maps[0][:, k]}
            for k, both in shown
        ],
    }


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
