"""Baselines of snow mapping: rules, and classifiers of single pixels. Needs numpy, scipy and scikit-learn.

    needed, features, fit, predict = BASELINES["gradient-boosting"]
    values = features(planes)                       # planes: name -> (H, W); values: (F, H, W)
    x, y = sample_pixels(values, mask, 2000, seed)  # of one training image; join those of all: (N, F), (N,)
    model = fit(x, y, groups, seed, n_jobs)         # groups: the site of each pixel
    probability = predict(model, values, n_jobs)    # (H, W) float32, NaN = no data

Two rules have a published threshold (Otsu's; Nagler and Rott's): nothing to fit, 0 or 1 predicted. For the
others the threshold is the caller's to choose, on validation data. Backscatter is in dB, angles in degrees.
"""

import numpy as np

NO_DATA = 255
WINDOWS = (3, 7, 15)  # pixels: local statistics of the random forest
OTSU_BINS = 256
# Nagler & Rott 2016 (10.3390/rs8040348); the Copernicus wet-snow processor has the same weights.
# Local incidence angles, degrees: the weight of VH falls from 1 to k between the first two; nothing is mapped
# outside of the other two.
NAGLER_STEEP, NAGLER_FLAT, NAGLER_K = 20.0, 45.0, 0.5
NAGLER_ANGLES = (15.0, 75.0)
NAGLER_THRESHOLD_DB = -2.0  # Copernicus: -2.5
NAGLER_THRESHOLDS_DB = (-1.0, -1.5, -2.0, -2.5, -3.0)  # the span in use
# Pixels of 10 m. Copernicus averages 6 x 6 and filters no further; ENVEO's Alpine maps have pixels of 100 m.
NAGLER_WINDOW = 7
# What gradient boosting may not see: it is the rival without radar.
RADAR = ("vv", "vh", "vh-vv", "vv-ref", "vh-ref")


# ---- pixels and features -----------------------------------------------------------------------------------


