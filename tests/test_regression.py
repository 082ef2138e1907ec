import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.linalg import toeplitz
from statsmodels.stats.outliers_influence import variance_inflation_factor
from statsmodels.stats.stattools import durbin_watson

from models import regression
from models.regression import (
    ERRORS,
    benjamini_hochberg,
    correlation,
    default_errors,
    fit,
    leave_one_year_out,
    logit,
    mixed,
    residual_checks,
    vif,
)  # fmt: skip


def months(seed=0, years=8, keep=0.8, rho=0.5):
    """y, x (n, 3), hydrological year, calendar month and time of a series with gaps; y follows x0."""
    random = np.random.default_rng(seed)
    n = years * 12
    noise = np.convolve(random.normal(size=n + 40), rho ** np.arange(40))[40 : n + 40]
    time, month = np.arange(n) / 12, np.arange(n) % 12
    x = np.column_stack([random.normal(size=n) + month, time, random.normal(size=n)])
    y = 0.5 * x[:, 0] + 3 * np.cos(month) + noise
    kept = random.random(n) < keep
    return y[kept], x[kept], (np.arange(n) // 12)[kept], month[kept], time[kept]


def column(found, name):
    return np.array([row[name] for row in found["rows"]])


def dummies(codes):
    return (codes[:, None] == np.unique(codes)).astype(float)


def slow_cr2(y, x, groups, constants, rho=0.0):
    """CR2 and Satterthwaite from their definitions with matrices of n x n; standard errors and dof of x."""
    design = np.column_stack([x, constants])
    n, bread = len(y), np.linalg.inv(design.T @ design)
    hat = design @ bread @ design.T
    residuals, phi = y - hat @ y, toeplitz(rho ** np.arange(n))
    variance, columns = 0, []
    for group in np.unique(groups):
        rows = groups == group
        values, vectors = np.linalg.eigh(np.eye(rows.sum()) - hat[np.ix_(rows, rows)])
        root = np.where(values > 1e-9, np.maximum(values, 1e-9) ** -0.5, 0)
        lifted = (vectors * root) @ vectors.T @ design[rows] @ bread
        variance = variance + (lifted.T @ residuals[rows]) ** 2
        columns.append((np.eye(n)[:, rows] - hat[:, rows]) @ lifted)
    variance, dof = variance[: x.shape[1]].copy(), []
    for j in range(x.shape[1]):
        g = np.stack([column[:, j] for column in columns], 1)
        gamma, direction = g.T @ phi @ g, (design @ bread)[:, j]
        dof.append(np.trace(gamma) ** 2 / (gamma**2).sum())
        variance[j] *= direction @ phi @ direction / np.trace(gamma) if rho else 1
    return np.sqrt(variance), np.array(dof)


# ---- coefficients and errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("by_month", [False, True])
@pytest.mark.parametrize("errors", ["ols", "hac"])
def test_least_squares_and_newey_west_equal_statsmodels(errors, by_month):
    y, x, _, month, time = months()
    shuffled = np.random.default_rng(1).permutation(len(y))
    constants = dummies(month) if by_month else np.ones((len(y), 1))
    how = {"cov_type": "nonrobust"}
    if errors == "hac":
        how = {"cov_type": "HAC", "cov_kwds": {"maxlags": 3, "use_correction": True}}
    expected = sm.OLS(y, np.column_stack([x, constants])).fit(use_t=True, **how)
    found = fit(
        y[shuffled], x[shuffled], errors=errors, order=time[shuffled], hac_lags=3,
        within=month[shuffled] if by_month else None,
    )  # fmt: skip
    assert column(found, "coefficient") == pytest.approx(expected.params[:3])
    assert column(found, "standard_error") == pytest.approx(expected.bse[:3])
    assert column(found, "p") == pytest.approx(expected.pvalues[:3])
    limits = expected.conf_int()[:3]
    assert np.column_stack([column(found, "low"), column(found, "high")]) == pytest.approx(limits)
    assert found["residuals"][np.argsort(shuffled)] == pytest.approx(expected.resid, abs=1e-9)
    if not by_month:
        assert found["r2"] == pytest.approx(expected.rsquared)
        assert found["adjusted_r2"] == pytest.approx(expected.rsquared_adj)
        assert found["intercept"] == pytest.approx(expected.params[3])


def test_newey_west_does_not_mix_sites_and_equals_statsmodels():
    y, x, year, _, time = months()
    site = np.where(np.arange(len(y)) % 2, "b", "a")  # rows of two sites, by turns
    rows = np.argsort(site, kind="stable")
    design = sm.add_constant(x)[rows]
    expected = sm.OLS(y[rows], design).fit(
        cov_type="hac-panel", use_t=True, cov_kwds={
            "groups": (site[rows] == "b") * 1, "maxlags": 2, "use_correction": "hac", "df_correction": False
        },
    )  # fmt: skip
    found = fit(y, x, errors="hac", order=time, series=site, hac_lags=2)
    assert column(found, "standard_error") == pytest.approx(expected.bse[1:])
    assert column(found, "p") == pytest.approx(expected.pvalues[1:])
    assert fit(y, x, errors="hac", groups=site, order=time, hac_lags=2)["rows"] == found["rows"]
    assert fit(y, x, errors="hac", order=time)["hac_lags"] == int(4 * (len(y) / 100) ** (2 / 9))
    assert year.max() == 7


@pytest.mark.parametrize("by_month", [False, True])
def test_cr2_and_its_degrees_of_freedom_equal_the_definitions(by_month):
    y, x, year, month, _ = months(2)
    constants = dummies(month) if by_month else np.ones((len(y), 1))
    error, dof = slow_cr2(y, x, year, constants)
    found = fit(y, x, groups=year, within=month if by_month else None)
    assert column(found, "standard_error") == pytest.approx(error, rel=1e-9)
    assert column(found, "dof") == pytest.approx(dof, rel=1e-9)
    t = column(found, "coefficient") / error
    assert column(found, "p") == pytest.approx(2 * stats.t.sf(abs(t), dof))
    assert (dof < len(np.unique(year)) - 1 + 1e-9).all()


def test_neighbouring_years_are_tied_by_the_autocorrelation_of_the_residuals():
    y, x, year, month, time = months(3, years=12, rho=0.7)
    found, plain = fit(y, x, groups=year, within=month, order=time), fit(y, x, groups=year, within=month)
    assert found["rho"] == regression.lag_one(found["residuals"], order=time) > 0.4 and plain["rho"] is None
    error, dof = slow_cr2(y, x, year, dummies(month), found["rho"])
    assert column(found, "standard_error") == pytest.approx(error, rel=1e-9)
    assert column(found, "dof") == pytest.approx(dof, rel=1e-9)
    assert column(found, "standard_error")[1] > column(plain, "standard_error")[1]


def test_order_of_rows_changes_nothing():
    y, x, year, month, time = months(4)
    site, rows = np.arange(len(y)) % 3, np.random.default_rng(0).permutation(len(y))
    for errors in ERRORS:
        straight = fit(y, x, None, errors, year, time, within=month, series=site)
        mixed_up = fit(
            y[rows], x[rows], None, errors, year[rows], time[rows], within=month[rows], series=site[rows]
        )
        for name in ("coefficient", "low", "high", "p", "dof"):
            assert column(mixed_up, name) == pytest.approx(column(straight, name), rel=1e-8)


def test_groups_of_one_row_are_hc2():
    y, x, _, _, _ = months(5)
    expected = sm.OLS(y, sm.add_constant(x)).fit(cov_type="HC2")
    found = fit(y, x, errors="site", groups=np.arange(len(y)))
    assert column(found, "standard_error") == pytest.approx(expected.bse[1:])


def test_cr2_of_a_balanced_design_is_a_t_test_of_group_means():
    """A predictor that is constant in each of 2 x 4 equal groups: Welch's test of the groups' means."""
    random = np.random.default_rng(6)
    group, treated = np.repeat(np.arange(8), 5), np.repeat([0.0, 1.0], 20)
    y = random.normal(size=40) + random.normal(size=8)[group] + treated
    found = fit(y, treated, errors="site", groups=group)["rows"][0]
    means = y.reshape(8, 5).mean(1)
    expected = stats.ttest_ind(means[4:], means[:4])
    assert found["p"] == pytest.approx(expected.pvalue) and found["dof"] == pytest.approx(6)


def test_anomalies_and_raw_values_give_the_same():
    y, x, year, month, time = months(7)
    anomalies = [regression.less_means(values, month) for values in (y, x)]
    for errors in ERRORS:
        raw = fit(y, x, None, errors, year, time, within=month)
        again = fit(*anomalies, None, errors, year, time, within=month)
        for name in ("coefficient", "low", "p", "dof", "vif", "partial_r2", "standardised"):
            assert column(again, name) == pytest.approx(column(raw, name), rel=1e-7)


def test_units_change_coefficients_alone():
    y, x, year, month, _ = months(8)
    found, scaled = (fit(y, x * unit, groups=year, within=month) for unit in (1, np.array([1e6, 1, 1e-6])))
    for name in ("p", "dof", "vif", "partial_r2", "standardised"):
        assert column(scaled, name) == pytest.approx(column(found, name), rel=1e-6)
    assert column(scaled, "low") * [1e6, 1, 1e-6] == pytest.approx(column(found, "low"), rel=1e-6)


def test_vif_partial_r2_and_standardised_coefficients():
    y, x, _, _, _ = months(9)
    x[:, 2] += 2 * x[:, 0]
    found, design = fit(y, x, errors="ols"), sm.add_constant(x)
    expected = [variance_inflation_factor(design, place) for place in (1, 2, 3)]
    assert column(found, "vif") == pytest.approx(expected) and vif(x) == pytest.approx(expected)
    whole = sm.OLS(y, design).fit()
    for place in range(3):
        less = sm.OLS(y, np.delete(design, place + 1, 1)).fit()
        assert column(found, "partial_r2")[place] == pytest.approx((less.ssr - whole.ssr) / less.ssr)
    z = sm.OLS(stats.zscore(y), stats.zscore(x)).fit()
    assert column(found, "standardised") == pytest.approx(z.params)


# ---- what cannot be computed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["x"].__setitem__((slice(None), 1), 3.0), "wind is constant"),
        (lambda d: d["x"].__setitem__((slice(None), 2), d["x"][:, 0] - d["x"][:, 1] + 4), "snowfall foll"),
        (lambda d: d["x"].__setitem__((4, 0), np.nan), "temperature has 1 missing"),
        (lambda d: d["y"].__setitem__(slice(None), 0.1), "response is constant"),
        (lambda d: d["y"].__setitem__(slice(None), d["x"][:, 0] + 1), "exactly"),
        (lambda d: d.update(groups=d["groups"] % 2), "3 years or more, found 2"),
        (lambda d: d.update(groups=None), "3 years or more, found 0"),
        (lambda d: d["x"].__setitem__((slice(None), 1), 1.0 * (d["groups"] == 2)), "wind hangs on one group"),
        (lambda d: d.update({key: d[key][:4] for key in ("y", "x", "groups")}), "4 rows are too few"),
        (lambda d: d.update(within=np.arange(len(d["y"]))), "too few"),
        (lambda d: d.update(errors="magic"), "magic"),
        (lambda d: d.update(errors="hac", hac_lags=500), "500 lags"),
        (lambda d: d.update(groups=d["groups"][:-1]), "labels"),
    ],
)  # fmt: skip
def test_one_sentence_instead_of_a_silent_number(change, words):
    y, x, year, _, _ = months(10)
    given = {"y": y, "x": x, "names": ["temperature", "wind", "snowfall"], "groups": year}
    change(given)
    with pytest.raises(ValueError, match=words):
        fit(**given)


