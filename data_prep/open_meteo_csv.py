"""Open-Meteo's own CSV download of one place, as the answer that its archive would have given.

Needs runs.py, tables.py, open_meteo.py and weather_tables.py beside it. Values stay the text of the file.
"""

import csv
import math
import re
from pathlib import Path

from data_prep.open_meteo import Answer, days_of, is_number
from data_prep.runs import BadInput
from data_prep.weather_tables import expected, read_table_head, spell

FAR_KM = (
    40  # a cell of ERA5 is 0.25 degrees wide (Hersbach 2020): its centre is at most 20 km away; twice that
)


def sites_of(words: list[str], sites: list) -> dict[str, Path]:
    """The file of each site that --import names: SITE=FILE, or a file that is named like its site."""
    names, found = {site.name for site in sites}, {}
    for word in words:
        name, path = word.split("=", 1) if word.split("=", 1)[0] in names and "=" in word else ("", word)
        path = Path(path)
        name = name or path.stem
        if name not in names:
            raise BadInput(f"--import {word}: no site is called {name}; say whose it is: SITE={path.name}.")
        if name in found:
            raise BadInput(f"--import {word}: site {name} has {found[name]} already; name one file a site.")
        found[name] = path
    return found


def variables_of(path: Path) -> dict[str, tuple[int, str]]:
    """Column and unit of each variable of a download; BadInput for a file that is none."""
    names = table_of(path)[0]
    match = {place: re.fullmatch(r"(\w+)\s*\((.+)\)", name) for place, name in enumerate(names)}
    found = {}
    for place, name in enumerate(names):
        if name != "time":
            plain, unit = (match[place][1], match[place][2]) if match[place] else (name, "")
            if plain in found:
                raise BadInput(f"{path}: two columns of {plain}; download it for one place and one model.")
            found[plain] = (place, unit)
    return found


def table_of(path: Path) -> list[list[str]]:
    """Header and rows of the table below the place and an empty line."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.reader(stream, strict=True))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a readable CSV file ({error}).") from None
    head = next((place for place, line in enumerate(lines[:12]) if line[:1] == ["time"]), None)
    if head is None or lines[0][:2] != ["latitude", "longitude"]:
        raise BadInput(
            f"{path}: expected Open-Meteo's CSV of one place (latitude,longitude,... then time,...); found "
            f"{', '.join(lines[0][:4]) if lines else 'an empty file'}."
        )
    return lines[head:]


def read(path: Path, site, variables) -> Answer:
    """The days of `site` and those of `variables` that the file has; days it lacks are missing."""
    head = read_table_head(path)
    place = head["sites"][""]
    for name in ("latitude", "longitude", "elevation"):
        if name not in place:
            raise BadInput(f"{path}: line 2 has no {name}; expected it from Open-Meteo's CSV.")
    away = distance_km(site.latitude, site.longitude, place["latitude"], place["longitude"])
    if not away <= FAR_KM:
        raise BadInput(
            f"{path}: is of {place['latitude']:g}, {place['longitude']:g}, {away:.0f} km "
            f"from site {site.name}; import the right file, or mend the site's coordinates."
        )
    wanted = {name: where for name, where in variables_of(path).items() if name in variables}
    for name, (_, unit) in wanted.items():
        right = expected(name)
        if right and spell(unit) != right[0]:
            raise BadInput(
                f"{path}: {name} is in {unit or 'no unit'}, expected {right[0]}; download it again in "
                "Open-Meteo's default units."
            )
    (header, *rows), values = table_of(path), {}
    for number, row in enumerate(rows, 1):
        if not any(row):
            continue
        if len(row) != len(header) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", row[0]):
            raise BadInput(
                f"{path}: row {number} of its table begins with {row[0]!r}, expected a day YYYY-MM-DD and "
                f"{len(header)} fields; download daily values."
            )
        if row[0] in values:
            raise BadInput(f"{path}: {row[0]} stands twice; download it again.")
        values[row[0]] = row
    days = days_of(site)
    if not any(day in values for day in days):
        raise BadInput(f"{path}: has no day of {days[0]} to {days[-1]}, which site {site.name} asks for.")
    columns = {}
    for name, (place_in_row, _) in wanted.items():
        texts = [values[day][place_in_row].strip() if day in values else "" for day in days]
        columns[name] = [None if text in ("", "NaN", "nan", "null") else text for text in texts]
        for day, text in zip(days, columns[name], strict=True):
            if text is not None and expected(name) and not is_number(text):
                raise BadInput(f"{path}: {name} {text!r} on {day} is no number.")
    about = {
        "timezone": head.get("timezone", "not stated"),
        "grid_latitude": place["latitude"],
        "grid_longitude": place["longitude"],
        "imported": path.name,
    }
    units = {name: expected(name)[0] if expected(name) else unit for name, (_, unit) in wanted.items()}
    return Answer(days, columns, units, place["elevation"], about)


def distance_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Great circle (haversine) on a sphere of 6371 km."""
    a, b = math.radians(latitude), math.radians(other_latitude)
    half = math.radians(other_longitude - longitude) / 2
    chord = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(half) ** 2
    return 2 * 6371 * math.asin(min(1.0, math.sqrt(chord)))
