"""The section of a report on snow maps: a few dates of a few sites as pictures, and snow cover over time."""

import datetime
import os
from itertools import islice
from pathlib import Path

import numpy as np

from data_prep import climate_figures, pictures, rasters, report_images, report_run
from data_prep.report_blocks import heading, in_run, missing, short, some, stamps, table, text, unfinished
from data_prep.report_run import counted, number, of_kind, rows_of

MOST_SITES = 8  # with pictures
MOST_SERIES, MOST_DATES = 40, 600  # sites that can be browsed, and dates of one
MOST_FILES = 20_000  # of a site's folder that are looked at
SIDE = 256  # pixels of a picture's longer side
PREVIEW = 900  # pixels of a preview's width
UNSCALED = 50_000_000  # pixels of a map without overviews, above which it is not opened
END = "_mask.tif"


def section(run: dict) -> dict:
    """Maps of every step of infer_unet.py on scenes; series where no climate analysis shows them."""
    blocks, steps = [], of_kind(run, "map")
    if not steps:
        blocks.append(missing("No step of infer_unet.py on scenes: no snow maps."))
    for step in some(steps, blocks):
        blocks.append(heading(step))
        if not step["finished"]:
            blocks.append(unfinished(step))
        blocks += [*left_out(step, run), gallery(step), cover(step)]
    by_name = {step["name"]: step for step in run["steps"]}
    shown = {name for step in of_kind(run, "climate", "cover") for name in report_run.ancestors(step, by_name)
             if step["kind"] == "cover" or rows_of(step, "joined")}  # fmt: skip
    for step in some([s for s in of_kind(run, "map", "cover") if s["name"] not in shown], blocks):
        blocks.append(series(step))
    return {"id": "maps", "title": "Maps", "blocks": blocks}


def left_out(step: dict, run: dict) -> list[dict]:
    reasons = step["result"].get("left_out")
    if not isinstance(reasons, list) or not reasons:
        return []
    first = in_run(str(reasons[0])[:400], run).rstrip(".")
    verb = "was" if len(reasons) == 1 else "were"
    return [text(f"{counted(len(reasons), 'scene')} {verb} left out; the first: {first}.")]


def by_site(step: dict) -> dict[str, list[dict]]:
    """Rows of snow_cover.csv that name a date and a share of snow, by site, in order of date."""
    found = {}
    for row in rows_of(step, "snow_cover"):
        share = number(row, "snow_fraction")
        if is_date(row.get("date")) and share is not None:
            found.setdefault(row.get("site") or "?", []).append({**row, "share": share})
    return {site: sorted(rows, key=lambda row: row["date"]) for site, rows in sorted(found.items())}


def is_date(words: str | None) -> bool:
    try:
        return datetime.date.fromisoformat(words or "").isoformat() == words
    except ValueError:
        return False


