import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, THREADS, command, refuse, result, run, write_site

from data_prep import runs, shares

JOBS = ("infer_unet.py", "curate")
MAPPING_IS_SLOW = (pytest.param("infer_unet.py", marks=pytest.mark.slow), "curate")


def words_of(job, data, out, trained):
    weights = ("--weights", trained / "best.pt") if job == "infer_unet.py" else ()
    return ("--data", data, "--out", out, "--workers", 0, *weights)


def tree(out):
    """Every file of an output and its bytes; of the result the figures alone, of the journal its lines."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    kept = json.loads(found.pop("result.json"))
    for name in ("seconds", "peak_memory_mib", "versions", "git_commit"):
        del kept[name]
    found["result"] = kept
    if "journal.jsonl" in found:
        found["journal.jsonl"] = sorted(found["journal.jsonl"].splitlines())
    return found


def states(out):
    """What must not change of a finished item: the i-node and the time of every file but a process's own."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.rglob("*")
        if path.is_file() and path.suffix != ".jsonl" and not path.name.startswith(".")
    }


def submit(job, *words):
    environment = {**os.environ, **THREADS}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(job, *words), cwd=ROOT, env=environment, **quiet)


@pytest.fixture(scope="module")
def plain(world, trained, tmp_path_factory):
    """The outputs of plain runs of both jobs over the world."""
    base = tmp_path_factory.mktemp("plain")
    for job in JOBS:
        run(job, *words_of(job, world, base / job, trained))
    return base


# ---- the rule ----------------------------------------------------------------------------------------------


def test_shares_cover_every_item_once():
    items = list(range(11))
    for parts in (1, 3, 11, 40):
        dealt = [shares.mine(items, (k, parts)) for k in range(parts)]
        assert (
            sorted(i for part in dealt for i in part) == items
            and max(map(len, dealt)) - min(map(len, dealt)) <= 1
        )
    assert shares.mine(items, None) == items and shares.parse("3/40") == (3, 40)


