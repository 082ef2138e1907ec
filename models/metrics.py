"""Scores of snow masks from one histogram of probabilities per class. Needs numpy only.

    scores = Histogram()
    scores.add(probability, mask)          # any shapes, as often as wanted; 255 in the mask is ignored
    scores.at(0.5)["iou"], scores.auprc(), scores.best_threshold()

Sums over pixels, so the order and grouping of images changes nothing. A score of nothing is None.
"""

import numpy as np

NO_DATA = 255
BINS = 1000  # bin k holds probabilities in [k/1000, (k+1)/1000); thresholds are multiples of 1/1000


class Histogram:
    """Pixels by predicted probability and reference class."""

    def __init__(self):
        self.snow = np.zeros(BINS, np.int64)
        self.snow_free = np.zeros(BINS, np.int64)

    def add(self, probability: np.ndarray, mask: np.ndarray) -> None:
        """Count pixels: snow probability 0..1 (NaN = none, ignored) and mask 0, 1, 255 of equal shape."""
        probability, mask = np.asarray(probability), np.asarray(mask)
        if probability.shape != mask.shape:
            raise ValueError(f"probability has shape {probability.shape}, mask {mask.shape}")
        valid = (mask != NO_DATA) & np.isfinite(probability)
        bins = np.minimum((probability[valid] * BINS).astype(np.int64), BINS - 1)
        self.snow += np.bincount(bins[mask[valid] == 1], minlength=BINS)
        self.snow_free += np.bincount(bins[mask[valid] == 0], minlength=BINS)

    def at(self, threshold: float) -> dict:
        """Confusion matrix and every score when probability >= threshold means snow."""
        first = threshold_bin(threshold)
        return scores_of_counts(
            true_snow=int(self.snow[first:].sum()),
            missed_snow=int(self.snow[:first].sum()),
            false_snow=int(self.snow_free[first:].sum()),
            true_bare=int(self.snow_free[:first].sum()),
        )

    def best_threshold(self) -> float | None:
        """Threshold of the highest IoU of snow (the same has the highest F1); None without both classes."""
        snow, false = self.snow[::-1].cumsum()[::-1], self.snow_free[::-1].cumsum()[::-1]
        if not snow[0] or not false[0]:
            return None
        iou = snow / (snow[0] + false)
        best = np.flatnonzero(iou == iou.max())
        return float(best[len(best) // 2] / BINS)

    def auprc(self) -> float | None:
        """Average precision, the area under the precision-recall steps; None without both classes."""
        snow, false = self.snow[::-1].cumsum(), self.snow_free[::-1].cumsum()
        if not snow[-1] or not false[-1]:
            return None
        seen = np.maximum(snow + false, 1)
        return float((self.snow[::-1] * (snow / seen)).sum() / snow[-1])

    def calibration(self, groups: int = 20) -> list[dict]:
        """Reliability: mean probability, share that is snow and pixels, in equal steps of probability."""
        middle = (np.arange(BINS) + 0.5) / BINS
        total = self.snow + self.snow_free
        rows = []
        for part in np.array_split(np.arange(BINS), groups):
            pixels = int(total[part].sum())
            rows.append(
                {
                    "pixels": pixels,
                    "probability": float((middle[part] * total[part]).sum() / pixels) if pixels else None,
                    "snow_share": float(self.snow[part].sum() / pixels) if pixels else None,
                }
            )
        return rows

    def expected_calibration_error(self) -> float | None:
        """Mean distance of probability and observed share over the reliability groups, weighted by pixels."""
        rows = [row for row in self.calibration() if row["pixels"]]
        pixels = sum(row["pixels"] for row in rows)
        return (
            sum(row["pixels"] * abs(row["probability"] - row["snow_share"]) for row in rows) / pixels
            if pixels
            else None
        )

    def brier(self) -> float | None:
        """Mean squared error of the probability (of the middle of its bin)."""
        middle = (np.arange(BINS) + 0.5) / BINS
        pixels = int((self.snow + self.snow_free).sum())
        return (
            float((self.snow * (1 - middle) ** 2 + self.snow_free * middle**2).sum() / pixels)
            if pixels
            else None
        )

    def summary(self, threshold: float) -> dict:
        return {
            **self.at(threshold),
            "auprc": self.auprc(),
            "brier": self.brier(),
            "expected_calibration_error": self.expected_calibration_error(),
        }


def threshold_bin(threshold: float) -> int:
    """The first bin that counts as snow."""
    return int(np.ceil(np.round(threshold * BINS, 6)))


def is_snow(probability: np.ndarray, threshold: float) -> np.ndarray:
    """The threshold rule of the histogram: compare bins, so that masks and scores agree to the pixel."""
    return np.minimum((np.asarray(probability) * BINS).astype(np.int64), BINS - 1) >= threshold_bin(threshold)


def divide(a: float, b: float) -> float | None:
    return a / b if b else None


def scores_of_counts(true_snow: int, missed_snow: int, false_snow: int, true_bare: int) -> dict:
    """Every score of one confusion matrix. Snow scores are None unless snow occurs in the reference."""
    snow, bare = true_snow + missed_snow, true_bare + false_snow
    marked, pixels = true_snow + false_snow, snow + bare
    has_snow, both = bool(snow), bool(snow and bare)
    recall, specificity = divide(true_snow, snow), divide(true_bare, bare)
    product = float(marked) * float(true_bare + missed_snow) * float(snow) * float(bare)
    return {
        "true_snow": true_snow,
        "missed_snow": missed_snow,
        "false_snow": false_snow,
        "true_bare": true_bare,
        "pixels": pixels,
        "prevalence": divide(snow, pixels),
        "accuracy": divide(true_snow + true_bare, pixels),
        "balanced_accuracy": (recall + specificity) / 2 if both else None,
        "precision": divide(true_snow, marked) if has_snow else None,
        "recall": recall,
        "specificity": specificity,
        "f1": divide(2 * true_snow, snow + marked) if has_snow else None,
        "iou": divide(true_snow, snow + false_snow) if has_snow else None,
        "iou_snow_free": divide(true_bare, bare + missed_snow) if bare else None,
        "mcc": (true_snow * true_bare - false_snow * missed_snow) / product**0.5 if product else None,
        "snow_area_bias": divide(marked - snow, pixels),
    }


COUNTS = ("true_snow", "missed_snow", "false_snow", "true_bare")


def cluster_bootstrap(
    rows: list[dict],
    seed: int = 0,
    replicates: int = 1000,
    names=("iou", "f1", "balanced_accuracy", "mcc", "snow_area_bias"),
) -> dict:
    """95 % percentile intervals of scores over new sites: sites, then scenes in each, drawn with replacement.

    rows: one a tile, with `site`, `scene` and the four counts of a confusion matrix. Returns name ->
    [low, high], or None with fewer than two sites or where half of the draws have nothing to score, and the
    numbers of sites and scenes.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        scenes = groups.setdefault(row["site"], {})
        scenes[row["scene"]] = scenes.get(row["scene"], 0) + np.array(
            [row[name] for name in COUNTS], np.int64
        )
    sites = [np.stack(list(groups[site].values())) for site in sorted(groups)]
    result = {"sites": len(sites), "scenes": sum(map(len, sites)), **dict.fromkeys(names)}
    if len(sites) < 2:
        return result
    random, draws = np.random.default_rng(seed), {name: [] for name in names}
    for _ in range(replicates):
        total = np.zeros(4, np.int64)
        for index in random.integers(len(sites), size=len(sites)):
            scenes = sites[index]
            total += scenes[random.integers(len(scenes), size=len(scenes))].sum(axis=0)
        scores = scores_of_counts(*map(int, total))
        for name in names:
            if scores[name] is not None:
                draws[name].append(scores[name])
    for name, values in draws.items():
        if len(values) * 2 > replicates:
            result[name] = [float(v) for v in np.percentile(values, [2.5, 97.5])]
    return result