def sample_pixels(
    values: np.ndarray, mask: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `count` random pixels of an image that have a label and every feature.

    values: (F, H, W), NaN = no data; mask: (H, W) of 0, 1, 255. Drawn without replacement and without regard
    to class, so that prevalence is kept. Returns (N, F) float32 and (N,) uint8.
    """
    if values.shape[1:] != mask.shape:
        raise ValueError(f"features have shape {values.shape}, mask {mask.shape}")
    usable = np.flatnonzero((mask != NO_DATA) & has_data(values))
    if len(usable) > count:
        usable = np.sort(np.random.default_rng(seed).choice(usable, count, replace=False))
    flat = values.reshape(len(values), mask.size)[:, usable]
    return np.ascontiguousarray(flat.T, np.float32), mask.ravel()[usable].astype(np.uint8)


def has_data(values: np.ndarray) -> np.ndarray:
    """(H, W): every feature of (F, H, W) is finite."""
    return np.isfinite(values).all(axis=0)


def stack(planes: dict[str, np.ndarray], names) -> np.ndarray:
    """Planes of these names as (F, H, W) float32."""
    return np.stack([planes[name] for name in names]).astype(np.float32)


def every_pixel(values: np.ndarray, score) -> np.ndarray:
    """Probability (H, W) float32 from score((N, F)) -> (N,) over the pixels with data; NaN elsewhere."""
    valid = has_data(values)
    result = np.full(valid.shape, np.nan, np.float32)
    if valid.any():
        result[valid] = score(np.ascontiguousarray(values[:, valid].T, np.float32))
    return result


def window_mean(image: np.ndarray, window: int) -> np.ndarray:
    """Mean of the valid pixels of (H, W) in a square window, smaller at edges; NaN where the centre is."""
    from scipy.ndimage import uniform_filter

    valid = np.isfinite(image)
    total = uniform_filter(np.where(valid, image, 0).astype(np.float64), window, mode="constant")
    share = uniform_filter(valid.astype(np.float64), window, mode="constant")
    return np.divide(total, share, out=np.full(image.shape, np.nan), where=valid)


def smooth_db(db: np.ndarray, window: int) -> np.ndarray:
    """Mean in linear power over a window of an image in dB, as dB; no data stays and weighs nothing."""
    return db if window == 1 else 10 * np.log10(window_mean(10 ** (np.asarray(db, np.float64) / 10), window))


def mean_ratio_db(db: np.ndarray, ratio_db: np.ndarray, window: int) -> np.ndarray:
    """Ratio of the window means, in linear power, of an image and of its reference, dB.

    db: the image; ratio_db: image over reference, pixel by pixel.
    """
    image = np.asarray(db, np.float64)
    reference = image - ratio_db
    image = np.where(np.isfinite(reference), image, np.nan)  # the same pixels in both means
    return smooth_db(image, window) - smooth_db(reference, window)


def local_statistics(vv_db: np.ndarray, vh_db: np.ndarray, windows=WINDOWS) -> np.ndarray:
    """Mean and standard deviation of VV, VH and VH-VV in square windows, all in dB: (6 per window, H, W).

    Means are those of linear power, and the mean of VH-VV is the ratio of the two; deviations are those of
    the dB values. Pixels that lack VV or VH are no data in all of them and weigh nothing in their neighbours.
    """
    valid = np.isfinite(vv_db) & np.isfinite(vh_db)
    vv, vh = (np.where(valid, band, np.nan).astype(np.float64) for band in (vv_db, vh_db))
    result = []
    for window in windows:
        mean_vv, mean_vh = smooth_db(vv, window), smooth_db(vh, window)
        result += [mean_vv, mean_vh, mean_vh - mean_vv]
        for band in (vv, vh, vh - vv):
            band = band - (np.nanmean(band) if valid.any() else 0)  # a smaller number squared loses less
            variance = window_mean(band**2, window) - window_mean(band, window) ** 2
            result.append(np.sqrt(np.maximum(variance, 0)))
    return np.stack(result).astype(np.float32)


# ---- majority ----------------------------------------------------------------------------------------------


def no_features(planes: dict[str, np.ndarray]) -> np.ndarray:
    """(0, H, W): nothing is needed, so nothing is missing."""
    return np.empty((0, *next(iter(planes.values())).shape), np.float32)


def fit_majority(x, y, groups=None, seed=0, n_jobs=1) -> float:
    return float(np.mean(y))


def predict_majority(model: float, values: np.ndarray, n_jobs=1) -> np.ndarray:
    """The training prevalence everywhere."""
    return every_pixel(values, lambda x: np.full(len(x), model))


# ---- elevation and season ----------------------------------------------------------------------------------


def elevation_season_features(planes: dict[str, np.ndarray]) -> np.ndarray:
    """Elevation, sine and cosine of the day of the year and their products with elevation: (5, H, W)."""
    elevation, sine, cosine = stack(planes, ("elevation", "season-sin", "season-cos"))
    return np.stack([elevation, sine, cosine, elevation * sine, elevation * cosine])


def fit_logistic(x, y, groups=None, seed=0, n_jobs=1):
    """Logistic regression of standardised features (ridge of strength 1, scikit-learn's default)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return limited(n_jobs, lambda: model.fit(x, two_classes(y)))


def predict_classifier(model, values: np.ndarray, n_jobs=1) -> np.ndarray:
    """Probability of snow of a fitted scikit-learn classifier."""
    return every_pixel(values, lambda x: limited(n_jobs, lambda: model.predict_proba(x)[:, 1]))


def two_classes(y: np.ndarray) -> np.ndarray:
    if len(np.unique(y)) != 2:
        raise ValueError(f"a classifier needs pixels of both classes, found {np.unique(y).tolist()}")
    return y


def limited(n_jobs: int, work):
    """work() with at most n_jobs threads, -1 = all, where scikit-learn has no argument for it.

    Beside other work one thread is the fastest: OpenMP's threads wait for each other by spinning.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(None if n_jobs == -1 else n_jobs):
        return work()


# ---- gradient boosting: terrain, season and weather --------------------------------------------------------

TERRAIN = ("elevation", "slope", "northness", "eastness", "season-sin", "season-cos")
# Leaves of at least 200 pixels: neighbours repeat each other, and weather is one number per site and day, so
# that small leaves would learn scenes by heart.
BOOSTING = {"learning_rate": 0.1, "max_leaf_nodes": 15, "min_samples_leaf": 200, "l2_regularization": 1.0}
MOST_TREES = 150


def terrain_weather_features(planes: dict[str, np.ndarray]) -> np.ndarray:
    """Terrain and season, then every other plane given (lagged weather) in order of name; never radar."""
    more = sorted(name for name in planes if name not in TERRAIN + RADAR)
    return stack(planes, (*TERRAIN, *more))


def fit_gradient_boosting(x, y, groups=None, seed=0, n_jobs=1):
    """Histogram gradient boosting of trees; their number is chosen on held-out sites, then refitted on all.

    Early stopping on random pixels, scikit-learn's own, would judge by neighbours of the pixels it trains on
    and hardly ever stop. groups: the site of each pixel; a quarter of the sites choose. With fewer than four
    sites, or without groups, the number is MOST_TREES.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    def trees(number, rows):
        model = HistGradientBoostingClassifier(
            max_iter=number, early_stopping=False, random_state=seed, **BOOSTING
        )
        return limited(n_jobs, lambda: model.fit(x[rows], two_classes(y[rows])))

    number = MOST_TREES
    sites = np.unique(groups) if groups is not None else []
    if len(sites) >= 4:
        chosen = np.random.default_rng(seed).permutation(sites)[: len(sites) // 4]
        held_out = np.isin(groups, chosen)
        if len(np.unique(y[~held_out])) == 2:
            number = best_number_of_trees(trees(MOST_TREES, ~held_out), x[held_out], y[held_out])
    return trees(number, np.ones(len(y), bool))


def best_number_of_trees(model, x: np.ndarray, y: np.ndarray) -> int:
    """The number of trees with the lowest cross entropy."""
    losses = []
    for probability in model.staged_predict_proba(x):
        of_true = np.take_along_axis(probability, y[:, None].astype(np.int64), axis=1)
        losses.append(-np.log(np.maximum(of_true, 1e-12)).mean())
    return int(np.argmin(losses)) + 1


# ---- random forest: local statistics of backscatter --------------------------------------------------------

ANGLES = ("incidence-angle", "local-incidence-angle")
FOREST = {"n_estimators": 60, "max_depth": 12, "min_samples_leaf": 20, "max_features": "sqrt"}
FOREST_PIXELS = (
    100_000  # drawn for each tree, so that 400 000 pixels are fitted in well under a minute on 2 cores
)


def forest_features(planes: dict[str, np.ndarray]) -> np.ndarray:
    """Local statistics of VV and VH, then ratios to the reference in the same windows and angles where given.

    (18 to 26, H, W). The scenes of one model must all have the same of these.
    """
    parts = [local_statistics(planes["vv"], planes["vh"])]
    for name in ("vv", "vh"):
        if f"{name}-ref" in planes:
            parts += [mean_ratio_db(planes[name], planes[f"{name}-ref"], window)[None] for window in WINDOWS]
    parts += [planes[name][None] for name in ANGLES if name in planes]
    return np.concatenate(parts).astype(np.float32)


def fit_forest(x, y, groups=None, seed=0, n_jobs=1):
    """Random forest (Breiman 2001, 10.1023/A:1010933404324), limited in depth and in pixels per tree."""
    from sklearn.ensemble import RandomForestClassifier

    pixels = FOREST_PIXELS if len(y) > FOREST_PIXELS else None
    model = RandomForestClassifier(max_samples=pixels, random_state=seed, n_jobs=n_jobs, **FOREST)
    model.fit(x, two_classes(y))
    # Threads would add up the votes in the order they finish: not the same every time.
    model.n_jobs = 1
    return model


# ---- Otsu --------------------------------------------------------------------------------------------------


def otsu_threshold(values: np.ndarray, bins: int = OTSU_BINS) -> float | None:
    """The cut of a histogram with the largest variance between its two sides; None without two values.

    Otsu 1979 (10.1109/TSMC.1979.4310076), over equal bins from the lowest to the highest finite value. Where
    cuts tie (an empty stretch between two modes) it is the middle one.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not values.size or values.min() == values.max():
        return None
    count, edges = np.histogram(values, bins)
    middle = (edges[:-1] + edges[1:]) / 2
    below, sum_below = count.cumsum()[:-1], (count * middle).cumsum()[:-1]
    above, sum_above = count.sum() - below, (count * middle).sum() - sum_below
    between = below * above * (sum_below / below - sum_above / above) ** 2  # no side is ever empty
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1 + best[len(best) // 2]])


def predict_otsu(model, values: np.ndarray, n_jobs=1) -> np.ndarray:
    """1 where the first feature, backscatter in dB, is below the image's own Otsu threshold, 0 elsewhere.

    It claims that the image has two classes and that the darker is snow. It splits every image, with or
    without snow; what is dark may as well be water, smooth ground or shadow; and dry snow is not dark.
    """
    valid, threshold = has_data(values), otsu_threshold(values[0])
    return np.where(
        valid, valid & (values[0] < (-np.inf if threshold is None else threshold)), np.nan
    ).astype(np.float32)


# ---- Nagler and Rott ---------------------------------------------------------------------------------------


def nagler_weight(local_incidence_deg: np.ndarray) -> np.ndarray:
    """Weight of VH: 1 up to 20 degrees, k (1 + (45 - angle) / 25) up to 45, k = 0.5 beyond; continuous."""
    share = (NAGLER_FLAT - np.asarray(local_incidence_deg, np.float64)) / (NAGLER_FLAT - NAGLER_STEEP)
    return NAGLER_K * (1 + np.clip(share, 0, 1))


def nagler_ratio_db(vv_ratio_db, vh_ratio_db, local_incidence_deg) -> np.ndarray:
    """Rc = W R_VH + (1 - W) R_VV, dB, of image over reference; NaN outside 15..75 degrees or without data."""
    weight = nagler_weight(local_incidence_deg)
    ratio = weight * vh_ratio_db + (1 - weight) * vv_ratio_db
    low, high = NAGLER_ANGLES
    seen = (local_incidence_deg >= low) & (local_incidence_deg <= high)
    return np.where(seen, ratio, np.nan)


def nagler_features(planes: dict[str, np.ndarray], window: int = NAGLER_WINDOW) -> np.ndarray:
    """R_VV, R_VH (image over reference, dB), local incidence angle, excluded 0 or 1: (4, H, W).

    window: pixels; image and reference are averaged in linear power over it before they are divided.
    excluded: optional (H, W) plane, true where the method does not map: forest, water, layover, shadow.
    """
    ratios = [mean_ratio_db(planes[name], planes[f"{name}-ref"], window) for name in ("vv", "vh")]
    angle = np.asarray(planes["local-incidence-angle"], np.float64)
    excluded = np.asarray(planes.get("excluded", np.zeros(angle.shape)), bool)
    return np.stack([*ratios, angle, excluded]).astype(np.float32)


def predict_nagler(
    model, values: np.ndarray, n_jobs=1, threshold_db: float = NAGLER_THRESHOLD_DB
) -> np.ndarray:
    """1 where Rc is below the threshold: wet snow. NaN outside 15..75 degrees, where excluded, without data.

    It says nothing of dry snow, which is 0 here: judge it on wet snow alone.
    """
    ratio = masked_ratio_db(values)
    return np.where(np.isfinite(ratio), ratio < threshold_db, np.nan).astype(np.float32)


def masked_ratio_db(values: np.ndarray) -> np.ndarray:
    """Rc of nagler_features, NaN where the method does not map."""
    vv_ratio, vh_ratio, angle, excluded = values
    return np.where(excluded == 0, nagler_ratio_db(vv_ratio, vh_ratio, angle), np.nan)


def threshold_sensitivity(ratio_db: np.ndarray, mask: np.ndarray, thresholds_db=NAGLER_THRESHOLDS_DB) -> list:
    """The confusion matrix at each threshold on Rc, over pixels with a label and a ratio; a dict each.

    Keys: threshold_db and the four counts that metrics.scores_of_counts takes. Counts of images add up.
    """
    valid = (mask != NO_DATA) & np.isfinite(ratio_db)
    ratio, wet = ratio_db[valid], mask[valid] == 1
    rows = []
    for threshold in thresholds_db:
        marked = ratio < threshold
        rows.append(
            {
                "threshold_db": float(threshold),
                "true_snow": int((marked & wet).sum()),
                "missed_snow": int((~marked & wet).sum()),
                "false_snow": int((marked & ~wet).sum()),
                "true_bare": int((~marked & ~wet).sum()),
            }
        )
    return rows


def fit_nothing(x=None, y=None, groups=None, seed=0, n_jobs=1) -> None:
    """A rule has nothing to fit."""


# name: (planes it cannot do without, features, fit, predict)
BASELINES = {
    "majority": ((), no_features, fit_majority, predict_majority),
    "elevation-season": (
        ("elevation", "season-sin", "season-cos"),
        elevation_season_features,
        fit_logistic,
        predict_classifier,
    ),
    "gradient-boosting": (TERRAIN, terrain_weather_features, fit_gradient_boosting, predict_classifier),
    "otsu-vv": (("vv",), lambda planes: stack(planes, ("vv",)), fit_nothing, predict_otsu),
    "otsu-vh": (("vh",), lambda planes: stack(planes, ("vh",)), fit_nothing, predict_otsu),
    "nagler-ratio": (
        ("vv", "vh", "vv-ref", "vh-ref", "local-incidence-angle"),
        nagler_features,
        fit_nothing,
        predict_nagler,
    ),
    "random-forest": (("vv", "vh"), forest_features, fit_forest, predict_classifier),
}
RULES = ("otsu-vv", "otsu-vh", "nagler-ratio")  # predict 0 or 1 by themselves; the others need a threshold
