import csv
import json
import shutil

import numpy as np
import pytest
import rasterio
from conftest import ROOT, blobs, grid, refuse, result, run, write_radar
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import Resampling, calculate_default_transform, reproject

from data_prep import foreign_masks, mask_folders, rasters, runs, stations, strata, truth


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def judge(data, out, *masks_and_words):
    return run("score_masks.py", "--data", data, "--out", out, "--split", "all", "--masks", *masks_and_words)


def warp(source, target, crs="EPSG:3035", pixel=5):
    """Write a raster in another CRS and pixel size, nearest, as a stranger's product would come."""
    with rasterio.open(source) as raster:
        transform, width, height = calculate_default_transform(
            raster.crs, crs, raster.width, raster.height, *raster.bounds, resolution=pixel
        )
        profile = {
            **raster.profile, "crs": crs, "transform": transform, "width": width, "height": height,
        }  # fmt: skip
        values = np.full((height, width), raster.nodata, raster.dtypes[0])
        reproject(
            raster.read(1), values, src_transform=raster.transform, src_crs=raster.crs, dst_crs=crs,
            dst_transform=transform, src_nodata=raster.nodata, dst_nodata=raster.nodata,
            resampling=Resampling.nearest,
        )  # fmt: skip
        target.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(target, "w", **profile) as out:
            out.write(values, 1)
            out.scales = raster.scales


# ---- the same figures as infer_unet ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inferred(triplets_folder, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("inferred") / "out"
    words = ("--weights", trained / "best.pt", "--out", out, "--split", "all", "--workers", 0)
    return out, result(run("infer_unet.py", "--data", triplets_folder, *words))


MASK_SCORES = ("true_snow", "missed_snow", "false_snow", "true_bare", "iou", "f1", "mcc", "snow_area_bias")


def test_figures_of_infer_unet_are_repeated_exactly(triplets_folder, inferred, tmp_path):
    out, wanted = inferred
    got = result(judge(triplets_folder, tmp_path / "o", f"unet={out}"))
    unet = got["methods"]["unet"]
    assert {k: unet["scores"][k] for k in MASK_SCORES} == {k: wanted["scores"][k] for k in MASK_SCORES}
    assert unet["scores"]["auprc"] == pytest.approx(wanted["scores"]["auprc"], abs=0.003)
    for name in ("iou", "f1", "balanced_accuracy", "mcc", "snow_area_bias"):
        assert unet["interval_95"][name] == wanted["interval_95"][name]
    assert unet["coverage"] == 1 and unet["with_mask"] == 12
    mine, theirs = table(tmp_path / "o" / "strata.csv"), table(out / "strata.csv")
    assert [(r["stratum"], r["class"], r["iou"]) for r in mine] == [
        (r["stratum"], r["class"], r["iou"]) for r in theirs
    ]
    assert ("season", "DJF") in [(r["stratum"], r["class"]) for r in mine]
    for name in ("overlays.png", "strata.png", "histogram_unet.png"):
        assert (tmp_path / "o" / name).stat().st_size > 10_000
    again = judge(triplets_folder, tmp_path / "o", f"unet={out}")
    assert "already done" in again.stderr


def test_masks_in_another_projection_and_resolution_give_the_same_figures(
    triplets_folder, inferred, tmp_path
):
    out, wanted = inferred
    for kind in ("mask", "probability"):
        for path in (out / kind).glob("*.tif"):
            warp(path, tmp_path / "etrs" / kind / path.name)
    got = result(judge(triplets_folder, tmp_path / "o", tmp_path / "etrs"))["methods"]["etrs"]
    assert got["coverage"] > 0.99
    for name in ("iou", "f1", "balanced_accuracy", "mcc", "auprc"):
        assert got["scores"][name] == pytest.approx(wanted["scores"][name], abs=0.01)
    at = ("--threshold", wanted["threshold"])
    same = result(judge(triplets_folder, tmp_path / "p", out, *at))["methods"]["out"]
    assert same["scores"]["iou"] == pytest.approx(wanted["scores"]["iou"], abs=0.01)


# ---- masks made by hand ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labels(triplets_folder):
    """id -> label, grid, date of every triplet."""
    found = {}
    for row in table(triplets_folder / "triplets.csv"):
        raster = rasters.open_header(triplets_folder / row["mask"])
        found[row["id"]] = rasters.read(raster, ["snow"], raw=True)[0].astype(np.uint8), raster.grid, row
    return found


