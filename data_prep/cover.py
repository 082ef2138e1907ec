"""Snow cover from masks: valid and snow pixels, fraction, area by site and date, whole and by elevation."""

from pathlib import Path

import numpy as np

from data_prep.runs import write_csv
from data_prep.snow_index import NO_DATA

KEY = ("site", "date", "source", "relative_orbit")
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
        columns = (*KEY, "elevation_from_m", "elevation_to_m", *FIGURES)
        write_csv(out / "snow_cover_by_elevation.csv", columns, by_elevation)
