"""Bring daily weather of sites from Open-Meteo's archive, one request a site, within the service's limits.

    python -m data_prep.weather --data sites.csv --out weather

In: sites.csv (site, latitude, longitude, half_width_m or geometry, start, end); --import takes Open-Meteo's
own CSV downloads instead of asking. Out: weather.csv (site, date, Open-Meteo's variables, every digit as
sent, missing values empty), weather.json (model, time zones, units, elevations, requests), implausible.csv
where a value cannot be.

It needs the network and asks one question at a time: on a cluster it is for the login node. Answers are kept
in --cache (default: <out>/cache) with a record of the calls spent; runs that name the same --cache share
both. Without a key the service allows 600 weighted calls a minute, 5000 an hour and 10000 a day; where the
day's are used up the job stops (exit 75), and the same command goes on later where it was.
A key, of OPEN_METEO_API_KEY or --api-key (which other users of the machine can see), goes into no file.
Free for non-commercial use; the data are CC BY 4.0: name Open-Meteo.com and Copernicus (ERA5) with them.
"""

import argparse
import csv
import datetime
import itertools
import math
import os
import re
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from data_prep import runs
from data_prep.runs import BadInput

NOT_OF_THE_RESULT = ("api_key", "calls", "offline", "timeout_s", "wait")  # nor into any file: the first
ORDER = ("temperature_2m_min", "temperature_2m_mean", "temperature_2m_max")
SHOWN = 5  # of a kind of trouble, the rest is in the files


# ---- values ------------------------------------------------------------------------------------------------


def implausible(site: str, answer) -> list[dict]:
    """The values of an answer that no weather could have: dicts of site, date, variable, value, unit, why."""
    from data_prep.weather_tables import expected

    numbers, found = {}, []
    for name, texts in answer.columns.items():
        if expected(name):
            unit, low, high = expected(name)
            numbers[name] = [math.nan if text is None else float(text) for text in texts]
            for place, value in enumerate(numbers[name]):
                if value < low or value > high:
                    found.append((place, name, f"outside {low:g}..{high:g} {unit}"))
    known = [name for name in ORDER if name in numbers]
    for lower, upper in itertools.pairwise(known):
        for place, (low, high) in enumerate(zip(numbers[lower], numbers[upper], strict=True)):
            if low > high:
                found.append((place, lower, f"above {upper} {answer.columns[upper][place]}"))
    return [
        {
            "site": site, "date": answer.days[place], "variable": name, "value": answer.columns[name][place],
            "unit": answer.units[name], "why": why,
        }
        for place, name, why in sorted(found)
    ]  # fmt: skip


def missing_of(answer, variables) -> dict[str, int]:
    """Missing values of each variable, none left out; a variable that the answer lacks misses them all."""
    nothing = [None] * len(answer.days)
    return {name: answer.columns.get(name, nothing).count(None) for name in variables}


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    flags = ("--data", "--out", "--config", "--limit", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *flags, data="sites.csv: site, latitude, longitude, start, end")
    add = parser.add_argument
    add(
        "--variables", nargs="+", metavar="NAME", help="daily variables by Open-Meteo's names (default: nine)"
    )
    add("--models", default="era5_seamless", metavar="NAME", help="one reanalysis (default: era5_seamless)")
    zone = "whose days the values are of: auto (each site's own, the default), UTC, Europe/Zurich"
    add("--timezone", default="auto", metavar="ZONE", help=zone)
    add("--cache", type=Path, metavar="DIR", help="of answers and spent calls (default: <out>/cache)")
    add("--offline", action="store_true", help="from the cache and --import alone")
    downloads = "downloads of single sites, each named <site>.csv or given as SITE=FILE"
    add("--import", dest="imports", nargs="+", default=[], metavar="FILE", help=downloads)
    add("--wait", action="store_true", help="wait where the day's calls are used up, instead of exit 75")
    add("--api-key", metavar="KEY", help="for the customer host (better: environment OPEN_METEO_API_KEY)")
    add("--url", metavar="URL", help="of another host with this interface; gets a key only by --api-key")
    calls = "limits to keep (default: 600 5000 10000; none with a key)"
    add("--calls", nargs=3, type=float, metavar=("MINUTE", "HOUR", "DAY"), help=calls)
    add("--timeout-s", type=float, default=120, metavar="S", help="without a sign of an answer")
    return parser


def check(args, variables) -> None:
    for name in variables:
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise BadInput(f"--variables {name}: expected names such as temperature_2m_max.")
    if not re.fullmatch(r"[a-z0-9_]+", args.models):
        raise BadInput(f"--models {args.models}: expected one name, such as era5_seamless.")
    if not re.fullmatch(r"[\w+-]+(/[\w+-]+)*", args.timezone):
        raise BadInput(f"--timezone {args.timezone}: expected auto, UTC or a name such as Europe/Zurich.")
    if args.calls and not all(1 <= most < math.inf for most in args.calls):
        raise BadInput(f"--calls {' '.join(map(str, args.calls))}: limits must be 1 or more.")
    if not 0 < args.timeout_s < math.inf:
        raise BadInput(f"--timeout-s {args.timeout_s:g}: must be positive.")


