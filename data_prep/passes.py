"""From the items of a STAC API to the files of a site: passes, filters, offsets, names and tags.

Needs the standard library, and runs.py for its errors. A pass is what one satellite took in one overflight:
several frames, tiles or bursts, one file.
"""

import datetime
import fnmatch
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from data_prep.runs import BadInput

PASS_GAP_S = 600  # frames of one overflight lie seconds apart, overflights of a satellite 98 minutes
BASELINE_WITH_OFFSET = 4.0  # from 2022-01-25 (Sentinel-2 product specification, PSD 14.9)
SAFE_ORBIT = re.compile(r"[A-Za-z0-9-]{1,20}")
SAFE_LETTERS = re.compile(r"[^a-z0-9]+")


@dataclass
class Source:
    """One asset of one item: where it lies, what to add to its numbers, and the baseline that made them."""

    item: str
    asset: str
    url: str
    offset: float = 0
    baseline: str = ""


@dataclass
class Plan:
    """A file to make: for each band the sources to mosaic, the first with data first."""

    site: str
    path: str  # relative to the output folder
    kind: str  # section of the catalogue
    section: dict
    bands: dict[str, list[Source]]
    tags: dict = field(default_factory=dict)
    orbit_state: str = (
        ""  # what the file's own tag must say, where the items do not tell and one was asked for
    )


def moment(item: dict) -> datetime.datetime:
    """When the item was taken, UTC."""
    about = item["properties"]
    text = about.get("datetime") or about.get("start_datetime")
    try:
        when = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise BadInput(
            f"item {item['id']}: datetime {text!r} is no date; the catalogue is at fault."
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)


def named_in_id(item: dict, section: dict) -> dict[str, str]:
    """What the groups of the section's id_pattern find in the item's id."""
    match = re.search(section["id_pattern"], item["id"]) if section.get("id_pattern") else None
    return {name: text for name, text in match.groupdict().items() if text} if match else {}


def platform(item: dict, section: dict) -> str:
    """Such as sentinel-1a, from the properties or the item's id; "" where neither tells."""
    told = item["properties"].get("platform") or named_in_id(item, section).get("platform") or ""
    return re.sub(r"^s([12][a-d])$", r"sentinel-\1", str(told).lower())


def made(item: dict) -> tuple[str, str]:
    """When the item was processed, as far as it tells, and its id: of two versions the later is greater."""
    about = item["properties"]
    keys = ("s2:generation_time", "processing:datetime", "created")
    return next((str(about[key]) for key in keys if about.get(key)), ""), item["id"]


def track(item: dict, section: dict) -> tuple[str, str]:
    """(relative orbit as three digits or "", orbit state or "") from the properties or the item's id."""
    about, named = item["properties"], named_in_id(item, section)
    orbit = str(about.get("sat:relative_orbit") or named.get("relative_orbit") or "")
    orbit = orbit.zfill(3) if orbit.isdigit() else orbit
    if orbit and not SAFE_ORBIT.fullmatch(orbit):
        raise BadInput(f"item {item['id']}: relative orbit {orbit!r} holds odd characters.")
    state = str(about.get("sat:orbit_state") or named.get("orbit_state") or "").lower()
    return orbit, state if state in ("ascending", "descending") else ""


def group_passes(items: list[dict], section: dict) -> list[list[dict]]:
    """Items of one platform and track taken within minutes of each other, in order of time."""
    tracks = defaultdict(list)
    for item in items:
        tracks[(platform(item, section), *track(item, section))].append(item)
    passes = []
    for members in tracks.values():
        members.sort(key=lambda item: (moment(item), item["id"]))
        last = None
        for item in members:
            if last is None or (moment(item) - last).total_seconds() > PASS_GAP_S:
                passes.append([])
            passes[-1].append(item)
            last = moment(item)
    return sorted(passes, key=lambda members: (moment(members[0]), members[0]["id"]))


def asset_url(item: dict, wanted: str) -> tuple[str, str] | None:
    """(key, URL) of an asset by its key, or by a pattern of its key or its file's name; None without it."""
    assets = item.get("assets", {})
    for key in [wanted] if wanted in assets else sorted(assets):
        url = assets[key].get("href", "")
        name = urlsplit(url).path.rsplit("/", 1)[-1]
        meant = key == wanted or fnmatch.fnmatchcase(key, wanted) or fnmatch.fnmatchcase(name, wanted)
        if meant and urlsplit(url).scheme in ("http", "https"):  # the same file may be there as s3:// too
            return key, url
    return None


