"""run_sam.py as a user runs it: random weights and embeddings of noise, so that only SAM's decoder works."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, THREADS, command, refuse, result, run
from PIL import Image

from data_prep import (
    compose,
    embeddings,
    pictures,
    predictions,
    rasters,
    runs,
    sam_input,
    sam_pictures,
    triplets,
)

torch = pytest.importorskip("torch")
pytest.importorskip("timm", reason="vit_t needs timm, of requirements-extra.txt")

import run_sam  # noqa: E402
from models import prompts, sam, sam_maps  # noqa: E402

SOURCES = tuple(prompts.SOURCES)
CPU_NET = SimpleNamespace(model="vit_t", device=torch.device("cpu"))
FAST = ("--weights", "random", "--amp", "off", "--device", "cpu", "--grid-points", 2, "--overlays", 1)


@pytest.fixture(scope="module")
def net():
    return sam.load("random")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(256, 64, 64)).astype(np.float32)


def fill(cache, pictures) -> None:
    """Embeddings where the job looks for them, so that the encoder need not run."""
    cache.mkdir(exist_ok=True)
    known = run_sam.embedding_parts(SimpleNamespace(weights="random", seed=0), CPU_NET, None)
    for number, picture in enumerate(pictures):
        embeddings.save(cache / f"{embeddings.key(*known, picture)}.npy", noise(number))


@pytest.fixture(scope="module")
def case(triplets_folder, tmp_path_factory):
    """Triplets, one of them with a hole, a U-Net's output for them, and all embeddings."""
    base = tmp_path_factory.mktemp("sam")
    data, unet, cache = base / "data", base / "unet", base / "cache"
    shutil.copytree(triplets_folder, data)
    rows = triplets.read_manifest(data).rows
    holed = compose.sample(rows, 3, 0)[0]
    raster = rasters.open_header(holed["sar"])
    values = rasters.read(raster, raster.bands)
    values[:, 20:40, 30:50] = np.nan
    rasters.write(holed["sar"], values, raster.bands, raster.grid, np.nan, **raster.tags)
    limits = compose.scene_limits(rows, ("vv",))
    fill(cache, [compose.sar_picture(row, "vv", limits)[0] for row in rows])
    for kind in ("mask", "probability"):
        (unet / kind).mkdir(parents=True)
    for number, row in enumerate(rows):
        truth = triplets.read_mask(row)
        random = np.random.default_rng(number)
        probability = np.clip((truth == 1) * 0.6 + random.uniform(0, 0.4, truth.shape), 0, 1)
        probability[:3] = np.nan
        mask = np.where(np.isnan(probability), 255, probability > 0.35).astype(np.uint8)
        predictions.write(unet, row, probability.astype(np.float32), mask, threshold=0.35)
    words = ("--data", data, "--unet", unet, "--cache", cache, "--split", "all", "--sample", 3, *FAST)
    rows = compose.sample(rows, 3, 0)
    return SimpleNamespace(base=base, data=data, unet=unet, cache=cache, rows=rows, holed=holed, words=words)


