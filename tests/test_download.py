"""Scenes from real services on loopback: rustac's STAC API, nginx with byte ranges, and faults between."""

import csv
import datetime
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import stac_archive
import stac_services
from conftest import command, refuse, result, run
from rasterio.crs import CRS
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.windows import Window
from test_remote import CONTENT, opened, web

from data_prep import (
    catalogs,
    download,
    passes,
    rasters,
    remote,
    remote_file,
    remote_pixels,
    scene_files,
    sites,
)
from data_prep.runs import BadInput

QUICK = ("--workers", 4, "--backoff-s", 0.01)
KEY = {"PC_SDK_SUBSCRIPTION_KEY": "the-secret-key"}


@pytest.fixture(scope="session")
def services(tmp_path_factory):
    """The archive behind all services, started once."""
    folder = tmp_path_factory.mktemp("archive")
    archive = stac_archive.Archive(folder)
    stac_archive.add_alps(archive)
    archive.real = stac_archive.add_banff(archive)
    with stac_services.running(folder, archive.items) as started:
        started.archive = archive
        yield started


@pytest.fixture(autouse=True)
def no_faults(request):
    if "services" in request.fixturenames:
        request.getfixturevalue("services").faults.set()


def order(folder: Path, services, rows: str = "", **catalog) -> tuple:
    """Arguments of a download of the archive's places (or of `rows`) into folder/out."""
    folder.mkdir(exist_ok=True)
    rows = rows or stac_archive.ALPS_ROW + (stac_archive.BANFF_ROW if services.archive.real else "")
    (folder / "sites.csv").write_text(stac_archive.SITES + rows)
    (folder / "catalog.toml").write_text(stac_archive.catalog(services.url, **catalog))
    where = ("--data", folder / "sites.csv", "--catalog", folder / "catalog.toml")
    return (*where, "--out", folder / "out", *QUICK)


