"""What a network does inside: outputs of its layers, attention, class activation, features as colour.

    with Capture(net, ["encoder.layer.5"]) as capture:      # hooks go when the block ends
        net(x)
    capture.outputs["encoder.layer.5"]                      # (B, T, C)

Needs torch and numpy. A `backbone` here is any object with net, patch, heads, prefix and a call that runs the
forward pass, such as models/backbones.py gives. What the rows hold, in numbers: models/representations.py.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

QUERY_KEY = (("q_proj", "k_proj"), ("query", "key"))  # transformers 5; transformers 4


# ---- capture -----------------------------------------------------------------------------------------------


class Capture:
    """Context manager that keeps the outputs of named modules of a net; the pass itself is untouched.

    reduce: called in the hook with the output (the first tensor of a tuple or dict), so that only what it
    returns is held; without it the whole output is. What shares memory with the output is copied: a later
    in-place ReLU would change it, and a slice would hold the whole. outputs: name -> what the last forward
    pass gave, and of a module that runs several times in a pass (torchvision's shared ReLU) what its last run
    gave. Without names there is no hook and no cost. Raises ValueError for a name the net does not have.
    """

    def __init__(self, net: nn.Module, names: Iterable[str], reduce: Callable | None = None):
        names = list(dict.fromkeys(names))
        modules = dict(net.named_modules()) if names else {}
        for name in names:
            if name not in modules:
                raise ValueError(f"{type(net).__name__} has no layer {name!r}")
        self.modules = {name: modules[name] for name in names}
        self.reduce = reduce
        self.outputs: dict[str, torch.Tensor] = {}
        self.handles = []

    def __enter__(self) -> "Capture":
        for name, module in self.modules.items():
            self.handles.append(module.register_forward_hook(self.hook(name)))
        return self

    def __exit__(self, *error) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def hook(self, name: str):
        def keep(module, arguments, output):
            output = first_tensor(output)
            if output is None:
                return
            output = output.detach()
            kept = output if self.reduce is None else self.reduce(output)
            self.outputs[name] = apart(kept, output)

        return keep


def first_tensor(output) -> torch.Tensor | None:
    """The tensor a module gives, the first one of a tuple, a list or a dict; None where there is none."""
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    found = values if isinstance(output, (dict, tuple, list)) else ()
    return next((value for value in map(first_tensor, found) if value is not None), None)


def apart(kept, output: torch.Tensor):
    """`kept` without memory of `output`; tuples, lists and dicts are searched."""
    if isinstance(kept, torch.Tensor):
        shared = kept.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
        return kept.clone() if shared else kept
    if isinstance(kept, np.ndarray):
        return kept.copy() if kept.base is not None else kept
    if isinstance(kept, (tuple, list)):
        return type(kept)(apart(part, output) for part in kept)
    return {key: apart(part, output) for key, part in kept.items()} if isinstance(kept, dict) else kept


def size_of(backbone, names: Iterable[str], shape: tuple[int, int]) -> dict[str, int]:
    """Bytes one image takes in each layer, by one pass over one blank image of (h, w) input pixels."""
    parameter = next(backbone.net.parameters())
    x = torch.zeros(1, 3, *shape[-2:], device=parameter.device, dtype=parameter.dtype)
    capture = Capture(backbone.net, names, lambda output: output.numel() * output.element_size())
    with capture, torch.no_grad():
        backbone(x)
    return {name: capture.outputs.get(name, 0) for name in capture.modules}


# ---- attention ---------------------------------------------------------------------------------------------


class Attention:
    """Context manager that gives the attention of every layer to reduce(name, weights) as the pass runs.

    weights: (B, heads, T, T), float32, rows sum to 1: softmax(q k' / sqrt(d)), computed from the outputs of
    the query and key projections. The net keeps its own attention kernel, so that its outputs do not change,
    and one layer's weights are held at a time. Raises ValueError for a net without such projections.
    """

    def __init__(self, net: nn.Module, heads: int, reduce: Callable[[str, torch.Tensor], None]):
        self.heads, self.reduce, self.handles, self.waiting = heads, reduce, [], {}
        self.pairs = [
            (name, getattr(module, query), getattr(module, key))
            for name, module in net.named_modules()
            for query, key in QUERY_KEY
            if isinstance(getattr(module, query, None), nn.Linear) and hasattr(module, key)
        ]
        if not self.pairs or heads < 1:
            raise ValueError(f"{type(net).__name__} has no attention of queries and keys")

    def __enter__(self) -> "Attention":
        for name, query, key in self.pairs:
            self.handles += [
                query.register_forward_hook(self.hook(name, 0)),
                key.register_forward_hook(self.hook(name, 1)),
            ]
        return self

    def __exit__(self, *error) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.waiting.clear()

    def hook(self, name: str, place: int):
        def keep(module, arguments, output):
            pair = self.waiting.setdefault(name, {})
            pair[place] = output.detach()
            if len(pair) == 2:
                del self.waiting[name]
                self.reduce(name, attention_weights(pair[0], pair[1], self.heads))

        return keep


def attention_weights(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(q k' / sqrt(d)) of (B, T, heads * d): (B, heads, T, T) float32."""
    query, key = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))  # B heads T d
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)


