"""--share and --collect of run_sam.py, probe_activations.py and download: as one plain run, whatever happens.

Most runs are in this process: importing torch for each takes longer than what it does here.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import stac_archive
from conftest import ROOT, THREADS, command
from safetensors import safe_open
from test_download import order, scenes_of
from test_download_again import services  # noqa: F401 (a fixture)

from data_prep import compose, download, journals, runs, triplets

SECONDS = ("seconds", "peak_memory_mib", "versions", "at")
OWN = (".lock",)  # beside the files that are compared: what tells processes apart


def here(job, *words) -> int:
    """The exit code of a job run in this process."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        return runs.start(job.main, job.get_parser(), [str(word) for word in words])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.fixture
def told(capsys):
    """Run a job here, which must exit with `code`; (object on stdout's last line, stderr's last line)."""

    def check(job, *words, code: int = 0):
        capsys.readouterr()
        found = here(job, *words)
        said = capsys.readouterr()
        assert found == code, said.err
        lines = said.out.strip().splitlines()
        return json.loads(lines[-1]) if lines else None, (said.err.strip().splitlines() or [""])[-1]

    return check


def start(job: str, *words) -> subprocess.Popen:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(job, *words), cwd=ROOT, env={**os.environ, **THREADS}, **streams)


def kill_when(child: subprocess.Popen, ready) -> None:
    """kill -9 as soon as ready(), which must be before the job's end."""
    while not ready():
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.01)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def plain(value):
    """Without seconds and what they are of."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in SECONDS and "_seconds" not in k}
    return [plain(one) for one in value] if isinstance(value, list) else value


def tree(out) -> dict:
    """What an output holds, file by file; of figures as PDF, which are dated, that they are there."""
    found = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if not path.is_file() or path.name in OWN:
            continue
        if path.suffix == ".json":
            found[name] = plain(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            lines = [plain(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = sorted(lines, key=json.dumps)
        elif path.suffix == ".safetensors":  # its header is in no order
            with safe_open(path, "np") as opened:
                found[name] = [(key, opened.get_tensor(key).tobytes()) for key in sorted(opened.keys())]
        else:
            found[name] = path.stat().st_size > 0 if path.suffix == ".pdf" else path.read_bytes()
    return found


def same(out, other) -> None:
    left, right = tree(out), tree(other)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []


# ---- Segment Anything --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam_case(triplets_folder, tmp_path_factory):
    """(job, data, words, ids): four triplets whose embeddings are in the cache already."""
    pytest.importorskip("timm", reason="vit_t needs timm, of requirements-extra.txt")
    from test_run_sam import FAST, fill

    import run_sam

    base = tmp_path_factory.mktemp("sam")
    rows = triplets.read_manifest(triplets_folder).rows
    limits = compose.scene_limits(rows, ("vv",))
    fill(base / "cache", [compose.sar_picture(row, "vv", limits)[0] for row in rows])
    words = ("--cache", base / "cache", "--split", "all", "--sample", 4, "--batch", 1, *FAST)
    words = (*words, "--prompts", "otsu-points", "oracle-box")
    ids = [row["id"] for row in compose.sample(rows, 4, 0)]
    return SimpleNamespace(job=run_sam, data=triplets_folder, words=words, ids=ids)


@pytest.mark.slow
def test_sam_by_shares_is_a_plain_run(sam_case, tmp_path, told):
    job, words = sam_case.job, ("--data", sam_case.data, *sam_case.words)
    out, ids = tmp_path / "shares", sam_case.ids
    first, _ = told(job, *words, "--out", tmp_path / "plain")
    child = start("run_sam.py", *words, "--out", out, "--share", "0/2")
    kill_when(child, lambda: list(out.glob("records/*.json")))
    done = {path: path.stat().st_mtime_ns for path in out.glob("records/*.json")}
    if len(done) == 1:  # else the kill came late
        _, why = told(job, *words, "--out", out, "--collect", code=1)
        assert "3 of 4 triplets are not done" in why and ids[1] in why and ids[3] in why
    others = start("run_sam.py", *words, "--out", out, "--share", "1/2")
    line, _ = told(job, *words, "--out", out, "--share", "0/2")
    assert line == {"share": "0/2", "done": 2 - len(done), "skipped": len(done), "left_out": []}
    line, why = others.communicate(timeout=120)
    assert others.returncode == 0 and json.loads(line)["done"] == 2, why
    assert not (out / "result.json").exists() and not (out / "scores.csv").exists()
    assert all(path.stat().st_mtime_ns == changed for path, changed in done.items())
    found, _ = told(job, *words, "--out", out, "--collect")
    assert plain(found) == plain(first) and found["triplets"] == 4
    same(tmp_path / "plain", out)
    for more in (("--share", "0/2"), ("--collect",)):
        _, why = told(job, *words, "--out", out, *more, "--overwrite", code=2)
        assert "would delete what other tasks did" in why
        assert told(job, *words, "--out", out, *more)[0] == found  # done already


def test_a_damaged_triplet_stops_none_of_its_share(sam_case, tmp_path, told):
    """It is named; with --skip-bad it is on record, and the rest is as in a plain run without it."""
    data, bad = tmp_path / "data", sam_case.ids[0]
    shutil.copytree(sam_case.data, data)
    (row,) = (row for row in triplets.read_manifest(data).rows if row["id"] == bad)
    row["sar"].write_bytes(b"no raster")
    job, words, out = sam_case.job, ("--data", data, *sam_case.words), tmp_path / "shares"
    line, why = told(job, *words, "--out", out, "--share", "0/2", code=2)
    assert (line["done"], line["skipped"]) == (1, 0) and row["sar"].name in why
    told(job, *words, "--out", out, "--share", "1/2")
    _, why = told(job, *words, "--out", out, "--collect", code=1)
    assert "1 of 4" in why and f"{bad} (" in why and "no raster" not in why and row["sar"].name in why
    line, _ = told(job, *words, "--out", out, "--share", "0/2", "--skip-bad")
    assert (line["done"], line["skipped"], len(line["left_out"])) == (1, 1, 1)
    found, _ = told(job, *words, "--out", out, "--collect", "--skip-bad")
    first, _ = told(job, *words, "--out", tmp_path / "plain", "--skip-bad")
    assert plain(found) == plain(first) and found["triplets"] == 3 and len(found["left_out"]) == 1
    (out / "records" / f"{bad}.json").unlink()  # a plain run leaves it out anew, without a record
    same(tmp_path / "plain", out)


# ---- probes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probe_words(triplets_folder, tmp_path_factory):
    """Arguments for tiny CLIP and DINOv2 networks: four items, two models with their floors."""
    import torch
    import transformers as t
    from test_probe_activations import SMALL

    torch.manual_seed(1)
    base = tmp_path_factory.mktemp("nets")
    t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL, image_size=32, patch_size=8)).save_pretrained(base / "clip")
    net = t.Dinov2Model(t.Dinov2Config(**SMALL, image_size=70, patch_size=14))
    net.save_pretrained(base / "dinov2")
    words = ("--data", triplets_folder, "--split", "all", "--sample", 3, "--workers", 0, "--amp", "off")
    words = (*words, "--device", "cpu", "--models", "clip", "dinov2", "--layers", "*.layer*.1")
    return (*words, "--weights", f"clip={base / 'clip'}", f"dinov2={base / 'dinov2'}", "--examples", 1)


@pytest.mark.slow
def test_probes_by_shares_are_a_plain_run(probe_words, tmp_path, told):
    import probe_activations as job

    out = tmp_path / "shares"
    first, _ = told(job, *probe_words, "--save-activations", "--out", tmp_path / "plain")
    words = (*probe_words, "--save-activations", "--out", out)
    for share, items in ((1, ["clip_random"]), (0, ["clip_given", "dinov2_random"])):
        line, _ = told(job, *words, "--share", f"{share}/3")
        assert (line["done"], line["skipped"]) == (len(items), 0)
        assert all((out / "records" / f"{item}.json").exists() for item in items)
    _, why = told(job, *words, "--collect", code=1)
    assert "1 of 4 models and floors are not done" in why and "dinov2 with given weights" in why
    assert not (out / "layers.csv").exists()
    (out / "clip_attention_heads.pdf").unlink()  # killed before the figures were drawn
    saved = next((out / "activations" / "clip").iterdir())
    assert "clip with given weights" in told(job, *words, "--collect", code=1)[1]
    before = {path: path.stat().st_mtime_ns for path in (saved, out / "records" / "clip_given.json")}
    assert told(job, *words, "--share", "0/1")[0]["done"] == 2  # what is lacking, dealt out otherwise
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    found, _ = told(job, *words, "--collect")
    assert plain(found) == plain(first) and list(found["models"]) == ["clip", "dinov2"]
    same(tmp_path / "plain", out)


@pytest.mark.slow
def test_absent_weights_are_left_out_by_shares_too(probe_words, tmp_path, told):
    """As a plain run that names no models leaves them out; where none is there, all is refused."""
    import probe_activations as job

    at = probe_words.index("--models")
    words = (*probe_words[:at], *probe_words[at + 3 :])  # all three: no weights of deeplabv3 are here
    first, _ = told(job, *words, "--no-floor", "--out", tmp_path / "plain")
    assert list(first["models_left_out"]) == ["deeplabv3"]
    words = (*words, "--no-floor", "--out", tmp_path / "shares")
    told(job, *words, "--share", "0/2")
    line, _ = told(job, *words, "--share", "1/2")
    assert line["done"] == 1 and line["left_out"] == []
    assert told(job, *words, "--share", "2/3")[0]["left_out"] == [first["models_left_out"]["deeplabv3"]]
    found, _ = told(job, *words, "--collect")
    assert plain(found) == plain(first)


@pytest.mark.slow
def test_a_killed_probe_goes_on(probe_words, tmp_path, told):
    import probe_activations as job

    words = (*probe_words, "--out", tmp_path / "out")
    child = start("probe_activations.py", *words, "--share", "0/1")
    kill_when(child, lambda: list(tmp_path.glob("out/records/*.json")))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/records/*.json")}
    assert told(job, *words, "--collect", code=1)
    assert told(job, *words, "--share", "0/1")[0]["share"] == "0/1"
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    found, _ = told(job, *words, "--collect")
    first, _ = told(job, *probe_words, "--out", tmp_path / "plain")
    assert plain(found) == plain(first)
    same(tmp_path / "plain", tmp_path / "out")


# ---- scenes ------------------------------------------------------------------------------------------------

ROW = stac_archive.ALPS_ROW.replace("12-31", "01-15")  # one pass of each kind: four files
ROWS = "".join(ROW.replace("alps", f"alps{n}").replace("46.9,", f"46.90{n},") for n in range(3))


@pytest.fixture
def alps(services, tmp_path):  # noqa: F811
    """(words without --out, folder) of a download of three sites."""
    services.faults.set()
    words = order(tmp_path, services, ROWS)
    at = words.index("--out")
    return (*words[:at], *words[at + 2 :]), tmp_path


def without_seconds(out) -> dict:
    """Records of a download by file, which a plain run writes in the order in which they came."""
    return {name: plain(record) for name, record in journals.recorded(out).items()}


def test_scenes_by_shares_are_those_of_a_plain_run(alps, services, told):  # noqa: F811
    words, folder = alps
    out = folder / "shares"
    first, _ = told(download, *words, "--out", folder / "plain")
    _, why = told(download, *words, "--out", out, "--collect", code=1)
    assert "3 of 3" in why and "alps0; alps1; alps2" in why and not out.exists()
    services.faults.set(slow_s=0.1)
    child = start("download", *words, "--out", out, "--share", "0/2", "--workers", 1)
    kill_when(child, lambda: len(journals.recorded(out)) >= 2)
    kept = journals.recorded(out)
    assert 2 <= len(kept) < 8 and all("alps1" not in name for name in kept)
    _, why = told(download, *words, "--out", out, "--collect", code=1)
    assert "alps1" in why and len(kept) + int(why.split(": ")[2].split(" of ")[0]) == 9
    services.faults.set()
    before = {name: (out / name).stat().st_mtime_ns for name in kept}
    tasks = [start("download", *words, "--out", out, "--share", f"{k}/2") for k in (0, 0, 1)]
    ended = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], ended
    twice, once = [json.loads(said[0]) for said in ended[:2]], json.loads(ended[2][0])
    assert sorted((line["done"], line["skipped"]) for line in twice) in ([(0, 2), (2, 0)], [(0, 2), (1, 1)])
    assert (once["done"], once["skipped"], once["left_out"]) == (1, 0, [])
    assert all((out / name).stat().st_mtime_ns == changed for name, changed in before.items())
    fetched = [path for path in out.glob("downloads-*.jsonl") for line in path.read_text().splitlines()]
    assert {path.name for path in fetched} == {"downloads-0-of-2.jsonl", "downloads-1-of-2.jsonl"}
    assert not (out / "result.json").exists()
    seen = len(services.faults.seen)
    found, _ = told(download, *words, "--out", out, "--collect")
    assert len(services.faults.seen) == seen  # without network
    assert plain(found) == plain(first) and found["files"] == 12
    same(folder / "plain", out)
    assert told(download, *words, "--out", out, "--share", "0/2")[0] == found
    assert "would delete" in told(download, *words, "--out", out, "--share", "0/2", "--overwrite", code=2)[1]


def test_a_site_that_cannot_be_stops_none_of_its_share(alps, told):
    words, folder = alps
    table = folder / "sites.csv"
    table.write_text(table.read_text() + ROW.replace("alps", "sea").replace("46.9,", "0.0,"))
    words = (*words, "--out", folder / "out")
    line, why = told(download, *words, "--share", "1/2", code=2)
    assert (line["done"], line["skipped"]) == (1, 0) and "site sea" in why and "--skip-bad" not in why
    assert len(scenes_of(folder / "out")) == 4
    _, why = told(download, *words, "--collect", code=1)
    assert "alps0" in why and "sea (site sea: no elevation" in why
    table.write_text(stac_archive.SITES + ROWS)  # mended: what is there is kept, the rest is dealt out anew
    lines = [told(download, *words, "--share", f"{k}/3")[0] for k in range(3)]
    assert [(line["done"], line["skipped"]) for line in lines] == [(1, 0), (0, 1), (1, 0)]
    assert told(download, *words, "--collect")[0]["sites"] == 3


def test_a_file_that_is_gone_is_left_out_by_its_share(alps, services, told):  # noqa: F811
    words, folder = alps
    services.faults.set(always=404, on="s1/10")
    first, _ = told(download, *words, "--out", folder / "plain", "--skip-bad")
    words = (*words, "--out", folder / "out")
    line, why = told(download, *words, "--share", "0/2", code=1)
    assert "2 of 8 files failed" in why and (line["done"], line["skipped"]) == (0, 0)
    assert "scenes/alps0/s1/" in told(download, *words, "--collect", code=1)[1]
    line, _ = told(download, *words, "--share", "0/2", "--skip-bad")
    assert line["done"] == 2 and len(line["left_out"]) == 2 and "it is gone" in line["left_out"][0]
    line, _ = told(download, *words, "--share", "0/2", "--skip-bad")
    assert line["skipped"] == 2
    told(download, *words, "--share", "1/2", "--skip-bad")
    found, _ = told(download, *words, "--collect", "--skip-bad")
    assert plain(found) == plain(first) and len(found["skipped"]) == 3
    same(folder / "plain", folder / "out")


def test_files_of_another_plan_are_not_collected(alps, told):
    """Dates that shrank: a collection deletes nothing, a plain run does when it is told to."""
    words, folder = alps
    table, out = folder / "sites.csv", folder / "out"
    table.write_text(table.read_text().replace("01-15", "01-31"))
    told(download, *words, "--out", out, "--share", "0/1")
    table.write_text(stac_archive.SITES + ROWS)
    assert "alps0; alps1; alps2" in told(download, *words, "--out", out, "--collect", code=1)[1]
    told(download, *words, "--out", out, "--share", "0/1")
    _, why = told(download, *words, "--out", out, "--collect", code=2)
    assert "6 of its files are planned no more" in why and len(scenes_of(out)) == 18
    with journals.alone(out, with_others=True):
        assert "another download" in told(download, *words, "--out", out, "--overwrite", code=2)[1]
    told(download, *words, "--out", out, "--overwrite")
    assert len(scenes_of(out)) == 12 and not list(out.glob("downloads-*.jsonl"))


def test_the_newest_record_of_a_file_counts(tmp_path):
    def line(at: float, **more) -> str:
        return json.dumps({"file": "scenes/a/dem.tif", "planned": "x", "at": at, **more}) + "\n"

    (tmp_path / "downloads.jsonl").write_text('{"file": "scenes/a/dem.tif", "planned": "old"}\n[]\n')
    (tmp_path / "downloads-0-of-2.jsonl").write_text(line(3, bytes=3) + line(5, left_out="gone"))
    (tmp_path / "downloads-1-of-9.jsonl").write_text(line(4, bytes=4) + '{"file": "scenes/a/de')
    assert journals.recorded(tmp_path) == {}
    (tmp_path / "downloads-1-of-9.jsonl").write_text(line(6, bytes=6))
    assert journals.recorded(tmp_path)["scenes/a/dem.tif"]["bytes"] == 6