@pytest.fixture(scope="module")
def mapped(case):
    """Three triplets by every source, in a run that was interrupted and went on."""
    out = case.base / "out"
    words = command("run_sam.py", *case.words, "--batch", 1, "--out", out)
    environment = {**os.environ, **THREADS}
    job = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.time() + 60
    while not list(out.glob("records/*.json")) and time.time() < deadline and job.poll() is None:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 75, said.decode()
    done = {path.stem for path in out.glob("records/*.json")}
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/mask/*.tif") if p.stem in done}
    found = result(run("run_sam.py", *case.words, "--batch", 1, "--out", out))
    return SimpleNamespace(out=out, found=found, done=done, before=before)


def table(path) -> list[dict]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_source_gives_a_mask_and_a_probability_of_every_triplet(case, mapped):
    out, found = mapped.out, mapped.found
    assert found["triplets"] == len(case.rows) == 3 and found["cache_hits"] == found["tiles"] == 3
    assert found["encoded"] == 0 and found["encoder_seconds_per_image"] is None
    assert found["decoder_seconds_per_image"] > 0
    for source in SOURCES:
        for row in case.rows:
            mask, probability = predictions.read_written(out / source, row)
            valid = np.isfinite(rasters.read(rasters.open_header(row["sar"]), ["VV"])[0])
            assert ((mask != 255) == valid).all() and (np.isfinite(probability) == valid).all()
            sure = valid & (np.abs(probability - 0.5) > 0.004)  # it is written in steps of that
            assert (mask[sure] == (probability[sure] > 0.5)).all()
        assert (out / f"overlays_{source}.png").stat().st_size > 10_000
    assert not valid_of(case.holed)[20:40, 30:50].any()
    assert (out / "strata.png").exists() and (out / "strata.csv").exists()


def valid_of(row) -> np.ndarray:
    return np.isfinite(rasters.read(rasters.open_header(row["sar"]), ["VV"])[0])


def test_the_table_is_the_one_score_masks_makes(case, mapped, tmp_path):
    out, found = mapped.out, mapped.found
    names = [row["method"] for row in table(out / "scores.csv")]
    assert names[0] == "unet" and len(names) == 1 + len(SOURCES)
    assert all(name.endswith(prompts.RANDOM) for name in names[1:])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["random_weights"] and list(metrics["methods"]) == names
    assert {row["other"] for row in table(out / "paired.csv")} == set(names[1:])
    oracles = [name for name in names if prompts.ORACLE in name]
    assert [name.split(",")[0] for name in oracles] == ["sam-oracle-points", "sam-oracle-box"]
    masks = [f"unet={case.unet}", *(f"sam-{source}={out / source}" for source in SOURCES)]
    words = ("--data", case.data, "--split", "all", "--out", tmp_path / "judged", "--masks", *masks)
    judged = result(run("score_masks.py", *words, "--sample", 3))
    assert judged["triplets"] == judged["judged"] == 3
    ours = {name.split(",")[0]: method["coverage"] for name, method in found["methods"].items()}
    assert ours == {name: method["coverage"] for name, method in judged["methods"].items()}
    for file in ("scores.csv", "strata.csv"):
        theirs = {
            (r["method"], r.get("stratum"), r.get("class")): r for r in table(tmp_path / "judged" / file)
        }
        ours = table(out / file)
        assert len(ours) == len(theirs)
        for row in ours:
            key = row["method"].split(",")[0], row.get("stratum"), row.get("class")
            assert {**row, "method": key[0]} == theirs[key]
    assert len(table(out / "paired.csv")) == len(table(tmp_path / "judged" / "paired.csv"))
    assert found["methods"]["unet"]["scores"]["iou"] > 0.8


def test_random_weights_and_provenance_are_said(mapped):
    found = mapped.found
    assert found["random_weights"] and found["provenance"].startswith("random weights")
    assert found["model"] == "vit_t" and found["precision"] == "float32"


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_gives_the_same(case, mapped, tmp_path):
    """As a straight run, of other sources beside and without a triplet that is damaged there."""
    assert 0 < len(mapped.done) < 3
    assert all(path.stat().st_mtime_ns == changed for path, changed in mapped.before.items())
    data, damaged = tmp_path / "data", case.rows[1]["sar"].name
    shutil.copytree(case.data, data)
    (data / "sar" / damaged).write_bytes(b"no raster")
    words = (
        "--data",
        data,
        *case.words[2:],
        "--prompts",
        "otsu-points",
        "unet-mask",
        "--out",
        tmp_path / "out",
    )
    refused = refuse("run_sam.py", *words, saying=damaged)
    assert "--skip-bad" in refused and not (tmp_path / "out").exists()
    found = result(run("run_sam.py", *words, "--skip-bad"))
    assert found["triplets"] == 2 and len(found["left_out"]) == 1 and damaged in found["left_out"][0]
    for source in ("otsu-points", "unet-mask"):
        here, there = pixels(tmp_path / "out" / source), pixels(mapped.out / source)
        assert here == {name: values for name, values in there.items() if damaged not in name}
        assert len(here) == 4
    again = run("run_sam.py", *words, "--skip-bad")
    assert "already done" in again.stderr and result(again) == found


def pixels(folder) -> dict[str, bytes]:
    files = folder.glob("*/*.tif")
    return {f"{path.parent.name}/{path.name}": predictions.read(path).tobytes() for path in files}


