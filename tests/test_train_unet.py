import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, THREADS, TINY, blobs, command, processor_seconds, refuse, result, run
from PIL import Image

from models import training


def weights(path):
    return training.load_checkpoint(path)["weights"]


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without(words, *flags):
    """TINY without some flags and their values."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in flags for word in pair]


# ---- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_two_plus_two_epochs_equal_four_bit_for_bit_whatever_the_workers(
    triplets_folder, tmp_path, precision
):
    words = ["--data", triplets_folder, *without(TINY, "--workers", "--amp"), "--amp", precision]
    run("train_unet.py", *words, "--out", tmp_path / "a", "--workers", 0)
    run("train_unet.py", *words, "--out", tmp_path / "b", "--workers", 2, "--stop-after", 2, code=75)
    assert training.load_checkpoint(tmp_path / "b" / "last.pt")["progress"]["epoch"] == 2
    run("train_unet.py", *words, "--out", tmp_path / "b", "--workers", 1)
    for name in ("best.pt", "last.pt"):
        assert equal(weights(tmp_path / "a" / name), weights(tmp_path / "b" / name))
    a, b = (training.load_checkpoint(tmp_path / name / "last.pt") for name in "ab")
    assert equal(a["average"], b["average"]) and a["progress"] == b["progress"]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in "ab"
    ]
    assert [r["train_loss"] for r in logs[0]] == [r["train_loss"] for r in logs[1]] and len(logs[0]) == 4


@pytest.mark.slow
def test_resume_may_come_from_another_folder(triplets_folder, trained, tmp_path):
    words = ["--data", triplets_folder, *TINY]
    run("train_unet.py", *words, "--out", tmp_path / "a", "--stop-after", 3, code=75)
    run("train_unet.py", *words, "--out", tmp_path / "b", "--resume", tmp_path / "a" / "last.pt")
    assert equal(weights(trained / "last.pt"), weights(tmp_path / "b" / "last.pt"))
    assert equal(weights(trained / "best.pt"), weights(tmp_path / "b" / "best.pt"))
    assert len((tmp_path / "b" / "log.jsonl").read_text().splitlines()) == 4
    refuse(
        "train_unet.py", *words, "--out", tmp_path / "c", "--resume", trained / "best.pt", saying="start anew"
    )
    more = ["--resume", tmp_path / "a" / "last.pt", "--seed", 3]
    said = "was trained with --seed 0, not 3"
    refuse("train_unet.py", *words, "--out", tmp_path / "e", *more, saying=said)
    refuse(
        "train_unet.py",
        *words,
        "--out",
        tmp_path / "d",
        "--width",
        8,
        "--resume",
        tmp_path / "a" / "last.pt",
        saying="does not fit these arguments",
    )


def test_a_finished_checkpoint_without_its_log_goes_on_but_not_without_its_best(
    triplets_folder, trained, tmp_path
):
    words = ["--data", triplets_folder, *TINY, "--resume", tmp_path / "last.pt", "--out", tmp_path / "t"]
    shutil.copy(trained / "last.pt", tmp_path)
    refuse("train_unet.py", *words, saying="last.pt: no best.pt beside it; copy both")
    shutil.copy(trained / "best.pt", tmp_path)
    assert result(run("train_unet.py", *words))["epochs"] == 4
    assert equal(weights(trained / "best.pt"), weights(tmp_path / "t" / "best.pt"))


def test_killed_between_the_last_checkpoint_and_the_result_it_finishes(triplets_folder, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "t")
    (tmp_path / "t" / "result.json").unlink()
    got = result(run("train_unet.py", "--data", triplets_folder, "--out", tmp_path / "t", *TINY))
    assert got["best"] == json.loads((trained / "result.json").read_text())["best"] and got["epochs"] == 4
    assert equal(weights(trained / "last.pt"), weights(tmp_path / "t" / "last.pt"))


def test_a_signal_in_mid_epoch_saves_and_the_rest_is_the_same(triplets_folder, trained, tmp_path):
    words = ["--data", triplets_folder, "--out", tmp_path / "b", *TINY]
    for _ in range(3):
        process = subprocess.Popen(
            command("train_unet.py", *words),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, **THREADS},
        )
        for line in process.stderr:
            if line.startswith("epoch"):
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
        assert process.wait(60) in (0, 75)
    run("train_unet.py", *words)
    assert equal(weights(trained / "last.pt"), weights(tmp_path / "b" / "last.pt"))


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_always_resumes(triplets_folder, trained, tmp_path):
    """Whatever checkpoint is there must load, and the end must be the undisturbed end."""
    words = ["--data", triplets_folder, "--out", tmp_path / "b", *TINY]
    dice, kills = random.Random(20), 0
    while kills < 20:
        process = subprocess.Popen(
            command("train_unet.py", *words),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **THREADS},
        )
        time.sleep(dice.uniform(0.2, 5))
        process.kill()
        if process.wait(60) == 0:  # it was done before the shot: start anew
            run(
                "train_unet.py",
                *words[:2],
                "--out",
                tmp_path / "b",
                *TINY,
                "--overwrite",
                "--stop-after",
                1,
                code=75,
            )
            continue
        kills += 1
        for name in ("best.pt", "last.pt"):
            if (tmp_path / "b" / name).exists():
                training.build_net(training.load_checkpoint(tmp_path / "b" / name), name)
    run("train_unet.py", *words)
    for name in ("best.pt", "last.pt"):
        assert equal(weights(trained / name), weights(tmp_path / "b" / name))
    assert not list((tmp_path / "b").glob(".*.tmp"))


@pytest.mark.slow
def test_fp16_scaler_state_survives_a_resume(triplets_folder, tmp_path):
    words = ["--data", triplets_folder, *without(TINY, "--amp"), "--amp", "fp16"]
    run("train_unet.py", *words, "--out", tmp_path / "a")
    run("train_unet.py", *words, "--out", tmp_path / "b", "--stop-after", 1, code=75)
    scaler = training.load_checkpoint(tmp_path / "b" / "last.pt")["scaler"]
    assert scaler["scale"] > 0 and scaler["_growth_tracker"] > 0
    run("train_unet.py", *words, "--out", tmp_path / "b")
    a, b = (training.load_checkpoint(tmp_path / name / "last.pt") for name in "ab")
    assert a["scaler"] == b["scaler"] and equal(a["weights"], b["weights"])


# ---- what a step computes ----------------------------------------------------------------------------------


def test_accumulation_equals_the_whole_batch_with_group_norm(triplets_folder, tmp_path):
    words = [
        "--data",
        triplets_folder,
        *without(TINY, "--batch", "--epochs"),
        "--batch",
        4,
        "--epochs",
        2,
        "--norm",
        "group",
    ]
    run("train_unet.py", *words, "--out", tmp_path / "a")
    run("train_unet.py", *words, "--out", tmp_path / "b", "--accumulate", 4)
    a, b = weights(tmp_path / "a" / "last.pt"), weights(tmp_path / "b" / "last.pt")
    # AdamW divides by the gradient size: rounding in a gradient near 0 moves a weight by up to a step
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-4
    logs = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])["train_loss"]
        for name in "ab"
    ]
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)


def test_first_gradients_of_parts_and_whole_are_equal():
    from models import losses
    from models.unet import UNet

    torch.manual_seed(0)
    net = UNet(2, 8, 2, "group")
    image, mask = torch.randn(4, 2, 32, 32), torch.randint(0, 2, (4, 32, 32)).to(torch.uint8)
    mask[1, :20] = 255
    gradients = []
    for parts in (1, 2, 4):
        net.zero_grad()
        counts = losses.count_valid(mask)
        for x, y in zip(image.chunk(parts), mask.chunk(parts), strict=True):
            losses.segmentation_loss(net(x), y, *counts).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6) and torch.allclose(
        gradients[0], gradients[2], atol=1e-6
    )


@pytest.mark.slow
def test_it_learns_four_tiles_of_known_truth_in_a_minute(tmp_path):
    from conftest import write_site

    for seed in range(4):
        write_site(tmp_path / "scenes", f"s{seed}", seed)
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "c", "--workers", 0, "--index", "ndsi")
    text = (tmp_path / "c" / "triplets.csv").read_text().splitlines()
    twice = [line[: line.rindex(",")] + ",train" for line in text[1:]]
    again = [
        line.replace(f"{line.split(',')[0]},", f"again-{line.split(',')[0]},", 1)[:-5] + "val"
        for line in twice
    ]
    (tmp_path / "c" / "triplets.csv").write_text(
        "\n".join([text[0], *twice, *again]) + "\n"
    )  # overfit: val is train
    before = processor_seconds()
    done = run(
        "train_unet.py",
        "--data",
        tmp_path / "c",
        "--out",
        tmp_path / "t",
        "--width",
        16,
        "--epochs",
        150,
        "--batch",
        4,
        "--crop",
        96,
        "--no-augment",
        "--learning-rate",
        3e-3,
        "--workers",
        0,
        env={"OMP_NUM_THREADS": "2"},
    )
    assert result(done)["best"]["iou"] >= 0.98
    assert (processor_seconds() - before) / 2 < 60  # of two processors


def test_the_loss_of_an_infinite_net_stops_the_run_and_keeps_the_checkpoint(triplets_folder, tmp_path):
    words = ["--data", triplets_folder, "--out", tmp_path / "a", *TINY]
    run("train_unet.py", *words, "--stop-after", 1, code=75)
    state = training.load_checkpoint(tmp_path / "a" / "last.pt")
    state["weights"]["head.weight"].fill_(float("inf"))
    torch.save(state, tmp_path / "a" / "last.pt")
    before = (tmp_path / "a" / "last.pt").read_bytes()
    done = run("train_unet.py", *words, code=1)
    assert "loss is nan" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "a" / "last.pt").read_bytes() == before


@pytest.mark.slow
def test_out_of_memory_names_a_batch_that_fits(triplets_folder, tmp_path):
    """Under a limit on the address space 8 images do not fit; what is advised must run under it too."""
    words = [
        "--data",
        triplets_folder,
        *without(TINY, "--batch", "--width", "--crop", "--epochs"),
        "--width",
        64,
        "--crop",
        256,
        "--epochs",
        1,
    ]

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    done = run("train_unet.py", *words, "--out", tmp_path / "a", "--batch", 8, code=1, preexec_fn=limit)
    line = done.stderr.strip().splitlines()[-1]
    assert "out of memory with 8 images of 256 px" in line and "Traceback" not in done.stderr
    advice = line.split("fit: ")[1].split(" computes")[0].split()
    assert advice[:3] == ["--batch", "8", "--accumulate"] and advice[3] in ("2", "4", "8")
    run("train_unet.py", *words, "--out", tmp_path / "b", *advice, preexec_fn=limit)


def test_init_takes_what_fits(triplets_folder, trained, tmp_path):
    done = run(
        "train_unet.py",
        "--data",
        triplets_folder,
        "--out",
        tmp_path / "a",
        *TINY,
        "--bands",
        "vv",
        "--init",
        trained / "best.pt",
        "--stop-after",
        1,
        code=75,
    )
    total = len(weights(trained / "best.pt"))
    assert f"{total - 1} of {total} tensors start from" in done.stderr  # all but the first convolution
    words = ["--data", triplets_folder, *TINY, "--init", trained / "best.pt", "--out", tmp_path / "b"]
    refuse(
        "train_unet.py", *words, "--norm", "group", saying="its net has norm batch, not group; pass --norm"
    )


def test_finished_it_is_skipped_and_other_arguments_are_refused(triplets_folder, trained):
    words = ["--data", triplets_folder, "--out", trained, *without(TINY, "--epochs")]
    assert "already done" in run("train_unet.py", *words, "--epochs", 4).stderr
    refuse("train_unet.py", *words, "--epochs", 5, saying="epochs was 4, is 5")


def test_config_sets_defaults_and_unknown_keys_are_errors(triplets_folder, tmp_path):
    (tmp_path / "a.toml").write_text(
        'width = 4\ndepth = 2\nepochs = 1\nbatch = 2\ncrop = 48\naugment = false\nbands = "vh"\n'
    )
    got = result(
        run(
            "train_unet.py",
            "--config",
            tmp_path / "a.toml",
            "--data",
            triplets_folder,
            "--out",
            tmp_path / "a",
            "--width",
            8,
            "--workers",
            0,
        )
    )
    assert (
        got["arguments"]["width"] == 8
        and got["arguments"]["augment"] is False
        and got["contract"]["bands"] == ["vh"]
    )
    (tmp_path / "b.toml").write_text("widht = 4\n")
    refuse(
        "train_unet.py",
        "--config",
        tmp_path / "b.toml",
        "--data",
        triplets_folder,
        "--out",
        tmp_path / "b",
        saying="unknown setting 'widht'",
    )


@pytest.mark.slow
def test_early_stopping_class_weight_and_other_losses(triplets_folder, tmp_path):
    for loss in ("focal-dice", "tversky"):
        got = result(
            run(
                "train_unet.py",
                "--data",
                triplets_folder,
                "--out",
                tmp_path / loss,
                *without(TINY, "--epochs"),
                "--epochs",
                12,
                "--loss",
                loss,
                "--snow-weight",
                "balanced",
                "--patience",
                1,
                "--learning-rate",
                1e-9,
            )
        )
        assert got["epochs"] < 12


# ---- the original's folders --------------------------------------------------------------------------------


def original(folder):
    """SAR/<split>/x.png, RGB/<split>/x.png, Masks/<split>/x.png as the original project had them."""
    for number, split in enumerate(("train", "train", "train", "val", "test", "test")):
        snow = blobs(64, 64, number)
        noise = np.random.default_rng(number).normal(0, 20, snow.shape)
        pictures = {
            "SAR": np.where(snow, 60, 140) + noise,
            "Masks": snow * 255.0,
            "RGB": np.where(snow, 240, 90),
        }
        for kind, values in pictures.items():
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
            (picture.convert("RGB") if kind == "RGB" else picture).save(
                folder / kind / split / f"tile_{number}.png"
            )
    return folder


def test_the_originals_folders_train_and_infer_unchanged(tmp_path):
    folder = original(tmp_path / "old")
    run(
        "train_unet.py",
        "--data",
        folder,
        "--out",
        tmp_path / "t",
        *without(TINY, "--epochs"),
        "--epochs",
        30,
        "--learning-rate",
        5e-3,
    )
    got = result(
        run(
            "infer_unet.py",
            "--data",
            folder,
            "--weights",
            tmp_path / "t" / "best.pt",
            "--out",
            tmp_path / "i",
            "--workers",
            0,
        )
    )
    assert got["triplets"] == 2 and got["scores"]["iou"] > 0.8
    mask = np.asarray(Image.open(next((tmp_path / "i" / "mask").glob("*.png"))))
    assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize(
    ("levels", "said"),
    [((0, 1), "levels 0, 1"), ((0, 127, 255), "levels 0, 127, 255"), ((0, 1, 255), "levels 0, 1, 255")],
)
def test_ambiguous_masks_are_refused(tmp_path, levels, said):
    folder = original(tmp_path / "old")
    path = folder / "Masks" / "train" / "tile_0.png"
    Image.fromarray(np.resize(np.array(levels, np.uint8), (64, 64))).save(path)
    refuse("train_unet.py", "--data", folder, "--out", tmp_path / "t", *TINY, saying=said)
    done = run("train_unet.py", "--data", folder, "--out", tmp_path / "t", *TINY, "--skip-bad")
    assert len(result(done)["left_out"]) == 1


@pytest.mark.parametrize("what", ["no mask", "cut image", "other size", "16 bit", "odd name"])
def test_bad_pictures_are_refused_by_name(tmp_path, what):
    folder = original(tmp_path / "old")
    sar, mask = (folder / kind / "train" / "tile_1.png" for kind in ("SAR", "Masks"))
    if what == "no mask":
        mask.unlink()
    elif what == "cut image":
        sar.write_bytes(sar.read_bytes()[:200])
    elif what == "other size":
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(mask)
    elif what == "16 bit":
        Image.fromarray(np.zeros((64, 64), np.uint16)).save(sar)
    else:
        sar.rename(sar.with_name("tile 1;rm.png"))
    refuse(
        "train_unet.py",
        "--data",
        folder,
        "--out",
        tmp_path / "t",
        *TINY,
        saying="tile" if what != "odd name" else "rename",
    )
    assert not (tmp_path / "t" / "best.pt").exists()


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bands", "vv,magic"), "unknown magic"),
        (("--bands", "vv,vv"), "repeated"),
        (("--loss", "hinge"), "bce-dice"),
        (("--accumulate", 9), "--accumulate"),
        (("--snow-weight", "-1"), "--snow-weight"),
        (("--crop", 2), "--crop"),
        (("--device", "cuda:9"), "--device cuda:9"),
        (("--init", "nowhere.pt"), "nowhere.pt"),
        (("--width", 0), "--width"),
        (("--bands", "vv,elevation"), "no dem file"),
        (("--bands", "vv,incidence-angle"), "incidence_angle not found"),
        (("--target", "wet"), "mask_wet"),
        (("--ema", 1), "--ema"),
        (("--weight-decay", -1), "--weight-decay"),
    ],
)
def test_bad_arguments(triplets_folder, tmp_path, words, said):
    refuse("train_unet.py", "--data", triplets_folder, "--out", tmp_path / "t", *TINY, *words, saying=said)
    assert not (tmp_path / "t").exists()


def edited(triplets_folder, tmp_path, edit):
    """A copy of the split's manifest with its rows changed; files stay where they are."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("sar", "rgb", "mask"):
        (folder / name).symlink_to((triplets_folder / name).resolve())
    lines = (triplets_folder / "triplets.csv").read_text().splitlines()
    (folder / "triplets.csv").write_text("\n".join(edit(lines)) + "\n")
    return folder


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: [*t, t[1]], "stands twice"),
        (lambda t: [t[0], t[1].replace("sar/", "../../etc/", 1), *t[2:]], "leads out of the folder"),
        (lambda t: [t[0], t[1].replace("sar/", "/sar/", 1), *t[2:]], "leads out of the folder"),
        (lambda t: [t[0], t[1].replace(".tif", "x.tif", 1), *t[2:]], "no such file"),
        (lambda t: [t[0].replace("backscatter", "b"), *t[1:]], "column backscatter missing"),
        (lambda t: [t[0], t[1] + ",more", *t[2:]], "another number of fields"),
        (lambda t: [t[0], t[1].replace("sigma0", "gamma0", 1), *t[2:]], "mixes backscatter"),
        (lambda t: [t[0], *(line.replace("train", "test") for line in t[1:])], "no triplet in split 'train'"),
        (lambda t: [t[0], "a b" + t[1], *t[2:]], "no safe name"),
    ],
)
def test_bad_manifests_are_refused(triplets_folder, tmp_path, edit, said):
    folder = edited(triplets_folder, tmp_path, edit)
    refuse("train_unet.py", "--data", folder, "--out", tmp_path / "t", *TINY, saying=said)
    assert not (tmp_path / "t" / "best.pt").exists()


def test_a_truncated_triplet_is_found_before_the_first_batch(triplets_folder, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(triplets_folder, folder)
    bad = next(
        line.split(",")[0]
        for line in (folder / "triplets.csv").read_text().splitlines()
        if line.endswith("train")
    )
    path = folder / "sar" / f"{bad}.tif"
    path.write_bytes(path.read_bytes()[:5000])
    refuse("train_unet.py", "--data", folder, "--out", tmp_path / "t", *TINY, saying=bad)
    got = result(run("train_unet.py", "--data", folder, "--out", tmp_path / "t", *TINY, "--skip-bad"))
    assert len(got["left_out"]) == 1 and bad in got["left_out"][0]


def test_a_full_disk_leaves_nothing_half_written(triplets_folder, tmp_path):
    """A limit on file size stands for the full disk: the checkpoint cannot be finished."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    refuse(
        "train_unet.py",
        "--data",
        triplets_folder,
        "--out",
        tmp_path / "t",
        *TINY,
        saying="nothing half-written",
        preexec_fn=limit,
    )
    assert not [path for path in (tmp_path / "t").iterdir() if path.suffix in (".pt", ".tmp")]
    run("train_unet.py", "--data", triplets_folder, "--out", tmp_path / "t", *TINY)