def test_collinear_predictors_are_named_and_only_those():
    y, x, year, _, _ = months(11)
    x = np.column_stack([x, x[:, 2] * 5])
    with pytest.raises(ValueError, match=r"^d follows exactly from c: leave one of them out\.$"):
        fit(y, x, ["a", "b", "c", "d"], groups=year)
    with pytest.raises(ValueError, match="month is constant but for the means"):
        fit(y, year % 4, ["month"], "ols", within=year)


# ---- other models ------------------------------------------------------------------------------------------


def sites(seed=0, count=9, size=20, spread=1.0):
    random = np.random.default_rng(seed)
    site = np.repeat(np.arange(count), size)
    x = random.normal(size=(count * size, 2))
    return x[:, 0] + spread * random.normal(size=count)[site] + random.normal(size=count * size), x, site


def test_mixed_model_equals_statsmodels():
    y, x, site = sites()
    expected = sm.MixedLM(y, sm.add_constant(x), site).fit()
    found = mixed(y, x, ["a", "b"], site)
    assert column(found, "coefficient") == pytest.approx(expected.params[1:3], rel=1e-4)
    assert column(found, "standard_error") == pytest.approx(expected.bse[1:3], rel=1e-4)
    assert column(found, "p") == pytest.approx(expected.pvalues[1:3], rel=1e-3)
    assert found["site_variance"] == pytest.approx(expected.cov_re.item(), rel=1e-3)
    assert found["converged"] and not found["warnings"] and found["groups"] == 9


