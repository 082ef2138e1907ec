"""Folders of snow masks made by anyone: what their codes mean, and which file belongs to which triplet."""

import datetime
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio

from data_prep import rasters
from data_prep.rasters import GDAL_ERRORS, Grid, Raster
from data_prep.runs import BadInput, say, walk
from data_prep.scenes import SAFE_NAME

DATE_IN_NAME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_]?)(\d\d)\2(\d\d)(?:[Tt_]?([01]\d[0-5]\d[0-5]\d|2[0-3][0-5]\d[0-5]\d))?(?!\d)"
)
DAY_OF_YEAR_IN_NAME = re.compile(r"(?<![0-9A-Za-z])A((?:19|20)\d\d\d{3})(?!\d)")  # MODIS: A2021010
CODES = re.compile(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")
ONE_PASS_S = (
    3600  # masks whose times differ by less belong to one pass; the next is an orbit, 1.6 hours, away
)
GDAL = {**rasters.GDAL, "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}  # sees a mask beside the file, as *.tif.msk


@dataclass
class Entry:
    """A raster of the folder: time HHMMSS or "", relative orbit, grid, WGS84 (west, south, east, north)."""

    path: Path
    time: str
    orbit: str
    grid: Grid
    bounds: tuple[float, float, float, float]


@dataclass
class MaskFolder:
    """One method's masks: where they lie, what their codes mean, and what was met so far."""

    name: str
    folder: Path
    snow: tuple = ((1, 1),)  # ranges of codes, both ends included
    snow_free: tuple = ((0, 0),)
    stated: tuple = ()  # ranges that were given, so that they win over the file's no-data tag
    layer: str = ""  # part of the names of the masks to take
    skip_bad: bool = False
    entries: dict[tuple[str, str], list[Entry]] | None = None  # by kind and date, made when first needed
    passed_over: Counter = field(default_factory=Counter)  # files that are no dated mask, by why
    bad: dict[Path, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)  # what a reader of the scores must know
    met: set = field(default_factory=set)  # 0, 1: the classes met so far
    unknown: set = field(default_factory=set)  # codes that are neither class nor the file's no data


def parse_codes(text: str, flag: str) -> tuple:
    """Ranges of "110", "50-100" or "1,2,5-7"."""
    parts = [CODES.fullmatch(part.strip()) for part in text.split(",")]
    if not all(parts):
        raise BadInput(f"{flag} {text}: expected codes such as 110, 1,2 or 50-100.")
    ranges = tuple((float(part[1]), float(part[2] or part[1])) for part in parts)
    if any(low > high for low, high in ranges):
        raise BadInput(f"{flag} {text}: a range goes from low to high.")
    return ranges


def choose(folders, snow, snow_free, layers=(), skip_bad: bool = False) -> list[MaskFolder]:
    """Methods of pairs (name or "", folder), checked; codes and layers: pairs (name or "" for all, text)."""
    found = []
    for name, path in folders:
        folder = Path(path)
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; --masks names folders of GeoTIFF masks.")
        name = name or folder.resolve().name
        if not SAFE_NAME.fullmatch(name):
            raise BadInput(
                f"--masks {path}: {name!r} may hold letters, digits, '.', '_', '-' only; use NAME=DIR."
            )
        if name in [other.name for other in found]:
            raise BadInput(f"--masks: two are named {name!r}; tell them apart with NAME=DIR.")
        found.append(MaskFolder(name, folder, skip_bad=skip_bad))
    for flag, pairs in (("--snow", snow), ("--snow-free", snow_free), ("--layer", layers)):
        for name, text in pairs:
            chosen = [masks for masks in found if name in ("", masks.name)]
            if not chosen:
                raise BadInput(f"{flag} {name}={text}: --masks names no {name!r}.")
            for masks in chosen:
                setattr(
                    masks, flag[2:].replace("-", "_"), text if flag == "--layer" else parse_codes(text, flag)
                )
                masks.stated += () if flag == "--layer" else parse_codes(text, flag)
    for masks in found:
        for low, high in masks.snow:
            if any(low <= other_high and other_low <= high for other_low, other_high in masks.snow_free):
                raise BadInput(
                    f"--snow and --snow-free of {masks.name} overlap; give both, one code in one of them."
                )
    return found


# ---- finding -----------------------------------------------------------------------------------------------


def open_header(path: Path) -> Raster:
    """Header of a GeoTIFF; anything else by that name (a VRT leads elsewhere) is a BadInput."""
    try:
        with rasterio.Env(**GDAL), rasterio.open(path, driver="GTiff") as source:
            grid = Grid(source.crs, source.transform, source.height, source.width)
            names = tuple(name or "" for name in source.descriptions)
            return Raster(Path(path), grid, names, source.nodata, source.tags(), source.dtypes[0])
    except GDAL_ERRORS as error:
        raise BadInput(f"{path}: not a readable GeoTIFF ({error}); fetch or write it again.") from None


def geographic_bounds(grid: Grid) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees, west > east across the antimeridian; everywhere if not finite."""
    bounds = grid.geographic_bounds()
    return bounds if np.isfinite(bounds).all() else (-180, -90, 180, 90)


def overlap(one, other) -> bool:
    """Do two boxes (west, south, east, north) share more than an edge?"""

    def spans(west, south, east, north):
        return [(west, east)] if west <= east else [(west, 180), (-180, east)]

    across = any(a[0] < b[1] and b[0] < a[1] for a in spans(*one) for b in spans(*other))
    return across and one[1] < other[3] and other[1] < one[3]


def leave_out(masks: MaskFolder, path: Path, error: BadInput) -> None:
    """Note a damaged file once, under --skip-bad; else stop."""
    if not masks.skip_bad:
        raise BadInput(
            f"{str(error).rstrip('.')}. Mend it, or leave such masks out with --skip-bad."
        ) from None
    if path not in masks.bad:
        say(f"left out: {error}")
    masks.bad[path] = str(error)


def date_and_time(path: Path, tags: dict) -> tuple[str, str]:
    """YYYY-MM-DD and HHMMSS of the tag `date`, or else of the first date in the file's name; "" if none.

    A tag without a time takes that of the same date in the name.
    """
    found = []
    for match in DATE_IN_NAME.finditer(f"{tags.get('date', '').replace(':', '')} {path.stem}"):
        try:
            found.append((datetime.date(*map(int, match.group(1, 3, 4))).isoformat(), match[5] or ""))
        except ValueError:
            continue
    if not found and (match := DAY_OF_YEAR_IN_NAME.search(path.stem)):
        day = datetime.date(int(match[1][:4]), 1, 1) + datetime.timedelta(int(match[1][4:]) - 1)
        return (day.isoformat(), "") if day.year == int(match[1][:4]) else ("", "")
    if not found:
        return "", ""
    day = found[0][0]
    return day, next((time for date, time in found if date == day and time), "")


def entries_of(masks: MaskFolder) -> dict[tuple[str, str], list[Entry]]:
    """Every dated GeoTIFF under the folder by (kind, date), in order of name; headers are read once."""
    if masks.entries is not None:
        return masks.entries
    masks.entries = {}
    for path in sorted(walk(masks.folder)):
        kind = "probability" if "probability" in path.stem or path.parent.name == "probability" else "mask"
        if path.suffix.lower() not in (".tif", ".tiff") or path.name.startswith("."):
            masks.passed_over[path.suffix.lower() or "files without a suffix"] += 1
            continue
        if kind == "mask" and masks.layer not in path.name:
            masks.passed_over["GeoTIFFs of another layer"] += 1
            continue
        try:
            raster = open_header(path)
            date, time = date_and_time(path, raster.tags)
            if not date:
                masks.passed_over["GeoTIFFs without a date in name or tag"] += 1
                continue
            rasters.need_crs(raster)
            bounds = geographic_bounds(raster.grid)
        except BadInput as error:
            leave_out(masks, path, error)
            continue
        except GDAL_ERRORS as error:
            leave_out(masks, path, BadInput(f"{path}: its ground cannot be found ({error}); mend its CRS."))
            continue
        orbit = raster.tags.get("relative_orbit", "").lstrip("0")
        masks.entries.setdefault((kind, date), []).append(Entry(path, time, orbit, raster.grid, bounds))
    return masks.entries


def seconds(time: str) -> int:
    """Of the day, of HHMMSS."""
    return int(time[:2]) * 3600 + int(time[2:4]) * 60 + int(time[4:])


def of_one_pass(masks: MaskFolder, entries: list[Entry], date: str) -> list[Entry]:
    """Those of a day's entries that belong to the pass at `date` (YYYY-MM-DD[THHMMSS]).

    Within an hour of its time, else those without a time, else all if they are of one pass. Several passes of
    which none is the one sought, or two rasters of one time and grid (layers of a product), are a BadInput.
    """
    timed = [entry for entry in entries if entry.time]
    if at := date[11:17]:
        near = [entry for entry in timed if abs(seconds(entry.time) - seconds(at)) <= ONE_PASS_S]
        entries = near or [entry for entry in entries if not entry.time] or timed
    timed = sorted((entry for entry in entries if entry.time), key=lambda entry: entry.time)
    tracks = sorted({entry.orbit: entry for entry in entries if entry.orbit}.items())
    passes = [entry for _, entry in tracks[:2]] if len(tracks) > 1 else timed[:: max(1, len(timed) - 1)]
    if len(tracks) > 1 or (timed and seconds(timed[-1].time) - seconds(timed[0].time) > ONE_PASS_S):
        raise BadInput(
            f"{masks.folder}: {passes[0].path.name} and {passes[1].path.name} are of one day but two passes, "
            f"and which belongs to {date} cannot be told; keep one pass in the folder."
        )
    seen = {}
    for entry in entries:
        twin = seen.setdefault((entry.time, entry.grid), entry)
        if twin is not entry:
            names = f"{twin.path.name} and {entry.path.name}"
            raise BadInput(
                f"{masks.folder}: {names} are of one time and ground; choose a product's layer by a part of "
                "its name, --layer [NAME=]TEXT, or keep one of the two."
            )
    return entries


def by_date(masks: MaskFolder, kind: str, date: str, orbit: str, bounds) -> list[Path]:
    """Rasters of the pass at `date` (YYYY-MM-DD[THHMMSS]) whose ground overlaps the bounds, in order of name.

    A raster tagged with another relative orbit is another pass.
    """
    found = [
        entry
        for entry in entries_of(masks).get((kind, date[:10]), [])
        if (not orbit or not entry.orbit or entry.orbit == orbit.lstrip("0"))
        and overlap(entry.bounds, bounds)
    ]
    return [entry.path for entry in of_one_pass(masks, found, date)]


def what_lies(masks: MaskFolder) -> str:
    """What a folder holds, for when nothing of it could be used."""
    entries = entries_of(masks)
    counts = Counter(masks.passed_over)
    for kind, date in entries:
        counts[f"dated GeoTIFFs ({kind})"] += len(entries[kind, date])
    if masks.bad:
        counts["damaged ones"] = len(masks.bad)
    days = sorted(date for _, date in entries)
    span = f" from {days[0]} to {days[-1]}" if days else ""
    return (", ".join(f"{count} {what}" for what, count in counts.most_common(6)) or "nothing") + span


def by_id(masks: MaskFolder, row: dict, kind: str) -> list[Path]:
    """<id>.tif or .png of a triplet in the folder or its mask/, or <id>.tif in its probability/."""
    folders, ends = [masks.folder / kind], (".tif",)
    if kind == "mask":
        folders, ends = [masks.folder, *folders], (".tif", ".png")
    paths = (folder / f"{row['id']}{end}" for folder in folders for end in ends)
    return [path for path in paths if path.is_file()][:1]


def find(masks: MaskFolder, row: dict, kind: str = "mask") -> list[Path]:
    """A triplet's rasters: the one named by its id, else those of its date and ground."""
    found = by_id(masks, row, kind)
    date = row.get("s1_date") or row.get("date") or ""
    if found or row["sar"].suffix == ".png" or not date or (kind != "mask" and by_id(masks, row, "mask")):
        return found
    bounds = geographic_bounds(rasters.open_header(row["sar"]).grid)
    return by_date(masks, kind, date, row["relative_orbit"], bounds)


def has_probabilities(masks: MaskFolder, rows: list[dict]) -> bool:
    """Is there a probability for any of the triplets?"""
    for row in rows:
        try:
            if find(masks, row, "probability"):
                return True
        except BadInput:
            continue  # said when it is read
    return False