@pytest.mark.parametrize("text", ["4/3", "3/3", "x", "-1/2", "0/0", "1", "1/2/3", "1.0/2", "", "0/", " 0/2"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(runs.BadInput, match="K from 0 to N-1"):
        shares.parse(text)


@pytest.mark.parametrize("job", JOBS)
def test_flags_that_exclude_each_other(job, world, trained, tmp_path):
    words = words_of(job, world, tmp_path / "out", trained)
    refuse(job, *words, "--share=-1/2", saying="--share -1/2: expected K/N")
    refuse(job, *words, "--share", "0/2", "--collect", saying="exclude each other")
    refuse(job, *words, "--share", "0/2", "--overwrite", saying="would delete what other tasks did")
    refuse(job, *words, "--collect", "--overwrite", saying="would delete what other tasks did")
    assert not (tmp_path / "out").exists()


def test_only_scenes_are_shared_when_mapping(world, triplets_folder, trained, tmp_path):
    scene = next((world / "site-0" / "s1").glob("*.tif"))
    for data in (triplets_folder, scene):
        for flag in (("--share", "0/2"), ("--collect",)):
            words = words_of("infer_unet.py", data, tmp_path / "out", trained)
            refuse("infer_unet.py", *words, *flag, saying="are for a folder of scenes")


# ---- equal to a plain run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
def test_shares_and_collection_equal_a_plain_run(job, world, trained, plain, tmp_path):
    words = words_of(job, world, tmp_path, trained)
    lines = [result(run(job, *words, "--share", f"{k}/3")) for k in (0, 1)]
    assert lines == [{"share": f"{k}/3", "done": 4, "skipped": 0, "left_out": []} for k in (0, 1)]
    early = run(job, *words, "--collect", code=1)
    assert "Traceback" not in early.stderr and "are not done" in early.stderr and "site-" in early.stderr
    assert not (tmp_path / "result.json").exists() and not list(tmp_path.glob("*.csv"))
    before = states(tmp_path)
    again = result(run(job, *words, "--share", "1/2"))  # another number of tasks than before
    assert again["done"] == 2 and again["skipped"] == 4
    run(job, *words, "--share", "0/2")
    after = states(tmp_path)
    assert {path: after[path] for path in before} == before
    got = result(run(job, *words, "--collect"))
    assert tree(tmp_path) == tree(plain / job) and "share" not in got["arguments"]
    assert "already done" in run(job, *words, "--share", "2/3").stderr


@pytest.mark.parametrize("job", MAPPING_IS_SLOW)
def test_two_tasks_on_one_share_at_once(job, world, trained, plain, tmp_path):
    words = words_of(job, world, tmp_path, trained)
    tasks = [submit(job, *words, "--share", "0/1") for _ in range(2)]
    assert [(task.communicate()[1], task.returncode)[1] for task in tasks] == [0, 0]
    run(job, *words, "--collect")
    assert tree(tmp_path) == tree(plain / job)


@pytest.mark.parametrize("job", MAPPING_IS_SLOW)
def test_killed_at_random_and_submitted_again(job, world, trained, plain, tmp_path):
    """Tasks die by SIGKILL wherever they are; what was finished is never touched again."""
    dice, words, left = random.Random(job), words_of(job, world, tmp_path, trained), {0, 1, 2}
    finished = {}
    for attempt in range(40):
        pair = sorted(left)[:2]
        tasks = {share: submit(job, *words, "--share", f"{share}/3") for share in pair}
        if attempt < 6:
            until = time.time() + (dice.uniform(0, 1) if len(records(tmp_path)) > attempt else 60)
            while time.time() < until and len(records(tmp_path)) <= attempt:
                time.sleep(0.02)
            time.sleep(dice.uniform(0, 0.3))
            for task in tasks.values():
                task.kill()
        for share, task in tasks.items():
            said = task.communicate(timeout=120)[1]
            assert task.returncode in (0, -signal.SIGKILL), said
            left -= {share} if task.returncode == 0 else set()
        now = states(tmp_path)
        assert {path: now[path] for path in finished} == finished
        finished = {path: now[path] for path in now if is_finished(path, tmp_path)}
        if not left:
            break
    assert attempt > 2  # there were kills
    run(job, *words, "--collect")
    assert tree(tmp_path) == tree(plain / job)


def records(out):
    """What says that an item is done: records of scenes, whole lines of journals."""
    lines = [line for path in out.glob("journal*") for line in path.read_bytes().splitlines(True)]
    return [*out.rglob("*_snow_cover.json"), *(line for line in lines if line.endswith(b"\n"))]


def is_finished(path, out):
    if path.name.endswith((".tif", ".json")) and list(out.rglob("*_snow_cover.json")):
        stem = path.name.rsplit("_", 1)[0] if path.suffix == ".tif" else path.stem
        return (path.parent / f"{stem}_snow_cover.json").exists()
    return any(path.name.encode() in line for line in records(out) if isinstance(line, bytes))


# ---- broken items ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoilt(world, tmp_path_factory):
    """The world with one radar scene cut short: (scenes folder, the broken file)."""
    scenes = tmp_path_factory.mktemp("spoilt") / "scenes"
    shutil.copytree(world, scenes)
    bad = sorted((scenes / "site-2" / "s1").glob("*.tif"))[0]
    bad.write_bytes(bad.read_bytes()[:4000])
    return scenes, bad


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_broken_item_is_named_and_the_rest_done(job, spoilt, trained, tmp_path):
    scenes, bad = spoilt
    out = tmp_path / "out"
    words = words_of(job, scenes, out, trained)
    done = run(job, *words, "--share", "0/1", code=2)
    assert result(done) == {"share": "0/1", "done": 11, "skipped": 0, "left_out": []}
    last = done.stderr.strip().splitlines()[-1]
    assert (
        "1 of 12 items of share 0/1 could not be done" in last and bad.name in last and "--skip-bad" in last
    )
    early = run(job, *words, "--collect", code=1).stderr.strip().splitlines()
    assert len(early) == 1 and "1 of " in early[0] and "site-2" in early[0] and str(bad) in early[0]
    before = states(out)
    leave = result(run(job, *words, "--share", "0/2", "--skip-bad"))
    assert leave["done"] == 1 and len(leave["left_out"]) == 1 and bad.name in leave["left_out"][0]
    run(job, *words, "--share", "1/2", "--skip-bad")
    got = result(run(job, *words, "--collect", "--skip-bad"))
    after = states(out)
    gone = [path for path in before if path not in after]
    assert all(path.name.endswith(shares.WHY) for path in gone)
    same = [path for path in before if path in after and path.name != "args.json"]
    assert {path: after[path] for path in same} == {path: before[path] for path in same}
    run(job, *words_of(job, scenes, tmp_path / "plain", trained), "--skip-bad")
    assert tree(out) == tree(tmp_path / "plain")
    if job == "curate":
        assert got["rejected"] == {"unreadable": 1} and got["kept"] == 11
    else:
        assert got["scenes"] == 11 and bad.name in got["left_out"][0]
    refuse(job, *words, "--share", "0/1", saying="skip_bad was True")


def test_a_site_without_its_reference_is_broken_as_a_whole(tmp_path):
    for number, name in enumerate(("a", "b")):
        site = write_site(tmp_path / "scenes", name, number, dates=("2021-01-10", "2021-02-03"))
        summer = site / "s1" / "2020-07-10T053000_044.tif"
        shutil.copy(next(site.glob("s1/2021-01-10*")), summer)
    summer.write_bytes(summer.read_bytes()[:4000])
    words = ("--data", tmp_path / "scenes", "--out", tmp_path / "out", "--workers", 2)
    done = run("curate", *words, "--share", "0/1", code=2)
    assert result(done)["done"] == 3 and summer.name in done.stderr.strip().splitlines()[-1]
    early = run("curate", *words, "--collect", code=1).stderr
    assert "1 of 2 sites" in early and "b, 3 pairs" in early and summer.name in early
    assert list((tmp_path / "out" / "ref" / "a").iterdir()) and not list(tmp_path.glob("out/ref/b/*"))


def test_more_shares_than_items_a_limit_and_a_dry_run(world, trained, tmp_path):
    words = (*words_of("curate", world, tmp_path / "out", trained), "--limit", 3)
    assert result(run("curate", *words, "--share", "7/8"))["done"] == 0
    assert result(run("curate", *words, "--share", "1/2"))["done"] == 1  # of two sites in three pairs
    words = (*words_of("infer_unet.py", world, tmp_path / "map", trained), "--limit", 3, "--dry-run")
    assert "would map 2 scenes" in run("infer_unet.py", *words, "--share", "0/2").stderr
    assert not (tmp_path / "map").exists()


def test_signalled_a_share_can_be_resumed(world, trained, tmp_path):
    words = words_of("infer_unet.py", world, tmp_path, trained)
    task = submit("infer_unet.py", *words, "--share", "0/1")
    until = time.time() + 60
    while time.time() < until and not records(tmp_path):
        time.sleep(0.02)
    task.send_signal(signal.SIGUSR1)
    said = task.communicate(timeout=60)[1]
    assert task.returncode == 75 and "of 12 scenes are done" in said
    line = result(run("infer_unet.py", *words, "--share", "0/1"))
    assert line["skipped"] > 0 and line["done"] + line["skipped"] == 12


# ---- journals ----------------------------------------------------------------------------------------------


def test_an_older_single_journal_and_cut_lines_are_gone_on_from(world, plain, tmp_path):
    """A single journal, its last line cut by a kill, and one of a task, cut as well."""
    whole = plain / "curate"
    shutil.copytree(whole, tmp_path / "out")
    for name in ("result.json", "triplets.csv", "rejected.csv", "journal.jsonl"):
        (tmp_path / "out" / name).unlink()
    lines = (whole / "journal.jsonl").read_bytes().splitlines(True)
    (tmp_path / "out" / "journal.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:100])
    (tmp_path / "out" / "journal-a.jsonl").write_bytes(lines[5] + lines[2] + lines[6][:-1])
    kept = [path for path in states(tmp_path / "out") if path.suffix == ".tif"]
    before = {path: value for path, value in states(tmp_path / "out").items() if path in kept}
    run("curate", "--data", world, "--out", tmp_path / "out", "--workers", 0)
    after = states(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(whole)
    redone = [path for path in before if after[path] != before[path]]
    assert {path.stem for path in redone} == {
        record["id"] for line in lines[6:] for record in json.loads(line)["records"]
    }


def test_a_scene_that_appears_while_tasks_run_is_an_other_input(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1, dates=("2021-01-10", "2021-02-03"))
    words = ("--data", tmp_path / "scenes", "--out", tmp_path / "scenes" / "out", "--workers", 0)
    run("curate", *words, "--share", "0/2")  # an output inside the input is no input
    run("curate", *words, "--share", "1/2")
    late = site / "s1" / "2021-02-20T053000_044.tif"
    shutil.copy(next(site.glob("s1/2021-02-03*")), late)
    refuse("curate", *words, "--collect", saying="has changed")
    late.unlink()
    run("curate", *words, "--collect")
