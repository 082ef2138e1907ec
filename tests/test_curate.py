import csv
import json
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import blobs, command, grid, refuse, result, run, write_optical, write_radar, write_site

from data_prep import pairs, rasters, triplets


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def curate(scenes, out, *words, **more):
    return run("curate", "--data", scenes, "--out", out, "--workers", 0, *words, **more)


def rejected(out):
    return {(r["site"], r["s1"], r["s2"]): r["rule"] for r in table(out / "rejected.csv")}


# ---- on scenes of known truth ------------------------------------------------------------------------------


def test_masks_are_the_truth_and_radar_is_untouched(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1)
    curate(tmp_path / "scenes", tmp_path / "out", "--index", "ndsi")
    (row,) = table(tmp_path / "out" / "triplets.csv")
    mask = rasters.read(rasters.open_header(tmp_path / "out" / row["mask"]), ["snow"], raw=True)[0]
    assert np.array_equal(mask, blobs(96, 96, 100).astype(np.uint8))
    assert float(row["snow_fraction"]) == pytest.approx(mask.mean()) and row["relative_orbit"] == "044"
    tile = rasters.open_header(tmp_path / "out" / row["sar"])
    source = rasters.open_header(next((site / "s1").glob("*.tif")))
    assert tile.units == "dB" and tile.tags["backscatter"] == "sigma0" and tile.grid == source.grid
    assert np.allclose(rasters.read(tile, ["VV", "VH"]), rasters.read(source, ["VV", "VH"]), atol=1e-4)
    assert list(table(tmp_path / "out" / "triplets.csv")[0]) == list(triplets.COLUMNS)


def test_linear_scenes_become_db(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1)
    snow = blobs(96, 96, 100)
    for path in (site / "s1").iterdir():
        write_radar(path, snow, grid(east=610000), 100, units="linear")
    curate(tmp_path / "scenes", tmp_path / "out")
    (row,) = table(tmp_path / "out" / "triplets.csv")
    vv = rasters.read(rasters.open_header(tmp_path / "out" / row["sar"]), ["VV"])[0]
    assert (
        -14.5 < vv[snow].mean() < -13.4 and -9.5 < vv[~snow].mean() < -8.4
    )  # the mean of dB lies 1 dB below


def spoil(site, what):
    """Damage the only pair of a site in one way; returns the rule that must name it."""
    s1, s2 = (next((site / sensor).glob("*.tif")) for sensor in ("s1", "s2"))
    where, snow = rasters.open_header(s1).grid, blobs(96, 96, 100)
    far = np.zeros((96, 96), bool)
    far[:, :60] = True  # more than half of the tile
    if what == "no-radar":
        shutil.rmtree(site / "s1")
    elif what == "no-optical":
        shutil.rmtree(site / "s2")
    elif what == "gap":
        s2.rename(s2.with_name("2021-01-14T101500.tif"))
    elif what == "cloud":
        write_optical(s2, snow, where, cloud=far)
    elif what == "elsewhere":  # the radar lies 5 km to the east, in another zone's coordinates
        east = rasters.Grid(rasters.CRS.from_epsg(32633), grid(east=155000).transform, 96, 96)
        stack = rasters.read(rasters.open_header(s1), ["VV", "VH"])
        rasters.write(s1, stack, ("VV", "VH"), east, np.nan, units="dB", backscatter="sigma0")
        return "radar-border"
    elif what in ("radar-border", "zero-filled"):
        stack = rasters.read(rasters.open_header(s1), ["VV", "VH"])
        stack[:, far] = np.nan if what == "radar-border" else 0
        rasters.write(s1, stack, ("VV", "VH"), where, np.nan, units="dB", backscatter="sigma0")
        return "radar-border"
    elif what == "optical-border":
        raster = rasters.open_header(s2)
        stack = rasters.read(raster, raster.bands, raw=True).astype(np.uint16)
        stack[:, far] = 0
        rasters.write(s2, stack, raster.bands, where, 0, units="reflectance*10000")
    elif what == "valid-share":  # each passes on its own, together they do not
        raster = rasters.open_header(s2)
        stack = rasters.read(raster, raster.bands, raw=True).astype(np.uint16)
        stack[:, :, :40] = 0
        rasters.write(s2, stack, raster.bands, where, 0, units="reflectance*10000")
        stack = rasters.read(rasters.open_header(s1), ["VV", "VH"])
        stack[:, :, 60:] = np.nan
        rasters.write(s1, stack, ("VV", "VH"), where, np.nan, units="dB", backscatter="sigma0")
    return what


