"""Regression of snow cover on weather with errors that hold for series. Needs numpy, scipy and statsmodels.

    found = fit(y, x, ["temperature_2m_mean", "year"], errors="year", groups=hydrological_year, within=month)
    found["rows"][0]["coefficient"], found["rows"][0]["low"], found["rows"][0]["high"], found["r2"]

Arrays in, plain numbers out; rows without a value are dropped by the caller. What cannot be computed raises
ValueError with one sentence. `within` numbers the means that are taken off (site and calendar month): the
result is that of a model with a constant for each of them, whose lost degrees of freedom are counted. Values
that are anomalies already stay as they are. Without it there is one constant.
"""

import warnings

import numpy as np
from scipy import stats
from scipy.signal import lfilter
from statsmodels.regression.linear_model import OLS
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.diagnostic import acorr_ljungbox
from statsmodels.stats.multitest import multipletests
from statsmodels.tools.sm_exceptions import ConvergenceWarning

ERRORS = ("year", "site", "hac", "ols")
CONFIDENCE = 0.95
FEWEST_GROUPS = 3  # two groups leave one degree of freedom at most, and none for a predictor like the year
FEW_YEARS = 6  # below, the critical value is over 2.5 instead of 2
VIF_ADVICE = 10  # O'Brien 2007, 10.1007/s11135-006-9018-6: the usual rule, and why it is no law
FEWEST_DATES = 6  # a series, for an autocorrelation: its bias is taken off by a division by their number - 4
TINY = 1e-9  # relative to 1: an eigenvalue, a share of variance


# ---- what is fitted ----------------------------------------------------------------------------------------


