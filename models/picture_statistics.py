"""A picture as a few plain numbers, the same for any modality: the floor for what an embedding must know.

    picture_statistics(picture, valid)       # uint8 (H, W, 3), bool (H, W) -> float32 (COUNT,)

Needs numpy. All of the grey levels, 0 to 1: mean, standard deviation, percentiles, a histogram, the energy of
gradients at three scales, and means of a grid of cells, so that where bright and dark lie is told as well.
"""

import numpy as np

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
LEVELS, CELLS, SCALES = 16, 4, (1, 2, 4)  # of the histogram; a side of the grid; pixels between neighbours
NAMES = (
    "mean", "standard deviation", *(f"percentile {p}" for p in PERCENTILES),
    *(f"share of levels {k}" for k in range(LEVELS)), *(f"gradient at {k} px" for k in SCALES),
    *(f"cell {row},{col}" for row in range(CELLS) for col in range(CELLS)),
)  # fmt: skip


def picture_statistics(picture: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """float32 (len(NAMES),) of a uint8 picture (H, W, 3), each 0 to 1; zeros where no pixel is valid."""
    grey = picture.mean(axis=2, dtype=np.float64) / 255
    valid = np.ones(grey.shape, bool) if valid is None else valid
    values = grey[valid]
    if not values.size:
        return np.zeros(len(NAMES), np.float32)
    shares = np.histogram(values, LEVELS, (0, 1))[0] / values.size
    found = [values.mean(), values.std(), *np.percentile(values, PERCENTILES), *shares]
    found += [gradient(grey, valid, step) for step in SCALES]
    filled = np.where(valid, grey, values.mean())
    edges = [np.linspace(0, side, CELLS + 1).round().astype(int) for side in grey.shape]
    for top, bottom in zip(edges[0], edges[0][1:], strict=False):
        for left, right in zip(edges[1], edges[1][1:], strict=False):
            cell = filled[top:bottom, left:right]
            found.append(cell.mean() if cell.size else values.mean())
    return np.array(found, np.float32)


def gradient(grey: np.ndarray, valid: np.ndarray, step: int) -> float:
    """Root mean square of the differences of valid pixels `step` apart, down and across; 0 without any."""
    total = count = 0.0
    for axis in (0, 1):
        near, far = (np.moveaxis(part, axis, 0) for part in (grey, valid))
        both = far[step:] & far[:-step]
        total += ((near[step:] - near[:-step])[both] ** 2).sum()
        count += both.sum()
    return float(np.sqrt(total / count)) if count else 0.0
