"""Snow cover from masks: valid and snow pixels, fraction, area by site and date, whole and by elevation."""

import csv
import math
from pathlib import Path

import numpy as np

from data_prep.runs import BadInput, write_csv
from data_prep.snow_index import NO_DATA

KEY = ("site", "date", "source", "relative_orbit")
BAND = ("elevation_from_m", "elevation_to_m")
FIGURES = ("valid_pixels", "snow_pixels", "snow_fraction", "snow_area_km2")


def row(key: dict, valid: int, snow: int, pixel_km2: float, **more) -> dict:
    """One row of the table; the fraction is None where nothing is valid."""
    fraction = snow / valid if valid else None
    return {
        **key, **more, "valid_pixels": valid, "snow_pixels": snow, "snow_fraction": fraction,
        "snow_area_km2": snow * pixel_km2,
    }  # fmt: skip


def count(total: dict, mask: np.ndarray, elevation: np.ndarray | None, step_m: int) -> None:
    """Add a mask's (H, W) valid and snow pixels to total[None] and, by elevation, total[lower edge in m]."""
    valid, snow = mask != NO_DATA, mask == 1
    add(total, None, valid.sum(), snow.sum())
    if elevation is not None:
        known = valid & np.isfinite(elevation)
        lower = np.floor(elevation[known] / step_m).astype(np.int64) * step_m
        for edge, band in ((edge, lower == edge) for edge in np.unique(lower)):
            add(total, int(edge), band.sum(), snow[known][band].sum())


def add(total: dict, band: int | None, valid: int, snow: int) -> None:
    before = total.get(band, (0, 0))
    total[band] = before[0] + int(valid), before[1] + int(snow)


def rows(key: dict, total: dict, pixel_km2: float, step_m: int) -> tuple[dict, list[dict]]:
    """The row of the whole site and those of its elevation bands, lowest first."""
    bands = [
        row(key, *total[edge], pixel_km2, elevation_from_m=edge, elevation_to_m=edge + step_m)
        for edge in sorted(edge for edge in total if edge is not None)
    ]
    return row(key, *total[None], pixel_km2), bands


def write(out: Path, whole: list[dict], by_elevation: list[dict]) -> None:
    """snow_cover.csv by site, date and orbit, and snow_cover_by_elevation.csv where there is elevation."""
    whole = sorted(whole, key=lambda r: (r["site"], r["date"], str(r["relative_orbit"])))
    write_csv(out / "snow_cover.csv", (*KEY, *FIGURES), whole)
    if by_elevation:
        columns = (*KEY, *BAND, *FIGURES)
        write_csv(out / "snow_cover_by_elevation.csv", columns, by_elevation)


def read_rows(path: Path) -> list[dict]:
    """Rows of a snow cover table as `write` takes them; a line that is none is a BadInput."""
    banded = path.stem.endswith("_by_elevation")
    columns = (*KEY, *(BAND if banded else ()), *FIGURES)
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise BadInput(
                    f"{path}: column {', '.join(missing)} missing; was it written by infer_unet.py?"
                )
            for number, line in enumerate(reader, 2):
                rows.append(as_row(path, number, line, banded))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a readable CSV file ({error}).") from None
    return rows


def as_row(path: Path, number: int, line: dict, banded: bool) -> dict:
    """One line with its figures as numbers, whole ones where pixels are counted."""
    try:
        if None in line or None in line.values():
            raise ValueError("another number of fields than the header")
        row = {name: line[name] for name in KEY}
        row |= {name: int(line[name]) for name in ("valid_pixels", "snow_pixels", *(BAND if banded else ()))}
        row["snow_area_km2"] = float(line["snow_area_km2"])
        fine = 0 <= row["snow_pixels"] <= row["valid_pixels"] and 0 <= row["snow_area_km2"] < math.inf
        if not fine or not row["site"] or not row["source"]:
            raise ValueError("needs a site, a source, and no more snow than valid pixels")
    except ValueError as error:
        raise BadInput(f"{path}: line {number}: {error}; mend or write the table again.") from None
    row["snow_fraction"] = row["snow_pixels"] / row["valid_pixels"] if row["valid_pixels"] else None
    return row


def require_one_each(rows: list[tuple[str, dict]]) -> None:
    """No two rows of one site, date, source and orbit (and elevation band)."""
    seen = {}
    for where, row in rows:
        key = (*(row[name] for name in KEY), row.get(BAND[0]))
        if key in seen:
            here = where if seen[key] == where else f"{seen[key]} and {where}"
            raise BadInput(
                f"{here}: site {row['site']}, {row['date']}, source {row['source']}, orbit "
                f"{row['relative_orbit'] or '(none)'} stands twice; give one another source or leave it out."
            )
        seen[key] = where
