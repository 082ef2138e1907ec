"""Scores of snow masks, by stratum and with intervals over sites. Needs numpy only.

    scores = Histogram()
    scores.add(probability, mask)          # any shapes, as often as wanted; 255 in the mask is ignored
    scores.at(0.5)["iou"], scores.auprc(), scores.best_threshold()

    tally = Tally({"surface": ("open", "forest")})
    tally.add("my-site", "2021-01-10", marked, reference, {"surface": codes}, probability)
    tally.scores()["iou"], tally.table(), paired_bootstrap(tally.rows(), another.rows())

Sums over pixels, so the order and grouping of images changes nothing. A score of nothing is None.
"""

from statistics import NormalDist

import numpy as np

NO_DATA = 255
BINS = 1000  # bin k holds probabilities in [k/1000, (k+1)/1000), the last also 1; thresholds are their edges
# Where the 325 bins begin that are kept for each scene, and that AUPRC with an interval is made of: the 50 at
# either end stay as they are, since sure nets put nearly all pixels there; 900 in between are taken by fours.
COARSE = np.r_[0:50, 50:950:4, 950:1000]
COUNTS = ("true_snow", "missed_snow", "false_snow", "true_bare")
WITH_INTERVAL = (
    "accuracy", "balanced_accuracy", "precision", "recall", "f1", "iou", "mcc", "auprc", "snow_area_bias"
)  # fmt: skip
TABLED = (*WITH_INTERVAL, "iou_gain")  # whose paired difference would be that of iou
SIZES = ("sites", "scenes", "sites_with_snow")
NEEDS_SNOW = ("precision", "recall", "f1", "iou", "iou_gain")
NEEDS_BOTH = ("balanced_accuracy", "mcc", "auprc")
FEWEST_SITES = 6  # to tell whether a difference excludes 0: the range of 5 values holds their median in 94 %


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
        bins = bin_of(probability[valid])
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
        return number(average_precision(self.snow, self.snow_free))

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
        return {**self.at(threshold), **self.without_threshold()}

    def without_threshold(self) -> dict:
        return {
            "auprc": self.auprc(),
            "brier": self.brier(),
            "expected_calibration_error": self.expected_calibration_error(),
        }


def bin_of(probability: np.ndarray) -> np.ndarray:
    """int64 bin of finite probabilities; float32 of k/1000 may lie a little below it, and is in bin k."""
    return np.clip((np.asarray(probability) * BINS + 1e-3).astype(np.int64), 0, BINS - 1)


def threshold_bin(threshold: float) -> int:
    """The first bin that counts as snow; at a threshold of 1 it is the last."""
    return min(int(np.ceil(np.round(threshold * BINS, 6))), BINS - 1)


def is_snow(probability: np.ndarray, threshold: float) -> np.ndarray:
    """The threshold rule of the histogram: compare bins, so that masks and scores agree to the pixel."""
    return bin_of(probability) >= threshold_bin(threshold)


def to_mask(probability: np.ndarray, threshold: float) -> np.ndarray:
    """uint8 mask 0, 1, 255 from probability (NaN = no data)."""
    missing = np.isnan(probability)
    snow = is_snow(np.where(missing, 0, probability), threshold)
    return np.where(missing, NO_DATA, snow).astype(np.uint8)


# ---- scores of counts --------------------------------------------------------------------------------------


def number(value) -> float | None:
    """A float, or None for NaN."""
    return None if np.isnan(value) else float(value)