@pytest.mark.parametrize(
    "what",
    [
        "no-radar",
        "no-optical",
        "gap",
        "cloud",
        "radar-border",
        "zero-filled",
        "elsewhere",
        "optical-border",
        "valid-share",
    ],
)
def test_each_rule_names_what_it_removes(tmp_path, what):
    write_site(tmp_path / "scenes", "good", 2)
    rule = spoil(write_site(tmp_path / "scenes", "bad", 1), what)
    curate(tmp_path / "scenes", tmp_path / "out")
    rows = table(tmp_path / "out" / "rejected.csv")
    assert {r["rule"] for r in rows} == {rule} and {r["site"] for r in rows} == {"bad"}
    assert all(r["reason"] for r in rows)
    assert [r["site"] for r in table(tmp_path / "out" / "triplets.csv")] == ["good"]
    funnel = json.loads((tmp_path / "out" / "curation.json").read_text())
    assert funnel["kept"] == 1 and funnel["rejected"] == {rule: len(rows)}
    assert funnel["candidates"] == 1 + len(rows)
    kept = {path.name for path in (tmp_path / "out" / "sar").iterdir()}
    assert kept == {path.name for path in (tmp_path / "out" / "mask").iterdir()} and len(kept) == 1


def test_class_share_is_off_by_default_and_works_when_wanted(tmp_path):
    site = write_site(tmp_path / "scenes", "white", 1)
    for path in (site / "s2").iterdir():
        write_optical(path, np.ones((96, 96), bool), grid(east=610000))
    write_site(tmp_path / "scenes", "mixed", 2)
    curate(tmp_path / "scenes", tmp_path / "a")
    assert len(table(tmp_path / "a" / "triplets.csv")) == 2
    curate(tmp_path / "scenes", tmp_path / "b", "--min-class-share", 0.1)
    assert {r["rule"] for r in table(tmp_path / "b" / "rejected.csv")} == {"class-share"}


def test_one_radar_image_is_kept_once_and_repeats_are_found(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1)
    snow, where = blobs(96, 96, 100), grid(east=610000)
    write_optical(
        site / "s2" / "2021-01-11T031500.tif", snow, where
    )  # 21.75 h later: further than the 4.75 h of the first
    write_radar(
        site / "s1" / "2021-01-10T170000_015.tif", snow, where, seed=100
    )  # the morning's pixels again
    write_radar(site / "s1" / "2021-01-10T171000_015.tif", snow, where, seed=101)  # other speckle
    curate(tmp_path / "scenes", tmp_path / "out")
    kept = {r["s1_date"] for r in table(tmp_path / "out" / "triplets.csv")}
    assert kept == {"2021-01-10T053000", "2021-01-10T171000"}
    rules = sorted(rejected(tmp_path / "out").values())
    assert rules.count("superseded") == 2 and rules.count("near-duplicate") >= 1


