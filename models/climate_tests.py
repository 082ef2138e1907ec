"""The tests of a climate analysis as rows of figures: associations, trends, one regression with its checks.

Arrays in, dicts out. What cannot be computed is a row with `why_not`, a sentence, and no figures. A row with
`default` holds what the analysis goes by; the others stand beside it. Needs numpy, scipy and statsmodels, and
trends.py and regression.py beside it.
"""

import numpy as np
from scipy import stats

from models import regression, trends

DEFAULT_TREND = "seasonal Mann-Kendall and Sen, Hirsch-Slack covariance"
MOST_TIED = (
    0.25  # of the pairs of years; beyond it Sen's slope is drawn to 0 (tried with months clipped at 0)
)
MOST_SITES = 500  # for errors by site, whose matrices grow with the square of the sites


def association(snow, weather, site, order, groups, errors: str, months=None) -> dict:
    """Slope of snow (n) on weather (n) with errors by regression.fit, and r with the same errors.

    site, order (n): which rows follow each other (None: none does); groups (n): of the errors; months (n):
    code of the site and calendar month whose means are taken off, None for the raw values. n_eff: pairs that
    the rows are worth, for one series by its autocorrelation (regression.correlation), else by the error of
    the slope, 2 + (1 - r^2) / se(r)^2. detectable_r: the smallest r that the test of the slope would have
    found with 80 % power, before correction for other tests.
    """
    try:
        line = regression.fit(snow, weather, ["weather"], errors, groups, order, within=months, series=site)
    except ValueError as error:
        return {"n": len(snow), "why_not": str(error)}
    slope = line["rows"][0]
    if not slope["coefficient"]:
        return {"n": len(snow), "why_not": "the slope is exactly 0"}
    r = slope["standardised"]
    to_r = r / slope["coefficient"]
    smallest = trends.smallest_detectable(slope["low"], slope["high"], dof=slope["dof"])
    worth = {"n_eff": min(2 + (1 - r**2) / (slope["standard_error"] * to_r) ** 2, len(snow))}
    if order is not None and len(np.unique(site)) == 1:
        worth = tried(regression.correlation, weather, snow, site, order, months)
    return {
        "n": len(snow), "n_eff": worth.get("n_eff"), "r": r, "r_low": slope["low"] * to_r,
        "r_high": slope["high"] * to_r, "r2": r**2, "slope": slope["coefficient"], "slope_low": slope["low"],
        "slope_high": slope["high"], "intercept": line["intercept"], "p": slope["p"], "dof": slope["dof"],
        "errors": errors, "groups": line["groups"], "p_effective_n": worth.get("p"),
        "detectable_r": abs(float(smallest) * to_r),
    }  # fmt: skip


# ---- trends, all slopes a decade ---------------------------------------------------------------------------


def a_decade(found: dict) -> dict:
    ends = (("slope", "slope"), ("slope_low", "low"), ("slope_high", "high"))
    return {name: 10 * float(found[end]) for name, end in ends}


def trend(values, times) -> dict:
    """The default test of values (sites, years, months) at decimal years: all sites' months as one family."""
    pooled, when = by_year(values), by_year(times)
    years = int(np.isfinite(pooled).any(axis=1).sum())
    about = {"method": DEFAULT_TREND, "default": True, "years": years, "n": int(np.isfinite(pooled).sum())}
    if years < trends.MIN_YEARS:
        return {**about, "why_not": too_few_years(years)}
    sen = trends.seasonal_sen(pooled, when, cycle=values.shape[2])
    if not np.isfinite([sen["p"], sen["low"], sen["high"]]).all():
        return {**about, "why_not": "too few values, or values that never differ: nothing to test"}
    smallest = 10 * float(trends.smallest_detectable(sen["low"], sen["high"], dof=sen["dof"]))
    tau = float(trends.seasonal_kendall(pooled)["tau"])
    more = {"detectable": smallest, "tied": float(sen["tied"])}
    return {**about, "tau": tau, "p": float(sen["p"]), **a_decade(sen), **more}


