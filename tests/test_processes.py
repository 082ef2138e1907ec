"""Training by several processes: what one learns, stopped and killed, on data that do not divide by two."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, THREADS, command, refuse, result, run
from test_train_sar_rgb import write_pairs

from data_prep import batches
from models import training

TINY = ("--width", 4, "--depth", 2, "--norm", "group", "--amp", "off", "--workers", 0)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
UNET = (*TINY, "--batch", 5, "--epochs", 10)  # 13 triplets: 2 steps an epoch, of 3 and 2 images
PAIRS = (*TINY, "--batch", 5, "--epochs", 4, "--dimensions", 8, "--learning-rate", 1e-4)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """13 triplets of 32 px to train on, 3 to judge."""
    return write_pairs(tmp_path_factory.mktemp("processes") / "p", 16, 1)


def start(job: str, *words, ranks: int = 2) -> list[subprocess.Popen]:
    """Processes started by hand with torchrun's environment, as srun does it; lines of each in a pipe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        subprocess.Popen(
            command(job, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env={**os.environ, **THREADS, **where, "WORLD_SIZE": str(ranks), "RANK": str(rank),
                 "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]  # fmt: skip


def ends(processes, *codes: int) -> list[str]:
    """What the processes said until they ended, with these exit codes and no traceback."""
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == list(codes), said
    assert not any("Traceback" in text for text in said), said
    return said


def after_an_epoch(processes) -> None:
    for line in processes[0].stdout:
        if line.startswith("epoch"):
            return
    raise AssertionError([process.communicate()[0] for process in processes])


def torchrun(job: str, *words, code: int = 0, env: dict | None = None) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [*TORCHRUN, str(ROOT / job), *map(str, words)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **THREADS, **(env or {})},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="session")
def one(folder, tmp_path_factory):
    """A U-Net after 20 steps of one process."""
    out = tmp_path_factory.mktemp("one") / "t"
    run("train_unet.py", "--data", folder, "--out", out, *UNET)
    return out


@pytest.fixture(scope="session")
def two(folder, tmp_path_factory):
    """The same by two processes under torchrun."""
    out = tmp_path_factory.mktemp("two") / "t"
    done = torchrun("train_unet.py", "--data", folder, "--out", out, *UNET)
    assert done.stderr.count("going on") == 0 and done.stderr.count("epoch 1/10") == 1
    assert result(done)["processes"] == 2 and done.stdout.count('"best"') == 1
    return out


def load(path):
    return training.load_checkpoint(path, model=None)


def log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same_bits(a, b) -> None:
    """All that best.pt and last.pt hold of nets and optimizer, and the curve."""
    for name in ("best.pt", "last.pt"):
        first, second = load(a / name), load(b / name)
        for part in {"weights", "average"} & first.keys():
            assert first[part].keys() == second[part].keys()
            assert all(torch.equal(first[part][x], second[part][x]) for x in first[part]), (name, part)
    for k, state in first["optimizer"]["state"].items():
        assert all(torch.equal(state[x], second["optimizer"]["state"][k][x]) for x in state)
    for state in (first, second):
        for name in ("seconds", "data_share"):
            state["progress"]["best"].pop(name, None)
    assert first["progress"] == second["progress"]
    assert [r["train_loss"] for r in log(a)] == [r["train_loss"] for r in log(b)]


def close(a, b, *names: str) -> None:
    """Equal within rounding: the curve, and the weights at its end."""
    records = log(a), log(b)
    for name in ("train_loss", *names):
        assert [r[name] for r in records[0]] == pytest.approx([r[name] for r in records[1]], abs=1e-5)
    for name in ("best.pt", "last.pt"):
        first, second = load(a / name), load(b / name)
        assert first["epoch"] == second["epoch"] and first["step"] == second["step"]
        for key, value in first["weights"].items():
            assert (value - second["weights"][key]).abs().max() < 1e-5, key


# ---- equal to one ------------------------------------------------------------------------------------------


def test_parts_of_a_batch_are_the_batch():
    for count in range(40):
        keys = list(range(count))
        for ranks in range(1, 9):
            parts = [batches.part(keys, rank, ranks) for rank in range(ranks)]
            assert [key for part in parts for key in part] == keys
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_processes_learn_what_one_learns(one, two):
    assert load(one / "last.pt")["step"] == 20
    close(one, two, "val_loss")
    for a, b in zip(log(one), log(two), strict=True):  # each triplet judged once, by one of them
        assert a["val"]["pixels"] == b["val"]["pixels"] == 3 * 32 * 32
        assert abs(a["val"]["true_snow"] - b["val"]["true_snow"]) <= 2  # rounding at the threshold
        assert a["val"]["brier"] == pytest.approx(b["val"]["brier"], abs=1e-5)
        assert a["threshold"] == pytest.approx(b["threshold"], abs=0.01)


def test_parts_of_parts_too(folder, one, tmp_path):
    ends(start("train_unet.py", "--data", folder, "--out", tmp_path / "t", *UNET, "--accumulate", 2), 0, 0)
    close(one, tmp_path / "t", "val_loss")


@pytest.mark.slow
def test_pairs_are_told_from_those_of_all_processes(folder, tmp_path):
    terms = ("--alignment", 0.5, "--uniformity", 0.5)
    words = ("--data", folder, *PAIRS, *terms)
    run("train_sar_rgb.py", *words, "--out", tmp_path / "one")
    ends(start("train_sar_rgb.py", *words, "--out", tmp_path / "two"), 0, 0)
    close(tmp_path / "one", tmp_path / "two", "loss", "gap", "mean_reciprocal_rank")


@pytest.mark.slow
def test_a_compiled_net_too(folder, one, tmp_path):
    words = ("--data", folder, "--out", tmp_path / "t", *UNET, "--accumulate", 2, "--compile")
    torchrun("train_unet.py", *words, env={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")})
    plain, compiled = ([r["train_loss"] for r in log(out)] for out in (one, tmp_path / "t"))
    assert plain[0] == pytest.approx(compiled[0], abs=1e-6)
    assert plain == pytest.approx(compiled, abs=5e-4)  # other kernels round otherwise, in one process too


def test_an_overflow_in_one_process_is_skipped_by_all(tmp_path):
    """fp16's scaler sees the gradients after they were shared, so it decides alike everywhere."""
    (tmp_path / "job.py").write_text(f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch
from data_prep import learning
from models import training
rank, ranks, device = training.join_processes(torch.device("cpu"))
learner = training.Learner(torch.nn.Linear(2, 1), device, torch.float16, 0.1, 0.0, 0.9, 9, 1)
training.take_from_first(learner.net)
forward = training.share_gradients(learner.net, torch.zeros(1, 2))
for step in range(3):
    before = learner.net.weight.clone()
    x = torch.full((1, 2), float("inf") if (rank, step) == (1, 1) else 1.0 + rank)
    learner.scaler.scale(forward(x).sum()).backward()
    learner.step(step)
    assert torch.equal(before, learner.net.weight) == (step == 1), (rank, step)
scale = training.sums_of_processes(*(learner.scaler.get_scale() * (k == rank) for k in (0, 1)), device=device)
weight = learner.net.weight.clone()
training.take_from_first(learner.net)
assert scale[0] == scale[1] == 32768 and torch.equal(weight, learner.net.weight)
learning.leave(0)
""")
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "job.py")], capture_output=True, text=True, env={**os.environ, **THREADS}
    )
    assert done.returncode == 0, done.stderr


def test_processes_of_different_precision_are_refused_in_all_of_them(tmp_path):
    (tmp_path / "job.py").write_text(f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch
from data_prep import learning
from models import training
rank, ranks, device = training.join_processes(torch.device("cpu"))
assert training.shared_precision(device, "bf16") == torch.bfloat16
try:
    training.shared_precision(device, ("off", "fp16")[rank])
except ValueError as error:
    assert "torch.float16, torch.float32" in str(error)
    learning.leave(0)
""")
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "job.py")], capture_output=True, text=True, env={**os.environ, **THREADS}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("ends", ["raise ValueError('alone')", "raise SystemExit('alone')"])
def test_a_process_that_fails_alone_leaves_at_once_and_says_why(tmp_path, ends):
    """Though the other waits in a barrier for it, and would for a day."""
    (tmp_path / "job.py").write_text(f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch
from data_prep import learning, runs
from models import training

def main(args):
    with learning.first_speaks():
        rank, ranks, device = training.join_processes(torch.device("cpu"))
        if rank == 0:
            {ends}
        training.wait_for_processes()

learning.run_and_leave(main, runs.get_parser(""))
""")
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "job.py")], capture_output=True, text=True, timeout=120,
        env={**os.environ, **THREADS},
    )  # fmt: skip
    assert done.returncode == 1 and "alone" in done.stderr, done.stderr


def test_training_goes_on_with_and_without_a_scaled_loss():
    import torch

    from models import training

    def learner(dtype):
        net = torch.nn.Linear(2, 1)
        return training.Learner(net, torch.device("cpu"), dtype, 0.1, 0.0, 0.9, 9, 1)

    plain, scaled = learner(None), learner(torch.float16)
    scaled.scaler.scale(torch.ones(()))  # begins to keep a scale
    begun = scaled.scaler.get_scale()
    scaled.load(plain.state())
    assert scaled.scaler.get_scale() == begun
    plain.load(scaled.state())
    assert not plain.scaler.is_enabled()


# ---- stopped, killed, refused ------------------------------------------------------------------------------


def stopped_and_killed(job: str, out, *words, ranks: int = 2, victims=(0,)) -> None:
    """A signal to one process, then a kill of others; the rest must say so, and the last start finishes."""
    words = (*words, "--out", out)
    processes = start(job, *words, ranks=ranks)
    after_an_epoch(processes)
    processes[-1].send_signal(signal.SIGUSR1)
    first, *others = ends(processes, *[75] * ranks)
    assert "saved in last.pt" in first and "".join(others) == ""
    assert load(out / "last.pt")["step"] > 0

    for victim in victims:
        processes = start(job, *words, ranks=ranks)
        after_an_epoch(processes)
        processes[victim].kill()
        said = ends(processes, *[-9 if rank == victim else 1 for rank in range(ranks)])
        for rank in set(range(ranks)) - {victim}:
            assert said[rank].strip().splitlines()[-1].startswith(f"{job}: lost the other processes"), said
    ends(start(job, *words, ranks=ranks), *[0] * ranks)
    assert not list(out.glob(".*.tmp"))


@pytest.mark.slow
def test_stopped_and_killed_it_ends_the_same_to_the_bit(folder, two, tmp_path):
    stopped_and_killed("train_unet.py", tmp_path / "t", "--data", folder, *UNET)
    same_bits(two, tmp_path / "t")


@pytest.mark.slow
@pytest.mark.parametrize(
    "job, words",
    [("train_unet.py", (*UNET, "--norm", "batch")), ("train_sar_rgb.py", (*PAIRS, "--batch", 7))],
)
def test_so_do_three_processes(folder, tmp_path, job, words):
    """More than two summands differ by their order, which must not depend on where a run began."""
    words = ("--data", folder, *words, "--epochs", 12)
    ends(start(job, *words, "--out", tmp_path / "a", ranks=3), 0, 0, 0)
    stopped_and_killed(job, tmp_path / "b", *words, ranks=3, victims=(0, 2))
    same_bits(tmp_path / "a", tmp_path / "b")


def test_bad_input_ends_all_and_is_said_once(tmp_path):
    folder = write_pairs(tmp_path / "p", 16, 1)
    words = ("--data", folder, "--out", tmp_path / "t", *UNET)
    first, second = ends(start("train_unet.py", *words, "--accumulate", 3), 2, 2)
    assert "--batch 5: too small" in first and "2 processes with --accumulate 3" in first and not second
    (folder / "sar" / "s3_0.tif").write_bytes(b"cut")
    for job in ("train_unet.py", "train_sar_rgb.py"):
        first, second = ends(start(job, *words), 2, 2)
        assert first.startswith(job) and "s3_0" in first and len(first.splitlines()) == 1 and not second
    assert not (tmp_path / "t").exists()


def test_a_last_checkpoint_of_another_plan_ends_all(folder, two, tmp_path):
    words = ("--data", folder, "--out", tmp_path / "t", *UNET, "--resume", two / "last.pt", "--seed", 3)
    first, second = ends(start("train_unet.py", *words), 2, 2)
    assert "was trained with --seed 0, not 3" in first and not second


@pytest.mark.parametrize("job", ["train_unet.py", "train_sar_rgb.py"])
def test_batch_norms_are_shared_on_cuda_alone(folder, tmp_path, job):
    words = ("--data", folder, "--out", tmp_path / "t", "--device", "cpu", "--sync-norm")
    refuse(job, *words, saying="--sync-norm: torch shares batch norms on cuda, not cpu")


@pytest.mark.slow
def test_a_signal_to_one_while_features_are_read_stops_all(folder, tmp_path):
    """The one that was told meets the others where they wait for its share; then it goes on."""
    frozen = ("--rgb-encoder", "dinov2", "--weights", "dinov2=random")
    words = ("--data", folder, "--out", tmp_path / "t", *PAIRS, *frozen)
    both = start("train_sar_rgb.py", *words)
    for line in both[0].stdout:
        if "parameters to train" in line:
            break
    both[1].send_signal(signal.SIGUSR1)
    ends(both, 75, 75)
    assert not (tmp_path / "t" / "result.json").exists()
    ends(start("train_sar_rgb.py", *words), 0, 0)
    assert json.loads((tmp_path / "t" / "result.json").read_text())["processes"] == 2
