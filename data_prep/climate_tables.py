"""Snow cover joined with daily weather, one row a site and date, and a reason for every row left out.

    tables = read("runs/default/7_map", weather="runs/default/1_simulate/weather.csv", source="unet")
    tables.rows        # site, date, snow, temperature_2m_max, ...

Needs numpy and pandas, and runs.py, tables.py and weather_tables.py beside it. Daily values hold the whole
day: the hours after a scene's pass belong to it as well.
"""

import datetime
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.runs import BadInput
from data_prep.tables import (
    NOT_CHOSEN,
    Tables,
    as_numbers,
    header,
    leave_out,
    read_table,
    stripped,
    with_blank,
    with_dates,
    without_repeats,
)
from data_prep.weather_tables import good_weather, read_weather, with_units, without_empty

MIN_VALID = 0.6  # of the most pixels a site ever had valid; a choice
MIN_DATES = 10  # a choice: five predictors and a constant leave four degrees of freedom
BAND_SEEN = 0.1  # of an elevation band's largest valid area; a choice: a handful of pixels is no band
FRACTION_OFF = 0.001  # how far snow_fraction may be from snow_pixels / valid_pixels: three printed digits
CAP = 512 * 512  # pixels of the original's images: more snow than that it could not count
KEY = ("site", "date", "source", "relative_orbit")
SERIES = ("site", "source", "relative_orbit")  # dates of one of these are compared with each other


def read(
    data: Path,
    cover: Path | None = None,
    weather: Path | None = None,
    source: str | None = None,
    orbit: str | None = None,
    min_valid: float = MIN_VALID,
    elevation_standardised: bool = False,
    variables: list[str] | None = None,
    prefer: tuple[str, ...] = (),
    min_dates: int = MIN_DATES,
    today: str | None = None,
) -> Tables:
    """Read a folder with snow_cover.csv and weather.csv, or the original's single table of snow counts.

    cover, weather: the tables where they lie elsewhere. source, orbit: which rows of the snow table.
    variables: which weather (default: those of `prefer` that are there, else all that are known). today:
    YYYY-MM-DD, later dates are dropped. A row counts only with all of its variables. Anything that leaves
    nothing to analyse is a BadInput.
    """
    today = np.datetime64(today or datetime.datetime.now(datetime.UTC).date().isoformat(), "ns")
    data = Path(data)
    if not data.exists():
        raise BadInput(f"{data}: no such file or folder.")
    if data.is_file() and is_single(data):
        given = {"--cover": cover, "--weather": weather, "--source": source, "--relative-orbit": orbit,
                 "--standardise-elevation": elevation_standardised or None}  # fmt: skip
        given = [flag for flag, value in given.items() if value is not None]
        if given:
            raise BadInput(
                f"{data}: a single table, which holds snow and weather itself; leave out {', '.join(given)}."
            )
        tables = read_single(data, variables, prefer, today)
    else:
        cover, weather = places(data, cover, weather)
        tables = Tables(pd.DataFrame(), pd.DataFrame(), pd.Series(dtype=float), {}, {}, "snow_fraction", True)
        snow = read_cover(cover, tables, source, orbit, min_valid, elevation_standardised, today)
        join(tables, snow, cover, *read_weather(weather, tables, variables, prefer, today))
    check_answerable(tables, data, min_dates)
    return tables


def is_single(data: Path) -> bool:
    """Whether a file is the original's table, or a snow_cover.csv; BadInput for what is neither."""
    found, cover = header(data), ("site", "date", "valid_pixels", "snow_pixels")
    if "snow_pixel_count" not in found and not {"valid_pixels", "snow_pixels"} & set(found):
        raise BadInput(
            f"{data}: no column snow_pixel_count; found {', '.join(found) or 'none'}; expected time, weather "
            f"by Open-Meteo's daily names and snow_pixel_count, or a snow_cover.csv with {', '.join(cover)}."
        )
    return "snow_pixel_count" in found