def past(path: Path, sites: list) -> list:
    """The sites, if the archive can hold their days; else BadInput."""
    from data_prep.open_meteo import FIRST_DAY

    today = datetime.datetime.now(datetime.UTC).date()
    for site in sites:
        if site.start < FIRST_DAY:
            raise BadInput(
                f"{path}: site {site.name} starts on {site.start}, the archive on {FIRST_DAY}; start later."
            )
        if site.end > today:
            raise BadInput(
                f"{path}: site {site.name} ends on {site.end}, in the future; end it before today."
            )
    return sites


def host(args) -> tuple[str, str | None]:
    """Where to ask, and the key that it gets."""
    from data_prep.open_meteo import ARCHIVE, CUSTOMER

    key = args.api_key or (None if args.url else os.environ.get("OPEN_METEO_API_KEY")) or None
    url = args.url or (CUSTOMER if key else ARCHIVE)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise BadInput("--url: expected https://host/path without a query, user or password.")
    if key and parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise BadInput(f"--url {url}: a key is not sent without encryption; use https.")
    if key and not re.fullmatch(r"[!-~]+", key):
        raise BadInput("the API key holds spaces or odd characters; copy it again.")
    if not key and parts.hostname.startswith("customer-"):
        raise BadInput(f"{url} needs a key; set OPEN_METEO_API_KEY, pass --api-key, or leave --url out.")
    return url, key


def main(args) -> int:
    of_result = {name: value for name, value in vars(args).items() if name not in NOT_OF_THE_RESULT}
    files = [Path(word if Path(word).is_file() else word.split("=", 1)[-1]) for word in args.imports]
    from data_prep.sites import read_sites

    named = read_sites(args.data)
    shapes = [site.geometry_file for site in named if site.geometry_file]
    run = runs.Run(argparse.Namespace(**of_result), [args.data, *shapes, *files])
    if run.finished():
        return runs.DONE
    from data_prep import answer_cache, open_meteo, open_meteo_csv

    wanted = list(dict.fromkeys(args.variables or open_meteo.VARIABLES))
    check(args, wanted)
    url, key = host(args)
    sites = past(args.data, named)[: args.limit]
    imports = open_meteo_csv.sites_of(args.imports, sites)
    variables = wanted
    if len(imports) == len(sites):
        there = {name for path in imports.values() for name in open_meteo_csv.variables_of(path)}
        variables = [name for name in wanted if name in there]
        if not variables:
            raise BadInput(f"--import: no file has any of {', '.join(wanted)}.")
    if args.models == "best_match":
        runs.say("Warning: best_match changes from model to model over the years, which looks like a trend.")
    cache = args.cache or args.out / "cache"
    stop = runs.StopSignal()
    service = open_meteo.Service(
        None, url, budget_of(cache, url, key, args.calls), key, args.timeout_s, args.offline, args.wait,
        sleep=lambda seconds: pause(seconds, stop),
    )  # fmt: skip
    if args.dry_run:
        return plan(service, args, sites, imports, wanted, cache)
    run.begin()
    done = []
    try:
        if len(imports) == len(sites):
            figures = write(args, sites, imports, service, wanted, variables, stop, done)
        else:
            with answer_cache.opened(cache, args.offline) as service.session:
                service.budget = budget_of(cache, url, key, args.calls)  # as the run before this one left it
                figures = write(args, sites, imports, service, wanted, variables, stop, done)
    except runs.Interrupted as error:
        raise runs.Interrupted(f"{len(done)} of {len(sites)} sites are there. {error}") from None
    except open_meteo.ServiceError as error:
        kept = f"{len(done)} of {len(sites)} sites are kept in {cache}"
        print(f"weather: {error} {kept}; the same command goes on.", file=sys.stderr)
        return runs.FAILED
    return run.finish(**figures)


def budget_of(cache: Path, url: str, key: str | None, calls):
    """The calls left at a host; each host has its own record."""
    from data_prep import call_budget

    limits = calls or (None if key else call_budget.FREE)
    name = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(url).netloc)
    return call_budget.load(cache / f"calls_{name}.json", limits, time.time())


