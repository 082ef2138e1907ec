import numpy as np
import pymannkendall
import pytest
from scipy import stats

from models.trends import (
    MIN_YEARS,
    carry_over,
    effective_n_trend,
    hamed_rao,
    mann_kendall,
    memory_of_ranks,
    seasonal_kendall,
    seasonal_sen,
    smallest_detectable,
    year_block_bootstrap,
)


def months(series=200, years=11, rho=0.3, seed=0, seasons=12):
    """AR(1) months (series, years, seasons) of unit variance, and the decimal years of mid-months."""
    noise = np.random.default_rng(seed).standard_normal((series, years * seasons))
    line = noise.copy()
    for at in range(1, line.shape[1]):
        line[:, at] = rho * line[:, at - 1] + np.sqrt(1 - rho**2) * noise[:, at]
    times = 2010 + np.arange(years)[:, None] + (np.arange(seasons) + 0.5) / seasons
    return line.reshape(series, years, seasons), times


def with_gaps(values, share=0.2, seed=1):
    return np.where(np.random.default_rng(seed).random(values.shape) < share, np.nan, values)


def same(ours, theirs, rtol=1e-12):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-12)


def even(values):
    """Times that count the years, as pymannkendall does."""
    return np.broadcast_to(np.arange(values.shape[-2])[:, None], values.shape)


# ---- against other implementations -------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("correlated", [False, True])
def test_seasonal_kendall_equals_pymannkendall(correlated, ties):
    values = months(4)[0] + 0.03 * np.arange(11)[:, None]
    values = np.round(values, 1) if ties else values
    ours = seasonal_kendall(values, correlated)
    theirs = pymannkendall.correlated_seasonal_test if correlated else pymannkendall.seasonal_test
    for k, series in enumerate(values):
        judge = theirs(series.ravel())
        same(
            [ours[name][k] for name in ("s", "variance", "z", "p", "tau")],
            [judge.s, judge.var_s, judge.z, judge.p, judge.Tau],
        )
        same(seasonal_sen(series, even(series))["slope"], judge.slope)


def test_gaps_without_correlation_equal_pymannkendall():
    values = with_gaps(months(3)[0])
    ours = seasonal_kendall(values, False)
    for k, series in enumerate(values):
        judge = pymannkendall.seasonal_test(series.ravel())
        same([ours[n][k] for n in ("s", "variance", "p")], [judge.s, judge.var_s, judge.p])
        same(seasonal_sen(series, even(series))["slope"], judge.slope)


@pytest.mark.parametrize("digits", [1, 9])
def test_gaps_with_correlation_equal_the_paper(digits):
    """pymannkendall drops every year with a gap; Hirsch & Slack rank a missing value (n_g + 1) / 2."""
    x = np.round(with_gaps(months(1, 7)[0][0]), digits)
    years, seasons = x.shape

    def sign(a):
        return 0 if np.isnan(a) else np.sign(a)

    n = np.isfinite(x).sum(0)
    rank = [
        [(n[g] + 1 + sum(sign(x[i, g] - x[j, g]) for j in range(years))) / 2 for g in range(seasons)]
        for i in range(years)
    ]
    variance = 0
    for g in range(seasons):
        for h in range(seasons):
            pairs = [(i, j) for j in range(years) for i in range(j)]
            k = sum(sign((x[j, g] - x[i, g]) * (x[j, h] - x[i, h])) for i, j in pairs)
            r = sum(rank[i][g] * rank[i][h] for i in range(years))
            variance += (k + 4 * r - years * (n[g] + 1) * (n[h] + 1)) / 3
    same(seasonal_kendall(x)["variance"], variance)


@pytest.mark.parametrize("digits", [1, 9])
def test_mann_kendall_equals_pymannkendall(digits):
    values = np.round(with_gaps(months(3)[0].reshape(3, -1)[:, :40]), digits)
    ours = mann_kendall(values)
    for k, series in enumerate(values):
        judge = pymannkendall.original_test(series)
        same(
            [ours[n][k] for n in ("s", "variance", "z", "p", "tau")],
            [judge.s, judge.var_s, judge.z, judge.p, judge.Tau],
        )


