"""Searches of STAC APIs, tried again when they break, and the plan of a site's files that comes of them."""

import threading

import pystac
import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3 import Retry

from data_prep import passes, runs
from data_prep.remote import PASSING, ServiceFailure, without_query
from data_prep.runs import BadInput

FIRST_CONTACT = 2  # tries to connect to a service
ANSWERS = 3  # tries of a whole search whose answers are cut or no JSON; each page has its own retries
PAGE = 200  # items of an answer


class Catalogs:
    """STAC APIs by URL, opened once; a search is tried again whole when it breaks."""

    def __init__(self, connection):
        self.connection, self.clients, self.lock = connection, {}, threading.Lock()

    def client(self, url: str):
        with self.lock:
            if url not in self.clients:
                again = Retry(
                    total=self.connection.retries, connect=FIRST_CONTACT, backoff_max=60,
                    backoff_factor=self.connection.backoff_s, status_forcelist=PASSING,
                    allowed_methods=None, raise_on_status=False,
                )  # fmt: skip
                self.clients[url] = self.tried(
                    url, lambda: Client.open(url, stac_io=StacApiIO(max_retries=again, timeout=60))
                )
            return self.clients[url]

    def tried(self, url: str, ask):
        """ask(), again after an answer that was cut or no JSON; ServiceFailure when it stays so."""
        why = ""
        for attempt in range(ANSWERS):
            if self.connection.stop.is_set():
                raise runs.Interrupted()
            try:
                return ask()
            except (
                APIError, requests.RequestException, pystac.STACError, pystac.STACTypeError, ValueError,
                KeyError, TypeError, AttributeError,
            ) as error:  # fmt: skip
                why = " ".join(str(error).split())[:200]
                if "NewConnectionError" in why or "NameResolution" in why or "Failed to establish" in why:
                    raise ServiceFailure(
                        f"{without_query(url)}: cannot be reached; is there a network, is the address right?"
                    ) from None
                status = getattr(error, "status_code", None) or 0
                if 400 <= status < 500 and status not in PASSING:
                    break
                self.connection.pause(attempt, None)
        raise ServiceFailure(f"{without_query(url)}: no usable answer of a STAC API ({why}).")

    def need_collection(self, section: dict) -> None:
        client, url, name = self.client(section["url"]), section["url"], section["collection"]
        known = []

        def look():
            known.clear()
            for found in client.get_collections():
                known.append(found.id)
                if found.id == name:
                    return

        self.tried(url, look)
        if name not in known:
            listed = ", ".join(sorted(known)[:20]) + (", ..." if len(known) > 20 else "")
            raise BadInput(f"collection {name!r} is unknown at {url}; it has {listed or 'none'}.")

    def search(self, section: dict, bbox, period: str | None) -> list[dict]:
        """Items as dicts, in order of id, each once."""
        client = self.client(section["url"])

        def ask():
            found = client.search(
                collections=[section["collection"]],
                bbox=list(bbox),
                datetime=period,
                limit=PAGE,
                method="POST",
            )
            return list(found.items_as_dicts())

        items = {item["id"]: item for item in self.tried(section["url"], ask)}
        return [items[name] for name in sorted(items)]


def plan_site(site, sections: dict, catalogs: Catalogs, args) -> tuple[list, list[str]]:
    """(plans of the site's files, sentences about it); a site without land or scenes is a BadInput."""
    bbox, plans, notes = site.bbox(), [], []
    period = f"{site.start}T00:00:00Z/{site.end}T23:59:59Z"
    for kind in ("dem", "landcover"):
        if kind in sections:
            plan = passes.land_plan(
                site.name, kind, catalogs.search(sections[kind], bbox, None), sections[kind]
            )
            if plan:
                plans.append(plan)
            elif kind == "dem":
                raise BadInput(
                    f"site {site.name}: no elevation at {site.latitude:g}, {site.longitude:g}, "
                    "it lies at sea; are latitude and longitude right?"
                )
            else:
                notes.append(f"site {site.name}: no land cover in {sections[kind]['collection']}")
    s1, s2, crs = sections["s1"], sections["s2"], site.grid.crs.to_string()
    radar, optical = catalogs.search(s1, bbox, period), catalogs.search(s2, bbox, period)
    angles = catalogs.search(s1["angles"], bbox, None) if "angles" in s1 else []
    found = {
        "Sentinel-1": (radar, passes.radar_plans(site.name, radar, s1, angles, args)),
        "Sentinel-2": (optical, passes.optical_plans(site.name, optical, s2, crs, args.max_cloud_percent)),
    }
    for sensor, (items, made) in found.items():
        plans += made
        if not made:
            left = f"; {len(items)} items were left out by bands, orbit or cloud" if items else ""
            notes.append(f"site {site.name}: no {sensor} scene from {site.start} to {site.end}{left}")
    if not any(made for _, made in found.values()):
        raise BadInput(f"{'; '.join(notes)}: no scenes found, widen the dates or the filters.")
    return plans, notes