def prepare(
    y, x, names=None, within=None, response="the response"
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """y (n), x (n, k) less the mean of each code, names, and codes 0..a-1 (n); ValueError if not usable."""
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    names = [f"x{number}" for number in range(x.shape[1])] if names is None else list(names)
    if y.ndim != 1 or x.shape != (len(y), len(names)) or not names:
        raise ValueError(f"y has shape {y.shape} and x {x.shape} for {len(names)} names.")
    for name, column in [(response, y), *zip(names, x.T, strict=True)]:
        if not np.isfinite(column).all():
            raise ValueError(f"{name} has {(~np.isfinite(column)).sum()} missing values of {len(y)}.")
    codes = np.zeros(len(y), np.int64) if within is None else number_groups(within, len(y))
    needed = x.shape[1] + (codes.max(initial=-1) + 1)
    if len(y) <= needed:
        raise ValueError(f"{len(y)} rows are too few for {needed} coefficients (constants counted).")
    centred_y, centred_x = less_means(y, codes), less_means(x, codes)
    for name, raw, left in [(response, y, centred_y), *zip(names, x.T, centred_x.T, strict=True)]:
        if not np.linalg.norm(left) > TINY * np.linalg.norm(raw):
            where = "" if within is None or np.ptp(raw) == 0 else " but for the means that were taken off"
            raise ValueError(f"{name} is constant{where}.")
    scaled = centred_x / np.linalg.norm(centred_x, axis=0)
    for number in np.flatnonzero(np.abs(np.diag(np.linalg.qr(scaled)[1])) < TINY**0.5):
        weights = np.linalg.lstsq(scaled[:, :number], scaled[:, number])[0]
        others = ", ".join(names[other] for other in np.flatnonzero(np.abs(weights) > 1e-6))
        raise ValueError(f"{names[number]} follows exactly from {others}: leave one of them out.")
    return centred_y, centred_x, names, codes


def number_groups(labels, size: int) -> np.ndarray:
    """0, 1, ... for the labels (n) in sorted order."""
    labels = np.asarray(labels)
    if labels.shape != (size,):
        raise ValueError(f"{labels.shape} labels for {size} rows.")
    return np.unique(labels, return_inverse=True)[1]


def less_means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Values (n) or (n, k) less the mean of their code."""
    counts = np.bincount(codes)
    columns = values.reshape(len(values), -1).T
    means = np.stack([np.bincount(codes, column) / counts for column in columns], axis=-1)
    return values - means[codes].reshape(values.shape)


def fit(
    y, x, names=None, errors="year", groups=None, order=None, hac_lags=None, within=None, series=None
) -> dict:
    """Least squares of y (n) on x (n, k), with the interval and p of each coefficient.

    errors: "year" or "site": cluster-robust CR2 by `groups` (n) with Satterthwaite degrees of freedom
    (`cr2`); "hac": Newey-West by statsmodels, hac_lags by default `newey_west_lags` of the longest series;
    "ols": equal and independent errors.
    order (n, dates or numbers) and series (n, sites; none = one) say which row follows which; hac goes by
    them (without order by row, without series by `groups`). With order, "year" counts that December goes on
    in January: rho is `lag_one` of the residuals, used where it is above 0 (None: not asked for, or under
    FEWEST_DATES a series). bench/climate_errors.py measures what each is worth. Coefficients are in units of
    y per unit of x.
    Returns rows (one a predictor: name, coefficient, standard_error, low, high, p, dof, standardised,
    partial_r2, vif), and n, constants, groups, hac_lags, rho, r2 and adjusted_r2 (of what the constants
    leave), intercept (None with within), residuals and fitted (n, of y less its means), errors.
    """
    if errors not in ERRORS:
        raise ValueError(f"errors must be one of {', '.join(ERRORS)}, not {errors!r}.")
    raw_y, raw_x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    y, x, names, codes = prepare(y, x, names, within)
    (n, k), constants = x.shape, int(codes.max()) + 1
    series = groups if series is None and errors == "hac" else series
    rows = np.arange(n) if order is None and series is None else in_order(order, series, n)
    series = np.zeros(n, np.int64) if series is None else number_groups(series, n)[rows]
    inverse = np.linalg.inv(x.T @ x)
    coefficient = np.linalg.lstsq(x, y)[0]
    fitted = x @ coefficient
    residuals = y - fitted
    left, total, free = residuals @ residuals, y @ y, n - k - constants
    if left < TINY**2 * total:
        raise ValueError("The predictors give the response exactly: nothing is left to judge errors by.")
    clusters = lags = rho = None
    if errors in ("year", "site"):
        clusters = 0 if groups is None else len(np.unique(groups))
        if clusters < FEWEST_GROUPS:
            raise ValueError(f"Errors by {errors} need {FEWEST_GROUPS} {errors}s or more, found {clusters}.")
        if errors == "year" and order is not None and n >= FEWEST_DATES * (series.max() + 1):
            rho = max(lag_one(residuals[rows], series), 0.0)
        codes, groups = codes[rows], number_groups(groups, n)[rows]
        variance, dof = cr2(x[rows], residuals[rows], groups, codes, names, series, rho or 0.0)
    elif errors == "hac":
        variance, lags = newey_west(y[rows], x[rows], series, hac_lags)
        variance, dof = variance * (n - k) / free, np.full(k, float(free))  # statsmodels saw k columns
    else:
        variance, dof = np.diag(inverse) * left / free, np.full(k, float(free))
    error = np.sqrt(variance)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, dof) * error
    gain = coefficient**2 / np.diag(inverse)  # what the sum of squares would grow by without the predictor
    columns = {
        "coefficient": coefficient,
        "standard_error": error,
        "low": coefficient - half,
        "high": coefficient + half,
        "p": 2 * stats.t.sf(np.abs(coefficient) / error, dof),
        "dof": dof,
        "standardised": coefficient * np.linalg.norm(x, axis=0) / np.sqrt(total),
        "partial_r2": gain / (gain + left),
        "vif": np.diag(inverse) * (x**2).sum(0),
    }
    return {
        "rows": [
            {"name": name, **{key: float(values[number]) for key, values in columns.items()}}
            for number, name in enumerate(names)
        ],
        "n": n,
        "constants": constants,
        "groups": clusters,
        "hac_lags": lags,
        "rho": rho,
        "r2": float(1 - left / total),
        "adjusted_r2": float(1 - left / free * (n - constants) / total),
        "intercept": float(raw_y.mean() - raw_x.reshape(n, k).mean(0) @ coefficient)
        if within is None
        else None,
        "residuals": residuals,
        "fitted": fitted,
        "errors": errors,
    }


def in_order(order, series, size: int) -> np.ndarray:
    """Row numbers (n) sorted by series, then order; rows of one series and place stay as they came."""
    order = np.arange(size) if order is None else np.asarray(order)
    if order.shape != (size,):
        raise ValueError(f"{order.shape} places in order for {size} rows.")
    return np.lexsort((order, np.zeros(size) if series is None else number_groups(series, size)))


# ---- errors ------------------------------------------------------------------------------------------------


def cr2(
    x: np.ndarray,
    residuals: np.ndarray,
    groups: np.ndarray,
    codes: np.ndarray,
    names: list[str],
    series: np.ndarray | None = None,
    rho: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster-robust variance CR2 (k) of least-squares coefficients and their degrees of freedom (k).

    x (n, k) and residuals (n) are free of the means of codes (n); groups (n) numbers the clusters. Each
    cluster's residuals are multiplied by (I - H_gg)^-1/2, H the hat matrix with the constants in it, so that
    the variance is unbiased under equal independent errors; Satterthwaite's degrees of freedom under the same
    (Bell & McCaffrey 2002; Imbens & Kolesar 2016, 10.1162/REST_a_00552); where a cluster determines itself
    the Moore-Penrose root (Pustejovsky & Tipton 2018, 10.1080/07350015.2016.1247004). H = F F' with F
    orthonormal, so that no matrix of the size of a cluster or of all rows is decomposed.
    rho above 0: degrees of freedom, and a factor that makes the variance unbiased, come from AR(1) errors of
    that rho along the rows of each of series (n, rows in order), which ties neighbouring clusters together.
    """
    k, constants, clusters = x.shape[1], codes.max() + 1, groups.max() + 1
    q, r = np.linalg.qr(x)
    contrasts = np.linalg.inv(r).T  # k k: coefficient j = contrasts[:, j] . q'y
    total = np.bincount(codes)
    weight = 1 / np.sqrt(total)
    variance, own, leans = np.zeros(k), np.zeros((k, clusters)), np.zeros((k, clusters, constants + k))
    spread = np.zeros((k, clusters, len(x)) if rho > 0 else 0)
    rows = np.argsort(groups, kind="stable")
    for cluster, part in enumerate(np.split(rows, np.bincount(groups).cumsum()[:-1])):
        counts = np.bincount(codes[part], minlength=constants)
        present = np.flatnonzero(counts)
        a, count, here = len(present), counts[present], np.column_stack([q[part], residuals[part]])
        sums = np.stack([np.bincount(codes[part], column, constants) for column in here.T], 1)
        crossed, of_residuals = np.split(sums[present] * weight[present, None], [k], axis=1)
        gram = np.zeros((a + k, a + k))  # F'F of this cluster
        gram[range(a), range(a)] = count * weight[present] ** 2
        gram[:a, a:], gram[a:, :a], gram[a:, a:] = crossed, crossed.T, q[part].T @ q[part]
        # Constants with equal shares of their rows in here act alike but along k directions: keep those.
        alike = np.unique(count * (len(x) + 1) + total[present], return_inverse=True)[1]
        turn = np.zeros((a + k, (alike.max() + 2) * k))
        turn[a:, -k:] = np.eye(k)
        for kind in range(alike.max() + 1):
            those = np.flatnonzero(alike == kind)
            directions = np.linalg.qr(crossed[those])[0]
            turn[those, kind * k : kind * k + directions.shape[1]] = directions
        values, vectors = np.linalg.eigh(np.eye(turn.shape[1]) - turn.T @ gram @ turn)
        root = np.where(values > TINY, 1 / np.sqrt(np.maximum(values, TINY)), 0)
        lifted = turn @ ((vectors * root) @ vectors[-k:].T @ contrasts)  # a+k k: F lifted = the adjusted rows
        leaned = gram @ lifted
        scores = lifted[:a].T @ of_residuals[:, 0] + lifted[a:].T @ (q[part].T @ residuals[part])
        variance += scores**2
        own[:, cluster] = (lifted * leaned).sum(0)
        leans[:, cluster, present], leans[:, cluster, constants:] = leaned[:a].T, leaned[a:].T
        if rho > 0:
            by_code = np.zeros((constants, k))
            by_code[present] = weight[present, None] * lifted[:a]
            spread[:, cluster, part] = (by_code[codes[part]] + q[part] @ lifted[a:]).T
    gamma = own[:, :, None] * np.eye(clusters) - leans @ leans.swapaxes(1, 2)  # k clusters clusters
    expected, true = np.trace(gamma, axis1=1, axis2=2), (contrasts**2).sum(0)
    for name, share in zip(names, expected / true, strict=True):
        if not share > 1 - 1e-6:  # less than 1 only where a cluster's own fit is exact and its error unseen
            raise ValueError(f"{name} hangs on one group alone, so errors by group cannot be told.")
    if rho > 0:
        spread -= leans[..., :constants][..., codes] * weight[codes] + leans[..., constants:] @ q.T
        spread = ar1_root(spread, series, rho)
        gamma = spread @ spread.swapaxes(1, 2)
        expected, true = (
            np.trace(gamma, axis1=1, axis2=2),
            (ar1_root((q @ contrasts).T, series, rho) ** 2).sum(1),
        )
        variance = variance * true / expected
    return variance, expected**2 / (gamma**2).sum((1, 2))


def ar1_root(values: np.ndarray, series: np.ndarray, rho: float) -> np.ndarray:
    """C'v of vectors v (..., n), C C' the AR(1) correlation of rho along each of series (n), in row order."""
    result = np.empty_like(values)
    for number in range(series.max() + 1):
        rows = np.flatnonzero(series == number)
        sums = lfilter([1.0], [1.0, -rho], values[..., rows[::-1]], axis=-1)[..., ::-1]
        result[..., rows] = sums * np.r_[1.0, np.full(len(rows) - 1, np.sqrt(1 - rho**2))]
    return result


def newey_west_lags(n: int) -> int:
    """Lags for n values in order: floor(4 (n/100)^(2/9)), Newey & West 1994, 10.2307/2297912."""
    return int(4 * (n / 100) ** (2 / 9))


def newey_west(y, x, series, lags=None) -> tuple[np.ndarray, int]:
    """HAC variance (k) by statsmodels, Bartlett weights, scaled by n / (n - k), and the lags it took.

    Rows lie series by series, each in order; lags count rows of a series (gaps in time are not seen), and
    series do not mix.
    """
    longest = int(np.bincount(series).max())
    lags = newey_west_lags(longest) if lags is None else int(lags)
    if not 0 <= lags < longest:
        raise ValueError(f"Newey-West with {lags} lags needs more than {lags} dates, found {longest}.")
    model = OLS(y, x).fit()
    if series.max() == 0:
        robust = model.get_robustcov_results("HAC", maxlags=lags, use_correction=True)
    else:
        robust = model.get_robustcov_results(
            "hac-panel", groups=series, maxlags=lags, use_correction="hac", df_correction=False
        )
    return np.diag(robust.cov_params()), lags


def default_errors(years: int, sites: int) -> tuple[str, str]:
    """Which errors to go by, with a sentence why: those whose measured rates hold (bench/climate_errors.py).

    years: groups of years in the data (hydrological); sites: named sites. By year wherever there are three:
    weather and its errors are shared by sites, so sites are no independent witnesses, while years nearly are.
    """
    counted = f"{years} year{'s' * (years != 1)}, {sites} site{'s' * (sites != 1)}"
    if years >= FEWEST_GROUPS:
        few = " So few years leave wide intervals." if years < FEW_YEARS else ""
        return "year", f"{years} years: they hold whether or not sites share their weather." + few
    if sites >= FEWEST_GROUPS:
        return "site", f"Only {counted}: they hold only if sites err independently."
    return "hac", f"Only {counted}: too few to group by, and Newey-West is too sure."


# ---- other models ------------------------------------------------------------------------------------------


def mixed(y, x, names, site, within=None) -> dict:
    """Linear mixed model with a random intercept a site (REML, statsmodels MixedLM), normal intervals.

    Returns rows (name, coefficient, standard_error, low, high, p), n, groups, site_variance,
    residual_variance, converged and warnings (sentences). Rows of a site count as independent given its
    intercept, so errors correlated in time or between sites make it too sure. Anomalies by site have no site
    variance left: say so, do not mend.
    """
    y, x, names, _ = prepare(y, x, names, within)
    groups = number_groups(site, len(y))
    if groups.max() + 1 < FEWEST_GROUPS:
        raise ValueError(f"A mixed model needs {FEWEST_GROUPS} sites or more, found {groups.max() + 1}.")
    design = x if within is not None else np.column_stack([x, np.ones(len(y))])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = MixedLM(y, design, groups).fit(reml=True)
        except np.linalg.LinAlgError:
            raise ValueError("The mixed model cannot be fitted: its matrix is singular.") from None
        error, p, limits = found.bse, found.pvalues, found.conf_int(1 - CONFIDENCE)
    said = [str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning | RuntimeWarning)]
    site_variance = float(np.asarray(found.cov_re)[0, 0])
    if site_variance <= 1e-4 * found.scale:
        said.append("No variance between sites is left: the mixed model is ordinary least squares here.")
    if not np.isfinite(error[: len(names)]).all():
        raise ValueError("The mixed model has no finite standard errors: " + " ".join(said))
    rows = [
        {
            "name": name,
            "coefficient": float(found.params[number]),
            "standard_error": float(error[number]),
            "low": float(limits[number][0]),
            "high": float(limits[number][1]),
            "p": float(p[number]),
        }
        for number, name in enumerate(names)
    ]
    return {
        "rows": rows,
        "n": len(y),
        "groups": int(groups.max()) + 1,
        "site_variance": site_variance,
        "residual_variance": float(found.scale),
        "converged": bool(found.converged),
        "warnings": sorted(set(said)),
    }


