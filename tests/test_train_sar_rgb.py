"""train_sar_rgb.py, run as a user would, on small pairs that show one pattern in radar and in RGB."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, THREADS, command, grid, refuse, result, run
from scipy.ndimage import zoom

import train_unet
from data_prep import (
    compose,
    frozen_features,
    pictures,
    rasters,
    sar_rgb_curves,
    sar_rgb_input,
    sar_rgb_pairs,
    triplets,
)
from data_prep.named_paths import named_paths
from data_prep.runs import BadInput
from models import frozen, sar_rgb, training
from models.unet import UNet

TINY = (
    "--width", 4, "--depth", 2, "--dimensions", 8, "--norm", "group", "--epochs", 3, "--batch", 8,
    "--learning-rate", 1e-4, "--amp", "off", "--workers", 0,
)  # fmt: skip


def write_pairs(folder, sites: int, dates: int, side: int = 32):
    """Triplets of one tile a site: radar and RGB of a ground show its hidden field and levels, in all dates.

    Of five sites the last is of val.
    """
    for kind in ("sar", "rgb", "mask"):
        (folder / kind).mkdir(parents=True)
    rows, random = [], np.random.default_rng(0)
    common = {
        "gap_hours": 5, "platform": "test", "product": "test", "backscatter": "sigma0", "latitude": 47,
        "longitude": 10, "row": 0, "col": 0, "height": side, "width": side, "valid_fraction": 1,
        "snow_fraction": 0,
    }  # fmt: skip
    for number in range(sites):
        field, levels = zoom(random.normal(size=(4, 4)), side / 4, order=1), random.normal(size=2)
        where = grid(side, side, east=600000 + 10000 * number)
        for date in range(dates):
            name, day = f"s{number}_{date}", f"2021-01-{10 + date}"
            radar = np.stack([-10 - 3 * levels[0] - 3 * field, -17 + 3 * levels[1] + 2 * field])
            radar += random.normal(0, 0.2, radar.shape)
            light = 120 + 20 * np.stack([field + levels[0], levels[1] - field, field + levels[1]])
            light += random.normal(0, 2, light.shape)
            files = {kind: folder / kind / f"{name}.tif" for kind in ("sar", "rgb", "mask")}
            tags = {"units": "dB", "backscatter": "sigma0"}
            rasters.write(files["sar"], radar.astype(np.float32), ("VV", "VH"), where, np.nan, **tags)
            light = light.clip(1, 255).astype(np.uint8)
            rasters.write(files["rgb"], light, ("red", "green", "blue"), where, 0)
            rasters.write(files["mask"], (field > 0).astype(np.uint8)[None], ("snow",), where, 255)
            row = dict.fromkeys(triplets.COLUMNS, "") | common
            row |= {kind: path.relative_to(folder) for kind, path in files.items()}
            row |= {"id": name, "site": f"s{number}", "date": day, "s1_date": day, "s2_date": day}
            rows.append(row | {"split": "val" if number % 5 == 4 else "train"})
    triplets.write_manifest(folder / "triplets.csv", rows)
    return folder


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory):
    """24 triplets of 12 grounds to train on, 6 of 3 to judge."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "p", 15, 2)


