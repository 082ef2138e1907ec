"""Downloads that go on: after changes, kills and losses, with what is there already kept."""

import csv
import fcntl
import json
import shutil
import signal
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import stac_archive
import stac_services
from conftest import refuse, result, run
from rasterio.crs import CRS
from rasterio.transform import from_origin
from test_download import kill_while_reading, order, scenes_of

from data_prep import download, journals, passes, rasters, remote, scene_files, sites

ROW = stac_archive.ALPS_ROW
FIRST = ROW.replace("12-31", "01-15")  # one pass of each kind; the whole year has two
DAY_22 = {"scenes/alps/s1/2021-01-22T053000_044.tif", "scenes/alps/s2/2021-01-22T101500.tif"}


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    archive = stac_archive.Archive(folder)
    stac_archive.add_alps(archive)
    archive.real = False
    with stac_services.running(folder, archive.items) as started:
        started.archive = archive
        yield started


@pytest.fixture(autouse=True)
def no_faults(services):
    services.faults.set()


@pytest.fixture(scope="module")
def finished(services, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run("download", *order(folder, services, ROW))
    return folder


@pytest.fixture
def again(services, finished, tmp_path):
    """(words, out) of a copy of a finished download, the sites.csv and catalogue of which are its own."""
    words = order(tmp_path, services, ROW)
    shutil.copytree(finished / "out", tmp_path / "out")
    for name in ("args.json", "result.json"):
        text = (tmp_path / "out" / name).read_text()
        (tmp_path / "out" / name).write_text(text.replace(str(finished), str(tmp_path)))
    return words, tmp_path / "out"


def asked_files(services) -> set[str]:
    return {path for place, path, *_ in services.faults.seen if place == "files"}


# ---- what is there is kept ---------------------------------------------------------------------------------


def test_overwrite_with_other_filters_fetches_nothing_twice_and_deletes_nobody_elses(services, again):
    words, out = again
    own = [out / "scenes" / "mine" / "s1" / "2020-01-01.tif", out / "scenes" / "alps" / "notes.txt"]
    own[0].parent.mkdir(parents=True)
    for path in own:
        path.write_bytes(b"field data")
    before = scenes_of(out)
    refuse("download", *words, "--max-cloud-percent", 70, saying="max_cloud_percent")
    done = run("download", *words, "--max-cloud-percent", 70, "--overwrite")
    assert "6 are there already, 0 to fetch, 0 planned no more; at most 0 bytes on disk" in done.stderr
    assert not asked_files(services) and scenes_of(out) == before
    assert all(path.read_bytes() == b"field data" for path in own) and result(done)["files"] == 6
    done = run("download", *words, "--max-cloud-percent", 1, "--overwrite")  # the items tell 4 %
    assert result(done)["files"] == 4 and not list((out / "scenes" / "alps" / "s2").iterdir())
    assert all(path.exists() for path in own) and not asked_files(services)


def test_interrupted_overwrite_goes_on(services, tmp_path):
    words = (*order(tmp_path, services, ROW), "--workers", 1, "--overwrite")
    services.faults.set(slow_s=0.1)
    assert kill_while_reading(services, words, signal.SIGTERM, 2) == 75
    kept = set(journals.recorded(tmp_path / "out"))
    assert 0 < len(kept) < 6
    services.faults.set()
    done = run("download", *words)
    assert f"{len(kept)} are there already, {6 - len(kept)} to fetch" in done.stderr
    expected = {path for path in asked_files(services) if "/land/" in path}
    assert ("scenes/alps/dem.tif" in kept) == (not any("dem" in path for path in expected))


def test_sites_that_grow_and_shrink(services, tmp_path):
    words = order(tmp_path, services, FIRST)
    table, out = tmp_path / "sites.csv", tmp_path / "out"
    run("download", *words)
    first = scenes_of(out)
    table.write_text(stac_archive.SITES + ROW + ROW.replace("alps", "alps2").replace("46.9,", "46.901,"))
    services.faults.set()
    done = run("download", *words)
    assert "4 are there already, 8 to fetch, 0 planned no more" in done.stderr and len(first) == 4
    both = scenes_of(out)
    assert first.items() <= both.items() and len(both) == 12 and result(done)["sites"] == 2
    table.write_text(stac_archive.SITES + FIRST)
    line = refuse("download", *words, saying="8 files of")
    assert "--overwrite" in line and scenes_of(out) == both
    services.faults.set()
    done = run("download", *words, "--overwrite")
    assert "4 are there already, 0 to fetch, 8 planned no more" in done.stderr
    assert scenes_of(out) == first and not asked_files(services)
    assert not (out / "scenes" / "alps2").exists()
    assert set(journals.recorded(out)) == set(first)


def test_a_geometry_that_moved_is_another_site(services, tmp_path):
    words = order(tmp_path, services, ROW)

    def place(west: float):
        ring = [[west, 46.899], [west + 0.004, 46.899], [west + 0.004, 46.901], [west, 46.899]]
        (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))

    (tmp_path / "sites.csv").write_text("site,geometry,start,end\nalps,a.geojson,2021-01-01,2021-01-15\n")
    place(10.348)
    run("download", *words)
    before = scenes_of(tmp_path / "out")
    assert "already done" in run("download", *words).stderr
    place(10.351)
    done = run("download", *words)
    assert "0 are there already, 4 to fetch" in done.stderr
    after = scenes_of(tmp_path / "out")
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in before)