def places(data: Path, cover: Path | None, weather: Path | None) -> tuple[Path, Path]:
    """Where the snow table and the weather table lie, from what a user names."""
    cover, weather = Path(cover or data), Path(weather or (data.parent if data.is_file() else data))
    return (
        cover / "snow_cover.csv" if cover.is_dir() else cover,
        weather / "weather.csv" if weather.is_dir() else weather,
    )


# ---- snow cover --------------------------------------------------------------------------------------------


def read_cover(path, tables, source, orbit, min_valid, elevation_standardised, today) -> pd.DataFrame:
    """Snow fraction a site and date: line, text, site, date, snow, valid_pixels, by site and date."""
    if not 0 <= min_valid <= 1:
        raise BadInput(f"min_valid {min_valid:g}: a share of the pixels lies in 0..1.")
    table = with_blank(read_table(path, KEY, ("site", "date", "valid_pixels", "snow_pixels")), KEY)
    tables.sources = counts(table["source"])
    tables.source = choose(path, "source", tables.sources, source)
    table = good_cover(tables, path, table, KEY, today)
    other = table["source"] != tables.source
    table = leave_out(tables, path, table, other, f"source {{source!r}} {NOT_CHOSEN}")
    if orbit is not None:
        orbits = counts(table["relative_orbit"])
        wanted = next((name for name in orbits if name.lstrip("0") == str(orbit).lstrip("0")), str(orbit))
        other = table["relative_orbit"] != choose(path, "relative_orbit", orbits, wanted)
        table = leave_out(tables, path, table, other, f"relative_orbit {{relative_orbit!r}} {NOT_CHOSEN}")
    most = table.groupby(list(SERIES), observed=True)["valid_pixels"].transform("max")
    table = table.assign(
        share=table["valid_pixels"] / most, snow=table["snow_pixels"] / table["valid_pixels"]
    )
    few = f"{{share:.1%}} of the site's pixels are valid, under {min_valid:.0%}"
    table = leave_out(tables, path, table, table["share"] < min_valid, few)
    if elevation_standardised:
        beside = path.with_name(f"{path.stem}_by_elevation.csv")
        table = standardise(tables, path, table, beside, min_valid, today)
    return over_orbits(tables, table)


def counts(column: pd.Series) -> dict[str, int]:
    return {str(name): int(n) for name, n in column.value_counts().items() if n}


def choose(path: Path, column: str, found: dict[str, int], wanted: str | None) -> str:
    """The wanted value of a column, or its only one; else a BadInput that names them all."""
    there = ", ".join(f"{name or '(empty)'} ({n} rows)" for name, n in sorted(found.items())) or "no rows"
    if wanted is None and len(found) > 1:
        raise BadInput(
            f"{path}: mixes {column} {there}; masks of different origin are no one series, choose one "
            f"of them with --{column.replace('_', '-')}."
        )
    if wanted is not None and wanted not in found:
        raise BadInput(f"{path}: has no {column} {wanted!r}; found {there}.")
    return wanted if wanted is not None else next(iter(found), "")


