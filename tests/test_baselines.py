import functools
import warnings

import cv2
import numpy as np
import pytest

from models import baselines
from models.baselines import (
    BASELINES,
    local_statistics,
    nagler_ratio_db,
    nagler_weight,
    otsu_threshold,
    sample_pixels,
    threshold_sensitivity,
)
from models.metrics import Histogram, scores_of_counts

SIDE, SITES = 64, 8


def scene(seed: int) -> tuple[dict, np.ndarray]:
    """Planes and mask of one image: snow above a line that falls in winter, 2 dB brighter in the radar."""
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 2000, SIDE)[:, None] + random.normal(0, 150, (SIDE, SIDE)).cumsum(axis=1) / 8
    season = random.uniform(0, 2 * np.pi)
    degree_days = np.full((SIDE, SIDE), max(0, -np.cos(season)) * 200)
    snow = slope > 1000 - 700 * np.cos(season) + 2 * degree_days
    flat = np.full((SIDE, SIDE), 1.0)
    looks = random.gamma(4.4, 1 / 4.4, (2, SIDE, SIDE))
    vv, vh = (10 * np.log10(looks[k] * 10 ** ((level + 2 * snow) / 10)) for k, level in ((0, -12), (1, -19)))
    planes = {
        "elevation": slope,
        "slope": random.uniform(0, 40, (SIDE, SIDE)),
        "northness": random.uniform(-1, 1, (SIDE, SIDE)),
        "eastness": random.uniform(-1, 1, (SIDE, SIDE)),
        "season-sin": flat * np.sin(season),
        "season-cos": flat * np.cos(season),
        "degree-days-7": degree_days,
        "vv": vv,
        "vh": vh,
        "vv-ref": vv + 12,
        "vh-ref": vh + 19,
        "local-incidence-angle": flat * 38,
    }
    return planes, np.where(random.random(snow.shape) < 0.05, 255, snow).astype(np.uint8)