@pytest.mark.parametrize("lags", [None, 3])
def test_hamed_rao_equals_pymannkendall(lags):
    values = months(6, rho=0.9)[0].reshape(6, -1)[:, :40]
    ours = hamed_rao(values, np.broadcast_to(np.arange(40.0), values.shape), lags=lags)
    assert (ours["correction"] != 1).sum() > 3
    for k, series in enumerate(values):
        judge = pymannkendall.hamed_rao_modification_test(series, lag=lags)
        same([ours[n][k] for n in ("s", "slope")], [judge.s, judge.slope])
        if judge.var_s > 0:
            same([ours[n][k] for n in ("variance", "z", "p")], [judge.var_s, judge.z, judge.p])
        else:  # pymannkendall takes the root of a negative variance
            assert np.isnan(ours["p"][k]) and np.isnan(ours["low"][k])


def test_hamed_rao_keeps_the_gaps():
    """pymannkendall closes gaps, so that lag 1 joins values far apart; with every second one missing, even
    lags alone have pairs, as many as the closed series has at half the lag."""
    closed = months(1, rho=0.9)[0].reshape(-1)[:60]
    gaps = np.full(120, np.nan)
    gaps[::2] = closed
    a = hamed_rao(closed, np.arange(60.0))
    b = hamed_rao(gaps, np.arange(120.0) / 2)
    same(b["slope"], a["slope"])
    assert b["correction"] > 1.5 and abs(b["correction"] / a["correction"] - 1) < 0.05


@pytest.mark.parametrize("digits", [1, 9])
@pytest.mark.parametrize("years", [10, 11, 12, 25])
def test_one_season_equals_scipy_theilslopes(years, digits):
    x = np.round(months(1, years, seasons=1)[0][0, :, 0], digits)
    times = 2010 + np.arange(years) + np.random.default_rng(years).uniform(0, 0.9, years)
    judge = stats.theilslopes(x, times, alpha=0.95)
    ours = seasonal_sen(x[:, None], times[:, None])
    same([ours[n] for n in ("slope", "low", "high")], [judge.slope, judge.low_slope, judge.high_slope])


def test_effective_n_without_memory_is_plain_least_squares():
    x = np.sin(np.arange(40) * 2.5) + 0.01 * np.arange(
        40
    )  # neighbours of unlike sign: r1 below 0 counts as 0
    ours, judge = effective_n_trend(x, np.arange(40.0)), stats.linregress(np.arange(40.0), x)
    assert ours["r1"] == 0 and ours["n_eff"] == 40
    same([ours["slope"], ours["p"]], [judge.slope, judge.pvalue])
    same(ours["high"] - ours["slope"], stats.t.ppf(0.975, 38) * judge.stderr)


def test_effective_n_by_hand():
    x, times = months(1, rho=0.6)[0].reshape(-1), np.arange(132) / 12
    e = x - np.polyval(np.polyfit(times, x, 1), times)
    r1 = (132 * (e[1:] * e[:-1]).sum() / ((e[1:] ** 2 + e[:-1] ** 2).sum() / 2) + 2) / 128
    n_eff = 132 * (1 - r1) / (1 + r1)
    error = np.sqrt((e**2).sum() / (n_eff - 2) / (132 * times.var()))
    ours = effective_n_trend(x, times)
    same([ours["r1"], ours["n_eff"]], [r1, n_eff])
    same(ours["p"], 2 * stats.t.sf(abs(ours["slope"] / error), n_eff - 2), rtol=1e-9)
    assert n_eff < 60


# ---- what must hold ----------------------------------------------------------------------------------------


def test_a_line_on_real_dates_has_its_slope():
    values, times = months(5)
    times = times + np.random.default_rng(3).uniform(-0.04, 0.04, times.shape)  # no two Januaries on one day
    line = with_gaps(np.broadcast_to(-0.7 * times + np.arange(12), values.shape))
    same(seasonal_sen(line, times)["slope"], -0.7, rtol=1e-9)


