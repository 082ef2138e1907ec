import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as judge

from models.metrics import (
    BINS,
    COUNTS,
    Histogram,
    Tally,
    cluster_bootstrap,
    is_snow,
    paired_bootstrap,
    paired_table,
    percents,
    resample,
    scores_of_counts,
    to_mask,
)


def sample(seed=0, size=5000, prevalence=0.3):
    """Probabilities on bin edges (so that binning loses nothing), truth, and 255 on a tenth of the pixels."""
    random = np.random.default_rng(seed)
    truth = (random.random(size) < prevalence).astype(np.uint8)
    probability = np.round(np.clip(0.35 * truth + 0.65 * random.random(size), 0, 0.999), 3)
    return probability, truth, random.random(size) < 0.1


@pytest.mark.parametrize("threshold", [0.0, 0.137, 0.5, 0.9])
def test_scores_equal_scikit_learn(threshold):
    probability, truth, ignored = sample()
    histogram = Histogram()
    histogram.add(probability, np.where(ignored, 255, truth))
    got, y, p = histogram.summary(threshold), truth[~ignored], probability[~ignored]
    marked = p >= threshold
    assert got["f1"] == pytest.approx(judge.f1_score(y, marked), abs=1e-12)
    assert got["iou"] == pytest.approx(judge.jaccard_score(y, marked), abs=1e-12)
    assert got["precision"] == pytest.approx(judge.precision_score(y, marked), abs=1e-12)
    assert got["recall"] == pytest.approx(judge.recall_score(y, marked), abs=1e-12)
    assert got["accuracy"] == pytest.approx(judge.accuracy_score(y, marked), abs=1e-12)
    assert got["balanced_accuracy"] == pytest.approx(judge.balanced_accuracy_score(y, marked), abs=1e-12)
    assert (got["mcc"] or 0) == pytest.approx(judge.matthews_corrcoef(y, marked), abs=1e-12)
    assert got["auprc"] == pytest.approx(judge.average_precision_score(y, p), abs=1e-12)
    assert got["brier"] == pytest.approx(judge.brier_score_loss(y, p), abs=1 / BINS)
    table = judge.confusion_matrix(y, marked)
    assert [got[k] for k in ("true_bare", "false_snow", "missed_snow", "true_snow")] == table.ravel().tolist()


def test_no_data_and_missing_predictions_change_nothing():
    probability, truth, ignored = sample(1)
    clean, noisy = Histogram(), Histogram()
    clean.add(probability[~ignored], truth[~ignored])
    noisy.add(
        np.where(ignored & (truth == 1), np.nan, probability), np.where(ignored & (truth == 0), 255, truth)
    )
    assert clean.summary(0.4) == noisy.summary(0.4)


def test_order_and_grouping_of_files_change_nothing():
    probability, truth, _ = sample(2)
    whole, parts = Histogram(), Histogram()
    whole.add(probability, truth)
    for part in reversed(np.array_split(np.arange(len(truth)), 7)):
        parts.add(probability[part], truth[part])
    assert whole.summary(0.5) == parts.summary(0.5) and whole.best_threshold() == parts.best_threshold()


def test_best_threshold_is_the_best_of_all():
    probability, truth, _ = sample(3)
    histogram = Histogram()
    histogram.add(probability, truth)
    every = [histogram.at(k / BINS)["iou"] for k in range(BINS)]
    assert histogram.at(histogram.best_threshold())["iou"] == max(every)


def test_masks_and_scores_agree_to_the_pixel():
    probability, truth, _ = sample(4)
    histogram = Histogram()
    histogram.add(probability, truth)
    for threshold in (0.0, 0.1, 0.29, 0.3, 0.57, 1.0):
        assert is_snow(probability, threshold).sum() == sum(
            histogram.at(threshold)[k] for k in ("true_snow", "false_snow")
        )


def test_a_probability_on_the_threshold_is_snow_in_float32_too():
    steps = (np.arange(BINS) / BINS).astype(np.float32)
    assert all(is_snow(steps[k], k / BINS) and not is_snow(steps[k - 1], k / BINS) for k in range(1, BINS))
    assert is_snow(np.float32(1), 1) and to_mask(np.array([1, -1e-7], np.float32), 1.0).tolist() == [1, 0]