def test_of_partners_as_near_in_time_the_one_with_more_valid_pixels_is_kept(tmp_path):
    site, where = write_site(tmp_path / "scenes", "a", 1), grid(east=610000)
    (first,) = (site / "s2").iterdir()
    snow, cloud = blobs(96, 96, 100), np.zeros((96, 96), bool)
    cloud[:, :20] = True
    first.unlink()
    write_optical(site / "s2" / "2021-01-10T003000.tif", snow, where, cloud=cloud)  # 5 h before the radar
    write_optical(site / "s2" / "2021-01-10T103000.tif", snow, where)  # 5 h after
    curate(tmp_path / "scenes", tmp_path / "out")
    (kept,), (left) = table(tmp_path / "out" / "triplets.csv"), table(tmp_path / "out" / "rejected.csv")
    assert kept["s2_date"] == "2021-01-10T103000" and float(kept["valid_fraction"]) == 1
    assert [r["rule"] for r in left] == ["superseded"] and kept["id"] in left[0]["reason"]
    assert "as near" in left[0]["reason"]


def test_misregistration_is_flagged_not_rejected(tmp_path):
    field = np.zeros((160, 160))
    random_ = np.random.default_rng(3)
    for _ in range(25):  # fields with sharp edges, seen by both sensors
        r, c, h, w = random_.integers(0, 130, 2).tolist() + random_.integers(15, 50, 2).tolist()
        field[r : r + h, c : c + w] = random_.random()
    noise = random_.gamma(20, 1 / 20, field.shape)
    shift, response = pairs.misregistration(10 * field + 10 * np.log10(noise), field)
    assert shift < 1.5
    shift, response = pairs.misregistration(10 * np.roll(field, (6, 4), (0, 1)) + 10 * np.log10(noise), field)
    assert shift == pytest.approx(np.hypot(6, 4), abs=1) and response > 0.1


def test_large_scenes_are_cut_into_tiles_that_cover_them():
    assert pairs.tiles_of(101, 105, 256) == [(0, 0, 101, 105)]
    boxes = pairs.tiles_of(600, 300, 256)
    assert {(r, h) for r, _, h, _ in boxes} == {(0, 256), (256, 256)}  # 88 rows are less than half a tile
    assert {(c, w) for _, c, _, w in boxes} == {(0, 256)}
    assert (256, 256, 144, 144) in pairs.tiles_of(400, 400, 256)


def test_references_are_summer_means_in_linear_power_of_one_track(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1)
    for number, date in enumerate(("2020-07-10", "2020-08-15", "2020-12-20")):
        level = np.full((96, 96), -10.0 - 6 * number, np.float32)
        rasters.write(
            site / "s1" / f"{date}_044.tif",
            np.stack([level, level - 7]),
            ("VV", "VH"),
            grid(east=610000),
            np.nan,
            units="dB",
            backscatter="sigma0",
        )
    curate(tmp_path / "scenes", tmp_path / "out")
    (row,) = table(tmp_path / "out" / "triplets.csv")
    reference = rasters.open_header(tmp_path / "out" / row["ref"])
    expected = 10 * np.log10((10**-1 + 10**-1.6) / 2)  # July and August, not December
    assert rasters.read(reference, ["VV_ref"]) == pytest.approx(expected, abs=1e-3)
    assert reference.tags["dates"] == "2020-07-10,2020-08-15"
    assert (tmp_path / "out" / "ref" / "a" / "044_summer_before-2021.tif").exists()


