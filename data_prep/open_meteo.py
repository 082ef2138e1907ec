"""Open-Meteo's archive: the question for a site's daily weather, its weight, and the answer, checked.

    service = Service(session, ARCHIVE, budget)
    answer, cached = ask(service, site, VARIABLES, "era5_seamless", "auto")

Needs runs.py, call_budget.py and weather_tables.py beside it, and a session of requests-cache. Values stay
the text that the service sent: nothing is rounded. API: open-meteo.com/en/docs/historical-weather-api.
A site is anything with name, latitude, longitude (WGS84 degrees), start and end (dates, both included).
"""

import datetime
import errno
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import requests

from data_prep import call_budget
from data_prep.runs import BadInput, Interrupted, say

ARCHIVE = "https://archive-api.open-meteo.com/v1/archive"
CUSTOMER = "https://customer-archive-api.open-meteo.com/v1/archive"
SOURCE = "Open-Meteo.com historical weather API"
LICENCE = (
    "CC BY 4.0 (Open-Meteo.com); ERA5 and ERA5-Land: contains modified Copernicus Climate Change Service "
    "information"
)
VARIABLES = (
    "temperature_2m_max", "temperature_2m_min", "temperature_2m_mean", "precipitation_sum", "rain_sum",
    "snowfall_sum", "relative_humidity_2m_mean", "shortwave_radiation_sum", "wind_speed_10m_max",
)  # fmt: skip
FIRST_DAY = datetime.date(1940, 1, 1)  # ERA5 begins (Hersbach 2020, 10.1002/qj.3803)
UNSETTLED_DAYS = 10  # the archive's last five days may be missing (its documentation); doubled
ASK_AGAIN_S = 86400  # an answer with such days is asked for again after this
RETRIES_S = (1, 2, 4)  # pauses before asking again after a fault; a choice
REFUSALS = 5  # in a row for one site, each waited out, before the run stops; a choice


class ServiceError(Exception):
    """The service failed or its answer cannot be used; the message is one sentence."""


class Cut(ValueError):
    """An answer that broke off: asking again may help."""


@dataclass
class Answer:
    """Daily values as text, None where missing: one list a variable, each as long as `days` (YYYY-MM-DD)."""

    days: list[str]
    columns: dict[str, list[str | None]]
    units: dict[str, str]
    elevation_m: float
    about: dict  # timezone, utc_offset_seconds, grid_latitude, grid_longitude, request, received


@dataclass
class Service:
    """Where to ask and how patiently. clock, sleep: time.time and a sleep that may raise Interrupted."""

    session: object
    url: str
    budget: call_budget.Budget
    key: str | None = None
    timeout_s: float = 120
    offline: bool = False
    wait: bool = False  # for the next day too
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    requests: int = 0
    weighted: float = 0.0


def days_of(site) -> list[str]:
    """Every day from the site's first to its last, YYYY-MM-DD."""
    count = (site.end - site.start).days + 1
    return [(site.start + datetime.timedelta(n)).isoformat() for n in range(count)]


def weight(count: int, variables: int, models: int = 1) -> float:
    """Calls that a request of one site counts as: max(1, v/10, v/10 * days/14), v = variables x models.

    Source: calculateQueryWeight in ForecastapiResult.swift of open-meteo/open-meteo; issues 438, 464.
    """
    tenths = variables * models / 10
    return max(1.0, tenths, tenths * count / 14)


def question(site, variables, model: str, zone: str) -> dict[str, str]:
    """The parameters of a site's one request; units are the service's defaults, which are checked later."""
    return {
        "latitude": repr(round(site.latitude, 6)),
        "longitude": repr(round(site.longitude, 6)),
        "start_date": site.start.isoformat(),
        "end_date": site.end.isoformat(),
        "daily": ",".join(variables),
        "models": model,
        "timezone": zone,
    }


# ---- asking ------------------------------------------------------------------------------------------------


def held(service: Service, params: dict):
    """The cached response to this question, or None; one that is due for another look only where offline."""
    response = service.session.cache.get_response(cache_key(service, params))
    return response if response and (service.offline or not response.is_expired) else None


def cache_key(service: Service, params: dict) -> str:
    request = requests.Request("GET", service.url, params=params)
    return service.session.cache.create_key(request.prepare())


def ask(service: Service, site, variables, model: str, zone: str) -> tuple[Answer, bool]:
    """The answer for a site, and whether it came from the cache.

    Raises BadInput (the service refuses the question, or offline and not cached), ServiceError (it fails),
    Interrupted (the day's calls are used up), OSError (the cache cannot be written).
    """
    params = question(site, variables, model, zone)
    response = held(service, params)
    if response is not None:
        return read(response, service, site, variables, params), True
    if service.offline:
        raise BadInput(f"site {site.name}: its weather is not in the cache; run once without --offline.")
    cost, faults, refusals = weight(len(days_of(site)), len(variables)), list(RETRIES_S), 0
    while True:
        make_room(service, cost)
        why, after = "", 0.0
        try:
            response = send(service, params, cost)
        except (
            requests.RequestException
        ) as error:  # its text holds the URL with the key: only its kind is said
            kind = type(error).__name__
            why = f"{urlsplit(service.url).hostname} gives no answer ({kind})"
        else:
            reason = reason_of(response)
            if response.status_code == 429:
                call_budget.refund(service.budget)
                refusals += 1
                if refusals > REFUSALS:
                    raise Interrupted(f"The service refuses again and again ({reason}).")
                if call_budget.close(service.budget, reason, service.clock()):
                    continue
            elif 400 <= response.status_code < 500:
                raise BadInput(
                    f"site {site.name}: the service refuses the request ({response.status_code}: {reason})."
                )
            if response.status_code == 200:
                try:
                    answer = read(response, service, site, variables, params)
                    store(service, response, params, site)
                    return answer, False
                except Cut as error:
                    why = str(error)
            else:
                why = f"the service answers {response.status_code} ({reason})"
                after = retry_after(response)
        if not faults:
            raise ServiceError(f"site {site.name}: {why}, {len(RETRIES_S) + 1} times; try again later.")
        service.sleep(max(faults.pop(0), after))