def write_codes(path, codes, where, nodata=255, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    rasters.write(path, codes[None].astype(np.uint8), ("",), where, nodata, **tags)


def test_products_with_codes_are_found_by_date_and_ground_and_compared(triplets_folder, labels, tmp_path):
    """Percent masks in halves of a scene against perfect ones of which one column is missing."""
    wrong = {}
    for name, (label, where, row) in labels.items():
        percent = np.where(label == 1, 80, 10).astype(np.uint8)
        percent[:10] = 90 - percent[:10]  # ten rows swapped
        wrong[name] = int((label[:10, 1:] != 255).sum())
        stamp = row["s1_date"].replace("-", "")
        folder = tmp_path / "fsc" / row["site"]
        write_codes(folder / f"FSC_{stamp}_S2A_a.tif", percent[:50], where.window(0, 0, 50, 96), 205)
        write_codes(folder / f"FSC_{stamp}_S2A_b.tif", percent[40:], where.window(40, 0, 56, 96), 205)
        exact = label.copy()
        exact[:, 0] = 255
        write_codes(tmp_path / "exact" / f"{name}.tif", exact, where)
    words = ("--snow", "fsc=50-100", "--snow-free", "fsc=0-49")
    done = judge(
        triplets_folder, tmp_path / "o", f"exact={tmp_path / 'exact'}", f"fsc={tmp_path / 'fsc'}", *words
    )
    got = result(done)
    exact, fsc = (got["methods"][name] for name in ("exact", "fsc"))
    assert exact["scores"]["iou"] == 1 and fsc["coverage"] == 1
    assert fsc["scores"]["pixels"] == exact["scores"]["pixels"]  # both on the pixels both have
    assert exact["coverage"] == pytest.approx(95 / 96, abs=2e-3)
    assert fsc["scores"]["missed_snow"] + fsc["scores"]["false_snow"] == sum(wrong.values())
    rows = {(r["stratum"], r["score"]): r for r in table(tmp_path / "o" / "paired.csv")}
    iou = rows["all", "iou"]
    assert float(iou["difference"]) == pytest.approx(1 - fsc["scores"]["iou"])
    assert iou["excludes_0"] == "yes" and iou["sites"] == "6" and iou["scenes"] == "12"
    assert ("season", "iou") in rows and ("all", "auprc") not in rows
    assert [r["method"] for r in table(tmp_path / "o" / "scores.csv")] == ["exact", "fsc"]
    told = got["comparisons"]
    assert told == {"primary": "all pixels, iou", "differences": 16, "by_chance": 0.8}
    assert "excludes 0" in done.stderr and "about 0.8 would exclude 0 by chance" in done.stderr
    folder = tmp_path / "exact"
    judge(triplets_folder, tmp_path / "o", f"exact={folder}", "--overwrite", "--overlays", 1)
    assert not (tmp_path / "o" / "paired.csv").exists() and (tmp_path / "o" / "scores.csv").exists()


def test_what_cannot_be_judged_is_refused(triplets_folder, labels, tmp_path):
    (name, (label, where, row)), *_ = labels.items()
    word = ("--data", triplets_folder, "--split", "all", "--out", tmp_path / "o", "--masks")
    (tmp_path / "none").mkdir()
    line = refuse("score_masks.py", *word, tmp_path / "none", saying="no mask for any of 12 triplets")
    assert name in line and row["s1_date"][:10] in line
    write_codes(tmp_path / "codes" / f"{name}.tif", np.where(label == 1, 110, 125), where)
    refuse("score_masks.py", *word, tmp_path / "codes", saying="found 110, 125")
    write_codes(tmp_path / "bytes" / f"{name}.tif", np.where(label == 1, 255, 0), where, nodata=None)
    refuse("score_masks.py", *word, tmp_path / "bytes", saying="code 1 (snow) never occurs, but 255")
    write_codes(tmp_path / "zero" / f"{name}.tif", label, where, nodata=0)
    refuse("score_masks.py", *word, tmp_path / "zero", saying="no-data value 0 is also the code")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / f"{name}.tif").write_bytes((tmp_path / "codes" / f"{name}.tif").read_bytes()[:200])
    refuse("score_masks.py", *word, tmp_path / "cut", saying=f"{name}.tif")
    refuse("score_masks.py", *word, tmp_path / "codes", "--snow", "9-1", saying="--snow 9-1")
    refuse("score_masks.py", *word, tmp_path / "codes", "--snow", "0-1", saying="overlap")
    refuse("score_masks.py", *word, tmp_path / "codes", "--snow", "x=1", saying="names no 'x'")
    refuse("score_masks.py", *word, tmp_path / "codes", tmp_path / "a" / ".." / "codes", saying="codes")
    refuse("score_masks.py", *word, tmp_path / "codes", "--against", "truth", saying="--truth")
    refuse("score_masks.py", *word, tmp_path / "codes", "--sample", 0, saying="must be positive")
    refuse("score_masks.py", *word, tmp_path / "codes", "--against", "stations", saying="--stations")
    assert not (tmp_path / "o").exists()
    words = ("--snow", 110, "--snow-free", 125, "--overlays", 1)
    got = result(judge(triplets_folder, tmp_path / "o", tmp_path / "codes", *words))["methods"]["codes"]
    assert got["scores"]["accuracy"] == 1 and got["with_mask"] == 1
    assert got["interval_95"]["iou"] is None and got["interval_95"]["sites"] == 1