def cover(step: dict) -> dict:
    """Snow cover of each site: how many dates, the least, the median and the most snow."""
    found = by_site(step)
    if not found:
        return missing(
            f"{step['name']}/snow_cover.csv is not there or holds no row: no snow cover over time."
        )
    rows = []
    for site, dates in found.items():
        shares = sorted(row["share"] for row in dates)
        middle = (shares[(len(shares) - 1) // 2] + shares[len(shares) // 2]) / 2
        rows.append([site, f"{len(dates):,}", dates[0]["date"], dates[-1]["date"],
                     *(f"{100 * value:.0f} %" for value in (shares[0], middle, shares[-1])),
                     short(max((number(row, "snow_area_km2") or 0) for row in dates))])  # fmt: skip
    columns = ["site", "dates", "first", "last", "least snow", "median", "most snow", "most snow (km²)"]
    caption = f"{step['name']}: snow on the valid ground of each mapped site; {step['data']}"
    return table(caption, columns, rows, step, file="snow_cover.csv")


# ---- pictures ----------------------------------------------------------------------------------------------


def gallery(step: dict) -> dict:
    """Maps of the dates with the least, the median and the most snow of some sites."""
    found, problems, rows = by_site(step), [], []
    folders = sorted(e.name for e in os.scandir(step["folder"]) if e.is_dir(follow_symlinks=False))
    there = [name for name in folders if name in found]
    for name in there[:: -(-len(there) // MOST_SITES)] if there else []:
        items = []
        for words, row, path in three(step["folder"] / name, found[name]):
            try:
                items.append(one_date(words, row, path))
            except report_images.NoPicture as error:
                problems.append(f"{path.name} {error}")
        if items:
            rows.append({"site": name, "items": items})
    if not rows:
        why = problems[0] if problems else f"no {END[1:]} lies beside its snow_cover.csv"
        return missing(f"{step['name']}: no map to show: {why}.")
    wide = any(item["preview"] for row in rows for item in row["items"])
    what = "radar, probability of snow and mask" if wide else "mask and probability of snow"
    which = "" if len(rows) == len(found) else f"{len(rows)} of "
    which += counted(len(found), "site")
    caption = f"{step['name']}: {what} of {which}, on the dates with the "
    caption += f"least, the median and the most snow; {step['data']}."
    if problems:
        caption += f" {counted(len(problems), 'map')} cannot be shown; the first: {problems[0]}."
    return {"kind": "gallery", "caption": caption, "rows": rows, "stamps": stamps(step), "wide": wide}


def three(folder: Path, rows: list[dict]) -> list[tuple[str, dict, Path]]:
    """(which, row, mask) of a site's dates with the least, the median and the most snow that have a mask."""
    names = (entry.name for entry in islice(os.scandir(folder), MOST_FILES) if entry.name.endswith(END))
    masks = {}
    for name in sorted(names):
        masks.setdefault(name[:10], []).append(name)
    found = []
    for row in rows:
        track = f"_{row.get('relative_orbit')}{END}"
        mine = masks.get(row["date"], [])
        mine = [name for name in mine if name.endswith(track)] or mine
        if mine:
            found.append((row, folder / mine[0]))
    found.sort(key=lambda pair: pair[0]["share"])
    places = {0: "least snow", len(found) - 1: "most snow", len(found) // 2: "median"}
    names = places if len(found) > 2 else dict.fromkeys(range(len(found)), "")
    return [(names[k], *found[k]) for k in sorted(names)]


def one_date(words: str, row: dict, mask: Path) -> dict:
    """A date's pictures: the preview where infer_unet.py --previews made one, else mask and probability."""
    scene = mask.name.removesuffix(END)
    preview, about = mask.with_name(f"{scene}_preview.png"), f"{row['date']}: {100 * row['share']:.0f} % snow"
    about += f" ({words})" if words else ""
    if preview.is_file():
        try:
            return {"about": about, "preview": True, "pictures": [report_images.figure(preview, PREVIEW)]}
        except report_images.NoPicture:  # the maps themselves may be whole
            pass
    shown = [report_images.small(pictures.mask_colours(read_small(mask)), None)]
    probability = mask.with_name(f"{scene}_probability.tif")
    if probability.is_file():
        values = read_small(probability)
        chance = np.where(values == 255, np.nan, values * rasters.PROBABILITY_SCALE)
        shown.append(report_images.small(report_images.probability_colours(chance), 70))
    return {"about": about, "preview": False, "pictures": shown}


def read_small(path: Path) -> np.ndarray:
    """uint8 (h, w) of a map, its longer side at most SIDE, from its overviews; NoPicture says why not."""
    import rasterio

    try:
        with rasterio.open(path, driver="GTiff") as source:
            smallest = max([1, *source.overviews(1)])
            if source.width * source.height / smallest**2 > UNSCALED:
                raise report_images.NoPicture(f"has {source.width} x {source.height} pixels and no overviews")
            if source.dtypes[0] != "uint8":
                raise report_images.NoPicture(f"holds {source.dtypes[0]}, expected uint8")
            scale = min(1, SIDE / max(source.width, source.height))
            size = [max(1, round(side * scale)) for side in (source.height, source.width)]
            return source.read(1, out_shape=tuple(size), resampling=rasterio.enums.Resampling.nearest)
    except (rasterio.errors.RasterioError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[-120:]
        raise report_images.NoPicture(f"cannot be read ({why})") from None


# ---- over time ---------------------------------------------------------------------------------------------


def thin(rows: list) -> list:
    return rows[:: -(-len(rows) // MOST_DATES)] if rows else []


def by_source(rows: list[dict]) -> dict[str, list]:
    """{source: [[date, share of snow]]} of a site's rows, of its first five sources."""
    found = {}
    for row in rows:
        found.setdefault(row.get("source") or "snow", []).append([row["date"], row["share"]])
    return {name: thin(pairs) for name, pairs in list(found.items())[:5]}


def series(step: dict) -> dict:
    """Snow cover over time, a site at a time, and all of them on paper."""
    found = by_site(step)
    if not found:
        return missing(
            f"{step['name']}/snow_cover.csv is not there or holds no row: no snow cover over time."
        )
    names = list(found)[:: -(-len(found) // MOST_SERIES)]
    data = {"sites": {name: {"snow": by_source(found[name]), "weather": []} for name in names},
            "weather": "", "unit": "", "response": "share of valid pixels that are snow"}  # fmt: skip
    counts = sum(len(rows) for rows in found.values())
    which = counted(len(found), "site") if len(names) == len(found) else f"{len(names)} of {len(found)} sites"
    caption = (
        f"{step['name']}: snow cover over time ({data['response']}); {which}, {counts:,} dates and places; "
    )
    caption += f"{step['data']}. No climate analysis of this run has it."
    lines = {name: tuple(zip(*thin([[row["date"], row["share"]] for row in found[name]]), strict=True))
             for name in names}  # fmt: skip
    fig = climate_figures.draw_over_time(lines, {}, "snow fraction", f"Snow cover of {step['name']}")
    fallback = {"kind": "figure", "caption": "Snow cover over time, all sites.", **report_images.drawn(fig)}
    return {"kind": "series", "caption": caption, "data": data, "stamps": stamps(step), "fallback": fallback}
