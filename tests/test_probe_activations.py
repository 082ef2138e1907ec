"""probe_activations.py: its numbers against planted truth, its files against the networks, its refusals.

Most tests run tiny random networks; the slow one takes trained DINOv2 of a package and ../shared's DeepLabV3.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, blobs, refuse, result, run
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import probe_activations
from data_prep import activation_figures, activation_files, compose, picture_pairs, runs, triplets
from data_prep.runs import BadInput
from models import activations, backbones, layer_numbers, layer_views

JOB = "probe_activations.py"
FAMILIES = probe_activations.FAMILIES
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
PAPER_WIDTH = round(7.16 * 300)  # pixels of a figure of two columns


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> list[str]:
    """--weights with tiny networks of the three families."""
    import transformers as t

    torch.manual_seed(1)
    labels = dict(enumerate(("background", "snow", "cat")))
    head = t.MobileNetV2Config(depth_multiplier=0.25, image_size=65, output_stride=16, id2label=labels)
    nets = {
        "clip": t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL, image_size=32, patch_size=8)),
        "dinov2": t.Dinov2Model(t.Dinov2Config(**SMALL, image_size=70, patch_size=14)),
        "deeplabv3": t.MobileNetV2ForSemanticSegmentation(head),
    }
    base = tmp_path_factory.mktemp("tiny")
    for family in FAMILIES:
        nets[family].save_pretrained(base / family)
    return ["--weights", *(f"{family}={base / family}" for family in FAMILIES)]


@pytest.fixture(scope="module")
def probed(triplets_folder, tiny, tmp_path_factory):
    """(output folder, result, stderr) of a run of the three tiny networks with saved activations."""
    out = tmp_path_factory.mktemp("probe") / "out"
    words = ("--data", triplets_folder, "--out", out, "--split", "all", "--sample", 5, "--workers", 0)
    layers = ("--layers", "clip=*", "dinov2=encoder.layer.[0-2]", "deeplabv3=*.reduce_1x1")
    done = run(JOB, *words, *tiny, *layers, "--save-activations", "--batch", 2, "--amp", "off")
    return out, result(done), done.stderr


def table(path) -> list[dict]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def original_layout(folder, count: int, equal: bool) -> None:
    """Pictures as the original lays them out: each its own snow, bright in RGB; SAR the same, or noise."""
    random = np.random.default_rng(3)
    for kind in ("SAR", "RGB", "Masks"):
        (folder / kind / "test").mkdir(parents=True)
    for k in range(count):
        snow = blobs(64, 64, seed=k)
        grey = np.clip(np.where(snow, 190, 70) + random.normal(0, 12, snow.shape), 0, 255).astype(np.uint8)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        noise = np.repeat(random.integers(0, 256, (64, 64, 1), np.uint8), 3, axis=2)
        for kind, image in (
            ("RGB", rgb), ("SAR", rgb if equal else noise), ("Masks", snow.astype(np.uint8) * 255)
        ):  # fmt: skip
            Image.fromarray(image).save(folder / kind / "test" / f"{k:03d}.png")


def here(*words) -> int:
    """The job's exit code, run in this process: importing transformers for each run takes long."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        parser = probe_activations.get_parser()
        return runs.start(probe_activations.main, parser, [str(word) for word in words])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.fixture
def done_here(capsys):
    """The result of the job, run in this process."""

    def check(*words) -> dict:
        assert here(*words) == 0
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    return check


@pytest.fixture
def refuse_here(capsys):
    """The job must exit 2 with a sentence that holds `saying`."""

    def check(*words, saying: str):
        capsys.readouterr()
        assert here(*words) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert saying in line, f"expected {saying!r} in: {line}"

    return check


# ---- what it writes ----------------------------------------------------------------------------------------