def test_truth_gives_the_reference_and_its_strata(world, triplets_folder, labels, tmp_path):
    """Left half wet and deep, right half dry and shallow, lower half forest; the mask sees wet snow only."""
    wet = np.zeros((96, 96), bool)
    wet[:, :48] = True
    forest = np.zeros((96, 96), bool)
    forest[48:] = True
    truth = {}
    for name, (_, where, row) in labels.items():
        snow = blobs(96, 96, int(row["site"][-1]))
        planes = [
            np.where(snow, 0.9, 0.1),
            np.where(snow & wet, 0.05, 0.0),
            np.where(snow, np.where(wet, 1.5, 0.1), 0),
            np.where(forest, 10, 30),
        ]
        path = tmp_path / "scenes" / row["site"] / "truth" / f"{row['s1_date'][:10]}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        bands = ("snow_fraction", "liquid_water", "snow_depth", "landcover")
        rasters.write(path, np.stack(planes).astype(np.float32), bands, where, np.nan)
        write_codes(tmp_path / "m" / f"{name}.tif", snow & wet, where)
        truth[name] = snow
    word = (tmp_path / "m", "--against", "truth", "--truth", tmp_path / "scenes")
    got = result(judge(triplets_folder, tmp_path / "o", *word))["methods"]["m"]["scores"]
    seen, marked, bare = (
        sum(int(part.sum()) for part in parts)
        for parts in (truth.values(), [s & wet for s in truth.values()], [~s for s in truth.values()])
    )
    assert got["pixels"] == 12 * 96 * 96 and got["recall"] == marked / seen and got["precision"] == 1
    rows = {(r["stratum"], r["class"]): r for r in table(tmp_path / "o" / "strata.csv")}
    assert float(rows["wetness", "wet"]["recall"]) == 1 and float(rows["wetness", "dry"]["recall"]) == 0
    assert float(rows["depth", "over 1 m"]["recall"]) == 1 and float(rows["depth", "0-0.3 m"]["recall"]) == 0
    assert int(rows["wetness", "wet"]["true_bare"]) == int(rows["wetness", "dry"]["true_bare"]) == bare
    assert int(rows["surface", "forest"]["pixels"]) == 12 * 48 * 96
    assert rows["wetness", "wet"]["sites_with_snow"] == "6"
    wet_only = result(judge(triplets_folder, tmp_path / "w", *word, "--target", "wet"))["methods"]["m"]
    assert wet_only["scores"]["iou"] == 1
    assert "wetness" not in {r["stratum"] for r in table(tmp_path / "w" / "strata.csv")}
    shutil.rmtree(tmp_path / "scenes" / "site-0" / "truth")
    words = ("--data", triplets_folder, "--out", tmp_path / "x", "--split", "all", "--masks", *word)
    refuse("score_masks.py", *words, saying="site-0")


# ---- stations ----------------------------------------------------------------------------------------------