def leave_one_year_out(y, x, year, within=None) -> dict:
    """Skill on years the model has not seen: r2 = 1 - squared errors / those of the other years' means.

    y (n), x (n, k), year (n). Means (one, or one a code of `within`) and coefficients come from the other
    years alone. Rows of a code that no other year has are left out and counted. Returns r2, years, n,
    left_out. Negative: worse than the means.
    """
    prepare(y, x, None, within)
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64).reshape(len(y), -1)
    years = number_groups(year, len(y))
    codes = np.zeros(len(y), np.int64) if within is None else number_groups(within, len(y))
    if years.max() + 1 < FEWEST_GROUPS:
        raise ValueError(f"Leaving out a year needs {FEWEST_GROUPS} years or more, found {years.max() + 1}.")
    errors, spread, used = 0.0, 0.0, 0
    both = np.column_stack([y, x])
    for held_out in range(years.max() + 1):
        train, test = years != held_out, years == held_out
        counts = np.bincount(codes[train], minlength=codes.max() + 1)
        test &= counts[codes] > 0
        sums = np.stack([np.bincount(codes[train], column[train], len(counts)) for column in both.T], 1)
        left = both - (sums / np.maximum(counts, 1)[:, None])[codes]
        coefficient = np.linalg.lstsq(left[train, 1:], left[train, 0])[0]
        errors += ((left[test, 0] - left[test, 1:] @ coefficient) ** 2).sum()
        spread += (left[test, 0] ** 2).sum()
        used += int(test.sum())
    if not spread > 0:
        raise ValueError("No held-out year shares a month with another: nothing can be predicted.")
    return {
        "r2": float(1 - errors / spread),
        "years": int(years.max()) + 1,
        "n": used,
        "left_out": len(y) - used,
    }


