"""Same-track references: mean backscatter of a track over dates chosen by calendar or warmth, never by label.

A season counts by the year it belongs to: in the north the calendar year; in the south a year runs from July
to June and is named by its end, so that January 2021 there is what July 2021 is in the north. A reference
<orbit>_<rule>_before-<YYYY>.tif averages dates of seasons before YYYY alone; <orbit>_<rule>.tif averages all.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import degree_days, rasters, sar, scenes
from data_prep.runs import BadInput, say

ALL_YEARS = 9999  # as the year before which a reference takes its dates
BLOCK = 1024
WARM_C, WARM_DAYS = 8.0, 30  # a choice: air so mild for a month has melted the snow of its own elevation


@dataclass(frozen=True)
class Rule:
    """Northern months of the dates to average, and the month after which the season counts as past.

    `warm` waits for the year's end: 60 days lie between its last date and the first scene that may use it.
    """

    months: tuple[int, ...]
    past_after: int


RULES = {
    "summer": Rule((7, 8, 9), 9),  # the ground at its barest
    "warm": Rule((5, 6, 7, 8, 9, 10), 12),  # of these, dates after a month of at least WARM_C
}


def northern(date: str, latitude: float) -> tuple[int, int]:
    """(year, month) by which a date's season counts: six months later than the calendar in the south."""
    year, month = int(date[:4]), int(date[5:7])
    return (year, month) if latitude >= 0 else (year + (month >= 7), (month + 5) % 12 + 1)


def before(date: str, latitude: float, rule: str) -> int:
    """The first season that is not over by a date: a leak-free reference uses those before it."""
    year, month = northern(date, latitude)
    return year + (month > RULES[rule].past_after)


def name(orbit: str, rule: str, year: int | None = None) -> str:
    return f"{orbit}_{rule}.tif" if year is None else f"{orbit}_{rule}_before-{year}.tif"


def name_for(orbit: str, date: str, latitude: float, args) -> str:
    """The reference that curation makes for a scene of an orbit and date."""
    earlier = args.reference_years == "earlier"
    return name(orbit, args.reference, before(date, latitude, args.reference) if earlier else None)


def choose(folder: Path, orbit: str, date: str, latitude: float, kind=()) -> Path | None:
    """The reference in a folder for a scene: the latest that is over by its date, else one of all years.

    kind: (rule, years) to take no other than these, as a checkpoint was trained with.
    """
    rule, years = kind or (None, None)
    found, undated = [], []
    for path in sorted(folder.glob("*.tif")) if orbit else []:
        match = re.fullmatch(re.escape(orbit) + r"_([A-Za-z0-9-]+?)(?:_before-(\d{4}))?\.tif", path.name)
        if not match or rule not in (None, match[1]) or years == ("earlier" if match[2] is None else "all"):
            continue
        if match[2] is None:
            undated.append(path)
        elif match[1] in RULES and int(match[2]) <= before(date, latitude, match[1]):
            found.append((int(match[2]), path))
    return max(found)[1] if found else next(iter(undated), None)


# ---- making them -------------------------------------------------------------------------------------------


def reference_dates(found: list[scenes.Scene], latitude: float, args, weather: dict | None) -> dict:
    """{orbit: [(scene, raster), ...]} of the dates that the rule takes; scenes of unknown orbit give none."""
    groups: dict[str, list] = {}
    for scene in found:
        if northern(scene.date, latitude)[1] not in RULES[args.reference].months:
            continue
        try:
            if args.reference == "warm" and not is_warm(weather, scene.date):
                continue
        except BadInput as error:  # a date of unknown temperature is not taken
            say(f"{scene.path}: left out of the reference: {error}")
            continue
        try:
            raster = rasters.open_radar(scene.path, args.units, args.backscatter)
            if orbit := scenes.relative_orbit(raster, scene):
                groups.setdefault(orbit, []).append((scene, raster))
        except BadInput as error:
            if not args.skip_bad:
                raise
            say(f"left out of the reference: {error}")
    return groups


def is_warm(weather: dict, date: str) -> bool:
    """The month that ends with a date was mild where the site's weather was taken."""
    return degree_days.temperature(weather, date, WARM_DAYS, weather["elevation_m"]) >= WARM_C


def write_references(paths: dict[int, Path], group: list[tuple], latitude: float, rule: str) -> None:
    """Average a track's scenes in linear power, block by block, on the first's grid; VV_ref and VH_ref in dB.

    paths: by year, the file of the mean over the seasons before it. Each scene is read once for all of them.
    """
    first = group[0][1]
    for _, raster in group[1:]:
        if raster.tags["backscatter"] != first.tags["backscatter"]:
            raise BadInput(
                f"{raster.path}: backscatter {raster.tags['backscatter']}, but {first.path.name} of the same "
                f"track has {first.tags['backscatter']}; a reference needs one of them."
            )
    bands = [band for band in rasters.RADAR if all(band in raster.bands for _, raster in group)]
    rasters.need_bands(first, tuple(bands) or rasters.RADAR)
    season = {scene: northern(scene.date, latitude)[0] for scene, _ in group}
    with contextlib.ExitStack() as stack:
        targets = {}
        for year in sorted(paths):
            tags = {
                "units": "dB",
                "backscatter": first.tags["backscatter"],
                "product": first.tags.get("product"),
                "rule": rule,
                "years": "all" if year == ALL_YEARS else "earlier",
                "dates": ",".join(scene.date for scene, _ in group if season[scene] < year),
            }
            names = [f"{band}_ref" for band in bands]
            writer = rasters.window_writer(paths[year], first.grid, names, "float32", np.nan, **tags)
            targets[year] = stack.enter_context(writer)
        for row in range(0, first.grid.height, BLOCK):
            for col in range(0, first.grid.width, BLOCK):
                size = min(BLOCK, first.grid.height - row), min(BLOCK, first.grid.width - col)
                block, total, count = first.grid.window(row, col, *size), None, None
                rest = sorted(group, key=lambda item: (season[item[0]], item[0].path.name))
                for year, target in targets.items():
                    while rest and season[rest[0][0]] < year:
                        raster = rest.pop(0)[1]
                        values = rasters.read_on(raster, bands, block, "bilinear")
                        linear = sar.to_linear(values) if raster.units == "dB" else values
                        total, count = sar.running_mean(total, count, linear)
                    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
                    target.write(sar.to_db(mean), window=rasters.Window(col, row, size[1], size[0]))


def write_site(site: Path, args, weather: dict[str, dict]) -> None:
    """References of a site's tracks into <out>/ref/<site>/; those already there stay."""
    if args.reference == "warm" and site.name not in weather:
        raise BadInput(f"{args.weather}: has no site {site.name}; --reference warm needs its temperature.")
    latitude, found = scenes.read_site(site)["latitude"], scenes.list_scenes(site, "s1")
    folder = args.out / "ref" / site.name
    groups = reference_dates(found, latitude, args, weather.get(site.name))
    for orbit, group in groups.items():
        if args.reference_years == "earlier":
            first = min(northern(scene.date, latitude)[0] for scene, _ in group)
            years = {before(scene.date, latitude, args.reference) for scene in found}
            paths = {y: folder / name(orbit, args.reference, y) for y in years if y > first}
        else:
            paths = {ALL_YEARS: folder / name(orbit, args.reference)}
        paths = {year: path for year, path in paths.items() if not path.exists()}
        if paths:
            folder.mkdir(parents=True, exist_ok=True)
            write_references(paths, group, latitude, args.reference)