def attention_maps(backbone, x: torch.Tensor, layer: int = -1) -> torch.Tensor:
    """What the class token looks at in one layer, per head: (B, heads, h, w); a map sums to at most 1.

    x: prepared images (B, 3, h * patch, w * patch). layer: number of the transformer layer, -1 the last.
    The rest of the sum went to the class and register tokens.
    """
    found = []
    look = Attention(
        backbone.net, backbone.heads, lambda name, weights: found.append(weights[:, :, 0].clone())
    )
    with look, torch.no_grad():
        backbone(x)
    return lay_out(backbone, found[layer], x)


def attention_rollout(backbone, x: torch.Tensor, layers: int | None = None) -> torch.Tensor:
    """What the class token draws on through all layers: (B, h, w); a map sums to at most 1.

    Abnar and Zuidema 2020 (10.18653/v1/2020.acl-main.385): the product over layers of 0.5 A + 0.5 I, A the
    mean over heads, I the residual connection. layers: only the first so many. A few
    patches may take most of it (Darcet 2023, 2309.16588): end a picture's scale at a percentile.
    """
    found = []

    def multiply(name, weights):
        if layers is None or len(seen) < layers:
            mixed = rollout_step(weights)
            found[:] = [mixed @ found[0] if found else mixed]
        seen.append(name)

    seen = []
    with Attention(backbone.net, backbone.heads, multiply), torch.no_grad():
        backbone(x)
    return lay_out(backbone, found[0][:, 0], x)


def rollout_step(weights: torch.Tensor) -> torch.Tensor:
    """(B, heads, T, T) -> (B, T, T): half the mean attention, half the residual; rows sum to 1."""
    return (weights.mean(1) + torch.eye(weights.shape[-1], device=weights.device)) / 2


