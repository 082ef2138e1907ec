"""Segmentation losses over logits that ignore 255. Needs torch only.

Each loss is a sum divided once by a count that the caller gives (of the whole batch, however it is cut into
micro-batches or spread over processes), so accumulation and ranks change nothing. Sums are made in float32.
"""

import torch
import torch.nn.functional as F

NO_DATA = 255
LOSSES = ("bce-dice", "bce", "dice", "focal", "focal-dice", "tversky")
FOCAL_GAMMA = 2.0  # Lin 2017 (10.1109/ICCV.2017.324)
TVERSKY_MISSED = 0.7  # weight of missed snow against false snow, Salehi 2017 (10.1007/978-3-319-67389-9_44)


def count_valid(mask: torch.Tensor) -> tuple[int, int]:
    """(pixels, images) of (B, H, W) that have a label: what the sums are divided by."""
    valid = mask != NO_DATA
    return int(valid.sum()), int(valid.flatten(1).any(dim=1).sum())


def segmentation_loss(
    logits: torch.Tensor,
    mask: torch.Tensor,
    pixels: int,
    images: int,
    loss: str = "bce-dice",
    snow_weight: float = 1.0,
) -> torch.Tensor:
    """Loss of logits (B, 1, H, W) or (B, H, W) against mask (B, H, W) of 0, 1, 255; 0 if nothing is valid.

    pixels, images: counts of the global batch (count_valid). Pixel losses are divided by pixels, overlap
    losses, taken per image, by images. snow_weight: weight of snow pixels in pixel losses.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r}: expected one of {', '.join(LOSSES)}")
    logits = logits.reshape(mask.shape).float()
    valid = mask != NO_DATA
    snow = (mask == 1).float()
    total = logits.new_zeros(())
    if "bce" in loss or "focal" in loss:
        total = total + pixel_loss(logits, snow, valid, "focal" in loss, snow_weight) / max(1, pixels)
    if "dice" in loss:
        total = total + overlap_loss(logits, snow, valid, 0.5, 0.5) / max(1, images)
    if "tversky" in loss:
        total = total + overlap_loss(logits, snow, valid, TVERSKY_MISSED, 1 - TVERSKY_MISSED) / max(1, images)
    return total


def pixel_loss(logits, snow, valid, focal: bool, snow_weight: float) -> torch.Tensor:
    """Sum over valid pixels of binary cross entropy, weighted by (1 - p of the true class)^gamma if focal."""
    entropy = F.binary_cross_entropy_with_logits(logits, snow, reduction="none")
    weight = 1 + (snow_weight - 1) * snow
    if focal:
        weight = weight * (1 - torch.exp(-entropy)) ** FOCAL_GAMMA
    return (torch.where(valid, entropy * weight, 0)).sum()


def overlap_loss(logits, snow, valid, missed: float, false: float, smooth: float = 1.0) -> torch.Tensor:
    """Sum over labelled images of 1 - (overlap + s) / (overlap + missed * misses + false * false alarms + s).

    With 0.5 and 0.5 it is the Dice loss of each image; smooth, in pixels, gives an image without snow a loss
    that vanishes with its false alarms.
    """
    probability = torch.where(valid, torch.sigmoid(logits), 0).flatten(1)
    snow = torch.where(valid, snow, 0).flatten(1)
    overlap = (probability * snow).sum(dim=1)
    misses, alarms = snow.sum(dim=1) - overlap, probability.sum(dim=1) - overlap
    score = (overlap + smooth) / (overlap + missed * misses + false * alarms + smooth)
    return ((1 - score) * valid.flatten(1).any(dim=1)).sum()
