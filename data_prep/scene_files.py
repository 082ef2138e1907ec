"""One file of a site, from remote pixels to a written raster and its record; the records of all files."""

import contextlib
import hashlib
import json
import time
from pathlib import Path

import numpy as np

from data_prep import rasters, runs, sar
from data_prep.passes import Plan
from data_prep.rasters import Grid
from data_prep.remote import Connection, RemoteFile, without_query
from data_prep.remote_pixels import read_on
from data_prep.runs import BadInput

BLOCK_PX = 512  # of the sources' COGs, for the estimate of what is moved
BYTES = {"s1": 4, "s2": 2, "dem": 4, "landcover": 1}  # of a pixel's band on disk
WINDOW_PX = 2048  # of a file at once, a multiple of the blocks that rasters.write makes


def estimate(plans: list[Plan], grids: dict[str, Grid]) -> tuple[int, int]:
    """(bytes on disk at most, bytes to move about): pixels unpacked, and the blocks around the window."""
    disk = moved = 0
    for plan in plans:
        grid = grids[plan.site]
        disk += grid.height * grid.width * len(plan.bands) * BYTES[plan.kind]
        touched = (grid.height + BLOCK_PX) * (grid.width + BLOCK_PX)
        moved += touched * BYTES[plan.kind] * len(plan.bands)
    return disk, moved


class Empty(Exception):
    """A pass without data at the site: what was written of its file is dropped."""


def bring(plan: Plan, grid: Grid, out: Path, connection: Connection) -> dict:
    """Read, mosaic and write one file window by window; its record for downloads.jsonl.

    A pass without data leaves a record but no file. Memory depends on WINDOW_PX, not on the site.
    """
    began, path = time.time(), out / plan.path
    remotes = {
        (band, number): RemoteFile(connection, source.url, plan.section)
        for band, sources in plan.bands.items()
        for number, source in enumerate(sources)
    }
    dtype, nodata = {"s2": (np.uint16, 0), "landcover": (np.uint8, 0)}.get(plan.kind, (np.float32, np.nan))
    path.parent.mkdir(parents=True, exist_ok=True)
    tags, how, found = dict(plan.tags), {}, False
    record = {"file": plan.path, "planned": planned(plan, grid)}
    try:
        with rasters.window_writer(path, grid, tuple(plan.bands), np.dtype(dtype).name, nodata) as target:
            for row in range(0, grid.height, WINDOW_PX):
                for col in range(0, grid.width, WINDOW_PX):
                    box = (row, col, min(WINDOW_PX, grid.height - row), min(WINDOW_PX, grid.width - col))
                    stack = read_mosaic(plan, grid.window(*box), remotes, tags, how)
                    found |= has_data(plan, stack)
                    stack = np.nan_to_num(stack.round(), nan=0) if nodata == 0 else stack
                    target.write(stack.astype(dtype), window=rasters.as_window(box))
            if not found:
                raise Empty()
            words = [f"{' '.join(dict.fromkeys(bands))}: {method}" for method, bands in how.items()]
            tags["resampling"] = "; ".join(words)
            target.update_tags(
                **{name: str(value) for name, value in tags.items() if value not in (None, "")}
            )
    except Empty:
        if plan.kind == "dem":
            raise BadInput(
                f"site {plan.site}: its elevation is zero or missing everywhere, it lies at sea."
            ) from None
        record["empty"] = True
    else:
        record |= {"sha256": sha256(path), "bytes": path.stat().st_size}
    record["sources"] = [
        {
            "url": without_query(source.url), "item": source.item, "asset": source.asset, "band": band,
            "etag": remotes[band, number].etag, "bytes": remotes[band, number].read_bytes,
        }
        for band, sources in plan.bands.items()
        for number, source in enumerate(sources)
        if remotes[band, number].read_bytes
    ]  # fmt: skip
    return {**record, "seconds": time.time() - began}


def read_mosaic(plan: Plan, grid: Grid, remotes: dict, tags: dict, how: dict) -> np.ndarray:
    """float32 (bands, H, W), NaN without data: the first source with data wins. Adds to `tags` and `how`."""
    planes = []
    for band, sources in plan.bands.items():
        plane = np.full((grid.height, grid.width), np.nan, np.float32)
        for number, source in enumerate(sources):
            nodata, kind = plan.section.get("nodata"), resampling_kind(plan, band)
            values, method, file_tags = read_on(remotes[band, number], grid, kind, nodata)
            values += np.float32(source.offset)
            if plan.kind == "s2" and band != "SCL":
                values = np.maximum(values, 1)  # zero means no data; the darkest reflectance is 0.0001
            fill = np.isnan(plane) & ~np.isnan(values)
            plane[fill] = values[fill]
            if fill.any():
                how.setdefault(method, []).append(band)
            for tag, name in plan.section.get("file_tags", {}).items():
                tags[tag] = tags.get(tag) or file_tags.get(name, "").lower()
            if not np.isnan(plane).any():
                break
        planes.append(plane)
    return np.stack(planes)


def has_data(plan: Plan, stack: np.ndarray) -> bool:
    """Whether a window holds anything; radar whose values are not in the stated units is a BadInput."""
    measured = stack[[band not in rasters.ANGLES for band in plan.bands]]
    if plan.kind == "s1" and (problem := sar.unit_problem(measured, plan.section["units"])):
        raise BadInput(
            f"{plan.path}: {problem}; the catalogue's [s1] must state what the values of "
            f"{plan.section['collection']} are."
        )
    if plan.kind == "dem":
        return bool(np.nan_to_num(measured).any())
    return not np.isnan(measured).all()


def resampling_kind(plan: Plan, band: str) -> str:
    if band in ("SCL", "landcover"):
        return "class"
    if band in ("VV", "VH"):
        return "dB" if plan.section["units"] == "dB" else "power"
    return "level"


def planned(plan: Plan, grid: Grid) -> str:
    """A digest of what the file is made of: when it changes, the file is made anew."""
    wanted = [[b, s.item, without_query(s.url), s.offset] for b, found in plan.bands.items() for s in found]
    return hashlib.sha256(
        json.dumps([wanted, plan.tags, str(grid)], sort_keys=True, default=str).encode()
    ).hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def held(out: Path, plans: list[Plan], grids: dict[str, Grid]) -> dict[str, dict]:
    """Records of files that are whole and still what is planned; downloads.jsonl keeps those alone."""
    path, records = out / "downloads.jsonl", {}
    wanted = {plan.path: planned(plan, grids[plan.site]) for plan in plans}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            file = out / record["file"]
            if wanted.get(record["file"]) != record["planned"]:
                continue
            if record.get("empty") or (file.is_file() and file.stat().st_size == record["bytes"]):
                records[record["file"]] = record
    runs.write_text(path, "".join(json.dumps(record) + "\n" for record in records.values()))
    return records
