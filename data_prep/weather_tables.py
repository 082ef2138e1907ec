"""Daily weather of weather.csv and weather.json, or as Open-Meteo writes it: units, ranges, days, time zones.

Needs numpy and pandas, and runs.py, tables.py and degree_days.py beside it.
"""

import csv
import json
import re
from pathlib import Path

import pandas as pd

from data_prep.degree_days import PLAUSIBLE_C
from data_prep.runs import BadInput
from data_prep.tables import (
    Tables,
    as_numbers,
    header,
    leave_out,
    read_table,
    with_blank,
    with_dates,
    without_repeats,
)

UTC = ("UTC", "GMT", "Etc/UTC", "Etc/GMT", "Z")
FAR_HOURS = 3  # a UTC day is another day than the sun's by more than this: warn
UNKNOWN = "not stated"

# Daily variables of Open-Meteo by the beginning of their names: unit, lowest and highest value of a day.
KNOWN = {
    "temperature_2m_": ("°C", *PLAUSIBLE_C),
    "apparent_temperature_": ("°C", -120, 80),  # wind chill and heat index go beyond the air's own
    "dew_point_2m_": ("°C", -110, 40),  # highest on record 35 C, Dhahran 2003 (WMO)
    "precipitation_sum": ("mm", 0, 2000),  # record of a day 1825 mm (WMO)
    "rain_sum": ("mm", 0, 2000),
    "snowfall_sum": ("cm", 0, 300),  # most in a day: 193, Silver Lake 1921; 256 claimed, Capracotta 2015
    "snow_depth_": ("m", 0, 15),  # deepest on record 11.82 m, Mount Ibuki 1927
    "relative_humidity_2m_": ("%", 0, 100),
    "shortwave_radiation_sum": ("MJ/m²", 0, 50),  # at most 48 above the air (FAO-56, eq. 21)
    "wind_speed_10m_": ("km/h", 0, 408),  # strongest gust on record, Barrow Island 1996 (WMO)
    "wind_gusts_10m_": ("km/h", 0, 408),
    "cloud_cover_": ("%", 0, 100),
    "pressure_msl_": ("hPa", 850, 1100),  # 870 in typhoon Tip 1979, 1085 at Tosontsengel 2001 (WMO)
    "surface_pressure_": ("hPa", 300, 1100),
    "et0_fao_evapotranspiration": ("mm", 0, 50),  # no more than the radiation above could evaporate
    "sunshine_duration": ("s", 0, 86400),
    "precipitation_hours": ("h", 0, 24),
}
SPELLINGS = {  # of the units above
    "c": "°C", "degc": "°C", "deg c": "°C", "celsius": "°C", "℃": "°C", "mj/m2": "MJ/m²", "mj/m^2": "MJ/m²",
    "percent": "%", "kmh": "km/h", "hours": "h", "seconds": "s", "metre": "m", "metres": "m",
}  # fmt: skip


def read_weather(path: Path, tables: Tables, variables, prefer, today):
    """The path, the daily weather (line, text, site, date, variables) and its variables.

    path: a weather.csv, or Open-Meteo's CSV download of one place.
    """
    about, skip = read_about(path.with_suffix(".json")), 0
    names = header(path)
    if names[:2] == ["latitude", "longitude"]:  # a download: place, empty line, table
        place = read_table_head(path)
        skip = next(n for n in range(2, 12) if "time" in header(path, n) or n == 11)
        about = {**about, **place}
    table = read_table(path, ("site", "date", "time"), (), skip)
    table = table.rename(columns={"time": "date"} if "date" not in table else {})
    if "date" not in table or ("site" not in table and not skip):
        raise BadInput(
            f"{path}: needs columns site and date, then Open-Meteo's names; found {', '.join(names)}."
        )
    table, variables, units = with_units(path, tables, with_blank(table, ("site",)), about, variables, prefer)
    table = good_weather(tables, path, with_dates(tables, path, table, today), variables, ["site", "date"])
    note_time_zones(tables, path, about)
    tables.about_weather = " ".join(str(about[name]) for name in ("source", "model") if about.get(name))
    tables.units = units
    return path, table, variables