@pytest.fixture(scope="session")
def trained(pairs_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained-pairs") / "t"
    run("train_sar_rgb.py", "--data", pairs_folder, "--out", out, *TINY)
    return out


def load(path):
    return training.load_checkpoint(path, model="sar-rgb")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_short_run_with_batch_norms_is_judged_as_it_learned(tmp_path):
    """20 steps on four pairs, learned by heart: the averaged net, which is kept, tells them apart too."""
    folder = write_pairs(tmp_path / "p", 4, 1)
    words = ("--dimensions", 16, "--width", 8, "--depth", 3, "--epochs", 20, "--amp", "off", "--workers", 0)
    best = result(run("train_sar_rgb.py", "--data", folder, "--out", tmp_path / "t", *words))["best"]
    assert best["judged_on"] == "train" and best["train_loss"] < 0.2
    assert best["sar_to_rgb"]["r_at_1"] == best["rgb_to_sar"]["r_at_1"] == 1, best
    assert best["loss"] < 3 * best["train_loss"] + 0.1, best


# ---- grounds and pairs -------------------------------------------------------------------------------------


def test_no_batch_holds_two_triplets_of_a_ground_and_each_comes_once():
    random = np.random.default_rng(0)
    for trial in range(200):
        count, grounds, batch = random.integers(1, 60), random.integers(1, 20), int(random.integers(2, 30))
        places = random.integers(0, grounds, count)
        rows = [{"id": str(k), "site": "s", "row": str(p), "col": "0"} for k, p in enumerate(places)]
        found = sar_rgb_pairs.ground_batches(rows, batch, trial, 3)
        assert sorted(index for keys in found for _, index in keys) == list(range(count))
        for keys in found:
            assert len(keys) <= batch and {epoch for epoch, _ in keys} == {3}
            assert len({sar_rgb_pairs.ground(rows[index]) for _, index in keys}) == len(keys)
        sizes = [len(keys) for keys in found]
        assert max(sizes) - min(sizes) <= 1 and len(found) == sar_rgb_pairs.batch_count(rows, batch)
        assert found == sar_rgb_pairs.ground_batches(rows, batch, trial, 3)


def test_order_changes_with_the_epoch_and_processes_share_a_batch():
    rows = [{"id": str(k), "site": f"s{k % 9}", "row": "0", "col": "0"} for k in range(27)]
    whole = list(sar_rgb_pairs.epochs(rows, 7, 0, 0, 2, 1))
    assert len(whole) == 7 and {epoch for keys in whole for epoch, _ in keys} == {0, 1}
    first, second = sar_rgb_pairs.ground_batches(rows, 7, 0, 0), sar_rgb_pairs.ground_batches(rows, 7, 0, 1)
    assert [[k for _, k in keys] for keys in first] != [[k for _, k in keys] for keys in second]
    shares = [list(sar_rgb_pairs.epochs(rows, 7, 0, 0, 2, 1, rank, 2)) for rank in (0, 1)]
    for keys, *parts in zip(whole, *shares, strict=True):
        assert parts[0] + parts[1] == keys and len(parts[0]) == len(keys) // 2


def test_one_of_each_ground_whatever_else_is_there(pairs_folder):
    rows = triplets.read_manifest(pairs_folder).rows
    kept = sar_rgb_pairs.one_per_ground(rows, 0)
    assert [row["site"] for row in kept] == [f"s{k}" for k in range(15)]
    assert {row["id"] for row in sar_rgb_pairs.one_per_ground(rows[::-1], 0)} == {r["id"] for r in kept}
    assert any(sar_rgb_pairs.one_per_ground(rows, seed) != kept for seed in (1, 2))
    few = [row for row in rows if row["site"] == "s3"]
    assert sar_rgb_pairs.one_per_ground(few, 0)[0] in kept


def test_both_pictures_of_a_pair_are_cropped_and_turned_alike(pairs_folder):
    """The hidden field makes VV fall where red rises: the correlation survives any crop and turn."""
    rows = triplets.read_manifest(pairs_folder).rows[:4]
    plain = sar_rgb_pairs.SarRgbPairs(rows, ("vv", "vh"))
    moved = sar_rgb_pairs.SarRgbPairs(rows, ("vv", "vh"), 24, seed=1, augment=True, gain_db=1.0)
    turns, offsets = set(), set()
    for epoch in range(12):
        sar, rgb, index = moved[epoch, 0]
        assert sar.shape == (2, 24, 24) and rgb.shape == (3, 24, 24) and index == 0
        assert torch.equal(torch.stack([sar[0], rgb[0]]), torch.stack([x[0] for x in moved[epoch, 0][:2]]))
        assert np.corrcoef(sar[0].flatten(), rgb[0].flatten())[0, 1] < -0.9
        gain = sar[0].mean() - sar[1].mean() - (plain[0, 0][0][0].mean() - plain[0, 0][0][1].mean())
        assert abs(gain) < 5  # one gain for both bands
        offsets.add(round(float(rgb[0, 0, 0]), 3))
        turns.add(rgb.numpy().tobytes())
    assert len(turns) > 8
    turned = {sar_rgb_pairs.turned(np.arange(6).reshape(2, 3), k).tobytes() for k in range(8)}
    assert len(turned) == 8
    kept = sar_rgb_pairs.SarRgbPairs(rows, ("vv", "vh"), 24, seed=1, augment=True, gain_db=1.0, keep=True)
    for epoch in (0, 1, 1):
        assert all(torch.equal(a, b) for a, b in zip(kept[epoch, 2][:2], moved[epoch, 2][:2], strict=True))
    x = torch.randn(2, 3, 4)
    for turn in range(8):
        array = sar_rgb_pairs.turned(x.numpy(), turn)
        assert np.array_equal(sar_rgb_pairs.turned(x, turn).numpy(), array)


def test_a_small_pair_is_padded_alike_with_no_data(pairs_folder):
    rows = triplets.read_manifest(pairs_folder).rows[:1]
    sar, rgb, _ = sar_rgb_pairs.SarRgbPairs(rows, ("vv",), 40)[0, 0]
    whole = sar_rgb_pairs.SarRgbPairs(rows, ("vv",))[0, 0]
    for padded, image in zip((sar, rgb), whole[:2], strict=True):
        assert torch.equal(padded[:, 4:36, 4:36], image) and image.isfinite().all()
        assert padded.isnan().sum() == len(image) * (40**2 - 32**2)


def test_statistics_are_those_of_all_valid_pixels(pairs_folder):
    chosen = triplets.read_manifest(pairs_folder).of("train")
    found = sar_rgb_input.inspect(chosen, ("vv", "vh"), False, "")
    pairs = sar_rgb_pairs.SarRgbPairs(chosen.rows, ("vv", "vh"))
    every = [torch.stack([pairs[0, k][part] for k in range(len(pairs))]) for part in (0, 1)]
    for prefix, images in zip(("", "rgb_"), every, strict=True):
        assert found[f"{prefix}mean"] == pytest.approx(images.double().mean((0, 2, 3)).tolist(), rel=1e-6)
        std = images.double().std((0, 2, 3), correction=0).tolist()
        assert found[f"{prefix}std"] == pytest.approx(std, rel=1e-6)


# ---- frozen features ---------------------------------------------------------------------------------------


def test_features_are_kept_by_picture_turn_and_weights(pairs_folder, tmp_path):
    rows, calls = triplets.read_manifest(pairs_folder).rows[:3], []

    def encode(pictures):
        calls.append(len(pictures))
        return pictures[:, :2, :2].reshape(len(pictures), -1).astype(np.float32)

    def features(*about, rows=rows, turns=8):
        return frozen_features.features(rows, "rgb", "vv", None, turns, encode, about, tmp_path, lambda: None)

    first = features("a")
    assert first.shape == (3, 8, 12) and sum(calls) == 24
    for turn in range(8):
        picture = sar_rgb_pairs.turned(compose.rgb_picture(rows[1])[0].transpose(2, 0, 1), turn)
        assert np.array_equal(first[1, turn], picture.transpose(1, 2, 0)[:2, :2].ravel())
    assert np.array_equal(features("a"), first) and sum(calls) == 24
    next(tmp_path.glob("*.npy")).write_bytes(b"cut")
    assert np.array_equal(features("a", rows=rows[::-1]), first[::-1]) and sum(calls) == 32
    features("b")
    assert sum(calls) == 56
    wide = [np.zeros((4, 6, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None]]
    found = frozen_features.in_turns([*wide, wide[0][:, :4] + 9], 8, encode)
    assert found.shape == (2, 8, 12)
    assert np.array_equal(found[0], frozen_features.in_turns(wide, 8, encode)[0])
    calls.clear()
    assert np.array_equal(features("c", turns=1), first[:, :1]) and calls == [3]  # many pictures at once


def test_frozen_weights_are_told_apart_and_named_kinds_checked():
    nets = [torch.nn.Linear(3, 2) for _ in range(2)]
    assert frozen.weights_hash(nets[0]) != frozen.weights_hash(nets[1])
    assert frozen.weights_hash(nets[0]) == frozen.weights_hash(nets[0])
    for texts in (["dinov2"], ["unet=x"], ["dinov2="], ["clip=a", "clip=b"], ["junk"]):
        with pytest.raises(BadInput, match=r"--weights .*: expected NAME=PATH"):
            named_paths(texts, frozen.FAMILIES, "--weights")
    assert named_paths(["clip=a=b", "dinov2=c"], frozen.FAMILIES, "-") == {"clip": "a=b", "dinov2": "c"}
    with pytest.raises(ValueError, match="--weights clip"):
        frozen.load({"sar": "unet", "rgb": "dinov2"}, {"clip": "a"})


# ---- training ----------------------------------------------------------------------------------------------


def test_it_learns_to_find_held_out_pairs(tmp_path):
    folder = write_pairs(tmp_path / "p", 60, 1)
    words = ["--data", folder, "--out", tmp_path / "t", *TINY, "--epochs", 12, "--norm", "batch"]
    got = result(run("train_sar_rgb.py", *words, "--learning-rate", 0.01, "--ema", 0.8))
    assert got["best"]["gallery"] == 12
    for way in ("sar_to_rgb", "rgb_to_sar"):  # by chance 1 / 12 and sum(1 / k) / 12 = 0.26
        assert got["best"][way]["r_at_1"] >= 3 / 12
        assert got["best"][way]["mean_reciprocal_rank"] >= 0.45
    records = log(tmp_path / "t")
    assert records[-1]["train_loss"] < 0.7 * records[0]["train_loss"]
    assert all(record["temperature"] > 0 and record["gap"] >= 0 for record in records)


def test_best_is_the_one_named_and_loads_with_its_contract(trained, pairs_folder):
    net, state = sar_rgb.load(trained / "best.pt")
    best = json.loads((trained / "result.json").read_text())["best"]
    records = log(trained)
    assert best["mean_reciprocal_rank"] == max(record["mean_reciprocal_rank"] for record in records)
    contract = state["contract"]
    assert contract["bands"] == ["vv", "vh"] and len(contract["rgb_mean"]) == 3 and contract["tile"] == 32
    rows = sar_rgb_pairs.one_per_ground(triplets.read_manifest(pairs_folder).of("val").rows, 0)
    pairs = sar_rgb_pairs.SarRgbPairs(rows, contract["bands"])
    sar, rgb, _ = (torch.stack(part) for part in zip(*map(tensors, pairs_of(pairs)), strict=True))
    with torch.inference_mode():
        x = training.normalise(sar, *(torch.tensor(contract[name]) for name in ("mean", "std")))
        y = training.normalise(rgb, *(torch.tensor(contract[f"rgb_{name}"]) for name in ("mean", "std")))
        loss = sar_rgb.info_nce(*net(x, y)).item()
    assert loss == pytest.approx(best["loss"], rel=1e-4)


def pairs_of(pairs):
    return (pairs[0, index] for index in range(len(pairs)))


def tensors(pair):
    return *pair[:2], torch.tensor(pair[2])


def test_a_signal_saves_and_the_rest_is_the_same_bit_for_bit(pairs_folder, trained, tmp_path):
    words = ["--data", pairs_folder, "--out", tmp_path / "b", *TINY]
    process = subprocess.Popen(
        command("train_sar_rgb.py", *words), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        cwd=ROOT, env={**os.environ, **THREADS},
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("epoch"):
            process.send_signal(signal.SIGTERM)
            break
    process.stderr.read()
    assert process.wait(60) == 75
    assert load(tmp_path / "b" / "last.pt")["progress"]["epoch"] in (1, 2)
    run("train_sar_rgb.py", *words, "--workers", 1)
    for name in ("best.pt", "last.pt"):
        a, b = load(trained / name), load(tmp_path / "b" / name)
        assert same(a["weights"], b["weights"]) and a["best"]["loss"] == b["best"]["loss"]
    assert [r["train_loss"] for r in log(trained)] == [r["train_loss"] for r in log(tmp_path / "b")]


def test_two_processes_learn_what_one_learns(pairs_folder, trained, tmp_path):
    words = [*map(str, ("--data", pairs_folder, "--out", tmp_path / "b", *TINY))]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*start, str(ROOT / "train_sar_rgb.py"), *words], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **THREADS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = result(done)
    assert got["processes"] == 2 and done.stdout.count('"best"') == 1 and done.stderr.count("epoch 1/3") == 1
    records, other = log(trained), log(tmp_path / "b")
    for name in ("train_loss", "loss", "gap", "mean_reciprocal_rank"):
        assert [r[name] for r in records] == pytest.approx([r[name] for r in other], abs=1e-5)
    a, b = load(trained / "last.pt")["weights"], load(tmp_path / "b" / "last.pt")["weights"]
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-5


def test_only_a_head_is_trained_on_a_frozen_dinov2(pairs_folder, tmp_path):
    """Without validation pairs too: then the last epoch is the best."""
    folder = tmp_path / "p"
    shutil.copytree(pairs_folder, folder)
    text = (folder / "triplets.csv").read_text().splitlines()
    kept = [line for line in text if not line.endswith("val")][:9]
    (folder / "triplets.csv").write_text("\n".join(kept) + "\n")
    words = ["--data", folder, *TINY, "--rgb-encoder", "dinov2", "--weights", "dinov2=random", "--no-augment"]
    cache = ["--cache", tmp_path / "features"]
    done = run("train_sar_rgb.py", *words, "--out", tmp_path / "a", *cache)
    assert "no validation pairs" in done.stderr
    got = result(done)
    assert got["best"]["epoch"] == 2 and got["contract"]["rgb_encoder"]["random"] is True
    net, state = sar_rgb.load(tmp_path / "a" / "best.pt")
    assert net.arguments["rgb"] == "features" and net.arguments["rgb_bands"] == 2 * 384
    assert not [name for name in state["weights"] if name.startswith("rgb.")]
    assert len(list((tmp_path / "features").glob("*.npy"))) == 8


# ---- a U-Net from it ---------------------------------------------------------------------------------------


def test_a_unet_starts_from_the_radar_encoder(pairs_folder, trained, tmp_path):
    words = ["--data", pairs_folder, "--width", 4, "--depth", 2, "--epochs", 1, "--amp", "off", "--dry-run"]
    words += ["--norm", "group", "--init", trained / "best.pt", "--out", tmp_path / "u"]
    given = sar_rgb.load(trained / "best.pt")[0].unet_encoder()
    done = run("train_unet.py", *words)
    assert f"{len(given)} of " in done.stderr and "tensors start from" in done.stderr
    net = UNet(2, 4, 2, "group")
    reads = {"bands": ["vv", "vh"], "units": "dB", "backscatter": "sigma0"}
    assert train_unet.take_init(net, trained / "best.pt", reads) == len(given)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in given.items())
    for other, saying in (
        (UNet(2, 8, 2, "group"), "width 4, not 8; pass --width 4"),
        (UNet(2, 4, 3, "group"), "depth 2, not 3"),
        (UNet(2, 4, 2, "batch"), "norm group, not batch"),
    ):
        with pytest.raises(BadInput, match=saying):
            train_unet.take_init(other, trained / "best.pt", reads)
    for change, saying in (
        ({"bands": ["vh", "vv"]}, "reads bands vv,vh, not vh,vv"),
        ({"units": "8-bit"}, "reads units dB, not 8-bit"),
        ({"backscatter": "gamma0_rtc"}, "reads backscatter sigma0, not gamma0_rtc"),
    ):
        with pytest.raises(BadInput, match=saying):
            train_unet.take_init(net, trained / "best.pt", reads | change)
    state = load(trained / "best.pt")
    headless = sar_rgb.SarRgb(2, sar="resnet18", width=4, depth=2)
    state |= {"arguments": headless.arguments, "weights": headless.state_dict()}
    torch.save(state, tmp_path / "r.pt")
    with pytest.raises(BadInput, match="the SAR encoder is 'resnet18'"):
        train_unet.take_init(net, tmp_path / "r.pt", reads)


# ---- what it refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, saying",
    [
        (["--batch", 1], "--batch 1"),
        (["--ema", 1], "--ema 1"),
        (["--alignment", -1], "--alignment -1"),
        (["--crop", 2], "--crop 2"),
        (["--bands", "vv", "--sar-encoder", "clip"], "choose --compose"),
        (["--resume", "nowhere.pt"], "no such checkpoint"),
        (["--weights", "junk", "--dry-run"], "--weights junk: expected NAME=PATH"),
    ],
)
def test_bad_arguments_are_one_sentence(pairs_folder, tmp_path, words, saying):
    refuse("train_sar_rgb.py", "--data", pairs_folder, "--out", tmp_path / "x", *words, saying=saying)
    assert not (tmp_path / "x").exists()


