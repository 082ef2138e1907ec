import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import rasterio
import torch
from conftest import ROOT, THREADS, TINY, blobs, command, grid, refuse, result, run, write_radar, write_site
from sklearn.metrics import average_precision_score, f1_score

from data_prep import predictions, rasters
from models import training


def infer(data, weights, out, *words, **more):
    return run(
        "infer_unet.py", "--data", data, "--weights", weights, "--out", out, "--workers", 0, *words, **more
    )


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


# ---- triplets ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(triplets_folder, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "out"
    return out, result(infer(triplets_folder, trained / "best.pt", out, "--split", "all"))


def test_scores_are_those_of_the_written_masks(triplets_folder, scored):
    out, got = scored
    truth, marked, probability = [], [], []
    for row in table(triplets_folder / "triplets.csv"):
        mask = rasters.read(rasters.open_header(triplets_folder / row["mask"]), ["snow"], raw=True)[0]
        valid = mask != 255
        truth.append(mask[valid])
        marked.append(predictions.read(out / "mask" / f"{row['id']}.tif")[valid])
        probability.append(predictions.read(out / "probability" / f"{row['id']}.tif")[valid])
    truth, marked, probability = map(np.concatenate, (truth, marked, probability))
    assert got["scores"]["f1"] == pytest.approx(f1_score(truth, marked), abs=1e-9)
    assert got["scores"]["pixels"] == len(truth)
    assert got["scores"]["auprc"] == pytest.approx(
        average_precision_score(truth, probability), abs=0.003
    )  # bytes of 0.004
    rows = table(out / "per_image.csv")
    assert (
        sum(int(r["true_snow"]) for r in rows) == got["scores"]["true_snow"] and len(rows) == got["triplets"]
    )
    assert got["interval_95"]["sites"] == 6 and got["interval_95"]["scenes"] == 12
    low, high = got["interval_95"]["iou"]
    assert low <= got["scores"]["iou"] <= high


def test_cover_table_counts_the_written_masks(scored, triplets_folder):
    out, _ = scored
    cover = {(r["site"], r["date"]): r for r in table(out / "snow_cover.csv")}
    assert len(cover) == 12
    for row in table(triplets_folder / "triplets.csv"):
        mask = predictions.read(out / "mask" / f"{row['id']}.tif")
        got = cover[row["site"], row["date"]]
        assert (
            int(got["valid_pixels"]) == (mask != 255).sum() and int(got["snow_pixels"]) == (mask == 1).sum()
        )
        assert float(got["snow_area_km2"]) == pytest.approx((mask == 1).sum() * 1e-4)
        assert got["relative_orbit"] == "044" and got["source"] == "unet"