def good_cover(tables: Tables, path: Path, table: pd.DataFrame, key, today, more=()) -> pd.DataFrame:
    """`table` of snow cover without rows that cannot be: dates, names, numbers, shares, repeats."""
    figures = [n for n in ("valid_pixels", "snow_pixels", "snow_fraction", *more) if n in table]
    table = with_dates(tables, path, table, today)
    table = leave_out(tables, path, table, table["site"] == "", "no site")
    table = as_numbers(tables, path, table, figures).assign(relation=np.nan)
    pixels = "snow_pixels {snow_pixels:g} of valid_pixels {valid_pixels:g} "
    checks = {
        "valid_pixels or snow_pixels is empty": lambda t: (
            t[["valid_pixels", "snow_pixels"]].isna().any(axis=1)
        ),
        pixels + "are no counts of pixels": lambda t: (
            (t["snow_pixels"] % 1 != 0) | (t["valid_pixels"] % 1 != 0) | (t["snow_pixels"] < 0)
        ),
        "no pixel is valid": lambda t: t["valid_pixels"] <= 0,
        pixels + "is more snow than valid pixels": lambda t: t["snow_pixels"] > t["valid_pixels"],
    }
    if "snow_fraction" in table:
        table = table.assign(relation=table["snow_pixels"] / table["valid_pixels"])
        fraction, relation = "snow_fraction {snow_fraction:g} is ", "snow_pixels / valid_pixels, {relation:g}"
        checks[fraction + "outside 0..1"] = lambda t: (t["snow_fraction"] < 0) | (t["snow_fraction"] > 1)
        checks[fraction + "not " + relation] = lambda t: (
            (t["snow_fraction"] - t["relation"]).abs() > FRACTION_OFF
        )
    for reason, is_bad in checks.items():
        table = leave_out(tables, path, table, is_bad(table), reason)
    return without_repeats(tables, path, table, list(key), figures)


def standardise(tables, path, table, by_elevation: Path, min_valid: float, today) -> pd.DataFrame:
    """`table` with `snow` as if every elevation band were seen: sum of band share x the band's fraction.

    A band's share is its largest valid area among the largest of all bands of the site, source and orbit.
    Bands that a date does not see (under BAND_SEEN of that area) are left out and the others' shares raised,
    unless those hold less than min_valid: then the date goes.
    """
    series, day, edge = list(SERIES), [*SERIES, "date"], "elevation_from_m"
    if not by_elevation.exists():
        raise BadInput(f"{by_elevation}: no such file; to standardise by elevation the sites need a dem.tif.")
    bands = read_table(by_elevation, KEY, ("site", "date", edge, "valid_pixels", "snow_pixels"))
    bands = with_blank(bands, KEY)
    used = pd.MultiIndex.from_frame(bands[series]).isin(pd.MultiIndex.from_frame(table[series]))
    bands = bands[used & (bands["valid_pixels"].astype(str) != "0")]
    bands = good_cover(tables, by_elevation, bands, [*KEY, edge], today, (edge,))
    bands = bands.assign(most=bands.groupby([*series, edge], observed=True)["valid_pixels"].transform("max"))
    area = bands.drop_duplicates([*series, edge]).groupby(series, observed=True)["most"].sum().rename("area")
    seen = bands[bands["valid_pixels"] >= BAND_SEEN * bands["most"]]
    seen = seen.assign(weighted=seen["most"] * seen["snow_pixels"] / seen["valid_pixels"])
    sums = seen.groupby(day, observed=True)[["most", "weighted"]].sum().reset_index()
    sums = sums.merge(area.reset_index(), on=series)
    table = table.assign(**{name: table[name].astype(object) for name in series})
    sums = sums.assign(**{name: sums[name].astype(object) for name in series})
    found = table.merge(sums, on=day, how="left").assign(share=lambda t: t["most"] / t["area"])
    found = leave_out(tables, path, found, found["most"].isna(), "no elevation band of that date")
    few = f"the elevation bands seen hold {{share:.1%}} of the site, under {min_valid:.0%}"
    found = leave_out(tables, path, found, found["share"] < min_valid, few)
    tables.notes.append(
        f"Snow fractions are standardised over elevation bands; on {int((found['share'] < 1).sum())} of "
        f"{len(found)} dates a band was not seen and the others stand for it."
    )
    return found.assign(snow=found["weighted"] / found["most"], site=stripped(found["site"]))