def test_pairs_that_cannot_be_used_are_refused_by_name(pairs_folder):
    def inspect(change, skip_bad=False):
        chosen = triplets.read_manifest(pairs_folder).of("train")
        chosen.rows[1] = {**chosen.rows[1], **change}
        sar_rgb_input.inspect(chosen, ("vv", "vh"), skip_bad, "")
        return chosen

    other = triplets.read_manifest(pairs_folder).rows[0]
    for change, saying in (
        ({"rgb": None}, "s0_1: has no RGB picture"),
        ({"rgb": other["sar"]}, "expected 3 of uint8"),
        ({"sar": pairs_folder / "nowhere.tif"}, "no such file"),
    ):
        with pytest.raises(BadInput, match=saying):
            inspect(change)
        chosen = inspect(change, skip_bad=True)
        assert len(chosen.rows) == 23 and len(chosen.bad) == 1


def test_a_single_pair_a_batch_is_refused():
    rows = [{"id": str(k), "site": "s", "row": "0", "col": "0"} for k in range(6)]
    with pytest.raises(BadInput, match="6 training triplets of 1 grounds"):
        sar_rgb_pairs.check_batches(rows, 8)
    grounds = [row | {"col": str(k)} for k, row in enumerate(rows)]
    assert sar_rgb_pairs.check_batches(grounds, 6, 3) == 1
    with pytest.raises(BadInput, match="1 for each of 4 processes, which need 2"):
        sar_rgb_pairs.check_batches(grounds, 6, 4)