def test_pictures_without_units_on_rgb_with_tiles(tmp_path):
    """The original's layout: RGB as SAM sees it, larger than a tile, masks as PNG, no probability."""
    random = np.random.default_rng(0)
    for kind in ("SAR", "RGB", "Masks"):
        (tmp_path / "data" / kind / "test").mkdir(parents=True)
    parts = []
    for number, shape in enumerate(((70, 101), (60, 64))):
        snow = np.zeros(shape, bool)
        snow[10:40, 5:45] = number == 0
        grey, rgb = (random.integers(0, 120, (*shape, *more)).astype(np.uint8) for more in ((), (3,)))
        rgb[snow] += 130
        for kind, image in (("SAR", grey), ("RGB", rgb), ("Masks", snow.astype(np.uint8) * 255)):
            Image.fromarray(image).save(tmp_path / "data" / kind / "test" / f"p{number}.png")
        parts += [rgb[window] for window, _ in sam_maps.tiles(shape, 64)]
    assert len(parts) == 5
    fill(tmp_path / "cache", parts)
    words = ("--data", tmp_path / "data", "--image", "rgb", "--tile", 64, "--out", tmp_path / "out", *FAST)
    words += ("--prompts", "otsu-box", "oracle-points", "--cache", tmp_path / "cache")
    found = result(run("run_sam.py", *words))
    assert found["tiles"] == found["cache_hits"] == 5 and found["image"] == "rgb" and found["compose"] is None
    assert found["without_prompt"] == {"oracle-points": 1, "otsu-box": 0}
    snow_free = np.asarray(Image.open(tmp_path / "out" / "oracle-points" / "mask" / "test_p1.png"))
    assert snow_free.shape == (60, 64) and not snow_free.any()
    assert list(found["methods"]) == [
        f"sam-otsu-box, {prompts.RANDOM}",
        f"sam-oracle-points, {prompts.ORACLE}, {prompts.RANDOM}",
    ]


def test_refusals_are_one_sentence(case, tmp_path):
    words = ("--data", case.data, "--out", tmp_path / "out")
    refuse("run_sam.py", *words, "--weights", "none.pth", saying="data_prep.weights")
    random = (*words, "--weights", "random")
    refuse("run_sam.py", *random, "--prompts", "otsu-box", "magic", saying="--prompts magic: unknown")
    refuse("run_sam.py", *random, "--prompts", "unet-box", saying="need --unet")
    refuse("run_sam.py", *random, "--boxes", 0, saying="must be positive")
    words = ("--data", case.data, "--weights", "random", "--overwrite", "--out")
    for out in (case.data, case.data.parent):
        refuse("run_sam.py", *words, out, saying="holds the input")
    refuse("run_sam.py", *words, case.unet, "--unet", case.unet, saying="holds the input")
    assert not (tmp_path / "out").exists()


def test_overwriting_deletes_what_this_job_wrote_and_nothing_else(tmp_path):
    own = [
        "scores.csv",
        "overlays_grid.png",
        "records/a.json",
        "otsu-box/mask/a.tif",
        "grid/probability/a.tif",
    ]
    others = ["3_split/mask/a.tif", "5_score/probability/a.tif", "otsu-box/notes.txt", "overlays_mine.png"]
    for name in own + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(run_sam.old_files(tmp_path)) == sorted(own)


def test_damaged_neighbours_that_are_not_to_be_mapped_stop_nothing(case, tmp_path):
    """They only miss in the stretch, and are told apart from what is left out."""
    rows = triplets.read_manifest(case.data).rows
    scene = compose.scene_key(rows[0])
    splits = [row["split"] for row in rows if compose.scene_key(row) == scene]
    if len(splits) < 2:  # give the first two one scene
        rows[1] |= {name: rows[0][name] for name in ("site", "s1_date", "relative_orbit")}
    bad = next(row for row in rows[1:] if compose.scene_key(row) == scene)
    data = tmp_path / "data"
    shutil.copytree(case.data, data)
    rows[0]["split"], bad["split"] = "test", "train"
    manifest = [
        {k: v.relative_to(case.data) if isinstance(v, Path) else v for k, v in r.items()} for r in rows
    ]
    triplets.write_manifest(data / "triplets.csv", manifest)
    (data / "sar" / bad["sar"].name).write_bytes(b"no raster")
    args = run_sam.get_parser().parse_args(
        ["--data", str(data), "--out", str(tmp_path / "out"), "--weights", "random"]
    )
    rows, every = sam_input.choose_triplets(args)
    limits, missing = sam_input.stretch(args, rows, every)
    good, problems = sam_input.look_at(args, rows, limits, None, SimpleNamespace(requested=""))
    assert good == rows and any(row["site"] == bad["site"] for row in rows) and problems == {}
    assert len(missing) == 1 and bad["sar"].name in missing[0]