def complete(items: list[dict], section: dict) -> list[dict]:
    """The items that have every asset the section maps (single-polarised frames have not)."""
    return [item for item in items if all(asset_url(item, key) for key in section["assets"].values())]


def band_sources(items: list[dict], section: dict, offsets: bool = False) -> dict[str, list[Source]]:
    bands = {}
    for band, wanted in section["assets"].items():
        bands[band] = []
        for item in items:
            key, url = asset_url(item, wanted)
            offset = optical_offset(item, key, section) if offsets and band != "SCL" else 0
            bands[band].append(Source(item["id"], key, url, offset, baseline(item)))
    return bands


def with_own_names(plans: list[Plan]) -> list[Plan]:
    """Plans of one name (two satellites in one second) get the platform into it; still one is a BadInput."""
    found = Counter(plan.path for plan in plans)
    for plan in plans:
        if found[plan.path] > 1:
            stem, satellite = plan.path.removesuffix(".tif"), SAFE_LETTERS.sub("-", plan.tags["platform"])
            joint = "-" if plan.tags["relative_orbit"] and plan.kind == "s1" else "_"
            plan.path = f"{stem}{joint}{satellite}.tif"
    twice = [path for path, count in Counter(plan.path for plan in plans).items() if count > 1]
    if twice:
        raise BadInput(
            f"{twice[0]}: two passes of {plans[0].section['collection']} would have this name; the "
            "catalogue's items must tell their platform and relative orbit."
        )
    return plans


# ---- Sentinel-1 --------------------------------------------------------------------------------------------


def radar_plans(
    site: str, items: list[dict], section: dict, angles: list[dict], wanted, crs: str = ""
) -> list[Plan]:
    """One plan a pass. wanted: .orbit_state and .relative_orbit filters, None for any.

    angles: items of the catalogue's static angle layers, taken by track. An item that does not tell its orbit
    state passes; its file is asked then.
    """
    refuse_radar_geometry(items, section)
    plans = []
    for members in group_passes(complete(items, section), section):
        orbit, state = track(members[0], section)
        if wanted.orbit_state and state and state != wanted.orbit_state:
            continue
        if wanted.relative_orbit and (not orbit.isdigit() or int(orbit) not in wanted.relative_orbit):
            continue
        when = moment(members[0])
        bands = band_sources(newest_frames(members, section, crs), section)
        if still := section.get("angles"):
            same = [item for item in complete(angles, still) if track(item, still)[0] == orbit]
            if same:
                bands |= band_sources(newest_frames(same, still, crs), still)
        name = f"{when:%Y-%m-%dT%H%M%S}" + (f"_{orbit}" if orbit else "")
        tags = {
            "units": section["units"], "backscatter": section["backscatter"],
            "product": section.get("product", section["collection"]), "date": f"{when:%Y-%m-%dT%H:%M:%S}",
            "platform": platform(members[0], section), "relative_orbit": orbit, "orbit_state": state,
        }  # fmt: skip
        unsure = "" if state else wanted.orbit_state or ""
        plans.append(Plan(site, f"scenes/{site}/s1/{name}.tif", "s1", section, bands, tags, unsure))
    return with_own_names(plans)


def newest_frames(members: list[dict], section: dict, crs: str) -> list[dict]:
    """Frames of a pass: the site's own zone first, then in order of time, a newer version before an older.

    Of a burst, where the section's id_pattern names it, the newest version alone.
    """
    ordered = sorted(members, key=made, reverse=True)
    ordered.sort(key=lambda item: (zone_of(item) != crs, moment(item).replace(microsecond=0)))
    bursts, kept = set(), []
    for item in ordered:
        burst = named_in_id(item, section).get("burst")
        if burst is None or burst not in bursts:
            kept.append(item)
        bursts.add(burst)
    return kept


def refuse_radar_geometry(items: list[dict], section: dict) -> None:
    """A frame without a projection of its own is not on a map (Earth Search's GRD)."""
    for item in items:
        about = item["properties"]
        told = [
            about[key] for key in ("proj:epsg", "proj:code", "proj:wkt2", "proj:projjson") if key in about
        ]
        if told and not any(told):
            raise BadInput(
                f"collection {section['collection']}: item {item['id']} has no map projection, it lies in "
                "radar geometry; choose a geocoded, calibrated product (sentinel-1-rtc, OPERA RTC-S1)."
            )


# ---- Sentinel-2 --------------------------------------------------------------------------------------------


