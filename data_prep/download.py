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
    id_pattern = "_T(?P<relative_orbit>[0-9]{3})-.*_(?P<platform>S1[A-D])_"   # where items do not tell them
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

Stopped (exit 75), or with files that failed (exit 1), the same command goes on where it was. downloads.jsonl
knows what each file was made of: after a change of sites.csv, or of filters with --overwrite, only what is
new is fetched, and of the files that it names those no longer planned are deleted; nothing else ever is.
It needs the network: on a cluster it is for the login node, or for an array where the nodes have one: each
task adds --share K/N and brings its own sites; after them the command with --collect needs none.
"""

import contextlib
import hashlib
import json
import math
import shutil
import sys
from argparse import Namespace
from pathlib import Path

from data_prep import runs, shares
from data_prep.runs import BadInput

WORKERS = 8  # files at once: the servers bear it, and the wait for one is the time of another
SEARCHES = 4  # sites searched at once
DISK_MARGIN = 1.05
NAMED = 5  # files in a sentence
GIVE_UP = 20  # failures in a row: the service is gone, not a file of it
PIP = "python -m pip install -r requirements-extra.txt"


def write_sites(sites, sections: dict, out: Path) -> None:
    from data_prep.remote import without_query

    licences = "; ".join(dict.fromkeys(s["licence"] for s in sections.values() if s.get("licence")))
    collections = ", ".join(f"{s['collection']} ({without_query(s['url'])})" for s in sections.values())
    for site in sites:
        folder = out / "scenes" / site.name
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "site": site.name, "latitude": round(site.latitude, 6), "longitude": round(site.longitude, 6),
            "source": collections, "licence": licences, "start": str(site.start), "end": str(site.end),
            "crs": site.grid.crs.to_string(), "bounds_m": list(site.grid.bounds()), "pixel_m": 10,
        }  # fmt: skip
        runs.write_json(folder / "site.json", about)


def in_words(count: float) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} bytes"


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    flags = ("--data", "--out", "--config", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *flags, data="sites.csv")
    add = parser.add_argument
    add("--workers", type=int, metavar="N", help=f"files at once (default: {WORKERS})")
    add("--limit", type=int, metavar="N", help="only the first N sites")
    add("--skip-bad", action="store_true", help="leave out, by name, files that are gone or of no use")
    where = "planetary-computer, opera or a TOML file"
    add("--catalog", default="planetary-computer", metavar="NAME", help=where)
    add("--max-cloud-percent", type=float, default=60, metavar="P", help="of a Sentinel-2 pass (default: 60)")
    add("--orbit-state", choices=("ascending", "descending"), help="of Sentinel-1 (default: both)")
    add("--relative-orbit", type=int, nargs="+", metavar="N", help="tracks of Sentinel-1 (default: all)")
    add("--retries", type=int, default=6, metavar="N", help="of a request that fails in passing")
    shares.add_flags(parser)
    add("--backoff-s", type=float, default=1, metavar="S", help="before a retry, twice as long each time")
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
    from data_prep import sites

    shares.check(args)
    chosen = sites.read_sites(args.data)[: args.limit]
    patience = ("retries", "backoff_s", "skip_bad")
    compared = {key: value for key, value in vars(args).items() if key not in patience}
    own = [Path(args.catalog)] if Path(args.catalog).is_file() else []
    shapes = [site.geometry_file for site in chosen if site.geometry_file]
    run = runs.Run(Namespace(**compared), [args.data, *shapes, *own])
    run.overwrite = args.overwrite or only_sites_changed(run, own)
    if run.finished():
        return runs.DONE
    if args.collect:
        return collect(run, chosen, args)
    check(args)
    import warnings

    from data_prep import catalogs, journals, remote

    warnings.filterwarnings("ignore", module="pystac_client")
    sections = catalogs.read_catalog(args.catalog)
    stop = runs.StopSignal()
    connection = remote.Connection(args.retries, args.backoff_s)
    workers = WORKERS if args.workers is None else max(1, args.workers)
    try:
        if args.share:
            mine = shares.mine(chosen, args.share)
            return bring_share(run, mine, sections, workers, connection, stop, args)
        plans, _ = plan_all(chosen, sections, connection, workers, stop, args)
        if args.dry_run:
            sort_out(plans, chosen, journals.recorded(args.out), args.out)
            return runs.DONE
        with journals.alone(args.out):
            return bring_all(run, plans, chosen, sections, workers, connection, stop, args)
    except remote.ServiceFailure as error:
        runs.say(f"download: {error}")
        return runs.FAILED


def only_sites_changed(run, own: list[Path]) -> bool:
    """Whether the output was made with these arguments and catalogue, but of another sites.csv."""
    try:
        before = json.loads((run.out / "args.json").read_text(encoding="utf-8"))
        same = all(before["inputs"].get(str(path)) == run.inputs[str(path)] for path in own)
        return before["arguments"] == run.arguments and same and before["inputs"] != run.inputs
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def plan_all(chosen, sections: dict, connection, workers: int, stop, args) -> tuple[list, dict[str, str]]:
    """(plans of all sites in their order, why sites have none); every collection is checked first.

    A site that cannot be planned ends the run, but not that of a share.
    """
    from data_prep import stac
    from data_prep.threads import in_threads

    found = stac.Catalogs(connection)
    needed = [*sections.values(), *(one["angles"] for one in sections.values() if "angles" in one)]
    for _, outcome in in_threads(found.need_collection, needed, SEARCHES, connection, stop):
        if outcome is not None:
            raise outcome
    made, broken = {}, {}

    def search(site):
        try:
            return stac.plan_site(site, sections, found, args)
        except BadInput as error:
            if not args.share:
                raise
            return [], [str(error)], str(error)

    for site, outcome in in_threads(search, chosen, min(workers, SEARCHES), connection, stop):
        if isinstance(outcome, Exception):
            raise outcome
        made[site.name], notes, *why = outcome
        if why:
            broken[site.name] = why[0]
        for note in notes:
            runs.say(note)
    return [plan for site in chosen for plan in made[site.name]], broken


def sort_out(plans: list, chosen: list, records: dict, out: Path) -> tuple[dict, list, set]:
    """(records of files that stay, plans to fetch, files planned no more), and a sentence about them."""
    from data_prep import journals, scene_files

    grids = {site.name: site.grid for site in chosen}
    kept = journals.held(records, out, plans, grids)
    missing = [plan for plan in plans if plan.path not in kept]
    dropped = set(records) - {plan.path for plan in plans}
    disk, moved = scene_files.estimate(missing, grids)
    counts = ", ".join(f"{sum(plan.kind == kind for plan in plans)} {kind}" for kind in scene_files.BYTES)
    runs.say(
        f"{len(plans)} files at {len(chosen)} sites ({counts}): {len(kept)} are there already, "
        f"{len(missing)} to fetch, {len(dropped)} planned no more; at most {in_words(disk)} on disk, "
        f"about {in_words(moved)} to move"
    )
    return kept, missing, dropped


def need_space(out: Path, disk: int) -> None:
    place = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if disk * DISK_MARGIN > free:
        raise BadInput(
            f"{out}: {in_words(free)} are free, up to {in_words(disk * DISK_MARGIN)} are needed; free space, "
            "choose another --out, or take fewer sites, dates or metres."
        )


def bring_all(run, plans: list, chosen: list, sections: dict, workers: int, connection, stop, args) -> int:
    """Delete what is planned no more, fetch what is missing, write the result."""
    from data_prep import journals, scene_files

    out, grids = args.out, {site.name: site.grid for site in chosen}
    records = journals.recorded(out)
    kept, missing, dropped = sort_out(plans, chosen, records, out)
    if dropped and run.overwrite and not args.overwrite:
        raise BadInput(
            f"{args.data}: changed so that {len(dropped)} files of {out} are planned no more, such as "
            f"{min(dropped)}; pass --overwrite to delete them, or choose another --out."
        )
    need_space(out, scene_files.estimate(missing, grids)[0])
    run.begin()
    journals.drop(dropped, records, out, set(grids))
    for name in sorted(dropped)[:NAMED]:
        runs.say(f"{name}: planned no more, deleted" + (", and others" if len(dropped) > NAMED else ""))
    write_sites(chosen, sections, out)
    journal = out / "downloads.jsonl"
    fetched, failed, skipped = fetch(missing, kept, grids, workers, connection, stop, args, journal)
    if failed:
        return say_failed(failed, len(plans), args)
    for name in skipped:  # nor may the file of an earlier plan stand for it
        if name in records:
            (out / name).unlink(missing_ok=True)
    return conclude(run, [plan.path for plan in plans], kept | fetched, sorted(skipped), len(chosen))


def say_failed(failed: list[str], count: int, args) -> int:
    runs.say(
        f"{len(failed)} of {count} files failed: {named(failed)}; "
        "the others are there, run the same command again for these"
        + (", or with --skip-bad to do without." if not args.skip_bad else ".")
    )
    return runs.FAILED


def conclude(run, planned: list[str], records: dict, skipped: list[str], sites: int) -> int:
    """Write the result of the files that were planned, in that order, from their records."""
    if skipped:
        runs.say(
            f"{len(skipped)} of {len(planned)} files left out: {named(skipped)}; --overwrite asks again."
        )
    fetched = [records[name] for name in planned if name not in skipped]
    whole = sorted((record for record in fetched if "sha256" in record), key=lambda record: record["file"])
    empty = sorted(record["file"] for record in fetched if record.get("empty"))
    for name in empty:
        runs.say(f"{name}: the pass has no data at the site, or not the orbit state; left out")
    listing = "".join(f"{record['file']}\0{record['sha256']}\n" for record in whole)
    return run.finish(
        sites=sites, files=len(whole), empty=empty, skipped=skipped,
        incomplete=[record["file"] for record in whole if "missing_items" in record],
        bytes=sum(record["bytes"] for record in whole),
        moved_bytes=sum(source["bytes"] for record in fetched for source in record["sources"]),
        sha256_of_files=hashlib.sha256(listing.encode()).hexdigest(),
    )  # fmt: skip


def named(files: list[str]) -> str:
    return ", ".join(sorted(files)[:NAMED]) + (", ..." if len(files) > NAMED else "")


# ---- as an array of jobs -----------------------------------------------------------------------------------


def bring_share(run, own: list, sections: dict, workers: int, connection, stop, args) -> int:
    """Plan the sites of a share that are not finished, put the plans on record, fetch what is missing."""
    from data_prep import journals, scene_files

    out, grids = args.out, {site.name: site.grid for site in own}
    with contextlib.ExitStack() as stack:
        journal = None
        if not args.dry_run:
            stack.enter_context(journals.alone(out, with_others=True))
            journal = stack.enter_context(journals.own_journal(out, args.share, stop))
        files, sites = journals.read_journals(out)
        todo = [site for site in own if journals.lacking(site, files, sites, out, excuse=args.skip_bad)]
        plans, broken = plan_all(todo, sections, connection, workers, stop, args) if todo else ([], {})
        names = {site.name for site in todo}
        records = {name: record for name, record in files.items() if Path(name).parts[1] in names}
        kept, missing, _ = sort_out(plans, todo, records, out)
        if args.dry_run:
            return runs.DONE
        need_space(out, scene_files.estimate(missing, grids)[0])
        run.begin()
        write_sites([site for site in todo if site.name not in broken], sections, out)
        journals.note(journal, [journals.site_record(site, plans, broken.get(site.name)) for site in todo])
        _, failed, skipped = fetch(missing, kept, grids, workers, connection, stop, args, journal)
        for name in skipped:
            if name in files:
                (out / name).unlink(missing_ok=True)
        bad = [plan for plan in missing if plan.path in skipped]
        journals.note(journal, [journals.left_out(plan, grids, skipped) for plan in bad])
    unfinished = {*broken, *(Path(name).parts[1] for name in failed)}
    left_out = [f"{name}: {why}" for name, why in journals.excused(out, own).items()]
    shares.finish(args.share, len(todo) - len(unfinished), len(own) - len(todo), left_out, [])
    code = say_failed(failed, len(plans), args) if failed else runs.DONE
    if broken:
        raise BadInput(
            f"{len(broken)} of {len(own)} sites of the share could not be planned, the rest was tried: "
            f"{shares.some(list(broken.values()))}. Mend {args.data}."
        )
    return code


def collect(run, chosen: list, args) -> int:
    """Merge the journals of all shares and write the result, if every planned file of every site is there."""
    from data_prep import catalogs, journals

    out = args.out
    files, sites = journals.read_journals(out)
    absent, planned = {}, []
    for site in chosen:
        absent |= journals.lacking(site, files, sites, out, excuse=True)
        planned += sites.get(site.name, {}).get("files", [site.name])
    if absent:
        raise shares.missing(out, "files and sites", len(planned), absent)
    records = {name: record for name, record in files.items() if "left_out" not in record}
    dropped = set(records) - set(planned)
    if dropped:
        raise BadInput(
            f"{out}: {len(dropped)} of its files are planned no more, such as {min(dropped)}; run without "
            "--collect and with --overwrite to delete them, or choose another --out."
        )
    if args.dry_run:
        runs.say(f"all {len(planned)} files are there")
        return runs.DONE
    with journals.alone(out):
        run.begin()
        write_sites(chosen, catalogs.read_catalog(args.catalog), out)
        code = conclude(run, planned, records, sorted(set(planned) - set(records)), len(chosen))
        journals.drop(set(), records, out, {site.name for site in chosen})  # last: plans are collected from
        return code


def fetch(missing: list, kept: dict, grids: dict, workers: int, connection, stop, args, journal: Path):
    """(records, files that failed, why --skip-bad leaves files out) of what is missing.

    Elevation comes first, so that a site at sea is known before its scenes. Radar in other units than the
    catalogue states ends the run, unless other files have shown that the catalogue is right.
    """
    from data_prep.remote import BadFile
    from data_prep.scene_files import BadUnits, bring
    from data_prep.threads import Progress, in_threads

    def make(plan):
        return bring(plan, grids[plan.site], args.out, connection, args.skip_bad)

    missing = sorted(missing, key=lambda plan: plan.kind != "dem")
    units_known = args.skip_bad or any("/s1/" in name and "sha256" in kept[name] for name in kept)
    records, failed, skipped, in_a_row = {}, [], {}, 0
    progress, tasks = Progress(len(missing), connection), in_threads(make, missing, workers, connection, stop)
    with open(journal, "a", encoding="utf-8") as log, contextlib.closing(tasks):
        for plan, outcome in tasks:
            if not isinstance(outcome, Exception):
                records[plan.path], in_a_row = outcome, 0
                units_known |= plan.kind == "s1" and "sha256" in outcome
                log.write(json.dumps(runs.plain(outcome)) + "\n")
                log.flush()
            elif isinstance(outcome, BadUnits) and not units_known:
                raise BadInput(
                    f"{plan.path}: {outcome}; the catalogue's [s1] must state what the values of "
                    f"{plan.section['collection']} are."
                )
            else:
                bad = args.skip_bad and isinstance(outcome, BadFile)
                if bad:
                    skipped[plan.path] = str(outcome)
                else:
                    failed.append(plan.path)
                in_a_row += not bad
                runs.say(f"{'left out' if bad else 'failed'}: {plan.path}: {outcome}")
            progress.step()
            if in_a_row == GIVE_UP:
                runs.say(f"{GIVE_UP} failures in a row: gave up, {len(missing) - progress.done} not tried")
                break
    return records, failed, skipped


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
