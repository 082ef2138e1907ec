"""What a network's layers hold, and in numbers: capture, attention, CKA, rank, sparsity, AUC of channels.

    with Capture(net, ["encoder.layer.5"]) as capture:      # hooks go when the block ends
        net(x)
    capture.outputs["encoder.layer.5"]                      # (B, T, C)
    linear_cka(a, b); effective_rank(a); channel_auc(a, snow)        # a, b: (n, d) arrays; snow: (n,) bool

Needs torch, numpy and scipy. Streams (Moments, Sparsity, Sample) take batch after batch and hold memory that
depends on the channels alone. A `backbone` here is any object with net, patch, heads, prefix and a call that
runs the forward pass, such as models/backbones.py gives.
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


def as_rows(maps: torch.Tensor | np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """(B, C, h, w) -> (n, C) float32, a row a position; keep: (B, h, w) bool, only these."""
    maps = np.asarray(torch.as_tensor(maps).detach().float().cpu())
    rows = maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])
    return rows if keep is None else rows[np.asarray(keep, bool).ravel()]


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


# ---- numbers -----------------------------------------------------------------------------------------------


def linear_cka(x: np.ndarray, y: np.ndarray, unbiased: bool = False) -> float:
    """Similarity of two representations (n, d1) and (n, d2) of the same n things, 0 to 1.

    NaN if one is constant. |X'Y|^2 / (|X'X| |Y'Y|), columns centred (Kornblith 2019, 1905.00414, eq. 8): 1
    for rotations, shifts and scale of each other. It grows with d/n even for unrelated data; unbiased=True
    takes the estimator of Song 2012 (JMLR 13, 1393) for each of the three terms: about 0 for unrelated data,
    at times below. Raises ValueError for unequal n, and for n < 4 where unbiased.
    """
    # of more columns than rows, the triangle of QR has the same products between rows
    x, y = (
        np.linalg.qr(part.T, mode="r").T if part.shape[1] > len(part) else part
        for part in map(doubles, (x, y))
    )
    moments = Moments()
    moments.add(x, y)
    return moments.cka(unbiased)


def doubles(x: np.ndarray) -> np.ndarray:
    """Rows (n, d) as finite float64, else ValueError."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2:
        raise ValueError(f"rows have shape {x.shape}, expected (n, d)")
    if not np.isfinite(x).all():
        raise ValueError("rows hold NaN or infinity")
    return x