def test_mixed_model_says_when_sites_do_not_differ_and_refuses_two():
    y, x, site = sites(1)
    found = mixed(y, x, ["a", "b"], site, within=site)
    assert any("No variance between sites" in sentence for sentence in found["warnings"])
    with pytest.raises(ValueError, match="3 sites or more, found 2"):
        mixed(y, x, ["a", "b"], site % 2)


@pytest.mark.parametrize("by_month", [False, True])
def test_years_left_out_are_predicted_by_the_others_alone(by_month):
    y, x, year, month, _ = months(12)
    found = leave_one_year_out(y, x, year, month if by_month else None)
    constants = dummies(month) if by_month else np.ones((len(y), 1))
    wrong = flat = 0.0
    for held_out in np.unique(year):
        train, test = year != held_out, year == held_out
        design = np.column_stack([x, constants])
        full, bare = sm.OLS(y[train], design[train]).fit(), sm.OLS(y[train], constants[train]).fit()
        wrong += ((y[test] - full.predict(design[test])) ** 2).sum()
        flat += ((y[test] - bare.predict(constants[test])) ** 2).sum()
    assert found["r2"] == pytest.approx(1 - wrong / flat)
    assert found == {"r2": found["r2"], "years": 8, "n": len(y), "left_out": 0}


