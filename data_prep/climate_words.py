"""What variables, units and numbers are called in the figures and tables of the climate analysis."""

import math

NAMES = {
    "temperature_2m_max": "maximum temperature",
    "temperature_2m_min": "minimum temperature",
    "temperature_2m_mean": "mean temperature",
    "precipitation_sum": "precipitation",
    "rain_sum": "rain",
    "snowfall_sum": "snowfall",
    "relative_humidity_2m_mean": "relative humidity",
    "shortwave_radiation_sum": "shortwave radiation",
    "wind_speed_10m_max": "maximum wind",
}


def words(name: str) -> str:
    """What a variable or a lagged predictor is called in figures and tables."""
    base, sign, days = name.rpartition("_")
    if name in NAMES or not sign:
        return NAMES.get(name, name)
    if days.endswith("d") and days[:-1].isdigit():
        return f"{NAMES.get(base, base.replace('_', ' '))}, {days[:-1]} days"
    return name.replace("_", " ")


def unit_of(name: str, units: dict) -> str:
    """Unit of a variable or of a lagged predictor."""
    if name == "year":
        return "year"
    if name.startswith("degree_days"):
        return "K day"
    if name == "snowfall_since_october":
        return units.get("snowfall_sum", "")
    known = [variable for variable in units if name == variable or name.startswith(f"{variable}_")]
    return units[max(known, key=len)] if known else ""


def snow_words(tables) -> str:
    return "snow pixels" if tables.response == "snow_pixel_count" else "snow fraction"


def origin(tables) -> str:
    """ " (simulated data)" where any part of the data says so, for titles."""
    said = [str(place.get("source", "")) for place in tables.places.values()] + [
        getattr(tables, "about_weather", "")
    ]
    simulated = any("simulated" in text.lower() for text in said)
    return " (simulated data)" if simulated else ""


def with_units(table: str, rows: list[dict], tables, scale: str = "as-is") -> list[dict]:
    """The rows with the unit of their slope or coefficient; `scale` "logit" where snow was transformed."""
    snow, told = snow_words(tables), []
    if table == "vif":
        return rows
    if table == "regression" and scale == "logit":
        snow = f"logit of {snow}"
    for row in rows:
        if table in ("seasonal", "trends") or row.get("question") == "season":
            name = row.get("series", "snow")
            unit = f"{snow if name == 'snow' else unit_of(name, tables.units)} a decade"
        else:
            name = row.get("variable") or row.get("name") or ""
            unit = f"{snow} per {unit_of(name, tables.units)}"
        told.append({**row, "unit": unit})
    return told


def figure_of(value, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return "--"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def between(row: dict, middle: str, low: str, high: str, digits: int = 3) -> str:
    if row.get(middle) is None:
        return row.get("why_not", "--")
    return f"{figure_of(row[middle], digits)} [{figure_of(row[low], digits)}, {figure_of(row[high], digits)}]"


def as_label(text: str) -> str:
    """A name from a file for a legend, where a leading underscore would hide it."""
    return f" {text}" if text.startswith("_") else text