@functools.cache
def fitted(name: str, seed: int = 0, n_jobs: int = 1):
    _, features, fit, _ = BASELINES[name]
    parts = [sample_pixels(features(p), m, 700, k) for k, (p, m) in enumerate(map(scene, range(2 * SITES)))]
    x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
    groups = np.concatenate([[k // 2] * len(part[1]) for k, part in enumerate(parts)])
    return fit(x, y, groups, seed, n_jobs)


def planted(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    planes, mask = scene(seed)
    _, features, _, predict = BASELINES[name]
    return predict(fitted(name), features(planes)), mask


# ---- sampling ----------------------------------------------------------------------------------------------


def test_sampled_pixels_are_valid_distinct_and_repeatable():
    values = np.arange(2 * 30 * 40, dtype=np.float32).reshape(2, 30, 40)
    values[1, 3, :] = np.nan
    mask = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (30, 40))
    x, y = sample_pixels(values, mask, 300, seed=5)
    assert x.shape == (300, 2) and y.shape == (300,)
    pixel = x[:, 0].astype(int)
    assert len(set(pixel)) == 300 and np.array_equal(x[:, 1], x[:, 0] + 1200)
    assert np.array_equal(y, mask.ravel()[pixel]) and (y != 255).all() and (pixel // 40 != 3).all()
    again, other = sample_pixels(values, mask, 300, seed=5), sample_pixels(values, mask, 300, seed=6)
    assert np.array_equal(x, again[0]) and not np.array_equal(x, other[0])
    usable = (mask != 255).sum() - (mask[3] != 255).sum()
    assert len(sample_pixels(values, mask, 10**6, seed=5)[1]) == usable
    assert len(sample_pixels(values, np.full((30, 40), 255, np.uint8), 10, seed=5)[1]) == 0


def test_sampling_does_not_look_at_the_class():
    values, mask = np.zeros((1, 300, 300)), np.zeros((300, 300), np.uint8)
    mask[:30] = 1
    shares = [sample_pixels(values, mask, 2000, seed)[1].mean() for seed in range(20)]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.005)


# ---- windows -----------------------------------------------------------------------------------------------


def test_local_statistics_equal_brute_force_around_no_data_and_edges():
    random = np.random.default_rng(1)
    vv, vh = random.normal(-12, 3, (21, 17)), random.normal(-19, 3, (21, 17))
    vv[random.random(vv.shape) < 0.2] = np.nan
    vh[random.random(vh.shape) < 0.1] = np.nan
    got = local_statistics(vv, vh, (3, 7))
    assert got.shape == (12, 21, 17) and got.dtype == np.float32
    valid = np.isfinite(vv) & np.isfinite(vh)
    for number, window in enumerate((3, 7)):
        for row in range(21):
            for col in range(17):
                here = got[6 * number : 6 * number + 6, row, col]
                if not valid[row, col]:
                    assert np.isnan(here).all()
                    continue
                part = np.s_[
                    max(0, row - window // 2) : row + window // 2 + 1,
                    max(0, col - window // 2) : col + window // 2 + 1,
                ]
                a, b = vv[part][valid[part]], vh[part][valid[part]]
                mean_a, mean_b = (10 * np.log10(np.mean(10 ** (band / 10))) for band in (a, b))
                expected = [mean_a, mean_b, mean_b - mean_a, a.std(), b.std(), (b - a).std()]
                assert here == pytest.approx(expected, abs=2e-5)


def test_empty_image_has_no_statistics_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(local_statistics(np.full((9, 9), np.nan), np.zeros((9, 9)))).all()


def test_forest_uses_reference_and_angles_where_given():
    planes, _ = scene(3)
    features = BASELINES["random-forest"][1]
    bare = features({"vv": planes["vv"], "vh": planes["vh"]})
    full = features(planes)
    assert bare.shape[0] == 18 and full.shape[0] == 18 + 2 * 3 + 1 and np.array_equal(full[:18], bare)
    reference = planes["vh"] - planes["vh-ref"]
    part = np.s_[27:34, 37:44]  # 7 x 7 around (30, 40)
    means = [10 * np.log10(np.mean(10 ** (band[part] / 10))) for band in (planes["vh"], reference)]
    assert full[18 + 3 + 1, 30, 40] == pytest.approx(means[0] - means[1], abs=1e-4)
    assert (full[-1] == 38).all()


# ---- classifiers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elevation-season", "gradient-boosting", "random-forest"])
def test_classifiers_learn_a_planted_rule_on_unseen_scenes(name):
    scores, floor = Histogram(), Histogram()
    _, features, _, predict = BASELINES[name]
    model, majority = fitted(name), fitted("majority")
    for seed in range(100, 106):
        planes, mask = scene(seed)
        probability = predict(model, features(planes))
        assert probability.shape == mask.shape and probability.dtype == np.float32
        scores.add(probability, mask)
        floor.add(BASELINES["majority"][3](majority, BASELINES["majority"][1](planes)), mask)
    assert scores.auprc() > floor.auprc() + 0.15
    assert scores.brier() < 0.8 * floor.brier()


def test_elevation_season_features():
    planes = {
        name: np.full((1, 2), v)
        for name, v in (("elevation", 500), ("season-sin", 0.6), ("season-cos", -0.8))
    }
    got = BASELINES["elevation-season"][1](planes)[:, 0, 0]
    assert got == pytest.approx([500, 0.6, -0.8, 300, -400], rel=1e-6)


def test_majority_is_the_training_prevalence_everywhere():
    assert fitted("majority") == pytest.approx(
        np.mean([scene(k)[1][scene(k)[1] < 2].mean() for k in range(16)]), abs=0.01
    )
    probability, _ = planted("majority", 100)
    assert len(np.unique(probability)) == 1 and probability[0, 0] == np.float32(fitted("majority"))


@pytest.mark.parametrize("name", ["majority", "elevation-season", "gradient-boosting", "random-forest"])
def test_equal_seeds_give_equal_models_on_any_number_of_threads(name):
    planes, _ = scene(100)
    _, features, _, predict = BASELINES[name]
    values = features(planes)
    first = predict(fitted(name), values)
    assert np.array_equal(first, predict(fitted(name, n_jobs=2), values, n_jobs=2))
    if name == "random-forest":
        assert fitted(name, n_jobs=2).n_jobs == 1  # votes are added in one order
        assert not np.array_equal(first, predict(fitted(name, seed=4), values))


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "majority"])
def test_no_data_in_any_feature_is_no_data_out(name):
    needs, features, _, predict = BASELINES[name]
    model = fitted(name)
    planes, _ = scene(101)
    assert np.isfinite(predict(model, features(planes))).all()
    for k, plane in enumerate(needs):
        planes[plane] = planes[plane].copy()
        planes[plane][k, 5:9] = np.nan
    missing = np.zeros((SIDE, SIDE), bool)
    missing[: len(needs), 5:9] = True
    assert np.array_equal(np.isnan(predict(model, features(planes))), missing)
    for plane in needs:
        planes[plane] = np.full((SIDE, SIDE), np.nan)
    assert np.isnan(predict(model, features(planes))).all()


def test_gradient_boosting_sees_weather_in_any_order_and_never_radar():
    planes, _ = scene(0)
    values = BASELINES["gradient-boosting"][1](planes)
    names = (*baselines.TERRAIN, "degree-days-7", "local-incidence-angle")
    assert np.array_equal(values, np.stack([planes[name] for name in names]).astype(np.float32))
    assert np.array_equal(values, BASELINES["gradient-boosting"][1](dict(reversed(planes.items()))))


def test_number_of_trees_is_chosen_on_other_sites():
    """A feature that names the site fits the training sites by heart: only held-out sites say stop."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 2000)
    x = np.stack([random.normal(size=16000), groups + random.normal(0, 0.1, 16000)], axis=1).astype(
        np.float32
    )
    y = (random.random(16000) < np.where(random.random(8) < 0.5, 0.1, 0.9)[groups]).astype(np.uint8)
    fit = BASELINES["gradient-boosting"][2]
    assert fit(x, y, groups, 0).n_iter_ < 20
    assert fit(x, y, None, 0).n_iter_ == baselines.MOST_TREES


def test_one_class_is_refused():
    for name in ("elevation-season", "gradient-boosting", "random-forest"):
        with pytest.raises(ValueError, match="both classes"):
            BASELINES[name][2](np.zeros((50, 3), np.float32), np.ones(50, np.uint8))


# ---- Otsu --------------------------------------------------------------------------------------------------


def test_otsu_equals_opencv_on_bytes():
    random = np.random.default_rng(2)
    grey = np.where(
        random.random((90, 90)) < 0.3, random.normal(80, 20, (90, 90)), random.normal(160, 25, (90, 90))
    )
    grey = grey.clip(0, 255).round().astype(np.uint8)
    grey[0, :2] = 0, 255  # so that the 256 bins are the 256 values
    expected, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    assert np.array_equal(grey < otsu_threshold(grey), grey <= expected)


def test_otsu_is_the_best_of_all_cuts():
    random = np.random.default_rng(3)
    db = np.concatenate([random.normal(-17, 1.5, 700), random.normal(-9, 2, 1300)])
    count, edges = np.histogram(db, 256)
    middle = (edges[:-1] + edges[1:]) / 2
    between = []
    for cut in range(1, 256):
        low, high = np.repeat(middle[:cut], count[:cut]), np.repeat(middle[cut:], count[cut:])
        between.append(len(low) * len(high) * (low.mean() - high.mean()) ** 2)
    assert otsu_threshold(np.append(db, np.nan)) == pytest.approx(edges[1 + np.argmax(between)])


def test_otsu_marks_the_darker_side_and_cuts_in_the_middle_of_a_gap():
    db = np.array([[-20.0, -19.5, np.nan], [-10.0, -9.5, -9.0]])
    predict = BASELINES["otsu-vv"][3]
    assert np.array_equal(predict(None, db[None]), [[1, 1, np.nan], [0, 0, 0]], equal_nan=True)
    assert otsu_threshold(db) == pytest.approx(-14.75, abs=0.1)
    assert otsu_threshold(np.full((3, 3), -12.0)) is None and otsu_threshold(np.array([np.nan])) is None
    assert np.array_equal(predict(None, np.full((1, 3, 3), -12.0)), np.zeros((3, 3)))


# ---- Nagler and Rott ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle", "weight"), [(15, 1), (20, 1), (25, 0.9), (32.5, 0.75), (40, 0.6), (45, 0.5), (75, 0.5)]
)
def test_nagler_weight(angle, weight):
    assert nagler_weight(angle) == pytest.approx(weight, abs=1e-12)


def test_nagler_weight_has_no_jump():
    for edge in (20, 45):
        assert nagler_weight(edge - 1e-9) == pytest.approx(nagler_weight(edge + 1e-9), abs=1e-9)


def test_nagler_ratio_by_hand_and_its_angles():
    angle = np.array([14.99, 15.0, 20.0, 40.0, 60.0, 75.0, 75.01])
    got = nagler_ratio_db(np.full(7, -1.0), np.full(7, -4.0), angle)  # W * -4 + (1 - W) * -1
    assert got == pytest.approx([np.nan, -4, -4, 0.6 * -4 + 0.4 * -1, -2.5, -2.5, np.nan], nan_ok=True)


def nagler(vv_ratio, vh_ratio, angle, **more):
    """A uniform image of these ratios in dB, as the baseline takes it."""
    flat = np.ones((9, 9))
    planes = {"vv": flat * -10, "vh": flat * -17, "vv-ref": flat * vv_ratio, "vh-ref": flat * vh_ratio}
    planes["local-incidence-angle"] = flat * angle
    return BASELINES["nagler-ratio"][1]({**planes, **more})


def test_nagler_marks_wet_snow_below_the_threshold_only():
    predict = BASELINES["nagler-ratio"][3]
    assert (predict(None, nagler(-2.1, -2.1, 38)) == 1).all()
    assert (predict(None, nagler(-1.9, -1.9, 38)) == 0).all()
    assert (predict(None, nagler(0, -5, 17)) == 1).all()  # steep: VH alone
    assert (predict(None, nagler(-5, 0, 17)) == 0).all()
    assert (predict(None, nagler(-2.7, -2.7, 38), threshold_db=-3.0) == 0).all()
    assert (
        np.isnan(predict(None, nagler(-9, -9, 10))).all()
        and np.isnan(predict(None, nagler(-9, -9, 80))).all()
    )
    excluded = np.zeros((9, 9), bool)
    excluded[2, 3:6] = True
    assert np.array_equal(np.isnan(predict(None, nagler(-9, -9, 38, excluded=excluded))), excluded)


def test_nagler_averages_power_of_image_and_reference_apart():
    random = np.random.default_rng(4)
    vv, vh, vv_ref, vh_ref = random.normal(-12, 3, (4, 30, 30))
    vv_ref[11, 21] = np.nan  # the image's own value there must not count either
    planes = {"vv": vv, "vh": vh, "vv-ref": vv - vv_ref, "vh-ref": vh - vh_ref}
    planes["local-incidence-angle"] = np.full((30, 30), 38.0)
    got = baselines.nagler_features(planes, window=5)
    part = np.s_[8:13, 18:23]  # around (10, 20)
    both = np.isfinite(vv_ref[part])
    image, reference = (np.mean(10 ** (band[part][both] / 10)) for band in (vv, vv_ref))
    assert got[0, 10, 20] == pytest.approx(10 * np.log10(image / reference), abs=1e-4)
    assert baselines.nagler_features(planes, window=1)[1] == pytest.approx(vh - vh_ref, abs=1e-5)


def test_threshold_sensitivity_counts():
    ratio = np.array([-0.5, -1.2, -1.7, -2.2, -2.7, -3.2, -9, np.nan, 5])
    mask = np.array([0, 0, 1, 1, 0, 1, 255, 1, 1], np.uint8)
    rows = threshold_sensitivity(ratio, mask)
    assert [row["threshold_db"] for row in rows] == [-1, -1.5, -2, -2.5, -3]
    keys = ("true_snow", "missed_snow", "false_snow", "true_bare")
    counts = [tuple(row[key] for key in keys) for row in rows]
    assert counts == [(3, 1, 2, 1), (3, 1, 1, 2), (2, 2, 1, 2), (1, 3, 1, 2), (1, 3, 0, 3)]
    assert scores_of_counts(*counts[2])["iou"] == pytest.approx(2 / 5)


def test_threshold_sensitivity_agrees_with_the_prediction():
    planes, mask = scene(102)
    values = BASELINES["nagler-ratio"][1](
        {**planes, "vv-ref": planes["vv"] + 10, "vh-ref": planes["vh"] + 17}
    )
    wet = BASELINES["nagler-ratio"][3](None, values)
    row = threshold_sensitivity(baselines.masked_ratio_db(values), mask)[2]
    scores = Histogram()
    scores.add(wet, mask)
    assert {key: scores.at(0.5)[key] for key in row if key != "threshold_db"} == {
        key: value for key, value in row.items() if key != "threshold_db"
    }