def divide(a, b) -> np.ndarray:
    """a / b, NaN where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.divide(a, b, out=np.full(b.shape, np.nan), where=b != 0)


def score_arrays(true_snow, missed_snow, false_snow, true_bare) -> dict[str, np.ndarray]:
    """Every score of confusion matrices given as float arrays of one shape; NaN where nothing is to score.

    iou_gain: IoU of snow less that of marking everything as snow, which is the prevalence.
    """
    snow, bare = true_snow + missed_snow, true_bare + false_snow
    marked, pixels = true_snow + false_snow, snow + bare
    recall, specificity = divide(true_snow, snow), divide(true_bare, bare)
    occurs = np.where(snow > 0, 1.0, np.nan)  # snow scores mean nothing unless the reference has snow
    iou = divide(true_snow, snow + false_snow) * occurs
    product = np.sqrt(marked) * np.sqrt(true_bare + missed_snow) * np.sqrt(snow) * np.sqrt(bare)
    return {
        "prevalence": divide(snow, pixels),
        "accuracy": divide(true_snow + true_bare, pixels),
        "balanced_accuracy": (recall + specificity) / 2,
        "precision": divide(true_snow, marked) * occurs,
        "recall": recall,
        "specificity": specificity,
        "f1": divide(2 * true_snow, snow + marked) * occurs,
        "iou": iou,
        "iou_gain": iou - divide(snow, pixels),
        "iou_snow_free": divide(true_bare, np.where(bare > 0, bare + missed_snow, 0)),
        "mcc": divide(true_snow * true_bare - false_snow * missed_snow, product),
        "snow_area_bias": divide(marked - snow, pixels),
    }


def scores_of_counts(true_snow: int, missed_snow: int, false_snow: int, true_bare: int) -> dict:
    """Every score of one confusion matrix. Snow scores are None unless snow occurs in the reference."""
    counts = dict(zip(COUNTS, map(int, (true_snow, missed_snow, false_snow, true_bare)), strict=True))
    scores = score_arrays(*(np.float64(count) for count in counts.values()))
    return {**counts, "pixels": sum(counts.values()), **{name: number(v) for name, v in scores.items()}}


def average_precision(snow: np.ndarray, snow_free: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps of histograms (..., bins); NaN without both classes."""
    snow_here = snow[..., ::-1]
    snow, false = snow_here.cumsum(-1), snow_free[..., ::-1].cumsum(-1)
    area = (snow_here * (snow / np.maximum(snow + false, 1e-9))).sum(-1)
    return divide(area, np.where(false[..., -1] > 0, snow[..., -1], 0))


# ---- intervals ---------------------------------------------------------------------------------------------


def resample(sites: list[str], seed: int = 0, replicates: int = 1000) -> np.ndarray:
    """How often each scene is drawn: float64 (replicates, scenes), for the site of each scene.

    Sites are drawn with replacement, then in each drawn site as many scenes as it has, with replacement. The
    draws of a site are counted at once: k draws of n scenes are multinomial(k n, 1/n).
    """
    random, sites = np.random.default_rng(seed), np.asarray(sites)
    names = np.unique(sites)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), replicates)
    weights = np.zeros((replicates, len(sites)))
    for times, name in zip(drawn.T, names, strict=True):
        scenes = np.flatnonzero(sites == name)
        weights[:, scenes] = random.multinomial(times * len(scenes), np.full(len(scenes), 1 / len(scenes)))
    return weights


def gather(rows: list[dict]) -> tuple[list, np.ndarray, np.ndarray | None]:
    """Rows of one scene added up: keys (site, scene), counts (n, 4), histograms (n, 2, bins) or None.

    A scene whose rows carry no histogram counts as one without probabilities.
    """
    counts, histograms = {}, {}
    for row in rows:
        key = row["site"], row["scene"]
        counts[key] = counts.get(key, 0) + np.array([row[name] for name in COUNTS], np.float64)
        if row.get("histogram") is not None:
            histograms[key] = histograms.get(key, 0) + np.asarray(row["histogram"], np.float64)
    keys = sorted(counts)
    if not histograms:
        return keys, np.array([counts[key] for key in keys]).reshape(-1, 4), None
    none = np.zeros_like(next(iter(histograms.values())))
    return keys, np.stack([counts[k] for k in keys]), np.stack([histograms.get(k, none) for k in keys])