def test_a_trend_moves_slope_and_interval_by_itself_and_leaves_the_variance():
    values, times = months()
    values = with_gaps(values)
    plain, steep = seasonal_sen(values, times), seasonal_sen(values + 0.3 * (times - 2010), times)
    for name in ("slope", "low", "high"):
        same(steep[name], plain[name] + 0.3, rtol=1e-9)
    same(steep["variance"], plain["variance"])
    assert (seasonal_kendall(values + 0.3 * (times - 2010))["variance"] > 2 * plain["variance"]).mean() > 0.9


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_p_and_interval_agree(correlated, confidence):
    values, times = months(1000, rho=0.6)
    found = seasonal_sen(with_gaps(values), times, confidence, correlated)
    outside = (found["low"] > 0) | (found["high"] < 0)
    assert np.array_equal(found["p"] < 1 - confidence, outside) and outside.sum() > 30
    assert (found["low"] < found["slope"]).all() and (found["slope"] < found["high"]).all()


def test_series_do_not_touch_each_other():
    values, times = months(700)
    values = with_gaps(values)  # 700 series of 660 slopes are more than a chunk holds in the bootstrap
    whole = seasonal_sen(values.reshape(7, 100, 11, 12), times)
    alone = seasonal_sen(values[123], times)
    for name in whole:
        assert whole[name].shape == (7, 100)
        assert whole[name][1, 23] == alone[name], name
    a = year_block_bootstrap(values[:3], times, 5, 50)
    assert a["low"][2] == year_block_bootstrap(values[2], times, 5, 50)["low"]


def test_a_site_twice_says_no_more_than_once():
    values, times = months(50)
    twice = seasonal_sen(np.concatenate([values, values], -1), np.concatenate([times, times], -1), cycle=12)
    once = seasonal_sen(values, times)
    same(twice["slope"], once["slope"])
    same(twice["memory"], once["memory"])
    same(twice["variance"], 4 * once["variance"])
    assert np.abs((twice["high"] - twice["low"]) / (once["high"] - once["low"]) - 1).max() < 0.05


def test_a_season_that_never_varies_changes_nothing():
    """pymannkendall counts its pairs as slopes of 0, though their sum of signs has no variance."""
    values, times = months(50)
    without = values.copy()
    without[:, :, 5:8] = np.nan
    constant = np.where(np.isnan(without), 0, without)
    a, b = seasonal_sen(without, times), seasonal_sen(constant, times)
    for name in ("slope", "low", "high", "p"):
        same(a[name], b[name])
    assert (
        pymannkendall.seasonal_sens_slope(constant[0].ravel()).slope
        != seasonal_sen(constant[0], times)["slope"]
    )


def test_ties_are_counted():
    values, times = months(1)
    assert seasonal_sen(values, times)["tied"] == 0
    assert seasonal_sen(np.round(values), times)["tied"] > 0.2


def test_a_tie_is_no_step_once_the_trend_is_gone():
    values, times = months(1, 8)
    x = np.round(values[0] + 0.3 * np.arange(8)[:, None])
    x[:, 5:9] = np.minimum(x[:, 5:9], 1)
    found, sums = seasonal_sen(x, times), np.zeros((8, 8))
    assert found["slope"] > 0 and found["tied"] > 0.2
    for i in range(8):
        for j in range(8):
            steps = [
                0 if x[i, g] == x[j, g] else (x[j, g] - x[i, g]) - found["slope"] * (j - i) for g in range(12)
            ]
            sums[i, j] = np.sign(np.round(steps, 9)).sum()
    hand = ((sums**2).sum() / 2 + (sums.sum(1) ** 2).sum()) / 3
    same(found["variance"] / found["carry_over"], hand)


def test_no_interval_of_one_number():
    """Sen's order statistics are both 0 where most pairs tie; 0 exactly would be too sure."""
    values, times = months(1)
    x = (values[0] > 1.2).astype(float)
    found = seasonal_sen(x, times)
    assert found["slope"] == 0 and found["tied"] > 0.6
    assert np.isnan([found["low"], found["high"]]).all() and found["p"] > 0.05