def test_station_depths_by_hand(tmp_path):
    """Seven observations, computed by hand: hits 2, missed 1, false 1, correctly bare 1; one not covered.

    precision 2/3, recall 2/3, f1 2/3, iou 2/4, accuracy 3/5, specificity 1/2, snow area bias 0, and
    mcc (2 * 1 - 1 * 1) / sqrt(3 * 2 * 3 * 2) = 1/6. The seventh row has no depth.
    """
    where = grid(10, 10)
    mask = np.zeros((10, 10), np.uint8)
    mask[:5], mask[9, 9] = 1, 255
    west = mask.copy()
    write_codes(tmp_path / "m" / "2021-01-10_a.tif", west, where)
    write_codes(tmp_path / "m" / "deep" / "S1_20210203T053000.tif", 1 - np.minimum(mask, 1), where)

    def place(row, col):
        x, y = where.transform * (col + 0.5, row + 0.5)
        (longitude,), (latitude,) = rasterio.warp.transform(where.crs, "EPSG:4326", [x], [y])
        return f"{latitude:.7f},{longitude:.7f}"

    lines = [
        f"a,2021-01-10,{place(0, 0)},120",  # snow, marked: hit
        f"a,2021-01-10,{place(4, 9)},3",  # snow, marked: hit
        f"a,2021-01-10,{place(5, 0)},40",  # snow, not marked: missed
        f"b,2021-02-03,{place(7, 2)},2",  # 2 cm is not more than 2 cm: bare, but marked: false
        f"b,2021-02-03,{place(2, 2)},0",  # bare, not marked
        f"a,2021-01-10,{place(9, 9)},50",  # no data there
        f"b,2021-02-03,{place(2, 2)},",  # nothing measured
    ]
    head = "site,date,latitude,longitude,depth_cm\n"
    (tmp_path / "s.csv").write_text(head + "\n".join(lines) + "\n")
    word = ("--against", "stations", "--masks", tmp_path / "m", "--stations")
    got = result(run("score_masks.py", *word, tmp_path / "s.csv", "--out", tmp_path / "o"))
    scores = got["methods"]["m"]["scores"]
    counts = [scores[k] for k in ("true_snow", "missed_snow", "false_snow", "true_bare")]
    assert counts == [2, 1, 1, 1] and got["observations"] == 6 and got["without_depth"] == 1
    hand = {
        "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "iou": 0.5, "accuracy": 0.6, "specificity": 0.5,
        "snow_area_bias": 0, "mcc": 1 / 6,
    }  # fmt: skip
    assert {name: scores[name] for name in hand} == pytest.approx(hand)
    assert got["methods"]["m"]["coverage"] == pytest.approx(5 / 6)
    assert got["methods"]["m"]["interval_95"]["sites"] == 2
    depth = {r["class"]: r for r in table(tmp_path / "o" / "strata.csv") if r["stratum"] == "depth"}
    assert float(depth["over 1 m"]["recall"]) == 1 and float(depth["0.3-1 m"]["recall"]) == 0
    marks = [(r["snow"], r["m"]) for r in table(tmp_path / "o" / "per_station.csv")]
    assert sorted(marks) == [("0", "0"), ("0", "1"), ("1", ""), ("1", "0"), ("1", "1"), ("1", "1")]
    for head, said in (
        ("site,date,latitude,longitude,depth", "depth_m or depth_cm"),
        ("site,date,latitude,longitude,depth_m", "is the unit right?"),
        ("site,date,latitude,depth_m,x", "longitude"),
    ):
        (tmp_path / "bad.csv").write_text(head + "\n" + lines[0] + "\n")
        refuse("score_masks.py", *word, tmp_path / "bad.csv", "--out", tmp_path / "x", saying=said)
    for end in ("csv", "o"):
        assert run("score_masks.py", *word, tmp_path / "s.csv", "--out", tmp_path / "s.csv" / end, code=2)
    names = ("--against", "stations", "--masks", f"snow={tmp_path / 'm'}", "--stations", tmp_path / "s.csv")
    refuse("score_masks.py", *names, "--out", tmp_path / "x", saying="'snow' is a column")
    whole = (tmp_path / "m" / "2021-01-10_a.tif").read_bytes()
    (tmp_path / "m" / "2021-01-10_0.tif").write_bytes(whole[:-60])  # before the whole one in order of name
    skipped = run("score_masks.py", *word, tmp_path / "s.csv", "--out", tmp_path / "k", "--skip-bad")
    assert result(skipped)["methods"]["m"]["scores"] == scores
    assert [name for name in result(skipped)["left_out"] if "2021-01-10_0.tif" in name]
    (tmp_path / "m" / "2021-01-10_0.tif").unlink()
    (tmp_path / "late.csv").write_text("site,date,latitude,longitude,depth_m\na,2022-01-01,46.9,10.3,1\n")
    refuse("score_masks.py", *word, tmp_path / "late.csv", "--out", tmp_path / "x", saying="2022-01-01")


def test_depths_in_either_unit_are_the_same(tmp_path):
    for unit, value in (("depth_m", "1.25"), ("depth_cm", "125")):
        (tmp_path / f"{unit}.csv").write_text(
            f"site,date,latitude,longitude,{unit}\na,2021-01-10,46,10,{value}\n"
        )
    a, b = (stations.read(tmp_path / f"{unit}.csv") for unit in ("depth_m", "depth_cm"))
    assert a == b and a[0][0]["depth_m"] == 1.25
    (tmp_path / "cm.csv").write_text("site,date,latitude,longitude,depth_cm\n" + "a,2021-01-10,46,10,7\n")
    assert stations.read(tmp_path / "cm.csv")[0][0]["depth_m"] == 0.07