def test_order_of_files_changes_no_figure(triplets_folder, trained, scored, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("sar", "rgb", "mask"):
        (folder / name).symlink_to((triplets_folder / name).resolve())
    head, *lines = (triplets_folder / "triplets.csv").read_text().splitlines()
    (folder / "triplets.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    got = result(infer(folder, trained / "best.pt", tmp_path / "out", "--split", "all", "--batch", 3))
    assert got["scores"] == pytest.approx(scored[1]["scores"], abs=1e-12)
    assert got["interval_95"] == scored[1]["interval_95"]


def test_a_set_without_snow_scores_null(trained, tmp_path):
    site = write_site(tmp_path / "scenes", "bare", 1)
    where, bare = grid(east=610000), np.zeros((96, 96), bool)
    from conftest import write_optical

    write_optical(next((site / "s2").iterdir()), bare, where)
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "c", "--workers", 0)
    done = infer(tmp_path / "c", trained / "best.pt", tmp_path / "i", "--split", "all")
    scores = json.loads((tmp_path / "i" / "metrics.json").read_text())["scores"]
    assert all(
        scores[k] is None for k in ("iou", "f1", "precision", "recall", "balanced_accuracy", "mcc", "auprc")
    )
    assert "null: nothing to score" in done.stderr and "plumbing" in done.stderr


def test_threshold_comes_from_validation_and_can_be_given(triplets_folder, trained, tmp_path):
    state = training.load_checkpoint(trained / "best.pt")
    assert 0 < state["threshold"] < 1 and state["threshold"] == state["best"]["threshold"]
    got = result(infer(triplets_folder, trained / "best.pt", tmp_path / "a"))
    assert got["threshold"] == state["threshold"]
    everything = result(infer(triplets_folder, trained / "best.pt", tmp_path / "b", "--threshold", 0))
    assert everything["scores"]["recall"] == 1 and everything["scores"]["true_bare"] == 0
    before = sorted(path.name for path in (tmp_path / "b" / "mask").iterdir())
    one = ("--threshold", 0, "--limit", 1, "--overwrite", "--overlays", 1)
    infer(triplets_folder, trained / "best.pt", tmp_path / "b", *one)
    kept = [path.name for path in (tmp_path / "b" / "mask").iterdir()]
    assert kept == before[:1] and len(before) > 1  # nothing of the earlier run beside the new
    words = ("--data", triplets_folder, "--weights", trained / "best.pt", "--out", triplets_folder)
    refuse("infer_unet.py", *words, "--overwrite", saying="holds the input")


# ---- scenes ------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    """One scene of odd size with a hole and a linear twin."""
    site = tmp_path / "scenes" / "odd"
    (site / "s1").mkdir(parents=True)
    about = {"site": "odd", "latitude": 46.9, "longitude": 10.3}
    (site / "site.json").write_text(json.dumps(about))
    path = write_radar(site / "s1" / "2021-01-10_044.tif", blobs(301, 403, 1), grid(301, 403))
    with rasterio.open(path, "r+") as source:
        stack = source.read()
        stack[:, 100:120, 50:90] = np.nan
        stack[1, 200, 200] = np.nan
        source.write(stack)
    elevation = np.linspace(500, 2400, 301 * 403, dtype=np.float32).reshape(1, 301, 403)
    rasters.write(site / "dem.tif", elevation, ("elevation",), grid(301, 403), np.nan, units="m")
    return path


def test_a_mapped_scene_equals_the_net_on_the_whole_image(scene, trained, tmp_path):
    infer(
        scene.parents[2], trained / "best.pt", tmp_path / "out", "--tile", 160, "--amp", "off", "--previews"
    )
    state = training.load_checkpoint(trained / "best.pt")
    predictor = training.Predictor(
        training.build_net(state, "x"), state["contract"], torch.device("cpu"), None
    )
    image = rasters.read(rasters.open_radar(scene), ["VV", "VH"])
    whole = predictor(torch.from_numpy(image)[None])[0].numpy()
    mask = predictions.read(tmp_path / "out" / "odd" / "2021-01-10_044_mask.tif")
    probability = predictions.read(tmp_path / "out" / "odd" / "2021-01-10_044_probability.tif")
    assert np.array_equal(mask == 255, np.isnan(image).any(axis=0))  # no data in = no data out
    assert np.array_equal(np.isnan(probability), mask == 255)
    assert np.nanmax(np.abs(probability - whole)) <= rasters.PROBABILITY_SCALE / 2 + 1e-4
    near = np.abs(whole - state["threshold"]) < 2e-3
    assert ((mask == 1) == (whole >= state["threshold"]))[~near & (mask != 255)].all()
    header, source = (
        rasters.open_header(tmp_path / "out" / "odd" / "2021-01-10_044_mask.tif"),
        rasters.open_header(scene),
    )
    assert header.grid == source.grid and header.tags["date"] == "2021-01-10"
    (row,) = table(tmp_path / "out" / "snow_cover.csv")
    assert int(row["snow_pixels"]) == (mask == 1).sum() and int(row["valid_pixels"]) == (mask != 255).sum()
    bands = table(tmp_path / "out" / "snow_cover_by_elevation.csv")
    assert sum(int(r["snow_pixels"]) for r in bands) == (mask == 1).sum()
    assert [r["elevation_from_m"] for r in bands] == [str(m) for m in range(500, 2400, 250)]
    assert (tmp_path / "out" / "odd" / "2021-01-10_044_preview.png").stat().st_size > 10_000


def test_water_is_no_data_in_maps_as_in_labels(scene, trained, tmp_path):
    """Its land cover on another grid than the radar's: half the scene is a lake, the last columns unknown."""
    words = "--tile", 160, "--amp", "off"
    infer(scene.parents[2], trained / "best.pt", tmp_path / "dry", *words)
    cover = np.full((1, 310, 390), 30, np.uint8)
    cover[:, :150] = 80
    where = grid(310, 390)
    rasters.write(scene.parents[1] / "landcover.tif", cover, ("landcover",), where, 0)
    infer(scene.parents[2], trained / "best.pt", tmp_path / "wet", *words)
    for kind, none in (("mask", 255), ("probability", np.nan)):
        dry, wet = (
            predictions.read(tmp_path / n / "odd" / f"2021-01-10_044_{kind}.tif") for n in ("dry", "wet")
        )
        expected = dry.copy()
        expected[:150, :390] = none
        np.testing.assert_array_equal(wet, expected)
    (row,) = table(tmp_path / "wet" / "snow_cover.csv")
    mask = predictions.read(tmp_path / "wet" / "odd" / "2021-01-10_044_mask.tif")
    assert int(row["valid_pixels"]) == (mask != 255).sum() and int(row["snow_pixels"]) == (mask == 1).sum()


def test_linear_scene_stacked_file_and_swapped_bands_give_the_same_mask(scene, trained, tmp_path):
    raster = rasters.open_radar(scene)
    stack = rasters.read(raster, ["VH", "VV"])
    rasters.write(
        tmp_path / "2021-01-10.tif",
        10 ** (stack / 10),
        ("VH", "VV"),
        raster.grid,
        np.nan,
        units="linear",
        backscatter="sigma0",
    )
    infer(scene, trained / "best.pt", tmp_path / "a", "--amp", "off")
    infer(tmp_path / "2021-01-10.tif", trained / "best.pt", tmp_path / "b", "--amp", "off")
    (a,), (b,) = ([predictions.read(p) for p in (tmp_path / k).rglob("*_mask.tif")] for k in "ab")
    assert (a != b).mean() < 1e-4


def test_group_norm_scenes_are_blended(scene, triplets_folder, tmp_path):
    words = [*TINY, "--norm", "group", "--stop-after", 1]
    run("train_unet.py", "--data", triplets_folder, "--out", tmp_path / "t", *words, code=75)
    infer(scene, tmp_path / "t" / "best.pt", tmp_path / "i", "--tile", 160)
    mask = predictions.read(next((tmp_path / "i").rglob("*_mask.tif")))
    assert np.array_equal(
        mask == 255, np.isnan(rasters.read(rasters.open_radar(scene), ["VV", "VH"])).any(axis=0)
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(trained, tmp_path):
    peaks = []
    for name, size in (("small", 600), ("large", 2400)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "2021-01-10.tif"
        where = grid(size, size)
        with rasters.window_writer(
            path, where, ("VV", "VH"), "float32", np.nan, units="dB", backscatter="sigma0"
        ) as target:
            for row in range(0, size, 200):
                block = np.random.default_rng(row).normal(-12, 3, (2, 200, size)).astype(np.float32)
                target.write(block, window=rasters.Window(0, row, size, 200))
        done = infer(path, trained / "best.pt", tmp_path / f"out-{name}", "--tile", 320)
        peaks.append(result(done)["peak_memory_mib"])
    assert peaks[1] < peaks[0] + 60  # 16 times the pixels; a strip of tiles is 2 MiB wider, GDAL's cache 64


@pytest.mark.slow
def test_an_interrupted_map_goes_on_with_the_next_scene(world, trained, tmp_path):
    words = ["--data", world, "--weights", trained / "best.pt", "--out", tmp_path / "cut", "--workers", 0]
    infer(world, trained / "best.pt", tmp_path / "straight")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            command("infer_unet.py", *words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **THREADS},
        )
        deadline, before = time.time() + 60, len(list((tmp_path / "cut").rglob("*_snow_cover.json")))
        while process.poll() is None and time.time() < deadline:
            if len(list((tmp_path / "cut").rglob("*_snow_cover.json"))) > before + 1:
                process.send_signal(number)
                break
            time.sleep(0.02)
        process.wait(60)
    infer(world, trained / "best.pt", tmp_path / "cut")
    assert (tmp_path / "cut" / "snow_cover.csv").read_bytes() == (
        tmp_path / "straight" / "snow_cover.csv"
    ).read_bytes()
    names = [p.relative_to(tmp_path / "straight") for p in (tmp_path / "straight").rglob("*_mask.tif")]
    assert len(names) == 12
    for name in names:
        assert np.array_equal(
            predictions.read(tmp_path / "straight" / name), predictions.read(tmp_path / "cut" / name)
        )
    assert not list((tmp_path / "cut").rglob(".*.tmp"))


# ---- bad input ---------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (open, ("pwned.txt", "w"))


def test_a_malicious_checkpoint_is_refused_and_not_run(triplets_folder, tmp_path):
    for name, dump in (
        ("torch.pt", lambda p: torch.save({"format": 1, "evil": Evil()}, p)),
        ("raw.pt", lambda p: p.write_bytes(pickle.dumps(Evil()))),
    ):
        dump(tmp_path / name)
        (ROOT / "pwned.txt").unlink(missing_ok=True)
        for job in ("--weights", "--init"):
            if job == "--weights":
                refuse(
                    "infer_unet.py",
                    "--data",
                    triplets_folder,
                    "--weights",
                    tmp_path / name,
                    "--out",
                    tmp_path / "o",
                    saying=name,
                )
            else:
                refuse(
                    "train_unet.py",
                    "--data",
                    triplets_folder,
                    "--init",
                    tmp_path / name,
                    "--out",
                    tmp_path / "o",
                    *TINY,
                    saying=name,
                )
            assert not (ROOT / "pwned.txt").exists() and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.pop("contract"), "no checkpoint of this project"),
        (lambda s: s["contract"].pop("mean"), "contract lacks mean"),
        (lambda s: s.update(format=99), "format 99"),
        (lambda s: s.update(contract=5), "no checkpoint of this project"),
        (lambda s: s.pop("threshold"), "no checkpoint of this project"),
        (lambda s: s["contract"].update(mean=[1.0]), "differ in the number of bands"),
        (lambda s: s["arguments"].update(width=8), "do not fit"),
        (lambda s: s["arguments"].update(norm="magic"), "do not fit"),
    ],
)
def test_foreign_checkpoints_are_refused(triplets_folder, trained, tmp_path, edit, said):
    state = torch.load(trained / "best.pt", weights_only=True)
    edit(state)
    torch.save(state, tmp_path / "x.pt")
    refuse(
        "infer_unet.py",
        "--data",
        triplets_folder,
        "--weights",
        tmp_path / "x.pt",
        "--out",
        tmp_path / "o",
        saying=said,
    )