@pytest.mark.parametrize("flag", ["--batch", "--seed", "--epochs"])
def test_it_goes_on_only_with_the_plan_it_began(pairs_folder, trained, tmp_path, flag):
    words = ["--data", pairs_folder, "--out", tmp_path / "t", *TINY, "--resume", trained / "last.pt"]
    refuse("train_sar_rgb.py", *words, flag, 6, saying=f"last.pt: was trained with {flag} ")


def test_seen_sites_are_named_and_an_old_checkpoint_without_them_goes_on(pairs_folder, trained, tmp_path):
    state, rows = load(trained / "last.pt"), triplets.read_manifest(pairs_folder).rows
    assert state["contract"]["seen"] == sar_rgb_pairs.seen_sites(rows)
    assert len(state["contract"]["seen"]) == 15
    few = sar_rgb_pairs.seen_sites([{"site": "s0"}, {"site": "s0"}])
    assert few == [hashlib.sha256(b"s0").hexdigest()[:16]] and few[0] in state["contract"]["seen"]
    del state["contract"]["seen"], state["plan"]
    torch.save(state, tmp_path / "old.pt")
    shutil.copy(trained / "best.pt", tmp_path)
    assert sar_rgb.load(tmp_path / "old.pt")[1]["contract"].get("seen") is None
    words = ["--data", pairs_folder, "--out", tmp_path / "t", *TINY, "--resume", tmp_path / "old.pt"]
    assert "going on from" in run("train_sar_rgb.py", *words).stderr  # without its log: nothing to draw
    assert (tmp_path / "t" / "best.pt").exists() and not (tmp_path / "t" / "curves.png").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"mean": 5}, {"mean": [1.0, float("nan")]}, {"std": [1.0, 0.0]}, {"rgb_mean": [1.0, 2.0]},
        {"rgb_std": "abc"}, {"rgb_encoder": "unet"}, {"sar_encoder": {"name": "dinov2", "sha256": "0"}},
        {"bands": "vv"}, {"units": 3}, {"tile": "32"}, {"seen": 4}, {"seen": [1]}, {"speckle": []},
        {"rgb_encoder": {"name": "dinov2", "sha256": "0", "network": "a", "provenance": "b", "random": True,
                         "size": 224}},
    ],
)  # fmt: skip
def test_a_crafted_contract_is_refused_in_a_sentence(trained, tmp_path, change):
    state = load(trained / "best.pt")
    state["contract"] |= change
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(training.CheckpointError, match="input contract"):
        load(tmp_path / "c.pt")