# ---- finding and reading -----------------------------------------------------------------------------------


def test_much_finer_masks_are_judged_by_their_majority(tmp_path):
    """2.5 m pixels: the outer 12 of 16 are right, the inner 4, which the nearest would take, are wrong."""
    truth, where = blobs(20, 20, 3), grid(20, 20)
    fine = np.kron(truth, np.ones((4, 4), np.uint8)).reshape(20, 4, 20, 4).astype(np.uint8)
    fine[:, 1:3, :, 1:3] ^= 1
    own = rasters.Grid(where.crs, from_origin(600000, 5200000, 2.5, 2.5), 80, 80)
    write_codes(tmp_path / "2021-01-10.tif", fine.reshape(80, 80), own)
    masks = mask_folders.MaskFolder("m", tmp_path)
    got = foreign_masks.read_on(rasters.open_header(tmp_path / "2021-01-10.tif"), where, masks, "mask")
    assert np.array_equal(got, truth)


def test_large_fine_masks_are_read_in_strips(tmp_path, monkeypatch):
    truth = blobs(60, 40, 4).astype(np.uint8)
    fine = np.kron(truth, np.ones((4, 4), np.uint8))
    own = rasters.Grid(CRS.from_epsg(32632), from_origin(600000, 5200000, 2.5, 2.5), 240, 160)
    write_codes(tmp_path / "2021-01-10.tif", fine, own)
    monkeypatch.setattr(foreign_masks, "PIXELS_AT_ONCE", 5000)
    windows, read_window = [], foreign_masks.read_window
    monkeypatch.setattr(
        foreign_masks, "read_window", lambda *words: (windows.append(words[1]), read_window(*words))[1]
    )
    raster = rasters.open_header(tmp_path / "2021-01-10.tif")
    got = foreign_masks.read_on(raster, grid(60, 40), mask_folders.MaskFolder("m", tmp_path), "mask")
    assert np.array_equal(got, truth)
    assert max(height * width for _, _, height, width in windows) <= 5000 and len(windows) > 4


def test_masks_of_a_day_are_chosen_by_time_track_and_order(tmp_path):
    where, ones = grid(8, 8), np.ones((8, 8), np.uint8)
    radar = write_radar(tmp_path / "sar.tif", ones.astype(bool), where)
    row = {"id": "x", "s1_date": "2021-01-10T053000", "relative_orbit": "044", "sar": radar}
    half = ones.copy()
    half[:, 4:] = 255
    folder = tmp_path / "m"
    write_codes(folder / "b_20210110.tif", np.zeros((9, 8), np.uint8), grid(9, 8))
    write_codes(folder / "a_20210110.tif", half, where)  # first by name: wins where it is valid
    write_codes(folder / "0_20210110.tif", 0 * ones, where, relative_orbit="117")  # another pass
    write_codes(folder / "0_20210111.tif", 0 * ones, where)  # another day
    write_codes(folder / "0_20210110_far.tif", 0 * ones, grid(8, 8, east=700000))  # another place
    got = foreign_masks.read(mask_folders.MaskFolder("m", folder), row, (8, 8))
    assert (got[:, :4] == 1).all() and (got[:, 4:] == 0).all()
    write_codes(folder / "z_20210110T053000.tif", half, where)  # the very time: the others do not count
    got = foreign_masks.read(mask_folders.MaskFolder("m", folder), row, (8, 8))
    assert np.array_equal(got, half)
    write_codes(folder / "mask" / "x.tif", 0 * ones, where)  # by id
    assert (foreign_masks.read(mask_folders.MaskFolder("m", folder), row, (8, 8)) == 0).all()


@pytest.fixture
def morning(tmp_path):
    """A triplet of the morning pass on 8 x 8 pixels."""
    where = grid(8, 8)
    radar = write_radar(tmp_path / "sar.tif", np.ones((8, 8), bool), where)
    row = {"id": "x", "s1_date": "2021-01-10T053000", "relative_orbit": "", "sar": radar}
    return tmp_path / "m", where, row


def read_new(folder, row, **more):
    return foreign_masks.read(mask_folders.MaskFolder("m", folder, **more), row, (8, 8))


ONES = np.ones((8, 8), np.uint8)