def vif(x, names=None, within=None) -> np.ndarray:
    """Variance inflation factors (k) of x (n, k), with a constant; equal to statsmodels column by column."""
    x = np.asarray(x, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    x = prepare(x[:, 0], x, names, within, "the first predictor" if names is None else names[0])[1]
    return np.diag(np.linalg.inv(x.T @ x)) * (x**2).sum(0)


def correlation(x, y, series=None, order=None, within=None) -> dict:
    """Pearson's r of x (n) and y (n) with the number of independent pairs it is worth.

    n_eff = n (1 - r1x r1y) / (1 + r1x r1y), never above n (Bretherton 1999,
    10.1175/1520-0442(1999)012<1990:TENOSD>2.0.CO;2), less the means taken off beyond the first; r1 from
    `lag_one` over `order` within `series` (sites). Interval by Fisher's z with n_eff, p by t with n_eff - 2.
    Sites count as independent: where they share their weather n_eff is too large; correlate the means of
    dates then.
    Returns r, n, n_eff, r1_x, r1_y, low, high, p.
    """
    x, y, _, codes = prepare(x, np.asarray(y)[:, None], ["the second variable"], within, "the first variable")
    y, n, constants = y[:, 0], len(x), int(codes.max()) + 1
    r = float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))
    first, second = (lag_one(values, series, order) for values in (x, y))
    product = max(first * second, 0.0)
    n_eff = (n - constants + 1) * (1 - product) / (1 + product)
    if n_eff <= 3:
        raise ValueError(f"{n} rows are worth {n_eff:.1f} independent ones: too few for an interval.")
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) / np.sqrt(n_eff - 3)
    z = np.arctanh(r) if abs(r) < 1 else np.inf * np.sign(r)
    t = r * np.sqrt((n_eff - 2) / (1 - r**2)) if abs(r) < 1 else np.inf
    return {
        "r": r,
        "n": n,
        "n_eff": float(n_eff),
        "r1_x": first,
        "r1_y": second,
        "low": float(np.tanh(z - half)),
        "high": float(np.tanh(z + half)),
        "p": float(2 * stats.t.sf(abs(t), n_eff - 2)),
    }