def test_a_month_that_only_one_year_has_is_left_out_and_counted():
    y, x, year, month, _ = months(13)
    alone = np.where(np.arange(len(y)) < 2, 99, month)
    found = leave_one_year_out(y, x, year, alone)
    assert (found["left_out"], found["n"]) == (2, len(y) - 2)
    with pytest.raises(ValueError, match="3 years or more"):
        leave_one_year_out(y, x, year % 2)


# ---- correlation -------------------------------------------------------------------------------------------


def test_correlation_without_memory_is_pearsons_and_with_memory_is_worth_less():
    random = np.random.default_rng(14)
    x, y = random.normal(size=(2, 400))
    y = y + 0.2 * x
    found, judge = correlation(x, y), stats.pearsonr(x, y)
    product = max(found["r1_x"] * found["r1_y"], 0)
    assert found["r"] == pytest.approx(judge.statistic)
    assert found["n_eff"] == pytest.approx(400 * (1 - product) / (1 + product), rel=1e-9)
    assert abs(found["n_eff"] - 400) < 5 and found["p"] == pytest.approx(judge.pvalue, rel=0.05)
    limits = judge.confidence_interval()
    assert [found["low"], found["high"]] == pytest.approx([limits.low, limits.high], abs=2e-3)
    smooth = [np.convolve(v, 0.8 ** np.arange(30))[30:400] for v in (x, y)]
    assert correlation(*smooth)["n_eff"] < 0.5 * 370


def test_memory_is_counted_within_series_in_order_of_time():
    random = np.random.default_rng(15)
    lines = np.stack([np.convolve(v, 0.8 ** np.arange(30))[30:230] for v in random.normal(size=(4, 230))])
    expected = regression.lag_one(lines.ravel(), np.repeat(np.arange(4), 200))
    site, time = (grid.ravel() for grid in np.meshgrid(np.arange(4), np.arange(200), indexing="ij"))
    rows = random.permutation(800)
    assert regression.lag_one(lines.ravel()[rows], site[rows], time[rows]) == pytest.approx(expected)
    less = [line - line.mean() for line in lines]
    r = sum(line[1:] @ line[:-1] for line in less) / sum(line @ line for line in less) * 200 / 199
    assert expected == pytest.approx((199 * r + 1) / 196)
    assert regression.lag_one(lines.ravel()[rows]) < 0.2 < 0.7 < expected


def test_bias_of_lag_one_is_taken_off():
    random = np.random.default_rng(16)
    short = [np.convolve(v, 0.6 ** np.arange(40))[40:70] for v in random.normal(size=(2000, 70))]
    assert np.mean([regression.lag_one(v) for v in short]) == pytest.approx(0.6, abs=0.02)


