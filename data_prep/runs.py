"""The rules of a run: arguments, exit codes, atomic writes, logs, results. Standard library only."""

import argparse
import contextlib
import csv
import errno
import functools
import hashlib
import json
import math
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75
NOT_COMPARED = {
    "out",
    "config",
    "overwrite",
    "dry_run",
    "workers",
    "resume",
    "stop_after",
    "cache",
    "share",
    "collect",
}  # cannot change what a job computes

CANNOT_WRITE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENOTDIR, errno.EEXIST,
    errno.ENAMETOOLONG,
)  # fmt: skip
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{12})\.([0-9]+)\.tmp")
ALIVE: list[Path] = []  # temporary files that say to other processes: a run is at work in this folder


class BadInput(Exception):
    """Arguments or input the job cannot use; the message is one sentence: file, expected, found, fix."""


class Failed(Exception):
    """The job failed while running, for a reason that the message tells in one sentence."""


class Interrupted(Exception):
    """The job was told to stop, saved its state and can be resumed."""


# ---- arguments ---------------------------------------------------------------------------------------------

COMMON = {
    "--data": {"type": Path, "required": True, "metavar": "PATH"},
    "--out": {
        "type": Path,
        "required": True,
        "metavar": "DIR",
        "help": "the only folder this job writes into",
    },
    "--config": {"type": Path, "metavar": "TOML", "help": "defaults for any flag, one `flag = value` a line"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "same seed, same result"},
    "--device": {
        "default": "auto",
        "metavar": "NAME",
        "help": "cpu, cuda, cuda:1, mps, or auto: the GPU if there is one",
    },
    "--amp": {
        "default": "auto",
        "choices": ["auto", "off", "bf16", "fp16"],
        "help": "mixed precision; auto: where the hardware has it",
    },
    "--workers": {
        "type": int,
        "default": None,
        "metavar": "N",
        "help": "processes beside this one (default: by cores)",
    },
    "--limit": {"type": int, "metavar": "N", "help": "only the first N items, to try things out"},
    "--overwrite": {"action": "store_true", "help": "replace an output made with other arguments or input"},
    "--dry-run": {
        "action": "store_true",
        "help": "check what does not take reading it all, say what would be done, write nothing",
    },
}


class HelpWithDefaults(argparse.RawDescriptionHelpFormatter):
    """The job's docstring as it stands, and after each flag's text its default, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, value = action.help or "", action.default
        if value is None or value is False or value == argparse.SUPPRESS or "default" in text:
            return text
        shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return f"{text} (default: {shown.replace('%', '%%')})" if shown else text


def get_parser(doc: str, *common: str, data: str = "") -> argparse.ArgumentParser:
    """A parser whose help is the job's docstring, with the named common flags; `data` describes --data."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=HelpWithDefaults, allow_abbrev=False)
    for flag in common:
        extra = {"help": data} if flag == "--data" else {}
        parser.add_argument(flag, **COMMON[flag], **extra)
    return parser