@pytest.mark.parametrize("sign", ["T", "t", "_"])
def test_two_passes_a_day_are_told_apart_by_their_time(morning, sign):
    folder, where, row = morning
    half = ONES.copy()
    half[:, 4:] = 255
    write_codes(folder / f"a_20210110{sign}053012.tif", half, where)
    write_codes(folder / f"b_20210110{sign}170025.tif", 0 * ONES, where)
    assert np.array_equal(read_new(folder, row), half)  # not filled up by the evening
    assert (read_new(folder, {**row, "s1_date": "2021-01-10T165900"}) == 0).all()
    for date in ("2021-01-10T120000", "2021-01-10"):
        with pytest.raises(runs.BadInput, match="of one day but two passes"):
            read_new(folder, {**row, "s1_date": date})
    place = {"latitude": 46.9456, "longitude": 10.3145}
    with pytest.raises(runs.BadInput, match="of one day but two passes"):
        foreign_masks.read_points(mask_folders.MaskFolder("m", folder), "2021-01-10", [place])
    (folder / f"b_20210110{sign}170025.tif").unlink()
    write_codes(folder / f"c_20210110{sign}053037.tif", 0 * ONES[:, :5], where.window(0, 3, 8, 5))
    got = read_new(folder, row)  # the next slice of the same pass
    assert (got[:, :4] == 1).all() and (got[:, 4:] == 0).all()


def test_layers_of_one_product_are_not_laid_over_each_other(morning):
    folder, where, row = morning
    for number, layer in enumerate(("FSCOG", "QCFLAGS")):
        write_codes(folder / f"FSC_20210110T103421_{layer}.tif", number * ONES, where)
    with pytest.raises(runs.BadInput, match=r"QCFLAGS.*--layer"):
        read_new(folder, row)
    assert (read_new(folder, row, layer="QCFLAGS") == 1).all()
    (chosen,) = mask_folders.choose([("m", folder)], (), (), [("m", "FSCOG")])
    assert (foreign_masks.read(chosen, row, (8, 8)) == 0).all()


@pytest.mark.parametrize("kind", ["internal", "sidecar", "alpha"])
def test_masks_and_alpha_bands_hide_pixels(morning, kind):
    folder, where, row = morning
    folder.mkdir()
    hidden = ONES.astype(bool)
    hidden[:3] = False
    profile = {"driver": "GTiff", "height": 8, "width": 8, "dtype": "uint8", "count": 1 + (kind == "alpha")}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"),
        rasterio.open(folder / "x.tif", "w", **profile, crs=where.crs, transform=where.transform) as out,
    ):
        out.write(ONES, 1)
        if kind == "alpha":
            out.write(hidden.astype(np.uint8) * 255, 2)
            out.colorinterp = rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha
        else:
            out.write_mask(hidden)
    assert (folder / "x.tif.msk").exists() == (kind == "sidecar")
    assert np.array_equal(read_new(folder, row) == 255, ~hidden)


