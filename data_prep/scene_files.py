"""One file of a site, from remote pixels to a written raster and its record."""

import hashlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep import rasters, sar
from data_prep.passes import Plan
from data_prep.rasters import Grid
from data_prep.remote import BadFile, Connection, without_query
from data_prep.remote_file import RemoteFile
from data_prep.remote_pixels import read_on
from data_prep.runs import BadInput

BLOCK_PX = 512  # of the sources' COGs, for the estimate of what is moved
BYTES = {"s1": 4, "s2": 2, "dem": 4, "landcover": 1}  # of a pixel's band on disk
WINDOW_PX = 2048  # of a file at once, a multiple of the blocks that rasters.write makes
JUDGED = 1000  # values under which the units of radar are not judged: a sliver may be all city, or all shadow
SAMPLE = 10_000  # values of a window that are judged


def estimate(plans: list[Plan], grids: dict[str, Grid]) -> tuple[int, int]:
    """(bytes on disk at most, bytes to move about): pixels unpacked, and the blocks around the window."""
    disk = moved = 0
    for plan in plans:
        grid = grids[plan.site]
        disk += grid.height * grid.width * len(plan.bands) * BYTES[plan.kind]
        touched = (grid.height + BLOCK_PX) * (grid.width + BLOCK_PX)
        moved += touched * BYTES[plan.kind] * len(plan.bands)
    return disk, moved


# ---- one file ----------------------------------------------------------------------------------------------


class NotWanted(Exception):
    """A pass without data at the site, or of the other orbit: what was written of its file is dropped."""


class BadUnits(BadFile):
    """Radar whose values cannot be in the units that the catalogue states."""


@dataclass
class Reading:
    """What the windows of a file have shown so far."""

    remotes: dict[tuple[str, int], RemoteFile]  # by band and number of its source
    tags: dict
    used: dict[tuple[str, int], str] = field(default_factory=dict)  # how a source's pixels were made
    lost: dict[str, str] = field(default_factory=dict)  # item that cannot be read -> why
    holes: bool = False  # whether pixels are missing where a lost item might have had some
    samples: list[np.ndarray] = field(default_factory=list)  # of radar's values
    found: bool = False


def bring(plan: Plan, grid: Grid, out: Path, connection: Connection, skip_bad: bool = False) -> dict:
    """Read, mosaic and write one file window by window; its record for downloads.jsonl.

    A pass without data, or of an orbit state that was not asked for, leaves a record but no file. A source
    that cannot be read is done without where others fill the window; where they do not, it is a BadFile, or
    with `skip_bad` a file with holes whose tag missing_items says so. Memory depends on WINDOW_PX alone.
    """
    began, path = time.time(), out / plan.path
    remotes = {
        (band, number): RemoteFile(connection, source.url, plan.section)
        for band, sources in plan.bands.items()
        for number, source in enumerate(sources)
    }
    reading = Reading(remotes, dict(plan.tags))
    dtype, nodata = {"s2": (np.uint16, 0), "landcover": (np.uint8, 0)}.get(plan.kind, (np.float32, np.nan))
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"file": plan.path, "planned": planned(plan, grid)}
    try:
        with rasters.window_writer(path, grid, tuple(plan.bands), np.dtype(dtype).name, nodata) as target:
            for row in range(0, grid.height, WINDOW_PX):
                for col in range(0, grid.width, WINDOW_PX):
                    box = (row, col, min(WINDOW_PX, grid.height - row), min(WINDOW_PX, grid.width - col))
                    stack = read_mosaic(plan, grid.window(*box), reading)
                    need_orbit_state(plan, reading)
                    if reading.holes and not skip_bad:
                        raise BadFile("; ".join(reading.lost.values()))
                    look_at(plan, stack, reading)
                    stack = np.nan_to_num(stack.round(), nan=0) if nodata == 0 else stack
                    target.write(stack.astype(dtype), window=rasters.as_window(box))
            if not reading.found:
                raise BadFile("; ".join(reading.lost.values())) if reading.lost else NotWanted()
            need_units(plan, grid, reading)
            tags = {key: str(value) for key, value in final_tags(plan, reading).items()}
            target.update_tags(**{key: value for key, value in tags.items() if value})
    except NotWanted:
        if plan.kind == "dem":
            raise BadInput(
                f"site {plan.site}: its elevation is zero or missing everywhere, it lies at sea."
            ) from None
        path.unlink(missing_ok=True)  # of an earlier plan
        record["empty"] = True
    else:
        record |= {"sha256": sha256(path), "bytes": path.stat().st_size}
    if reading.holes:
        record["missing_items"] = sorted(reading.lost)
    record["sources"] = [
        {
            "url": without_query(source.url), "item": source.item, "asset": source.asset, "band": band,
            "etag": remotes[band, number].etag, "bytes": remotes[band, number].read_bytes,
        }
        for band, sources in plan.bands.items()
        for number, source in enumerate(sources)
        if remotes[band, number].read_bytes
    ]  # fmt: skip
    return {**record, "seconds": time.time() - began, "at": time.time()}


def read_mosaic(plan: Plan, grid: Grid, reading: Reading) -> np.ndarray:
    """float32 (bands, H, W), NaN without data: bands of the same items together, angle layers apart."""
    together = defaultdict(list)
    for band, sources in plan.bands.items():
        together[tuple(source.item for source in sources)].append(band)
    return np.concatenate([read_bands(plan, bands, grid, reading) for bands in together.values()])