def test_embeddings_of_equal_pictures_are_made_once_and_must_be_finite(tmp_path):
    picture = np.full((40, 50, 3), 90, np.uint8)
    tiles, stop = {tmp_path / "a.npy": picture, tmp_path / "b.npy": picture}, SimpleNamespace(requested="")
    args, net = SimpleNamespace(batch=2, weights="w.pth"), SimpleNamespace(device=torch.device("cpu"))
    net.image_encoder = lambda frames: frames[:, :1, :64, :64].expand(-1, 256, -1, -1) * 0 + 7
    assert set(run_sam.encode_missing(args, net, None, tiles, stop)) == set(tiles)
    assert (embeddings.load(tmp_path / "b.npy") == 7).all()
    assert run_sam.encode_missing(args, net, None, tiles, stop) == {}
    net.image_encoder = lambda frames: torch.full((len(frames), 256, 64, 64), torch.nan)
    with pytest.raises(run_sam.BadInput, match="--amp off"):
        run_sam.encode_missing(args, net, torch.bfloat16, {tmp_path / "c.npy": picture}, stop)
    assert not (tmp_path / "c.npy").exists()


def test_seconds_are_of_what_was_encoded(capsys):
    """After an interruption the records hold images of both kinds."""
    args = run_sam.get_parser().parse_args(["--data", "d", "--out", "o", "--weights", "random"])
    one = {"tiles": 2, "decoder_seconds": 0.5, "prompts": {"grid": []}}
    one |= {"model": "vit_t", "provenance": "somebody's", "device": "cpu", "precision": "float32"}
    made, kept = {**one, "encoded": 2, "encoder_seconds": 4}, {**one, "encoded": 0, "encoder_seconds": 0}
    half = {**one, "encoded": 1, "encoder_seconds": 2}
    for records, seconds, hits in (([made, kept, half], 4, 3), ([kept, kept], None, 4)):
        found = run_sam.figures_of(args, ["grid"], records, {}, [])
        assert found["encoder_seconds_per_image"] == seconds and found["cache_hits"] == hits
        assert found["decoder_seconds_per_image"] == 0.5
    run_sam.say_costs(found)
    said = capsys.readouterr().err
    assert "grid: no mask kept in 2 of 2" in said and "encoder" not in said and "0 pictures encoded" in said


# ---- the parts ---------------------------------------------------------------------------------------------


def test_a_source_gets_the_same_masks_alone_and_among_others(net):
    random = np.random.default_rng(0)
    truth = np.zeros((60, 80), np.uint8)
    truth[10:30, 10:50], truth[40:55, 5:25] = 1, 1
    probability = np.clip(truth + random.normal(0, 0.2, truth.shape), 0, 1)
    cues = {"truth": truth, "otsu": truth, "unet": truth, "probability": probability, "threshold": 0.5}
    plan, embedding = sam_maps.tiles(truth.shape, 1024), [torch.from_numpy(noise(0))]
    asking = sam_maps.Asking(points=3, boxes=2, grid_points=2)
    together, asked, _ = sam_maps.map_image(net, plan, embedding, SOURCES, cues, asking)
    assert len(asked["otsu-box"]) == 2 and len(asked["unet-mask"]) == 1 and "mask" in asked["unet-mask"][0]
    for source in SOURCES:
        alone, _, _ = sam_maps.map_image(net, plan, embedding, [source], cues, asking)
        np.testing.assert_allclose(alone[source], together[source], atol=1e-4)
        assert np.abs(together[source]).max() <= -sam_maps.NONE


def test_no_prompt_is_snow_free(net):
    cues = {"otsu": np.zeros((40, 40), np.uint8)}
    plan = sam_maps.tiles((40, 40), 1024)
    sources = ["otsu-box", "otsu-points", "grid"]
    asking = sam_maps.Asking(grid_points=2)
    logits, asked, _ = sam_maps.map_image(net, plan, [torch.from_numpy(noise(0))], sources, cues, asking)
    for source in sources:
        assert (logits[source] == sam_maps.NONE).all() and asked[source] == []
    valid = np.arange(1600).reshape(40, 40) > 100
    probability = sam_maps.probability(logits["grid"], valid)
    assert (np.isnan(probability) == ~valid).all() and np.nanmax(probability) < 1e-4


