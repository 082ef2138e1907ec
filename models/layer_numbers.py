"""Numbers of a layer from RGB and SAR pictures of the same places: CKA, rank, sparsity, AUC of channels.

    layer = Numbers(seed=0)
    rows, size = rows_of(maps, seed=0)                     # maps (2 B, C, h, w): B of RGB, then B of SAR
    valid, share = cells_of(masks, seen, size, seed=0)     # masks and seen (B, H, W)
    layer.add(rows[0], rows[B], valid[0], share[0], half=0, key=0)    # image by image
    row, areas = layer.result()

Needs torch, numpy, models/activations.py and models/representations.py. Memory depends on the channels, not
on the number of images.
"""

import functools

import numpy as np
import torch

from models.activations import pool_mask
from models.representations import Moments, Sample, Sparsity, best_channels, channel_auc

MODALITIES = ("RGB", "SAR")
POSITIONS = 1024  # of a map that count, the same in every image; a transformer's patches are fewer: all count
AUC_ROWS = 2048  # positions of either class, drawn over all images, from which AUC are computed


@functools.lru_cache(maxsize=64)
def positions(size: tuple[int, int], seed: int) -> np.ndarray:
    """Flat indices of at most POSITIONS cells of a map (h, w), in order."""
    cells = np.random.default_rng((seed, *size)).permutation(size[0] * size[1])[:POSITIONS]
    return np.sort(cells)


def rows_of(maps: torch.Tensor, seed: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """float32 rows (B, P, C) at the chosen positions of maps (B, C, h, w), and (h, w)."""
    size = tuple(maps.shape[-2:])
    cells = torch.from_numpy(positions(size, seed)).to(maps.device)
    return maps.flatten(2)[..., cells].transpose(1, 2).float().cpu(), size


def cells_of(
    masks: np.ndarray, seen: np.ndarray, size: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of the chosen positions of a map: valid (B, P) bool and share of snow (B, P), NaN without label.

    masks: uint8 (B, H, W) of 0, 1, 255; seen: bool (B, H, W), where RGB and SAR have data. A position is
    valid, or has a label, where at least half of its pixels are or have.
    """
    chosen, valid, shares = positions(size, seed), [], []
    for mask, lit in zip(masks, seen, strict=True):
        valid.append(pool_mask(np.where(lit, 1, 255), size)[1].ravel()[chosen])
        shares.append(pool_mask(np.where(lit, mask, 255), size)[0].ravel()[chosen])
    return np.stack(valid), np.stack(shares)


class Numbers:
    """What is counted of one layer, image after image."""

    def __init__(self, seed: int):
        self.pairs, self.others = Moments(), Moments()
        self.sparsity = {modality: Sparsity() for modality in MODALITIES}
        self.samples = {modality: Sample(AUC_ROWS, seed) for modality in MODALITIES}
        self.previous, self.cells = None, [0, 0]

    def add(self, rgb, sar, valid, share, half: int, key: int) -> None:
        """One image: rows (P, C) of RGB and of SAR, valid (P,) bool, share of snow (P,) with NaN.

        half: 0 or 1, the group in which a channel is chosen to be judged on the other; key: a number of the
        image. The image before is the "other" one whose SAR its RGB is compared with. Raises ValueError for
        NaN or infinity at a valid position.
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
            marked = np.column_stack([rows[known], np.full(len(snow), half, np.float32)])
            self.samples[modality].add(marked, snow, key)

    def result(self) -> tuple[dict, dict]:
        """A row of numbers, None = not known, and {modality: (AUC of each channel, [those on either half])}.

        cka: linear, of RGB and SAR at the same positions; cka_other: with the SAR of another image, which is
        what position in the picture alone accounts for. auc: of the best channel, below 0.5 if snow is low;
        held_out_auc: of the channel best on one half, with its sign, on the other half, mean of both ways.
        """
        row = {"positions": self.pairs.rows, "bare_positions": self.cells[0], "snow_positions": self.cells[1]}
        for name, moments in (("cka", self.pairs), ("cka_other", self.others)):
            row[name] = moments.cka() if moments.rows >= 2 else None
            row[f"{name}_unbiased"] = moments.cka(unbiased=True) if moments.rows >= 4 else None
        areas = {}
        for which, modality in zip("xy", MODALITIES, strict=True):
            short, found = modality.lower(), self.sparsity[modality].result()
            row[f"effective_rank_{short}"] = self.pairs.effective_rank(which)
            row[f"zeros_{short}"], row[f"hoyer_{short}"] = found["zero"], found["hoyer"]
            rows, snow = self.samples[modality].rows()
            values, half = (rows[:, :-1], rows[:, -1]) if len(rows) else (np.zeros((0, 0)), np.zeros(0))
            parts = [channel_auc(values[half == k], snow[half == k]) for k in (0, 1)]
            areas[modality] = channel_auc(values, snow), parts
            best = best_channels(areas[modality][0], 1) or [(None, None)]
            row[f"best_channel_{short}"], row[f"auc_{short}"] = best[0]
            row[f"held_out_auc_{short}"] = held_out(*parts)
        return {key: None if value != value else value for key, value in row.items()}, areas


def held_out(one: np.ndarray, other: np.ndarray) -> float | None:
    """Mean AUC of the channel (and sign) best on one half, on the other half, and the other way round.

    The best of many channels is above 0.5 by chance alone: this is not. None where a half lacks a class.
    """
    found = []
    for chosen_on, judged_on in ((one, other), (other, one)):
        best = best_channels(chosen_on, 1)
        if not best:
            return None
        channel, area = best[0]
        found.append(judged_on[channel] if area >= 0.5 else 1 - judged_on[channel])
    return float(sum(found) / 2)


def best_rows(areas: dict, count: int) -> list[dict]:
    """The `count` channels of each modality that tell snow best: AUC there, in the other, on either half."""
    rows = []
    for modality, (whole, parts) in areas.items():
        other = areas[MODALITIES[modality == "RGB"]][0]
        for rank, (channel, area) in enumerate(best_channels(whole, count), 1):
            row = {"modality": modality, "rank": rank, "channel": channel, "auc": area}
            row |= {"auc_other_modality": other[channel]}
            row |= {f"auc_half_{k}": part[channel] for k, part in enumerate(parts)}
            rows.append({key: None if value != value else value for key, value in row.items()})
    return rows


def by_turns(areas: dict, count: int) -> list[tuple[int, list[float]]]:
    """(channel, [its AUC in RGB and in SAR]) of the best of RGB and of SAR by turns, `count` in all."""
    both = [areas[modality][0] for modality in MODALITIES]
    ranked = [[channel for channel, _ in best_channels(whole, count)] for whole in both]
    turns = dict.fromkeys(channel for pair in zip(*ranked, strict=False) for channel in pair)
    return [(channel, [float(whole[channel]) for whole in both]) for channel in list(turns)[:count]]