def test_a_pass_that_gets_another_name_is_not_there_twice(services, tmp_path):
    """An earlier frame turns up in the catalogue: the overflight's file begins, and is named, earlier."""
    features = services.archive.features
    late = [one for one in features if one["id"] != "S1A_IW_10_N_rtc"]

    def items(base):
        return [one for one in services.archive.items(base) if one["id"] in {kept["id"] for kept in late}]

    with stac_services.running(services.archive.folder, items) as before:
        before.archive = services.archive
        words = order(tmp_path, before, FIRST)
        run("download", *words)
    scenes = tmp_path / "out" / "scenes" / "alps" / "s1"
    assert [path.name for path in scenes.iterdir()] == ["2021-01-10T053025_044.tif"]
    done = run("download", *order(tmp_path, services, FIRST), "--overwrite")
    assert [path.name for path in scenes.iterdir()] == ["2021-01-10T053000_044.tif"]
    assert "2021-01-10T053025_044.tif: planned no more, deleted" in done.stderr
    run("curate", "--data", tmp_path / "out" / "scenes", "--out", tmp_path / "curated", "--workers", 0)
    with open(tmp_path / "curated" / "triplets.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 1


@pytest.mark.parametrize(
    "name", ["scenes/../../x.tif", "/etc/x.tif", "scenes/a/s1/../../x.tif", "scenes/a/x.tif"]
)
def test_records_name_scenes_alone(tmp_path, name):
    lines = [
        json.dumps({"file": name, "planned": ""}),
        '{"file": "scenes/a/dem',
        '{"file": "scenes/a/dem.tif"}',
    ]
    (tmp_path / "downloads.jsonl").write_text("\n".join(lines))
    assert list(journals.recorded(tmp_path)) == ["scenes/a/dem.tif"]


def test_two_runs_at_once(services, tmp_path):
    words = order(tmp_path, services, ROW)
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        refuse("download", *words, saying="another download writes into it")
    assert scenes_of(tmp_path / "out") == {} and not asked_files(services)


# ---- what is gone ------------------------------------------------------------------------------------------


def test_a_file_that_is_gone(services, again):
    words, out = again
    services.faults.set(always=404, on="s1/22S")
    (out / min(DAY_22)).unlink()
    (out / "result.json").unlink()
    failed = run("download", *words, code=1)
    assert "answered 404, it is gone" in failed.stderr and "1 of 6 files failed" in failed.stderr
    assert "--skip-bad" in failed.stderr and not (out / "result.json").exists()
    done = run("download", *words, "--skip-bad")
    assert result(done)["incomplete"] == [min(DAY_22)] and result(done)["skipped"] == []
    half = rasters.open_radar(out / min(DAY_22))
    assert half.tags["missing_items"] == "S1A_IW_22_S_rtc"
    assert 0.5 < np.isfinite(rasters.read(half, ("VV",))).mean() < 0.9


def test_a_pass_that_is_gone_is_left_out_by_name(services, again):
    words, out = again
    services.faults.set(always=410, on="s1/22")
    (out / min(DAY_22)).write_bytes(b"cut")  # no longer what the record says
    (out / "result.json").unlink()
    done = run("download", *words, "--skip-bad")
    assert result(done)["skipped"] == [min(DAY_22)] and result(done)["files"] == 5
    assert "1 of 6 files left out: scenes/alps/s1/2021-01-22T053000_044.tif" in done.stderr
    assert not (out / min(DAY_22)).exists()
    services.faults.set()
    assert "already done" in run("download", *words).stderr
    assert result(run("download", *words, "--overwrite"))["files"] == 6


def test_a_failure_in_passing_is_not_left_out(services, again):
    words, out = again
    services.faults.set(always=500, on="s1/22S")
    (out / min(DAY_22)).unlink()
    run("download", *words, "--overwrite", "--skip-bad", "--retries", 1, code=1)
    assert not (out / "result.json").exists()


def radar_plan(services, tmp_path) -> passes.Plan:
    section = {
        "collection": "c", "assets": {"VV": "vv", "VH": "vh"}, "units": "linear", "signing": "none",
        "backscatter": "gamma0_rtc", "nodata": -32768,
    }  # fmt: skip
    items = [i for i in services.archive.items(f"{services.url}/files") if i["id"].startswith("S1A_IW_10")]
    wanted = Namespace(orbit_state=None, relative_orbit=None)
    (plan,) = passes.radar_plans("alps", items, section, [], wanted)
    return plan


def test_other_frames_stand_in_where_they_cover_the_window(services, tmp_path):
    plan, inside = radar_plan(services, tmp_path), stac_archive.ALPS.window(72, 20, 16, 60)  # of both frames
    services.faults.set(always=404, on="s1/10N")
    record = scene_files.bring(plan, inside, tmp_path, remote.Connection())
    assert "missing_items" not in record and {one["item"] for one in record["sources"]} == {"S1A_IW_10_S_rtc"}
    with rasterio.open(services.archive.folder / "s1/10S/vv.tif") as source:
        expected = source.read(1)[2:18, 20:80]
    made = rasters.open_radar(tmp_path / plan.path)
    assert np.array_equal(rasters.read(made, ("VV",))[0], expected) and "missing_items" not in made.tags


def test_a_service_that_is_gone_is_given_up(tmp_path, capsys):
    closed, grid = f"http://127.0.0.1:{stac_services.free_port()}", sites.square_grid(46.9, 10.35, 100)
    section = {"signing": "none", "units": "linear", "collection": "c"}
    plans = [
        passes.Plan(
            "a", f"scenes/a/s2/{n:04d}.tif", "s2", section, {"B04": [passes.Source("i", "k", closed)]}
        )
        for n in range(200)
    ]
    connection, stop = remote.Connection(0, 0), Namespace(requested="")
    args = Namespace(out=tmp_path, skip_bad=True)
    _, failed, skipped = download.fetch(
        plans, {}, {"a": grid}, 4, connection, stop, args, tmp_path / "downloads.jsonl"
    )
    assert len(failed) == download.GIVE_UP and not skipped
    assert "gave up, 180 not tried" in capsys.readouterr().err
    assert download.named(failed).count("tif") == 5 and download.named(failed).endswith(", ...")


# ---- what a pixel is made of -------------------------------------------------------------------------------


def served_tiles(folder: Path, url: str, tiles: dict) -> list[dict]:
    """Items of 20 x 20 tiles of B02 and SCL; tiles: name -> (numbers, when it was generated, baseline)."""
    items, where = [], from_origin(600000, 5200000, 10, 10)
    for name, (planes, generated, baseline) in tiles.items():
        for band, values in planes.items():
            dtype = np.uint8 if band == "SCL" else np.uint16
            stac_archive.cog(
                folder / name / f"{band}.tif", values.astype(dtype), CRS.from_epsg(32632), where, 0
            )
        assets = {band: {"href": f"{url}/{name}/{band}.tif"} for band in planes}
        about = {
            "datetime": "2021-01-10T10:15:00Z", "platform": "s2a", "s2:mgrs_tile": "32TPT",
            "s2:generation_time": generated, "s2:processing_baseline": baseline,
        }  # fmt: skip
        items.append({"id": name, "properties": about, "assets": assets})
    return items


def mosaic(tmp_path, tiles: dict):
    """The file that is made of such tiles."""
    section = {
        "collection": "c", "assets": {"B02": "B02", "SCL": "SCL"}, "offset": "item", "nodata": 0,
        "signing": "none",
    }  # fmt: skip
    grid = rasters.Grid(CRS.from_epsg(32632), from_origin(600000, 5200000, 10, 10), 20, 20)
    for name in ("files", "nginx"):
        (tmp_path / name).mkdir()
    with stac_services.files_served(tmp_path / "nginx", tmp_path / "files") as port:
        items = served_tiles(tmp_path / "files", f"http://127.0.0.1:{port}", tiles)
        (plan,) = passes.optical_plans("s", items, section, "", 60)
        scene_files.bring(plan, grid, tmp_path, remote.Connection())
    raster = rasters.open_header(tmp_path / plan.path)
    return dict(zip(raster.bands, rasters.read(raster, raster.bands), strict=True)), raster.tags


def planes(b02: int, scl: int) -> dict:
    return {"B02": np.full((20, 20), b02), "SCL": np.full((20, 20), scl)}


def test_bands_of_a_pixel_are_of_one_source(tmp_path):
    new, old = planes(3500, 5), planes(2000, 11)
    new["B02"][0, 0] = new["SCL"][0, 1] = 0  # no data in one band alone
    old["B02"][0, 2] = new["SCL"][0, 2] = 0  # and where no source has both: the first with any
    tiles = {"new": (new, "2022", "05.00"), "old": (old, "2021", "02.14")}
    found, tags = mosaic(tmp_path, tiles)
    assert found["B02"][0, :4].tolist() == [2000, 2000, 2500, 2500]
    assert found["SCL"][0, [0, 1, 3]].tolist() == [11, 11, 5] and found["SCL"][0, 2] == 0
    assert tags["processing_baseline"] == "02.14 05.00" and tags["source_offset"] == "-1000 0"


def test_halves_of_a_tile_make_it_whole(tmp_path):
    upper, lower, older = planes(3500, 5), planes(4500, 11), planes(1, 3)
    for plane in upper.values():
        plane[10:] = 0
    for plane in lower.values():
        plane[:10] = 0
    tiles = {
        "upper": (upper, "2022-01-01", "05.00"), "lower": (lower, "2022-01-02", "05.00"),
        "older": (older, "2021", "02.14"),
    }  # fmt: skip
    found, tags = mosaic(tmp_path, tiles)
    assert np.all(found["B02"][:10] == 2500) and np.all(found["B02"][10:] == 3500)
    assert np.all(found["SCL"][:10] == 5) and np.all(found["SCL"][10:] == 11)
    assert tags["processing_baseline"] == "05.00"  # the older version is not asked: nothing was open


# ---- units, orbits, land -----------------------------------------------------------------------------------


def test_units_of_a_sliver_are_not_judged():
    plan = passes.Plan("s", "p", "s1", {"units": "linear", "collection": "c"}, {"VV": [], "VH": []})
    grid = sites.square_grid(46.9, 10.35, 1000)
    stack = np.full((2, 200, 200), np.nan, np.float32)
    stack[:, 0, :3] = 1.3
    reading = scene_files.Reading({}, {})
    scene_files.look_at(plan, stack, reading)
    scene_files.need_units(plan, grid, reading)
    assert reading.found
    stack[:, :10] = 1.3
    scene_files.look_at(plan, stack, reading)
    with pytest.raises(scene_files.BadUnits, match="digital numbers"):
        scene_files.need_units(plan, grid, reading)
    small = scene_files.Reading({}, {}, samples=[np.full(800, 1.3)])
    with pytest.raises(scene_files.BadUnits):
        scene_files.need_units(plan, sites.square_grid(46.9, 10.35, 100), small)


def strange_archive(folder: Path) -> stac_archive.Archive:
    """Day 22 in digital numbers, orbit states in the files' tags alone, and no elevation at the place."""
    archive = stac_archive.Archive(folder)
    stac_archive.add_alps(archive)
    for path in folder.glob("s1/*/*.tif"):
        with rasterio.open(path) as source:
            values, crs, where = source.read(1), source.crs, source.transform
        stac_archive.cog(path, values * (1e6 if "/22" in str(path) else 1), crs, where, -32768)
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as target:
            target.update_tags(DIRECTION="Ascending" if "/10" in str(path) else "Descending")
    for feature in archive.features:
        feature["properties"].pop("sat:orbit_state", None)
        if feature["collection"] == "cop-dem-glo-30":
            feature["bbox"] = [0, 0, 1, 1]
            feature["geometry"]["coordinates"] = [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]
    archive.real = False
    return archive


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange")
    archive = strange_archive(folder)
    with stac_services.running(folder, archive.items) as started:
        started.archive = archive
        yield started


def test_one_file_of_other_units_is_a_bad_file(strange, tmp_path):
    words = order(tmp_path, strange, FIRST)
    done = run("download", *words)  # and no elevation there: noted, for there is land cover
    assert "no elevation at 46.9, 10.35 in cop-dem-glo-30" in done.stderr and result(done)["files"] == 3
    (tmp_path / "sites.csv").write_text(stac_archive.SITES + ROW)
    failed = run("download", *words, code=1)
    assert "digital numbers" in failed.stderr and f"1 of 5 files failed: {min(DAY_22)}" in failed.stderr
    done = run("download", *words, "--skip-bad")
    assert result(done)["skipped"] == [min(DAY_22)] and result(done)["files"] == 4


def test_orbit_state_is_asked_of_the_file(strange, tmp_path):
    told = {"s1_file_tags": '{ orbit_state = "DIRECTION" }'}
    words = order(tmp_path, strange, FIRST, **told)
    assert len(result(run("download", *words, "--orbit-state", "ascending"))["empty"]) == 0
    tags = rasters.open_radar(next((tmp_path / "out").rglob("s1/*.tif"))).tags
    assert tags["orbit_state"] == "ascending"
    done = run("download", *words, "--orbit-state", "descending", "--overwrite")
    assert len(result(done)["empty"]) == 1 and not list((tmp_path / "out").rglob("s1/*.tif"))
    (tmp_path / "catalog.toml").write_text(stac_archive.catalog(strange.url))
    failed = run("download", *words, "--orbit-state", "descending", "--overwrite", code=1)
    assert "leave --orbit-state out" in failed.stderr


# ---- the service's side ------------------------------------------------------------------------------------


def test_a_signal_ends_the_wait_for_a_search(services, tmp_path):
    words = order(tmp_path, services, ROW)
    services.faults.set(share=1, kinds=("429",), retry_after="60")
    began = time.time()
    assert kill_while_reading(services, words, signal.SIGTERM, 0.5, "stac") == 75
    assert time.time() - began < 20


def test_collections_are_not_listed(services, tmp_path):
    run("download", *order(tmp_path, services, ROW), "--dry-run")
    asked = [path.rstrip("/") for place, path, *_ in services.faults.seen if place == "stac"]
    assert "/collections" not in asked and "/collections/sentinel-1-rtc" in asked
    assert len([path for path in asked if path == "/search"]) == 4


def test_sizes_in_words():
    words = [download.in_words(count) for count in (0, 999, 36864, 4.2e6, 7e9)]
    assert words == ["0 bytes", "999 bytes", "36.9 kB", "4.2 MB", "7.0 GB"]


def test_a_line_that_a_kill_cut_takes_no_other_along(tmp_path):
    stop = Namespace(requested="")
    record = {"file": "scenes/a/s1/2021-01-10_044.tif", "sha256": "0"}
    (tmp_path / "downloads-0-of-2.jsonl").write_text('{"file": "scenes/a/s1/2021-01')
    with journals.own_journal(tmp_path, (0, 2), stop) as path:
        journals.note(path, [record])
    with journals.own_journal(tmp_path, (0, 2), stop) as path:
        journals.note(path, [record])
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines[1:]] == [record, record] and len(lines) == 3
