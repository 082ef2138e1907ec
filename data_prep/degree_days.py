"""Daily weather at a pixel's own elevation: temperature, degree days and snowfall of the days before a scene.

Needs numpy, and runs.py beside it for its errors. A daily value holds the whole day: the hours after the
scene's pass belong to it as well.
"""

import csv
import functools
import json
from pathlib import Path

import numpy as np

from data_prep.runs import BadInput

LAPSE_K_PER_M = 0.0065  # ICAO standard atmosphere, Doc 7488; mountain valleys differ, by season and hour
SNOW_BELOW_C, RAIN_ABOVE_C = 0.0, 2.0  # half is snow at 1.0 C (Jennings 2018, 10.1038/s41467-018-03629-7)
MISSING_SHARE = 0.2  # of a window's days; more is refused
STEP_M = 10.0  # of the table of elevations that sums are made for
PLAUSIBLE_C = (-90.0, 60.0)  # a little beyond the coldest and the warmest air on record
VARIABLES = ("temperature_2m_mean", "precipitation_sum")  # Open-Meteo's names, C and mm a day


def files(path: Path | None) -> list[Path]:
    """What a run that reads a weather.csv depends on: the table and the weather.json beside it."""
    return [Path(path), Path(path).with_suffix(".json")] if path else []