def read_bands(plan: Plan, bands: list[str], grid: Grid, reading: Reading) -> np.ndarray:
    """float32 (bands, H, W). All bands of a pixel are of one source: a mixture was never measured.

    It is the first source that has them all, else the first that has any.
    """
    stack = np.full((len(bands), grid.height, grid.width), np.nan, np.float32)
    parts, lost = [], False  # (source's number, where it has some bands, their values there)
    for number, source in enumerate(plan.bands[bands[0]]):
        try:
            if source.item not in reading.lost:
                values, how = read_source(plan, bands, number, grid, reading)
        except BadFile as error:
            reading.lost[source.item] = str(error)
        if source.item in reading.lost:
            lost = True
            continue
        seen, open_still = ~np.isnan(values), np.isnan(stack).all(axis=0)
        whole = seen.all(axis=0) & open_still
        stack[:, whole] = values[:, whole]
        if whole.any():
            reading.used |= how
        some = seen.any(axis=0) & open_still & ~whole
        parts.append((how, some, values[:, some]))
        if not np.isnan(stack).any():
            return stack
    for how, some, values in parts:
        fill = some & np.isnan(stack).all(axis=0)
        stack[:, fill] = values[:, fill[some]]
        if fill.any():
            reading.used |= how
    reading.holes |= lost
    return stack


def read_source(plan: Plan, bands: list[str], number: int, grid: Grid, reading: Reading):
    """(float32 (bands, H, W) of one source, how the pixels of each band were made)."""
    stack, how = np.empty((len(bands), grid.height, grid.width), np.float32), {}
    for row, band in enumerate(bands):
        remote, kind = reading.remotes[band, number], resampling_kind(plan, band)
        stack[row], how[band, number], file_tags = read_on(remote, grid, kind, plan.section.get("nodata"))
        stack[row] += np.float32(plan.bands[band][number].offset)
        if plan.kind == "s2" and band != "SCL":
            stack[row] = np.maximum(stack[row], 1)  # zero means no data; the darkest reflectance is 0.0001
        for tag, name in plan.section.get("file_tags", {}).items():
            reading.tags[tag] = reading.tags.get(tag) or file_tags.get(name, "").lower()
    return stack, how


def resampling_kind(plan: Plan, band: str) -> str:
    if band in ("SCL", "landcover"):
        return "class"
    if band in ("VV", "VH"):
        return "dB" if plan.section["units"] == "dB" else "power"
    return "level"


def look_at(plan: Plan, stack: np.ndarray, reading: Reading) -> None:
    """Note whether a window holds anything, and some of radar's values."""
    measured = stack[[band not in rasters.ANGLES for band in plan.bands]]
    values = measured[np.isfinite(measured)]
    reading.found |= bool(values.any() if plan.kind == "dem" else values.size)
    if plan.kind == "s1":
        reading.samples.append(values[:: max(1, values.size // SAMPLE)])


def need_units(plan: Plan, grid: Grid, reading: Reading) -> None:
    """BadUnits where the values of a whole radar file, unless they are few, are not in the stated units."""
    if plan.kind != "s1":
        return
    values = np.concatenate(reading.samples)
    problem = sar.unit_problem(values, plan.section["units"])
    if problem and values.size >= min(JUDGED, grid.height * grid.width):
        raise BadUnits(problem)


def need_orbit_state(plan: Plan, reading: Reading) -> None:
    """Where only the file tells its orbit state: NotWanted for another than was asked for."""
    if not plan.orbit_state or len(reading.lost) == len(plan.bands["VV"]):
        return
    state = reading.tags.get("orbit_state")
    if not state:
        raise BadFile(
            f"neither the items of {plan.section['collection']} nor their files tell the orbit state; "
            "leave --orbit-state out"
        )
    if state != plan.orbit_state:
        raise NotWanted()


def final_tags(plan: Plan, reading: Reading) -> dict:
    """Tags of a file, with what is told by the sources that were used."""
    bands = defaultdict(list)
    for (band, _), method in reading.used.items():
        bands[method].append(band)
    words = [f"{' '.join(dict.fromkeys(found))}: {method}" for method, found in bands.items()]
    tags = {**reading.tags, "resampling": "; ".join(words)}
    if plan.kind == "s2":
        used = [plan.bands[band][number] for band, number in reading.used if band != "SCL"]
        tags["source_offset"] = " ".join(f"{offset:g}" for offset in sorted({one.offset for one in used}))
        tags["processing_baseline"] = " ".join(sorted({one.baseline for one in used}))
    if reading.holes:
        tags["missing_items"] = " ".join(sorted(reading.lost))
    return tags


def planned(plan: Plan, grid: Grid) -> str:
    """A digest of what the file is made of: when it changes, the file is made anew."""
    wanted = [
        [b, s.item, without_query(s.url), s.offset, s.baseline]
        for b, found in plan.bands.items()
        for s in found
    ]
    reading = {key: plan.section.get(key) for key in ("units", "nodata", "file_tags")}
    told = [wanted, reading, plan.tags, plan.orbit_state, str(grid)]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