def with_config(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """Put the flags of the --config file before those of the command line, so that the latter win."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path = finder.parse_known_args(argv)[0].config
    if path is None:
        return argv
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: not a readable TOML file ({error}).") from None
    tokens = []
    for key, value in settings.items():
        flag = "--" + key.replace("_", "-")
        if flag not in parser._option_string_actions or flag in ("--config", "--help"):
            raise BadInput(f"{path}: unknown setting {key!r}; see --help for the flags there are.")
        if isinstance(value, bool):
            no = "--no-" + flag[2:]
            tokens += [flag] if value else [no] if no in parser._option_string_actions else []
        elif isinstance(value, list):
            tokens += [flag, *map(str, value)]
        else:
            tokens += [f"{flag}={value}"]
    return tokens + argv


def start(main, parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Run a job as a program and turn every outcome into its exit code."""
    job = Path(sys.argv[0]).name
    try:
        args = parser.parse_args(with_config(parser, sys.argv[1:] if argv is None else argv))
        for name in ("limit", "workers", "seed"):
            value = getattr(args, name, None)
            if value is not None and value < (name == "limit"):
                raise BadInput(
                    f"--{name} {value}: must be {'positive' if name == 'limit' else 'zero or more'}."
                )
        return main(args)
    except BadInput as error:
        print(f"{job}: {error}", file=sys.stderr)
        return BAD_INPUT
    except Failed as error:
        print(f"{job}: {error}", file=sys.stderr)
        return FAILED
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"{job}: interrupted; run the same command again to go on. {error}".rstrip(), file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        where = error.filename2 or error.filename or getattr(locals().get("args"), "out", "the output")
        print(
            f"{job}: {where}: {error.strerror}; nothing half-written was left. "
            "Free space or choose another --out.",
            file=sys.stderr,
        )
        return BAD_INPUT
    finally:
        for path in ALIVE:
            path.unlink(missing_ok=True)
        if (
            "multiprocessing" in sys.modules
        ):  # workers ignore SIGTERM, so the interpreter would wait for them for ever
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for child in sys.modules["multiprocessing"].active_children():
                child.kill()


class StopSignal:
    """Remember SIGTERM, SIGINT or SIGUSR1 so that a loop can save and leave at its next safe place."""

    def __init__(self):
        self.requested = ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._remember)

    def _remember(self, number, frame):
        self.requested = signal.Signals(number).name


def ignore_signals(*_):
    """For worker processes: the parent decides when to stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


# ---- files -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: Path):
    """Yield a temporary path beside `path`; it takes the name `path` only after all of it is on disk."""
    path = Path(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, *kinds: type[Exception]):
    """Libraries report a full disk as errors of their own kinds: turn them into the OSError that it is."""
    try:
        yield
    except kinds as error:
        raise OSError(errno.ENOSPC, f"cannot be written, is the disk full? ({error})", str(path)) from None


@functools.cache
def process_space() -> str:
    """Where a pid means one process: 12 hex digits of the host, the kernel's boot and the PID namespace.

    Containers on machines of equal host name share none of it, though their pids are equal.
    """
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux
        known += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(os.stat("/proc/self/ns/pid").st_ino),
        ]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:12]


def temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{process_space()}.{os.getpid()}.tmp")


def is_dead(path: Path, idle_s: float = 24 * 3600) -> bool:
    """Whether a killed run left this temporary file.

    Of this machine and container: if its process is dead. Of others: if nobody touched it for `idle_s`
    seconds.
    """
    match = TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    space, pid = match.groups()
    try:
        if space != process_space():
            return time.time() - path.stat().st_mtime >= idle_s
        os.kill(int(pid), 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except PermissionError:  # alive, another user's
        return False
    return False


def sweep(folder: Path, idle_s: float = 24 * 3600) -> None:
    """Delete temporary files that killed runs left in `folder`, see is_dead."""
    for place, _, files in os.walk(folder):
        for path in (Path(place, name) for name in files):
            if is_dead(path, idle_s):
                with contextlib.suppress(PermissionError):  # another user's
                    path.unlink(missing_ok=True)


def nothing_made(folder: Path) -> bool:
    """Whether a run that began in `folder` made nothing yet; a log and empty files are nothing."""
    for place, folders, files in os.walk(folder):
        if any(os.path.islink(os.path.join(place, name)) for name in (*folders, *files)):
            return False
        for path in (Path(place, name) for name in files):
            if path.name not in ("args.json", "log.jsonl") and not is_dead(path) and path.stat().st_size:
                return False
    return True


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(value):
    """`value` as strict JSON holds it: paths as text, numpy numbers as numbers, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pretty(value) -> str:
    return json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, value) -> None:
    write_text(path, pretty(value))