def test_a_cut_checkpoint_is_refused(triplets_folder, trained, tmp_path):
    (tmp_path / "cut.pt").write_bytes((trained / "best.pt").read_bytes()[:3000])
    refuse(
        "infer_unet.py",
        "--data",
        triplets_folder,
        "--weights",
        tmp_path / "cut.pt",
        "--out",
        tmp_path / "o",
        saying="no readable checkpoint",
    )


def test_input_must_cover_the_contract(scene, triplets_folder, trained, tmp_path):
    raster = rasters.open_radar(scene)
    stack = rasters.read(raster, ["VV", "VH"])
    tags = {"units": "dB", "backscatter": "sigma0"}
    cases = {
        "one-band": (stack[:1], ("VV",), tags, "needs band VH"),
        "other": (stack, ("VV", "VH"), {**tags, "backscatter": "gamma0_rtc"}, "gamma0_rtc"),
        "unnamed": (stack, ("", ""), tags, "VV, VH not found"),
        "no-units": (stack, ("VV", "VH"), {"backscatter": "sigma0"}, "--units"),
        "empty": (stack * np.nan, ("VV", "VH"), tags, "no valid pixel"),
        "infinite": (np.where(stack == stack[0, 5, 5], np.inf, stack), ("VV", "VH"), tags, "infinite"),
    }
    for name, (values, bands, tags, said) in cases.items():
        path = tmp_path / name / "2021-01-10.tif"
        path.parent.mkdir()
        rasters.write(path, values.astype(np.float32), bands, raster.grid, np.nan, **tags)
        refuse(
            "infer_unet.py",
            "--data",
            path,
            "--weights",
            trained / "best.pt",
            "--out",
            tmp_path / f"o-{name}",
            saying=said,
        )
        assert not list((tmp_path / f"o-{name}").rglob("*.tif")) and not list(
            (tmp_path / f"o-{name}").rglob("*.tmp")
        )
    lines = (triplets_folder / "triplets.csv").read_text().replace("sigma0", "gamma0")
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("sar", "rgb", "mask"):
        (folder / name).symlink_to((triplets_folder / name).resolve())
    (folder / "triplets.csv").write_text(lines)
    refuse(
        "infer_unet.py",
        "--data",
        folder,
        "--weights",
        trained / "best.pt",
        "--out",
        tmp_path / "o",
        saying="gamma0",
    )