def test_figures_under_the_originals_names_at_paper_width(probed):
    out, about, _ = probed
    names = [f"{family}_activations_comparison" for family in FAMILIES]
    for name in (*names, "layers"):
        width, height = Image.open(out / f"{name}.png").size
        assert width == PAPER_WIDTH and height < 9.6 * 300  # no taller than a page
        assert (out / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"
    heads = {path.name.split("_")[0] for path in out.glob("*_attention_heads.png")}
    assert heads == {"clip", "dinov2"}
    assert set(about["models"]) == set(FAMILIES) and not about["models_left_out"]
    assert all(len(model["shown"]) == 2 for model in about["models"].values())


def test_every_layer_has_a_row_beside_its_floor(probed):
    out, about, _ = probed
    rows = table(out / "layers.csv")
    for family, model in about["models"].items():
        own = [row for row in rows if row["model"] == family]
        given = [row["layer"] for row in own if row["weights"] == "given"]
        assert given[0] == "input" and len(given) == len(set(given)) > 3
        assert given[1:] == [row["layer"] for row in own if row["weights"] == "random"]
        assert "sha256" in model["provenance"] and not model["random"]
    for row in rows:
        for name in ("cka", "hoyer_rgb", "hoyer_sar", "zeros_rgb"):
            assert row[name] == "" or -1e-9 <= float(row[name]) <= 1 + 1e-9
        for modality in ("rgb", "sar"):
            assert 1 <= float(row[f"effective_rank_{modality}"]) <= int(row["channels"]) + 1e-9
    best = table(out / "channels.csv")
    assert {row["modality"] for row in best} == {"RGB", "SAR"} and all(
        0 <= float(r["auc"]) <= 1 for r in best
    )
    first = {(r["model"], r["weights"], r["layer"], r["modality"]): r for r in best if r["rank"] == "1"}
    for row in rows:
        one = first[row["model"], row["weights"], row["layer"], "SAR"]
        assert (one["channel"], one["auc"]) == (row["best_channel_sar"], row["auc_sar"])


def test_planted_snow_is_found_in_the_pictures(probed):
    """The world's snow is 5 dB darker in radar and white in RGB: the pictures tell it, by opposite signs."""
    for row in table(probed[0] / "layers.csv"):
        if row["layer"] == "input":
            assert float(row["auc_rgb"]) > 0.95 and float(row["auc_sar"]) < 0.15
            assert 1 <= int(row["auc_sites"]) <= int(row["auc_images"]) == 5


def test_saved_activations_are_those_of_the_network(probed, triplets_folder, tiny):
    out, about, said = probed
    manifest = triplets.read_manifest(triplets_folder)
    rows = compose.sample(manifest.rows, 5, 0)
    pairs = picture_pairs.PicturePairs(
        rows, "vv", compose.scene_limits(manifest.rows, compose.COMPOSE["vv"]), "total"
    )
    written = 0
    for text in tiny[1:]:
        family, folder = text.split("=")
        backbone = backbones.load(family, folder)
        files = sorted((out / "activations" / family).iterdir())
        assert [file.stem for file in files] == sorted(row["id"] for row in rows)
        saved = load_file(out / "activations" / family / f"{rows[0]['id']}.safetensors")
        names = {name.split("/", 1)[1] for name in saved}
        if family == "clip":
            assert names == {name for name, _ in backbones.layers(backbone)}  # every public layer name
        x = backbones.prepare(backbone, pairs[0, 0][0])
        with torch.no_grad(), activations.Capture(backbone.net, names) as capture:
            backbone(x)
        for name, output in capture.outputs.items():
            for place, modality in enumerate(("RGB", "SAR")):
                one = output[place] if len(output) == 2 else output
                torch.testing.assert_close(saved[f"{modality}/{name}"], one, rtol=1e-4, atol=1e-5)
        with safe_open(files[0], "pt") as opened:
            assert opened.metadata()["provenance"] == about["models"][family]["provenance"]
        written += sum(file.stat().st_size for file in files)
    estimate = float(said.split("--save-activations: ")[1].split(" MB")[0].replace(",", "")) * 1e6
    assert 0.9 * written < estimate < 1.1 * written


def test_the_size_of_batches_and_workers_changes_nothing(probed, triplets_folder, tiny, tmp_path, done_here):
    words = ("--data", triplets_folder, "--out", tmp_path / "out", "--split", "all", "--sample", 5)
    words = (*words, "--workers", 1, "--batch", 5, "--amp", "off", "--models", "dinov2", "--no-floor")
    done_here(*words, "--weights", tiny[2], "--layers", "encoder.layer.[0-2]", "--examples", 1)
    before = [
        r for r in table(probed[0] / "layers.csv") if r["model"] == "dinov2" and r["weights"] == "given"
    ]
    after = table(tmp_path / "out" / "layers.csv")
    assert {row["weights"] for row in after} == {"given"}
    for one, other in zip(before, after, strict=True):
        assert one["layer"] == other["layer"]
        for name in ("cka", "cka_other", "effective_rank_sar", "hoyer_rgb", "auc_rgb", "auc_sar"):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=2e-4, rel=1e-3), name