def baseline(item: dict) -> str:
    """Processing baseline such as 04.00, "" where the item has none."""
    about = item["properties"]
    keys = ("s2:processing_baseline", "processing:version", "s2:processing_version")
    return next((str(about[key]) for key in keys if about.get(key)), "")


def optical_offset(item: dict, key: str, section: dict) -> float:
    """What to add to an asset's numbers to have reflectance * 10000: 0, or -1000 since baseline 04.00.

    Order: the catalogue's number; earthsearch:boa_offset_applied (then 0, whatever raster:bands says); the
    asset's raster:bands offset; the baseline. A BadInput where nothing tells.
    """
    if section["offset"] != "item":
        return float(section["offset"])
    about, asset = item["properties"], item["assets"][key]
    if about.get("earthsearch:boa_offset_applied") is True:
        return 0.0
    bands = asset.get("raster:bands") or asset.get("bands") or [{}]
    told = {**asset, **bands[0]}
    offset, scale = (told.get(f"raster:{name}", told.get(name)) for name in ("offset", "scale"))
    if offset is not None and scale:
        return float(round(offset / scale, 6))
    number = re.match(r"\d+(\.\d+)?", baseline(item))
    if number:
        return -1000.0 if float(number[0]) >= BASELINE_WITH_OFFSET else 0.0
    raise BadInput(
        f"collection {section['collection']}: item {item['id']} tells neither its processing baseline nor an "
        "offset; state `offset = -1000` or `offset = 0` in the catalogue's [s2]."
    )


def tile_of(item: dict) -> str:
    about = item["properties"]
    mgrs = [about.get(key) for key in ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")]
    named = (
        about.get("s2:mgrs_tile") or about.get("grid:code") or ("-".join(map(str, mgrs)) if all(mgrs) else "")
    )
    return str(named).removeprefix("MGRS-") or item["id"]


def best_first(members: list[dict], crs: str) -> list[dict]:
    """Each tile's highest baseline, those of the site's own zone first; then what older ones may fill.

    Nothing is dropped: two items of one tile and second may be its halves, received by two ground stations.
    """
    newest = {}
    for item in members:
        newest[tile_of(item)] = max(newest.get(tile_of(item), ""), baseline(item))
    ordered = sorted(members, key=made, reverse=True)

    def place(item):
        older = baseline(item) < newest[tile_of(item)]
        return older, zone_of(item) != crs, moment(item).replace(microsecond=0), tile_of(item)

    return sorted(ordered, key=place)


def zone_of(item: dict) -> str:
    about = item["properties"]
    return str(about.get("proj:code") or f"EPSG:{about.get('proj:epsg')}")


def optical_plans(
    site: str, items: list[dict], section: dict, crs: str, max_cloud_percent: float
) -> list[Plan]:
    """One plan a pass whose mean cloud cover is at most max_cloud_percent; unknown cloud cover passes.

    crs: the site's, "EPSG:...": tiles of its own zone come first, for they need no resampling.
    """
    plans = []
    for members in group_passes(complete(items, section), section):
        members = best_first(members, crs)
        tiles = {tile_of(item): item for item in reversed(members)}.values()  # the first of each
        clouds = [item["properties"].get("eo:cloud_cover") for item in tiles]
        known = [float(cloud) for cloud in clouds if cloud is not None]
        if known and sum(known) / len(known) > max_cloud_percent:
            continue
        when = min(map(moment, members))
        bands = band_sources(members, section, offsets=True)
        orbit, state = track(members[0], section)
        tags = {
            "units": "reflectance*10000", "offset": 0,
            "product": section.get("product", section["collection"]), "date": f"{when:%Y-%m-%dT%H:%M:%S}",
            "platform": platform(members[0], section), "relative_orbit": orbit, "orbit_state": state,
            "cloud_percent": round(sum(known) / len(known), 2) if known else "",
        }  # fmt: skip
        plans.append(Plan(site, f"scenes/{site}/s2/{when:%Y-%m-%dT%H%M%S}.tif", "s2", section, bands, tags))
    return with_own_names(plans)


# ---- land --------------------------------------------------------------------------------------------------


def land_plan(site: str, kind: str, items: list[dict], section: dict) -> Plan | None:
    """dem.tif or landcover.tif of the newest items; None without any."""
    items = sorted(complete(items, section), key=lambda item: (moment(item), item["id"]), reverse=True)
    if not items:
        return None
    units = "m" if kind == "dem" else "class"
    tags = {"units": units, "product": section.get("product", section["collection"])}
    return Plan(site, f"scenes/{site}/{kind}.tif", kind, section, band_sources(items, section), tags)