def test_memory_and_carry_over():
    values, times = months(300, 20, 0.8)
    found = seasonal_sen(with_gaps(values), times)
    assert 0.72 < found["memory"].mean() < 0.8  # ranks keep 6 / pi asin(0.8 / 2) = 0.79
    steps = np.arange(20 * 12)
    matrix = 0.8 ** np.abs(steps[:, None] - steps)
    weights = np.random.default_rng(0).random(12)
    sums = np.einsum("igjh,g,h->ij", matrix.reshape(20, 12, 20, 12), weights, weights)
    same(carry_over(np.array([0.8]), weights[None], 20, 12), sums.sum() / np.trace(sums))
    pooled = np.concatenate([values, months(300, 20, 0.8, seed=9)[0]], -1)
    assert abs(memory_of_ranks(pooled, 12).mean() - 0.8) < 0.02  # no pair across the border of sites
    assert memory_of_ranks(pooled, 24).mean() < 0.79


def test_bootstrap_equals_a_loop():
    values, times = months(1, 8)
    times = times + np.random.default_rng(3).uniform(-0.04, 0.04, times.shape)
    x = with_gaps(values[0]) + 0.2 * (times - 2010)
    slope, deviations = seasonal_sen(x, times)["slope"], []
    shift = np.where(np.isnan(x), np.nan, times - np.arange(8)[:, None])
    for drawn in np.random.default_rng(7).integers(0, 8, (200, 8)):
        residual, when = (x - slope * times)[drawn], shift[drawn] + np.arange(8)[:, None]
        deviations.append(
            np.nanmedian(
                np.concatenate(
                    [
                        (residual[j] - residual[i]) / (when[j] - when[i])
                        for j in range(8)
                        for i in range(j)
                        if drawn[i] != drawn[j]
                    ]
                )
            )
        )
    share = stats.norm.cdf(stats.t.ppf([0.025, 0.975], 6))
    hand = slope + np.sqrt(8 / 6) * np.quantile(deviations, share)
    ours = year_block_bootstrap(x, times, 7, 200)
    np.testing.assert_allclose([ours["low"], ours["high"]], hand, atol=1e-5)
    assert ours["low"] < slope < ours["high"]
    assert ours["low"] != year_block_bootstrap(x, times, 8, 200)["low"]


# ---- error rates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("years", "rho"), [(11, 0), (11, 0.3), (11, 0.6), (20, 0.3), (20, 0.6), (20, 0.9)])
def test_default_keeps_its_level(years, rho):
    values, times = months(1000, years, rho, seed=[4, years])
    found = seasonal_sen(with_gaps(values), times)
    covered = (found["low"] <= 0) & (found["high"] >= 0)
    assert 0.03 <= (found["p"] < 0.05).mean() <= 0.07
    assert 0.92 <= covered.mean() <= 0.97
    if rho == 0.6:  # the one that believes in independent months does not
        assert (seasonal_kendall(values, False)["p"] < 0.05).mean() > 0.2
    if rho == 0.9:  # nor, here, the one that believes in independent years
        assert (seasonal_kendall(values)["p"] < 0.05).mean() > 0.12


def test_bootstrap_and_effective_n_keep_their_level():
    values, times = months(300, 11, 0.3, seed=5)
    found = year_block_bootstrap(values, times, 0, 200)
    assert 0.9 <= ((found["low"] <= 0) & (found["high"] >= 0)).mean() <= 0.98
    anomalies = (values - values.mean(1, keepdims=True)).reshape(300, -1)
    found = effective_n_trend(anomalies, np.broadcast_to(times.ravel(), anomalies.shape))
    assert 0.02 <= (found["p"] < 0.05).mean() <= 0.09