def by_year(values) -> np.ndarray:
    """(years, sites * months) of (sites, years, months)."""
    return np.moveaxis(values, 0, 1).reshape(values.shape[1], -1)


def other_trends(values, times, seed: int, resamples: int) -> list[dict]:
    """What else is in use, beside the default; bench/climate_errors.py measures the error rates of each."""
    pooled, when = by_year(values), by_year(times)
    sen, blocks = trends.seasonal_sen(pooled, when, cycle=values.shape[2]), {}
    plain, published = trends.seasonal_kendall(pooled, correlated=False), trends.seasonal_kendall(pooled)
    # The rest know one series only: the mean anomaly of all sites, month by month.
    less = mean_of_sites(values - mean_of_years(values)[:, None]).ravel()
    time = mean_of_sites(np.where(np.isfinite(values), times, np.nan)).ravel()
    effective, hamed_rao = trends.effective_n_trend(less, time), trends.hamed_rao(less, time)
    if resamples:
        blocks = trends.year_block_bootstrap(pooled, when, seed, resamples)
    found = [
        *(
            [{"method": "seasonal Sen, year-block bootstrap", **a_decade({**sen, **blocks})}]
            if blocks
            else []
        ),
        {"method": "seasonal Mann-Kendall, Hirsch-Slack as published", **tested(published)},
        {"method": "seasonal Mann-Kendall, months independent", **tested(plain)},
        {"method": "Mann-Kendall of anomalies", **tested(trends.mann_kendall(less))},
        {"method": "Mann-Kendall of anomalies, Hamed-Rao", **tested(hamed_rao), **a_decade(hamed_rao)},
        {"method": "least squares, effective n", "p": p_of(effective), **a_decade(effective)},
    ]
    known = np.isfinite(less)
    for method, errors in (("least squares", "ols"), ("least squares, Newey-West", "hac")):
        line = tried(regression.fit, less[known], time[known], ["year"], errors, None, time[known])
        if "rows" not in line:
            found.append({"method": method, **line})
            continue
        row = line["rows"][0]
        found.append({"method": method, "p": row["p"], **a_decade({**row, "slope": row["coefficient"]})})
    return [{"default": False, **row} for row in found]


def tested(found: dict) -> dict:
    return {"tau": float(found["tau"]), "p": p_of(found)}


def p_of(found: dict) -> float | None:
    return float(found["p"]) if np.isfinite(found["p"]) else None


def mean_of_years(values) -> np.ndarray:
    """(sites, months) of (sites, years, months); NaN where no year has a value."""
    known = np.isfinite(values).sum(axis=1)
    return np.where(known, np.nansum(values, axis=1) / np.maximum(known, 1), np.nan)


def mean_of_sites(values) -> np.ndarray:
    """(years, months) of (sites, years, months); NaN where no site has a value."""
    known = np.isfinite(values).sum(axis=0)
    return np.where(known, np.nansum(values, axis=0) / np.maximum(known, 1), np.nan)


def too_few_years(years: int) -> str:
    return f"{years} year{'s' * (years != 1)}; a trend needs {trends.MIN_YEARS} or more"