def test_equal_pictures_are_equal_in_every_layer(tiny, tmp_path, done_here):
    """RGB as SAR: CKA is 1 in every layer, and less with another place's picture; the AUC are the same."""
    original_layout(tmp_path / "data", 6, equal=True)
    words = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--workers", 0, "--models", "clip")
    about = done_here(*words, "--weights", tiny[1])
    for row in about["models"]["clip"]["layers"]:
        assert row["cka"] == pytest.approx(1, abs=1e-9) and row["cka_other"] < 0.9
        assert row["auc_rgb"] == row["auc_sar"] and row["held_out_auc_rgb"] == row["held_out_auc_sar"]
        assert row["effective_rank_rgb"] == pytest.approx(row["effective_rank_sar"], abs=1e-6)
    again = run(JOB, *words, "--weights", tiny[1])
    assert "already done" in again.stderr and result(again) == about
    refuse(JOB, *words, "--weights", tiny[1], "--seed", 1, saying="seed was 0, is 1")


@pytest.mark.slow
def test_random_weights_are_named_and_damaged_triplets_left_out(tmp_path, refuse_here, done_here, capsys):
    original_layout(tmp_path / "data", 3, equal=False)
    (tmp_path / "data" / "RGB" / "test" / "001.png").write_bytes(b"no picture")
    words = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--workers", 0)
    words = (*words, "--weights", "dinov2=random", "--layers", "encoder.layer.0")
    refuse_here(*words, saying="001.png")
    about = done_here(*words, "--skip-bad", "--examples", 1)
    assert about["triplets"] == 2 and len(about["left_out"]) == 1 and "001.png" in about["left_out"][0]
    assert sorted(about["models_left_out"]) == ["clip", "deeplabv3"]  # no weights of theirs are here
    model = about["models"]["dinov2"]
    assert model["random"] and model["provenance"] == "random weights (seed 0)"
    assert [row["weights"] for row in model["layers"]] == ["random", "random"]  # and no second floor
    assert here(*words, "--skip-bad", "--examples", 1) == 0  # their weights may be there by now
    said = capsys.readouterr()
    assert "looking for their weights" in said.err and "already done" not in said.err
    assert "measured by an earlier run" in said.err
    assert json.loads(said.out.strip().splitlines()[-1])["models"] == about["models"]