def lag_one(values, series=None, order=None) -> float:
    """Lag-one autocorrelation of values (n) over `order` within `series`, pooled, less its small-sample bias.

    r1 = ((m - 1) r + 1) / (m - 4), m the mean length of a series (Marriott & Pope 1954,
    10.1093/biomet/41.3-4.390; Kendall 1954, 10.1093/biomet/41.3-4.403), kept within -0.99..0.99. Neighbours
    in order count as one step apart.
    """
    values = np.asarray(values, np.float64)
    rows = in_order(order, series, len(values))
    series = np.zeros(len(values), np.int64) if series is None else number_groups(series, len(values))[rows]
    values, same = less_means(values[rows], series), series[1:] == series[:-1]
    length = len(values) / (series.max() + 1)
    if length < FEWEST_DATES:
        raise ValueError(f"{length:.1f} dates a series are too few: an autocorrelation needs {FEWEST_DATES}.")
    whole = values @ values
    if not whole > 0:
        raise ValueError("A constant series has no autocorrelation.")
    r = values[1:][same] @ values[:-1][same] / whole * length / (length - 1)
    return float(np.clip(((length - 1) * r + 1) / (length - 4), -0.99, 0.99))


# ---- response, checks, many tests --------------------------------------------------------------------------


def logit(fraction, valid_pixels=None) -> np.ndarray:
    """log(f / (1 - f)) of fractions 0..1 (n), finite also at 0 and 1; NaN stays.

    With the pixels a fraction is of: f = (snow + 1/2) / (valid + 1), the empirical logit (Haldane 1956,
    10.1111/j.1469-1809.1955.tb01285.x). Without: f = (f (n - 1) + 1/2) / n, n the number of fractions
    (Smithson & Verkuilen 2006, 10.1037/1082-989X.11.1.54); a lone 0 or 1 then depends on n, so pixels are
    better.
    """
    fraction = np.asarray(fraction, np.float64)
    if ((fraction < 0) | (fraction > 1)).any():
        raise ValueError("The logit needs fractions from 0 to 1; counts must be divided by valid pixels.")
    if valid_pixels is None:
        n = max(np.isfinite(fraction).sum(), 1)
        fraction = (fraction * (n - 1) + 0.5) / n
    else:
        pixels = np.asarray(valid_pixels, np.float64)
        if not (pixels > 0).all():
            raise ValueError("The logit needs at least one valid pixel a fraction.")
        fraction = (fraction * pixels + 0.5) / (pixels + 1)
    return np.log(fraction / (1 - fraction))