def straight(x, y, years: int) -> dict:
    """Least-squares line of y (n) on times x (n, decimal years) with its classic p and interval, a decade.

    years: how many different years or seasons the values are of; many values of few years are no trend.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    about = {"years": years, "points": len(x)}
    if years < trends.MIN_YEARS or len(x) < trends.MIN_YEARS or np.ptp(x) == 0:
        return {**about, "why_not": too_few_years(min(years, len(x)))}
    if np.ptp(y) == 0:
        return {**about, "why_not": "all values are equal"}
    line = stats.linregress(x, y)
    half = stats.t.ppf((1 + regression.CONFIDENCE) / 2, len(x) - 2) * line.stderr
    ends = a_decade({"slope": line.slope, "low": line.slope - half, "high": line.slope + half})
    return {**about, "p": float(line.pvalue), **ends, "intercept": float(line.intercept)}


def annual(years, values) -> list[dict]:
    """Annual values: Kendall's tau (exact p without ties), Theil-Sen, a least-squares line."""
    years, values = np.asarray(years, float), np.asarray(values, float)
    about = {"years": len(years), "default": False}
    if len(years) < trends.MIN_YEARS:
        return [{**about, "method": "Theil-Sen", "why_not": too_few_years(len(years))}]
    if np.ptp(values) == 0:
        return [{**about, "method": "Theil-Sen", "why_not": "all values are equal"}]
    kendall, sen = stats.kendalltau(years, values), stats.theilslopes(values, years)
    ends = a_decade({"slope": sen.slope, "low": sen.low_slope, "high": sen.high_slope})
    tau = {"tau": float(kendall.statistic), "p": float(kendall.pvalue)}
    return [
        {**about, "method": "Kendall's tau, Theil-Sen", **tau, **ends},
        {**about, "method": "least squares", **straight(years, values, len(years))},
    ]


# ---- one regression ----------------------------------------------------------------------------------------


def multiple(snow, x, names, site, order, year, calendar_month, months, errors: str):
    """Regression of snow (n) on x (n, k) with the means of `months` (n, code of site and month) taken off.

    Returns rows (a predictor and method each: the chosen errors, then the others and a mixed model), what is
    known of the model, and the residual checks (None where it could not be fitted).
    """
    found, about, fitted = [], {"predictors": list(names), "errors": errors}, None
    for kind in dict.fromkeys((errors, *regression.ERRORS)):
        groups, sites = year if kind == "year" else site, len(np.unique(site))
        one = {"why_not": f"{sites} sites; errors by site are for up to {MOST_SITES}"}
        if kind != "site" or sites <= MOST_SITES:
            one = tried(regression.fit, snow, x, names, kind, groups, order, None, months, site)
        if "why_not" in one:
            about.setdefault("not_offered", {})[kind] = one["why_not"]
            continue
        method = f"least squares, errors {kind}"
        found += [{"method": method, "default": kind == errors, **row} for row in one["rows"]]
        if kind == errors:
            about |= {key: one[key] for key in ("n", "groups", "constants", "r2", "adjusted_r2")}
            fitted = one["fitted"]
    if fitted is None:
        return found, about, None
    about["leave_one_year_out"] = tried(regression.leave_one_year_out, snow, x, year, months)
    about["mixed"] = tried(regression.mixed, snow, x, names, site, calendar_month)
    rows = about["mixed"].pop("rows", [])
    found += [
        {"method": "mixed model, random intercept a site, calendar months off", "default": False, **row}
        for row in rows
    ]
    checks = regression.residual_checks(snow, x, names, site, order, months)
    checks |= {"fitted": fitted, "autocorrelation": autocorrelation(checks["residuals"], site, order)}
    return found, about, checks


def autocorrelation(residuals, site, order, lags: int = 12) -> list[float]:
    """Autocorrelation of residuals (n) at 1..lags dates of a site in order, over the pairs there are."""
    rows = np.lexsort((order, site))
    residuals, site = np.asarray(residuals)[rows], np.asarray(site)[rows]
    residuals = residuals - residuals.mean()
    found = []
    for lag in range(1, min(lags, len(residuals) - 1) + 1):
        same = site[lag:] == site[:-lag]
        pair = residuals[lag:][same] * residuals[:-lag][same]
        found.append(float(pair.mean() / residuals.var()) if same.any() else 0.0)
    return found


def tried(call, *words) -> dict:
    """The call's result, or why there is none."""
    try:
        return call(*words)
    except ValueError as error:
        return {"why_not": str(error)}


def vif_advice(rows: list[dict]) -> list[str]:
    """A sentence for each predictor that the others nearly give."""
    return [
        f"{row['name']} has a VIF of {row['vif']:.1f}: the others nearly give it, its own coefficient means "
        "little; leave one of them out with --predictors."
        for row in rows
        if row["default"] and row["vif"] > regression.VIF_ADVICE
    ]
