"""Trends of many sites: seconds of the default test with 1,000 resamples, and a race with pymannkendall.

    python bench/trends.py --out bench/results/trends.json

Makes series of AR(1) months, 11 years of them, and times in one run
- the statistic (seasonal_kendall), and the default trend (seasonal_sen: slope, interval and test), of all
  series against a loop over pymannkendall.correlated_seasonal_test (test and slope) of some of them, by
  turns, in one process, in processor seconds; the largest difference of p is told;
- the default trend with a year-block bootstrap of all series, in --workers processes.
The limit of each is what the arithmetic it cannot do without takes on ready arrays in this very run: for each
pair of years and season a subtraction, a comparison and a sum; for each resample the same subtractions, a
division and the sorting. Try it out with --series 200 --resamples 100 --rival 5.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pymannkendall  # noqa: E402

from data_prep import runs  # noqa: E402
from models import trends  # noqa: E402

RHO, TURNS = 0.3, 3


def months(series: int, years: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """AR(1) months (series, years, 12) and their decimal years, of the same shape."""
    line = np.random.default_rng(seed).standard_normal((series, years * 12))
    for at in range(1, years * 12):
        line[:, at] = RHO * line[:, at - 1] + np.sqrt(1 - RHO**2) * line[:, at]
    times = 2014 + np.arange(years)[:, None] + (np.arange(12) + 0.5) / 12
    values = line.reshape(series, years, 12)
    return values, np.broadcast_to(times, values.shape)


def seconds_of(function, *args) -> float:
    """Processor seconds of this process, which a busy machine stretches less than those of a clock."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def used_by_workers() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def rival(values: np.ndarray) -> list[float]:
    return [pymannkendall.correlated_seasonal_test(series.ravel(), period=12).p for series in values]


def limits(years: int) -> tuple[float, float]:
    """Seconds a slope of the statistic and a slope of the bootstrap take at least, on ready arrays."""
    slopes = years * (years - 1) // 2 * 12
    a, b = np.random.default_rng(0).random((2, trends.CHUNK // slopes, slopes))
    c, d = np.random.default_rng(0).random((2, 1000, slopes), np.float32)

    def statistic():
        ((a - b) > 0).sum(1)

    def resample():
        np.sort((c - d) / d, 1)

    best = [min(seconds_of(work) for _ in range(9)) for work in (statistic, resample)]
    return best[0] / a.size, best[1] / c.size


def whole(part: tuple) -> dict:
    """The default trend and its bootstrap interval of a part of the series."""
    values, times, resamples = part
    trend, drawn = (
        trends.seasonal_sen(values, times),
        trends.year_block_bootstrap(values, times, 0, resamples),
    )
    return {"p": trend["p"], "slope": trend["slope"], "low": drawn["low"], "high": drawn["high"]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=10000)
    parser.add_argument("--years", type=int, default=11)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rival", type=int, default=50, help="series of the loop over pymannkendall")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    values, times = months(args.series, args.years)
    some = values[: args.rival]
    slopes = args.years * (args.years - 1) // 2 * 12
    for_statistic, for_resample = limits(args.years)

    seconds = {"seasonal_kendall": [], "seasonal_sen": [], "pymannkendall": []}
    for _ in range(TURNS):
        seconds["seasonal_kendall"].append(seconds_of(trends.seasonal_kendall, values) / len(values))
        seconds["seasonal_sen"].append(seconds_of(trends.seasonal_sen, values, times) / len(values))
        seconds["pymannkendall"].append(seconds_of(rival, some) / len(some))
    same = np.abs(trends.seasonal_kendall(some)["p"] - rival(some)).max()
    median = {name: float(np.median(times_of)) for name, times_of in seconds.items()}

    start, used = time.perf_counter(), used_by_workers()
    cut = [np.array_split(array, 8 * max(args.workers, 1)) for array in (values, times)]
    parts = [(*part, args.resamples) for part in zip(*cut, strict=True)]
    if args.workers > 1:
        with multiprocessing.Pool(args.workers) as pool:
            done = pool.map(whole, parts, chunksize=1)
    else:
        done = [whole(part) for part in parts]
    wall, used = time.perf_counter() - start, used_by_workers() - used
    done = {name: np.concatenate([part[name] for part in done]) for name in done[0]}

    report = {
        "command": "python bench/trends.py " + " ".join(sys.argv[1:]),
        "git_commit": runs.git_commit(),
        "cores": os.cpu_count(),
        "series": args.series,
        "years": args.years,
        "statistic": {
            "processor_seconds_a_series": seconds,
            "times_faster_than_pymannkendall": {
                name: median["pymannkendall"] / median[name] for name in ("seasonal_kendall", "seasonal_sen")
            },
            "largest_difference_of_p": float(same),
            "rival_series": len(some),
            "share_of_limit": slopes * for_statistic / median["seasonal_kendall"],
        },
        "with_bootstrap": {
            "resamples": args.resamples,
            "workers": args.workers,
            "seconds": wall,
            "processor_seconds": used,
            "series_per_second": args.series / wall,
            "share_of_limit": args.series * args.resamples * slopes * for_resample / used,
            "rejected_without_trend": float((done["p"] < 0.05).mean()),
            "bootstrap_covers": float(((done["low"] <= 0) & (done["high"] >= 0)).mean()),
        },
        "versions": runs.versions(),
    }
    if args.out:
        runs.write_json(args.out, report)
    print(json.dumps(report, indent=1))
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