def test_parallel_equals_serial_and_a_second_run_does_nothing(world, tmp_path):
    curate(world, tmp_path / "a")
    run("curate", "--data", world, "--out", tmp_path / "b", "--workers", 2)
    for name in ("triplets.csv", "rejected.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for path in (tmp_path / "a" / "sar").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "sar" / path.name).read_bytes()
    before = os.stat(tmp_path / "a" / "triplets.csv").st_mtime_ns
    assert "already done" in curate(world, tmp_path / "a").stderr
    assert os.stat(tmp_path / "a" / "triplets.csv").st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_it_goes_on_without_loss(world, tmp_path, number):
    curate(world, tmp_path / "straight")
    dice = random.Random(int(number))
    for _ in range(6):
        process = subprocess.Popen(
            command("curate", "--data", world, "--out", tmp_path / "cut", "--workers", 0),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(dice.uniform(0.3, 1.6))
        process.send_signal(number)
        assert process.wait(60) in (0, 75, -number)
    curate(world, tmp_path / "cut")
    names = [p.relative_to(tmp_path / "straight") for p in (tmp_path / "straight").rglob("*.tif")]
    for name in [*names, "triplets.csv", "rejected.csv"]:
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert not list((tmp_path / "cut").rglob(".*.tmp"))
    assert len(list((tmp_path / "cut").rglob("*.tif"))) == len(names)


def test_card_names_sources_licences_and_checksums(world, tmp_path):
    curate(world, tmp_path / "out", "--card", "--limit", 3)
    card = (tmp_path / "out" / "DATASET_CARD.md").read_text()
    assert "Licences: none" in card and "Sources: test" in card and "site-0" in card
    shutil.copytree(world, tmp_path / "world")
    for path in (tmp_path / "world").rglob("site.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "licence": ""}))
    curate(tmp_path / "world", tmp_path / "bare", "--card", "--limit", 3)
    assert "Licences: not stated." in (tmp_path / "bare" / "DATASET_CARD.md").read_text()
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "out").returncode == 0


# ---- bad input ---------------------------------------------------------------------------------------------


def damage(site, what):
    """Spoil a site's radar or optical file in a way no rule of curation covers; returns what must be said."""
    s1, s2 = (next((site / sensor).glob("*.tif")) for sensor in ("s1", "s2"))
    raster = rasters.open_header(s1)
    stack = rasters.read(raster, ["VV", "VH"])
    tags = {"units": "dB", "backscatter": "sigma0"}
    where = raster.grid
    if what == "truncated":
        s1.write_bytes(s1.read_bytes()[: s1.stat().st_size // 2])
        return s1.name
    if what == "empty":
        s1.write_bytes(b"")
        return s1.name
    if what == "text":
        s2.write_text("not a raster")
        return s2.name
    if what == "no crs":
        where = rasters.Grid(None, where.transform, where.height, where.width)
        rasters.write(s1, stack, ("VV", "VH"), where, np.nan, **tags)
        return "coordinate system"
    changes = {
        "all no data": (stack * np.nan, tags, "no valid pixel"),
        "infinite": (np.where(stack == stack.max(), np.inf, stack), tags, "infinite"),
        "no units": (stack, {"backscatter": "sigma0"}, "--units"),
        "odd units": (stack, {**tags, "units": "decibel"}, "units='decibel'"),
        "no backscatter": (stack, {"units": "dB"}, "--backscatter"),
        "linear called dB": (10 ** (stack / 10), tags, "positive"),
        "dB called linear": (stack, {**tags, "units": "linear"}, "negative"),
        "linear twice": (10 ** (10 ** (stack / 10) / 10), {**tags, "units": "linear"}, "converted twice"),
        "bad orbit": (stack, {**tags, "relative_orbit": "../../x"}, "odd characters"),
    }
    values, tags, said = changes[what]
    rasters.write(s1, values.astype(np.float32), ("VV", "VH"), where, np.nan, **tags)
    return said


DAMAGES = [
    "truncated",
    "empty",
    "text",
    "no crs",
    "all no data",
    "infinite",
    "no units",
    "odd units",
    "no backscatter",
    "linear called dB",
    "dB called linear",
    "linear twice",
    "bad orbit",
]


@pytest.mark.parametrize("what", DAMAGES)
def test_bad_files_stop_with_a_sentence_or_are_left_out_by_name(tmp_path, what):
    write_site(tmp_path / "scenes", "good", 2)
    said = damage(write_site(tmp_path / "scenes", "bad", 1), what)
    refuse("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "a", "--workers", 0, saying=said)
    assert not (tmp_path / "a" / "triplets.csv").exists() and not (tmp_path / "a" / "result.json").exists()
    assert not list((tmp_path / "a").rglob(".*.tmp"))
    got = result(curate(tmp_path / "scenes", tmp_path / "b", "--skip-bad"))
    assert got["kept"] == 1 and got["rejected"] == {"unreadable": 1}
    (row,) = table(tmp_path / "b" / "rejected.csv")
    assert row["site"] == "bad" and said in row["reason"]


def test_mixed_kinds_of_backscatter_are_refused_by_site(tmp_path):
    for seed, kind in ((1, "gamma0"), (2, "sigma0"), (3, "sigma0")):
        site = write_site(tmp_path / "scenes", f"site-{seed}", seed)
        path, where = next((site / "s1").iterdir()), grid(east=600000 + 10000 * seed)
        write_radar(path, blobs(96, 96, 100 * seed), where, backscatter=kind)
    words = ("--data", tmp_path / "scenes", "--out", tmp_path / "out", "--workers", 0)
    refuse("curate", *words, "--skip-bad", saying="(gamma0 at site-1; sigma0 at site-2, site-3)")
    assert not (tmp_path / "out").exists()
    optical = next((tmp_path / "scenes" / "site-1" / "s2").iterdir())
    optical.rename(optical.with_name("2021-03-10T101500.tif"))  # no partner any more: no triplet of gamma0
    curate(tmp_path / "scenes", tmp_path / "out")


def test_units_may_be_stated(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1)
    damage(site, "no units")
    curate(tmp_path / "scenes", tmp_path / "out", "--units", "dB")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-cloud-share", 2), "0..1"),
        (("--tile", 3), "--tile"),
        (("--speckle-window", 4), "odd"),
        (("--snow-season", 0, 5), "months"),
        (("--limit", 0), "--limit"),
        (("--looks", 0), "--looks"),
    ],
)
def test_bad_arguments(world, tmp_path, words, said):
    refuse("curate", "--data", world, "--out", tmp_path / "out", *words, saying=said)
    assert not (tmp_path / "out").exists()


def test_bad_folders(world, tmp_path):
    refuse("curate", "--data", tmp_path / "nowhere", "--out", tmp_path / "out", saying="nowhere")
    for out in (world, world.parent):
        refuse("curate", "--data", world, "--out", out, saying="holds the scenes")
    (tmp_path / "empty").mkdir()
    refuse("curate", "--data", tmp_path / "empty", "--out", tmp_path / "out", saying="docs/own-data.md")
    one = world / "site-0"
    refuse("curate", "--data", one, "--out", tmp_path / "out", saying=f"of sites: pass {world.resolve()}")
    (tmp_path / "empty" / "we ird; name").mkdir()
    (tmp_path / "empty" / "we ird; name" / "site.json").write_text("{}")
    refuse("curate", "--data", tmp_path / "empty", "--out", tmp_path / "out", saying="rename the folder")
    site = write_site(tmp_path / "scenes", "a", 1)
    (site / "site.json").write_text("{")
    refuse(
        "curate",
        "--data",
        tmp_path / "scenes",
        "--out",
        tmp_path / "out2",
        "--workers",
        0,
        saying="site.json",
    )
    site = write_site(tmp_path / "more", "a", 1)
    (site / "s1" / "latest.tif").write_bytes(b"")
    refuse(
        "curate", "--data", tmp_path / "more", "--out", tmp_path / "out3", "--workers", 0, saying="rename it"
    )


def test_scenes_that_would_be_overlooked_are_refused_by_name(tmp_path):
    write_site(tmp_path / "scenes", "good", 2)
    bare, tiff = (write_site(tmp_path / "scenes", name, seed) for seed, name in ((1, "bare"), (3, "tiff")))
    (bare / "site.json").unlink()
    words = ("--data", tmp_path / "scenes", "--out", tmp_path / "out", "--workers", 0)
    refuse("curate", *words, saying=f"{bare}: holds scenes but no site.json")
    path = next((tiff / "s1").iterdir())
    path = path.rename(path.with_suffix(".tiff"))
    assert "(and 1 more such)" in refuse("curate", *words, saying="leave such out with --skip-bad")
    said = curate(tmp_path / "scenes", tmp_path / "out", "--skip-bad").stderr
    assert f"left out: {bare}: " in said and f"left out: {path}: ends in .tiff" in said
    assert {r["site"] for r in table(tmp_path / "out" / "triplets.csv")} == {"good"}


def test_other_arguments_are_refused_unless_told_to_overwrite(world, tmp_path):
    curate(world, tmp_path / "out", "--limit", 2)
    refuse("curate", "--data", world, "--out", tmp_path / "out", "--limit", 3, saying="limit was 2, is 3")
    assert result(curate(world, tmp_path / "out", "--limit", 3, "--overwrite"))["kept"] == 3


def test_overwriting_keeps_nothing_of_the_old_run(tmp_path):
    """Other speckle, another reference: neither tiles nor references of before may be left."""
    site = write_site(tmp_path / "scenes", "a", 1)
    summer = site / "s1" / "2020-07-10_044.tif"
    write_radar(summer, np.zeros((96, 96), bool), grid(east=610000), 5)
    curate(tmp_path / "scenes", tmp_path / "out", "--tile", 48)
    assert len(table(tmp_path / "out" / "triplets.csv")) == 4
    write_radar(summer, np.ones((96, 96), bool), grid(east=610000), 5)
    curate(tmp_path / "scenes", tmp_path / "out", "--overwrite", "--speckle", "lee")
    (row,) = table(tmp_path / "out" / "triplets.csv")
    assert [p.name for p in (tmp_path / "out" / "sar").iterdir()] == [row["sar"][4:]]
    reference = rasters.read(rasters.open_header(tmp_path / "out" / row["ref"]), ["VV_ref"])
    assert -14.5 < np.nanmean(reference) < -13
    assert rasters.open_header(tmp_path / "out" / row["sar"]).tags["speckle"] == "lee"


def test_a_cloud_beyond_the_seam_casts_its_shadow_into_the_tile(tmp_path):
    site, where = write_site(tmp_path / "scenes", "a", 1), grid(east=610000)
    soil = np.tile(np.array([900, 1100, 1300, 2200, 2600, 0], np.uint16)[:, None, None], (1, 96, 96))
    soil[:5, :, 48:56] = np.array([6000, 6000, 6000, 6000, 5000], np.uint16)[
        :, None, None
    ]  # bright, right of the seam
    soil[5, :, 48:56] = 1024
    soil[:5, :, 40:46] = np.array([300, 300, 300, 500, 400], np.uint16)[:, None, None]  # dark, left of it
    bands = ("B02", "B03", "B04", "B08", "B11", "QA60")
    rasters.write(next((site / "s2").iterdir()), soil, bands, where, 0, units="reflectance*10000")
    curate(tmp_path / "scenes", tmp_path / "out", "--tile", 48)
    left = next(r for r in table(tmp_path / "out" / "triplets.csv") if r["row"] == "0" and r["col"] == "0")
    mask = rasters.read(rasters.open_header(tmp_path / "out" / left["mask"]), ["snow"], raw=True)[0]
    assert (mask[:, 40:46] == 255).all() and (mask[:, :40] == 0).all()


def test_same_site_on_two_grids_is_not_a_repeat(tmp_path):
    """A second optical scene of other ground, same radar date: both tiles are kept."""
    site = write_site(tmp_path / "scenes", "a", 1, height=192, width=96)
    s1, s2 = (next((site / sensor).iterdir()) for sensor in ("s1", "s2"))
    raster = rasters.open_header(s2)
    stack = rasters.read(raster, raster.bands, raw=True).astype(np.uint16)
    tags = {"units": "reflectance*10000"}
    for name, row in ((s2.name, 0), ("2021-01-10T111500.tif", 96)):
        part = raster.grid.window(row, 0, 96, 96)
        rasters.write(site / "s2" / name, stack[:, row : row + 96], raster.bands, part, 0, **tags)
    curate(tmp_path / "scenes", tmp_path / "out")
    assert len(table(tmp_path / "out" / "triplets.csv")) == 2 and s1.exists()


def test_a_time_that_does_not_exist_is_refused(tmp_path):
    site = write_site(tmp_path / "scenes", "a", 1)
    path = next((site / "s1").iterdir())
    path.rename(path.with_name("2021-01-10T246000_044.tif"))
    refuse(
        "curate", "--data", tmp_path / "scenes", "--out", tmp_path / "out", "--workers", 0, saying="rename it"
    )


# ---- real scenes -------------------------------------------------------------------------------------------


def test_real_scenes_end_where_they_should(real_scenes, tmp_path):
    curate(real_scenes, tmp_path / "ndsi", "--index", "ndsi")
    got = rejected(tmp_path / "ndsi")
    assert {rule for (site, _, _), rule in got.items() if site == "bow-north"} == {"no-radar"}
    for site, s1, s2 in (
        ("alps-drome", "2022-10-10", "2022-10-09"),
        ("bow-banff", "2025-04-25", "2025-04-24"),
        ("bow-banff", "2025-04-30", "2025-04-30"),
        ("bow-glacier", "2025-04-06", "2025-04-07"),
        ("bow-radium", "2025-05-07", "2025-05-07"),
        ("bow-sundre", "2025-05-14", "2025-05-14"),
    ):
        assert got[site, f"{s1}.tif", f"{s2}.tif"] == "cloud"
    fraction = {
        (r["site"], r["s2_date"]): float(r["snow_fraction"])
        for r in table(tmp_path / "ndsi" / "triplets.csv")
    }
    assert fraction["bow-banff", "2025-04-25"] == pytest.approx(0.49, abs=0.02)
    curate(real_scenes, tmp_path / "combined")
    fraction = {
        (r["site"], r["s2_date"]): float(r["snow_fraction"])
        for r in table(tmp_path / "combined" / "triplets.csv")
    }
    assert fraction["bow-banff", "2025-04-25"] >= 0.90
    assert fraction["alps-drome", "2022-10-11"] < 0.01
    curate(real_scenes, tmp_path / "ndfsi", "--index", "ndfsi")
    fraction = {
        (r["site"], r["s2_date"]): float(r["snow_fraction"])
        for r in table(tmp_path / "ndfsi" / "triplets.csv")
    }
    assert fraction["alps-drome", "2022-10-11"] == pytest.approx(0.09, abs=0.02)
    grids = {
        rasters.open_header(path).grid.crs.is_geographic for path in (tmp_path / "ndsi" / "sar").iterdir()
    }
    assert grids == {False}  # the Alps came in degrees


def test_a_real_half_empty_swath_is_rejected(real_scenes, tmp_path):
    shutil.copytree(real_scenes / "bow-banff", tmp_path / "scenes" / "bow-banff")
    path = tmp_path / "scenes" / "bow-banff" / "s1" / "2025-04-25.tif"
    path.chmod(0o644)
    raster = rasters.open_header(path)
    stack = rasters.read(raster, raster.bands)
    stack[:, :, stack.shape[2] * 2 // 5 :] = np.nan
    path.unlink()
    rasters.write(
        path,
        stack,
        raster.bands,
        raster.grid,
        np.nan,
        **{k: raster.tags[k] for k in ("units", "backscatter")},
    )
    done = run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "out", "--workers", 0, code=2)
    assert "no candidate passed" in done.stderr
    assert rejected(tmp_path / "out")["bow-banff", "2025-04-25.tif", "2025-04-25.tif"] == "radar-border"
