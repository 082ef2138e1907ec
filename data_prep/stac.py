"""Searches of STAC APIs, tried again when they break, and the plan of a site's files that comes of them."""

import threading

import pystac
import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests.adapters import HTTPAdapter

from data_prep import passes, runs
from data_prep.remote import PASSING, ServiceFailure, without_query
from data_prep.runs import BadInput

FIRST_CONTACT = 2  # tries to connect to a service
ANSWERS = 3  # tries of a whole search whose answers are no STAC; each page has its own retries
PAGE = 200  # items of an answer
UNREACHABLE = ("NewConnectionError", "NameResolution", "Failed to establish")


class Patient(HTTPAdapter):
    """Requests tried again as those of files: a signal ends the waits, where urllib3 would sleep on."""

    def __init__(self, connection):
        super().__init__(max_retries=0)
        self.connection = connection

    def send(self, request, **how):
        for attempt in range(self.connection.retries + 1):
            last, answer = attempt == self.connection.retries, None
            if self.connection.stop.is_set():
                raise runs.Interrupted()
            try:
                answer = super().send(request, **{**how, "stream": False})
                _ = answer.content  # a cut one is an error here
                if last or answer.status_code not in PASSING:
                    return answer
            except requests.RequestException as error:
                if last or (attempt + 1 >= FIRST_CONTACT and any(word in str(error) for word in UNREACHABLE)):
                    raise
            self.connection.pause(attempt, answer)
        return answer


class Catalogs:
    """STAC APIs by URL, opened once; a search is tried again whole when it breaks."""

    def __init__(self, connection):
        self.connection, self.clients, self.lock = connection, {}, threading.Lock()

    def client(self, url: str):
        with self.lock:
            if url not in self.clients:
                asking = StacApiIO(max_retries=None, timeout=60)
                for scheme in ("http://", "https://"):
                    asking.session.mount(scheme, Patient(self.connection))
                self.clients[url] = self.tried(url, lambda: Client.open(url, stac_io=asking))
            return self.clients[url]

    def tried(self, url: str, ask):
        """ask(), again after an answer that was no STAC; ServiceFailure when it stays so."""
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
                if any(word in str(error) for word in UNREACHABLE):
                    raise ServiceFailure(
                        f"{without_query(url)}: cannot be reached; is there a network, is the address right?"
                    ) from None
                if getattr(error, "status_code", None):
                    why = f"{error.status_code} {why}"
                    break
                self.connection.pause(attempt, None)
        raise ServiceFailure(f"{without_query(url)}: no usable answer of a STAC API ({why}).")

    def need_collection(self, section: dict) -> None:
        """BadInput where the API has no such collection; what it has is asked for only then."""
        client, url, name = self.client(section["url"]), section["url"], section["collection"]
        if self.tried(url, lambda: client.get_collection(name)) is None:
            known = self.tried(url, lambda: [found.id for found in client.get_collections()])
            listed = ", ".join(sorted(known)[:20]) + (", ..." if len(known) > 20 else "")
            where = without_query(url)
            raise BadInput(f"collection {name!r} is unknown at {where}; it has {listed or 'none'}.")

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
    """(plans of the site's files, sentences about it); a site without any land or any scene is a BadInput."""
    bbox, plans, notes = site.bbox(), [], []
    period = f"{site.start}T00:00:00Z/{site.end}T23:59:59Z"
    for kind, what in (("dem", "elevation"), ("landcover", "land cover")):
        if kind in sections:
            section = sections[kind]
            plan = passes.land_plan(site.name, kind, catalogs.search(section, bbox, None), section)
            plans += [plan] if plan else []
            if not plan:
                place = f"{site.latitude:g}, {site.longitude:g}"
                notes.append(f"site {site.name}: no {what} at {place} in {section['collection']}")
    if "dem" in sections and not plans:
        raise BadInput(
            f"{'; '.join(notes)}: it lies at sea, or they do not cover it; are latitude and longitude right?"
        )
    s1, s2, crs = sections["s1"], sections["s2"], site.grid.crs.to_string()
    radar, optical = catalogs.search(s1, bbox, period), catalogs.search(s2, bbox, period)
    angles = catalogs.search(s1["angles"], bbox, None) if "angles" in s1 else []
    found = {
        "Sentinel-1": (radar, passes.radar_plans(site.name, radar, s1, angles, args, crs)),
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