def effective_rank(x: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares of (n, d), columns centred; 1 to min(n - 1, d).

    Roy and Vetterli 2007 (EUSIPCO, 606-610): k for k equal singular values. NaN for constant rows.
    """
    x = doubles(x)
    return rank_of(np.linalg.svd(x - x.mean(0), compute_uv=False))


def rank_of(singular: np.ndarray) -> float:
    """exp of the entropy of the shares of singular values; those under rounding are zero."""
    singular = singular[singular > singular.max(initial=0) * 1e-7]  # sqrt of the rounding of second moments
    if not len(singular):
        return float("nan")
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


class Moments:
    """Second moments of pairs of rows, batch after batch: linear_cka and effective_rank of all rows, exactly.

    Memory: (d1 + d2)^2 doubles, whatever the number of rows. Sums are about the first batch's mean, so that a
    large offset costs no digits. y may be left out where only the rank of x is asked for.
    """

    def __init__(self):
        self.rows = 0

    def add(self, x: np.ndarray, y: np.ndarray | None = None) -> None:
        """x: (n, d1), y: (n, d2), rows paired; NaN and infinities raise ValueError."""
        x = doubles(x)
        y = x[:, :0] if y is None else doubles(y)
        if len(x) != len(y):
            raise ValueError(f"rows of shape {x.shape} and {y.shape}, expected (n, d1) and (n, d2)")
        if not len(x):
            return
        both = np.concatenate([x, y], axis=1)
        if not self.rows:
            self.split, width = x.shape[1], both.shape[1]
            self.origin, self.total, self.square = both.mean(0), np.zeros(width), np.zeros((width, width))
            self.norms, self.weighted = np.zeros((2, 2)), np.zeros((2, width))
        both -= self.origin
        lengths = np.stack([(both[:, : self.split] ** 2).sum(1), (both[:, self.split :] ** 2).sum(1)])  # 2 n
        self.rows += len(both)
        self.total += both.sum(0)
        self.square += both.T @ both
        self.norms += lengths @ lengths.T  # sum of |a|^2 |b|^2
        self.weighted += lengths @ both  # sum of |a|^2 b

    def effective_rank(self, which: str = "x") -> float:
        """As the function, of "x" or "y"."""
        if not self.rows:
            return float("nan")
        part = self.part(which)
        scatter = self.square[part, part] - np.outer(self.total[part], self.total[part]) / self.rows
        return rank_of(np.sqrt(np.maximum(np.linalg.eigvalsh(scatter), 0)))

    def cka(self, unbiased: bool = False) -> float:
        """As linear_cka."""
        if self.rows < (4 if unbiased else 2):
            raise ValueError(f"CKA needs at least {4 if unbiased else 2} rows, found {self.rows}")
        term = self.unbiased_hsic if unbiased else self.hsic
        of_x, of_y = term("x", "x"), term("y", "y")
        return float(term("x", "y") / np.sqrt(of_x * of_y)) if of_x > 0 and of_y > 0 else float("nan")

    def part(self, which: str) -> slice:
        return slice(None, self.split) if which == "x" else slice(self.split, None)

    def hsic(self, a: str, b: str) -> float:
        """|A'B|^2, columns centred."""
        a, b = self.part(a), self.part(b)
        return float(((self.square[a, b] - np.outer(self.total[a], self.total[b]) / self.rows) ** 2).sum())

    def unbiased_hsic(self, a: str, b: str) -> float:
        """n (n - 3) times Song's estimator, of K = AA' and L = BB' without their diagonals."""
        n, i, j = self.rows, "xy".index(a), "xy".index(b)
        a, b = self.part(a), self.part(b)
        product = (self.square[a, b] ** 2).sum() - self.norms[i, j]  # tr KL
        sum_k = self.total[a] @ self.total[a] - np.trace(self.square[a, a])  # 1'K1
        sum_l = self.total[b] @ self.total[b] - np.trace(self.square[b, b])
        both = (
            self.total[a] @ self.square[a, b] @ self.total[b]
            - self.total[a] @ self.weighted[j, a]
            - self.weighted[i, b] @ self.total[b]
            + self.norms[i, j]
        )  # 1'KL1
        return float(product + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 * both / (n - 2))


def sparsity(x: np.ndarray) -> dict[str, float | None]:
    """How few channels speak at a position, of (n, d): {"zero", "hoyer"}.

    zero: share of exact zeros; hoyer: mean over rows of (sqrt(d) - L1/L2) / (sqrt(d) - 1) (Hoyer 2004, JMLR
    5, 1457): 0 all equal, 1 a single channel; rows of zeros only count in "zero". None where there is nothing
    to judge.
    """
    stream = Sparsity()
    stream.add(x)
    return stream.result()


class Sparsity:
    """sparsity() of batch after batch."""

    def __init__(self):
        self.values = self.zeros = self.rows = 0
        self.hoyer = 0.0

    def add(self, x: np.ndarray) -> None:
        size = np.abs(np.asarray(x, np.float64))
        self.values += size.size
        self.zeros += int((size == 0).sum())
        size = size[size.any(1)]
        if len(size) and size.shape[1] > 1:
            root = np.sqrt(size.shape[1])
            size /= size.max(1, keepdims=True)
            self.hoyer += float(((root - size.sum(1) / np.sqrt((size**2).sum(1))) / (root - 1)).sum())
            self.rows += len(size)

    def result(self) -> dict[str, float | None]:
        return {
            "zero": self.zeros / self.values if self.values else None,
            "hoyer": self.hoyer / self.rows if self.rows else None,
        }


def channel_auc(x: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each channel of (n, d) as a score of `positive` (n,) bool: (d,) float64.

    The chance that a positive row's value exceeds a negative one's, ties half (Hanley and McNeil 1982,
    10.1148/radiology.143.1.7063747). The sign is kept: 0.1 separates as well as 0.9, with low values for
    positives. NaN where a class is absent, and in channels with NaN.
    """
    x, positive = np.asarray(x, np.float32), np.asarray(positive, bool)
    if x.ndim != 2 or positive.shape != x.shape[:1]:
        raise ValueError(
            f"values of shape {x.shape} and labels of {positive.shape}, expected (n, d) and (n,)"
        )
    result = np.full(x.shape[1], np.nan)
    if positive.all() or not positive.any():
        return result
    high, low = np.sort(x[positive].T, axis=1), np.sort(x[~positive].T, axis=1)  # d n
    for channel, (above, below) in enumerate(zip(high, low, strict=True)):
        if not np.isnan(above[-1]) and not np.isnan(below[-1]):
            wins = np.searchsorted(below, above, "left").sum() + np.searchsorted(below, above, "right").sum()
            result[channel] = wins / 2 / (len(above) * len(below))
    return result


def best_channels(auc: np.ndarray, count: int = 5) -> list[tuple[int, float]]:
    """(channel, AUC) of the channels farthest from 0.5 to either side; channels with NaN never."""
    order = np.argsort(-np.nan_to_num(np.abs(np.asarray(auc) - 0.5), nan=-1), kind="stable")
    return [(int(i), float(auc[i])) for i in order[:count] if not np.isnan(auc[i])]


class Sample:
    """At most `capacity` random rows of each class, batch after batch, for channel_auc of a set of any size.

    While a class has no more rows than that, all are held and the AUC is exact. A row's chance does not
    depend on the order of the batches: each has a random key from (seed, key of its image), and the smallest
    keys stay.
    """

    def __init__(self, capacity: int = 8192, seed: int = 0):
        self.capacity, self.seed = capacity, seed
        self.seen = [0, 0]
        self.held: list[tuple | None] = [None, None]

    def add(self, x: np.ndarray, positive: np.ndarray, key: int) -> None:
        """x: (n, d) of one image; positive: (n,) bool; key: a number of the image, the same in any order."""
        positive = np.asarray(positive, bool)
        draws = np.random.default_rng((self.seed, key)).random(len(x))
        for label in (0, 1):
            chosen = positive == bool(label)
            self.seen[label] += int(chosen.sum())
            rows, keys = np.asarray(x, np.float32)[chosen], draws[chosen]
            if self.held[label] is not None:
                rows, keys = (np.concatenate(p) for p in zip(self.held[label], (rows, keys), strict=True))
            order = np.argsort(keys, kind="stable")[: self.capacity]
            self.held[label] = rows[order], keys[order]

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """What is held: (n, d) float32 and (n,) bool."""
        parts = [
            (held[0], np.full(len(held[0]), bool(i))) for i, held in enumerate(self.held) if held is not None
        ]
        return (
            tuple(np.concatenate(p) for p in zip(*parts, strict=True))
            if parts
            else (np.empty((0, 0)), np.empty(0, bool))
        )

    def auc(self) -> np.ndarray:
        return channel_auc(*self.rows())