def read_about(path: Path) -> dict:
    """weather.json: model, timezone, units, sites; {} without one."""
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        sites = about.get("sites", {})
        units = [part.get(name, {}) for part in (about, *sites.values()) for name in ("units", "daily_units")]
        if not all(isinstance(part, dict) for part in units):
            raise ValueError("units must be an object")
        for site, more in sites.items():
            for name in ("latitude", "longitude"):
                if name in more:
                    more[name] = float(more[name])
                    if not abs(more[name]) <= (90 if name == "latitude" else 360):
                        raise ValueError(f"{name} of site {site} is no angle in degrees")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: is no weather.json ({error}); write it again, or take it away.") from None
    return about


def read_table_head(path: Path) -> dict:
    """Time zone and place of a download of one location, from the two lines it begins with."""
    with open(path, newline="", encoding="utf-8-sig") as stream:
        names, values, after = (next(csv.reader([stream.readline()]), []) for _ in range(3))
    place = dict(zip(names, values, strict=False))
    if any(after):
        raise BadInput(f"{path}: holds several locations; write one table with a column site.")
    try:
        known = [name for name in ("latitude", "longitude", "elevation") if place.get(name)]
        sites = {"": {name: float(place[name]) for name in known}}
    except ValueError:
        raise BadInput(f"{path}: line 2: latitude, longitude and elevation must be numbers.") from None
    return {"sites": sites, **({"timezone": place["timezone"]} if place.get("timezone") else {})}


def expected(name: str) -> tuple[str, float, float] | None:
    """Unit, lowest and highest value of a daily variable, or None for a name that is not known."""
    return next((KNOWN[start] for start in KNOWN if name.startswith(start)), None)


def with_units(path: Path, tables: Tables, table: pd.DataFrame, about: dict, wanted, prefer=()):
    """The table with plain names, its known variables and their units, checked against the names.

    wanted: only these, all of them; else those of `prefer` that are there, else all.
    """
    beside = path.with_suffix(".json")
    match = {name: re.fullmatch(r"(\w+)\s*\((.+)\)", name) for name in table.columns}
    stated = {m[1]: {f"{path}": m[2]} for m in match.values() if m}
    table = table.rename(columns={name: m[1] for name, m in match.items() if m})
    if table.columns.has_duplicates:
        raise BadInput(f"{path}: two columns of one variable in different units; keep one of them.")
    for name, unit in (about.get("units") or about.get("daily_units") or {}).items():
        stated.setdefault(name, {})[f"{beside}"] = unit
    for site, more in about.get("sites", {}).items():
        for name, unit in (more.get("units") or more.get("daily_units") or {}).items():
            stated.setdefault(name, {})[f"{beside}, site {site}"] = unit
    found = [name for name in table.columns if name not in ("site", "date", "line", "snow_pixel_count")]
    known = [name for name in found if expected(name)]
    if set(found) - set(known):
        tables.notes.append(
            f"{path.name}: left out {', '.join(n for n in found if n not in known)}: no daily quantity whose "
            "unit is known here."
        )
    missing = [name for name in wanted or () if name not in known]
    if missing:
        raise BadInput(
            f"{path}: has no known variable {', '.join(missing)}; found {', '.join(known) or 'none'}."
        )
    wanted = wanted or [name for name in known if name in prefer] or known
    chosen, units = [name for name in known if name in wanted], {}
    if len(chosen) < len(known):
        others = ", ".join(name for name in known if name not in chosen)
        tables.notes.append(f"{path.name}: not used: {others}; --variables names what to use.")
    for name in chosen:
        right = expected(name)[0]
        spelled = {where: spell(unit) for where, unit in stated.get(name, {}).items()}
        if len(set(spelled.values())) > 1:
            (a, first), *_, (b, last) = sorted(spelled.items(), key=lambda item: item[1] != right)
            raise BadInput(f"{name} is in {first} in {a} and in {last} in {b}; bring all of it in {right}.")
        for where, unit in spelled.items():
            if unit != right:
                raise BadInput(
                    f"{where}: column {name} is in {unit}, expected {right}; download it again with "
                    "Open-Meteo's default units, or convert it and say so there."
                )
        units[name] = right
    unsaid = [name for name in chosen if name not in stated]
    if unsaid:
        taken = ", ".join(f"{name} in {units[name]}" for name in unsaid)
        tables.notes.append(f"{path.name}: no unit is stated; taken as Open-Meteo's default: {taken}.")
    return table.drop(columns=[name for name in found if name not in chosen]), chosen, units