def test_nothing_to_score_is_none():
    empty, bare, snow = Histogram(), Histogram(), Histogram()
    bare.add(np.array([0.2, 0.8]), np.array([0, 0]))
    snow.add(np.array([0.2, 0.8]), np.array([1, 1]))
    assert all(value in (None, 0) for value in empty.summary(0.5).values())
    for name in ("iou", "f1", "precision", "recall", "balanced_accuracy", "mcc", "auprc"):
        assert bare.summary(0.5)[name] is None
    assert snow.summary(0.5)["balanced_accuracy"] is None and snow.summary(0.5)["recall"] == 0.5
    assert bare.best_threshold() is None and snow.best_threshold() is None


def test_calibration_of_a_calibrated_model_is_small():
    random = np.random.default_rng(5)
    probability = random.random(200_000)
    histogram = Histogram()
    histogram.add(probability, (random.random(200_000) < probability).astype(np.uint8))
    assert histogram.expected_calibration_error() < 0.01
    assert sum(row["pixels"] for row in histogram.calibration()) == 200_000


def test_bootstrap_interval_needs_sites_and_holds_the_score():
    random = np.random.default_rng(6)
    rows = [
        {
            "site": f"s{k % 8}",
            "scene": f"d{k}",
            "true_snow": int(random.integers(20, 60)),
            "missed_snow": int(random.integers(0, 20)),
            "false_snow": int(random.integers(0, 20)),
            "true_bare": 50,
        }
        for k in range(40)
    ]
    got = cluster_bootstrap(rows, seed=1, replicates=300)
    whole = scores_of_counts(
        *(sum(r[k] for r in rows) for k in ("true_snow", "missed_snow", "false_snow", "true_bare"))
    )
    assert got["sites"] == 8 and got["scenes"] == 40
    assert got["iou"][0] < whole["iou"] < got["iou"][1]
    assert cluster_bootstrap(rows[:1], seed=1)["iou"] is None


# ---- intervals and strata ----------------------------------------------------------------------------------


def scenes_of(count=60, sites=12, seed=7, skill=1.0, bins=200):
    """Rows of scenes whose snow has higher probabilities the greater the skill, with histograms."""
    random, rows = np.random.default_rng(seed), []
    for k in range(count):
        truth = random.random(400) < random.uniform(0.2, 0.8)
        probability = np.clip(0.5 + 0.2 * skill * (truth - 0.5) + 0.2 * random.normal(size=400), 0, 0.999)
        marked = probability >= 0.5
        counts = [
            int(part.sum()) for part in (truth & marked, truth & ~marked, ~truth & marked, ~truth & ~marked)
        ]
        place = (probability * bins).astype(int)
        both = np.stack([np.bincount(place[c], minlength=bins) for c in (truth, ~truth)])
        rows.append(
            {
                "site": f"s{k % sites}",
                "scene": f"d{k:03d}",
                **dict(zip(COUNTS, counts, strict=True)),
                "histogram": both,
            }
        )
    return rows


def test_resamples_draw_sites_then_as_many_scenes_as_they_have():
    sites = ["a"] * 5 + ["b"] * 3 + ["c"]
    weights = resample(sites, seed=1, replicates=4000)
    per_site = np.stack([weights[:, :5].sum(1), weights[:, 5:8].sum(1), weights[:, 8]], axis=1)
    times = per_site / [5, 3, 1]
    assert np.array_equal(times, np.round(times)) and (times.sum(axis=1) == 3).all()  # three sites are drawn
    assert np.allclose(weights.mean(axis=0), 1, atol=0.08)  # every scene once on average
    assert (weights[:, 0] > times[:, 0]).any()  # scenes inside a site are drawn anew as well
    assert np.array_equal(weights, resample(sites, seed=1, replicates=4000))
    assert not np.array_equal(weights, resample(sites, seed=2, replicates=4000))


