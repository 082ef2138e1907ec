"""A job's items dealt out to the tasks of an array (--share K/N), and the collection at the end (--collect).

All tasks and the collection write into one --out; an item is done when its record is on disk, whoever did it.
Standard library only.
"""

import argparse
import json
import re
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput, Failed

WHY = ".broken.txt"
IDLE_S = 600  # of a temporary file whose writer cannot be asked whether it lives
NAMED = 5  # items that a sentence about missing ones names


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--share K/N (args.share: None or a pair of ints) and --collect (args.collect: bool)."""
    add = parser.add_argument
    add("--share", type=parse, metavar="K/N", help="do only items K, K+N, K+2N, ... (K from 0), no result")
    add("--collect", action="store_true", help="do no item; make the result of all that the shares did")


def parse(text: str) -> tuple[int, int]:
    """(K, N) of "K/N"; anything but 0 <= K < N is a BadInput."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise BadInput(f"--share {text}: expected K/N with K from 0 to N-1, as 3/40; mend the share.")
    return int(match[1]), int(match[2])


def check(args: argparse.Namespace) -> None:
    """Refuse what --share and --collect cannot go with; call it before anything else."""
    if args.share and args.collect:
        raise BadInput("--share and --collect exclude each other: run the shares, then collect once.")
    if args.overwrite and (args.share or args.collect):
        raise BadInput(
            "--overwrite with --share or --collect would delete what other tasks did; remove the folder of "
            "--out or choose another, then submit without it."
        )


def mine(items: list, share: tuple[int, int] | None) -> list:
    """The items of a share, of all of them without one."""
    return items[share[0] :: share[1]] if share else items


def write_why(record: Path, reason: str) -> None:
    """Put beside the place of an item's record why it has none; the item is tried again all the same."""
    runs.write_text(record.with_suffix(WHY), reason)


def read_why(record: Path) -> str:
    """The reason that write_why left, "" without one."""
    path = record.with_suffix(WHY)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def tidy(out: Path) -> None:
    """For a collection that lacks nothing: take away what killed tasks of any machine left in `out`.

    Of other machines', what nobody touched for IDLE_S: a task there may just be repeating a finished item.
    """
    runs.sweep(out, IDLE_S)
    for path in Path(out).rglob(f"*{WHY}"):
        path.unlink(missing_ok=True)


def finish(share: tuple[int, int], done: int, skipped: int, left_out: list[str], broken: list[str]) -> int:
    """Print the share's line on stdout; BadInput if some items could not be done.

    done: items whose record was written now; skipped: whose record was there; left_out: reasons on record
    (--skip-bad), among either; broken: reasons of items that have no record.
    """
    line = {"share": "{}/{}".format(*share), "done": done, "skipped": skipped, "left_out": left_out}
    print(json.dumps(runs.plain(line), ensure_ascii=False), flush=True)
    if broken:
        total = done + skipped + len(broken)
        raise BadInput(
            f"{len(broken)} of {total} items of share {line['share']} could not be done: {some(broken)}. "
            "Leave them out with --skip-bad, or mend them (scenes: for another --out); the rest is done."
        )
    return runs.DONE


def missing(out: Path, kind: str, total: int, absent: dict[str, str]) -> Failed:
    """What to raise when a collection lacks items. kind: "scenes"; absent: {name: reason or ""}."""
    names = [f"{name} ({reason.rstrip('.')})" if reason else name for name, reason in absent.items()]
    return Failed(
        f"{out}: {len(absent)} of {total} {kind} are not done, run their shares again: {some(names)}."
    )


def some(texts: list[str]) -> str:
    texts = list(dict.fromkeys(text.rstrip(".") for text in texts))
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return "; ".join([*texts[:NAMED], *more])