def over_orbits(tables: Tables, table: pd.DataFrame) -> pd.DataFrame:
    """One row a site and date: orbits of a day averaged by their valid pixels."""
    orbits = sorted(set(table["relative_orbit"].unique()))
    if len(orbits) > 1:
        tables.notes.append(
            f"Orbits {', '.join(map(repr, orbits[:10]))} are in one series; angles and hours differ between "
            "them, --relative-orbit chooses one."
        )
    if not table.duplicated(["site", "date"]).any():
        return table.sort_values(["site", "date"])
    days = table.assign(weighted=table["snow"] * table["valid_pixels"]).groupby(
        ["site", "date"], observed=True
    )
    merged = days.agg(
        line=("line", "min"), text=("text", "first"), weighted=("weighted", "sum"),
        valid_pixels=("valid_pixels", "sum"), n=("line", "size"), snow=("snow", "first"),
    ).reset_index()  # fmt: skip
    several, mean = merged["n"] > 1, merged["weighted"] / merged["valid_pixels"]
    tables.notes.append(
        f"{int(several.sum())} of {len(merged)} dates have more than one orbit: averaged by valid pixels."
    )
    return merged.assign(snow=merged["snow"].where(~several, mean))


# ---- joined ------------------------------------------------------------------------------------------------


def join(
    tables: Tables, snow: pd.DataFrame, cover: Path, path: Path, weather: pd.DataFrame, variables
) -> None:
    """Fill `tables` with the rows that have snow and all variables, the daily weather, and the gaps."""
    if list(weather["site"].unique()) == [""]:  # one place without a name
        if snow["site"].nunique() > 1:
            raise BadInput(
                f"{path}: names no site, and {cover} has {snow['site'].nunique()}; give it a column site."
            )
        site = str(snow["site"].iloc[0]) if len(snow) else ""
        weather = weather.assign(site=weather["site"].cat.rename_categories([site]))
        tables.places = {site: tables.places.get("", {})}
    tables.snow = snow_of(snow)
    variables = without_empty(tables, path, weather, variables)
    names = sorted(weather["site"].unique())
    unknown = ~snow["site"].isin(names)
    refuse_strangers(cover, path, snow, weather, unknown)
    snow = leave_out(tables, cover, snow, unknown, "no weather of that site")
    days = weather[["site", "date", *variables]].assign(site=weather["site"].cat.set_categories(names))
    snow = snow.assign(site=snow["site"].cat.set_categories(names))
    both = snow.merge(days.assign(there=True), on=["site", "date"], how="left")
    both = leave_out(tables, cover, both, both["there"].isna(), "no usable weather of that day")
    both = keep(tables, cover, both, variables)
    tables.valid_pixels = both["valid_pixels"].astype(float).reset_index(drop=True)
    chosen = days[days["site"].isin(both["site"].unique())].sort_values(["site", "date"])
    for site, frame in chosen.groupby("site", sort=True, observed=True):
        frame = frame.set_index("date")[variables]
        tables.daily[site] = frame.reindex(
            pd.date_range(frame.index[0], frame.index[-1], name="date", unit="ns")
        )
    tables.places = {site: tables.places.get(site, {}) for site in tables.rows["site"].unique()}
    note_gaps(tables)


def refuse_strangers(cover: Path, path: Path, snow: pd.DataFrame, weather: pd.DataFrame, unknown) -> None:
    """BadInput where the two tables have no site, or no span of time, in common."""
    if snow.empty or weather.empty:
        return
    if unknown.all():
        has, lacks = (", ".join(map(str, list(dict.fromkeys(t["site"]))[:4])) for t in (weather, snow))
        raise BadInput(
            f"{path}: has weather of {has}, but {cover} has snow of {lacks}; name the sites alike in both."
        )
    spans = [(t["date"].min(), t["date"].max()) for t in (snow, weather)]
    if spans[0][0] > spans[1][1] or spans[0][1] < spans[1][0]:
        of_snow, of_weather = (f"{first:%Y-%m-%d} to {last:%Y-%m-%d}" for first, last in spans)
        raise BadInput(
            f"{path}: has weather of {of_weather}, but {cover} has snow of {of_snow}; bring weather of the "
            "snow's dates."
        )


def snow_of(table: pd.DataFrame) -> pd.DataFrame:
    """site, date and snow of all rows, by site and date."""
    rows = table[["site", "date", "snow"]].sort_values(["site", "date"], kind="stable").reset_index(drop=True)
    return rows.assign(site=rows["site"].astype(str))