def test_the_smallest_detectable_trend_is_detected():
    values, times = months(2000, 11, 0.3, seed=6)
    found = seasonal_sen(values, times)
    planted = np.median(smallest_detectable(found["low"], found["high"], dof=found["dof"]))
    detected = seasonal_sen(values + planted * (times - 2010), times)["p"] < 0.05
    assert 0.7 <= detected.mean() <= 0.9
    same(smallest_detectable(-1.0, 1.0), (1.959964 + 0.841621) / 1.959964, rtol=1e-6)
    assert np.isnan(smallest_detectable(np.nan, np.nan))


# ---- nothing to tell ---------------------------------------------------------------------------------------

EMPTY = {
    "constant": np.ones((11, 12)),
    "constant with gaps": np.where(np.eye(11, 12) > 0, np.nan, 1.0),
    "one year": np.arange(12.0)[None],
    "too few years": np.random.default_rng(0).random((MIN_YEARS - 1, 12)),
    "too few with values": np.pad(
        np.random.default_rng(0).random((4, 12)), ((3, 4), (0, 0)), constant_values=np.nan
    ),
    "all missing": np.full((11, 12), np.nan),
    "one value": np.where(np.arange(132).reshape(11, 12) == 5, 1.0, np.nan),
    "one value a season": np.where(np.eye(11, 12) > 0, 1.0, np.nan),
    "every season ties": np.broadcast_to(np.arange(12.0), (11, 12)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", EMPTY)
def test_nothing_to_tell_is_nan(case):
    x = EMPTY[case]
    times = 2010 + np.arange(len(x))[:, None] + (np.arange(12) + 0.5) / 12
    for correlated in (True, False):
        found, trend = seasonal_kendall(x, correlated), seasonal_sen(x, times, correlated=correlated)
        assert np.isnan([found["z"], found["p"], trend["p"], trend["low"], trend["high"]]).all()
    assert np.isnan(list(year_block_bootstrap(x, times, 0, 20).values())).all()
    constant = case.startswith("constant") or case == "every season ties"
    assert trend["slope"] == 0 if constant else case.startswith("too few") != np.isnan(trend["slope"])
    if case != "every season ties" and not case.startswith("too few"):
        line = np.arange(x.size, dtype=float)
        for found in (
            mann_kendall(x.ravel()),
            hamed_rao(x.ravel(), line),
            effective_n_trend(x.ravel(), line),
        ):
            if case != "one year":  # twelve values are enough for these
                assert np.isnan(found["p"])


@pytest.mark.filterwarnings("error")
def test_few_values_are_nan():
    for found in (
        mann_kendall(np.arange(9.0)),
        hamed_rao(np.arange(9.0), np.arange(9.0)),
        effective_n_trend(np.arange(9.0) ** 2, np.arange(9.0)),
    ):
        assert np.isnan(found["p"])


@pytest.mark.filterwarnings("error")
def test_no_series_at_all():
    assert seasonal_sen(np.ones((0, 11, 12)), np.ones((11, 12)))["slope"].shape == (0,)
    assert seasonal_kendall(np.ones((0, 11, 12)))["p"].shape == (0,)
    assert year_block_bootstrap(np.ones((0, 11, 12)), np.ones((11, 12)), 0, 20)["low"].shape == (0,)


def test_what_cannot_be_is_refused():
    values, times = months(2)
    twice = np.repeat(times[:, :1], 12, 1)
    twice[4] = twice[3]
    cases = [
        (np.ones(12), np.ones(12), "shape"),
        (np.ones((0, 12)), np.ones((0, 12)), "shape"),
        (values, times[:3], "shape"),
        (values[0], np.stack([times, times]), "shape"),
        (values, np.where(times < 2011, np.nan, times), "no time"),
        (values, twice, "do not increase"),
        (values[:, [0, 1, 5, 6]], times[[0, 1, 5, 6]], "a year apart"),
        (np.where(values > 2, np.inf, values), times, "infinit"),
    ]
    for x, t, word in cases:
        with pytest.raises(ValueError, match=word):
            seasonal_sen(x, t)
    with pytest.raises(ValueError, match="whole years"):
        seasonal_sen(values, times, cycle=5)
