"""Radiometry of Sentinel-1 backscatter. Needs numpy and scipy; NaN = no data everywhere.

Averages, filters and differences are made in linear power; dB = 10 log10 of it comes last.
"""

import numpy as np
from scipy import ndimage

GRD_LOOKS = 4.4  # equivalent number of looks of IW GRD high resolution (ESA Sentinel-1 product specification)
NOISE_FLOOR_DB = (
    -45.0
)  # far below the noise-equivalent sigma0 of IW (-22 dB required): only unlit pixels are there
PLAUSIBLE_DB = (
    -45.0,
    15.0,
)  # where the median of a land scene can lie, with room for calm water and bright cities


def to_db(linear: np.ndarray) -> np.ndarray:
    """10 log10 of linear power; zero and negative power have no dB and become NaN."""
    linear = np.asarray(linear, np.float32)
    return 10 * np.log10(linear, out=np.full_like(linear, np.nan), where=linear > 0)


def to_linear(db: np.ndarray) -> np.ndarray:
    return np.power(np.float32(10), np.asarray(db, np.float32) / np.float32(10))


def unit_problem(values: np.ndarray, units: str) -> str | None:
    """Say why these backscatter samples cannot be in `units` ("dB" or "linear"); None if they can."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if units not in ("dB", "linear"):
        return f"units {units!r}, expected 'dB' or 'linear'"
    if not values.size:
        return None
    low, middle, high = np.percentile(values, [1, 50, 99])
    if units == "dB":
        if low >= 0:
            positive = f"99 % of the values are positive (median {middle:.3g})"
            return f"units 'dB' but {positive}: linear power, or converted twice"
        if not PLAUSIBLE_DB[0] <= middle <= PLAUSIBLE_DB[1]:
            outside = f"the median is {middle:.3g}, outside {PLAUSIBLE_DB}"
            return f"units 'dB' but {outside}: converted twice or another scale"
    elif low < 0:
        return f"units 'linear' but there are negative values (median {middle:.3g}): these look like dB"
    elif low > 0.9 or high > 1000:
        span = f"98 % of the values lie in {low:.3g}..{high:.3g}"
        return f"units 'linear' but {span}: converted twice or digital numbers"
    return None


def clean_border(linear: np.ndarray, fringe_px: int = 2) -> np.ndarray:
    """Set to NaN unlit pixels joined to the edge or its no data, and `fringe_px` half-lit ones beside them.

    linear: (H, W) power. A dark patch inside the scene is left alone: calm water and radar shadow are real.
    """
    dark = ~(linear > to_linear(NOISE_FLOOR_DB))  # no data included
    regions, _ = ndimage.label(np.pad(dark, 1, constant_values=True))
    border = (regions == regions[0, 0])[1:-1, 1:-1]
    if fringe_px and border.any():
        border = ndimage.binary_dilation(border, np.ones((3, 3), bool), iterations=fringe_px)
    return np.where(border, np.nan, linear).astype(np.float32)


def lee(linear: np.ndarray, window: int = 7, looks: float = GRD_LOOKS) -> np.ndarray:
    """Lee filter (Lee 1980, 10.1109/TPAMI.1980.4766994) of power (H, W); no data stays, weighs nothing."""
    if window < 3 or window % 2 == 0 or looks <= 0:
        raise ValueError(
            f"lee(window={window}, looks={looks}): the window must be odd and >= 3, looks positive"
        )
    valid = np.isfinite(linear)
    power = np.where(valid, linear, 0).astype(np.float64)
    weight = ndimage.uniform_filter(valid.astype(np.float64), window, mode="constant")
    weight = np.where(valid, weight, 1)
    mean = ndimage.uniform_filter(power, window, mode="constant") / weight
    square = ndimage.uniform_filter(power**2, window, mode="constant") / weight
    variance = np.maximum(square - mean**2, 0)
    speckle = mean**2 / looks
    signal = np.maximum((variance - speckle) / (1 + 1 / looks), 0)  # variance of the scene under the speckle
    gain = np.divide(signal, variance, out=np.zeros_like(variance), where=variance > 0)
    return np.where(valid, mean + gain * (power - mean), np.nan).astype(np.float32)


def stretch_limits(
    values: np.ndarray, low_percent: float = 2, high_percent: float = 98
) -> tuple[float, float]:
    """Percentiles of a scene's valid values, for `stretch`; a constant or empty scene gets a span of 1."""
    values = np.asarray(values)[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [low_percent, high_percent])
    return float(low), float(high if high > low else low + 1)


def stretch(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """uint8: 0 no data, 1..255 from the lower to the upper limit. Take the scene's limits, not the tile's."""
    low, high = limits
    scaled = 1 + 254 * (np.nan_to_num(values, nan=low) - low) / (high - low)
    return np.where(np.isfinite(values), scaled.clip(1, 255).round(), 0).astype(np.uint8)


def ratio_db(image_db: np.ndarray, reference_db: np.ndarray) -> np.ndarray:
    """Image over same-track reference, dB: about < -2 in wet snow (Nagler & Rott 2016, 10.3390/rs8040348)."""
    return image_db - reference_db


def running_mean(total: np.ndarray | None, count: np.ndarray | None, linear: np.ndarray):
    """Add an image (linear power, NaN = no data) to a sum and a count; mean = sum / count where count > 0."""
    valid = np.isfinite(linear)
    values = np.where(valid, linear, 0).astype(np.float64)
    return (values, valid.astype(np.int32)) if total is None else (total + values, count + valid)
