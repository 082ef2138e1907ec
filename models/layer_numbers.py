"""Numbers of a layer from RGB and SAR pictures of the same places: CKA, rank, sparsity, AUC of channels.

    # one batch, uint8 (B, 2, H, W, 3) and (B, H, W); kinds: {layer: kind} of backbones.layers
    values, cells, whole = look(backbone, kinds, images, masks, seen, seed=0)
    layer = Numbers()
    layer.add(rgb, sar, valid, share, group=0)              # image by image: rows (P, C), P positions
    row, areas = layer.result()

Needs torch, numpy, scipy and of models: activations, backbones, representations, training. Memory depends on
the channels and the groups of sites, not on the number of images.
"""

import contextlib
import functools

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import stdtrit

from models import activations, backbones, training
from models.representations import Moments, Sparsity, best_channels, channel_wins

MODALITIES = ("RGB", "SAR")
PLACED = ("map", "tokens", "patches")  # kinds of layers whose output has a place in the image
POSITIONS = 1024  # of a map that count, the same in every image; a transformer's patches are fewer: all count
SITES_A_HALF = 3  # least that judge a channel: of 2, one degree of freedom, an interval is as wide as 0 to 1

# ---- one batch ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def chosen_cells(size: tuple[int, int], seed: int) -> np.ndarray:
    """Flat indices of at most POSITIONS cells of a map (h, w), in order."""
    cells = np.random.default_rng((seed, *size)).permutation(size[0] * size[1])[:POSITIONS]
    return np.sort(cells)