def test_what_is_left_out_is_said_once_a_reason(world, trained, tmp_path):
    shutil.copytree(world, tmp_path / "scenes")
    paths = sorted((tmp_path / "scenes").glob("site-*/s1/*.tif"))
    for path in paths[:5]:
        with rasterio.open(path, "r+") as source:
            source.update_tags(backscatter="gamma0")
    done = infer(tmp_path / "scenes", trained / "best.pt", tmp_path / "a", "--skip-bad")
    lines = [line for line in done.stderr.splitlines() if "left out" in line]
    assert len(lines) == 2 and paths[0].name in lines[0] and lines[1].startswith("left out, 5 scenes: backsc")
    assert len(result(done)["left_out"]) == 5 and result(done)["scenes"] == 7


def test_leaving_out_is_offered_only_where_something_would_remain(world, trained, tmp_path):
    shutil.copytree(world / "site-0", tmp_path / "scenes" / "site-0")
    first, last = sorted((tmp_path / "scenes").glob("site-*/s1/*.tif"))
    words = ("--weights", trained / "best.pt", "--out", tmp_path / "out")
    for path, said in ((first, "--skip-bad"), (last, "No other scene (1 tried) can be mapped")):
        with rasterio.open(path, "r+") as source:
            source.update_tags(backscatter="gamma0")
        line = refuse("infer_unet.py", "--data", tmp_path / "scenes", *words, saying=said)
        assert ("--skip-bad" in line) == (path == first)
    assert "--skip-bad" not in refuse("infer_unet.py", "--data", first, *words, saying="gamma0")