def pause(seconds: float, stop: runs.StopSignal) -> None:
    """Sleep, or raise Interrupted within a second of a signal."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        leave_if(stop)
        time.sleep(min(left, 0.5))


def leave_if(stop: runs.StopSignal) -> None:
    if stop.requested:
        raise runs.Interrupted("Answers are kept.")


def plan(service, args, sites, imports, variables, cache: Path) -> int:
    """Say what would be asked for, what it counts as and how long the limits make it last."""
    from data_prep import answer_cache, call_budget, open_meteo

    asked = [site for site in sites if site.name not in imports]
    if asked and (cache / "answers.sqlite").is_file():
        with answer_cache.opened(cache, offline=True) as service.session:  # a copy: nothing is written
            asking = {s.name: open_meteo.question(s, variables, args.models, args.timezone) for s in asked}
            asked = [site for site in asked if open_meteo.held(service, asking[site.name]) is None]
    kept = len(sites) - len(asked) - len(imports)
    runs.say(f"{len(sites)} sites: {len(imports)} imported, {kept} in the cache, {len(asked)} to ask for")
    costs = [open_meteo.weight(len(open_meteo.days_of(site)), len(variables)) for site in asked]
    where = urlsplit(service.url).netloc
    runs.say(f"would make {len(asked)} requests of {where}, which count as {sum(costs):,.0f} calls")
    if service.budget.limits:
        seconds = call_budget.forecast_s(service.budget, costs, time.time())
        limits = ", ".join(f"{most:,g} {call_budget.NAMES[s]}" for s, most in service.budget.limits)
        free = tuple(most for _, most in service.budget.limits) == call_budget.FREE
        end = f"done on day {int(seconds // call_budget.DAY_S) + 1}, {in_words(seconds)}"
        runs.say(f"within the {'free' if free else 'given'} limits ({limits}): {end}")
    return runs.DONE


def in_words(seconds: float) -> str:
    if seconds < 60:
        return "without waiting"
    return f"after {seconds / 3600:.1f} hours" if seconds >= 3600 else f"after {seconds / 60:.0f} minutes"


def write(args, sites, imports, service, wanted, variables, stop, done: list) -> dict:
    """weather.csv row by row as the answers come, then weather.json; the figures of result.json."""
    from data_prep import open_meteo, open_meteo_csv

    about, odd, rows, cached = {}, [], 0, 0
    path = args.out / "weather.csv"
    with runs.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["site", "date", *variables])
        for site in runs.progress(sites, len(sites), "sites"):
            leave_if(stop)
            if site.name in imports:
                answer = open_meteo_csv.read(imports[site.name], site, variables)
            else:
                answer, held = open_meteo.ask(service, site, wanted, args.models, args.timezone)
                cached += held
            nothing = [None] * len(answer.days)
            columns = [answer.columns.get(name, nothing) for name in variables]
            table.writerows([site.name, *row] for row in zip(answer.days, *columns, strict=True))
            about[site.name] = {
                "latitude": site.latitude, "longitude": site.longitude, "elevation_m": answer.elevation_m,
                "units": answer.units, **answer.about, "days": len(answer.days),
                "missing": missing_of(answer, variables),
            }  # fmt: skip
            odd += implausible(site.name, answer)
            rows += len(answer.days)
            done.append(site.name)
    write_about(args, about, imports, variables)
    (args.out / "implausible.csv").unlink(missing_ok=True)
    if odd:
        runs.write_csv(args.out / "implausible.csv", list(odd[0]), odd)
    missing = {name: sum(of["missing"][name] for of in about.values()) for name in variables}
    tell(args, about, imports, missing, odd, rows)
    return {
        "sites": len(sites), "days": rows, "variables": variables, "missing": missing,
        "implausible": len(odd), "requests": service.requests, "weighted_calls": service.weighted,
        "from_cache": cached,
        "imported": len(imports), "model": args.models, "source": open_meteo.SOURCE,
        "licence": open_meteo.LICENCE,
    }  # fmt: skip


def write_about(args, about: dict, imports: dict, variables) -> None:
    """weather.json; what is the same at all sites stands at its top too."""
    from data_prep import open_meteo

    zones = {of["timezone"] for of in about.values()}
    units = {
        name: of["units"][name]
        for of in reversed(about.values())
        for name in variables
        if name in of["units"]
    }
    model = args.models if len(imports) < len(about) else "not stated by the imported files"
    runs.write_json(
        args.out / "weather.json",
        {
            "source": open_meteo.SOURCE, "licence": open_meteo.LICENCE, "model": model,
            "timezone": zones.pop() if len(zones) == 1 else None, "timezone_asked_for": args.timezone,
            "units": units, "sites": about,
        },
    )  # fmt: skip


def tell(args, about: dict, imports: dict, missing: dict, odd: list, rows: int) -> None:
    """What a user should know of the values."""
    runs.say(f"{rows} days of {len(about)} sites in {args.out / 'weather.csv'}")
    gaps = ", ".join(f"{name} {count}" for name, count in missing.items() if count)
    if gaps:
        runs.say(f"missing values, left empty: {gaps}")
    for one in odd[:SHOWN]:
        what = f"{one['site']} {one['date']}: {one['variable']} {one['value']} {one['unit']}"
        runs.say(f"Warning: {what} is {one['why']}")
    if odd:
        runs.say(f"{len(odd)} implausible values are kept in weather.csv and named in implausible.csv")
    if imports and len(imports) < len(about):
        runs.say(
            "Warning: imported files do not say their model; mix them only with what you know to be the same."
        )


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
