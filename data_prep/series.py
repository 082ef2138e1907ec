"""Calendars, anomalies, months, lagged weather and snow seasons of rows (site, date, values).

    rows["snow_anomaly"] = anomalies(rows, ["snow"])["snow"]
    values, times, sites, years = cube(monthly(rows, ["snow"]), "snow")   # (sites, years, 12)

Needs numpy and pandas, and runs.py and degree_days.py beside it. Rows are what climate_tables.read gives. A
missing value stays NaN and is never filled.
"""

import itertools
import re

import numpy as np
import pandas as pd

from data_prep.degree_days import MISSING_SHARE
from data_prep.runs import BadInput

SEASONS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "fall": (9, 10, 11)}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FIRST_MONTH = {False: 10, True: 4}  # of the hydrological year, north and south
LAG_DAYS = (1, 3, 7, 14, 30)
SUMMED_DAYS = (7, 30)  # windows of degree days and of snowfall
MELT_C = 0.0  # degree days count from here
UNSEEN_SHARE = 0.05  # of a year's days, 18 of them; with more no snow days are counted. A choice
MAX_GAP_DAYS = 24  # two 12-day repeats of Sentinel-1: one pass may be lost. A choice


# ---- seasons and years -------------------------------------------------------------------------------------


def parse_seasons(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """{"winter": (12, 1, 2)} of ["winter=12,1,2"] or ["winter=dec,jan,feb"]; SEASONS without any.

    A name that is no plain word, a month in two seasons and months that do not follow each other: BadInput.
    """
    if not texts:
        return dict(SEASONS)
    seasons, taken = {}, {}
    for text in texts:
        name, _, months = text.partition("=")
        lower = [known.lower() for known in seasons]  # names become names of files
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,30}", name) or name.lower() in lower:
            raise BadInput(f"--seasons {text}: expected NAME=MONTHS with a new, plain name: winter=12,1,2.")
        numbers = [month_number(month.strip().lower()) for month in months.split(",")]
        if None in numbers or len(set(numbers)) != len(numbers):
            raise BadInput(f"--seasons {text}: expected different months, 1 to 12 or jan to dec.")
        for month in numbers:
            if month in taken:
                raise BadInput(f"--seasons {text}: month {month} is in {taken[month]} already.")
            taken[month] = name
        starts = [month for month in numbers if (month - 2) % 12 + 1 not in numbers]
        if len(starts) > 1:
            raise BadInput(f"--seasons {text}: the months of a season must follow each other.")
        first = starts[0] if starts else 1
        seasons[name] = tuple((first - 1 + place) % 12 + 1 for place in range(len(numbers)))
    return seasons


def month_number(text: str) -> int | None:
    if text[:3] in MONTHS and text.isalpha():
        return MONTHS.index(text[:3]) + 1
    return int(text) if re.fullmatch(r"0?[1-9]|1[0-2]", text) else None