def keep(tables: Tables, path: Path, table: pd.DataFrame, variables: list[str]) -> pd.DataFrame:
    """The rows of `table` with all of the variables, which become tables.rows."""
    gone = table[variables].isna()
    if gone.any(axis=None):
        worst = gone.mean().idxmax()
        tables.notes.append(
            f"{int(gone.any(axis=1).sum())} of {len(table)} rows lack weather, most often {worst} "
            f"({gone[worst].mean():.0%}); a row counts only with all of its variables."
        )
        lacks = [", ".join(itertools.compress(variables, row)) for row in gone.to_numpy().tolist()]
        table = leave_out(tables, path, table.assign(lacks=lacks), gone.any(axis=1), "that day lacks {lacks}")
    rows = table[["site", "date", "snow", *variables]].reset_index(drop=True)
    tables.rows, tables.variables = rows.assign(site=rows["site"].astype(str)), variables
    return table


def note_gaps(tables: Tables) -> None:
    """Longest gap between the dates of each site, and days of the span that lack weather."""
    if tables.rows.empty:
        return
    days = tables.rows["date"].to_numpy("datetime64[D]")
    sites = tables.rows["site"].to_numpy(object)
    starts = np.flatnonzero(np.append(True, sites[1:] != sites[:-1]))
    for first, end in zip(starts, [*starts[1:], len(sites)], strict=True):
        site, dates = sites[first], np.unique(days[first:end])
        steps, daily, missing = np.diff(dates).astype(int), tables.daily.get(site), None
        widest = int(steps.argmax()) if len(steps) else 0
        if daily is not None:
            span = (dates[[0, -1]] - daily.index[0].to_datetime64()).astype("timedelta64[D]").astype(int)
            missing = int(np.isnan(daily.to_numpy()[span[0] : span[1] + 1]).any(axis=1).sum())
        tables.gaps.append({
            "site": site, "dates": len(dates), "first": str(dates[0]), "last": str(dates[-1]),
            "longest_gap_days": int(steps[widest]) if len(steps) else 0, "gap_from": str(dates[widest]),
            "missing_weather_days": missing,
        })  # fmt: skip
    longest = sorted(tables.gaps, key=lambda gap: -gap["longest_gap_days"])
    for gap in longest[:3]:
        name = f"site {gap['site']}" if gap["site"] else "the table"
        tables.notes.append(
            f"{name}: {gap['dates']} dates from {gap['first']} to {gap['last']}, longest gap "
            f"{gap['longest_gap_days']} days from {gap['gap_from']}."
        )
    if len(longest) > 3:
        tables.notes.append(f"{len(longest) - 3} more sites have no longer gap; all stand in gaps.")
    missing = [gap for gap in tables.gaps if gap["missing_weather_days"]]
    if missing:
        most = max(missing, key=lambda gap: gap["missing_weather_days"])
        tables.notes.append(
            f"{len(missing)} of {len(tables.gaps)} sites lack weather on "
            f"{sum(gap['missing_weather_days'] for gap in missing)} days of their spans, most at "
            f"{most['site']} ({most['missing_weather_days']} days)."
        )