def test_a_stop_at_any_stage_loses_nothing_and_changes_nothing(tiny, tmp_path, done_here, monkeypatch):
    """SIGTERM at the end of measuring, while drawing, while the floor is made: 75, and the job goes on."""
    original_layout(tmp_path / "data", 3, equal=False)
    words = ("--data", tmp_path / "data", "--workers", 0, "--models", "clip", "--weights", tiny[1])
    words, out = (*words, "--layers", "*layers.1", "--examples", 1), tmp_path / "out"
    kept = {}
    for place, name in (
        (layer_numbers.Numbers, "result"), (activation_figures, "comparison"), (backbones, "floor")
    ):  # fmt: skip
        real = getattr(place, name)

        def stopped(*given, real=real):
            os.kill(os.getpid(), signal.SIGTERM)
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, stopped)
            assert here(*words, "--out", out) == 75, name
        assert not (out / "result.json").exists()
        assert all(path.stat().st_mtime_ns == then for path, then in kept.items()), "measured twice"
        kept = {path: path.stat().st_mtime_ns for path in out.glob("records/*.json")}
        assert len(kept) == 1  # on record, whenever the signal came
    drawn = (out / "clip_activations_comparison.png").stat().st_mtime_ns
    resumed, straight = (done_here(*words, "--out", folder) for folder in (out, tmp_path / "straight"))
    assert (out / "clip_activations_comparison.png").stat().st_mtime_ns == drawn
    assert resumed["models"] == straight["models"]
    for file in ("layers.csv", "channels.csv", "clip_activations_comparison.png", "layers.png"):
        assert (out / file).read_bytes() == (tmp_path / "straight" / file).read_bytes(), file


def test_a_record_of_something_else_is_no_record(tmp_path):
    path, of = tmp_path / "records" / "clip_given.json", {"triplets": ["a", "b"], "layers": {"x": "map"}}
    layers = [{"row": {"cka": 0.1 + 0.2, "auc": None}, "best": []}]
    assert activation_files.read_record(path, of) is None
    record = {"of": of, "about": {"name": "n"}, "layers": layers}
    assert activation_files.write_record(path, **record) == record
    assert activation_files.read_record(path, of) == activation_files.read_record(path) == record
    assert activation_files.read_record(path, {**of, "triplets": ["a"]}) is None
    path.write_text(path.read_text()[:-9])
    assert activation_files.read_record(path, of) is None
    path.write_text('{"of": {}}')
    assert activation_files.read_record(path) is None


# ---- what it says and refuses ------------------------------------------------------------------------------


def test_list_layers_needs_weights_alone(tiny, capsys):
    assert here("--list-layers", *tiny) == 0
    shown = capsys.readouterr().out
    for weights in tiny[1:]:
        known = backbones.layers(backbones.load(*weights.split("=")))
        assert all(f"  {name}  {kind}  (" in shown for name, kind in known)
    assert "encoder.layer.2  tokens  (1, 26, 32)" in shown


def test_refusals(triplets_folder, tiny, tmp_path, refuse_here):
    words = ("--data", triplets_folder, "--out", tmp_path / "out", "--workers", 0)
    refuse(JOB, *words, "--models", "clip", saying="python -m data_prep.weights")
    for more, saying in (
        (("--weights", "clip=nowhere/at/all"), "nowhere/at/all"),
        (("--weights", "sam=x"), "NAME one of clip, dinov2, deeplabv3"),
        (("--weights", tiny[1], tiny[1]), "one for each model"),
        (("--weights", tiny[1], "--models", "clip", "--layers", "dinov2=*"), "leaves out dinov2"),
        (("--examples", 0), "--examples 1 to 6"),
        ((*tiny, "--cam-class", "glacier"), "it has background, snow, cat"),
        ((*tiny, "--attention-layer", 3), "clip has layers 0 to 2"),
        ((*tiny, "--attention-layer", -2), "clip has layers 0 to 2"),
        ((*tiny, "--layers", "clip=*.nothing"), "no layer fits '*.nothing'"),
        ((*tiny, "--layers", "clip=post_layernorm"), "is a map or tokens"),
        ((*tiny, "--split", "train", "--target", "wet"), "no mask_wet"),
    ):
        refuse_here(*words, *more, saying=saying)
    refuse_here("--out", tmp_path / "out", saying="--data is missing")
    assert here(*words, *tiny, "--split", "all", "--dry-run") == 0
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_seen_before_the_first_batch(tmp_path):
    args = argparse.Namespace(out=tmp_path / "not" / "yet")
    with pytest.raises(BadInput, match="are free; choose fewer --layers"):
        activation_files.check_space(args.out, shutil.disk_usage(tmp_path).free + 10**12)
    activation_files.check_space(args.out, 1)


