"""Bring Sentinel-1 and -2 scenes, elevation and land cover of named places and dates from a STAC API.

    python -m data_prep.download --data sites.csv --out data/mine

In: sites.csv with site, latitude, longitude, half_width_m (or geometry: a GeoJSON file beside it), start,
end. Out: <out>/scenes/<site>/{site.json,s1,s2,dem.tif,landcover.tif} as `python -m data_prep.curate` reads
them, all on one 10 m UTM grid a site, one file a pass; downloads.jsonl: each file's source URLs, ETags,
sha256 and bytes. Backscatter is resampled in linear power, classes take the nearest pixel.

Catalogues: planetary-computer (default; Sentinel-1 RTC, linear gamma0, without angles), opera (OPERA RTC-S1
of NASA with its static angle layers, needs EARTHDATA_TOKEN; the rest from Planetary Computer), or a TOML
file of your own. Planetary Computer's key, where it asks for one, is read from PC_SDK_SUBSCRIPTION_KEY.
OPERA as such a file, where a pattern names a band's asset by the end of its file's name:

    url = "https://planetarycomputer.microsoft.com/api/stac/v1"   # of sections that name no other
    signing = "planetary-computer"   # or "none", or "bearer" as below
    signing_url = "https://planetarycomputer.microsoft.com/api/sas/v1/sign"
    [s1]
    url = "https://cmr.earthdata.nasa.gov/stac/ASF"
    signing = "bearer"
    token_env = "EARTHDATA_TOKEN"
    token_hosts = ["datapool.asf.alaska.edu", "cumulus.asf.earthdatacloud.nasa.gov"]
    collection = "OPERA_L2_RTC-S1_V1_1"
    assets = { VV = "*_VV.tif", VH = "*_VH.tif" }
    units = "linear"             # or "dB"
    backscatter = "gamma0_rtc"   # or "gamma0", "sigma0"
    id_pattern = "_T(?P<relative_orbit>[0-9]{3})-"   # where the items do not tell the track
    [s1.angles]                  # static layers of the same tracks
    collection = "OPERA_L2_RTC-S1-STATIC_V1_1"
    assets.incidence_angle = "*[0-9]_incidence_angle.tif"
    assets.local_incidence_angle = "*_local_incidence_angle.tif"
    id_pattern = "_T(?P<relative_orbit>[0-9]{3})-"
    [s2]
    collection = "sentinel-2-l2a"
    assets = { B02 = "B02", B03 = "B03", B04 = "B04", B08 = "B08", B11 = "B11", SCL = "SCL" }
    offset = "item"              # what each item tells, or a number to add: 0, -1000
    [dem]                        # optional, as [landcover]
    collection = "cop-dem-glo-30"
    assets = { elevation = "data" }

Stopped (exit 75), or with files that failed (exit 1), the same command goes on where it was.
"""

import functools
import hashlib
import json
import math
import shutil
import sys
import time
from argparse import Namespace
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

WORKERS = 8  # files at once: the servers bear it, and the wait for one is the time of another
SEARCHES = 4  # sites searched at once
DISK_MARGIN = 1.05
PIP = "python -m pip install -r requirements-extra.txt"


# ---- many at once ------------------------------------------------------------------------------------------


