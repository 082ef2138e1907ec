"""slurm/: what would be sent, and a true SLURM that runs it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cluster import started
from conftest import ROOT, THREADS, run, write_site

SENT = re.compile(r"^job_(\d+)=\$\(sbatch --parsable (.*)\)$", re.MULTILINE)


@pytest.fixture(scope="module")
def cluster():
    with started(MINISLURM_GPUS=2) as found:
        yield found


def submit(code=0, **settings) -> str:
    """slurm/submit.sh without a cluster; returns what it prints."""
    env = {**os.environ, **THREADS, **{name: str(value) for name, value in settings.items()}}
    words = [str(ROOT / "slurm" / "submit.sh")]
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def dry(**settings) -> dict[str, dict]:
    """{name of a job: its number, dependency, options, file, words} of a dry run; a collection is NAME+."""
    jobs = {}
    for number, line in SENT.findall(submit(**{"DRY_RUN": 1, **settings})):
        options, file, words = re.fullmatch(r"(.*?) ?slurm/(\w+\.sbatch) (.*)", line).groups()
        name = re.search(r"--job-name=(\S+)", options)[1]
        after = re.search(r"--dependency=(\S+) --kill-on-invalid-dep=yes", options)
        job = {"number": number, "options": options, "file": file, "words": words}
        jobs[name + "+" * (name in jobs)] = {**job, "after": after[1] if after else ""}
    return jobs


# ---- what would be sent ------------------------------------------------------------------------------------


def test_the_steps_are_the_runbooks_word_for_word(tmp_path):
    settings = {"DRY_RUN": "1", "OUT": str(tmp_path / "a run"), "BANDS": "vv,elevation"}
    book = subprocess.run(
        [str(ROOT / "runbook.sh")], capture_output=True, text=True, env={**os.environ, **settings}
    )
    said = submit(**settings)
    steps = re.findall(r"^\[(\d+) (\w+)\] \.venv/bin/python (.*)$", book.stderr, re.MULTILINE)
    assert len(steps) == 23
    jobs = dry(**settings)
    for number, name, words in steps:
        if name in ("sample", "weights"):  # what wants the network is no job
            assert f".venv/bin/python {words}\n" in said and f"{number}_{name}" not in jobs
            continue
        job = jobs.pop(f"{number}_{name}")
        given = job["words"].removesuffix(" --overwrite")  # of the page, made of whatever is there
        assert words.endswith(given) and given  # a file that knows its job is told the rest
        assert (given == words) == (job["file"] in ("job.sbatch", "train.sbatch"))
        if "--array" in job["options"]:
            collected = jobs.pop(f"{number}_{name}+")
            assert collected["words"] == f"{words} --collect"
            assert collected["after"].split(",")[-1] == f"afterany:$job_{job['number']}"
    assert not jobs
    assert not (tmp_path / "a run").exists()


def test_overwrite_counts_until_the_old_result_is_gone(tmp_path):
    """A start that fell with its node before it began must not make the next one go on from old work."""
    (tmp_path / "srun").write_text('#!/bin/sh\nshift 3; echo "$*"\n')
    (tmp_path / "srun").chmod(0o755)
    out = tmp_path / "a run"
    out.mkdir()

    def words(starts_before: int) -> str:
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_PYTHON": "python"}
        env |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n", "SLURM_RESTART_COUNT": str(starts_before)}
        code = ["bash", "-c", '. slurm/start.sh; run "$@"', "x", "a.py", "--out", str(out), "--overwrite"]
        return subprocess.run(code, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout

    (out / "result.json").write_text("{}")
    assert words(0) == words(1) == f"task python a.py --out {out} --overwrite\n"
    (out / "result.json").unlink()
    assert words(0) == f"task python a.py --out {out} --overwrite\n"
    assert words(1) == f"task python a.py --out {out}\n"


def test_jobs_wait_for_those_they_read_from():
    jobs = dry()
    number = {name: f"$job_{job['number']}" for name, job in jobs.items()}

    def waits_for(name):
        return set(jobs[name]["after"].replace(",", ":").split(":")[1:])

    assert waits_for("1_simulate") == set()
    assert waits_for("2_curate") == {number["1_simulate"]}
    assert waits_for("3_split") == {number["2_curate+"]}
    assert waits_for("7_map") == {number["1_simulate"], number["2_curate+"], number["4_train"]}
    assert waits_for("9_climate") == {number["1_simulate"], number["8_cover"]}
    assert waits_for("11_curate") == set()  # of the sample, here already
    assert waits_for("20_embed") == {number["3_split"], number["19_pairs"]}
    assert waits_for("22_embed") == {number["12_split"], number["21_pairs"]}


def test_arrays_have_as_many_tasks_as_items(world, tmp_path):
    def size(job):
        return re.search(r"--array=0-(\d+)", job["options"])[1]

    jobs = dry(DATA=world, OUT=tmp_path / "run")  # six sites of two scenes
    assert size(jobs["2_curate"]) == "5" and size(jobs["7_map"]) == "11"
    jobs = dry(DATA=world, OUT=tmp_path / "run", TASKS=4)
    assert size(jobs["2_curate"]) == size(jobs["7_map"]) == "3"
    assert size(dry(SIZE="tiny", OUT=tmp_path / "run")["17_sam"]) == "1"  # --sample 2
    assert size(dry(OUT=tmp_path / "run")["18_probe"]) == "1"  # a network and its floor
    jobs = dry(DATA=world, OUT=tmp_path / "run", TASKS=1)  # one task is no array
    assert "--array" not in jobs["7_map"]["options"] and "7_map+" not in jobs


def test_options_reach_the_jobs_they_are_for(tmp_path):
    jobs = dry(CPU="--partition=thin", GPU="--gres=gpu:1", TRAIN="--nodes=2 --ntasks-per-node=4", FROM=3)
    on_gpu = {name for name, job in jobs.items() if "--gres=gpu:1" in job["options"]}
    assert {name for name in jobs if "--partition=thin" in jobs[name]["options"]} == set(jobs) - on_gpu
    steps = (4, "train"), (5, "score"), (7, "map"), (13, "train"), (14, "score"), (17, "sam"), (18, "probe")
    more = (19, "pairs"), (20, "embed"), (21, "pairs"), (22, "embed")
    assert on_gpu == {f"{number}_{name}" for number, name in (*steps, *more)}
    assert [name for name in jobs if "--nodes=2" in jobs[name]["options"]] == ["4_train"]
    assert "--gpus-per-node=1" in dry(ONLY=4)["4_train"]["options"]
    assert "gpu" not in dry(ONLY=4, GPU="")["4_train"]["options"]


def test_what_cannot_be_meant_is_refused(tmp_path):
    assert "TASKS=many: expected a positive number" in submit(TASKS="many", code=2)
    assert "SIZE=huge" in submit(SIZE="huge", code=2)
    assert "% means something" in submit(OUT=tmp_path / "50%", code=2)
    assert "GPU=a100: expected options of sbatch" in submit(GPU="a100", code=2)
    assert "choose no step" in submit(ONLY=99, DRY_RUN=1, code=2)
    assert "x86_64" not in submit(CPU=os.uname().machine, ONLY=3, DRY_RUN=1)  # as SUSE's profile has it
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("bash", "dirname", "cat"):
        (path / name).symlink_to(f"/bin/{name}")
    assert "no sbatch here" in submit(PATH=path, code=2)


# ---- the sbatch files on a cluster -------------------------------------------------------------------------


def stand_in(tmp_path, text: str):
    """A program in Python's place, which sees what the sbatch files give to Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_every_task_of_an_array_gets_its_share(cluster, tmp_path):
    python = stand_in(tmp_path, f'echo "$@" >{tmp_path}/said.$SLURM_ARRAY_TASK_ID')
    log = f"--output={tmp_path}/%A_%a.log"
    files = {
        "infer": "infer_unet.py", "sam": "run_sam.py", "probe": "probe_activations.py",
        "curate": "-m data_prep.curate", "download": "-m data_prep.download",
    }  # fmt: skip
    for file, job in files.items():
        cluster.run(log, "--array=0-2", f"slurm/{file}.sbatch", "--data", "a b", JOB_PYTHON=python)
        for task in range(3):
            assert (tmp_path / f"said.{task}").read_text() == f"{job} --data a b --share {task}/3\n"
    cluster.run(log, "--array=7", "slurm/infer.sbatch", JOB_PYTHON=python, SHARES=40)
    assert (tmp_path / "said.7").read_text() == "infer_unet.py --share 7/40\n"
    cluster.run(log, "slurm/infer.sbatch", "--collect", JOB_PYTHON=python)
    assert (tmp_path / "said.").read_text() == "infer_unet.py --collect\n"