@pytest.mark.parametrize("shape", [(64, 64), (100, 230), (65, 64), (300, 90)])
def test_tiles_cover_every_pixel_with_weight_one(shape):
    total = np.zeros(shape)
    for window, weight in sam_maps.tiles(shape, 64):
        assert max(weight.shape) <= 64 and weight.shape == total[window].shape
        total[window] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_prompts_of_tiles_are_told_in_pixels_of_the_image(net):
    truth = np.zeros((64, 120), np.uint8)
    truth[20:40, 90:110] = 1
    plan = sam_maps.tiles(truth.shape, 64)
    assert len(plan) == 3 or len(plan) == 2
    found = [torch.from_numpy(noise(k)) for k in range(len(plan))]
    _, asked, _ = sam_maps.map_image(net, plan, found, ["oracle-box"], {"truth": truth}, sam_maps.Asking())
    assert [90, 20, 109, 39] in [prompt["box"] for prompt in asked["oracle-box"]]


def test_tiles_are_blended_by_their_weights(net):
    truth = np.zeros((64, 110), np.uint8)
    truth[10:50, 30:80] = 1
    plan, asking = sam_maps.tiles(truth.shape, 64), sam_maps.Asking()
    found = [torch.from_numpy(noise(k)) for k in range(len(plan))]
    whole, _, _ = sam_maps.map_image(net, plan, found, ["oracle-box"], {"truth": truth}, asking)
    total, edges = np.zeros(truth.shape), np.zeros(truth.shape)
    for (window, weight), embedding in zip(plan, found, strict=True):
        own = [((slice(0, 64), slice(0, weight.shape[1])), np.ones(weight.shape))]
        alone, _, _ = sam_maps.map_image(
            net, own, [embedding], ["oracle-box"], {"truth": truth[window]}, asking
        )
        total[window] += weight * alone["oracle-box"]
        edges[window] += (weight > 0) & (weight < 1)
    assert (edges == 2).any()  # there is a seam at which two tiles are mixed
    np.testing.assert_allclose(whole["oracle-box"], total, atol=1e-4)


def test_which_mask_is_kept_changes_the_map(net):
    truth = np.zeros((60, 80), np.uint8)
    truth[10:30, 10:50] = 1
    plan, found = sam_maps.tiles(truth.shape, 1024), [torch.from_numpy(noise(3))]
    area, iou = {}, {}
    for keep in sam_maps.KEEP:
        asking = sam_maps.Asking(keep=keep)
        logits = sam_maps.map_image(net, plan, found, ["oracle-box"], {"truth": truth}, asking)[0][
            "oracle-box"
        ]
        marked = logits > 0
        area[keep] = marked.sum()
        iou[keep] = (marked & (truth == 1)).sum() / (marked | (truth == 1)).sum()
    assert area["smallest"] <= area["middle"] <= area["largest"] and area["smallest"] < area["largest"]
    assert iou["oracle"] >= max(iou[keep] for keep in ("score", "smallest", "middle", "largest"))