def test_bands_nobody_described_and_files_that_lead_elsewhere_are_refused(morning):
    folder, where, row = morning
    (folder / "probability").mkdir(parents=True)
    rasters.write(folder / "x.tif", np.stack([ONES, ONES]), ("", ""), where, 255)
    with pytest.raises(runs.BadInput, match="2 bands, none of them described as 'snow'"):
        read_new(folder, row)
    rasters.write(
        folder / "probability" / "x.tif", np.stack([0 * ONES, ONES]), ("snow", "snow_probability"), where, 255
    )
    masks = mask_folders.MaskFolder("m", folder)
    assert (foreign_masks.read(masks, row, (8, 8), "probability") == 1).all()
    link = (
        f'<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>\
<SourceFilename>{row["sar"]}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    (folder / "x.tif").write_text(link)
    with pytest.raises(runs.BadInput, match="not a readable GeoTIFF"):
        read_new(folder, row)
    assert read_new(folder, row, skip_bad=True) is None


def test_a_default_code_never_overrides_the_no_data_tag():
    from pathlib import Path

    known, path, values = np.ones(3, bool), Path("a.tif"), np.array([0, 110, 7])
    for words, wanted in (
        (([("", "110")], ()), [255, 1, 255]),  # 0 is no data by the file's tag, snow-free by default only
        (([("", "110")], [("", "0")]), [0, 1, 255]),
    ):
        (masks,) = mask_folders.choose([("m", ROOT)], *words)
        assert foreign_masks.to_classes(masks, values, known, 0, path).tolist() == wanted
    with pytest.raises(runs.BadInput, match="no-data value 0 is also the code"):
        foreign_masks.to_classes(mask_folders.MaskFolder("m", ROOT), values, known, 0, path)


@pytest.mark.parametrize(("met", "never"), [({1}, "0 \\(snow-free\\)"), ({0}, "1 \\(snow\\)")])
def test_a_class_that_never_occurs_beside_unknown_codes(met, never, capsys):
    masks = mask_folders.MaskFolder("m", ROOT, met=met, unknown={125.0})
    with pytest.raises(runs.BadInput, match=f"code {never} never occurs, but 125"):
        foreign_masks.check_codes(masks)
    masks.stated = ((1, 1),)
    foreign_masks.check_codes(masks)
    assert "NO PIXEL IS SNOW" in capsys.readouterr().err and len(masks.said) == 2
    masks = mask_folders.MaskFolder("m", ROOT, met={0, 1}, unknown={125.0})
    foreign_masks.check_codes(masks)
    assert masks.said == ["m: codes counted as no data: 125"]


def test_grounds_that_only_touch_or_lie_nowhere(morning):
    folder, where, row = morning
    write_codes(folder / "20210110.tif", ONES, grid(8, 8, east=600080))  # its west edge is our east edge
    assert read_new(folder, row) is None
    local = rasters.Grid(CRS.from_wkt('LOCAL_CS["here",UNIT["metre",1]]'), where.transform, 8, 8)
    write_codes(folder / "local_20210110.tif", ONES, local)
    with pytest.raises(runs.BadInput, match=r"local_20210110.tif.*--skip-bad"):
        read_new(folder, row)
    masks = mask_folders.MaskFolder("m", folder, skip_bad=True)
    assert foreign_masks.read(masks, row, (8, 8)) is None and list(masks.bad) == [
        folder / "local_20210110.tif"
    ]
    east_west = (179.5, 60, -179.5, 61)
    assert mask_folders.overlap(east_west, (-179.9, 60.5, -179.8, 60.6))
    assert mask_folders.overlap((179.8, 60.5, 179.9, 60.6), east_west)
    assert not mask_folders.overlap(east_west, (0, 60.5, 1, 60.6))
    assert not mask_folders.overlap((0, 0, 1, 1), (1, 0, 2, 1))


def test_what_a_folder_holds_is_said(tmp_path):
    where = grid(8, 8)
    (tmp_path / "else").mkdir()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "link").symlink_to(tmp_path / "else")
    write_codes(tmp_path / "else" / "MOD10A1.A2021010.h18v04.061.2021012034512.tif", ONES, where)
    write_codes(tmp_path / "m" / "undated.tif", ONES, where)
    (tmp_path / "m" / "a.jp2").write_text("x")
    said = mask_folders.what_lies(mask_folders.MaskFolder("m", tmp_path / "m"))
    for part in (
        "1 dated GeoTIFFs (mask)",
        "1 GeoTIFFs without a date",
        "1 .jp2",
        "from 2021-01-10 to 2021-01-10",
    ):
        assert part in said


def test_probabilities_are_compared_where_all_that_have_any_have_one():
    a, b = np.array([0.1, np.nan, 0.3]), np.array([0.1, 0.2, np.nan])
    got = foreign_masks.in_common({"a": a, "b": b}, (3,))
    assert np.isnan(got["a"]).tolist() == np.isnan(got["b"]).tolist() == [False, True, True]
    assert np.isnan(foreign_masks.in_common({"a": a, "b": None}, (3,))["a"]).all()


def test_wetness_where_the_truth_does_not_know_it_is_none(tmp_path):
    radar = write_radar(tmp_path / "sar.tif", np.ones((2, 2), bool), grid(2, 2))
    planes = {
        "snow_fraction": np.array([[1, 1], [0, np.nan]]), "liquid_water": np.array([[0.05, 0], [0, np.nan]]),
    }  # fmt: skip
    row = {"s1_date": "2021-01-10", "sar": radar}
    assert strata.codes(row, (2, 2), planes, truth.wet(planes))["wetness"].tolist() == [[1, 0], [-1, -1]]


