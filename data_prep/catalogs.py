"""Catalogues of scenes: which collection and asset of a STAC API holds which band, in which units.

A catalogue is TOML: those here, or a user's own file; it says which host may see which secret. Needs the
standard library and runs.py for its errors.
"""

import os
import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from data_prep.runs import BadInput, say

PLANETARY_COMPUTER = """
url = "https://planetarycomputer.microsoft.com/api/stac/v1"
signing = "planetary-computer"
signing_url = "https://planetarycomputer.microsoft.com/api/sas/v1/sign"
"""

RTC = """
[s1]
collection = "sentinel-1-rtc"
assets = { VV = "vv", VH = "vh" }
units = "linear"
backscatter = "gamma0_rtc"
nodata = -32768
product = "S1 IW GRD RTC (Planetary Computer sentinel-1-rtc)"
licence = "CC-BY-4.0, Catalyst and Microsoft; contains modified Copernicus Sentinel data"
"""

OPERA_RTC = """
[s1]
url = "https://cmr.earthdata.nasa.gov/stac/ASF"
signing = "bearer"
token_env = "EARTHDATA_TOKEN"
token_hosts = ["datapool.asf.alaska.edu", "cumulus.asf.earthdatacloud.nasa.gov"]
collection = "OPERA_L2_RTC-S1_V1_1"
assets = { VV = "*_VV.tif", VH = "*_VH.tif" }
units = "linear"
backscatter = "gamma0_rtc"
id_pattern = "_T(?P<relative_orbit>[0-9]{3})-(?P<burst>[0-9]{6}-IW[123])_(?:.*_(?P<platform>S1[A-D])_30_)?"
file_tags = { orbit_state = "ORBIT_PASS_DIRECTION" }
product = "OPERA L2 RTC-S1"
licence = "NASA/JPL OPERA, free and open; contains modified Copernicus Sentinel data"

[s1.angles]
collection = "OPERA_L2_RTC-S1-STATIC_V1_1"
assets.incidence_angle = "*[0-9]_incidence_angle.tif"
assets.local_incidence_angle = "*_local_incidence_angle.tif"
id_pattern = "_T(?P<relative_orbit>[0-9]{3})-(?P<burst>[0-9]{6}-IW[123])_"
"""

# (a backslash joins the lines of a long licence)
OPTICAL_AND_LAND = """
[s2]
collection = "sentinel-2-l2a"
assets = { B02 = "B02", B03 = "B03", B04 = "B04", B08 = "B08", B11 = "B11", SCL = "SCL" }
offset = "item"
nodata = 0
product = "S2 L2A"
licence = "contains modified Copernicus Sentinel data"

[dem]
collection = "cop-dem-glo-30"
assets = { elevation = "data" }
product = "Copernicus DEM GLO-30"
licence = "produced using Copernicus WorldDEM-30 (c) DLR e.V. 2010-2014 and (c) Airbus Defence and Space \
GmbH 2014-2018 provided under COPERNICUS by the European Union and ESA; all rights reserved"

[landcover]
collection = "esa-worldcover"
assets = { landcover = "map" }
nodata = 0
product = "ESA WorldCover"
licence = "CC-BY-4.0, (c) ESA WorldCover project / Contains modified Copernicus Sentinel data (2021) \
processed by ESA WorldCover consortium"
"""

BUILT_IN = {
    "planetary-computer": PLANETARY_COMPUTER + RTC + OPTICAL_AND_LAND,
    "opera": PLANETARY_COMPUTER + OPERA_RTC + OPTICAL_AND_LAND,
}

BANDS = {  # what a section must map, and what it may
    "s1": (("VV", "VH"), ("incidence_angle", "local_incidence_angle")),
    "s1.angles": ((), ("incidence_angle", "local_incidence_angle")),
    "s2": (("B02", "B03", "B04", "B08", "B11"), ("B12", "SCL")),
    "dem": (("elevation",), ()),
    "landcover": (("landcover",), ()),
}
CONNECTION = {"url": "", "signing": "none", "signing_url": "", "token_env": "", "token_hosts": []}
KEYS = {
    "collection", "assets", "units", "backscatter", "offset", "nodata", "product", "licence", "id_pattern",
    "file_tags", *CONNECTION,
}  # fmt: skip
LOOPBACK = ("localhost", "127.0.0.1", "::1")
KEY = "PC_SDK_SUBSCRIPTION_KEY"
KEY_HOST = "planetarycomputer.microsoft.com"  # the one host, beside this machine, that sees the key
SIGNING = ("none", "planetary-computer", "bearer")
RADAR_GEOMETRY = re.compile(r"(?i)(?<![a-z])(grd|slc|ocn|raw)(?![a-z])")