def test_weights_that_are_no_file_are_explained(world, trained, tmp_path):
    words = ("infer_unet.py", "--data", world, "--out", tmp_path / "out")
    refuse(*words, saying="--weights: not given; pass the best.pt")
    refuse(
        *words,
        "--weights",
        trained,
        saying=f"is a folder, expected a checkpoint file; pass {trained}/best.pt",
    )
    refuse(*words, "--weights", tmp_path, saying="it holds no best.pt")
    refuse(*words, "--weights", tmp_path / "no.pt", saying="no such file; train_unet.py writes best.pt")


def test_a_broken_scene_is_left_out_by_name(world, trained, tmp_path):
    shutil.copytree(world, tmp_path / "scenes")
    bad = next((tmp_path / "scenes" / "site-3" / "s1").glob("*.tif"))
    bad.write_bytes(bad.read_bytes()[:4000])
    refuse(
        "infer_unet.py",
        "--data",
        tmp_path / "scenes",
        "--weights",
        trained / "best.pt",
        "--out",
        tmp_path / "a",
        saying=bad.name,
    )
    got = result(infer(tmp_path / "scenes", trained / "best.pt", tmp_path / "b", "--skip-bad"))
    assert got["scenes"] == 11 and len(got["left_out"]) == 1 and bad.name in got["left_out"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--threshold", 2), "0..1"),
        (("--tile", 100), "multiple of 16"),
        (("--tile", 16), "does not suit"),
        (("--batch", 0), "--batch"),
        (("--device", "nonsense"), "--device nonsense"),
    ],
)
def test_bad_arguments(scene, trained, tmp_path, words, said):
    refuse(
        "infer_unet.py",
        "--data",
        scene,
        "--weights",
        trained / "best.pt",
        "--out",
        tmp_path / "o",
        *words,
        saying=said,
    )
    assert not list(tmp_path.glob("o/**/*.tif"))


def test_missing_paths(trained, tmp_path):
    refuse(
        "infer_unet.py",
        "--data",
        tmp_path / "no",
        "--weights",
        trained / "best.pt",
        "--out",
        tmp_path / "o",
        saying="no such",
    )
    refuse(
        "infer_unet.py",
        "--data",
        trained,
        "--weights",
        tmp_path / "no.pt",
        "--out",
        tmp_path / "o",
        saying="no.pt",
    )
    refuse(
        "infer_unet.py",
        "--data",
        trained,
        "--weights",
        trained / "best.pt",
        "--out",
        tmp_path / "o",
        saying="site.json",
    )