def test_ranks_are_numbered_as_torchrun_would(cluster, tmp_path):
    said = 'echo "$RANK $WORLD_SIZE $LOCAL_RANK ${CUDA_VISIBLE_DEVICES-} $MASTER_ADDR $MASTER_PORT $1"'
    python = stand_in(tmp_path, f"{said} >{tmp_path}/said.$SLURM_PROCID")
    base = ["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=2", f"--output={tmp_path}/%j.log"]

    def ranks(*options):
        job = cluster.run(*base, *options, "slurm/train.sbatch", "--data", "x", JOB_PYTHON=python)
        port = 20000 + int(job) % 12000
        found = [(tmp_path / f"said.{rank}").read_text().split() for rank in range(4)]
        assert all(words[-3:] == ["node1", str(port), "train_unet.py"] for words in found)
        return [" ".join(words[:-3]) for words in found]

    assert ranks() == ["0 4 0", "1 4 1", "2 4 0", "3 4 1"]
    assert ranks("--gpus-per-node=2") == ["0 4 0 0,1", "1 4 1 0,1", "2 4 0 0,1", "3 4 1 0,1"]
    # each task sees one GPU, which is its first
    assert [words[:5] for words in ranks("--gpus-per-task=1")] == ["0 4 0", "1 4 0", "2 4 0", "3 4 0"]