def test_embeddings_are_found_by_all_they_depend_on_and_only_whole(tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    keys = {embeddings.key("hash", "vit_t", "None", picture)}
    keys.add(embeddings.key("hash", "vit_t", "None", picture.reshape(2, 8, 3)))
    keys.add(embeddings.key("hash", "vit_t", "torch.bfloat16", picture))
    keys.add(embeddings.key("other", "vit_t", "None", picture))
    keys.add(embeddings.key("hash", "vit_t", "None", picture + 1))
    assert len(keys) == 5
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    path = tmp_path / "a.npy"
    assert embeddings.load(path) is None
    embeddings.save(path, array)
    assert (embeddings.load(path) == array).all() and (np.load(path) == array).all()
    content = path.read_bytes()
    larger = content.replace(b"(3, 4, 5)", b"(3, 4, 5" + b"0" * 12 + b")").replace(b" " * 12, b"", 1)
    assert len(larger) == len(content) and larger != content
    for damaged in (content[:-40], content[:50], b"", content[:200] + b"\xff" + content[201:], larger):
        path.write_bytes(damaged)
        assert embeddings.load(path) is None


def test_a_full_disk_is_told_as_one(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            embeddings.save(tmp_path / "a.npy", np.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in runs.CANNOT_WRITE and list(tmp_path.iterdir()) == []


def test_methods_look_unlike_each_other_and_oracles_are_black_or_grey():
    names = ["unet", *(f"sam-{source}" for source in SOURCES), *(f"rgb-{source}" for source in SOURCES)]
    styles = pictures.method_styles(names)
    assert list(styles) != [] and set(styles) == set(names)
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == len(names) == 17
    for name, style in styles.items():
        assert (
            (style["color"] in ("#000000", "#888888")) == ("oracle" in name) == (style["linestyle"] == "--")
        )


def test_the_mask_that_prompted_is_drawn_as_its_contour():
    picture, mask = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), bool)
    mask[20:40, 10:50] = True
    drawn = sam_pictures.with_prompts(picture, [{"mask": True}], mask)
    assert (drawn[mask] == 90).all() and tuple(drawn[19, 30]) == sam_pictures.BOX
    assert tuple(drawn[18, 30]) == sam_pictures.DARK and (drawn[:17] == 90).all()
    assert (sam_pictures.with_prompts(picture, [], mask) == 90).all()
    assert set(sam_pictures.KEYS) == {kind for _, kind in prompts.SOURCES.values()}


def test_prompts_are_drawn_on_a_copy():
    picture = np.full((64, 64, 3), 90, np.uint8)
    box = [{"box": [10, 12, 50, 40]}, {"points": [[30, 20], [5, 60]], "labels": [1, 0]}, {"mask": True}]
    drawn = sam_pictures.with_prompts(picture, box)
    assert (picture == 90).all() and drawn.shape == picture.shape
    assert tuple(drawn[12, 45]) == tuple(drawn[40, 10]) == sam_pictures.BOX
    assert tuple(drawn[20, 30]) == sam_pictures.SNOW_POINT and tuple(drawn[60, 5]) == sam_pictures.BARE_POINT


@pytest.mark.slow
def test_a_damaged_embedding_is_made_again_and_an_old_one_used(case, tmp_path):
    words = ("--data", case.data, "--split", "test", "--limit", 1, "--prompts", "otsu-box", *FAST)
    first = result(run("run_sam.py", *words, "--out", tmp_path / "a", "--cache", tmp_path / "cache"))
    assert first["cache_hits"] == 0 and first["encoder_seconds_per_image"] > 0
    (file,) = (tmp_path / "cache").glob("*.npy")
    whole = embeddings.load(file)
    file.write_bytes(file.read_bytes()[:100_000])
    second = result(run("run_sam.py", *words, "--out", tmp_path / "b", "--cache", tmp_path / "cache"))
    assert second["cache_hits"] == 0 and (embeddings.load(file) == whole).all()
    third = result(run("run_sam.py", *words, "--out", tmp_path / "c", "--cache", tmp_path / "cache"))
    assert third["cache_hits"] == 1 and third["encoder_seconds_per_image"] is None
    for one in "bc":
        assert pixels(tmp_path / "a" / "otsu-box") == pixels(tmp_path / one / "otsu-box")
    assert json.loads((tmp_path / "c" / "result.json").read_text())["methods"] == first["methods"]


@pytest.mark.slow
def test_real_weights_find_a_bright_patch_where_it_is(weights_dir, tmp_path):
    """An ellipse far from the middle of an image that is not square, in two overlapping tiles."""
    y, x = np.mgrid[:150, :240]
    snow = ((x - 165) / 45) ** 2 + ((y - 60) / 30) ** 2 < 1
    picture = np.where(snow, 215, 70) + np.random.default_rng(0).normal(0, 6, snow.shape)
    for kind, image in (("SAR", picture), ("RGB", picture[..., None] * np.ones(3)), ("Masks", snow * 255)):
        (tmp_path / "data" / kind / "test").mkdir(parents=True)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "data" / kind / "test" / "p.png")
    words = (
        "--data",
        tmp_path / "data",
        "--image",
        "rgb",
        "--tile",
        192,
        "--amp",
        "off",
        "--out",
        tmp_path / "out",
    )
    words += ("--weights", weights_dir / "mobile-sam.safetensors", "--prompts", "oracle-points", "otsu-box")
    found = result(run("run_sam.py", *words))
    assert "MobileSAM architecture" in found["provenance"] and not found["random_weights"]
    assert found["tiles"] == 2 and found["cache_hits"] == 0
    assert all(method["scores"]["iou"] > 0.9 for method in found["methods"].values()), found["methods"]