def private(url: str) -> bool:
    """True where a secret may travel: over https, or to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def key_may_go(url: str) -> bool:
    return private(url) and urlsplit(url).hostname in (KEY_HOST, *LOOPBACK)


def say_secrets(sections: dict[str, dict]) -> None:
    """Which variable of the environment goes to which hosts; those that are not set go nowhere."""
    told = {}
    for section in sections.values():
        if section["signing"] == "bearer":
            told.setdefault(section["token_env"], []).extend(section["token_hosts"])
        elif section["signing"] == "planetary-computer" and key_may_go(section["signing_url"]):
            told.setdefault(KEY, []).append(urlsplit(section["signing_url"]).hostname)
    for variable, hosts in told.items():
        if os.environ.get(variable):
            say(f"{variable} is set and goes to {', '.join(dict.fromkeys(hosts))}, to no other host")


def read_catalog(name: str) -> dict[str, dict]:
    """Sections s1 (with its angles), s2, [dem], [landcover] of a built-in or a user's catalogue, checked.

    Every section holds url, signing, collection, assets (band: asset key or pattern of the file's name) and
    what KEYS names. What a catalogue cannot be used for is a BadInput.
    """
    if name in BUILT_IN:
        text = BUILT_IN[name]
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            known = ", ".join(BUILT_IN)
            raise BadInput(f"--catalog {name}: neither {known} nor a readable TOML file ({error}).") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{name}: not a readable TOML file ({error}).") from None
    common = {key: table.pop(key, default) for key, default in CONNECTION.items()}
    sections = {}
    for key, section in table.items():
        if key not in BANDS or not isinstance(section, dict):
            raise BadInput(f"{name}: unknown entry {key!r}; expected [s1], [s2], [dem], [landcover].")
        section = {**common, **section}
        angles = section.pop("angles", None) if key == "s1" else None
        sections[key] = checked(name, key, section)
        if angles is not None:
            same = {one: section[one] for one in CONNECTION}
            sections["s1"]["angles"] = checked(name, "s1.angles", {**angles, **same})
    if not {"s1", "s2"} <= set(sections):
        raise BadInput(
            f"{name}: has no [{'s1' if 's1' not in sections else 's2'}] section; scenes need both."
        )
    say_secrets(sections)
    return sections


def checked(name: str, key: str, section: dict) -> dict:
    """`section`, or a BadInput that says what of it cannot be."""
    unknown = sorted(set(section) - KEYS)
    if unknown:
        raise BadInput(f"{name}: [{key}] has an unknown setting {unknown[0]!r}; there are {sorted(KEYS)}.")
    need, may = BANDS[key]
    assets = section.get("assets", {})
    wrong = [band for band in assets if band not in (*need, *may)] + [b for b in need if b not in assets]
    if wrong or not assets:
        raise BadInput(
            f"{name}: [{key}] assets maps {', '.join(assets) or 'nothing'}; expected {', '.join(need)} "
            f"and at most {', '.join(may) or 'nothing else'}."
        )
    if not section.get("collection") or urlsplit(section["url"]).scheme not in ("http", "https"):
        raise BadInput(f"{name}: [{key}] needs a collection and the http(s) url of a STAC API.")
    if section["signing"] not in SIGNING:
        raise BadInput(f"{name}: [{key}] signing {section['signing']!r}, expected {', '.join(SIGNING)}.")
    if section["signing"] == "planetary-computer" and not private(str(section["signing_url"])):
        raise BadInput(f"{name}: [{key}] signing planetary-computer needs the https address signing_url.")
    if section["signing"] == "bearer":
        need_token(name, key, section)
    if key == "s1":
        need_calibrated(name, section)
    if key == "s2":
        offset = section.setdefault("offset", "item")
        if offset != "item" and not isinstance(offset, int | float):
            raise BadInput(f"{name}: [s2] offset {section['offset']!r}, expected a number or 'item'.")
    try:
        re.compile(section.setdefault("id_pattern", ""))
    except re.error as error:
        raise BadInput(f"{name}: [{key}] id_pattern is no regular expression ({error}).") from None
    return section


def need_token(name: str, key: str, section: dict) -> None:
    """Refuse a catalogue that could send just any variable of the environment to just any place."""
    variable, hosts = section["token_env"], section["token_hosts"]
    named = isinstance(hosts, list) and all(re.fullmatch(r"[A-Za-z0-9.-]+", str(host)) for host in hosts)
    if not (variable and hosts and named):
        raise BadInput(
            f"{name}: [{key}] signing bearer needs token_env and token_hosts, a list of host names."
        )
    if not re.fullmatch(r"[A-Za-z0-9_]+_TOKEN", str(variable)):
        raise BadInput(
            f"{name}: [{key}] token_env {variable!r}; expected a name that ends in _TOKEN, so that somebody "
            "else's catalogue cannot ask for any other secret."
        )


def need_calibrated(name: str, section: dict) -> None:
    """Refuse radar that is not calibrated backscatter on a map, as far as the catalogue says."""
    units, backscatter = section.get("units"), section.get("backscatter")
    if units not in ("linear", "dB"):
        raise BadInput(
            f"{name}: [s1] units {units!r}, expected 'linear' or 'dB'; digital numbers and amplitudes are "
            "uncalibrated, choose a calibrated product (sentinel-1-rtc, OPERA RTC-S1)."
        )
    if backscatter not in ("sigma0", "gamma0", "gamma0_rtc"):
        raise BadInput(
            f"{name}: [s1] backscatter {backscatter!r}, expected sigma0, gamma0 or gamma0_rtc; beta0 and "
            "uncalibrated products are not what the models read."
        )
    if (
        RADAR_GEOMETRY.search(section["collection"].replace("_", "-"))
        and "rtc" not in section["collection"].lower()
    ):
        raise BadInput(
            f"{name}: [s1] collection {section['collection']!r} is uncalibrated or in radar geometry; choose "
            "a geocoded, calibrated one (sentinel-1-rtc, OPERA RTC-S1) or prepare yours with a SAR toolbox."
        )