def spell(unit) -> str:
    text = " ".join(str(unit).split())
    same = {right.lower(): right for right, *_ in KNOWN.values()}
    return same.get(text.lower(), SPELLINGS.get(text.lower(), text))


def good_weather(tables, path, table: pd.DataFrame, variables: list[str], key: list[str]) -> pd.DataFrame:
    """`table` without rows that no weather could be, and without repeats of `key`."""
    table = as_numbers(tables, path, table, variables)
    for name in variables:
        refuse_wrong_unit(path, name, table)
    for name in variables:
        unit, low, high = expected(name)
        outside = (table[name] < low) | (table[name] > high)
        reason = f"{name} {{{name}:g}} {unit} is outside {low:g}..{high:g}"
        table = leave_out(tables, path, table, outside, reason)
    low, high = "temperature_2m_min", "temperature_2m_max"
    if low in table and high in table:
        reason = f"{low} {{{low}:g}} is above {high} {{{high}:g}}"
        table = leave_out(tables, path, table, table[low] > table[high], reason)
    return without_repeats(tables, path, table, key, variables)


def refuse_wrong_unit(path: Path, name: str, table: pd.DataFrame) -> None:
    """BadInput for a whole column that looks like Kelvin, Fahrenheit, a fraction or metres."""
    unit, low, high = expected(name)
    values = table[name].dropna()
    if len(values) < 3:
        return
    looks = ""
    if unit == "°C":
        hot, middle = int((values > high).sum()), values.median()
        in_celsius = (values.quantile([0.01, 0.99]) - 32) / 1.8
        snowing = table["snowfall_sum"] > 0 if "snowfall_sum" in table else pd.Series(False, table.index)
        under_snow = table[name][snowing].dropna()
        if middle > 150:
            looks = f"Kelvin (median {middle:g})"
        elif hot >= max(3, 0.01 * len(values)) and in_celsius.between(low, high).all():
            looks = f"Fahrenheit ({hot} of {len(values)} values over {high:g})"
        elif name.endswith("_min") and len(under_snow) >= 10 and under_snow.median() > 10:
            looks = f"Fahrenheit (median {under_snow.median():g} on {len(under_snow)} days of snowfall)"
    elif unit == "%" and len(values) >= 10 and 0 < values.max() <= 1:
        looks = f"a fraction (largest {values.max():g})"
    elif name in ("precipitation_sum", "rain_sum") and values.max() < 1 and (wet := (values > 0).sum()) >= 60:
        looks = f"metres (largest {values.max():g} on {wet} wet days)"
    if looks:
        raise BadInput(f"{path}: column {name} looks like {looks}, expected {unit}; convert it.")


def note_time_zones(tables: Tables, path: Path, about: dict) -> None:
    """Which days the daily values are of, and a warning where they are not the site's own."""
    tables.places = {str(site): dict(more) for site, more in about.get("sites", {}).items()}
    common, zones = about.get("timezone"), {}
    for site, more in tables.places.items():
        zones.setdefault(str(more.get("timezone") or common or UNKNOWN), []).append(site)
    zones = zones or {str(common or UNKNOWN): []}
    if len(zones) > 1:
        each = ", ".join(f"{zone} ({len(sites)} sites)" for zone, sites in sorted(zones.items()))
        tables.notes.append(f"Warning: the sites' daily weather is of days of different time zones: {each}.")
    elif UNKNOWN in zones:
        tables.notes.append(f"{path.name}: the time zone of its days is not stated.")
    else:
        tables.notes.append(f"{path.name}: its days are those of time zone {next(iter(zones))}.")
    far = []
    for zone in UTC:
        for site in zones.get(zone, ()):
            longitude = float(tables.places[site].get("longitude", 0))
            if abs(longitude) / 15 > FAR_HOURS:
                far.append(f"{site or 'its place'} ({longitude / 15:+.1f} h)")
    if far:
        tables.notes.append(
            f"Warning: days are UTC days, yet the sun's day differs by more than {FAR_HOURS} h at "
            f"{len(far)} site(s): {', '.join(far[:5])}; ask for weather in local time."
        )


def without_empty(tables: Tables, path: Path, table: pd.DataFrame, variables: list[str]) -> list[str]:
    """The variables that hold anything; the others are named and left out."""
    empty = [name for name in variables if not table[name].notna().any()]
    if empty:
        tables.notes.append(f"Warning: {path.name}: left out {', '.join(empty)}: all values are missing.")
    return [name for name in variables if name not in empty]
