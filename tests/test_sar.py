import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import sar


@given(st.lists(st.floats(-40, 15), min_size=1, max_size=30))
def test_db_round_trip(values):
    db = np.array(values, np.float32)
    assert np.allclose(sar.to_db(sar.to_linear(db)), db, atol=1e-4)


def test_no_power_has_no_db():
    assert np.isnan(sar.to_db(np.array([0.0, -1.0, np.nan]))).all()
    assert sar.to_db(np.array([1.0, 10.0])).tolist() == pytest.approx([0, 10])


def speckle(mean, looks, shape=(200, 200), seed=0):
    return (mean * np.random.default_rng(seed).gamma(looks, 1 / looks, shape)).astype(np.float32)


def test_lee_keeps_the_mean_lowers_the_variance_and_leaves_edges():
    flat = speckle(0.1, 4.4)
    filtered = sar.lee(flat, 7, 4.4)
    inner = filtered[10:-10, 10:-10]
    assert inner.mean() == pytest.approx(0.1, rel=0.01)
    assert inner.var() < flat.var() / 15
    step = flat.copy()
    step[:, 100:] *= 30
    filtered = sar.lee(step, 7, 4.4)
    assert filtered[:, 110:190].mean() / filtered[:, 10:90].mean() == pytest.approx(30, rel=0.05)
    assert np.abs(sar.to_db(filtered[10:-10, 100]).mean() - sar.to_db(step[10:-10, 100]).mean()) < 1


def test_lee_no_data_in_is_no_data_out_and_weighs_nothing():
    image = speckle(0.1, 4.4)
    holes = np.random.default_rng(1).random(image.shape) < 0.3
    filtered = sar.lee(np.where(holes, np.nan, image), 7, 4.4)
    assert (np.isnan(filtered) == holes).all()
    assert np.nanmean(filtered) == pytest.approx(0.1, rel=0.02)
    constant = np.where(holes, np.nan, np.float32(0.2))
    assert np.allclose(sar.lee(constant)[~holes], 0.2, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"window": 4}, {"window": 1}, {"looks": 0}])
def test_lee_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match="window"):
        sar.lee(np.ones((9, 9)), **wrong)


def test_stretch():
    values = np.array([-30, -20, -10, 0, np.nan], np.float32)
    assert sar.stretch(values, (-20, -10)).tolist() == [1, 1, 255, 255, 0]
    assert sar.stretch_limits(np.full(9, np.nan)) == (0.0, 1.0)
    assert sar.stretch_limits(np.full(9, 3.0)) == (3.0, 4.0)


def test_border_goes_and_dark_patches_stay():
    image = np.full((60, 60), 0.1, np.float32)
    image[:, :10] = 1e-6  # unlit swath edge
    image[30:35, 30:35] = 1e-6  # calm water
    image[0, 59] = np.nan
    clean = sar.clean_border(image, fringe_px=2)
    assert np.isnan(clean[:, :12]).all() and np.isfinite(clean[3:, 12:55]).all()
    assert np.isfinite(clean[30:35, 30:35]).all()
    assert np.isnan(clean[:3, 57:]).all()
    assert np.isfinite(sar.clean_border(np.full((9, 9), 0.1, np.float32))).all()


@pytest.mark.parametrize(
    ("values", "units", "problem"),
    [
        ([-12, -20, -8], "dB", None),
        ([-2, 3, -9], "dB", None),
        ([0.05, 0.1, 0.02], "linear", None),
        ([0.05, 0.1, 0.02], "dB", "positive"),
        ([-12, -20, -8], "linear", "negative"),
        ([1.01, 1.02, 1.005], "linear", "converted twice"),
        ([10.8, 13.0, 9.0], "dB", "converted twice"),
        ([-120, -200, -80], "dB", "converted twice"),
        ([3000, 5000, 1000], "linear", "digital numbers"),
        ([-12], "decibel", "expected 'dB' or 'linear'"),
        ([np.nan], "dB", None),
    ],
)
def test_units_are_held_against_values(values, units, problem):
    got = sar.unit_problem(np.array(values * 40, float), units)
    assert got is None if problem is None else problem in got


def test_running_mean_is_in_linear_power_and_ignores_no_data():
    a, b = np.array([1.0, np.nan, np.nan]), np.array([3.0, 5.0, np.nan])
    total, count = sar.running_mean(*sar.running_mean(None, None, a), b)
    assert total.tolist() == [4, 5, 0] and count.tolist() == [2, 1, 0]