def rows_of(maps: torch.Tensor, seed: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """float32 rows (B, P, C) at the chosen positions of maps (B, C, h, w), and (h, w)."""
    size = tuple(maps.shape[-2:])
    cells = torch.from_numpy(chosen_cells(size, seed)).to(maps.device)
    return maps.flatten(2)[..., cells].transpose(1, 2).float().cpu(), size


def cells_of(
    masks: np.ndarray, seen: np.ndarray, size: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of the chosen positions of a map: valid (B, P) bool and share of snow (B, P), NaN without label.

    masks: uint8 (B, H, W) of 0, 1, 255; seen: bool (B, H, W), where RGB and SAR have data. A position is
    valid, or has a label, where at least half of its pixels are or have.
    """
    chosen, valid, shares = chosen_cells(size, seed), [], []
    for mask, lit in zip(masks, seen, strict=True):
        valid.append(activations.pool_mask(np.where(lit, 1, 255), size)[1].ravel()[chosen])
        shares.append(activations.pool_mask(np.where(lit, mask, 255), size)[0].ravel()[chosen])
    return np.stack(valid), np.stack(shares)


def look(
    backbone, kinds: dict[str, str], images: np.ndarray, masks: np.ndarray, seen: np.ndarray,
    seed: int, whole: bool = False, dtype=None,
):  # fmt: skip
    """What the layers of one batch hold at the chosen positions.

    kinds: {layer: kind}; images: uint8 (B, 2, H, W, 3), RGB and SAR; masks: uint8 (B, H, W); seen: bool
    (B, H, W); whole: give the layers' whole outputs too; dtype: of autocast, None without.
    Three dicts by layer: rows (2 B, P, C), RGB first, with (h, w) of the map, "input" first, which is the
    picture as coarse as the last layer; by (h, w): cells_of; and whole outputs with their kind, or none.
    """
    pictures = np.concatenate([images[:, 0], images[:, 1]])
    x = backbones.prepare(backbone, pictures)

    def keep(output, kind):
        maps = backbones.as_map(backbone, output, x) if kind in PLACED else None
        rows = None if maps is None else rows_of(maps, seed)
        return {"rows": rows, "whole": output.cpu() if whole else None}

    with contextlib.ExitStack() as stack:
        captures = [
            activations.Capture(backbone.net, [name], functools.partial(keep, kind=kind))
            for name, kind in kinds.items()
        ]
        for capture in captures:
            stack.enter_context(capture)
        with torch.inference_mode(), training.autocast(x.device, dtype):
            backbone(x)
    held = {name: kept for capture in captures for name, kept in capture.outputs.items()}
    values = {name: kept["rows"] for name, kept in held.items() if kept["rows"]}
    if values:
        coarse = F.adaptive_avg_pool2d(x, list(values.values())[-1][1])
        values = {"input": rows_of(coarse, seed), **values}
    sizes = {size for _, size in values.values()}
    cells = {size: cells_of(masks, seen, size, seed) for size in sizes}
    outputs = {name: (kept["whole"], kinds[name]) for name, kept in held.items()} if whole else {}
    return values, cells, outputs


# ---- all images of a layer ---------------------------------------------------------------------------------


class Numbers:
    """What is counted of one layer, image after image."""

    def __init__(self):
        self.pairs, self.others = Moments(), Moments()
        self.sparsity = {modality: Sparsity() for modality in MODALITIES}
        self.areas = {modality: WithinAuc() for modality in MODALITIES}
        self.previous, self.cells = None, [0, 0]

    def add(self, rgb, sar, valid, share, group: int) -> None:
        """One image: rows (P, C) of RGB and of SAR, valid (P,) bool, share of snow (P,) with NaN.

        group: of its site. The image before is the "other" one whose SAR its RGB is compared with. Raises
        ValueError for NaN or infinity at a valid position.
        """
        rgb, sar = (np.asarray(rows, np.float32) for rows in (rgb, sar))
        self.pairs.add(rgb[valid], sar[valid])
        if self.previous is not None and self.previous[0].shape == sar.shape:
            both = valid & self.previous[1]
            self.others.add(rgb[both], self.previous[0][both])
        self.previous = sar, valid
        known = valid & np.isfinite(share)
        snow = share[known] >= 0.5
        self.cells = [self.cells[0] + int((~snow).sum()), self.cells[1] + int(snow.sum())]
        for modality, rows in zip(MODALITIES, (rgb, sar), strict=True):
            self.sparsity[modality].add(rows[valid])
            self.areas[modality].add(rows[known], snow, group)

    def result(self) -> tuple[dict, dict]:
        """A row of numbers, None = not known, and {modality: (AUC of each channel, [those on either half])}.

        cka: linear, of RGB and SAR at the same positions; cka_other: with the SAR of another image, which is
        what position in the picture alone accounts for. auc: within images, of the best channel, chosen on
        the images it is of, below 0.5 if snow is low; held_out_auc: WithinAuc.held_out, with its interval;
        auc_sites, auc_images: those that hold both classes.
        """
        row = {"positions": self.pairs.rows, "bare_positions": self.cells[0], "snow_positions": self.cells[1]}
        groups = self.areas["RGB"].groups.values()
        row |= {"auc_sites": len(groups), "auc_images": sum(images for _, _, images in groups)}
        for name, moments in (("cka", self.pairs), ("cka_other", self.others)):
            row[name] = moments.cka() if moments.rows >= 2 else None
            row[f"{name}_unbiased"] = moments.cka(unbiased=True) if moments.rows >= 4 else None
        areas = {}
        for which, modality in zip("xy", MODALITIES, strict=True):
            short, found = modality.lower(), self.sparsity[modality].result()
            row[f"effective_rank_{short}"] = self.pairs.effective_rank(which)
            row[f"zeros_{short}"], row[f"hoyer_{short}"] = found["zero"], found["hoyer"]
            within = self.areas[modality]
            areas[modality] = within.auc(within.groups), [within.auc(half) for half in within.halves()]
            best = best_channels(areas[modality][0], 1) or [(None, None)]
            row[f"best_channel_{short}"], row[f"auc_{short}"] = best[0]
            for name, value in zip(("", "_low", "_high"), within.held_out(), strict=True):
                row[f"held_out_auc_{short}{name}"] = value
        return {key: None if value != value else value for key, value in row.items()}, areas


class WithinAuc:
    """AUC of channels among positions of one image, summed over the images of each group of sites.

    Positions of different images are never compared, so that what sets a whole image or site apart, such as
    its light or its soil, neither helps nor harms a channel. Images weigh by their pairs of snow and bare.
    """

    def __init__(self):
        self.groups: dict[int, tuple] = {}  # wins (C,), pairs, images; of groups with both classes

    def add(self, rows: np.ndarray, snow: np.ndarray, group: int) -> None:
        """One image: rows (n, C), snow (n,) bool."""
        wins, pairs = channel_wins(rows, snow)
        self.channels = len(wins)
        if pairs:
            before = self.groups.get(group, (0, 0, 0))
            self.groups[group] = before[0] + wins, before[1] + pairs, before[2] + 1

    def auc(self, groups) -> np.ndarray:
        """(C,), NaN where no image of the groups holds both classes."""
        if not groups:
            return np.full(getattr(self, "channels", 0), np.nan)
        return sum(self.groups[g][0] for g in groups) / sum(self.groups[g][1] for g in groups)

    def halves(self) -> tuple[list[int], list[int]]:
        """Every other group of those that hold both classes."""
        groups = sorted(self.groups)
        return groups[::2], groups[1::2]

    def held_out(self) -> tuple[float | None, float | None, float | None]:
        """AUC of the channel (and sign) best on one half of sites, on the other, mean of both ways; 95 %.

        The best of many channels is above 0.5 by chance where it was chosen: on sites it was not chosen on
        it is 0.5, if all it holds is noise. The interval is of the sites it is judged on: jackknife over
        sites (Efron and Stein 1981), Student's t with Satterthwaite's (1946) degrees of freedom; a percentile
        bootstrap of 3 or 4 sites would be too narrow. None where a half has under SITES_A_HALF.
        """
        halves = self.halves()
        if min(map(len, halves)) < SITES_A_HALF:
            return None, None, None
        areas, variances, freedoms = [], [], []
        for chosen_on, judged_on in (halves, halves[::-1]):
            channel, chosen = best_channels(self.auc(chosen_on), 1)[0]
            wins, pairs = np.array([[self.groups[g][0][channel], self.groups[g][1]] for g in judged_on]).T
            wins = wins if chosen >= 0.5 else pairs - wins
            without = (wins.sum() - wins) / (pairs.sum() - pairs)
            areas.append(wins.sum() / pairs.sum())
            freedoms.append(len(pairs) - 1)
            variances.append(freedoms[-1] * np.var(without))
        area, variance = sum(areas) / 2, sum(variances)
        parts = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
        freedom = variance**2 / parts if parts else sum(freedoms)
        reach = stdtrit(freedom, 0.975) * np.sqrt(variance) / 2
        return float(area), float(max(area - reach, 0)), float(min(area + reach, 1))


# ---- the best channels -------------------------------------------------------------------------------------


def best_rows(areas: dict, count: int) -> list[dict]:
    """The `count` channels of each modality that tell snow best: AUC there, in the other, on either half."""
    rows = []
    for modality, (whole, parts) in areas.items():
        other = areas[MODALITIES[modality == "RGB"]][0]
        for rank, (channel, area) in enumerate(best_channels(whole, count), 1):
            row = {"modality": modality, "rank": rank, "channel": channel, "auc": area}
            row |= {"auc_other_modality": float(other[channel])}
            row |= {f"auc_half_{k}": float(part[channel]) for k, part in enumerate(parts)}
            rows.append({key: None if value != value else value for key, value in row.items()})
    return rows


def best_in_turn(best: list[dict], count: int) -> list[tuple[int, list[float]]]:
    """(channel, [its AUC in RGB and in SAR]) of best_rows: the best of RGB and of SAR in turn.

    In both modalities the same images hold both classes, so that no AUC is missing.
    """
    found: dict[int, list[float]] = {}
    for row in sorted(best, key=lambda row: (row["rank"], MODALITIES.index(row["modality"]))):
        both = [row["auc"], row["auc_other_modality"]]
        found.setdefault(row["channel"], both if row["modality"] == "RGB" else both[::-1])
    return list(found.items())[:count]