@functools.lru_cache(maxsize=4)
def read_weather(path: Path, more: tuple[str, ...] = ()) -> dict[str, dict]:
    """Series of each site of a weather.csv: {"site", "dates", "elevation_m", and an array a variable}.

    more: further columns to read. dates: every day from the first to the last, datetime64[D]; a day the table
    lacks is NaN. weather.json beside the table says which elevation (m) each site's weather stands for.
    Anything ill-formed, a day that stands twice and impossible values are a BadInput.
    """
    path, names = Path(path), (*VARIABLES, *(name for name in more if name not in VARIABLES))
    elevations = read_elevations(path.with_suffix(".json"))
    rows: dict[str, dict[np.datetime64, list[float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = [name for name in ("site", "date", *names) if name not in (reader.fieldnames or ())]
            if missing:
                raise BadInput(f"{path}: column {', '.join(missing)} missing; expected daily weather.")
            for number, row in enumerate(reader, 2):
                try:
                    if None in row or None in row.values() or len(row["date"]) != 10:
                        raise ValueError
                    date = np.datetime64(row["date"], "D")
                    values = [float(row[name]) if row[name] else np.nan for name in names]
                except (ValueError, TypeError):
                    raise BadInput(
                        f"{path}: line {number}: expected a date YYYY-MM-DD and numbers, "
                        f"found {row['date']!r}, {row[VARIABLES[0]]!r}, {row[VARIABLES[1]]!r}."
                    ) from None
                problem = implausible(*values[:2])
                days = rows.setdefault(row["site"], {})
                if date in days:
                    problem = f"{row['site']} {date} stands twice"
                if problem:
                    raise BadInput(f"{path}: line {number}: {problem}; mend the table.")
                days[date] = values
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a readable CSV file ({error}).") from None
    unknown = sorted(set(rows) - set(elevations))
    if unknown:
        raise BadInput(
            f"{path.with_suffix('.json')}: no elevation_m for site {', '.join(unknown[:5])}; "
            "say which elevation its weather stands for."
        )
    return {site: as_series(site, days, elevations[site], names) for site, days in rows.items()}


def read_elevations(path: Path) -> dict[str, float]:
    """Elevation (m) of each site's weather, from the weather.json beside a weather.csv."""
    try:
        sites = json.loads(path.read_text(encoding="utf-8"))["sites"]
        elevations = {site: float(about["elevation_m"]) for site, about in sites.items()}
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; it holds the elevation of each site's weather.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f'{path}: needs {{"sites": {{"<site>": {{"elevation_m": metres}}}}}} ({error!r}).'
        ) from None
    for site, metres in elevations.items():
        if not -500 <= metres <= 9000:
            raise BadInput(f"{path}: elevation_m {metres:g} of site {site} is not on this Earth.")
    return elevations


def implausible(temperature_c: float, precipitation_mm: float) -> str:
    if not (np.isnan(temperature_c) or PLAUSIBLE_C[0] <= temperature_c <= PLAUSIBLE_C[1]):
        return f"temperature_2m_mean {temperature_c:g} is outside {PLAUSIBLE_C[0]:g}..{PLAUSIBLE_C[1]:g} C"
    if not (np.isnan(precipitation_mm) or 0 <= precipitation_mm <= 2000):  # record of a day: 1825 mm (WMO)
        return f"precipitation_sum {precipitation_mm:g} is outside 0..2000 mm"
    return ""


def as_series(site: str, days: dict, elevation_m: float, names) -> dict:
    first, last = min(days), max(days)
    dates = np.arange(first, last + 1)
    values = np.full((len(names), len(dates)), np.nan)
    for date, found in days.items():
        values[:, (date - first).astype(int)] = found
    return {"site": site, "elevation_m": elevation_m, "dates": dates, **dict(zip(names, values, strict=True))}


# ---- at the pixel ------------------------------------------------------------------------------------------


def snow_share(temperature: np.ndarray) -> np.ndarray:
    """Share of precipitation that falls as snow at a daily mean temperature in C."""
    return np.clip((RAIN_ABOVE_C - temperature) / (RAIN_ABOVE_C - SNOW_BELOW_C), 0, 1)


def temperature(series: dict, date: str, days: int, elevation) -> np.ndarray:
    """Mean air temperature, C, of the `days` days that end with `date`; float32 like elevation (m)."""
    (daily,) = window(series, date, days, VARIABLES[:1])
    warmer = lapse(series, np.asarray(elevation, np.float64))
    return np.asarray(daily.mean() + warmer, np.float32)


def degree_days(series: dict, date: str, days: int, elevation) -> np.ndarray:
    """Sum of the positive daily mean temperatures, K day, of the `days` days that end with `date`."""
    (daily,) = window(series, date, days, VARIABLES[:1])
    return at_elevation(series, elevation, lambda warmer: days * np.maximum(daily + warmer, 0).mean(axis=1))


def snowfall(series: dict, date: str, days: int, elevation) -> np.ndarray:
    """Solid precipitation, mm water equivalent, of the `days` days that end with `date`."""
    daily, water = window(series, date, days, VARIABLES)

    def fallen(warmer):
        share = snow_share(daily + warmer)
        return days * (share * water).mean(axis=1)

    return at_elevation(series, elevation, fallen)


def window(series: dict, date: str, days: int, names) -> list[np.ndarray]:
    """The known days of a window, one array a variable; missing days then count as the mean of the others."""
    try:
        end = int((np.datetime64(date[:10], "D") - series["dates"][0]).astype(int)) + 1
    except ValueError:
        raise BadInput(f"site {series['site']}: {date!r} is no date that weather could belong to.") from None
    span = f"the {days} days to {date[:10]}" if days > 1 else date[:10]
    if end < days or end > len(series["dates"]):
        raise BadInput(
            f"site {series['site']}: the weather runs from {series['dates'][0]} to {series['dates'][-1]} "
            f"and does not cover {span}; bring a longer series or leave such bands out."
        )
    values = np.stack([series[name][end - days : end] for name in names])
    known = ~np.isnan(values).any(axis=0)
    if (~known).sum() > MISSING_SHARE * days:
        raise BadInput(
            f"site {series['site']}: {(~known).sum()} of {days} days lack {' or '.join(names)} in {span}; "
            "fill the series or leave such bands out."
        )
    return list(values[:, known])


def lapse(series: dict, elevation):
    """How much warmer (K) the air is at an elevation than where the series stands."""
    return LAPSE_K_PER_M * (series["elevation_m"] - elevation)


def at_elevation(series: dict, elevation, total) -> np.ndarray:
    """float32 like elevation (m; NaN stays) of `total`, a sum as a function of a column of warming (K)."""
    elevation = np.asarray(elevation, np.float64)
    known = elevation[np.isfinite(elevation)]
    if not known.size:
        return np.full(elevation.shape, np.nan, np.float32)
    # Steps at absolute heights: a window and the whole scene get the same table.
    steps = np.arange(np.floor(known.min() / STEP_M), np.floor(known.max() / STEP_M) + 2) * STEP_M
    return np.interp(elevation, steps, total(lapse(series, steps)[:, None])).astype(np.float32)
