"""Snow depth measured at stations: a table of site, date, latitude, longitude and depth in a stated unit."""

import csv
import datetime
import math
from pathlib import Path

from data_prep.runs import BadInput

TO_METRES = {"depth_m": 1.0, "depth_cm": 0.01}
DEEPEST_M = 15.0  # the deepest snow on record is 11.82 m, Mount Ibuki, Japan, 1927


def read(path: Path) -> tuple[list[dict], int]:
    """Rows {site, date, latitude, longitude, depth_m} in order of site, date, place, and how many had none.

    Columns site, date (YYYY-MM-DD), latitude, longitude (WGS84 degrees) and depth_m or depth_cm; further
    columns are ignored, rows with an empty or NaN depth are left out and counted.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            lines, columns = list(reader), set(reader.fieldnames or ())
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a readable CSV file ({error}).") from None
    missing = {"site", "date", "latitude", "longitude"} - columns
    if missing:
        raise BadInput(
            f"{path}: column {', '.join(sorted(missing))} missing; a table of stations has site, date, "
            "latitude, longitude and depth_m or depth_cm."
        )
    units = [name for name in TO_METRES if name in columns]
    if len(units) != 1:
        found = "a column 'depth' without unit" if "depth" in columns else f"{len(units)} columns of depth"
        raise BadInput(f"{path}: {found}; name one column depth_m or depth_cm, so that its unit is known.")
    rows, empty = [], 0
    for number, line in enumerate(lines, 2):
        try:
            if not (line[units[0]] or "").strip() or math.isnan(float(line[units[0]])):
                empty += 1
                continue
            row = {
                "site": line["site"],
                "date": datetime.date.fromisoformat(line["date"].strip()).isoformat(),
                "latitude": float(line["latitude"]),
                "longitude": float(line["longitude"]),
                "depth_m": round(float(line[units[0]]) * TO_METRES[units[0]], 6),  # 7 cm are 0.07 m
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: line {number}: {error}; expected a date and numbers.") from None
        if not row["site"] or not (abs(row["latitude"]) <= 90 and abs(row["longitude"]) <= 180):
            raise BadInput(f"{path}: line {number}: needs a site, and latitude and longitude in degrees.")
        if not 0 <= row["depth_m"] <= DEEPEST_M:
            raise BadInput(
                f"{path}: line {number}: {line[units[0]]} in {units[0]} is {row['depth_m']:g} m of snow, "
                f"expected 0 to {DEEPEST_M:g} m; is the unit right?"
            )
        rows.append(row)
    if not rows:
        raise BadInput(f"{path}: holds no snow depth.")
    return sorted(rows, key=lambda r: (r["site"], r["date"], r["latitude"], r["longitude"])), empty