def scores_of_draws(counts: np.ndarray, histograms: np.ndarray | None, weights: np.ndarray) -> dict:
    """Scores (replicates,) of scenes (n, 4) and (n, 2, bins) weighted by (replicates, n); NaN for none."""
    scores = score_arrays(*(weights @ counts).T)
    if histograms is None:
        return {**scores, "auprc": np.full(len(weights), np.nan)}
    sums = (weights @ histograms.reshape(len(histograms), -1)).reshape(len(weights), *histograms.shape[1:])
    return {**scores, "auprc": average_precision(sums[:, 0], sums[:, 1])}


def percents(sites: int) -> list[float]:
    """The two percentiles of the draws that make a 95 % interval over so many sites (2 or more).

    Plain percentiles are too narrow for few: these are as far out as Student's t interval of a mean. Expanded
    percentile interval of Hesterberg 2015, The American Statistician 69(4), 10.1080/00031305.2015.1089789.
    """
    z, df = NormalDist().inv_cdf(0.975), sites - 1
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)  # Abramowitz and Stegun 1964, 26.7.5
    low = 100 * NormalDist().cdf(-t * (sites / df) ** 0.5)
    return [low, 100 - low]


def interval_of(draws: np.ndarray, sites: int) -> list[float] | None:
    """95 % interval of draws (NaN = nothing to score); None if half of them are, or with under two sites.

    With 2 to 5 sites it is nearly the range of the draws, and holds the true score less often than 95 %.
    """
    known = draws[np.isfinite(draws)]
    enough = sites >= 2 and len(known) > len(draws) / 2
    return [float(v) for v in np.percentile(known, percents(sites))] if enough else None


def sites_telling(sites: list[str], counts: np.ndarray, histograms: np.ndarray | None, names) -> dict:
    """How many sites hold what a score is made of: snow, the rarer of snow and bare ground, or any pixel."""

    def count(pixels):
        return len(np.unique(np.asarray(sites)[pixels > 0]))

    snow, bare = counts[:, :2].sum(axis=1), counts[:, 2:].sum(axis=1)
    found = {"sites": len(set(sites)), "scenes": len(sites), "sites_with_snow": count(snow)}
    both = min(count(snow), count(bare))
    for name in names:
        found[name] = (
            count(snow) if name in NEEDS_SNOW else both if name in NEEDS_BOTH else count(snow + bare)
        )
    if histograms is not None:
        found["auprc"] = min(map(count, histograms.sum(axis=2).T))
    return found


def cluster_bootstrap(rows: list[dict], seed: int = 0, replicates: int = 1000, names=TABLED) -> dict:
    """95 % intervals of scores over new sites: sites, then scenes in each, drawn with replacement.

    rows: one a tile, with `site`, `scene`, the four counts of a confusion matrix and, for auprc, `histogram`
    (2, bins): pixels of snow and of snow-free reference by probability. Returns name -> [low, high], or None
    where fewer than two sites hold what the score needs or half of the draws have nothing to score, and the
    numbers of sites, scenes and sites_with_snow.
    """
    keys, *scenes = gather(rows)
    sites = [site for site, _ in keys]
    telling = sites_telling(sites, *scenes, names)
    result = {name: telling[name] for name in SIZES} | dict.fromkeys(names)
    if result["sites"] >= 2:
        draws = scores_of_draws(*scenes, resample(sites, seed, replicates))
        result |= {name: interval_of(draws[name], telling[name]) for name in names}
    return result