def residual_checks(y, x, names=None, series=None, order=None, within=None) -> dict:
    """Is the model's idea of its errors right: autocorrelation, normality, influence of single rows.

    durbin_watson and r1: within `series` (sites) over `order`; ljung_box_p: statsmodels at the lags of
    `newey_west_lags`, the smallest p of the sites after Benjamini-Hochberg (None: series too short);
    jarque_bera_p, skewness, excess_kurtosis of the residuals; cooks_distance, leverage and studentised (n);
    influential: rows whose Cook's distance is above 4/n, worst first.
    """
    y, x, names, codes = prepare(y, x, names, within)
    (n, k), constants = x.shape, int(codes.max()) + 1
    q = np.linalg.qr(x)[0]
    residuals = y - q @ (q.T @ y)
    leverage = (q**2).sum(1) + 1 / np.bincount(codes)[codes]
    scale = residuals @ residuals / (n - k - constants)
    if scale < TINY**2 * (y @ y) / n:
        raise ValueError("The predictors give the response exactly: there are no residuals to check.")
    free = np.maximum(1 - leverage, TINY)
    studentised = residuals / np.sqrt(scale * free)
    cooks = studentised**2 * leverage / free / (k + constants)
    rows = in_order(order, series, n)
    places = np.zeros(n, np.int64) if series is None else number_groups(series, n)[rows]
    ordered = residuals[rows]
    steps = np.diff(ordered)[places[1:] == places[:-1]]
    p = []
    for part in np.split(ordered, np.flatnonzero(np.diff(places)) + 1):
        lags = newey_west_lags(len(part))
        if len(part) > 2 * lags and lags and np.ptp(part) > 0:
            p.append(float(acorr_ljungbox(part, lags=[lags])["lb_pvalue"].iloc[0]))
    bera = stats.jarque_bera(residuals)
    worst = np.argsort(-cooks, kind="stable")
    return {
        "durbin_watson": float(steps @ steps / (residuals @ residuals)),
        "r1": lag_one(ordered, places) if n >= FEWEST_DATES * (places.max() + 1) else None,
        "ljung_box_p": float(benjamini_hochberg(p).min()) if p else None,
        "jarque_bera_p": float(bera.pvalue),
        "skewness": float(stats.skew(residuals)),
        "excess_kurtosis": float(stats.kurtosis(residuals)),
        "residuals": residuals,
        "studentised": studentised,
        "leverage": leverage,
        "cooks_distance": cooks,
        "influential": worst[cooks[worst] > 4 / n].tolist(),
    }


def benjamini_hochberg(p) -> np.ndarray:
    """p values (n) adjusted for the number of tests made (false discovery rate, statsmodels); NaN stays."""
    p = np.array([np.nan if value is None else value for value in p], np.float64)
    made = np.isfinite(p)
    if made.any():
        p[made] = multipletests(p[made], method="fdr_bh")[1]
    return p