def test_after_a_failed_step_nothing_waits_and_the_others_are_done(cluster, world, tmp_path):
    split = f'case "$*" in *data_prep.split*) exit 2 ;; *) echo "$*" >>{tmp_path}/done ;; esac'
    settings = {"JOB_PYTHON": stand_in(tmp_path, split), "DATA": world, "OUT": tmp_path / "run", "TASKS": 2}
    said = cluster.do("slurm/submit.sh", env=settings)
    cluster.wait_until(lambda: not cluster.slurm("squeue", "-h").strip(), 60, "the queue is empty")
    assert "[2 curate] array" in said and "of 2, collected by job" in said
    done = (tmp_path / "done").read_text().splitlines()
    jobs = [line.split(" --data")[0] for line in done if "data_prep.weights" not in line]
    assert jobs == ["-m data_prep.curate"] * 3 + ["make_report.py"]  # two tasks, the collection, the page
    assert [line.split()[-1] for line in done if "curate" in line][2] == "--collect"


@pytest.mark.slow
def test_a_chain_sent_again_waits_for_its_own_jobs(cluster, world, tmp_path):
    """So that no two jobs write one folder; those of another --out do not wait."""
    work = f"mkdir {tmp_path}/at-work || echo >{tmp_path}/two-at-once; sleep 4; rmdir {tmp_path}/at-work"
    python = stand_in(tmp_path, f'case "$*" in *data_prep.split*) {work} ;; esac')
    settings = {"JOB_PYTHON": python, "DATA": world, "OUT": tmp_path / "run", "ONLY": 3}
    for _ in range(3):
        cluster.do("slurm/submit.sh", env=settings)
    jobs = (tmp_path / "run/logs/3_split.jobs").read_text().split()
    assert len(jobs) == 3
    assert all(state == ("COMPLETED", 0) for state in cluster.wait(*jobs).values())
    assert not (tmp_path / "two-at-once").exists()
    said = cluster.do("slurm/submit.sh", env={**settings, "OUT": tmp_path / "other"})
    assert re.search(r"\[3 split\] job \d+$", said, re.MULTILINE)
    assert len((tmp_path / "other/logs/3_split.jobs").read_text().split()) == 1
    cluster.do("slurm/submit.sh", env=settings)  # the first three have ended
    assert len((tmp_path / "run/logs/3_split.jobs").read_text().split()) == 1
    cluster.wait_until(lambda: not cluster.slurm("squeue", "-h").strip(), 60, "the queue is empty")


