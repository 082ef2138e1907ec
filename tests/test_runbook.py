import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, THREADS, processor_seconds, write_site

STEP = re.compile(r"^\[(\d+) (\w+)\] (\.venv.*)$", re.MULTILINE)
OTHERS = ["15", "16", "17", "18", "19", "20"]  # networks beside the U-Net, on any data
LEFT_OUT = re.compile(r"^\[(\d+) \w+\] left out", re.MULTILINE)  # where npm or pip bring no weights


def runbook(*words, code=0, cwd=ROOT, **settings):
    environment = {**os.environ, **THREADS, **{k: str(v) for k, v in settings.items()}}
    done = subprocess.run(
        [str(ROOT / "runbook.sh"), *words], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("book") / "run"
    said = runbook(DATA=world, OUT=out, SIZE="tiny")
    return out, said


@pytest.mark.slow
def test_the_chain_on_own_scenes_runs_and_names_the_folder(finished):
    out, said = finished
    assert [number for number, _, _ in STEP.findall(said)] == ["2", "3", "4", "5", "7", *OTHERS, "23"]
    assert said.strip().splitlines()[-1] == f"done: look into {out}"
    for name in (
        "2_curate/triplets.csv",
        "3_split/split.csv",
        "4_train/best.pt",
        "5_score/metrics.json",
        "7_map/snow_cover.csv",
        "logs/4_train.log",
        "report.html",
    ):
        assert (out / name).exists()
    missing = LEFT_OUT.findall(said)
    assert set(missing) <= set(OTHERS)
    others = (("17", "17_sam/scores.csv"), ("18", "18_probe/layers.csv"))
    for number, name in (*others, ("19", "19_pairs/best.pt"), ("20", "20_embed/projection.html")):
        assert (out / name).exists() != (number in missing)


@pytest.mark.slow
def test_a_finished_run_again_takes_under_five_seconds(finished, world):
    before = processor_seconds()
    said = runbook(DATA=world, OUT=finished[0], SIZE="tiny")
    left_out = len(LEFT_OUT.findall(said))  # of these a fetch is tried again, which takes its time
    assert left_out or processor_seconds() - before < 5
    assert said.count("already done") == 12 - left_out


@pytest.mark.slow
def test_another_size_makes_the_changed_step_and_all_after_it_anew(finished, world, tmp_path):
    import shutil

    out = tmp_path / "run"
    shutil.copytree(finished[0], out, symlinks=True)
    before = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/result.json")}
    said = runbook(
        DATA=world, OUT=out, SIZE="default", FROM=4, ONLY=99, code=2
    )  # no such step: nothing happens
    assert not STEP.findall(said)
    book = (
        (ROOT / "runbook.sh")
        .read_text()
        .replace("--width 4 --depth 3 --epochs 4", "--width 4 --depth 2 --epochs 2")
    )
    script = ROOT / ".runbook-of-a-test.sh"
    script.write_text(book)
    script.chmod(0o755)
    try:
        env = {**os.environ, **THREADS, "DATA": str(world), "OUT": str(finished[0]), "SIZE": "tiny"}
        done = subprocess.run([str(script)], capture_output=True, text=True, env=env)
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    after = {p.parent.name: p.stat().st_mtime_ns for p in finished[0].glob("*/result.json")}
    assert [name for name in sorted(after) if after[name] != before[name]] == [
        *(name for name in ("17_sam", "18_probe", "19_pairs", "20_embed") if name in after),
        "4_train", "5_score", "7_map",
    ]  # fmt: skip


def test_dry_run_prints_and_does_nothing(tmp_path):
    said = runbook(DRY_RUN=1, OUT=tmp_path / "run")
    steps = STEP.findall(said)
    assert [number for number, _, _ in steps] == [str(number) for number in range(1, 24)]
    assert all(".venv/bin/python" in line for _, _, line in steps)
    assert not (tmp_path / "run").exists()


def test_steps_can_be_chosen(tmp_path):
    later = [n for n, _, _ in STEP.findall(runbook(DRY_RUN=1, FROM=12, OUT=tmp_path / "r"))]
    assert later == ["12", "13", "14", *OTHERS, "21", "22", "23"]
    own = STEP.findall(runbook(DRY_RUN=1, DATA=tmp_path, BANDS="vv,elevation", OUT=tmp_path / "r"))
    assert [n for n, _, _ in own] == [
        "2",
        "3",
        "4",
        "5",
        "7",
        *OTHERS,
        "23",
    ] and "--bands vv,elevation" in own[2][2]
    assert [n for n, _, _ in STEP.findall(runbook(DRY_RUN=1, ONLY=4, OUT=tmp_path / "r"))] == ["4"]
    own = STEP.findall(runbook(DRY_RUN=1, DATA=tmp_path, WEATHER="my.csv", OUT=tmp_path / "r"))
    assert own[5][:2] == ("9", "climate") and "my.csv" in own[5][2] and "7_map" in own[5][2]


def test_a_failed_step_stops_the_chain_with_its_code_and_log(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1)
    next((site / "s1").iterdir()).write_bytes(b"")
    said = runbook(DATA=tmp_path / "scenes", OUT=tmp_path / "run", SIZE="tiny", code=2)
    assert len(STEP.findall(said)) == 1
    log = re.search(r"step 2 \(curate\) ended with exit code 2; its log: (.*)", said)[1]
    assert "not a readable raster" in Path(log).read_text()


def test_it_works_from_any_directory_with_relative_paths(tmp_path):
    write_site(tmp_path / "scenes", "a", 1)
    runbook(cwd=tmp_path, DATA="scenes", OUT="run", ONLY=2)
    assert (tmp_path / "run" / "2_curate" / "triplets.csv").exists()
    log = (tmp_path / "run" / "logs" / "2_curate.log").read_text()
    assert log.startswith(("kept", "{")) and '"kept": 1' in log and "kept          1" in log


def test_ctrl_c_ends_the_chain_though_the_step_was_on_its_last_item(tmp_path):
    """A job in Python's place that outlives the signal and ends well."""
    job = tmp_path / "python"
    job.write_text(f"#!/usr/bin/env bash\ntrap '' INT\necho >>{tmp_path}/starts\nsleep 2\n")
    job.chmod(0o755)
    book = (ROOT / "runbook.sh").read_text()
    book = book.replace("python=.venv/bin/python", f"python={job}")
    script = tmp_path / "runbook.sh"
    script.write_text(book.replace("install requirements.txt; install requirements-extra.txt; fi", ":; fi"))
    script.chmod(0o755)
    chain = subprocess.Popen([script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "starts").exists():
        assert chain.poll() is None
        time.sleep(0.05)
    os.killpg(chain.pid, signal.SIGINT)
    _, said = chain.communicate(timeout=60)
    assert chain.returncode == 75 and "interrupted in step 1 (simulate); the same command goes on" in said
    assert (tmp_path / "starts").read_text() == "\n"


def test_a_half_made_environment_is_named(tmp_path):
    shutil.copy(ROOT / "runbook.sh", tmp_path)
    for name in ("requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    done = subprocess.run([tmp_path / "runbook.sh", "install"], capture_output=True, text=True)
    assert done.returncode == 2 and ".venv has no pip" in done.stderr and "rm -r .venv" in done.stderr


def test_unknown_words_are_refused():
    assert "there are only 'test' and 'install'" in runbook("tests", code=2)
    assert "SIZE=huge" in runbook(SIZE="huge", code=2)
    assert "expected a step's number" in runbook(FROM="train", code=2)
    assert "choose no step" in runbook(ONLY=99, DRY_RUN=1, code=2)
    assert "no-such: no such file" in runbook(DATA="no-such", code=2)
    assert "no.csv: no such file" in runbook(DATA=ROOT, WEATHER="no.csv", code=2)


def test_help_is_its_head():
    done = subprocess.run([str(ROOT / "runbook.sh"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "DRY_RUN=1" in done.stdout and "set -euo" not in done.stdout
    assert len(done.stdout.splitlines()) > 15


@pytest.mark.slow
def test_the_whole_tiny_chain_on_simulated_and_real_pixels(tiny_chain):
    """Simulated sites are scored against truth; six real pairs, one with snow, give null scores."""
    out, said = tiny_chain, (tiny_chain.parent / "said.txt").read_text()
    judged = list(csv.DictReader((out / "6_judge/scores.csv").read_text().splitlines()))
    assert [row["method"] for row in judged] == ["unet", "optical"]
    assert float(judged[1]["iou"]) > 0.5  # the optical label knows what snow is
    cover = list(csv.DictReader((out / "7_map/snow_cover.csv").read_text().splitlines()))
    assert len({row["site"] for row in cover}) == 12 and len({row["date"] for row in cover}) > 15
    assert "simulated" in (out / "2_curate/DATASET_CARD.md").read_text()
    rows = list(csv.DictReader((out / "9_climate/sources.csv").read_text().splitlines()))
    assert {row["source"] for row in rows} == {"truth", "unet", "optical"}

    assert "a check of the plumbing, not of skill" in said
    scores = json.loads((out / "14_score/metrics.json").read_text())["scores"]
    assert scores["iou"] is None and scores["f1"] is None and scores["pixels"] > 10000
    for number in (20, 22):
        found = json.loads((out / f"{number}_embed/result.json").read_text())
        assert found["pairs"] == {20: 24, 22: 6}[number] and found["sentence"] in said
    rows = list(csv.DictReader((out / "11_curate/triplets.csv").read_text().splitlines()))
    snow = {row["id"]: float(row["snow_fraction"]) for row in rows}
    assert len(snow) == 6
    for name, fraction in snow.items():
        assert fraction > 0.97 if "2018-02-04" in name else fraction < 0.01, name