def write_csv(path: Path, columns, rows) -> None:
    """Write dicts as CSV; None is an empty field, keys outside `columns` are left out."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def walk(folder: Path, leave_out: Path | None = None):
    """Every file under a folder, in order, links followed once, but nothing of the folder `leave_out`."""
    seen = set()
    for place, names, files in os.walk(folder, followlinks=True):
        here = os.stat(place)
        left_out = leave_out and leave_out.exists() and os.path.samefile(place, leave_out)
        if left_out or (here.st_dev, here.st_ino) in seen:
            names.clear()  # a loop of links
            continue
        seen.add((here.st_dev, here.st_ino))
        names.sort()
        yield from (Path(place, name) for name in sorted(files))


def fingerprint(path: Path, out: Path | None = None) -> dict:
    """What tells inputs apart: a content hash for small tables and checkpoints, else names, sizes, times.

    What lies in the folder `out`, where the job writes, is no input.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder.")
    if path.is_file():
        state = path.stat()
        if path.suffix in (".csv", ".json", ".pt", ".pth", ".safetensors", ".toml"):
            with open(path, "rb") as stream:
                return {"path": str(path), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
        return {"path": str(path), "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    digest, count, size = hashlib.sha256(), 0, 0
    inside = out is not None and not (out.exists() and os.path.samefile(out, path))
    for name in walk(path, out if inside else None):
        where, length, changed = os.path.relpath(name, path), 0, 0
        if name.exists():  # a link to nowhere is its name alone
            length, changed = name.stat().st_size, name.stat().st_mtime_ns
        digest.update(f"{where}\0{length}\0{changed}\n".encode())
        count, size = count + 1, size + length
    return {"path": str(path), "files": count, "bytes": size, "sha256_of_listing": digest.hexdigest()}


def triplets_inputs(folder: Path) -> list[Path]:
    """What tells a triplets folder from another: its manifest, and the arguments and input of its making."""
    found = [Path(folder) / name for name in ("triplets.csv", "args.json")]
    return [path for path in found if path.exists()] if found[0].exists() else [Path(folder)]


# ---- a run -------------------------------------------------------------------------------------------------


class Run:
    """One job writing one output folder."""

    def __init__(self, args: argparse.Namespace, inputs: list[Path]):
        self.out, self.started = Path(args.out), time.time()
        self.overwrite, self.share = args.overwrite, getattr(args, "share", None)
        self.arguments = plain({key: value for key, value in vars(args).items() if key not in NOT_COMPARED})
        self.inputs = {str(path): fingerprint(path, self.out) for path in inputs}

    def before(self, name: str) -> dict | None:
        """What `name` in `out` says of the run that began there; refuses one of other arguments or input.

        None without such a run, and where one began, was refused or killed, and made nothing: this run takes
        the folder over, unless tasks of an array share it, which may have begun this very moment.
        """
        try:
            before = json.loads((self.out / name).read_text(encoding="utf-8"))
            if name == "args.json" and self.arguments.get("skip_bad"):
                before["arguments"]["skip_bad"] = True  # nothing bad is among what was done without it
            changed = differences(before, {"arguments": self.arguments, "inputs": self.inputs})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{self.out / name}: not written by this job; choose another --out.") from None
        if changed and name == "args.json" and not self.share and nothing_made(self.out):
            return None
        if changed:
            raise BadInput(
                f"{self.out}: made with other arguments or input ({'; '.join(changed)}); "
                "choose another --out or pass --overwrite."
            )
        return before

    def finished(self) -> bool:
        """True if `out` holds this very result already (then printed again); refuses to mix with another."""
        if self.overwrite:
            return False
        result = self.before("result.json")
        if result is None:
            self.before("args.json")
            return False
        say(f"{self.out}: already done, skipped.")
        print(json.dumps(result), flush=True)
        return True

    def begin(self, *restart: str) -> None:
        """Make the folder ready: the arguments are on record, what a killed run left is gone.

        restart: files of a partly done run, deleted with --overwrite so that nothing old is gone on from.
        """
        if self.out.exists() and not self.out.is_dir():
            raise BadInput(f"{self.out}: is a file; --out names a folder.")
        self.out.mkdir(parents=True, exist_ok=True)
        sweep(self.out)
        path, text = self.out / "args.json", pretty({"arguments": self.arguments, "inputs": self.inputs})
        if self.overwrite:
            for name in ("result.json", "log.jsonl", *restart):
                (self.out / name).unlink(missing_ok=True)
        elif self.share:
            self.before("args.json")  # another task may have begun since finished() looked
        elif nothing_made(self.out):
            (self.out / "log.jsonl").unlink(missing_ok=True)
        if not self.share:
            ALIVE.append(temporary_name(self.out / "running"))
            ALIVE[-1].write_text("a run is at work here\n")
        if not path.exists() or path.read_bytes() != text.encode():  # tasks do not replace each other's
            write_text(path, text)

    def log(self, **fields) -> None:
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain({"time": round(time.time(), 3), **fields})) + "\n")

    def cut_log(self, keep) -> list[dict]:
        """Records of log.jsonl for which keep(record); the rest, and a line cut by a kill, are removed."""
        path, records = self.out / "log.jsonl", []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if keep(record):
                    records.append(record)
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        return records

    def finish(self, **figures) -> int:
        """Write result.json and print it on stdout's last line."""
        result = plain(
            {
                **figures,
                "seconds": time.time() - self.started,
                "peak_memory_mib": peak_memory_mib(),
                "arguments": self.arguments,
                "inputs": self.inputs,
                "versions": versions(),
                "git_commit": git_commit(),
            }
        )
        write_json(self.out / "result.json", result)
        print(json.dumps(result, ensure_ascii=False), flush=True)
        return DONE