def paired_bootstrap(
    rows_a: list[dict], rows_b: list[dict], seed: int = 0, replicates: int = 1000, names=WITH_INTERVAL
) -> dict:
    """Scores of a minus scores of b, with 95 % intervals over the same resamples of sites and scenes.

    rows as for cluster_bootstrap; both must hold the same scenes (ValueError). Returns name -> {difference,
    low, high, excludes_0}, or None where one has nothing to score; low and high are None where fewer than two
    sites hold what the score needs, excludes_0 where fewer than six do: too few to tell. AUPRC is that of the
    histograms given, over scenes of which both have the probabilities of equally many pixels.
    """
    (keys, *a), (keys_b, *b) = gather(rows_a), gather(rows_b)
    if keys != keys_b:
        raise ValueError("paired differences need the same scenes on both sides")
    if a[1] is not None and b[1] is not None:
        unequal = (a[1].sum(axis=2) != b[1].sum(axis=2)).any(axis=1)
        a[1][unequal] = b[1][unequal] = 0
    sites = [site for site, _ in keys]
    telling = sites_telling(sites, *a, names)
    result = {name: telling[name] for name in SIZES} | dict.fromkeys(names)
    if not keys:
        return result
    whole_a, whole_b = (scores_of_draws(*side, np.ones((1, len(keys)))) for side in (a, b))
    weights = resample(sites, seed, replicates)
    draws_a, draws_b = (scores_of_draws(*side, weights) for side in (a, b))
    for name in names:
        difference = number(whole_a[name][0] - whole_b[name][0])
        if difference is not None:
            low, high = interval_of(draws_a[name] - draws_b[name], telling[name]) or (None, None)
            tells = low is not None and telling[name] >= FEWEST_SITES
            excludes = bool(low > 0 or high < 0) if tells else None
            result[name] = {"difference": difference, "low": low, "high": high, "excludes_0": excludes}
    return result


# ---- strata ------------------------------------------------------------------------------------------------


