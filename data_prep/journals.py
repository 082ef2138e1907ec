"""What a download leaves on record: a journal of files, and of sites in the shares of an array; its locks.

downloads.jsonl is a plain run's. A share has a journal of its own, downloads-K-of-N.jsonl, until a collection
or a plain run makes one of all.
"""

import contextlib
import fcntl
import json
import re
import time
from pathlib import Path

from data_prep import runs
from data_prep.passes import Plan
from data_prep.rasters import Grid
from data_prep.runs import BadInput
from data_prep.scene_files import planned

JOURNALS = "downloads-*.jsonl"
FILE = re.compile(r"scenes/[A-Za-z0-9][A-Za-z0-9._-]*/(s[12]/[A-Za-z0-9_-]+|dem|landcover)\.tif")


# ---- who writes --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(out: Path, with_others: bool = False):
    """Hold the output folder's lock: two runs at once would write the same files and records.

    with_others: beside others who hold it so, the shares of an array.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a+") as stream:
        if not lock(stream, fcntl.LOCK_SH if with_others else fcntl.LOCK_EX):
            raise BadInput(f"{out}: another download writes into it; wait for that, or choose another --out.")
        yield


@contextlib.contextmanager
def own_journal(out: Path, share: tuple[int, int], stop):
    """The journal of a share, held; another task at the very same share is waited for."""
    path = out / "downloads-{}-of-{}.jsonl".format(*share)
    with open(path, "a", encoding="utf-8") as stream:
        waiting = False
        while not lock(stream, fcntl.LOCK_EX):
            if not waiting:
                runs.say(f"{path.name}: another task is at this share, waiting for that")
            waiting = True
            if stop.requested:
                raise runs.Interrupted()
            time.sleep(0.2)
        end_line(path)
        yield path


def end_line(journal: Path) -> None:
    """End a line that a kill cut, or the next record would be one with it; nobody else may be writing."""
    with open(journal, "ab+") as stream:
        if stream.seek(0, 2):
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":
                stream.write(b"\n")


def lock(stream, how: int) -> bool:
    """Whether the lock of an open file is held now; where the file system has none, it is done without."""
    try:
        fcntl.flock(stream, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        runs.say(f"{stream.name}: cannot be locked ({error.strerror}); take care that no other writes there")
    return True


def note(journal: Path, records: list[dict]) -> None:
    with open(journal, "a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(runs.plain(record)) + "\n" for record in records)


# ---- what is there -----------------------------------------------------------------------------------------


def read_journals(out: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """(records by file, plans by site) of downloads.jsonl and the shares' journals, the newest of each.

    Not lines cut by a kill or naming no scene. A file that was left out has a record with `left_out`: why.
    """
    lines, files, sites = [], {}, {}
    for path in [out / "downloads.jsonl", *sorted(out.glob(JOURNALS))]:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError, AttributeError):
                record = json.loads(line)
                lines.append((record.get("at", 0), record))
    for _, record in sorted(lines, key=lambda line: line[0]):
        with contextlib.suppress(KeyError, TypeError):
            if "site" in record:
                sites[record["site"]] = record
            elif FILE.fullmatch(record["file"]):
                files[record["file"]] = record
    return files, sites


def recorded(out: Path) -> dict[str, dict]:
    """Records by file of those that were brought."""
    return {name: record for name, record in read_journals(out)[0].items() if "left_out" not in record}


def is_held(record: dict, digest: str, out: Path) -> bool:
    """Whether a record is of a file that is whole and still what is planned (see `planned`)."""
    if record.get("planned") != digest or "left_out" in record:
        return False
    file = out / record["file"]
    return bool(record.get("empty")) or (file.is_file() and file.stat().st_size == record.get("bytes"))


def held(records: dict[str, dict], out: Path, plans: list[Plan], grids: dict[str, Grid]) -> dict[str, dict]:
    """The records whose files are whole and still what is planned."""
    return {
        plan.path: records[plan.path]
        for plan in plans
        if plan.path in records and is_held(records[plan.path], planned(plan, grids[plan.site]), out)
    }


def site_record(site, plans: list[Plan], broken: str | None) -> dict:
    """What a share puts on record of a site before it brings its files: all that a collection must find.

    broken: why the site cannot be planned, if so.
    """
    files = {plan.path: planned(plan, site.grid) for plan in plans if plan.site == site.name}
    found = {"broken": broken} if broken else {"files": files}
    return {"site": site.name, "of": asked(site), **found, "at": time.time()}


def left_out(plan: Plan, grids: dict[str, Grid], why: dict[str, str]) -> dict:
    """The record of a file that --skip-bad does without; why: reasons by file."""
    digest = planned(plan, grids[plan.site])
    return {"file": plan.path, "planned": digest, "left_out": why[plan.path], "at": time.time()}


def asked(site) -> list[str]:
    """What the plan of a site depends on in sites.csv; arguments and catalogue are compared by the run."""
    return [str(site.start), str(site.end), str(site.grid)]


def lacking(site, files: dict[str, dict], sites: dict[str, dict], out: Path, excuse: bool) -> dict[str, str]:
    """{name: reason or ""} of the files of a site that are not there; of the site itself without a plan.

    excuse: whether those that were left out, of this very plan, count as there.
    """
    plan = sites.get(site.name, {})
    if plan.get("of") != asked(site) or "files" not in plan:
        return {site.name: plan.get("broken", "")}
    absent = {}
    for name, digest in plan["files"].items():
        record = files.get(name, {})
        excused = excuse and "left_out" in record and record.get("planned") == digest
        if not excused and not is_held(record, digest, out):
            absent[name] = record.get("left_out", "")
    return absent


def excused(out: Path, chosen: list) -> dict[str, str]:
    """{file: why} of the files that were left out of the sites' plans."""
    files, sites = read_journals(out)
    names = [name for site in chosen for name in sites.get(site.name, {}).get("files", ())]
    return {name: files[name]["left_out"] for name in names if "left_out" in files.get(name, {})}


def drop(names: set[str], records: dict[str, dict], out: Path, sites: set[str]) -> None:
    """Delete recorded files that are planned no more, and what else was written of a site not in `sites`.

    downloads.jsonl keeps the other records, of shares too. Files that no record names are nobody's to delete.
    """
    for name in names:
        (out / name).unlink(missing_ok=True)
    for site in {Path(name).parts[1] for name in names} - sites:
        folder = out / "scenes" / site
        if not any(path.is_file() and path.name != "site.json" for path in folder.rglob("*")):
            (folder / "site.json").unlink(missing_ok=True)
            for place in (folder / "s1", folder / "s2", folder):
                with contextlib.suppress(OSError):
                    place.rmdir()
    kept = [json.dumps(record) + "\n" for name, record in records.items() if name not in names]
    runs.write_text(out / "downloads.jsonl", "".join(kept))
    for path in out.glob(JOURNALS):
        path.unlink(missing_ok=True)