def check_answerable(tables: Tables, data: Path, min_dates: int) -> None:
    """BadInput where nothing can be analysed; warnings where little can. Constant weather is left out."""
    rows, dropped = tables.rows, tables.faulty()
    if rows.empty:
        first = dropped[-1] if dropped else {"file": data.name, "line": 1, "reason": "the table is empty"}
        raise BadInput(
            f"{data}: no row has both snow and weather; {len(dropped)} were dropped, for example "
            f"{first['file']} line {first['line']}: {first['reason']}."
        )
    dates = rows["date"].nunique()
    if dates < min_dates:
        raise BadInput(
            f"{data}: {dates} dates have both snow and weather, {min_dates} are needed ({len(dropped)} rows "
            "were dropped); bring a longer series."
        )
    if rows["snow"].nunique() == 1:
        raise BadInput(
            f"{data}: snow is {rows['snow'].iloc[0]:g} on all {len(rows)} rows; nothing goes with it."
        )
    still = rows.groupby("site")["snow"].nunique() == 1
    if still.any():
        names = ", ".join(still.index[still][:5])
        tables.notes.append(f"Warning: snow never changes at {int(still.sum())} site(s): {names}.")
    constant = [name for name in tables.variables if rows[name].nunique() == 1]
    if constant:
        tables.notes.append(f"Warning: left out {', '.join(constant)}: the same on all {len(rows)} rows.")
        tables.rows = rows.drop(columns=constant)
        tables.variables = [name for name in tables.variables if name not in constant]
    if not tables.variables:
        raise BadInput(f"{data}: no weather variable is left; it needs Open-Meteo's daily names.")
    tables.units = {name: tables.units[name] for name in tables.variables}
    if rows["date"].dt.year.nunique() == 1:
        tables.notes.append(
            "Warning: all dates are of one year: seasons and years cannot be told apart, no trend."
        )
    if tables.dropped:
        unused = len(tables.dropped) - len(dropped)
        more = f", and {unused} of another source or orbit not used" if unused else ""
        tables.notes.append(f"{len(dropped)} rows were dropped, each for a reason{more}.")


# ---- the original's single table ---------------------------------------------------------------------------


def read_single(path: Path, variables, prefer, today) -> Tables:
    """The original's table: time, weather, snow_pixel_count; a row is a place without a name, on a date."""
    table = read_table(path, ("time", "date", "site"), ("snow_pixel_count",))
    table = table.rename(columns={"time": "date"} if "date" not in table else {})
    if "date" not in table:
        raise BadInput(f"{path}: column time missing; expected time, weather variables and snow_pixel_count.")
    named = "site" in table
    tables = Tables(pd.DataFrame(), pd.DataFrame(), pd.Series(dtype=float), {}, {}, "snow_pixel_count", named)
    table, variables, tables.units = with_units(
        path, tables, with_blank(table, ("site",)), {}, variables, prefer
    )
    table = as_numbers(tables, path, with_dates(tables, path, table, today), ["snow_pixel_count"])
    table = table.rename(columns={"snow_pixel_count": "snow"})
    table = leave_out(tables, path, table, table["snow"].isna(), "snow_pixel_count is empty")
    wrong = (table["snow"] < 0) | (table["snow"] % 1 != 0)
    table = leave_out(tables, path, table, wrong, "snow_pixel_count {snow:g} is no count")
    # Rows of one date are different places: only whole rows repeat, unless sites have names.
    table = good_weather(tables, path, table, variables, ["site", "date", "snow", *variables])
    if named:
        table = without_repeats(tables, path, table, ["site", "date"], ["snow", *variables])
    variables = without_empty(tables, path, table, variables)
    table = table.sort_values(["site", "date"], kind="stable")
    tables.snow = snow_of(table)
    table = keep(tables, path, table, variables)
    tables.valid_pixels = pd.Series(np.nan, tables.rows.index)
    capped = int((table["snow"] == CAP).sum())
    if capped and table["snow"].max() == CAP:
        tables.notes.append(
            f"Warning: {capped} of {len(table)} counts stand at 512 x 512 = {CAP} pixels, the most that the "
            "images hold: snow beyond that was not counted."
        )
    tables.notes.append(
        "Snow is a count of pixels: clouds and the size of the images change it as snow does."
    )
    if not named:
        most, dates = int(table["date"].value_counts().max()) if len(table) else 0, table["date"].nunique()
        tables.notes.append(
            f"A row is an unnamed place on a date: {len(table)} rows, {dates} dates, up to {most} a date; "
            "the order of rows within a date names no site, so rows are never joined to series by it."
        )
    note_gaps(tables)
    return tables
