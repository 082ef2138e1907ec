import argparse
import errno
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import JOBS, ROOT

from data_prep import runs

ALL_JOBS = ["train_unet.py", "infer_unet.py", *JOBS.values()]


def job(tmp_path, **more):
    return argparse.Namespace(out=tmp_path / "out", overwrite=False, seed=0, **more)


@pytest.mark.parametrize("name", ALL_JOBS)
def test_help_is_fast_and_shows_how_to_run(name):
    command = [
        sys.executable,
        *(["-m", name] if "." in name and not name.endswith(".py") else [name]),
        "--help",
    ]
    times = []
    for _ in range(3):
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        times.append(time.time() - began)
        assert done.returncode == 0 and "python " in done.stdout and "--out" in done.stdout
    assert min(times) < 0.7


@pytest.mark.parametrize(
    "name", ["infer_unet", *(f"data_prep.{job}" for job in ("curate", "split", "sample"))]
)
def test_every_flag_has_a_help_text(name):
    parser = importlib.import_module(name).get_parser()
    assert [action.dest for action in parser._actions if not action.help] == []


def test_jobs_import_no_jobs_and_libraries_not_each_other():
    tops = {path.stem for path in ROOT.glob("*.py")}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("data_prep/*.py"), *ROOT.glob("models/*.py")]:
        for line in path.read_text().splitlines():
            words = line.split()
            if not words or words[0] not in ("import", "from"):
                continue
            module = words[1].split(".")[0]
            assert module not in tops, f"{path.name}: {line}"
            if path.parent.name == "models":
                assert module != "data_prep", f"{path.name}: {line}"
            if path.parent.name == "data_prep":
                assert module != "models", f"{path.name}: {line}"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), runs.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine, here = runs.temporary_name(tmp_path / "a"), runs.process_space()
    theirs, elsewhere = tmp_path / f".b.{here}.{dead.pid}.tmp", "0123456789ab"
    other, old = (tmp_path / f".{name}.{elsewhere}.{dead.pid}.tmp" for name in "co")
    for path in (mine, theirs, other, old, tmp_path / "d.tif", tmp_path / ".a.user.1.tmp"):
        path.write_text("x")
    os.utime(old, (time.time() - 25 * 3600,) * 2)  # a day on, whoever wrote it is dead
    runs.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {mine.name, other.name, "d.tif", ".a.user.1.tmp"}
    runs.sweep(tmp_path, idle_s=0)
    assert {p.name for p in tmp_path.iterdir()} == {mine.name, "d.tif", ".a.user.1.tmp"}