def in_threads(function, items: list, workers: int, connection, stop):
    """Yield (item, result or ServiceFailure) of function(item) as they end, at most `workers` at once.

    After a signal, or an error of another kind, no item more begins and the reads that run end soon.
    """
    from data_prep.remote import ServiceFailure

    queue, running = iter(items), {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(running) < workers and (item := next(queue, None)) is not None:
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    item, error = running.pop(future), future.exception()
                    if error is not None and not isinstance(error, ServiceFailure):
                        raise error
                    yield item, error or future.result()
                if stop.requested:
                    raise runs.Interrupted()
        except BaseException:
            connection.stop.set()
            raise


class Progress:
    """Lines with files done, MB/s and the time to go; one line that is renewed on a terminal."""

    def __init__(self, total: int, connection):
        self.total, self.connection, self.done = total, connection, 0
        self.began = self.said = time.time()

    def step(self) -> None:
        self.done += 1
        now, on_terminal = time.time(), sys.stderr.isatty()
        if self.done < self.total and now - self.said < (1 if on_terminal else 15):
            return
        self.said, spent = now, now - self.began
        line = (
            f"{self.done}/{self.total} files, {self.connection.moved / 1e6 / max(spent, 1e-3):.1f} MB/s, "
            f"{spent:.0f} s, about {spent / self.done * (self.total - self.done):.0f} s to go"
        )
        if on_terminal and self.done < self.total:
            print(f"\r{line} ", end="", file=sys.stderr, flush=True)
        else:
            runs.say(("\r" if on_terminal else "") + line)


def write_sites(sites, sections: dict, out: Path) -> None:
    licences = "; ".join(dict.fromkeys(s["licence"] for s in sections.values() if s.get("licence")))
    collections = ", ".join(f"{s['collection']} ({s['url']})" for s in sections.values())
    for site in sites:
        folder = out / "scenes" / site.name
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "site": site.name, "latitude": round(site.latitude, 6), "longitude": round(site.longitude, 6),
            "source": collections, "licence": licences, "start": str(site.start), "end": str(site.end),
            "crs": site.grid.crs.to_string(), "bounds_m": list(site.grid.bounds()), "pixel_m": 10,
        }  # fmt: skip
        runs.write_json(folder / "site.json", about)


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    flags = ("--data", "--out", "--config", "--workers", "--limit", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *flags, data="sites.csv")
    add = parser.add_argument
    where = "planetary-computer, opera or a TOML file"
    add("--catalog", default="planetary-computer", metavar="NAME", help=where)
    add("--max-cloud-percent", type=float, default=60, metavar="P", help="of a Sentinel-2 pass (default: 60)")
    add("--orbit-state", choices=("ascending", "descending"), help="of Sentinel-1 (default: both)")
    add("--relative-orbit", type=int, nargs="+", metavar="N", help="tracks of Sentinel-1 (default: all)")
    add("--retries", type=int, default=6, metavar="N", help="of a request that fails in passing")
    add("--backoff-s", type=float, default=1, metavar="S", help="before a retry, twice as long each time")
    parser._option_string_actions["--workers"].help = f"files at once (default: {WORKERS})"
    parser._option_string_actions["--limit"].help = "only the first N sites"
    return parser


def check(args) -> None:
    if not 0 <= args.max_cloud_percent <= 100:
        raise BadInput(f"--max-cloud-percent {args.max_cloud_percent:g}: expected 0 to 100.")
    if args.relative_orbit and not all(1 <= orbit <= 175 for orbit in args.relative_orbit):
        raise BadInput(f"--relative-orbit {args.relative_orbit}: Sentinel-1 has tracks 1 to 175.")
    if args.retries < 0 or not 0 <= args.backoff_s <= 60 or not math.isfinite(args.backoff_s):
        raise BadInput("--retries must be zero or more and --backoff-s in 0..60.")
    try:
        import pystac_client  # noqa: F401
    except ImportError:
        raise BadInput(f"pystac-client is not installed; run `{PIP}`.") from None