def make_room(service: Service, cost: float) -> None:
    """Sleep until the limits allow a call; Interrupted where that takes over an hour, unless told to wait."""
    while (seconds := call_budget.wait_s(service.budget, cost, service.clock())) > 0:
        now = service.clock()
        why, when = call_budget.full(service.budget, cost, now), at(now + seconds)
        if seconds > call_budget.HOUR_S + call_budget.CLEARED_S and not service.wait:
            raise Interrupted(f"Go on after {when}: {why}.")
        if seconds > 5:
            say(f"waiting until {when}: {why}")
        service.sleep(seconds)


def at(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def send(service: Service, params: dict, cost: float) -> requests.Response:
    """One request, on record in the budget before it leaves; redirects could leak a key and end here."""
    call_budget.charge(service.budget, cost, service.clock())
    service.requests, service.weighted = service.requests + 1, service.weighted + cost
    try:
        with service.session.cache_disabled():
            return service.session.get(
                service.url,
                params={**params, **({"apikey": service.key} if service.key else {})},
                timeout=service.timeout_s,
                allow_redirects=False,
            )
    finally:
        call_budget.settle(service.budget, service.clock())


def reason_of(response) -> str:
    """The `reason` of an error answer, on one line, without anything that is no text."""
    try:
        said = response.json().get("reason")
    except (ValueError, AttributeError):
        said = None
    said = said if isinstance(said, str) and said.strip() else response.reason or "no reason given"
    return re.sub(r"[^\x20-\x7e°²]+", " ", said)[:200].strip().rstrip(".")


def retry_after(response) -> float:
    said = response.headers.get("Retry-After", "")
    return min(float(said), 600.0) if said.isdigit() else 0.0


def store(service: Service, response, params: dict, site) -> None:
    """Keep a checked answer; OSError if it is not there then: requests-cache does not tell of a full disk."""
    key, cache = cache_key(service, params), service.session.cache
    today = datetime.datetime.fromtimestamp(service.clock(), datetime.UTC)
    settled = (today.date() - site.end).days >= UNSETTLED_DAYS
    cache.save_response(response, key, None if settled else today + datetime.timedelta(seconds=ASK_AGAIN_S))
    kept = cache.get_response(key)
    if kept is None or kept.content != response.content:
        raise OSError(
            errno.ENOSPC, "the answer cannot be kept, is the disk full?", str(cache.responses.db_path)
        )


# ---- the answer --------------------------------------------------------------------------------------------


def read(response, service: Service, site, variables, params: dict) -> Answer:
    """The Answer in a response of status 200; Cut if it broke off, ServiceError if it is of no use."""
    where = f"site {site.name}: the answer of {urlsplit(service.url).hostname}"
    try:
        # Numbers stay text: 5.10 and -0.0 are written as they were sent.
        found = json.loads(
            response.content.decode("utf-8"), parse_float=str, parse_int=str, parse_constant=lambda _: None
        )
    except ValueError:
        raise Cut("the answer is no whole JSON") from None
    try:
        if found.get("error"):
            raise ServiceError(f"{where} is an error ({reason_of(response)}).")
        daily, units = found["daily"], found["daily_units"]
        check(where, site, daily, units, variables)
        about = {
            "timezone": str(found["timezone"]),
            "utc_offset_seconds": int(found["utc_offset_seconds"]),
            "grid_latitude": float(found["latitude"]),
            "grid_longitude": float(found["longitude"]),
            "request": f"{service.url}?{urlencode(params)}",
            "received": getattr(response, "created_at", datetime.datetime.now(datetime.UTC)).isoformat()[:19],
        }
        elevation = float(found["elevation"])
        if not -500 <= elevation <= 9000:
            raise ValueError(f"elevation {elevation:g} m")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServiceError(f"{where} lacks or garbles a part ({error}); expected daily weather.") from None
    columns = {name: daily[name] for name in variables}
    return Answer(daily["time"], columns, {name: units[name] for name in variables}, elevation, about)


def check(where: str, site, daily: dict, units: dict, variables) -> None:
    """ServiceError unless all variables are there, for each day once, in their expected units, as numbers."""
    from data_prep.weather_tables import expected, spell

    missing = [name for name in variables if name not in daily or name not in units]
    if missing:
        raise ServiceError(f"{where} has no {', '.join(missing)}; found {', '.join(daily)}.")
    days = days_of(site)
    if daily["time"] != days:
        found = f"{len(daily['time'])} days from {daily['time'][0]}" if daily["time"] else "no day"
        raise ServiceError(f"{where} has {found}, expected {len(days)} from {days[0]} to {days[-1]}.")
    for name in variables:
        right = expected(name)
        if right and spell(units[name]) != right[0]:
            raise ServiceError(f"{where} has {name} in {units[name]}, expected {right[0]}.")
        if len(daily[name]) != len(days):
            raise ServiceError(f"{where} has {len(daily[name])} values of {name} for {len(days)} days.")
        for day, value in zip(days, daily[name], strict=True):
            if value is not None and not (is_number(value) if right else isinstance(value, str)):
                raise ServiceError(f"{where} has {name} {value!r} on {day}, expected a number.")


def is_number(text) -> bool:
    return isinstance(text, str) and re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", text) is not None
