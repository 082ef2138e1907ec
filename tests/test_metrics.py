import numpy as np
import pytest
from sklearn import metrics as reference

from models.metrics import BINS, Histogram, cluster_bootstrap, is_snow, scores_of_counts


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
    assert got["f1"] == pytest.approx(reference.f1_score(y, marked), abs=1e-12)
    assert got["iou"] == pytest.approx(reference.jaccard_score(y, marked), abs=1e-12)
    assert got["precision"] == pytest.approx(reference.precision_score(y, marked), abs=1e-12)
    assert got["recall"] == pytest.approx(reference.recall_score(y, marked), abs=1e-12)
    assert got["accuracy"] == pytest.approx(reference.accuracy_score(y, marked), abs=1e-12)
    assert got["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(y, marked), abs=1e-12)
    assert (got["mcc"] or 0) == pytest.approx(reference.matthews_corrcoef(y, marked), abs=1e-12)
    assert got["auprc"] == pytest.approx(reference.average_precision_score(y, p), abs=1e-12)
    assert got["brier"] == pytest.approx(reference.brier_score_loss(y, p), abs=1 / BINS)
    table = reference.confusion_matrix(y, marked)
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