def lay_out(backbone, row: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(..., T) weights of tokens as (..., h, w) of the patches."""
    height, width = x.shape[-2] // backbone.patch, x.shape[-1] // backbone.patch
    return row[..., backbone.prefix :].unflatten(-1, (height, width))


# ---- pictures of a layer -----------------------------------------------------------------------------------


def patch_pca(
    rgb: list[np.ndarray], sar: list[np.ndarray], basis: str = "common"
) -> tuple[list[np.ndarray], list[np.ndarray], dict]:
    """The first three principal components of the channels as colour: lists of (h, w, 3) in 0..1.

    rgb, sar: maps (C, h, w) of a layer. basis: "common", one basis and one mean for both: equal colours are
    equal features, and the first component is often the gap between the two; "centred", one basis, each its
    own mean: the gap taken out; "own", each its own basis: colours of RGB and SAR cannot be compared. A
    component spans 2 to 98 % of its values over the images that share the basis; its sign is that of its
    largest loading. Third result: {"basis", "explained": {"rgb", "sar"}}, shares of each group's own variance
    about its mean.
    """
    if basis not in ("common", "centred", "own"):
        raise ValueError(f"basis is {basis!r}, expected common, centred or own")
    rows = [np.concatenate([m.reshape(len(m), -1).T for m in maps]).astype(np.float64) for maps in (rgb, sar)]
    means = [part.mean(0) for part in rows]
    if basis == "common":
        means = [np.concatenate(rows).mean(0)] * 2
    centred = [part - mean for part, mean in zip(rows, means, strict=True)]
    axes = (
        [first_axes(part) for part in centred]
        if basis == "own"
        else [first_axes(np.concatenate(centred))] * 2
    )
    scores = [part @ axis for part, axis in zip(centred, axes, strict=True)]
    explained = {
        name: round_share(score.var(0).sum(), part.var(0).sum())
        for name, score, part in zip(("rgb", "sar"), scores, centred, strict=True)
    }
    spans = [scores[0], scores[1]] if basis == "own" else [np.concatenate(scores)] * 2
    pictures = []
    for score, span, maps in zip(scores, spans, (rgb, sar), strict=True):
        low, high = np.percentile(span, (2, 98), axis=0)
        colour = np.clip((score - low) / np.where(high > low, high - low, 1), 0, 1).astype(np.float32)
        ends = np.cumsum([m[0].size for m in maps])[:-1]
        pictures.append(
            [c.reshape(*m.shape[1:], 3) for c, m in zip(np.split(colour, ends), maps, strict=True)]
        )
    return pictures[0], pictures[1], {"basis": basis, "explained": explained}


def first_axes(rows: np.ndarray, count: int = 3) -> np.ndarray:
    """(C, count) principal directions of centred rows (n, C); zeros where there are fewer than `count`."""
    vectors = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :count]
    vectors = np.pad(vectors, ((0, 0), (0, count - vectors.shape[1])))
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return vectors * np.where(largest < 0, -1, 1)


def round_share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def class_activation(
    backbone, x: torch.Tensor, layer: str, label: int, where: torch.Tensor | None = None
) -> torch.Tensor:
    """Grad-CAM of a segmentation head: where a layer speaks for a class; (B, h, w) >= 0, in logits.

    Selvaraju 2017 (10.1109/ICCV.2017.74), for segmentation Vinogradova 2020 (10.1609/aaai.v34i10.7244):
    channels weighted by the gradient of the class's logit, averaged over the pixels `where` ((B, h', w')
    bool, of the logits' size), by default those where the class wins, or all of an image where it wins
    nowhere.
    """
    held = {}

    def leaf(module, arguments, output):
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            raise ValueError(f"class activation needs a layer with maps (B, C, h, w), {layer} gives none")
        held["map"] = output.detach().requires_grad_()
        return held["map"].clone()  # the net may work on it in place

    modules = dict(backbone.net.named_modules())
    if layer not in modules:
        raise ValueError(f"{type(backbone.net).__name__} has no layer {layer!r}")
    handle = modules[layer].register_forward_hook(leaf)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = backbone(x.clone())["logits"]  # B K h' w'
            if where is None:
                where = logits.argmax(1) == label
            where = where.to(logits.device).float()
            where = torch.where(where.sum((1, 2), keepdim=True) > 0, where, torch.ones_like(where))
            score = ((logits[:, label] * where).sum((1, 2)) / where.sum((1, 2))).sum()
            gradient = torch.autograd.grad(score, held["map"], allow_unused=True)[0] if held else None
    finally:
        handle.remove()
    if gradient is None:
        raise ValueError(f"the logits do not depend on layer {layer!r}")
    # the sum of the gradients, not their mean: before a 1 x 1 head the map is the class's logit less its bias
    return (gradient.sum((2, 3), keepdim=True) * held["map"].detach()).sum(1).relu()


# ---- rows of a layer ---------------------------------------------------------------------------------------


def pool_mask(mask: np.ndarray, size: tuple[int, int], no_data: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """A mask (H, W) of 0, 1 and no data brought to a layer's grid: share of 1 (h, w), and where it counts.

    The mask is pooled to the map, not the map stretched to the mask: neighbours that are one activation would
    count as many. A cell counts if at least half of it has data; its share is of that part, NaN where it does
    not count. Where the grid is finer than the mask, cells repeat pixels.
    """
    valid = mask != no_data
    parts = torch.from_numpy(np.stack([valid & (mask == 1), valid]).astype(np.float64))
    ones, data = F.adaptive_avg_pool2d(parts, size).numpy()
    counts = data >= 0.5
    return np.where(counts, ones / np.maximum(data, 1e-12), np.nan), counts