def differences(before: dict, now: dict) -> list[str]:
    """What differs, in words; inputs that only one of the two has where no argument tells of them."""
    old, new = before["arguments"], now["arguments"]
    found = []
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            was, value = ("not given" if v is None else repr(v) for v in (old.get(key), new.get(key)))
            told = isinstance(new.get(key), dict)
            found.append(f"{key} has changed" if told else f"{key} was {was}, is {value}")
    one_sided = not found
    for path in sorted({*before["inputs"], *now["inputs"]}):
        was, value = before["inputs"].get(path), now["inputs"].get(path)
        if was and value and was != value:
            found.append(f"the content of {path} has changed")
        elif was != value and one_sided:
            found.append(f"{path} is {'new' if value else 'not there any more'}")
    return found


def peak_memory_mib() -> float:
    """Largest resident size of this process or of any one child that has ended."""
    import resource

    own, children = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    with contextlib.suppress(
        OSError, AttributeError
    ):  # on Linux ru_maxrss starts at the size of who started us
        own = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    return max(own, children) / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def versions() -> dict:
    loaded = (
        "torch",
        "torchvision",
        "numpy",
        "rasterio",
        "pandas",
        "scipy",
        "sklearn",
        "statsmodels",
        "matplotlib",
    )
    return {
        "python": platform.python_version(),
        **{
            name: sys.modules[name].__version__
            for name in loaded
            if hasattr(sys.modules.get(name), "__version__")
        },
    }


def git_commit() -> str | None:
    """The commit of this code, with + when tracked files differ from it; None outside git."""
    try:
        git = ["git", "-C", str(Path(__file__).parent), "-c", "safe.directory=*"]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
        return head + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def core_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def counted(count, name: str) -> str:
    """A count and what is counted: "1 site", "2,000 sites"."""
    return f"{count:,.0f} {name}{'s' * (count != 1)}"


def say(text: str) -> None:
    """A line for people; stdout is kept for the result."""
    print(text, file=sys.stderr, flush=True)


def progress(items, total: int, label: str, every_s: float = 15):
    """Yield the items with a bar on a terminal, or a plain line with ETA now and then elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label)
        return
    began = said = time.time()
    for done, item in enumerate(items, 1):
        yield item
        now = time.time()
        if now - said >= every_s:
            said, spent = now, now - began
            say(f"{label} {done}/{total}, {spent:.0f} s, about {spent / done * (total - done):.0f} s to go")
