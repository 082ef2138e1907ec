"""Error rates of every interval and test the climate analysis offers, on series whose truth is planted.

    python bench/climate_errors.py --replicates 2000 --workers 2 --out bench/results/climate_errors

A series of months: snow = seasonal cycle + anomaly, anomaly = BETA x + trend + AR(1) noise of unit variance
and lag-one correlation rho; x = its own cycle + AR(1) of the same rho and unit variance. Snow as it is; as a
fraction of PIXELS pixels, expit of the same, brought back by the logit; and with a third of the months
missing. Each replicate goes the way of the analysis: means of each calendar month taken off, regression on
weather and the year, seasonal Kendall and Sen. Null series plant nothing; planted ones BETA and the smallest
trend that the default interval of the null series says it would detect. Then sites with dates every 12 days,
whose noise is their own or half shared. Seeds are fixed by cell, so --workers changes nothing. Out:
<out>.json with every figure and <out>.md with the tables.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_prep import runs  # noqa: E402
from models import regression, trends  # noqa: E402

SEED = 20260
YEARS, RHOS = (11, 20), (0.0, 0.3, 0.6)
KINDS = ("as it is", "logit", "a third of the months missing")
BETA = 0.25  # standard deviations of noise per standard deviation of weather
PIXELS = 2500  # a chip of 50 x 50; the fraction is a whole number of them
CHUNK = 50  # replicates a task and a seed
BOOTSTRAP_SHARE = 4  # the bootstrap runs on every fourth chunk
SITES, PANEL_YEARS, STEP_DAYS, PANEL_RHO = 36, 3, 12, 0.6  # rho from month to month
PANEL_BETA = 0.25
SHARED_WEATHER = 0.7  # share of the weather's variance that all sites have in common
PANEL_SHARED = {"noise of sites independent": 0.0, "half the noise shared by all sites": 0.5}
PANEL_SHARE = 4  # a quarter of the replicates
COVERS, REJECTS = (0.92, 0.97), (0.03, 0.07)  # what the defaults must keep
WEATHER_DEFAULT = "CR2 by hydrological year"
TREND_DEFAULT = "seasonal Sen and its test (Hirsch-Slack, carry-over)"
DEFAULTS = {
    "weather": (WEATHER_DEFAULT, f"{WEATHER_DEFAULT}, weather alone"),
    "trend": (TREND_DEFAULT, f"{WEATHER_DEFAULT}, beside weather"),
}


# ---- series ------------------------------------------------------------------------------------------------


def ar1(random, shape: tuple, rho: float) -> np.ndarray:
    """Stationary AR(1) of unit variance along the last axis."""
    shocks = random.normal(size=shape) * np.sqrt(1 - rho**2)
    shocks[..., 0] /= np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], shocks, axis=-1)


def months_of_years(years: int) -> np.ndarray:
    """Decimal years (years, 12) of mid-months from 2014 on."""
    return 2014 + np.arange(years)[:, None] + (np.arange(12) + 0.5) / 12


def generate(random, years: int, rho: float, kind: str, beta: float, slope: float) -> tuple:
    """Snow and weather (CHUNK, years, 12), NaN = missing; slope in units of the anomaly a year."""
    times = months_of_years(years)
    season = np.cos(2 * np.pi * (times % 1))
    weather, noise = (ar1(random, (CHUNK, years * 12), rho).reshape(CHUNK, years, 12) for _ in range(2))
    anomaly = beta * weather + slope * (times - times.mean()) + noise
    snow = 2 * season - 0.5 + anomaly
    if kind == "logit":
        fraction = np.round(PIXELS / (1 + np.exp(-snow))) / PIXELS
        snow = regression.logit(fraction, np.full(fraction.shape, PIXELS))
    if kind == "a third of the months missing":
        snow = np.where(random.random(snow.shape) < 1 / 3, np.nan, snow)
    return snow, 10 - 12 * season + 4 * weather, times


def series_task(task: dict) -> dict:
    """{question: {method: {estimates, low, high, p}}} of one chunk of replicates."""
    random = np.random.default_rng([SEED, *task["seed"]])
    given = [task[name] for name in ("years", "rho", "kind", "beta", "slope")]
    snow, weather, times = generate(random, *given)
    found = {"weather": {}, "trend": trend_of_all(snow, times, task["bootstrap"])}
    month = np.broadcast_to(np.arange(12), times.shape)
    hydrological = np.floor(times + 0.25).astype(int)  # October to September
    for replicate in range(CHUNK):
        seen = np.isfinite(snow[replicate])
        y, x, t = snow[replicate][seen], weather[replicate][seen] / 4, times[seen]
        both, groups, within = np.column_stack([x, t]), hydrological[seen], month[seen]
        fits = {
            "least squares": {"errors": "ols"},
            "Newey-West": {"errors": "hac", "order": t},
            "CR2 by year, years independent": {"errors": "year", "groups": groups},
            WEATHER_DEFAULT: {"errors": "year", "groups": groups, "order": t},
        }
        for name, how in fits.items():
            rows = regression.fit(y, both, ["x", "year"], within=within, **how)["rows"]
            keep(found["weather"], name, rows[0])
            keep(found["trend"], f"{name}, beside weather", rows[1])
            if name != "CR2 by year, years independent":
                rows = regression.fit(y, t, ["year"], within=within, **how)["rows"]
                keep(found["trend"], name, rows[0])
        row = regression.fit(y, x, ["x"], within=within, **fits[WEATHER_DEFAULT])["rows"][0]
        keep(found["weather"], f"{WEATHER_DEFAULT}, weather alone", row)
        r = regression.correlation(x, y, order=t, within=within)
        keep(found["weather"], "correlation, effective n", {"p": r["p"]})
    return found


def keep(found: dict, name: str, row: dict) -> None:
    into = found.setdefault(name, {"low": [], "high": [], "p": []})
    for key, values in into.items():
        values.append(row.get(key, np.nan))


def trend_of_all(snow: np.ndarray, times: np.ndarray, bootstrap: bool) -> dict:
    """Trend methods that take all series (n, years, 12) at once; NaN where a method has no such figure."""
    anomaly = (snow - np.nanmean(snow, axis=1, keepdims=True)).reshape(len(snow), -1)
    flat, nothing = times.ravel(), np.full(len(snow), np.nan)
    sen = trends.seasonal_sen(snow, times)
    independent = trends.seasonal_sen(snow, times, correlated=False)
    published = trends.seasonal_kendall(snow)["p"]
    uncorrected = trends.seasonal_kendall(snow, correlated=False)["p"]
    found = {
        TREND_DEFAULT: sen,
        "seasonal Mann-Kendall, Hirsch-Slack as published": {"p": published},
        "seasonal Mann-Kendall, months independent": {**independent, "p": uncorrected},
        "Mann-Kendall": trends.mann_kendall(anomaly),
        "Mann-Kendall, Hamed-Rao": trends.hamed_rao(anomaly, flat),
        "least squares, effective n": trends.effective_n_trend(anomaly, flat),
    }
    if bootstrap:
        ends = trends.year_block_bootstrap(snow, times, SEED)
        outside = np.where(np.isnan(ends["low"]), np.nan, (ends["low"] <= 0) & (ends["high"] >= 0))
        found["seasonal Sen, year-block bootstrap"] = {**ends, "p": outside}  # 0: the interval leaves out 0
    found = {
        name: {key: np.asarray(row.get(key, nothing)).tolist() for key in ("low", "high", "p")}
        for name, row in found.items()
    }
    smallest = trends.smallest_detectable(sen["low"], sen["high"], dof=sen["dof"])
    found[TREND_DEFAULT]["smallest"] = smallest.tolist()
    return found


# ---- sites -------------------------------------------------------------------------------------------------


def panel_task(task: dict) -> dict:
    """The same for one replicate of sites: the coefficient of the weather only."""
    random = np.random.default_rng([SEED, *task["seed"]])
    dates = PANEL_YEARS * 365 // STEP_DAYS
    day = np.arange(dates) * STEP_DAYS
    rho = PANEL_RHO ** (STEP_DAYS * 12 / 365)
    weather, noise = (
        np.sqrt(1 - shared) * ar1(random, (SITES, dates), rho)
        + np.sqrt(shared) * ar1(random, (1, dates), rho)
        for shared in (SHARED_WEATHER, task["shared"])
    )
    snow = (task["beta"] * weather + noise).ravel()
    site, t = np.repeat(np.arange(SITES), dates), np.tile(2014 + day / 365, SITES)
    month = (t % 1 * 12).astype(int)
    hydrological, quarter = np.floor(t + 0.25), np.floor(4 * t + 1)
    x, within = np.column_stack([weather.ravel(), t]), site * 12 + month
    fits = {
        "least squares": {"errors": "ols"},
        "Newey-West within sites": {"errors": "hac", "order": t, "series": site},
        "CR2 by site": {"errors": "site", "groups": site},
        "CR2 by year, years independent": {"errors": "year", "groups": hydrological},
        WEATHER_DEFAULT: {"errors": "year", "groups": hydrological, "order": t, "series": site},
        "CR2 by quarter of a year (tried, not offered)": {
            "errors": "year", "groups": quarter, "order": t, "series": site,
        },
    }  # fmt: skip
    found = {"weather": {}}
    for name, how in fits.items():
        keep(found["weather"], name, regression.fit(snow, x, ["x", "year"], within=within, **how)["rows"][0])
    row = regression.mixed(snow, x, ["x", "year"], site, month)["rows"][0]
    keep(found["weather"], "mixed model, random intercept a site", row)
    means = [values.reshape(SITES, dates).mean(0) for values in (weather, snow)]
    r = regression.correlation(*means, order=day, within=month[:dates])
    keep(found["weather"], "correlation of means over sites, effective n", {"p": r["p"]})
    return found


# ---- rates -------------------------------------------------------------------------------------------------


def gather(parts: list[dict]) -> dict:
    """Chunks of one cell put together: {question: {method: {key: array}}}."""
    whole = {}
    for part in parts:
        for question, methods in part.items():
            for name, row in methods.items():
                into = whole.setdefault(question, {}).setdefault(name, {})
                for key, values in row.items():
                    into.setdefault(key, []).extend(values)
    return {
        question: {name: {key: np.array(v) for key, v in row.items()} for name, row in methods.items()}
        for question, methods in whole.items()
    }


def rate(hits: np.ndarray, answered: np.ndarray) -> dict | None:
    """Share of answers that are hits, its Monte-Carlo standard error, and how many there are."""
    n = int(answered.sum())
    if not n:
        return None
    share = float(hits[answered].mean())
    return {"rate": share, "standard_error": float(np.sqrt(share * (1 - share) / n)), "n": n}


def rates(null: dict, planted: dict, truth: dict) -> list[dict]:
    """A row a question and method: coverage of the planted value, rejection of nothing, power, half width."""
    rows = []
    for question, methods in null.items():
        for name, row in methods.items():
            other = planted[question][name]
            has_ends, level = np.isfinite(other["low"] + other["high"]), 1 - regression.CONFIDENCE
            holds = (other["low"] <= truth[question]) & (truth[question] <= other["high"])
            half = (other["high"] - other["low"])[has_ends] / 2
            rows.append(
                {
                    "question": question,
                    "method": name,
                    "default": name in DEFAULTS[question],
                    "planted": truth[question],
                    "covers": rate(holds, has_ends),
                    "rejects": rate(row["p"] < level, np.isfinite(row["p"])),
                    "power": rate(other["p"] < level, np.isfinite(other["p"])),
                    "half_width": float(np.median(half)) if len(half) else None,
                    "no_answer": int((~np.isfinite(row["p"])).sum() + (~np.isfinite(other["p"])).sum()),
                }
            )
    return rows


def in_band(row: dict) -> bool:
    pairs = ((row["covers"], COVERS), (row["rejects"], REJECTS))
    return all(found and low <= found["rate"] <= high for found, (low, high) in pairs)


# ---- tables ------------------------------------------------------------------------------------------------


def tables(report: dict) -> str:
    outside, error = report["outside"], 100 * np.sqrt(0.05 * 0.95 / report["replicates"])
    lines = [
        "# Error rates of the climate analysis",
        "",
        f"`{report['command']}`: {report['replicates']} replicates, {report['seconds'] / 60:.0f} minutes.",
        "",
        "Each cell: of 95 % intervals, the share that holds what was planted / of tests at 5 %, the share",
        "that rejects where nothing was planted / that finds what was planted (power), in per cent.",
        f"Standard error of a rate of 5 %: {error:.1f} points, {2 * error:.1f} for bootstrap and sites.",
        "Defaults are **bold**; they must cover 92-97 % and reject 3-7 % with 11 and with 20 years:",
        "they do everywhere." if not outside else f"they do not in {'; '.join(outside)}.",
    ]
    titles = {
        "weather": f"Coefficient of the weather, planted {BETA} standard deviations",
        "trend": "Trend, planted the smallest that the default would detect with 80 % power",
    }
    for question, title in titles.items():
        for kind in KINDS:
            cells = [cell for cell in report["series"] if cell["kind"] == kind]
            heads = [f"{cell['years']} years, rho {cell['rho']}" for cell in cells]
            lines += ["", f"## {title}: {kind}", "", "| method | " + " | ".join(heads) + " |"]
            lines += ["|---" * (len(cells) + 1) + "|"]
            if question == "trend":
                slopes = [f"{cell['slope']:.3f}" for cell in cells]
                lines += ["| planted, a year | " + " | ".join(slopes) + " |"]
            lines += by_method([cell["rows"] for cell in cells], question)
    lines += [
        "",
        f"## Coefficient of the weather over {SITES} sites x {PANEL_YEARS} years, every {STEP_DAYS} days",
    ]
    lines += [
        "",
        f"Planted {PANEL_BETA}; {SHARED_WEATHER:.0%} of the variance of the weather is common to all sites;",
        f"AR(1) of {PANEL_RHO} from month to month. Fourth figure: median half width of the interval.",
        "",
        "| method | " + " | ".join(report["sites"]) + " |",
        "|---" * (len(report["sites"]) + 1) + "|",
        *by_method(list(report["sites"].values()), "weather", width=True),
    ]
    return "\n".join(lines) + "\n"


def by_method(cells: list[list[dict]], question: str, width: bool = False) -> list[str]:
    """A line a method: covers / rejects / power of each cell."""
    lines = []
    for first in [row for row in cells[0] if row["question"] == question]:
        texts = []
        for cell in cells:
            row = next(r for r in cell if (r["question"], r["method"]) == (question, first["method"]))
            parts = [f"{100 * row[k]['rate']:.1f}" if row[k] else "-" for k in ("covers", "rejects", "power")]
            half = [f"{row['half_width']:.2f}" if row["half_width"] else "-"] if width else []
            texts.append(" / ".join(parts + half))
        name = f"**{first['method']}**" if first["default"] else first["method"]
        lines.append("| " + " | ".join([name, *texts]) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=2000, help=f"rounded up to chunks of {CHUNK}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="writes <out>.json and <out>.md")
    args = parser.parse_args()
    began = time.monotonic()
    chunks = -(-args.replicates // CHUNK)
    cells = [{"kind": kind, "years": years, "rho": rho} for kind in KINDS for years in YEARS for rho in RHOS]

    def series_tasks(plant: bool) -> list[dict]:
        return [
            {
                **cell,
                "seed": [number, int(plant), chunk],
                "beta": BETA * plant,
                "slope": cell["slope"] if plant else 0.0,
                "bootstrap": chunk % BOOTSTRAP_SHARE == 0,
            }
            for number, cell in enumerate(cells)
            for chunk in range(chunks)
        ]

    def panel_tasks(plant: bool) -> list[dict]:
        return [
            {"shared": shared, "seed": [100 + number, int(plant), one], "beta": PANEL_BETA * plant}
            for number, shared in enumerate(PANEL_SHARED.values())
            for one in range(chunks * CHUNK // PANEL_SHARE)
        ]

    def by_cell(results, count: int) -> list[dict]:
        results = list(results)
        size = len(results) // count
        return [gather(results[at * size : (at + 1) * size]) for at in range(count)]

    with ProcessPoolExecutor(args.workers) as pool:
        nulls = by_cell(pool.map(series_task, series_tasks(False)), len(cells))
        for cell, null in zip(cells, nulls, strict=True):
            cell["slope"] = float(np.nanmedian(null["trend"][TREND_DEFAULT]["smallest"]))
        runs.say(f"null series done after {time.monotonic() - began:.0f} s")
        planted = by_cell(pool.map(series_task, series_tasks(True)), len(cells))
        runs.say(f"planted series done after {time.monotonic() - began:.0f} s")
        both = [
            by_cell(pool.map(panel_task, panel_tasks(plant), chunksize=5), len(PANEL_SHARED))
            for plant in (False, True)
        ]
    for cell, null, other in zip(cells, nulls, planted, strict=True):
        cell["rows"] = rates(null, other, {"weather": BETA, "trend": cell["slope"]})
    sites = {
        name: rates(null, other, {"weather": PANEL_BETA})
        for name, null, other in zip(PANEL_SHARED, *both, strict=True)
    }
    outside = [
        f"{cell['kind']}, {cell['years']} years, rho {cell['rho']}, {row['question']} by {row['method']}"
        for cell in cells
        for row in cell["rows"]
        if row["default"] and not in_band(row)
    ]
    report = {
        "command": "python bench/climate_errors.py " + " ".join(sys.argv[1:]),
        "git_commit": runs.git_commit(),
        "replicates": chunks * CHUNK,
        "seed": SEED,
        "series": cells,
        "sites": sites,
        "outside": outside,
        "seconds": time.monotonic() - began,
        "versions": runs.versions(),
    }
    text = tables(report)
    if args.out:
        runs.write_json(args.out.with_suffix(".json"), report)
        runs.write_text(args.out.with_suffix(".md"), text)
    print(text)
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