class Tally:
    """Pixels of one method by stratum, class, site and scene: what its scores and intervals are made of.

    classes: stratum -> names of its classes. Strata in `snow_only` (wetness, depth) are properties that only
    snow has: their classes split the reference's snow, and every snow-free pixel of a scene belongs to each
    of them, so that precision and IoU mean "this kind of snow against all snow-free ground".
    Memory: for each scene and class four counts and, with probabilities, 2 x 325 bins.
    """

    def __init__(self, classes: dict[str, tuple[str, ...]] | None = None, snow_only=("wetness", "depth")):
        self.classes = {"all": ("all",), **(classes or {})}
        self.snow_only = snow_only
        self.cells: dict[tuple[str, str], dict[tuple[str, str], dict]] = {}
        self.histograms: dict[tuple[str, str], Histogram] = {}

    def add(
        self,
        site: str,
        scene: str,
        marked: np.ndarray,
        reference: np.ndarray,
        codes: dict[str, np.ndarray] | None = None,
        probability: np.ndarray | None = None,
    ) -> dict:
        """Count pixels valid in both masks (0, 1, 255), and return the scores of these alone.

        codes: stratum -> class index of each pixel, -1 = none; strata left out are not counted for this
        scene. probability: 0..1, NaN = none. All arrays of one shape.
        """
        valid = (np.asarray(reference) != NO_DATA) & (np.asarray(marked) != NO_DATA)
        snow, said = reference[valid] == 1, marked[valid] == 1
        outcome = np.where(snow, np.where(said, 0, 1), np.where(said, 2, 3))  # in the order of COUNTS
        bins = None
        if probability is not None:
            values = probability[valid]
            known = np.isfinite(values)
            bins = bin_of(np.where(known, values, 0)) + BINS * ~snow
        own, shape = np.bincount(outcome, minlength=4), (-1, 2, BINS)
        own_bins = None if bins is None else np.bincount(bins[known], minlength=2 * BINS).reshape(2, BINS)
        for stratum, names in self.classes.items():
            if not len(snow) or (stratum != "all" and stratum not in (codes or {})):
                continue
            code = np.zeros(len(snow), np.int64)
            if stratum != "all":
                code = np.asarray(codes[stratum])[valid].astype(np.int64)
            counted = code >= 0
            size = len(names)
            counts = np.bincount(code[counted] * 4 + outcome[counted], minlength=4 * size).reshape(-1, 4)
            if bins is not None:
                both = counted & known
                pairs = np.bincount(code[both] * 2 * BINS + bins[both], minlength=2 * BINS * size)
                pairs = pairs.reshape(shape)
            if stratum in self.snow_only:  # all snow-free pixels, whatever their codes
                counts[:, 2:] = own[2:]
                if bins is not None:
                    pairs[:, 1] = own_bins[1]
            for place, name in enumerate(names):
                if counts[place].any():
                    pair = None if bins is None else pairs[place]
                    self._keep((stratum, name), (site, scene), counts[place], pair)
        histogram = Histogram()
        if own_bins is not None:
            histogram.snow, histogram.snow_free = own_bins
        return {**scores_of_counts(*own), "auprc": histogram.auprc()}

    def _keep(self, group, scene, counts, pair) -> None:
        cell = self.cells.setdefault(group, {}).setdefault(scene, {"counts": np.zeros(4, np.int64)})
        cell["counts"] += counts
        if pair is not None:
            total = self.histograms.setdefault(group, Histogram())
            total.snow += pair[0]
            total.snow_free += pair[1]
            coarse = np.add.reduceat(pair, COARSE, axis=1).astype(np.uint32)
            cell["histogram"] = cell["histogram"] + coarse if "histogram" in cell else coarse

    def groups(self) -> list[tuple[str, str]]:
        """(stratum, class) of everything counted so far, in the order the classes were given."""
        named = [(stratum, name) for stratum, names in self.classes.items() for name in names]
        return [group for group in named if group in self.cells]

    def rows(self, stratum: str = "all", name: str = "all") -> list[dict]:
        """One row a scene, as cluster_bootstrap and paired_bootstrap take them."""
        return [
            {
                "site": site,
                "scene": scene,
                **dict(zip(COUNTS, cell["counts"].tolist(), strict=True)),
                "histogram": cell.get("histogram"),
            }
            for (site, scene), cell in sorted(self.cells.get((stratum, name), {}).items())
        ]

    def histogram(self, stratum: str = "all", name: str = "all") -> Histogram:
        """Pixels by probability in 1000 bins; empty where no probabilities were given."""
        return self.histograms.get((stratum, name)) or Histogram()

    def scores(self, stratum: str = "all", name: str = "all") -> dict:
        """Counts and scores of a class (by default everything), with auprc, brier, calibration error.

        auprc is that of the 325 bins that its interval and paired differences are made of.
        """
        cells = self.cells.get((stratum, name), {}).values()
        counts = sum((cell["counts"] for cell in cells), np.zeros(4, np.int64))
        histogram = self.histogram(stratum, name)
        bins = (np.add.reduceat(pixels, COARSE) for pixels in (histogram.snow, histogram.snow_free))
        more = {**histogram.without_threshold(), "auprc": number(average_precision(*bins))}
        return {**scores_of_counts(*counts), **more}

    def table(self, seed: int = 0, replicates: int = 1000) -> list[dict]:
        """A row a class of each stratum, "all" first: scores, <score>_low, <score>_high, sizes.

        Sizes are sites, scenes and sites_with_snow: on how many sites this kind of snow occurs at all.
        """
        rows = []
        for group in self.groups():
            interval = cluster_bootstrap(self.rows(*group), seed, replicates)
            limits = {}
            for name in TABLED:
                limits[f"{name}_low"], limits[f"{name}_high"] = interval[name] or (None, None)
            about = {"stratum": group[0], "class": group[1]}
            sizes = {name: interval[name] for name in SIZES}
            rows.append({**about, **self.scores(*group), **limits, **sizes})
        return rows


def paired_table(first: Tally, other: Tally, seed: int = 0, replicates: int = 1000) -> list[dict]:
    """Differences first - other for each class of each stratum and each score that both have."""
    table = []
    for stratum, name in first.groups():
        found = paired_bootstrap(first.rows(stratum, name), other.rows(stratum, name), seed, replicates)
        sizes = {name: found[name] for name in SIZES}
        table += [
            {"stratum": stratum, "class": name, "score": score, **found[score], **sizes}
            for score in WITH_INTERVAL
            if found[score]
        ]
    return table