def test_strata_of_a_triplet(tmp_path):
    where = grid(4, 3)
    stack = np.zeros((3, 4, 3), np.float32) - 10
    stack[2] = [[20, 30, 44.9], [45, 60, np.nan], [20, 20, 20], [20, 20, 20]]
    tags = {"units": "dB", "backscatter": "sigma0"}
    rasters.write(tmp_path / "s.tif", stack, ("VV", "VH", "local_incidence_angle"), where, np.nan, **tags)
    cover = np.array([[10, 30, 80], [0, 10, 100], [10, 10, 10], [50, 50, 50]], np.uint8)
    rasters.write(tmp_path / "c.tif", cover[None], ("landcover",), where, 0)
    row = {"s1_date": "2021-12-01", "sar": tmp_path / "s.tif", "landcover": tmp_path / "c.tif", "dem": None}
    got = strata.codes(row, (4, 3))
    assert got["local_incidence_angle"][:2].tolist() == [[0, 1, 1], [2, 2, -1]]
    assert got["surface"].tolist() == [[1, 0, -1], [-1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert (got["season"] == 0).all() and set(got) == {"local_incidence_angle", "surface", "season"}
    assert all(strata.season(f"2021-{m:02d}-01", 1)[0] == (m % 12) // 3 for m in range(1, 13))


def test_the_scene_of_a_triplet_is_known_from_its_id():
    for scene, s1_date in (
        ("2021-01-10T053000_044", "2021-01-10T053000"),
        ("2021-01-10T053000", "2021-01-10T053000"),
        ("2021-01-10_A-7", "2021-01-10"),
    ):
        name = f"my_site_{scene}_2021-01-11T101500_r00000c00000"
        assert strata.scene_stem({"id": name, "site": "my_site", "s1_date": s1_date}) == scene
    assert strata.scene_stem({"id": "own-name", "site": "s", "s1_date": "2021-01-10"}) == "2021-01-10"
    with pytest.raises(runs.BadInput, match="is no date"):
        strata.scene_stem({"id": "own-name", "site": "s", "s1_date": "../../2021-01-10"})


def test_dates_of_foreign_names():
    from pathlib import Path

    for name, tags, wanted in (
        ("FSC_20210110T103421_S2A_T32TLS_V101_1_FSCOG.tif", {}, ("2021-01-10", "103421")),
        ("S1A_IW_GRDH_1SDV_20210110T053000_20210110T053025_036.tif", {}, ("2021-01-10", "053000")),
        ("2021-01-10T053000_044_mask.tif", {"date": "2021-01-10"}, ("2021-01-10", "053000")),
        ("tile_123456789.tif", {}, ("", "")),
        ("tile_1234_05_06.tif", {}, ("", "")),
        ("snow_2021_01_10.tif", {}, ("2021-01-10", "")),
        ("2021-01-10_996161.tif", {}, ("2021-01-10", "")),
        ("MOD10A1.A2021366.h18v04.tif", {}, ("", "")),
        ("MOD10A1.A2021010.h18v04.061.2021012034512.tif", {}, ("2021-01-10", "")),
        ("99999999_20210110.tif", {}, ("2021-01-10", "")),
        ("any.tif", {"date": "2021-01-10T05:30:00"}, ("2021-01-10", "053000")),
        ("made_20230101.tif", {"date": "2021-01-10"}, ("2021-01-10", "")),
    ):
        assert mask_folders.date_and_time(Path(name), tags) == wanted, name


def test_original_pictures_are_judged_too(tmp_path):
    from PIL import Image

    for kind in ("SAR", "Masks"):
        (tmp_path / "d" / kind / "test").mkdir(parents=True)
    (tmp_path / "m").mkdir()
    for number in range(2):
        snow = blobs(40, 40, number).astype(np.uint8) * 255
        Image.fromarray(255 - snow).save(tmp_path / "d" / "SAR" / "test" / f"{number}.png")
        Image.fromarray(snow).save(tmp_path / "d" / "Masks" / "test" / f"{number}.png")
        Image.fromarray(snow).save(tmp_path / "m" / f"test_{number}.png")
    got = result(
        run("score_masks.py", "--data", tmp_path / "d", "--masks", tmp_path / "m", "--out", tmp_path / "o")
    )
    assert got["methods"]["m"]["scores"]["iou"] == 1 and not (tmp_path / "o" / "strata.png").exists()
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["methods"]["m"]["coverage"] == 1
    (tmp_path / "m" / "test_0.png").unlink()
    words = ("--data", tmp_path / "d", "--masks", tmp_path / "m", "--out", tmp_path / "p")
    write_codes(
        tmp_path / "m" / "test_0.tif", blobs(40, 40, 0), grid(40, 40)
    )  # pixel for pixel, whatever its CRS
    assert result(run("score_masks.py", *words))["methods"]["m"]["scores"]["iou"] == 1
    write_codes(tmp_path / "m" / "test_0.tif", blobs(41, 40, 0), grid(41, 40))
    refuse("score_masks.py", *words, "--overwrite", saying="41 x 40 pixels, but the triplet has 40 x 40")


def test_help_is_quick_and_light():
    import subprocess
    import sys
    import time

    began = time.time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "score_masks.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "numpy" not in done.stderr and time.time() - began < 5