def test_crafted_weights_are_refused(trained, tmp_path):
    for change in ({"weights": {"down": 3}}, {"average": [1]}, {"average": {"down": "x"}}):
        torch.save(load(trained / "best.pt") | change, tmp_path / "c.pt")
        with pytest.raises(training.CheckpointError, match="no checkpoint of this project"):
            load(tmp_path / "c.pt")


def test_batch_norms_of_processes_are_shared_on_cuda_and_spoken_of_elsewhere(pairs_folder, tmp_path):
    net = sar_rgb.SarRgb(2, width=4, depth=2)
    names = list(net.state_dict())
    assert training.has_batch_norm(net)
    assert not training.has_batch_norm(sar_rgb.SarRgb(2, width=4, depth=2, norm="group"))
    shared = training.norms_over_processes(net)
    norms = [layer for layer in shared.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    assert {type(layer) for layer in norms} == {torch.nn.SyncBatchNorm} and len(norms) == 12
    assert list(shared.state_dict()) == names
    words = ["--data", pairs_folder, "--out", tmp_path / "b", *TINY, "--norm", "batch", "--dry-run"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*start, str(ROOT / "train_sar_rgb.py"), *map(str, words)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **THREADS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("batch norms see the pairs of one process, 4 of 8") == 1


def test_each_set_stays_in_memory_by_its_own_size():
    small, large = ([{"height": side, "width": side}] * 10 for side in (10, 100))
    each = [4 * 5 * 10 * side**2 for side in (10, 100)]
    for sets, room, expected in (
        ([small, large], sum(each), [True, True]),
        ([small, large], sum(each) - 1, [True, False]),
        ([large, small], each[0], [False, True]),
        ([small, large], each[0] - 1, [False, False]),
    ):
        assert sar_rgb_pairs.which_fit(sets, ("vv", "vh"), room) == expected


def test_the_temperature_is_drawn_from_zero(monkeypatch, tmp_path):
    record = {"judged_on": "val", "train_loss": 1, "loss": 1, "gallery": 4, "gap": 0.1}
    record |= {way: {"r_at_1": 0.5} for way in sar_rgb_curves.WAYS}
    records = [record | {"epoch": k, "temperature": 0.07 - 0.001 * k} for k in range(3)]
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda fig, path: drawn.append(fig))
    sar_rgb_curves.training_curves(tmp_path / "c.png", records, "")
    axes = next(axes for axes in drawn[0].axes if axes.get_ylabel() == "temperature")
    assert axes.get_ylim()[0] == 0 and [0.07, 0.07] in [list(line.get_ydata()) for line in axes.lines]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(pairs_folder, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    (tmp_path / "a" / "result.json").unlink()
    state = load(tmp_path / "a" / "last.pt")
    next(value for name, value in state["weights"].items() if name.startswith("sar_head")).fill_(float("inf"))
    state["progress"]["epoch"] = 2
    torch.save(state, tmp_path / "a" / "last.pt")
    before = (tmp_path / "a" / "last.pt").read_bytes()
    done = run("train_sar_rgb.py", "--data", pairs_folder, "--out", tmp_path / "a", *TINY, code=1)
    assert "loss is nan" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "a" / "last.pt").read_bytes() == before
