"""The journal of a curation: a line a finished candidate, a file a process, joined when all are through."""

import contextlib
import itertools
import json
import secrets
from pathlib import Path

from data_prep import runs, shares

JOURNAL = "journal.jsonl"  # of a finished run; until then journal-*.jsonl, one a process


def read_journals(out: Path) -> tuple[dict[int, tuple[Path, int]], dict[int, str]]:
    """Where each finished candidate's line is (file, byte), and what was unreadable.

    Every process writes a journal of its own; a line cut short by a kill counts for nothing. An unreadable
    candidate that is finished is left out, another one was met by a share and is to be mended.
    """
    places, left_out, broken = {}, {}, {}
    for path in sorted(out.glob("journal*.jsonl")):
        position = 0
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:  # joined by now
            for line in stream:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line if line.endswith(b"\n") else b"")
                    if "broken" in entry:
                        broken[entry["candidate"]] = entry["broken"]
                    elif entry["candidate"] not in places:
                        places[entry["candidate"]] = path, position
                        left_out.update((entry["candidate"], why) for why in unreadable(entry["records"]))
                position += len(line)
    return places, {n: why for n, why in broken.items() if n not in places} | left_out


def unreadable(records: list[dict]) -> list[str]:
    return [record["reason"] for record in records if record["rule"] == "unreadable"]


@contextlib.contextmanager
def new_journal(out: Path):
    """Yield note(number, records or why there are none), which adds a line to a journal of this process."""
    with contextlib.ExitStack() as stack:
        streams = []

        def note(number: int, outcome: list[dict] | str) -> None:
            if not streams:  # a process that has nothing to do leaves no empty file
                path = out / f"journal-{secrets.token_hex(8)}.jsonl"
                streams.append(stack.enter_context(open(path, "xb")))
            entry = {"candidate": number, "broken" if isinstance(outcome, str) else "records": outcome}
            streams[0].write(json.dumps(runs.plain(entry)).encode() + b"\n")
            streams[0].flush()

        yield note


def join_journals(out: Path, candidates) -> dict[int, int]:
    """Make one journal of all; returns where each candidate's line is there. Failed if one has no line.

    candidates: (number, name of its site) of all.
    """
    places, why = read_journals(out)
    lacking: dict[str, list[int]] = {}
    sites = set()
    for number, site in candidates:
        sites.add(site)
        if number not in places:
            lacking.setdefault(site, []).append(number)
    if lacking:
        absent = {
            f"{site}, {len(numbers)} pairs": next((why[n] for n in numbers if n in why), "")
            for site, numbers in lacking.items()
        }
        raise shares.missing(out, "sites", len(sites), absent)
    starts = {}
    with runs.atomic(out / JOURNAL) as temporary, open(temporary, "wb") as joined:
        by_file = sorted((path, position, number) for number, (path, position) in places.items())
        for path, lines in itertools.groupby(by_file, key=lambda line: line[0]):
            with open(path, "rb") as stream:
                for _, position, number in lines:
                    stream.seek(position)
                    starts[number] = joined.tell()
                    joined.write(stream.readline())
    for path in out.glob("journal-*.jsonl"):
        path.unlink(missing_ok=True)
    return starts


def records_by_site(journal: Path, places: dict[int, int]):
    """Yield the records of each site in the order of the candidates; holds one site at a time."""

    def ordered():
        with open(journal, "rb") as stream:
            for number in sorted(places):
                stream.seek(places[number])
                yield from json.loads(stream.readline())["records"]

    for _, records in itertools.groupby(ordered(), key=lambda record: record["site"]):
        yield list(records)