def main(args) -> int:
    compared = {key: value for key, value in vars(args).items() if key not in ("retries", "backoff_s")}
    own = [Path(args.catalog)] if Path(args.catalog).is_file() else []
    run = runs.Run(Namespace(**compared), [args.data, *own])
    if run.finished():
        return runs.DONE
    check(args)
    import warnings

    from data_prep import catalogs, remote, scene_files, sites

    warnings.filterwarnings("ignore", module="pystac_client")
    chosen = sites.read_sites(args.data)[: args.limit]
    sections = catalogs.read_catalog(args.catalog)
    grids = {site.name: site.grid for site in chosen}
    stop = runs.StopSignal()
    connection = remote.Connection(args.retries, args.backoff_s)
    workers = WORKERS if args.workers is None else max(1, args.workers)
    try:
        plans = plan_all(chosen, sections, connection, workers, stop, args)
        disk, moved = scene_files.estimate(plans, grids)
        counts = ", ".join(f"{sum(plan.kind == kind for plan in plans)} {kind}" for kind in scene_files.BYTES)
        runs.say(
            f"{len(plans)} files at {len(chosen)} sites ({counts}): at most {disk / 1e6:.1f} MB on disk, "
            f"about {moved / 1e6:.1f} MB to move"
        )
        if args.dry_run:
            return runs.DONE
        need_space(args.out, disk)
        if args.overwrite:
            shutil.rmtree(args.out / "scenes", ignore_errors=True)
        run.begin("downloads.jsonl")
        write_sites(chosen, sections, args.out)
        return fetch(run, plans, grids, args.out, workers, connection, stop)
    except remote.ServiceFailure as error:
        runs.say(f"download: {error}")
        return runs.FAILED


def plan_all(chosen, sections: dict, connection, workers: int, stop, args) -> list:
    """Plans of all sites in their order; every collection is checked first."""
    from data_prep import stac

    found = stac.Catalogs(connection)
    for section in sections.values():
        found.need_collection(section)
        if "angles" in section:
            found.need_collection(section["angles"])
    made = {}
    search = functools.partial(stac.plan_site, sections=sections, catalogs=found, args=args)
    for site, outcome in in_threads(search, chosen, min(workers, SEARCHES), connection, stop):
        if isinstance(outcome, Exception):
            raise outcome
        made[site.name], notes = outcome
        for note in notes:
            runs.say(note)
    return [plan for site in chosen for plan in made[site.name]]


def need_space(out: Path, disk: int) -> None:
    place = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if disk * DISK_MARGIN > free:
        raise BadInput(
            f"{out}: {free / 1e6:.0f} MB are free, up to {disk * DISK_MARGIN / 1e6:.0f} MB are needed; free "
            "space, choose another --out, or take fewer sites, dates or metres."
        )


def fetch(run, plans: list, grids: dict, out: Path, workers: int, connection, stop) -> int:
    """Bring what is not held yet, elevation first, so that a site at sea is known before its scenes."""
    from data_prep.scene_files import bring, held

    records = held(out, plans, grids)
    missing = [plan for plan in plans if plan.path not in records]
    missing.sort(key=lambda plan: plan.kind != "dem")
    if records:
        runs.say(f"{len(records)} of {len(plans)} files are there already")

    def make(plan):
        return bring(plan, grids[plan.site], out, connection)

    progress, failed = Progress(len(missing), connection), []
    with open(out / "downloads.jsonl", "a", encoding="utf-8") as log:
        for plan, outcome in in_threads(make, missing, workers, connection, stop):
            if isinstance(outcome, Exception):
                failed.append(plan.path)
                runs.say(f"failed: {plan.path}: {outcome}")
            else:
                records[plan.path] = outcome
                log.write(json.dumps(runs.plain(outcome)) + "\n")
                log.flush()
            progress.step()
    if failed:
        runs.say(
            f"{len(failed)} of {len(plans)} files failed: {', '.join(sorted(failed))}; "
            "the others are there, run the same command again for these."
        )
        return runs.FAILED
    whole = [record for record in records.values() if "sha256" in record]
    empty = sorted(record["file"] for record in records.values() if record.get("empty"))
    for name in empty:
        runs.say(f"{name}: the pass has no data at the site, left out")
    listing = "".join(f"{r['file']}\0{r['sha256']}\n" for r in sorted(whole, key=lambda r: r["file"]))
    return run.finish(
        sites=len(grids), files=len(whole), empty=empty,
        bytes=sum(record["bytes"] for record in whole),
        moved_bytes=sum(source["bytes"] for record in records.values() for source in record["sources"]),
        sha256_of_files=hashlib.sha256(listing.encode()).hexdigest(),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