def test_an_interrupted_task_starts_again_and_no_other(cluster, tmp_path):
    """Among them the task whose SLURM_JOB_ID is the number of the whole array."""
    python = stand_in(
        tmp_path,
        f'n=$SLURM_ARRAY_TASK_ID; echo "$@" >>{tmp_path}/starts.$n\n'
        '[ $n = 1 ] || [ "$SLURM_RESTART_COUNT" ] || exit 75',
    )
    cluster.run("--array=0-2", f"--output={tmp_path}/%A_%a.log", "slurm/curate.sbatch", JOB_PYTHON=python)
    for task, starts in enumerate((2, 1, 2)):
        said = (tmp_path / f"starts.{task}").read_text().splitlines()
        assert said == [f"-m data_prep.curate --share {task}/3"] * starts


def test_a_failed_job_starts_again_only_if_it_got_on(cluster, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    python = stand_in(
        tmp_path, f"echo >>{tmp_path}/starts; [ -e {out}/last.pt ] || echo >{out}/last.pt; exit 1"
    )
    cluster.run(
        f"--output={tmp_path}/%j.log",
        "slurm/train.sbatch",
        "--data",
        "x",
        "--out",
        out,
        JOB_PYTHON=python,
        state="FAILED",
    )
    assert len((tmp_path / "starts").read_text()) == 2  # a second last.pt was not written
    (tmp_path / "starts").unlink()
    python = stand_in(tmp_path, f"echo >>{tmp_path}/starts; echo >{out}/last.pt; exit 2")
    cluster.run(
        f"--output={tmp_path}/%j.log", "slurm/train.sbatch", f"--out={out}", JOB_PYTHON=python, state="FAILED"
    )
    assert len((tmp_path / "starts").read_text()) == 1  # bad input stays bad


@pytest.mark.slow
def test_a_warning_before_the_job_listens_is_said_again_and_a_cancelled_job_stays_so(cluster, tmp_path):
    """The stand-in hears USR1 only after three seconds; told to stop, it saves and exits 75."""
    late = "import signal, sys, time; time.sleep(3)\n"
    late += "for number in (10, 15): signal.signal(number, lambda *_: sys.exit(75))\n"
    text = (
        f'[ -z "${{SLURM_RESTART_COUNT-}}" ] || [ -e {tmp_path}/stay ] || exit 0; echo >>{tmp_path}/starts\n'
    )
    python = stand_in(tmp_path, f'{text}exec python3 -c "{late}time.sleep(60)"')
    log = tmp_path / "job.log"

    def running(job):
        starts = tmp_path / "starts"
        cluster.wait_until(lambda: starts.exists() and cluster.look(job)[0]["JobState"] == "RUNNING", 30)

    job = cluster.submit(f"--output={log}", "slurm/job.sbatch", "x", JOB_PYTHON=python)
    running(job)
    cluster.slurm("scancel", "-b", "-s", "USR1", job)
    assert cluster.wait(job) == {job: ("COMPLETED", 0)}
    assert cluster.look(job)[0]["Restarts"] == "1" and f"{job}: interrupted; requeued" in log.read_text()

    (tmp_path / "starts").unlink()
    job = cluster.submit(f"--output={log}", "slurm/job.sbatch", "x", JOB_PYTHON=python)
    running(job)
    cluster.slurm("scancel", job)
    assert cluster.wait(job)[job][0] == "CANCELLED"
    cluster.wait_until(lambda: not cluster.slurm("squeue", "-h").strip(), 30)
    assert cluster.look(job)[0]["Restarts"] == "0"


@pytest.mark.slow
def test_a_job_that_lost_a_node_before_it_saved_anything_starts_again(cluster, tmp_path):
    python = stand_in(
        tmp_path,
        f'echo >>{tmp_path}/starts; [ -z "${{SLURM_RESTART_COUNT-}}" ] || exit 0\n'
        f"[ $RANK = 0 ] || sleep 300\nwhile [ ! -e {tmp_path}/dead ]; do sleep 0.2; done; exit 1",
    )
    log = tmp_path / "job.log"
    job = cluster.submit(
        "--nodes=2", f"--output={log}", "slurm/train.sbatch", JOB_PYTHON=python, SLURM_WAIT=3
    )
    starts = tmp_path / "starts"
    cluster.wait_until(lambda: starts.exists() and len(starts.read_text()) == 2, 30, "both tasks run")
    cluster.node("kill-node", 2)
    (tmp_path / "dead").touch()
    cluster.wait_until(lambda: cluster.look(job)[0]["Restarts"] == "1", 120, "requeued")
    cluster.node("start-node", 2)
    assert cluster.wait(job) == {job: ("COMPLETED", 0)}
    assert "a node does not answer; requeued" in log.read_text()


# ---- the jobs themselves on it -----------------------------------------------------------------------------

NET = (
    "--width",
    4,
    "--depth",
    2,
    "--batch",
    2,
    "--crop",
    48,
    "--amp",
    "off",
    "--norm",
    "group",
    "--workers",
    0,
)
THERE_AND_BACK = {"SLURM_WAIT": 20}  # seconds that a task waits for those of a dead node


def same(a, b) -> bool:
    """Equal to the bit, through dicts and lists."""
    import torch

    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def load(path):
    import torch

    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_two_nodes_train_what_one_process_does(cluster, triplets_folder, tmp_path):
    words = ("slurm/train.sbatch", "--data", triplets_folder, *NET, "--epochs", 5, "--out")
    log = f"--output={tmp_path}/%j.log"
    cluster.run(log, *words, tmp_path / "one")
    cluster.run(log, "--nodes=2", *words, tmp_path / "two")
    one, two = (load(tmp_path / name / "last.pt") for name in ("one", "two"))
    assert one["step"] == two["step"] == 20 and one["weights"].keys() == two["weights"].keys()
    far = max((one["weights"][name] - value).abs().max().item() for name, value in two["weights"].items())
    assert far < 1e-5
    assert json.loads((tmp_path / "two/result.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_training_stopped_ten_times_and_robbed_of_a_node_ends_the_same(cluster, triplets_folder, tmp_path):
    words = ("--nodes=2", "slurm/train.sbatch", "--data", triplets_folder, *NET, "--epochs", 100, "--out")
    log, out = tmp_path / "job.log", tmp_path / "stopped"
    cluster.run(f"--output={tmp_path}/%j.log", *words, tmp_path / "straight")
    job = cluster.submit(f"--output={log}", *words, out, **THERE_AND_BACK)

    def at_work(start: int) -> None:
        """Until the job, started for the time `start`, trains."""

        def true():
            said = log.read_text() if log.exists() else ""
            return f"start {start}:" in said and "processes" in said.split(f"start {start}:")[1]

        cluster.wait_until(true, 120, f"start {start}")

    for start in range(1, 12):
        at_work(start)
        if start == 6:  # in the middle a node dies outright
            cluster.node("kill-node", 2)
            cluster.wait_until(
                lambda: cluster.look(job)[0]["Restarts"] == "6", 150, "requeued without its node"
            )
            cluster.node("start-node", 2)
        else:
            cluster.slurm("scancel", "-b", "-s", "USR1", job)
    assert cluster.wait(job, seconds=600) == {job: ("COMPLETED", 0)}, log.read_text()[-3000:]
    assert cluster.look(job)[0]["Restarts"] == "11"
    for name in ("last.pt", "best.pt"):
        assert same(load(tmp_path / "straight" / name), load(out / name)), name
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and len(steps) == 100


def scene_files(out, ends: str) -> dict:
    return {path.relative_to(out).as_posix(): path for path in sorted(out.glob(f"*/*{ends}"))}


def processes_of(out) -> list[int]:
    """Numbers of the Python processes that work for this --out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "python" in words[0] and "infer_unet.py" in words and str(out) in words:
                found.append(int(path.parent.name))
    return found


# of a run, not of what it found
OF_A_RUN = ["peak_memory_mib", "arguments", "inputs", "versions", "git_commit", "data_share", "page_bytes"]


def figures(path) -> dict:
    """What a result says, less what tells runs apart that computed the same."""

    def timeless(value):
        if isinstance(value, dict):
            return {
                key: timeless(v) for key, v in value.items() if key not in OF_A_RUN and "seconds" not in key
            }
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return timeless(json.loads(path.read_text()))


@pytest.mark.slow
def test_forty_scenes_whose_tasks_are_killed_at_random(cluster, trained, tmp_path):
    scenes, out, log = tmp_path / "scenes", tmp_path / "map", f"--output={tmp_path}/%A_%a.log"
    for seed in range(20):
        write_site(scenes, f"site-{seed:02d}", seed, dates=("2021-01-10", "2021-02-03"))
    words = ("--data", scenes, "--weights", trained / "best.pt", "--amp", "off")
    array = ("--array=0-39", "--cpus-per-task=2", log, "slurm/infer.sbatch", *words, "--out", out)
    collect = (log, "slurm/infer.sbatch", *words, "--out", out, "--collect")
    random = np.random.default_rng(0)

    job = cluster.submit(*array)
    for number in range(12):
        time.sleep(random.uniform(0, 6))
        if number % 2:
            running = cluster.slurm("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i", "-j", job).split()
            if running:
                cluster.slurm("scancel", running[random.integers(len(running))], code=None)
        else:
            processes = cluster.wait_until(lambda: processes_of(out), 60)
            with contextlib.suppress(ProcessLookupError):
                os.kill(processes[random.integers(len(processes))], signal.SIGKILL)
    states = {state for state, _ in cluster.wait(job, seconds=600).values()}
    assert states == {"COMPLETED", "CANCELLED", "FAILED"}
    done = {name: path.stat().st_mtime_ns for name, path in scene_files(out, "_snow_cover.json").items()}
    assert 0 < len(done) < 40
    collection = cluster.run(*collect, state="FAILED")
    assert (
        f"{40 - len(done)} of 40 scenes are not done"
        in (tmp_path / f"{collection}_4294967294.log").read_text()
    )

    left = next(out.glob("*/")) / f".x_mask.tif.{'0' * 12}.1.tmp"  # by a task that was killed a day ago
    left.write_bytes(b"")
    os.utime(left, (time.time() - 25 * 3600,) * 2)
    cluster.run(*array, seconds=600)
    records = scene_files(out, "_snow_cover.json")
    assert len(records) == 40
    assert done == {name: records[name].stat().st_mtime_ns for name in done}  # nothing is done twice
    cluster.run(*collect)
    run("infer_unet.py", *words, "--out", tmp_path / "plain")
    assert (out / "snow_cover.csv").read_bytes() == (tmp_path / "plain/snow_cover.csv").read_bytes()
    assert figures(out / "result.json") == figures(tmp_path / "plain/result.json")
    for ends in ("_mask.tif", "_probability.tif"):
        mine, plain = scene_files(out, ends), scene_files(tmp_path / "plain", ends)
        assert len(mine) == 40 and mine.keys() == plain.keys()
        assert all(mine[name].read_bytes() == plain[name].read_bytes() for name in mine)
    assert not left.exists()


@pytest.mark.slow
def test_a_broken_scene_is_named_and_the_rest_is_done(cluster, trained, tmp_path):
    scenes, log = tmp_path / "scenes", f"--output={tmp_path}/%A_%a.log"
    for seed in range(6):
        write_site(scenes, f"site-{seed}", seed, dates=("2021-01-10", "2021-02-03"))
    next((scenes / "site-3/s1").glob("2021-02-03*")).write_bytes(b"no raster")
    words = ("slurm/infer.sbatch", "--data", scenes, "--weights", trained / "best.pt", "--out")
    job = cluster.submit("--array=0-3", "--cpus-per-task=2", log, *words, tmp_path / "strict")
    ended = cluster.wait(job)
    broken = [task for task, outcome in ended.items() if outcome == ("FAILED", 2)]
    assert len(broken) == 1 and list(ended.values()).count(("COMPLETED", 0)) == 3
    said = (tmp_path / f"{broken[0]}.log").read_text()
    assert "site-3/s1/2021-02-03" in said and "Traceback" not in said
    assert len(scene_files(tmp_path / "strict", "_mask.tif")) == 11
    job = cluster.run(log, *words, tmp_path / "strict", "--collect", state="FAILED")
    said = (tmp_path / f"{job}_4294967294.log").read_text()
    assert "1 of 12 scenes are not done" in said and "2021-02-03" in said

    job = cluster.run("--array=0-3", "--cpus-per-task=2", log, *words, tmp_path / "lenient", "--skip-bad")
    cluster.run(log, *words, tmp_path / "lenient", "--skip-bad", "--collect")
    found = json.loads((tmp_path / "lenient/result.json").read_text())
    assert found["scenes"] == 11 and len(found["left_out"]) == 1 and "site-3" in found["left_out"][0]


def cut_off(tmp_path):
    """A Python that has no network inside a job, and notes how many interfaces beside loopback it has."""
    for words in (["unshare", "-n"], ["unshare", "-r", "-n"]):
        if subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("this machine lets nobody make a network namespace (unshare -n)")
    (tmp_path / "seen").mkdir()
    note = f'tail -n +3 /proc/net/dev | grep -vc " lo:" >"{tmp_path}/seen/$SLURM_JOB_NAME.$SLURM_JOB_ID"'
    return stand_in(
        tmp_path,
        f'if [ -z "${{SLURM_JOB_ID-}}" ]; then exec {sys.executable} "$@"; fi\n'
        f'exec {" ".join(words)} bash -c \'{note}; exec {sys.executable} "$@"\' python "$@"',
    )


@pytest.mark.slow
def test_the_chain_on_a_cluster_without_network_equals_the_runbooks(cluster, tiny_chain, tmp_path):
    """SIZE=tiny: every figure of every step, and every mask to the bit."""
    here, there = tiny_chain, tmp_path / "there"
    settings = {
        "SIZE": "tiny",
        "OUT": there,
        "TASKS": 3,
        "JOB_PYTHON": cut_off(tmp_path),
        "CPU": "--cpus-per-task=2",
    }
    cluster.do("slurm/submit.sh", env={**settings, "GPU": "--cpus-per-task=2"})
    cluster.wait_until(lambda: not cluster.slurm("squeue", "-h").strip(), 1500, "the chain is through")

    steps = sorted(path.parent.name for path in here.glob("*/result.json"))
    logs = "\n".join(path.read_text()[-500:] for path in (there / "logs").glob("*.log"))
    assert steps == sorted(path.parent.name for path in there.glob("*/result.json")), logs
    kinds = {path.name.split(".")[0] for path in (tmp_path / "seen").iterdir()}
    assert {"1_simulate", "2_curate", "4_train", "7_map", "9_climate", "19_pairs", "20_embed"} <= kinds
    assert {path.read_text() for path in (tmp_path / "seen").iterdir()} == {"0\n"}  # no job had a network

    def text(root, step):
        return json.dumps(figures(root / step / "result.json"), sort_keys=True).replace(str(root), "OUT")

    assert {step: text(there, step) for step in steps} == {step: text(here, step) for step in steps}
    for pattern in (
        "5_score/mask/*.tif",
        "5_score/probability/*.tif",
        "7_map/*/*_mask.tif",
        "14_score/mask/*.tif",
    ):
        mine = {path.relative_to(there): path.read_bytes() for path in there.glob(pattern)}
        assert mine and mine == {path.relative_to(here): path.read_bytes() for path in here.glob(pattern)}, (
            pattern
        )

    said = cluster.do("slurm/submit.sh", env={**settings, "GPU": "", "ONLY": 3})  # again: done at once
    job = re.search(r"\[3 split\] job (\d+)", said)[1]
    assert cluster.wait(job) == {job: ("COMPLETED", 0)}
    assert "already done, skipped" in (there / f"logs/3_split-{job}.log").read_text()