def test_a_live_process_in_another_container_keeps_its_file(tmp_path):
    """Equal host names, and its pid means nobody here: a sweep must not take it for dead."""
    space = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*space, "true"], capture_output=True).returncode:
        pytest.skip("a PID namespace cannot be made here (needs root)")
    say = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from data_prep import runs; "
    with runs.atomic(tmp_path / "a") as temporary:
        temporary.write_text("whole")
        sweep = say + f"runs.sweep({str(tmp_path)!r}); print(runs.process_space())"
        done = subprocess.run([*space, sys.executable, "-c", sweep], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_text() == "whole" and done.stdout.strip() != runs.process_space()


def test_tasks_that_begin_at_once_share_one_record(tmp_path):
    """Eight of one kind are all at home and leave one whole record; of another kind one is refused."""
    say = (
        f"import argparse, sys, time; sys.path.insert(0, {str(ROOT)!r}); from data_prep import runs\n"
        "out, tile, at = sys.argv[1:]\n"
        "from pathlib import Path\n"
        "args = argparse.Namespace(out=Path(out), overwrite=False, share=(0, 8), tile=int(tile))\n"
        "run = runs.Run(args, [])\n"
        "try:\n    run.finished()\n    time.sleep(max(0, float(at) - time.time()))\n    run.begin()\n"
        "except runs.BadInput:\n    sys.exit(2)\n"
    )
    at = time.time() + 2
    tasks = [
        subprocess.Popen([sys.executable, "-c", say, str(tmp_path / "out"), "256", str(at)]) for _ in range(8)
    ]
    assert [task.wait() for task in tasks] == [0] * 8
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["args.json"]
    state = (tmp_path / "out" / "args.json").stat()
    again = [sys.executable, "-c", say, str(tmp_path / "out")]
    assert subprocess.run([*again, "256", "0"]).returncode == 0
    assert (tmp_path / "out" / "args.json").stat().st_ino == state.st_ino
    assert subprocess.run([*again, "128", "0"]).returncode == 2


def test_a_refused_run_leaves_the_folder_to_the_corrected_one(tmp_path):
    """Nothing was made: other arguments take over. Something was, or tasks share the folder: refused."""
    out = tmp_path / "out"
    begin = "import argparse, sys; from pathlib import Path; from data_prep import runs\n" + (
        "def main(args):\n    runs.Run(args, []).begin()\n    raise runs.BadInput('no such thing.')\n"
        "parser = runs.get_parser('doc', '--out', '--overwrite')\n"
        "parser.add_argument('--width', type=int)\nsys.exit(runs.start(main, parser))\n"
    )
    words = [sys.executable, "-c", begin, "--out", str(out), "--width", "1"]
    assert subprocess.run(words, cwd=ROOT).returncode == 2
    assert [path.name for path in out.iterdir()] == ["args.json"]
    (out / "sar" / "empty").mkdir(parents=True)
    (out / "journal.jsonl").touch()
    (out / "log.jsonl").write_text('{"epoch": 0}\n')
    dead = subprocess.Popen(["true"])
    dead.wait()
    (out / "sar" / f".x.tif.{runs.process_space()}.{dead.pid}.tmp").write_text("half")
    shared = runs.Run(job(tmp_path, width=2, share=(0, 2)), [])
    with pytest.raises(runs.BadInput, match="other arguments or input"):
        shared.finished()
    (out / "sar" / "link").symlink_to(tmp_path)
    with pytest.raises(runs.BadInput, match="width was 1, is 2"):
        runs.Run(job(tmp_path, width=2), []).finished()
    (out / "sar" / "link").unlink()
    corrected = runs.Run(job(tmp_path, width=2), [])
    assert not corrected.finished()
    corrected.begin()
    assert json.loads((out / "args.json").read_text())["arguments"]["width"] == 2
    assert not (out / "log.jsonl").exists()  # of the other arguments
    with pytest.raises(runs.BadInput, match="width was 2, is 3"):  # `corrected` is at work, in this process
        runs.Run(job(tmp_path, width=3), []).finished()
    runs.ALIVE.pop().unlink()
    (out / "a.tif").write_text("made")
    with pytest.raises(runs.BadInput, match="width was 2, is 3"):
        runs.Run(job(tmp_path, width=3), []).finished()


def test_a_refusal_tells_what_changed_in_words(tmp_path):
    files = [tmp_path / name for name in ("a.csv", "b.csv", "c.csv")]
    for path in files:
        path.write_text("1")
    first = job(tmp_path, data=files[0], weather=None)
    runs.Run(first, files[:2]).begin()
    (tmp_path / "out" / "made.csv").write_text("1")

    def refusal(args, inputs):
        with pytest.raises(runs.BadInput) as refused:
            runs.Run(args, inputs).finished()
        assert "{" not in str(refused.value)
        return str(refused.value).split("(")[1].split(")")[0]

    other = job(tmp_path, data=files[2], weather="w.csv")
    data = f"data was '{files[0]}', is '{files[2]}'"
    assert refusal(other, files[1:]) == f"{data}; weather was not given, is 'w.csv'"
    files[1].write_text("2")
    assert refusal(first, files[:2]) == f"the content of {files[1]} has changed"
    files[1].write_text("1")
    assert refusal(first, files[:1]) == f"{files[1]} is not there any more"
    assert refusal(first, files) == f"{files[2]} is new"


def test_going_on_may_leave_out_what_is_bad_but_not_the_reverse(tmp_path):
    runs.Run(job(tmp_path, skip_bad=False), []).begin()
    (tmp_path / "out" / "mask.tif").write_text("made")
    lenient = runs.Run(job(tmp_path, skip_bad=True), [])
    assert not lenient.finished()
    lenient.begin()
    with pytest.raises(runs.BadInput, match="skip_bad was True, is False"):
        runs.Run(job(tmp_path, skip_bad=False), []).finished()


def test_an_output_that_others_make_meanwhile_is_no_input(tmp_path, monkeypatch):
    """The folder --out lies in --data and comes into being after the look whether it is there."""
    (tmp_path / "x.tif").write_text("1")
    before, out = runs.fingerprint(tmp_path, tmp_path / "out"), tmp_path / "out"
    walk = runs.walk

    def late(*words):
        out.mkdir()
        (out / "mask.tif").write_text("1")
        return walk(*words)

    monkeypatch.setattr(runs, "walk", late)
    assert runs.fingerprint(tmp_path, out) == before


def test_json_is_strict():
    import numpy as np

    value = runs.plain(
        {"a": float("nan"), "b": Path("x"), 1: (np.float32(2), np.array([1, 2])), "c": float("inf")}
    )
    assert value == {"a": None, "b": "x", "1": [2.0, [1, 2]], "c": None}


def test_result_tells_what_changed(tmp_path, capsys):
    (tmp_path / "in.csv").write_text("a")
    run = runs.Run(job(tmp_path, width=1), [tmp_path / "in.csv"])
    assert not run.finished()
    run.begin()
    run.finish(figure=1.5)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figure"] == 1.5
    assert runs.Run(job(tmp_path, width=1), [tmp_path / "in.csv"]).finished()
    with pytest.raises(runs.BadInput, match="width was 1, is 2"):
        runs.Run(job(tmp_path, width=2), [tmp_path / "in.csv"]).finished()
    (tmp_path / "in.csv").write_text("b")
    with pytest.raises(runs.BadInput, match=r"in\.csv has changed"):
        runs.Run(job(tmp_path, width=1), [tmp_path / "in.csv"]).finished()
    again = job(tmp_path, width=1)
    again.overwrite = True
    assert not runs.Run(again, [tmp_path / "in.csv"]).finished()


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("[1]")
    with pytest.raises(runs.BadInput, match="not written by this job"):
        runs.Run(job(tmp_path), []).finished()


def test_fingerprints_see_a_new_file_and_a_changed_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.tif").write_text("1")
    prints = [runs.fingerprint(tmp_path)]
    (tmp_path / "a" / "y.tif").write_text("1")
    prints.append(runs.fingerprint(tmp_path))
    (tmp_path / "a" / "y.tif").write_text("22")
    prints.append(runs.fingerprint(tmp_path))
    assert len({p["sha256_of_listing"] for p in prints}) == 3
    with pytest.raises(runs.BadInput, match="no such"):
        runs.fingerprint(tmp_path / "nowhere")


def test_fingerprints_pass_links_to_nowhere_and_the_output(tmp_path):
    (tmp_path / "x.tif").write_text("1")
    before = runs.fingerprint(tmp_path, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "args.json").write_text("{}")
    assert runs.fingerprint(tmp_path, tmp_path / "out") == before != runs.fingerprint(tmp_path)
    assert runs.fingerprint(tmp_path, tmp_path)["files"] == 2  # an output that is the input hides nothing
    (tmp_path / "loop").symlink_to(tmp_path)
    assert runs.fingerprint(tmp_path, tmp_path / "out") == before
    (tmp_path / "note.txt").symlink_to("/nowhere/at/all")
    assert runs.fingerprint(tmp_path, tmp_path / "out")["files"] == 2


def test_outcomes_become_exit_codes(tmp_path, capsys):
    def outcome(error):
        def main(args):
            raise error

        return runs.start(main, runs.get_parser("doc", "--out"), ["--out", str(tmp_path)])

    assert outcome(runs.BadInput("a.tif: broken.")) == 2
    assert outcome(runs.Interrupted("half")) == 75
    assert outcome(KeyboardInterrupt()) == 75
    assert outcome(OSError(errno.ENOSPC, "No space left on device", "a.tif")) == 2
    assert "a.tif: No space left on device; nothing half-written" in capsys.readouterr().err
    for number in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
        assert outcome(OSError(number, os.strerror(number), "a.tif")) == 2
    parser = runs.get_parser("doc", "--out", "--seed")
    assert runs.start(lambda args: 0, parser, ["--out", str(tmp_path), "--seed", "-1"]) == 2
    assert "--seed -1: must be zero or more" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        outcome(ZeroDivisionError())


def test_a_truly_full_disk(tmp_path):
    """A file system of 300 kB: curation stops with a sentence and leaves whole files only."""
    from conftest import refuse, write_site

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        write_site(tmp_path / "scenes", "a", 1, height=200, width=200, dates=("2021-01-10", "2021-01-22"))
        refuse(
            "curate",
            "--data",
            tmp_path / "scenes",
            "--out",
            disk / "out",
            "--workers",
            0,
            saying="nothing half-written",
        )
        assert not list(disk.rglob("*.tmp")) and not (disk / "out" / "triplets.csv").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
