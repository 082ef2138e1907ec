"""Answers of a web service kept on disk by requests-cache, for one run at a time.

    with opened(Path("cache"), offline=False) as session:

Needs requests-cache, and runs.py beside it.
"""

import contextlib
import fcntl
import sqlite3
import tempfile
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

LOCKED_S = 30  # to wait for a run that writes; it does so for moments
SECRET = ("apikey",)  # of what is asked, never written


@contextlib.contextmanager
def opened(cache: Path, offline: bool):
    """A session of requests-cache on a folder that no other run uses meanwhile; offline, on a copy of it."""
    try:
        import requests_cache
    except ImportError:
        pip = "python -m pip install -r requirements-extra.txt"
        raise BadInput(f"requests-cache is not installed; run `{pip}`.") from None

    path = cache / "answers.sqlite"
    with contextlib.ExitStack() as stack:
        if offline and not path.is_file():
            raise BadInput(
                f"--offline: {cache} holds no answers; run once without --offline, or name --cache."
            )
        if offline:  # sqlite would write beside a file that it only reads
            path = copied(path, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        else:
            stack.enter_context(alone(cache))
            check_database(path)
        # json, not pickle: reading a cache must not run what somebody put into it
        backend = requests_cache.SQLiteCache(path, serializer="json")
        session = stack.enter_context(
            requests_cache.CachedSession(backend=backend, ignored_parameters=SECRET)
        )
        session.headers["User-Agent"] = "SnowSAR data_prep.weather"
        yield session


@contextlib.contextmanager
def alone(cache: Path):
    """Hold the folder's lock: one run at a time asks, so that no two requests are ever in flight."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        probe = runs.temporary_name(cache / "probe")
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        stream = open(cache / "lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise BadInput(
            f"--cache {cache}: cannot be written ({error.strerror}); name another folder."
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(f"--cache {cache}: another run uses it; wait for that, or name another.") from None
        yield


def copied(path: Path, folder: Path) -> Path:
    """A whole copy of a database in `folder`, by sqlite itself: another run may be writing to it."""
    copy = folder / path.name
    with (
        usable(path),
        contextlib.closing(sqlite3.connect(path, timeout=LOCKED_S)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.execute("SELECT count(*) FROM sqlite_master")  # backup() would wait for a lock for ever
        source.backup(target)
    return copy


@contextlib.contextmanager
def usable(path: Path):
    """An error of sqlite's as a BadInput."""
    try:
        yield
    except sqlite3.Error as error:
        raise BadInput(
            f"{path}: no cache that can be used ({error}); delete it if no run uses it, or name another."
        ) from None


def check_database(path: Path) -> None:
    """BadInput for a file that is no database; requests-cache would wait for it for ever."""
    if path.exists():
        with usable(path), contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.rollback()