def test_correlation_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="first variable is constant"):
        correlation(np.ones(50), np.arange(50.0))
    with pytest.raises(ValueError, match="second variable has 1 missing"):
        correlation(np.arange(50.0), np.r_[np.nan, np.arange(49.0) ** 2])
    with pytest.raises(ValueError, match="too few"):
        correlation(np.arange(12.0), np.arange(12.0) ** 2)
    with pytest.raises(ValueError, match="autocorrelation"):
        correlation(np.arange(20.0) % 7, np.arange(20.0) % 3, series=np.arange(20) // 4)


# ---- response, checks, many tests --------------------------------------------------------------------------


def test_logit_is_finite_at_none_and_all_and_keeps_order():
    fraction = np.array([0.0, 0.2, 0.5, 0.8, 1.0, np.nan])
    for found in (logit(fraction), logit(fraction, np.full(6, 1000))):
        assert np.isfinite(found[:5]).all() and np.isnan(found[5]) and (np.diff(found[:5]) > 0).all()
        assert found[2] == pytest.approx(0, abs=1e-12) and found[:5] == pytest.approx(-found[4::-1])
    assert logit([0.0], [99])[0] == pytest.approx(np.log(0.5 / 99.5))
    assert logit([0.3], [10**9])[0] == pytest.approx(np.log(0.3 / 0.7), rel=1e-6)
    with pytest.raises(ValueError, match="valid pixels"):
        logit([700.0])
    with pytest.raises(ValueError, match="at least one valid pixel"):
        logit([0.5], [0])


def test_checks_of_residuals_equal_statsmodels():
    y, x, _, _, time = months(17)
    model = sm.OLS(y, sm.add_constant(x)).fit()
    rows = np.random.default_rng(2).permutation(len(y))
    found = residual_checks(y[rows], x[rows], order=time[rows])
    influence, back = model.get_influence(), np.argsort(rows)
    assert found["cooks_distance"][back] == pytest.approx(influence.cooks_distance[0])
    assert found["leverage"][back] == pytest.approx(influence.hat_matrix_diag)
    assert found["studentised"][back] == pytest.approx(influence.resid_studentized_internal)
    assert found["durbin_watson"] == pytest.approx(durbin_watson(model.resid))
    assert found["jarque_bera_p"] == pytest.approx(sm.stats.jarque_bera(model.resid)[1])
    lags = regression.newey_west_lags(len(y))
    box = sm.stats.acorr_ljungbox(model.resid, lags=[lags])["lb_pvalue"].iloc[0]
    assert found["ljung_box_p"] == pytest.approx(box)
    cooks = found["cooks_distance"]
    assert found["influential"] and (np.diff(cooks[found["influential"]]) <= 0).all()
    assert set(found["influential"]) == set(np.flatnonzero(cooks > 4 / len(y)))


def test_checks_find_memory_within_sites_and_one_wild_row():
    y, x, site = sites(3, count=4, size=60)
    y[7] += 40
    found = residual_checks(y, x, series=site, within=site)
    assert found["influential"][0] == 7 and found["jarque_bera_p"] < 1e-6
    assert abs(found["r1"]) < 0.2 and found["ljung_box_p"] > 0.01
    slow = np.concatenate([np.cumsum(part) for part in np.random.default_rng(1).normal(size=(4, 60))])
    found = residual_checks(slow, x, series=site, within=site)
    assert found["r1"] > 0.7 and found["ljung_box_p"] < 1e-6 and found["durbin_watson"] < 0.5


def test_benjamini_hochberg_equals_statsmodels_and_leaves_gaps():
    p = [0.01, None, 0.04, float("nan"), 0.03, 0.5]
    found = benjamini_hochberg(p)
    expected = sm.stats.multipletests([0.01, 0.04, 0.03, 0.5], method="fdr_bh")[1]
    assert found[[0, 2, 4, 5]] == pytest.approx(expected) and np.isnan(found[[1, 3]]).all()
    assert len(benjamini_hochberg([])) == 0 and np.isnan(benjamini_hochberg([None])).all()


@pytest.mark.parametrize(
    ("years", "sites", "expected"), [(3, 36, "year"), (20, 1, "year"), (2, 36, "site"), (2, 1, "hac")]
)
def test_default_errors(years, sites, expected):
    errors, why = default_errors(years, sites)
    assert errors == expected in ERRORS and why.endswith(".")


def test_the_default_rejects_seldom_where_plain_errors_reject_often():
    """A small part of bench/climate_errors.py: 11 years, memory 0.6, no effect; 5 % expected, seed fixed."""
    random = np.random.default_rng(18)
    n, wrong = 132, {"ols": 0, "year": 0}
    time = np.arange(n) / 12
    for _ in range(200):
        x, y = (np.convolve(v, 0.6 ** np.arange(40))[40 : n + 40] for v in random.normal(size=(2, n + 40)))
        for errors in wrong:
            given = (y, np.column_stack([x, time]), ["x", "year"], errors, np.floor(time + 0.25), time)
            wrong[errors] += fit(*given, within=np.arange(n) % 12)["rows"][0]["p"] < 0.05
    assert wrong["year"] <= 20 < 24 <= wrong["ols"]