def southern(seasons: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same seasons half a year later: winter is June to August."""
    return {name: tuple((month + 5) % 12 + 1 for month in months) for name, months in seasons.items()}


def days(dates) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(np.asarray(dates, "datetime64[ns]"))


def season_of(dates, seasons: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Name of each date's season, "" where no season has its month."""
    table = np.full(13, "", dtype=object)
    for name, months in seasons.items():
        table[list(months)] = name
    return table[days(dates).month]


def season_year(dates, seasons: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Year in which each date's season ends: December of a winter 12, 1, 2 counts to the next year."""
    later = np.zeros(13, np.int64)
    for months in seasons.values():
        if 12 in months and 1 in months and len(months) < 12:
            later[list(months[: months.index(12) + 1])] = 1
    dates = days(dates)
    return dates.year.to_numpy(np.int64) + later[dates.month]


def hydrological_year(dates, southern=False) -> np.ndarray:
    """October to September, named for its end; April to March where southern (bool, or a date's)."""
    dates, first = days(dates), np.where(southern, FIRST_MONTH[True], FIRST_MONTH[False])
    return dates.year.to_numpy(np.int64) + (dates.month.to_numpy() >= first)


def decimal_year(dates) -> np.ndarray:
    """Year and the part of it that has passed when the day begins, leap years with 366 days."""
    dates = days(dates)
    return dates.year.to_numpy(float) + (dates.day_of_year.to_numpy() - 1) / np.where(
        dates.is_leap_year, 366, 365
    )


# ---- means and anomalies -----------------------------------------------------------------------------------


def of_days(daily: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """site, date and the variables of all sites' daily weather, in one table."""
    return pd.concat([frame.reset_index().assign(site=site) for site, frame in daily.items()])


def annual_means(rows: pd.DataFrame, name: str, daily: bool = False) -> pd.Series:
    """Mean of each calendar year; daily: only of years that lack no more than UNSEEN_SHARE of their days.

    Half a year of daily values is half of the seasons, and no year.
    """
    known = rows[["date", name]].dropna()
    grouped = known.groupby(known["date"].dt.year)
    whole = grouped["date"].nunique() >= (1 - UNSEEN_SHARE) * 365
    means = grouped[name].mean()
    return means[whole] if daily else means


def anomalies(rows: pd.DataFrame, columns) -> pd.DataFrame:
    """`columns` less the mean of the same site and calendar month over all years; index as in rows.

    rows: a row a date, or a month as `monthly` makes it. A month with a single value is its own mean: its
    anomaly is 0 and tells nothing.
    """
    columns = list(columns)
    groups = [rows["site"], rows["month"] if "month" in rows else rows["date"].dt.month.rename("month")]
    return rows[columns] - rows[columns].groupby(groups).transform("mean")


def per_date_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of all rows of a date, whatever their site: site "", date, the columns of rows, n (how many)."""
    columns = [name for name in rows.columns if name not in ("site", "date")]
    dates = rows.groupby("date", sort=True)
    means = dates[columns].mean().assign(n=dates.size()).reset_index()
    means.insert(0, "site", "")
    return means


def monthly(rows: pd.DataFrame, columns) -> pd.DataFrame:
    """Mean of each site's month: site, year, month, decimal_year (mean of its dates), n (rows), columns."""
    columns = list(columns)
    table = rows[["site", *columns]].assign(
        year=rows["date"].dt.year, month=rows["date"].dt.month, decimal_year=decimal_year(rows["date"])
    )
    months = table.groupby(["site", "year", "month"], sort=True)
    means = months[["decimal_year", *columns]].mean().assign(n=months.size()).reset_index()
    return means[["site", "year", "month", "decimal_year", "n", *columns]]


def cube(months: pd.DataFrame, column: str, first_month: int = 1):
    """Values and times (sites, years, 12), the sites and the years, of what monthly() gives.

    first_month: the month of index 0; a year that does not begin in January is named for the year it ends in.
    Years run from the first to the last without a hole. Missing values are NaN, their times mid-month.
    """
    sites, site = np.unique(months["site"].to_numpy(object).astype(str), return_inverse=True)
    calendar, month = months["year"].to_numpy(np.int64), months["month"].to_numpy(np.int64)
    named = calendar + ((month >= first_month) & (first_month > 1))
    years = np.arange(named.min(), named.max() + 1)
    places = np.arange(first_month - 1, first_month + 11)  # months counted from January of the first year
    middle = years[:, None] - (first_month > 1) + (places + 0.5) / 12
    values = np.full((len(sites), len(years), 12), np.nan)
    times = np.broadcast_to(middle, values.shape).copy()
    where = site, named - years[0], (month - first_month) % 12
    known = months[column].notna().to_numpy()
    values[where] = months[column].to_numpy(float)
    times[where] = np.where(known, months["decimal_year"].to_numpy(float), times[where])
    return values, times, sites.tolist(), years.tolist()


# ---- weather of the days before ----------------------------------------------------------------------------


def lag_names(variables, days=LAG_DAYS, summed=SUMMED_DAYS) -> list[str]:
    """What lagged() can make of these variables: <variable>_<N>d, degree_days_<N>d, snowfall_since_october.

    A 1-day window that ends with the date is the day itself, the same as the variable.
    """
    names = [f"{variable}_{n}d" for variable in variables for n in days]
    if daily_mean_of(variables):
        names += [f"degree_days_{n}d" for n in summed]
    if "snowfall_sum" in variables:
        names += [name for n in summed if (name := f"snowfall_sum_{n}d") not in names]
        names.append("snowfall_since_october")
    return names


def daily_mean_of(variables) -> tuple[str, ...]:
    """The columns whose mean is the day's mean temperature; () where there is none."""
    for names in (("temperature_2m_mean",), ("temperature_2m_max", "temperature_2m_min")):
        if set(names) <= set(variables):
            return names
    return ()


def lagged(
    daily: pd.DataFrame, dates, names: list[str], southern: bool = False, before: bool = False
) -> pd.DataFrame:
    """Weather of the days up to each date, (n, names): daily is one site's, indexed by day.

    Windows end with the date itself, the hours after the scene's pass included; with `before`, with the day
    before. <variable>_<N>d: the mean of N days, for *_sum variables the sum. degree_days_<N>d: the sum of the
    positive daily mean temperatures, K day (of the mean of highest and lowest where there is no daily mean).
    snowfall_since_october: the sum since the hydrological year began (1 April where `southern`). Missing days
    count as the mean of the others; a window that lacks more than a fifth of its days is NaN.
    """
    dates = days(dates)
    first = daily.index[0]
    end = np.asarray((dates - first).days, np.int64) - bool(before)
    table = {}
    for name in names:
        if name == "snowfall_since_october":
            month = FIRST_MONTH[bool(southern)]
            year = hydrological_year(dates, southern) - 1
            began = pd.DatetimeIndex(pd.to_datetime({"year": year, "month": month, "day": 1}))
            lengths = np.asarray((dates - began).days, np.int64) + (not before)
            values, summed = need(daily, "snowfall_sum"), True
        else:
            variable, lengths = split_name(name)
            if variable == "degree_days":
                parts = daily_mean_of(daily.columns) or ("temperature_2m_mean",)
                values = np.mean([need(daily, part) for part in parts], axis=0)
                values, summed = np.maximum(values - MELT_C, 0), True  # NaN stays
            else:
                values, summed = need(daily, variable), variable.endswith("_sum")
        table[name] = over_windows(values, end, np.broadcast_to(lengths, end.shape), summed)
    return pd.DataFrame(table, index=pd.RangeIndex(len(dates)))


def split_name(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\w+)_([1-9]\d{0,2})d", name)
    if match is None:
        raise BadInput(f"lagged predictor {name!r}: expected <variable>_<days>d or snowfall_since_october.")
    return match[1], int(match[2])


def need(daily: pd.DataFrame, variable: str) -> np.ndarray:
    if variable not in daily:
        raise BadInput(f"lagged predictors: no daily {variable}; found {', '.join(map(str, daily.columns))}.")
    return daily[variable].to_numpy(float)


def over_windows(values: np.ndarray, end: np.ndarray, lengths: np.ndarray, summed: bool) -> np.ndarray:
    """Mean (or sum) of the `lengths` days that end with index `end`; days outside the series are missing."""
    longest = int(lengths.max(initial=1))
    back = np.arange(longest)
    place = end[:, None] - back
    inside = (place >= 0) & (place < len(values)) & (back < lengths[:, None])
    window = np.where(inside, values[place.clip(0, len(values) - 1)], np.nan)
    known = np.isfinite(window).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(window, axis=1) / known
    mean[lengths - known > MISSING_SHARE * lengths] = np.nan
    return np.where(lengths == 0, 0, mean * lengths) if summed else mean


def with_lagged(
    rows: pd.DataFrame, daily: dict[str, pd.DataFrame], names: list[str], southern=False, before: bool = False
) -> pd.DataFrame:
    """`rows` with lagged() of each row's site, NaN for one without weather; southern: bool, or one a row."""
    southern = np.broadcast_to(np.asarray(southern, bool), len(rows))
    values = np.full((len(rows), len(names)), np.nan)
    for site, places in rows.groupby("site", sort=False).indices.items():
        if site in daily:
            for south in np.unique(southern[places]):
                here = places[southern[places] == south]
                found = lagged(daily[site], rows["date"].to_numpy()[here], names, south, before)
                values[here] = found.to_numpy()
    return rows.assign(**{name: values[:, number] for number, name in enumerate(names)})


# ---- snow seasons ------------------------------------------------------------------------------------------


def snow_season(
    rows: pd.DataFrame, threshold: float = 0.5, max_gap_days: int = MAX_GAP_DAYS, southern=False
) -> pd.DataFrame:
    """First and last snow, season and snow days of each site's hydrological years, as far as dates can tell.

    Snow lies where `snow` is at least `threshold`; rows of one site and date are averaged. first_snow is the
    first date with snow in the year, if the date before it had none and lies at most max_gap_days back;
    last_snow is the last one, if the date after it has none and lies at most as far on. season_days counts
    from first_snow to last_snow, both included. snow_days counts all days with snow along straight lines
    between dates at most max_gap_days apart, if those cover all but UNSEEN_SHARE of the year. What cannot be
    told is NaT or NaN, and why_missing says why. Snow that came and went within a gap is not seen:
    longest_gap_days is the longest stretch of the year without a date. southern: bool, or one a row.
    """
    if len(rows) and rows["snow"].max() > 1 >= threshold:
        raise BadInput(
            f"snow_season: a threshold of {threshold:g} is for fractions; snow is counted in pixels."
        )
    south = pd.Series(np.broadcast_to(np.asarray(southern, bool), len(rows)), rows.index)
    table = []
    for site, group in rows.assign(south=south).groupby("site", sort=True):
        mean = group.groupby("date", sort=True)["snow"].mean().dropna()
        here, south_here = days(mean.index), bool(group["south"].iloc[0])
        years = hydrological_year(here, south_here)
        snow, month = mean.to_numpy(), FIRST_MONTH[south_here]
        for year in np.unique(years):
            span = pd.Timestamp(int(year) - 1, month, 1), pd.Timestamp(int(year), month, 1)
            table.append({
                "site": site, "hydrological_year": int(year),
                **one_season(here, snow, np.flatnonzero(years == year), span, threshold, max_gap_days),
            })  # fmt: skip
    columns = (
        "site", "hydrological_year", "first_snow", "last_snow", "season_days", "snow_days", "observed_dates",
        "longest_gap_days", "why_missing",
    )  # fmt: skip
    frame = pd.DataFrame(table, columns=columns)
    for name in ("first_snow", "last_snow"):
        frame[name] = pd.to_datetime(frame[name]).astype("datetime64[ns]")
    return frame.astype({"season_days": float, "snow_days": float})


def one_season(dates, snow, inside, span, threshold: float, max_gap_days: int) -> dict:
    """snow_season of the observations `inside` one year, of a site's whole series in order of date."""
    lies = snow >= threshold
    white = inside[lies[inside]]
    found = {"first_snow": None, "last_snow": None, "season_days": np.nan, "observed_dates": len(inside)}
    why = []
    if not len(white):
        why.append("first_snow, last_snow: no date with snow")
    else:
        for name, at, beside in (
            ("first_snow", white[0], white[0] - 1),
            ("last_snow", white[-1], white[-1] + 1),
        ):
            side, verb = ("before", "began") if name == "first_snow" else ("after", "ended")
            if not 0 <= beside < len(dates):
                why.append(f"{name}: no date {side} {dates[at]:%Y-%m-%d}")
            elif (gap := abs((dates[at] - dates[beside]).days)) > max_gap_days:
                why.append(f"{name}: {gap} days without a date {side} {dates[at]:%Y-%m-%d}")
            elif lies[beside]:
                why.append(f"{name}: snow lay when the year {verb}")
            else:
                found[name] = dates[at]
        if found["first_snow"] is not None and found["last_snow"] is not None:
            found["season_days"] = (found["last_snow"] - found["first_snow"]).days + 1
    edges = [span[0], *dates[inside], span[1]]
    found["longest_gap_days"] = max((b - a).days for a, b in itertools.pairwise(edges))
    found["snow_days"], covered = count_days(dates, snow, span, threshold, max_gap_days)
    if np.isnan(found["snow_days"]):
        why.append(f"snow_days: dates at most {max_gap_days} days apart cover {covered:.0%} of the year")
    return {**found, "why_missing": "; ".join(why)}


def count_days(dates, snow, span, threshold: float, max_gap_days: int) -> tuple[float, float]:
    """Days with snow in span [first, end), and the share of the span that observations cover."""
    number = dates.to_numpy("datetime64[D]").astype(np.int64)
    first, end = (np.datetime64(day, "D").astype(np.int64) for day in span)
    every = np.arange(first, end)
    after = np.searchsorted(number, every)  # first observation on or after the day
    exact = number[after.clip(0, len(number) - 1)] == every
    between = (after > 0) & (after < len(number))
    gap = number[after.clip(0, len(number) - 1)] - number[(after - 1).clip(0)]
    covered = exact | (between & (gap <= max_gap_days))
    share = float(covered.mean())
    if share < 1 - UNSEEN_SHARE:
        return np.nan, share
    return float((np.interp(every[covered], number, snow) >= threshold).sum()), share