def scenes_of(out: Path) -> dict[str, str]:
    """sha256 of every raster of a download, by name: pixels, tags and all."""
    found = sorted((out / "scenes").rglob("*.tif"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def triplets_of(out: Path, place: Path) -> dict[str, bytes]:
    """What curate makes of a download: the table and every raster, by name."""
    run("curate", "--data", out / "scenes", "--out", place / "triplets", "--workers", 0)
    found = [path for path in (place / "triplets").rglob("*") if path.suffix in (".tif", ".csv")]
    assert len(found) > 5
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def straight(services, tmp_path_factory) -> Path:
    """An undisturbed download; the addresses are signed, as all of this file's that are compared with it."""
    services.faults.set(signed=True)
    folder = tmp_path_factory.mktemp("straight")
    done = run("download", *order(folder, services, signing="planetary-computer"))
    assert result(done)["files"] == len(scenes_of(folder / "out")) > 5
    assert "MB/s" in done.stderr and "to go" in done.stderr
    return folder / "out"


# ---- rules without a service -------------------------------------------------------------------------------


def item(name: str, when: str, **properties) -> dict:
    assets = {key: {"href": f"https://host/{name}/{key}.tif?old=1"} for key in ("vv", "vh", "B04")}
    return {"id": name, "properties": {"datetime": when, **properties}, "assets": assets}


RADAR = {
    "collection": "c", "assets": {"VV": "vv", "VH": "vh"}, "units": "linear", "backscatter": "gamma0_rtc",
}  # fmt: skip
OPTICAL = {"collection": "c", "assets": {"B04": "B04"}, "offset": "item"}
ANY = Namespace(orbit_state=None, relative_orbit=None)


def test_frames_of_a_pass_are_one_file():
    track = {"platform": "SENTINEL-1A", "sat:relative_orbit": 7, "sat:orbit_state": "ascending"}
    other = {**track, "sat:relative_orbit": 80, "sat:orbit_state": "descending"}
    frames = [
        item("b", "2021-01-10T05:30:25Z", **track), item("a", "2021-01-10T05:30:00.5Z", **track),
        item("later", "2021-01-22T05:30:00Z", **track), item("evening", "2021-01-10T17:00:00Z", **other),
        item("other", "2021-01-10T05:31:00Z", **{**track, "platform": "sentinel-1b"}),
    ]  # fmt: skip
    plans = passes.radar_plans("s", frames, RADAR, [], ANY)
    names = [Path(plan.path).stem for plan in plans]
    assert names == [
        "2021-01-10T053000_007",
        "2021-01-10T053100_007",
        "2021-01-10T170000_080",
        "2021-01-22T053000_007",
    ]
    assert [source.item for source in plans[0].bands["VV"]] == ["a", "b"]
    assert plans[0].tags["relative_orbit"] == "007" and plans[0].tags["orbit_state"] == "ascending"
    wanted = Namespace(orbit_state="descending", relative_orbit=None)
    assert [plan.path[-8:] for plan in passes.radar_plans("s", frames, RADAR, [], wanted)] == ["_080.tif"]
    wanted = Namespace(orbit_state=None, relative_orbit=[7])
    assert len(passes.radar_plans("s", frames, RADAR, [], wanted)) == 3


def test_single_polarisation_is_left_out():
    frame = item("a", "2021-01-10T05:30:00Z")
    del frame["assets"]["vh"]
    assert passes.radar_plans("s", [frame], RADAR, [], ANY) == []


def test_static_angles_join_by_track():
    section = catalogs.read_catalog("opera")["s1"]

    def burst(kind, track, ends):
        name = f"OPERA_L2_RTC-S1{kind}_T{track}-217155-IW1_20240703T162341Z_30_v1.0"
        links = {f"{i}_{end}": {"href": f"https://host/{name}_{end}.tif"} for i, end in enumerate(ends)}
        return {"id": name, "properties": {"datetime": "2024-07-03T16:23:41Z"}, "assets": links}

    still = [
        burst("-STATIC", t, ("incidence_angle", "local_incidence_angle", "mask")) for t in ("102", "029")
    ]
    (plan,) = passes.radar_plans("s", [burst("", "102", ("VV", "VH", "mask"))], section, still, ANY)
    assert list(plan.bands) == ["VV", "VH", "incidence_angle", "local_incidence_angle"]
    assert plan.tags["relative_orbit"] == "102"
    for band, sources in plan.bands.items():
        assert [s.url.endswith(f"v1.0_{band}.tif") and "_T102" in s.url for s in sources] == [True], band


@pytest.mark.parametrize(
    "about, asset, expected",
    [
        ({"s2:processing_baseline": "04.00"}, {}, -1000),
        ({"s2:processing_baseline": "05.11"}, {}, -1000),
        ({"s2:processing_baseline": "03.01"}, {}, 0),
        ({"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": True}, {}, 0),
        ({"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": False}, {}, -1000),
        ({"earthsearch:boa_offset_applied": True}, {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, 0),
        ({}, {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, -1000),
        ({}, {"raster:scale": 0.0001, "raster:offset": -0.1}, -1000),
        ({"s2:processing_baseline": "05.00"}, {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, 0),
    ],
)
def test_offset_of_an_item(about, asset, expected):
    one = item("a", "2023-01-01T00:00:00Z", **about)
    one["assets"]["B04"].update(asset)
    assert passes.optical_offset(one, "B04", OPTICAL) == expected


def test_unknown_offset_is_refused_and_can_be_stated():
    with pytest.raises(BadInput, match="offset = -1000"):
        passes.optical_offset(item("a", "2023-01-01T00:00:00Z"), "B04", OPTICAL)
    assert (
        passes.optical_offset(item("a", "2023-01-01T00:00:00Z"), "B04", {**OPTICAL, "offset": -1000}) == -1000
    )


def test_newest_version_of_a_tile_comes_first_and_clouds():
    tile = {"platform": "s2a", "s2:mgrs_tile": "32TPT", "eo:cloud_cover": 50}
    old = item("old", "2021-01-10T10:15:00Z", **tile, **{"s2:processing_baseline": "02.14"})
    new = item("new", "2021-01-10T10:15:00Z", **tile, **{"s2:processing_baseline": "05.00"})
    beside = item("beside", "2021-01-10T10:15:14Z", **{**tile, "s2:mgrs_tile": "33TUN", "eo:cloud_cover": 90},
                  **{"s2:processing_baseline": "05.00", "proj:epsg": 32633})  # fmt: skip
    (plan,) = passes.optical_plans("s", [old, new, beside], OPTICAL, "EPSG:32633", 70)
    assert [(s.item, s.offset) for s in plan.bands["B04"]] == [
        ("beside", -1000), ("new", -1000), ("old", 0)
    ]  # fmt: skip
    assert plan.tags["cloud_percent"] == 70 and plan.path.endswith("2021-01-10T101500.tif")
    assert passes.optical_plans("s", [old, new, beside], OPTICAL, "EPSG:32633", 69.9) == []


@pytest.mark.parametrize(
    "changes, saying",
    [
        ({"s1_units": '"amplitude"'}, "uncalibrated"),
        ({"s1_backscatter": '"beta0"'}, "expected sigma0"),
        ({"s1_collection": '"sentinel-1-grd"'}, "radar geometry"),
        ({"s1_collection": '"sentinel-1-slc"'}, "radar geometry"),
        ({"s1_assets": '{ VV = "vv" }'}, "assets maps VV"),
        ({"s2_offset": '"yes"'}, "expected a number or 'item'"),
        ({"s1_colour": "1"}, "unknown setting 'colour'"),
        ({"signing": "aws"}, "signing 'aws'"),
        ({"dem_url": '"ftp://x"'}, "http(s)"),
    ],
)
def test_catalogues_that_cannot_be(tmp_path, changes, saying):
    path = tmp_path / "c.toml"
    path.write_text(stac_archive.catalog("http://127.0.0.1:1", **changes))
    with pytest.raises(BadInput) as error:
        catalogs.read_catalog(str(path))
    assert saying in str(error.value)


def test_built_in_catalogues_are_whole():
    for name in catalogs.BUILT_IN:
        sections = catalogs.read_catalog(name)
        assert (
            set(sections) == {"s1", "s2", "dem", "landcover"}
            and sections["s1"]["backscatter"] == "gamma0_rtc"
        )
    with pytest.raises(BadInput, match="neither planetary-computer, opera nor a readable"):
        catalogs.read_catalog("nowhere")


def test_the_example_of_the_help_is_a_catalogue(tmp_path):
    lines = download.__doc__.split("\n\n")[4].splitlines()
    assert all(line.startswith("    ") for line in lines)
    (tmp_path / "c.toml").write_text("\n".join(line[4:] for line in lines))
    found, built_in = catalogs.read_catalog(str(tmp_path / "c.toml")), catalogs.read_catalog("opera")
    for key in ("url", "signing", "token_hosts", "collection", "assets", "units", "backscatter"):
        assert found["s1"][key] == built_in["s1"][key], key
    assert found["s1"]["angles"]["assets"] == built_in["s1"]["angles"]["assets"]
    assert found["s2"]["signing"] == "planetary-computer" and "landcover" not in found


@pytest.mark.parametrize(
    "row, saying",
    [
        ("a,95,10,500,2021-01-01,2021-02-01", "expected degrees"),
        ("a,46,190,500,2021-01-01,2021-02-01", "expected degrees"),
        ("a,46,10,0,2021-01-01,2021-02-01", "half_width_m 0"),
        ("a,46,10,500,2021-03-01,2021-02-01", "lies after end"),
        ("a,46,10,500,yesterday,2021-02-01", "expected dates"),
        ("a/../b,46,10,500,2021-01-01,2021-02-01", "a name may hold"),
        ("a,46,ten,500,2021-01-01,2021-02-01", "must be numbers"),
        ("a,nan,10,500,2021-01-01,2021-02-01", "expected degrees"),
        ("a,46,179.999,500,2021-01-01,2021-02-01", "180th meridian"),
    ],
)
def test_sites_that_cannot_be(tmp_path, row, saying):
    (tmp_path / "sites.csv").write_text(stac_archive.SITES + row + "\n")
    with pytest.raises(BadInput) as error:
        sites.read_sites(tmp_path / "sites.csv")
    assert saying in str(error.value) and "line 2" in str(error.value)


def test_a_bad_site_is_one_sentence_before_any_request(tmp_path):
    (tmp_path / "sites.csv").write_text(stac_archive.SITES + "a,46,10,500,2021-03-01,2021-02-01\n")
    where = ("--data", tmp_path / "sites.csv", "--out", tmp_path / "out")
    refuse("download", *where, saying="start 2021-03-01 lies after end 2021-02-01")
    (tmp_path / "sites.csv").write_text(stac_archive.SITES + stac_archive.ALPS_ROW)
    refuse("download", *where, "--relative-orbit", 0, saying="tracks 1 to 175")
    assert not (tmp_path / "out").exists()


def test_grid_of_a_site(tmp_path):
    grid = sites.square_grid(46.9, 10.35, 1000)
    assert (grid.height, grid.width, grid.crs.to_epsg()) == (200, 200, 32632)
    assert grid.transform.a == 10 and grid.transform.c % 10 == 0 and grid.transform.f % 10 == 0
    latitude, longitude = grid.centre()
    assert abs(latitude - 46.9) < 1e-4 and abs(longitude - 10.35) < 1e-4
    assert sites.square_grid(-33, 18.1, 500).crs.to_epsg() == 32734
    west, south, east, north = 10.3, 46.85, 10.35, 46.9
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (tmp_path / "sites.csv").write_text("site,geometry,start,end\na,a.geojson,2021-01-01,2021-02-01\n")
    (site,) = sites.read_sites(tmp_path / "sites.csv")
    bounds = site.bbox()
    assert bounds[0] <= west and bounds[1] <= south and bounds[2] >= east and bounds[3] >= north
    assert bounds[2] - bounds[0] < 0.053
    for name in ("../a.geojson", "none.geojson"):
        (tmp_path / "sites.csv").write_text(f"site,geometry,start,end\na,{name},2021-01-01,2021-02-01\n")
        with pytest.raises(BadInput, match="geojson"):
            sites.read_sites(tmp_path / "sites.csv")


def test_waits_that_a_server_asks_for():
    assert remote.retry_after_s("7") == 7
    assert remote.retry_after_s("") is remote.retry_after_s("nan") is remote.retry_after_s("soon") is None
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    assert 55 < remote.retry_after_s(soon.strftime("%a, %d %b %Y %H:%M:%S GMT")) <= 60
    assert remote.without_query("https://u:p@h:1/a/b.tif?sig=x#y") == "https://h:1/a/b.tif"


def test_space_is_checked_first(tmp_path):
    with pytest.raises(BadInput, match="are needed"):
        download.need_space(tmp_path / "a" / "b", 10**18)
    download.need_space(tmp_path, 1000)


# ---- from sites to triplets --------------------------------------------------------------------------------


def source(services, name: str) -> tuple[np.ndarray, rasters.Grid]:
    with rasterio.open(services.archive.folder / name) as opened:
        return opened.read(1), rasters.Grid(opened.crs, opened.transform, opened.height, opened.width)


def test_radar_frames_are_mosaicked_pixel_for_pixel(services, straight):
    raster = rasters.open_radar(straight / "scenes" / "alps" / "s1" / "2021-01-10T053000_044.tif")
    assert raster.grid == sites.square_grid(46.9, 10.35, 480) and raster.bands == ("VV", "VH")
    whole = np.full((140, 140), np.nan, np.float32)
    for rows, frame in ((slice(70, 140), "10S"), (slice(0, 90), "10N")):  # the earlier frame lies on top
        whole[rows] = source(services, f"s1/{frame}/vv.tif")[0]
    row, col = remote_pixels.own_pixels(stac_archive.ALPS, raster.grid)
    assert np.array_equal(rasters.read(raster, ("VV",))[0], whole[row : row + 96, col : col + 96])
    tags = {
        "units": "linear", "backscatter": "gamma0_rtc", "date": "2021-01-10T05:30:00",
        "platform": "sentinel-1a", "relative_orbit": "044", "orbit_state": "descending",
        "resampling": "VV VH: own pixels",
    }  # fmt: skip
    assert {key: raster.tags[key] for key in tags} == tags


def test_optical_tiles_of_two_zones(services, straight):
    raster = rasters.open_optical(straight / "scenes" / "alps" / "s2" / "2021-01-10T101500.tif")
    assert raster.bands == ("B02", "B03", "B04", "B08", "B11", "SCL") and raster.nodata == 0
    values = dict(zip(raster.bands, rasters.read(raster, raster.bands), strict=True))
    assert not any(np.isnan(plane).any() for plane in values.values())  # the second tile fills the first
    own, _ = source(services, "s2/10A/B04.tif")
    assert np.array_equal(values["B04"][:, :88], own[22:118, 22:110])
    near = np.isin(values["SCL"], (5, 11))
    assert near.all() and 0.2 < (values["SCL"] == 11).mean() < 0.8
    agree = (values["B04"] > 4500) == (values["SCL"] == 11)
    assert agree[:, 88:].mean() > 0.85  # twice nearest, twice bilinear: edges alone differ
    assert raster.tags["offset"] == "0" and raster.tags["source_offset"] == "0"
    assert "B02 B03 B04 B08: own pixels" in raster.tags["resampling"]
    assert "B11: bilinear from 20 m" in raster.tags["resampling"]
    assert "SCL: nearest from 20 m" in raster.tags["resampling"]


def test_offset_is_taken_off(services, straight):
    if not services.archive.real:
        pytest.skip("real scenes are not there: ../shared/data/scenes, relative to the repository, is absent")
    raster = rasters.open_optical(straight / "scenes" / "banff" / "s2" / "2025-04-25T184000.tif")
    assert raster.tags["source_offset"] == "-1000" and raster.tags["processing_baseline"] == "05.11"
    found = rasters.read(raster, ("B04",))[0]
    numbers, own = source(services, "s2/banff/B04.tif")
    row, col = remote_pixels.own_pixels(own, raster.grid) or (None, None)
    if row is not None:
        window = numbers[row : row + raster.grid.height, col : col + raster.grid.width]
        assert np.array_equal(found, window.astype(np.float32) - 1000)
    else:
        lit = numbers[numbers > 0].astype(np.float32) - 1000
        assert lit.min() <= np.nanmin(found) and np.nanmax(found) <= lit.max()
        assert abs(np.nanmedian(found) - np.median(lit)) < 300


def test_land(services, straight):
    dem = rasters.open_header(straight / "scenes" / "alps" / "dem.tif")
    cover = rasters.open_header(straight / "scenes" / "alps" / "landcover.tif")
    metres = rasters.read(dem, ("elevation",))[0]
    assert dem.units == "m" and 800 < metres.min() < metres.max() < 1300
    assert np.all(np.diff(metres, axis=0) > -0.1) and np.all(np.diff(metres, axis=1) > -0.1)
    assert np.unique(rasters.read(cover, ("landcover",))).tolist() == [30]  # 2021, not 2020
    about = json.loads((straight / "scenes" / "alps" / "site.json").read_text())
    assert about["site"] == "alps" and about["latitude"] == 46.9 and "sentinel-1-rtc" in about["source"]


def test_records_hold_no_signature(services, straight):
    lines = [json.loads(line) for line in (straight / "downloads.jsonl").read_text().splitlines()]
    assert {line["file"] for line in lines} == set(scenes_of(straight))
    for line in lines:
        path = straight / line["file"]
        assert line["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert line["bytes"] == path.stat().st_size and line["seconds"] > 0
        for one in line["sources"]:
            served = services.archive.folder / one["url"].split("/files/")[1]
            assert one["etag"] and 0 < one["bytes"] <= served.stat().st_size
    for path in straight.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path


def test_curate_reads_it_unchanged(straight, tmp_path):
    run("curate", "--data", straight / "scenes", "--out", tmp_path / "curated", "--workers", 0)
    with open(tmp_path / "curated" / "triplets.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["site"] for row in rows} == {path.name for path in (straight / "scenes").iterdir()}
    assert all(row["backscatter"] == "gamma0_rtc" and row["dem"] and row["landcover"] for row in rows)
    alps = [row for row in rows if row["site"] == "alps"]
    assert len(alps) == 2 and {row["relative_orbit"] for row in alps} == {"044"}


def test_second_run_asks_nothing(services, straight):
    before = len(services.faults.seen)
    done = run("download", *order(straight.parent, services, signing="planetary-computer"))
    assert "already done" in done.stderr and len(services.faults.seen) == before


def test_dry_run_writes_nothing(services, tmp_path):
    done = run("download", *order(tmp_path, services, stac_archive.ALPS_ROW), "--dry-run")
    assert "6 files at 1 sites (2 s1, 2 s2, 1 dem, 1 landcover)" in done.stderr and "to move" in done.stderr
    assert not (tmp_path / "out").exists()
    assert all(place == "stac" for place, *_ in services.faults.seen)


def test_windows_give_what_the_whole_gives(services, straight, tmp_path, monkeypatch):
    """A file is made window by window so that memory does not grow with the site; there are no seams."""
    archive, grid = services.archive, sites.square_grid(46.9, 10.35, 480)
    section = catalogs.read_catalog(str(order(tmp_path, services)[3]))["s2"]
    items = [i for i in archive.items(f"{services.url}/files") if i["id"].startswith("S2A_10")]
    (plan,) = passes.optical_plans("alps", items, section, "EPSG:32632", 60)
    monkeypatch.setattr(scene_files, "WINDOW_PX", 40)
    scene_files.bring(plan, grid, tmp_path, remote.Connection())
    parts, whole = (rasters.open_header(folder / plan.path) for folder in (tmp_path, straight))
    assert parts.tags.keys() == whole.tags.keys() and parts.grid == whole.grid
    for band in whole.bands:
        one, other = rasters.read(parts, (band,))[0], rasters.read(whole, (band,))[0]
        assert np.array_equal(one[:, :88], other[:, :88]) or band in ("B11", "SCL"), band
        assert (one != other).mean() < 0.02, (
            band
        )  # the warp's place of a pixel differs by less than 1/8 of one


def test_a_pass_without_data_leaves_no_file(services, tmp_path):
    """The swath's edge: the frame's box touches the site, its pixels do not."""
    section = catalogs.read_catalog(str(order(tmp_path, services)[3]))["s1"]
    items = [i for i in services.archive.items(f"{services.url}/files") if i["id"].startswith("S1A_IW_10")]
    (plan,) = passes.radar_plans("far", items, section, [], ANY)
    record = scene_files.bring(
        plan, sites.square_grid(46.95, 10.35, 300), tmp_path / "out", remote.Connection()
    )
    assert record["empty"] and "sha256" not in record and not list((tmp_path / "out").rglob("*.tif"))


# ---- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [pytest.param(0.05, marks=pytest.mark.slow), 0.25])
def test_equal_through_faults(services, straight, tmp_path, share):
    """The issue's 5 % of answers, and so many that every kind of fault happens in this small archive."""
    faults = services.faults.set(share=share, signed=True, seed=15)
    done = run("download", *order(tmp_path, services, signing="planetary-computer"), "--retries", 12)
    assert scenes_of(tmp_path / "out") == scenes_of(straight) and result(done)["empty"] == []
    assert triplets_of(tmp_path / "out", tmp_path) == triplets_of(straight, tmp_path / "expected")
    happened = {kind: faults.count(kind) for kind in faults.kinds}
    assert sum(happened.values()) >= 4, happened
    assert share < 0.2 or all(happened.values()), happened


@pytest.mark.slow
def test_expired_signature_is_renewed(services, tmp_path):
    faults = services.faults.set(share=0.3, kinds=("expired",), signed=True)
    run("download", *order(tmp_path, services, stac_archive.ALPS_ROW, signing="planetary-computer"))
    files = len({path for place, path, _, _ in faults.seen if place == "files"})
    signed = sum(place == "sign" for place, *_ in faults.seen)
    assert faults.count("expired") > 3 and signed >= files + faults.count("expired")


def start(*words) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command("download", *words), cwd=Path(__file__).parent.parent, env=environment, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def kill_while_reading(services, words, how: int, after_s: float, place: str = "files") -> int:
    """Start, let the first file (or search) be asked for, wait, send the signal; the exit code."""
    seen = len(services.faults.seen)
    child = start(*words)
    while child.poll() is None and not any(p == place for p, *_ in services.faults.seen[seen:]):
        time.sleep(0.01)
    time.sleep(after_s)
    child.send_signal(how)
    child.communicate(timeout=60)
    return child.returncode


def test_interrupted_is_75_and_goes_on(services, straight, tmp_path):
    words = order(tmp_path, services, signing="planetary-computer")
    services.faults.set(signed=True, slow_s=0.1)
    assert kill_while_reading(services, words, signal.SIGTERM, 0.3) == 75
    assert not (tmp_path / "out" / "result.json").exists()
    services.faults.set(signed=True)
    run("download", *words)
    assert scenes_of(tmp_path / "out") == scenes_of(straight)


@pytest.mark.slow
def test_equal_after_ten_kills(services, straight, tmp_path):
    services.faults.set(signed=True, slow_s=0.05)
    words, chance, whole = order(tmp_path, services, signing="planetary-computer"), random.Random(1), []
    expected = scenes_of(straight)
    for place in ("files", "stac", "files", "files", "stac", "files", "files", "stac", "files", "files"):
        code = kill_while_reading(services, words, signal.SIGKILL, chance.uniform(0, 0.6), place)
        assert code in (-signal.SIGKILL, 0)
        now = scenes_of(tmp_path / "out")
        assert now.items() <= expected.items()  # whole or not there, never broken
        whole.append(len(now))
    services.faults.set(signed=True)
    done = run("download", *words)
    assert scenes_of(tmp_path / "out") == expected and result(done)["files"] == len(expected)
    assert triplets_of(tmp_path / "out", tmp_path) == triplets_of(straight, tmp_path / "expected")
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert whole[0] < len(expected)


def test_files_that_fail_are_named_and_the_rest_is_done(services, straight, tmp_path):
    words = order(tmp_path, services, stac_archive.ALPS_ROW)
    services.faults.set(always=500, on="s1/22S")
    failed = run("download", *words, "--retries", 2, code=1)
    last = failed.stderr.strip().splitlines()[-1]
    assert "1 of 6 files failed" in last and "s1/2021-01-22T053000_044.tif" in last
    assert len(scenes_of(tmp_path / "out")) == 5 and not (tmp_path / "out" / "result.json").exists()
    services.faults.set()
    run("download", *words)
    assert all("/s1/22" in p for place, p, *_ in services.faults.seen if place == "files")
    expected = {name: digest for name, digest in scenes_of(straight).items() if "alps" in name}
    assert scenes_of(tmp_path / "out") == expected


def test_retry_after_is_obeyed(services, tmp_path):
    connection = remote.Connection(retries=1, backoff_s=0)
    services.faults.set(share=1, kinds=("429",), retry_after="1")
    began = time.time()
    with pytest.raises(remote.ServiceFailure, match="answered 429, 2 times"):
        remote.get(connection, f"{services.url}/files/s1/10N/vv.tif", {"Range": "bytes=0-9"})
    assert 1 <= time.time() - began < 5


# ---- keys --------------------------------------------------------------------------------------------------


def test_missing_key_is_said(services, tmp_path):
    services.faults.set(signed=True, key=KEY["PC_SDK_SUBSCRIPTION_KEY"])
    words = order(tmp_path, services, stac_archive.ALPS_ROW, signing="planetary-computer")
    refuse("download", *words, saying="a key is asked for", env={"PC_SDK_SUBSCRIPTION_KEY": ""})
    refuse("download", *words, saying="was refused", env={"PC_SDK_SUBSCRIPTION_KEY": "wrong"})
    assert scenes_of(tmp_path / "out") == {}
    run("download", *words, env=KEY)
    assert {place for place, _, _, had_key in services.faults.seen if had_key} == {"sign"}
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"the-secret-key" not in path.read_bytes(), path


# ---- what cannot be had ------------------------------------------------------------------------------------


def test_unknown_collection(services, tmp_path):
    words = order(tmp_path, services, s1_collection='"sentinel-1-rtx"')
    line = refuse("download", *words, saying="'sentinel-1-rtx' is unknown")
    assert "sentinel-1-rtc" in line


def test_no_scenes_and_site_at_sea(services, tmp_path):
    early = "alps,46.9,10.35,480,2015-01-01,2015-12-31\n"
    refuse("download", *order(tmp_path / "early", services, early), saying="no scenes found")
    sea = "sea,40.0,-30.0,480,2021-01-01,2021-12-31\n"
    refuse("download", *order(tmp_path / "sea", services, sea), saying="site sea: no elevation at 40, -30")


def test_no_network(tmp_path, services):
    words = order(tmp_path, services)
    (tmp_path / "catalog.toml").write_text(
        stac_archive.catalog(f"http://127.0.0.1:{stac_services.free_port()}")
    )
    failed = run("download", *words, code=1)
    assert "cannot be reached" in failed.stderr.strip().splitlines()[-1] and "Traceback" not in failed.stderr


def test_what_is_no_stac_api_is_said(tmp_path, services):
    words = order(tmp_path, services)
    (tmp_path / "catalog.toml").write_text(stac_archive.catalog(f"{services.direct}/land/alps_dem.tif"))
    failed = run("download", *words, code=1)
    assert "no usable answer of a STAC API" in failed.stderr and "Traceback" not in failed.stderr


def test_wrong_units_of_the_catalogue(services, tmp_path):
    words = order(tmp_path, services, stac_archive.ALPS_ROW, s1_units='"dB"')
    refuse("download", *words, saying="99 % of the values are positive")


def test_radar_geometry_is_refused(tmp_path):
    archive = stac_archive.Archive(tmp_path / "files")
    stac_archive.add_alps(archive, dates=(10,))
    bare = np.full((140, 140), 0.1, np.float32)
    path = tmp_path / "files" / "bare.tif"
    with rasterio.open(path, "w", driver="GTiff", height=140, width=140, count=1, dtype="float32") as target:
        target.write(bare, 1)
    for feature in archive.features:
        if feature["collection"] == "sentinel-1-rtc":
            feature["assets"]["vv"]["href"] = "{base}/bare.tif"
    with stac_services.running(tmp_path / "files", archive.items) as services:
        services.archive = archive
        archive.real = False
        refuse("download", *order(tmp_path / "read", services), saying="radar geometry or on no map")
    for feature in archive.features:
        feature["properties"]["proj:code"] = None
    with stac_services.running(tmp_path / "files", archive.items) as services:
        services.archive = archive
        line = refuse("download", *order(tmp_path / "told", services), saying="has no map projection")
        assert "sentinel-1-rtc" in line
        assert not any(place == "files" for place, *_ in services.faults.seen)


def test_full_disk_leaves_no_broken_file(services, straight, tmp_path):
    words = order(tmp_path, services, stac_archive.ALPS_ROW)

    def little():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    refuse("download", *words, saying="nothing half-written was left", preexec_fn=little)
    found = scenes_of(tmp_path / "out")
    assert found.items() <= scenes_of(straight).items() and len(found) < 6
    run("download", *words)
    assert scenes_of(tmp_path / "out").items() <= scenes_of(straight).items()


# ---- what is moved -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def large(tmp_path_factory) -> Path:
    """A COG of 10,980 x 10,980 as Sentinel-2's, 512-pixel blocks, noise where the windows lie."""
    folder = tmp_path_factory.mktemp("large")
    draft, side = folder / "draft.tif", 10980
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "nodata": 0}
    where = {"crs": CRS.from_epsg(32632), "transform": from_origin(600000, 5300040, 10, 10)}
    noise = np.random.default_rng(0).integers(1000, 5000, (1536, 1536), dtype=np.uint16)
    with rasterio.open(
        draft, "w", driver="GTiff", height=side, width=side, count=1, dtype="uint16", **layout, **where
    ) as target:
        for row in range(4608, 7680, 1536):
            for col in range(4608, 7680, 1536):
                target.write(noise, 1, window=Window(col, row, 1536, 1536))
    copy(draft, folder / "B04.tif", driver="COG", compress="deflate", level=1, blocksize=512,
         overview_resampling="nearest")  # fmt: skip
    draft.unlink()
    return folder


def touched_bytes(path: Path, row: int, col: int, side: int) -> int:
    """Bytes in the file of the blocks that a square window touches."""
    with rasterio.open(path) as opened:
        blocks = [(x, y) for x in range(col // 512, (col + side - 1) // 512 + 1)
                  for y in range(row // 512, (row + side - 1) // 512 + 1)]  # fmt: skip
        return sum(int(opened.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)) for x, y in blocks)


@pytest.mark.slow
def test_bytes_of_a_small_window(large, tmp_path):
    (tmp_path / "nginx").mkdir()
    with stac_services.files_served(tmp_path / "nginx", large) as port:
        log = tmp_path / "nginx" / "access.log"
        for row, col in ((5200, 5200), (5100, 5100), (5100, 5300), (6600, 6000)):
            before = len(log.read_text().splitlines())
            transform = from_origin(600000 + 10 * col, 5300040 - 10 * row, 10, 10)
            grid = rasters.Grid(CRS.from_epsg(32632), transform, 200, 200)
            url = f"http://127.0.0.1:{port}/B04.tif"
            file = remote_file.RemoteFile(remote.Connection(), url, {"signing": "none"})
            values, how, _ = remote_pixels.read_on(file, grid, "level", None)
            time.sleep(0.1)
            moved = sum(int(line.split()[3]) for line in log.read_text().splitlines()[before:])
            with rasterio.open(large / "B04.tif") as opened:
                assert np.array_equal(values, opened.read(1, window=Window(col, row, 200, 200)))
            assert how == "own pixels" and moved == file.read_bytes
            assert moved <= 1.5 * touched_bytes(large / "B04.tif", row, col, 200)


def test_estimate():
    grid = sites.square_grid(46.9, 10.35, 1000)
    plan = passes.Plan("s", "p", "s1", RADAR, {"VV": [], "VH": []})
    assert scene_files.estimate([plan], {"s": grid}) == (200 * 200 * 2 * 4, 712 * 712 * 2 * 4)


def test_a_redirect_is_followed_once_a_file_and_again_when_it_has_ended():
    with web() as server:
        server.moved["/a.tif"] = f"{server.at}/signed/a.tif?sig=one"
        server.valid.add("one")
        file = opened(f"{server.at}/a.tif", {"signing": "none"})
        for start in (0, 10, 20):
            assert file.fetch(start, start + 5) == CONTENT[start : start + 5]
        server.valid.clear()  # the address has ended: 403
        server.moved["/a.tif"] = f"{server.at}/signed/a.tif?sig=two"
        server.valid.add("two")
        assert file.fetch(30, 35) == CONTENT[30:35] and file.fetch(40, 45) == CONTENT[40:45]
    asked = [path for _, path, *_ in server.seen]
    assert asked == ["/a.tif", *["/signed/a.tif"] * 4, "/a.tif", "/signed/a.tif", "/signed/a.tif"]
    assert "sig=" not in file.url