def test_bootstrap_equals_drawing_one_by_one():
    rows = scenes_of()
    got = cluster_bootstrap(rows, seed=3, replicates=4000)
    random, draws = np.random.default_rng(9), []
    sites = [[r for r in rows if r["site"] == f"s{k}"] for k in range(12)]
    for _ in range(2000):
        drawn = [sites[k] for k in random.integers(12, size=12)]
        total = sum(
            np.array([scenes[i][n] for n in COUNTS])
            for scenes in drawn
            for i in random.integers(len(scenes), size=len(scenes))
        )
        draws.append(scores_of_counts(*total)["iou"])
    low, high = np.percentile(draws, percents(12))
    assert got["iou"] == pytest.approx([low, high], abs=0.15 * (high - low))
    assert got["sites"] == 12 and got["scenes"] == 60 and got["auprc"][0] < got["auprc"][1]


def test_intervals_do_not_depend_on_the_order_of_rows_nor_on_tiles():
    rows = scenes_of()
    halves = []
    for row in rows:  # every scene in two tiles
        first = {**row, **{n: row[n] // 2 for n in COUNTS}, "histogram": row["histogram"] // 2}
        second = {**row, **{n: row[n] - first[n] for n in COUNTS}}
        halves += [first, {**second, "histogram": row["histogram"] - first["histogram"]}]
    assert cluster_bootstrap(rows) == cluster_bootstrap(rows[::-1]) == cluster_bootstrap(halves[::-1])


def test_paired_differences_know_equal_from_better():
    good, bad = scenes_of(skill=2.0), scenes_of(skill=1.0)
    same = paired_bootstrap(good, good)
    assert same["iou"] == {"difference": 0, "low": 0, "high": 0, "excludes_0": False}
    got, back = paired_bootstrap(good, bad), paired_bootstrap(bad, good)
    for name in ("iou", "mcc", "auprc", "balanced_accuracy"):
        assert got[name]["excludes_0"] and back[name]["excludes_0"]
        assert 0 < got[name]["low"] < got[name]["difference"] < got[name]["high"]
        assert (
            back[name]["difference"] == -got[name]["difference"] and back[name]["high"] == -got[name]["low"]
        )
    alone = cluster_bootstrap(good)["iou"]
    assert got["iou"]["high"] - got["iou"]["low"] < 2 * (alone[1] - alone[0])
    with pytest.raises(ValueError, match="same scenes"):
        paired_bootstrap(good, bad[1:])
    one = paired_bootstrap(good[:1], bad[:1])
    assert one["iou"]["difference"] is not None and one["iou"]["low"] is one["iou"]["excludes_0"] is None
    five = [row for row in good if row["site"] < "s5" and len(row["site"]) == 2]  # s0 to s4 of twelve sites
    assert paired_bootstrap(five, five)["iou"] == {"difference": 0, "low": 0, "high": 0, "excludes_0": None}
    nothing = [{**row, **dict.fromkeys(COUNTS, 0), "histogram": None} for row in good]
    assert paired_bootstrap(nothing, nothing)["iou"] is None and cluster_bootstrap(nothing)["f1"] is None


@pytest.mark.parametrize("sites", [5, 6, 8, 12, 40])
def test_percentiles_reach_as_far_as_students_t(sites):
    z = stats.t.ppf(0.975, sites - 1) * np.sqrt(sites / (sites - 1))
    assert percents(sites) == pytest.approx([100 * stats.norm.cdf(-z), 100 * stats.norm.cdf(z)], rel=0.05)


@pytest.mark.parametrize("sites", [6, 8, 12])
def test_equal_methods_are_rarely_told_apart(sites):
    """500 tables of two methods equally good on average, better or worse by chance on each site.

    Plain percentiles say that 0 is excluded in 15, 10 and 7 % of them, and hold the true accuracy in 87, 88
    and 92 % (6, 8, 12 sites).
    """
    random, wrong, holds = np.random.default_rng(1), 0, 0

    def rows(skills):
        right = (500 * np.clip(skills, 0, 1)).astype(int)
        return [
            {"site": f"s{k}", "scene": "d", **dict(zip(COUNTS, (n, 500 - n, 500 - n, n), strict=True))}
            for k, n in enumerate(right.tolist())
        ]

    for seed in range(500):
        skills = 0.8 + 0.05 * random.standard_normal((2, sites))
        found = paired_bootstrap(*map(rows, skills), seed, 400, names=("accuracy",))
        low, high = cluster_bootstrap(rows(skills[0]), seed, 400, names=("accuracy",))["accuracy"]
        wrong, holds = wrong + found["accuracy"]["excludes_0"], holds + (low <= 0.8 <= high)
    assert wrong <= 0.08 * 500 and holds >= 0.92 * 500


def test_sites_without_snow_tell_nothing_of_snow():
    """Eight sites, wet snow on one of them, then on two: recall of wet snow has one, two sites to go by."""
    for wet_sites in (1, 2):
        one, two = (Tally({"wetness": ("dry", "wet")}) for _ in range(2))
        for site in range(8):
            reference = (np.arange(400) < 200).astype(np.uint8)
            codes = {"wetness": ((np.arange(400) < 100) & (site < wet_sites)).astype(int)}
            worse = np.where(np.arange(400) < 3, 0, reference)
            one.add(f"s{site}", "d", reference, reference, codes)
            two.add(f"s{site}", "d", worse, reference, codes)
        wet = next(row for row in two.table() if row["class"] == "wet")
        assert (wet["recall_low"] is None) == (wet["iou_low"] is None) == (wet_sites == 1)
        assert wet["sites"] == 8 and wet["sites_with_snow"] == wet_sites
        rows = {(row["class"], row["score"]): row for row in paired_table(one, two)}
        for score in ("recall", "iou", "f1", "balanced_accuracy", "mcc"):
            assert rows["wet", score]["excludes_0"] is None and rows["wet", score]["difference"] > 0
            assert rows["wet", score]["sites_with_snow"] == wet_sites
            assert rows["all", score]["excludes_0"] is True


def test_auprc_lies_in_its_interval_for_sure_nets_and_rare_snow():
    random, sure, rare = np.random.default_rng(1), Tally(), Tally()
    for site in range(8):
        reference = (random.random(4000) < 0.4).astype(np.uint8)
        logit = np.where(reference, random.normal(4.5, 2, 4000), random.normal(-4.5, 3, 4000))
        probability = 1 / (1 + np.exp(-2 * logit))
        sure.add(f"s{site}", "d", to_mask(probability, 0.5), reference, None, probability)
        reference = (random.random(4000) < 0.02).astype(np.uint8)
        probability = np.where(
            reference, random.uniform(0.002, 0.0049, 4000), random.uniform(0, 0.0035, 4000)
        )
        rare.add(f"s{site}", "d", to_mask(probability, 0.003), reference, None, probability)
    for tally in (sure, rare):
        (row,) = tally.table()
        assert row["auprc_low"] < row["auprc"] < row["auprc_high"]
        assert row["auprc"] == pytest.approx(tally.histogram().auprc(), abs=0.002)


def test_auprc_is_compared_where_both_have_the_same_probabilities():
    random, some, every = np.random.default_rng(2), Tally(), Tally()
    for site in range(6):
        reference = (random.random(2000) < 0.4).astype(np.uint8)
        probability = np.clip(reference * (0.1 if site > 2 else 0.6) + random.random(2000) * 0.4, 0, 1)
        mask = to_mask(probability, 0.4)
        some.add(f"s{site}", "d", mask, reference, None, probability if site < 3 else None)
        every.add(f"s{site}", "d", mask, reference, None, probability)
    got = next(row for row in paired_table(some, every) if row["score"] == "auprc")
    assert got["difference"] == 0 and got["excludes_0"] is None


def tallied(seed=0, scenes=8, snow_only=("wetness",)):
    tally, whole = Tally({"surface": ("open", "forest"), "wetness": ("dry", "wet")}, snow_only), []
    random = np.random.default_rng(seed)
    for number in range(scenes):
        reference = random.choice([0, 1, 255], (30, 20), p=[0.5, 0.4, 0.1]).astype(np.uint8)
        probability = np.round(np.clip(random.random((30, 20)) * 0.6 + 0.4 * (reference == 1), 0, 0.999), 3)
        codes = {"surface": random.integers(-1, 2, (30, 20)), "wetness": random.integers(-1, 2, (30, 20))}
        mask = to_mask(np.where(random.random((30, 20)) < 0.1, np.nan, probability), 0.5)
        own = tally.add(f"s{number % 3}", f"d{number}", mask, reference, codes, probability)
        whole.append((reference, mask, codes, probability, own))
    return tally, whole


def test_strata_are_the_scores_of_their_pixels():
    tally, whole = tallied()
    reference, mask, surface, wetness, probability = (
        np.concatenate([part.ravel() for part in parts])
        for parts in (
            [w[0] for w in whole],
            [w[1] for w in whole],
            [w[2]["surface"] for w in whole],
            [w[2]["wetness"] for w in whole],
            [w[3] for w in whole],
        )
    )
    valid = (reference != 255) & (mask != 255)
    chosen = {
        ("all", "all"): valid,
        ("surface", "open"): valid & (surface == 0),
        ("surface", "forest"): valid & (surface == 1),
        ("wetness", "dry"): valid & ((reference == 0) | (wetness == 0)),  # all snow-free ground, and dry snow
        ("wetness", "wet"): valid & ((reference == 0) | (wetness == 1)),
    }
    assert tally.groups() == list(chosen)
    for group, pixels in chosen.items():
        got, y = tally.scores(*group), reference[pixels]
        assert got["pixels"] == pixels.sum()
        assert got["iou"] == pytest.approx(judge.jaccard_score(y, mask[pixels]), abs=1e-12)
        wanted = judge.average_precision_score(y, probability[pixels])
        assert tally.histogram(*group).auprc() == pytest.approx(wanted, abs=1e-12)
        assert got["auprc"] == pytest.approx(wanted, abs=0.005)  # of fewer bins
    assert [row["class"] for row in tally.table(replicates=20)] == ["all", "open", "forest", "dry", "wet"]
    assert sum(own["true_snow"] for *_, own in whole) == tally.scores()["true_snow"]


def test_paired_table_compares_every_class():
    first, other = tallied(0)[0], tallied(0)[0]
    table = paired_table(first, other, replicates=50)
    assert {(row["stratum"], row["class"]) for row in table} == set(first.groups())
    assert all(row["difference"] == 0 and row["excludes_0"] is None for row in table)
    assert {row["scenes"] for row in table} == {8} and {row["sites"] for row in table} == {3}


def test_a_scene_without_a_valid_pixel_is_no_observation():
    tally = Tally()
    empty = tally.add("s", "d", np.full((3, 3), 255, np.uint8), np.ones((3, 3), np.uint8))
    assert empty["pixels"] == 0 and empty["iou"] is None and tally.groups() == [] and tally.rows() == []
    assert tally.scores()["iou"] is None and tally.scores()["auprc"] is None


def test_three_hundred_scenes_take_under_two_seconds():
    import time

    rows = scenes_of(300, 36)
    began = time.process_time()
    cluster_bootstrap(rows, replicates=1000)
    assert time.process_time() - began < 2


def test_the_gain_over_marking_everything_is_paired_with_it():
    """Sites of very different snow: IoU and its floor both vary widely, their difference does not."""
    rows = []
    for k, snow in enumerate((100, 300, 500, 700, 900, 200, 400, 600)):
        hit = round(0.9 * snow)
        counts = dict(zip(COUNTS, (hit, snow - hit, 0, 1000 - snow), strict=True))
        rows.append({"site": f"s{k}", "scene": "a", **counts})
        one = scores_of_counts(**counts)
        assert one["iou_gain"] == pytest.approx(0.9 - snow / 1000)
    found = cluster_bootstrap(rows)
    everything = [{**row, "true_snow": row["true_snow"] + row["missed_snow"], "missed_snow": 0,
                   "false_snow": row["true_bare"], "true_bare": 0} for row in rows]  # fmt: skip
    paired = paired_bootstrap(rows, everything)["iou"]
    assert found["iou_gain"] == pytest.approx([paired["low"], paired["high"]], abs=1e-12)
    assert cluster_bootstrap(everything)["iou_gain"] == pytest.approx([0, 0], abs=1e-12)
    nothing = scores_of_counts(0, 0, 5, 5)
    assert nothing["iou_gain"] is None