def test_a_disk_that_fills_is_an_error_of_the_disk(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            activation_files.save(tmp_path / "a.safetensors", {"x": torch.zeros(9999)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in runs.CANNOT_WRITE and not list(tmp_path.iterdir())


def test_families_are_those_of_the_backbones():
    assert FAMILIES == backbones.FAMILIES and set(probe_activations.TITLES) == set(FAMILIES)
    assert activation_figures.MODALITIES == layer_numbers.MODALITIES


# ---- rules -------------------------------------------------------------------------------------------------


def feed(images):
    """Numbers of images of (rgb, sar, snow) rows, each of a site of its own."""
    numbers = layer_numbers.Numbers()
    for key, (rgb, sar, snow) in enumerate(images):
        numbers.add(rgb, sar, np.ones(len(snow), bool), snow.astype(float), key)
    return numbers.result()


def held_out(sites: int, seed: int, planted: float = 0.0) -> tuple:
    """Held-out AUC of 100 channels of noise at sites that differ in level and in share of snow."""
    random, within = np.random.default_rng(seed), layer_numbers.WithinAuc()
    for site in range(sites):
        level, share = 5 * random.normal(size=100), random.uniform(0.1, 0.9)
        for _ in range(2):
            snow = random.random(48) < share
            rows = level + random.normal(size=(48, 100))
            rows[:, 7] -= planted * snow
            within.add(rows, snow, site)
    return within.held_out()


@pytest.mark.parametrize(("sites", "times"), [(7, 150), (40, 40)])
def test_noise_with_levels_of_sites_is_a_half_within_its_interval(sites, times):
    found = np.array([held_out(sites, seed) for seed in range(times)])
    area, low, high = found.T
    assert abs(area.mean() - 0.5) < 3 * area.std() / np.sqrt(times) < 0.02
    assert 0.9 <= ((low <= 0.5) & (high >= 0.5)).mean() <= 1
    assert ((high - low) < 0.5).all()
    area, low, high = held_out(sites, 0, planted=2.0)
    assert low > 0.8 and low < area < high <= 1


def test_too_few_sites_with_both_classes_are_not_judged():
    least = 2 * layer_numbers.SITES_A_HALF
    assert held_out(least - 1, 0) == (None,) * 3 and None not in held_out(least, 0)
    rows = np.random.default_rng(0).normal(size=(10, 3))
    snow = [np.arange(10) < (5 if k < least - 1 else 10) for k in range(20)]
    row, _ = feed((rows, rows, one) for one in snow)
    assert (row["auc_sites"], row["auc_images"], row["held_out_auc_rgb"]) == (least - 1, least - 1, None)


def test_best_of_many_noise_channels_looks_good_only_where_it_was_chosen():
    random = np.random.default_rng(0)
    images = [
        (random.normal(size=(16, 300)), random.normal(size=(16, 300)), random.random(16) < 0.5)
        for _ in range(8)
    ]
    row, areas = feed(images)
    assert abs(row["auc_rgb"] - 0.5) > 0.12  # the best of 300 by chance
    assert row["held_out_auc_rgb_low"] < 0.5 < row["held_out_auc_rgb_high"]
    assert abs(row["cka_unbiased"]) < 0.05 and abs(row["cka_other_unbiased"]) < 0.05
    assert len(layer_numbers.best_rows(areas, 4)) == 8


def test_what_comes_from_position_alone_is_as_alike_in_other_images():
    """RGB and SAR that hold the position, nothing of the place: CKA is high, and as high with any image."""
    random, position = np.random.default_rng(1), np.random.default_rng(2).normal(size=(64, 8))

    def images(place: float):
        for _ in range(12):
            shared = place * random.normal(size=(64, 8))
            noise = random.normal(size=(2, 64, 8)) * 0.2
            yield position + shared + noise[0], position + shared + noise[1], random.random(64) < 0.5

    alone, _ = feed(images(0))
    placed, _ = feed(images(1))
    assert alone["cka"] > 0.8 and alone["cka_other"] == pytest.approx(alone["cka"], abs=0.02)
    assert placed["cka"] > 0.8 and placed["cka_other"] < 0.5


def test_the_sign_of_a_channel_is_kept_and_carried_over():
    snow = np.arange(40) % 2 == 1
    rows = np.column_stack([np.where(snow, -1.0, 1.0), np.zeros(40)]) + np.random.default_rng(0).normal(
        size=(40, 2)
    ) * [0.1, 1]
    row, _ = feed([(rows, rows, snow)] * 6)
    assert (row["best_channel_rgb"], row["auc_rgb"], row["held_out_auc_rgb"]) == (0, 0.0, 1.0)
    flipped, _ = feed([(rows, rows, snow), (-rows, -rows, snow)] * 3)
    assert flipped["held_out_auc_rgb"] < 0.5  # snow is low at one site and high at the other


def test_one_class_or_no_valid_position_is_null():
    rows, none = np.random.default_rng(0).normal(size=(10, 3)), np.zeros(10, bool)
    row, areas = feed([(rows, rows, none)])
    assert row["auc_rgb"] is row["held_out_auc_sar"] is row["cka_other"] is None and row["cka"] == 1
    assert layer_numbers.best_in_turn(layer_numbers.best_rows(areas, 4), 4) == []
    numbers = layer_numbers.Numbers()
    numbers.add(rows, rows, none, np.ones(10), 0)
    assert numbers.result()[0]["cka"] is None
    with pytest.raises(ValueError, match="NaN or infinity"):
        numbers.add(rows * np.nan, rows, ~none, np.ones(10), 0)


def test_labels_of_positions_follow_the_map():
    mask, seen = np.zeros((1, 32, 32), np.uint8), np.ones((1, 32, 32), bool)
    mask[:, :16], mask[:, :, 24:], seen[:, :8, :8] = 1, 255, False
    valid, share = (part.reshape(4, 4) for part in layer_numbers.cells_of(mask, seen, (4, 4), seed=0))
    assert valid.sum() == 15 and not valid[0, 0] and np.isnan(share[:, 3]).all() and np.isnan(share[0, 0])
    np.testing.assert_array_equal(share[1:, :3], [[1] * 3, [0] * 3, [0] * 3])
    maps = torch.arange(2.0 * 3 * 100 * 90).reshape(2, 3, 100, 90)
    rows, size = layer_numbers.rows_of(maps, seed=5)
    chosen = layer_numbers.chosen_cells(size, 5)
    assert rows.shape == (2, layer_numbers.POSITIONS, 3) and size == (100, 90)
    np.testing.assert_array_equal(rows[1, :, 2], maps[1, 2].flatten()[chosen])


def test_memory_does_not_grow_with_the_images():
    def held(count: int) -> int:
        numbers, random = layer_numbers.Numbers(), np.random.default_rng(0)
        for key in range(count):
            rows = random.normal(size=(2, 256, 6))
            numbers.add(*rows, np.ones(256, bool), random.random(256), key % 4)
        return sum(wins.nbytes for within in numbers.areas.values() for wins, *_ in within.groups.values())

    assert held(20) == held(8) > 0
    many = [{"site": f"s{k}"} for k in range(1000)]
    assert len(set(picture_pairs.groups(many))) == picture_pairs.GROUPS


def test_neighbours_are_of_other_sites_and_mixed_triplets_are_shown():
    rows = [{"site": site, "s1_date": f"2021-01-{day:02d}", "id": f"{site}{day}", "known": 1.0}
            for site in "aabc" for day in range(1, 4)]  # fmt: skip
    turned = picture_pairs.sites_in_turn(rows)
    assert sorted(map(id, turned)) == sorted(map(id, rows))
    assert sum(one["site"] == other["site"] for one, other in itertools.pairwise(turned)) <= 2
    groups = picture_pairs.groups(turned)
    assert len(set(groups)) == len({(row["site"], g) for row, g in zip(turned, groups, strict=True)}) == 3
    for row in turned:  # a is mixed every day, b once and barely, c never
        row["snow"] = {"a": 0.4, "b": 0.85 if row["id"] == "b2" else 0.97, "c": 1.0}[row["site"]]
    shown = [turned[k] for k in picture_pairs.most_mixed(turned, 9)]
    assert [row["id"] for row in shown[:3]] == ["a1", "b2", "a1"]  # other sites first, then mixed ones
    assert [row["snow"] for row in shown[3:]] == [0.4] * 4 + [0.97, 1.0]


def test_a_scale_ends_at_a_percentile_and_screens_show_unbiased_cka():
    maps = np.ones((20, 20))
    maps[0, 0] = 1000
    assert activation_figures.limits(maps, np.linspace(0, 1, 400))[1] < 2
    row = {"model": "clip", "weights": "given", "layer": "x", "cka": 0.9, "cka_unbiased": 0.123}
    row |= {"cka_other_unbiased": -0.01, "positions": 1234, "channels": 56, "auc_images": 7, "auc_sites": 6}
    row |= {f"held_out_auc_{name}{end}": 0.5 for name in ("rgb", "sar") for end in ("", "_low", "_high")}
    said = " ".join(activation_figures.last_layers([row]))
    assert "0.123" in said and "-0.010" in said and "0.900" not in said and "0.500 [0.500, 0.500]" in said
    head = activation_figures.heading("CLIP", [row])
    assert "1,234 positions and 56 channels" in head and "7 images with both classes, 6 sites" in head
    assert "optimistic" in layer_views.NOTE


def test_the_best_of_rgb_and_of_sar_in_turn():
    snow = np.arange(40) % 2 == 1
    rgb, sar = np.random.default_rng(0).normal(size=(2, 40, 4))
    rgb[:, 2], sar[:, 1], sar[:, 3] = snow, -1.0 * snow, rgb[:, 3]
    _, areas = feed([(rgb, sar, snow)])
    found = layer_numbers.best_in_turn(layer_numbers.best_rows(areas, 4), 3)
    assert [channel for channel, _ in found[:2]] == [2, 1] and len(found) == 3
    assert found[0][1] == [1.0, areas["SAR"][0][2]] and found[1][1] == [areas["RGB"][0][1], 0.0]


def test_names_of_layers_and_colours_of_classes():
    assert activation_figures.short_names(["input", "e.layer.0", "e.layer.1"]) == (
        "e.layer.*",
        ["input", "0", "1"],
    )
    assert activation_figures.short_names(["a.x", "b.x"]) == ("", ["a.x", "b.x"])
    maps, key = activation_figures.class_colours(
        [np.arange(9).reshape(3, 3)], ["background", *"abcdefghi"], most=4
    )
    assert len(key) == 5 and "other classes" in key and maps[0].shape == (3, 3, 3)
    assert len({tuple(colour) for colour in key.values()}) == 5


# ---- trained weights ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trained_networks_are_no_random_ones(triplets_folder, weights_dir, tmp_path):
    weights = [f"dinov2={weights_dir / 'dinov2-small'}"]
    folder = SHARED / "weights" / "deeplabv3_mnv2_voc"
    weights += [f"deeplabv3={folder}"] if folder.is_dir() else []
    words = ("--data", triplets_folder, "--out", tmp_path / "out", "--split", "all", "--weights", *weights)
    about = result(run(JOB, *words, "--workers", 0))
    dinov2 = about["models"]["dinov2"]
    assert "DINOv2 ViT-S/14 architecture" in dinov2["provenance"] and not dinov2["random"]
    last = {row["weights"]: row for row in dinov2["layers"] if row["layer"] == "encoder.layer.11"}
    assert last["given"]["hoyer_rgb"] > 1.3 * last["random"]["hoyer_rgb"]
    assert last["given"]["effective_rank_sar"] < 0.9 * last["random"]["effective_rank_sar"]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["triplets"] == 12
    assert (ROOT / JOB).exists() and len(about["models"]) == len(weights)
