"""The inputs beyond one image: terrain, angles, references of earlier seasons, weather; the wet target."""

import argparse
import csv
import json
import shutil

import numpy as np
import pytest
from conftest import TINY, blobs, grid, refuse, result, run, write_optical, write_radar

from data_prep import (
    channels,
    degree_days,
    rasters,
    references,
    scene_input,
    scenes,
    terrain,
    triplets,
    truth,
)
from data_prep.runs import BadInput

BANDS = (
    "vv,vh,vv-ref,vh-ref,local-incidence-angle,elevation,slope,northness,eastness,season-sin,season-cos,"
    "temperature-1,degree-days-30,snowfall-180"
)
DATES = ("2020-07-10", "2020-08-15", "2021-02-03", "2021-08-20", "2021-12-01")
SIDE = 96


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def heights(seed):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return 1500 + 40 * seed + 150 * np.sin(columns / 15 + seed) * np.cos(rows / 21)


def write_world(folder):
    """Three sites with DEM, angle to the ellipsoid, track, summers before winters, truth and weather."""
    sites, lines, elevations = folder / "scenes", [], {}
    days = np.datetime64("2019-12-01") + np.arange(900)
    for seed in range(3):
        name, where = f"site-{seed}", grid(SIDE, SIDE, east=600000 + 10000 * seed)
        site = sites / name
        (site / "truth").mkdir(parents=True)
        latitude, longitude = where.centre()
        about = {"site": name, "latitude": latitude, "longitude": longitude, "source": "t", "licence": "-"}
        (site / "site.json").write_text(json.dumps(about))
        tags = {"product": "simulated test"}
        rasters.write(
            site / "dem.tif", heights(seed)[None].astype("f4"), ("elevation",), where, np.nan, **tags
        )
        for number, date in enumerate(DATES):
            snow = (
                blobs(SIDE, SIDE, 10 * seed + number)
                if date[5:7] in ("02", "12")
                else np.zeros((SIDE, SIDE), bool)
            )
            path = write_radar(site / "s1" / f"{date}T053000_044.tif", snow, where, seed=10 * seed + number)
            stack = rasters.read(rasters.open_header(path), ["VV", "VH"])
            angle = np.broadcast_to(np.linspace(36, 37, SIDE, dtype=np.float32), snow.shape)
            tags = {"units": "dB", "backscatter": "sigma0", "product": "simulated test"}
            tags["orbit_state"] = "DESCENDING" if seed % 2 else "ascending"
            stack, bands = np.concatenate([stack, angle[None]]), ("VV", "VH", "incidence_angle")
            rasters.write(path, stack, bands, where, np.nan, **tags)
            write_optical(site / "s2" / f"{date}T101500.tif", snow, where)
            liquid = np.where(snow & (np.arange(SIDE) < SIDE // 2), 0.03, 0)  # wet in the western half
            state = np.stack([snow, liquid, snow * 0.8]).astype(np.float32)
            kinds = ("snow_fraction", "liquid_water", "snow_depth")
            rasters.write(site / "truth" / f"{date}.tif", state, kinds, where, np.nan)
        random, season = np.random.default_rng(seed), np.arange(900) / 365.25 * 2 * np.pi
        mean = 4 - 12 * np.cos(season) + random.normal(0, 2, 900)
        rain = random.gamma(0.4, 8, 900)
        lines += [f"{name},{d},{t:.2f},{r:.2f}" for d, t, r in zip(days, mean, rain, strict=True)]
        elevations[name] = {"elevation_m": 1400 + 100 * seed}
    head = "site,date,temperature_2m_mean,precipitation_sum\n"
    (folder / "weather.csv").write_text(head + "\n".join(lines) + "\n")
    (folder / "weather.json").write_text(json.dumps({"sites": elevations, "model": "test", "units": {}}))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def curated(world):
    words = ("--data", world / "scenes", "--workers", 0, "--need-reference", "--tile", 48, "--sheet", 1)
    run("curate", *words, "--out", world / "curated")
    run("split", "--data", world / "curated", "--out", world / "split", "--val", 0.34, "--test", 0)
    return world / "split"


@pytest.fixture(scope="module")
def trained(world, curated):
    words = ("--data", curated, "--bands", BANDS, "--weather", world / "weather.csv", "--limit", 6)
    tiny = [*TINY[:4], "--epochs", 1, *TINY[6:]]
    got = result(run("train_unet.py", *words, "--out", world / "net", *tiny))
    return world / "net", got


# ---- curation ----------------------------------------------------------------------------------------------


def test_terrain_and_local_incidence_of_tiles_are_those_of_the_whole_site(world, curated):
    rows = [r for r in triplets.read_manifest(curated).rows if r["s1_date"].startswith("2021-12")]
    assert len(rows) == 12  # four tiles at three sites
    for row in rows:
        seed = int(row["site"][-1])
        slope, aspect = terrain.slope_aspect(heights(seed).astype(np.float32), 10)
        box = (slice(int(row["row"]), int(row["row"]) + 48), slice(int(row["col"]), int(row["col"]) + 48))
        header = rasters.open_header(row["dem"])
        aspect = (aspect + header.grid.north()) % 360  # of the map, as true azimuth
        dem = rasters.read(header, ["elevation", "slope", "aspect"])
        assert np.abs(dem[0] - heights(seed)[box]).max() < 1e-3
        assert np.abs(dem[1] - slope[box]).max() < 1e-3
        assert np.abs((dem[2] - aspect[box] + 180) % 360 - 180)[slope[box] > 1].max() < 0.01
        radar = rasters.open_header(row["sar"])
        assert radar.tags["local_incidence_angle"] == "computed from DEM"
        assert row["orbit_state"].lower() == ("descending" if seed == 1 else "ascending")
        azimuth = terrain.look_azimuth(
            scenes.read_site(world / "scenes" / row["site"])["latitude"], row["orbit_state"].lower()
        )
        flat = np.broadcast_to(np.linspace(36, 37, SIDE), (SIDE, SIDE))
        expected = terrain.local_incidence_angle(slope, aspect, flat, azimuth)[box]
        (angle,) = rasters.read(radar, ["local_incidence_angle"])
        assert np.abs(angle - expected).max() < 1e-3 and np.ptp(angle) > 5


def test_a_measured_local_incidence_angle_is_kept_and_without_orbit_state_none_is_made(tmp_path):
    write_world(tmp_path)
    first, second = (next((tmp_path / "scenes" / f"site-{n}" / "s1").glob("2021-12*")) for n in (0, 1))
    raster = rasters.open_header(first)
    stack = rasters.read(raster, raster.bands)
    tags = {"units": "dB", "backscatter": "sigma0"}
    more = np.concatenate([stack, np.full_like(stack[:1], 12.5)])
    bands = (*raster.bands, "local_incidence_angle")
    rasters.write(first, more, bands, raster.grid, np.nan, orbit_state="ascending", **tags)
    raster = rasters.open_header(second)
    rasters.write(second, rasters.read(raster, raster.bands), raster.bands, raster.grid, np.nan, **tags)
    words = ("--workers", 0, "--reference", "none", "--sheet", 1)
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "out", *words)
    rows = {r["site"]: r for r in table(tmp_path / "out" / "triplets.csv") if r["date"] == "2021-12-01"}
    kept = rasters.open_header(tmp_path / "out" / rows["site-0"]["sar"])
    assert (rasters.read(kept, ["local_incidence_angle"]) == 12.5).all()
    assert "local_incidence_angle" not in kept.tags
    none = rasters.open_header(tmp_path / "out" / rows["site-1"]["sar"])
    assert none.bands == ("VV", "VH", "incidence_angle")


def test_references_hold_nothing_of_the_own_season_or_later(world, curated):
    rows = triplets.read_manifest(curated).rows
    used = {}
    for row in rows:
        used[row["date"]] = rasters.open_header(row["ref"]).tags["dates"]
    both = "2020-07-10,2020-08-15"
    assert used == {"2021-02-03": both, "2021-08-20": both, "2021-12-01": f"{both},2021-08-20"}
    rejected = table(world / "curated" / "rejected.csv")
    assert {(r["s1"][:10], r["rule"]) for r in rejected} == {(d, "no-reference") for d in DATES[:2]}
    folder = world / "curated" / "ref" / "site-0"
    names = ["044_summer_before-2021.tif", "044_summer_before-2022.tif"]
    assert sorted(path.name for path in folder.iterdir()) == names
    sources = [rasters.open_header(world / "scenes" / "site-0" / "s1" / f"{d}T053000_044.tif") for d in DATES]
    power = [10 ** (rasters.read(sources[k], ["VV"]) / 10) for k in (0, 1, 3)]
    for name, count in zip(names, (2, 3), strict=True):
        mean = 10 * np.log10(np.mean(power[:count], axis=0))
        assert rasters.read(rasters.open_header(folder / name), ["VV_ref"]) == pytest.approx(mean, abs=1e-3)


def test_references_of_all_years_and_by_temperature(world, tmp_path):
    words = ("--data", world / "scenes", "--workers", 0, "--sheet", 1)
    run("curate", *words, "--out", tmp_path / "all", "--reference-years", "all")
    everything = rasters.open_header(tmp_path / "all" / "ref" / "site-1" / "044_summer.tif")
    assert everything.tags["dates"] == "2020-07-10,2020-08-15,2021-08-20"
    assert all(row["ref"] for row in table(tmp_path / "all" / "triplets.csv"))
    weather = ("--reference", "warm", "--weather", world / "weather.csv")
    run("curate", *words, "--out", tmp_path / "warm", *weather)
    rows = {r["date"]: r["ref"] for r in table(tmp_path / "warm" / "triplets.csv")}
    assert [bool(rows[d]) for d in DATES] == [False, False, True, True, True]
    for date in ("2021-08-20", "2021-12-01"):  # the year itself is never used
        tags = rasters.open_header(tmp_path / "warm" / rows[date]).tags
        assert tags["rule"] == "warm" and tags["dates"] == "2020-07-10,2020-08-15"


def test_warm_dates_are_chosen_by_the_temperature_of_the_month_before(world):
    series = degree_days.read_weather(world / "weather.csv")["site-0"]
    assert references.is_warm(series, "2020-07-10") and not references.is_warm(series, "2021-02-03")
    found = scenes.list_scenes(world / "scenes" / "site-0", "s1")
    args = argparse.Namespace(reference="warm", units=None, backscatter=None, skip_bad=False)
    cold = {**series, "temperature_2m_mean": series["temperature_2m_mean"] - 30}
    assert references.reference_dates(found, 47.0, args, cold) == {}
    groups = references.reference_dates(found, 47.0, args, series)
    assert [scene.date for scene, _ in groups["044"]] == ["2020-07-10", "2020-08-15", "2021-08-20"]
    short = {**series, "dates": series["dates"] + 3650}  # temperature unknown: not taken
    assert references.reference_dates(found, 47.0, args, short) == {}


def test_no_date_of_a_reference_is_in_the_scenes_season_or_after_it():
    """For every day of three years, both hemispheres and rules: what may be used is over, and long over."""
    days = [str(d) for d in np.arange("2019-01-01", "2022-01-01", dtype="datetime64[D]")]
    for latitude in (47, -44):
        for name, rule in references.RULES.items():
            seasons = {d: references.northern(d, latitude) for d in days}
            chosen = [d for d in days if seasons[d][1] in rule.months]
            last, allowed = None, 0
            for day in days:
                limit = references.before(day, latitude, name)
                usable = [d for d in chosen if seasons[d][0] < limit]
                gap = 60 if name == "warm" else 1
                latest = np.datetime64(max(usable, default="2000-01-01"))
                assert np.datetime64(day) - latest >= gap and str(latest)[:7] != day[:7]
                assert last is None or len(usable) >= last  # later scenes know no less
                last, allowed = len(usable), allowed + bool(usable)
            assert allowed > 400
    assert references.before("2021-01-15", 47, "summer") == 2021  # July to September 2020
    assert references.before("2021-08-20", 47, "summer") == 2021
    assert references.before("2021-10-01", 47, "summer") == 2022
    assert references.before("2021-02-15", -44, "summer") == 2021  # its own summer, January to March, is out
    assert (
        references.before("2021-04-01", -44, "summer")
        == references.before("2021-09-01", -44, "summer")
        == 2022
    )


def test_the_latest_reference_that_is_over_is_chosen(tmp_path):
    names = ("044_summer.tif", "044_summer_before-2020.tif", "044_summer_before-2022.tif", "0441_summer.tif")
    for name in names:
        (tmp_path / name).touch()

    def chosen(date, orbit="044", latitude=47.0):
        path = references.choose(tmp_path, orbit, date, latitude)
        return path and path.name

    assert chosen("2019-05-01") == "044_summer.tif" and chosen("2020-01-01") == "044_summer_before-2020.tif"
    assert chosen("2021-09-30") == "044_summer_before-2020.tif"
    assert chosen("2021-10-01") == chosen("2030-01-01") == "044_summer_before-2022.tif"
    assert chosen("2021-05-01", latitude=-44.0) == "044_summer_before-2022.tif"
    assert chosen("2021-10-01", orbit="") is None and chosen("2021-10-01", orbit="04") is None
    (tmp_path / "044_summer.tif").unlink()
    assert chosen("2019-05-01") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reference", "warm"), "--weather"),
        (("--weather", "weather.csv"), "--reference warm"),
        (("--reference", "none", "--need-reference"), "--need-reference"),
        (("--reference", "warm", "--weather", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_bad_arguments_of_references(world, tmp_path, words, said):
    refuse("curate", "--data", world / "scenes", "--out", tmp_path / "out", *words, saying=said)


# ---- the wet target ----------------------------------------------------------------------------------------


def test_snow_and_wetness_by_the_two_thresholds():
    nan = np.nan
    planes = {
        "snow_fraction": np.array([0.49, 0.5, 1.0, 1.0, 0.2, nan, 1.0]),
        "liquid_water": np.array([0.05, 0.01, 0.009, 0.03, nan, 0.03, nan]),
    }
    assert truth.snow(planes).tolist() == [False, True, True, True, False, False, True]
    assert truth.wet(planes).tolist() == [False, True, False, True, False, False, False]
    assert truth.known(planes).tolist() == [True, True, True, True, True, False, False]


def test_the_truth_of_a_scene_is_found_by_stem_before_date(tmp_path):
    (tmp_path / "truth").mkdir()
    assert truth.find(tmp_path, "2021-01-01T053000_044") is None
    (tmp_path / "truth" / "2021-01-01.tif").touch()
    assert truth.find(tmp_path, "2021-01-01T053000_044").name == "2021-01-01.tif"
    (tmp_path / "truth" / "2021-01-01T053000_044.tif").touch()
    assert truth.find(tmp_path, "2021-01-01T053000_044").name == "2021-01-01T053000_044.tif"
    assert truth.find(tmp_path, "2021-01-01").name == "2021-01-01.tif"


def test_wet_masks_follow_truth_and_train_end_to_end(world, curated, tmp_path):
    rows = triplets.read_manifest(curated).rows
    winter = [row for row in rows if row["date"] in ("2021-02-03", "2021-12-01")]
    shares = []
    for row in winter:
        snow = blobs(SIDE, SIDE, 10 * int(row["site"][-1]) + DATES.index(row["date"]))
        wet = snow & (np.arange(SIDE) < SIDE // 2)
        r, c = int(row["row"]), int(row["col"])
        assert np.array_equal(triplets.read_mask(row, "wet"), wet[r : r + 48, c : c + 48])
        shares.append(wet[r : r + 48, c : c + 48].mean())
    assert max(shares) > 0.1
    tiny = [*TINY[:4], "--epochs", 1, *TINY[6:]]
    words = ("--data", curated, "--target", "wet", "--limit", 8)
    got = result(run("train_unet.py", *words, "--out", tmp_path / "net", *tiny))
    assert got["classes"]["train"]["snow"] > 0 and got["arguments"]["target"] == "wet"


def test_wet_masks_have_no_data_where_the_radar_or_the_truth_has_none(tmp_path):
    write_world(tmp_path)
    site = tmp_path / "scenes" / "site-0"
    s1, known = site / "s1" / "2021-12-01T053000_044.tif", site / "truth" / "2021-12-01.tif"
    raster = rasters.open_header(s1)
    stack = rasters.read(raster, raster.bands)
    stack[:, :10] = np.nan
    rasters.write(s1, stack, raster.bands, raster.grid, np.nan, units="dB", backscatter="sigma0")
    state = rasters.open_header(known)
    values = rasters.read(state, state.bands)
    values[:, :, 90:] = np.nan
    rasters.write(known, values, state.bands, state.grid, np.nan)
    (site / "truth" / "2021-02-03.tif").unlink()
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "out", "--workers", 0, "--sheet", 1)
    rows = {(r["site"], r["date"]): r for r in triplets.read_manifest(tmp_path / "out").rows}
    missing = triplets.read_mask(rows["site-0", "2021-12-01"], "wet") == 255
    assert missing[:10].all() and missing[:, 90:].all() and not missing[14:, :88].any()
    assert rows["site-0", "2021-02-03"]["mask_wet"] is None


# ---- the bands in training and on scenes -------------------------------------------------------------------


def test_a_net_trains_on_every_kind_of_input_and_keeps_their_names(trained):
    _, got = trained
    assert got["contract"]["bands"] == BANDS.split(",") and len(got["contract"]["mean"]) == 14
    assert any(path.endswith("weather.json") for path in got["inputs"])
    mean = dict(zip(got["contract"]["bands"], got["contract"]["mean"], strict=True))
    assert 1300 < mean["elevation"] < 1800 and 20 < mean["local-incidence-angle"] < 50
    assert abs(mean["northness"]) < 0.3 and mean["degree-days-30"] > 0 and mean["snowfall-180"] > 10


@pytest.mark.parametrize("name", ["site-0", "site-1"])
def test_scenes_and_triplets_give_the_same_planes(world, curated, trained, name):
    contract = trained[1]["contract"]
    scene = next(s for s in scenes.list_scenes(world / "scenes" / name, "s1") if s.date == "2021-12-01")
    folder, weather = world / "curated" / "ref", world / "weather.csv"
    source = scene_input.SceneInput(contract, scene, world / "scenes" / name, folder, weather=weather)
    rows = triplets.read_manifest(curated, weather).rows
    mine = [r for r in rows if r["site"] == name and r["date"] == "2021-12-01"]
    assert len(mine) == 4
    whole = source.read(0, 0, SIDE, SIDE)
    for row in mine:
        box = [int(row[key]) for key in ("row", "col", "height", "width")]
        image = triplets.read_image(row, contract["bands"])
        window = source.read(*box)
        assert np.isfinite(image).all() and image.std(axis=(1, 2))[:9].min() > 0
        for band, a, b in zip(contract["bands"], image, window, strict=True):
            assert np.abs(a - b).max() <= 1e-4 * max(1, np.abs(a).max()), band
        inside = whole[:, box[0] : box[0] + 48, box[1] : box[1] + 48]
        assert np.abs(window - inside).max() < 0.01  # windows of one scene have no seams


def test_what_a_scene_lacks_is_named(world, trained, tmp_path):
    contract, site = trained[1]["contract"], world / "scenes" / "site-0"
    early, late = scenes.list_scenes(site, "s1")[0], scenes.list_scenes(site, "s1")[-1]
    references_of, weather = world / "curated" / "ref", world / "weather.csv"

    def said(*words, bands=None, scene=late, **more):
        with pytest.raises(BadInput) as error:
            use = {**contract, "bands": bands or contract["bands"]}
            scene_input.SceneInput(use, scene, *words, **more)
        return str(error.value)

    assert "--weather" in said(site, references_of) and "temperature-1" in said(site, references_of)
    assert "VV_ref" in said(site, weather=weather) and "044" in said(site, weather=weather)
    assert "before 2020-07-10" in said(site, references_of, scene=early, weather=weather)
    assert "dem.tif" in said(None, bands=["vv", "slope"]) and "slope" in said(None, bands=["vv", "slope"])
    needs_angle = said(None, bands=["local-incidence-angle"])
    assert "local_incidence_angle" in needs_angle and "orbit_state" in needs_angle


def test_bands_without_their_source_are_a_sentence(world, curated, tmp_path):
    words = ("--data", curated, "--out", tmp_path / "net", *TINY)
    refuse("train_unet.py", *words, "--bands", "vv,snowfall-7", saying="--weather")
    other = tmp_path / "weather.csv"
    other.write_text("site,date,temperature_2m_mean,precipitation_sum\nsite-0,2021-11-30,1,1\n")
    other.with_suffix(".json").write_text('{"sites": {"site-0": {"elevation_m": 1}}}')
    rows = triplets.read_manifest(curated, other).rows
    elsewhere = next(row for row in rows if row["site"] == "site-1")
    with pytest.raises(BadInput, match=f"{elsewhere['id']}: band snowfall-7 .*--weather"):
        triplets.read_image(elsewhere, ["vv", "snowfall-7"])
    late = next(row for row in rows if row["site"] == "site-0" and row["date"] == "2021-12-01")
    with pytest.raises(BadInput, match=r"site-0: .* 2021-11-30 to 2021-11-30 .* cover 2021-12-01"):
        triplets.read_image(late, ["vv", "temperature-1"])
    with pytest.raises(BadInput, match=r"no dem file for band elevation"):
        triplets.read_image({**late, "dem": None}, ["vv", "temperature-1"])
    with pytest.raises(BadInput, match="snowfall-8"):
        channels.check_channels(("vv", "snowfall-8"))


def test_northness_and_eastness_point_where_the_slope_faces():
    assert channels.northness(np.array([90.0, 30, 0]), np.array([0.0, 180, 0])) == pytest.approx([1, -0.5, 0])
    assert channels.eastness(np.array([90.0, 30, 0]), np.array([90.0, 270, 0])) == pytest.approx([1, -0.5, 0])


def test_simulated_data_says_so():
    assert triplets.origin([{"product": "GRD"}, {"product": "simulated by x"}]) == " (simulated data)"
    assert triplets.origin([{"product": "GRD"}, {"product": ""}, {}]) == ""


# ---- what a review found -----------------------------------------------------------------------------------


def test_an_untagged_void_in_the_dem_is_refused_by_name(world, tmp_path):
    site = tmp_path / "scenes" / "site-0"
    shutil.copytree(world / "scenes" / "site-0", site)
    dem = rasters.open_header(site / "dem.tif")
    values = rasters.read(dem, dem.bands)
    values[0, 30, 30] = -3.4e38
    rasters.write(site / "dem.tif", values, dem.bands, dem.grid, 0)
    refuse(
        "curate", "--data", tmp_path / "scenes", "--out", tmp_path / "c", "--workers", 0,
        saying="holds an elevation of -3.4e+38 m; set its nodata value",
    )  # fmt: skip


def test_the_season_is_half_a_year_on_in_the_south():
    north, south = (channels.season_angle("2021-01-15", latitude) for latitude in (46, -46))
    assert np.sin(north) == pytest.approx(-np.sin(south)) and np.cos(north) == pytest.approx(-np.cos(south))


def test_a_checkpoints_kind_of_reference_is_taken_and_no_other(tmp_path):
    for name in ("066_summer_before-2021", "066_warm_before-2021", "066_summer_before-2022", "066_summer"):
        (tmp_path / f"{name}.tif").touch()

    def chosen(*kind, date="2021-12-15"):
        path = references.choose(tmp_path, "066", date, 47, kind)
        return path and path.stem

    assert chosen("summer", "earlier") == "066_summer_before-2022"
    assert chosen("summer", "earlier", date="2021-03-01") == "066_summer_before-2021"
    assert chosen("summer", "all") == "066_summer" and chosen("warm", "all") is None
    assert chosen("warm", "earlier") == "066_warm_before-2021"
    assert chosen("summer", "earlier", date="2020-03-01") is None  # never the mean of all years


def test_where_the_radar_saw_nothing_the_angles_stay(world, tmp_path):
    """A control without the current image must not see its holes."""
    site = tmp_path / "scenes" / "site-0"
    shutil.copytree(world / "scenes" / "site-0", site)
    scene = next((site / "s1").glob("2021-12*"))
    raster = rasters.open_header(scene)
    values = rasters.read(raster, raster.bands)
    values[raster.bands.index("VH"), 20:30, 20:30] = np.nan
    rasters.write(scene, values, raster.bands, raster.grid, np.nan, **raster.tags)
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "c", "--workers", 0)
    rows = [r for r in triplets.read_manifest(tmp_path / "c").rows if r["s1_date"] == scene.stem[:17]]
    holes = 0
    for row in rows:
        seen = triplets.read_image(row, ("vv", "local-incidence-angle"))
        holes += np.isnan(seen[0]).sum()
        assert not np.isnan(seen[1]).any()
        assert (triplets.read_mask(row)[np.isnan(seen[0])] == 255).all()
    assert holes >= 100


@pytest.mark.parametrize(
    "column, value, saying",
    [
        ("s1_date", "../../etc/2021-01-10", "is not YYYY-MM-DD"),
        ("snow_fraction", "", "snow_fraction '' is not a number"),
        ("latitude", "nan", "latitude 'nan' is not a number"),
        ("id", "a/../../b", "no safe name"),
    ],
)
def test_values_of_a_manifest_are_checked(curated, tmp_path, column, value, saying):
    rows = list(csv.DictReader((curated / "triplets.csv").read_text().splitlines()))
    rows[0][column] = value
    triplets.write_manifest(tmp_path / "triplets.csv", rows)
    refuse("split", "--data", tmp_path, "--out", tmp_path / "out", saying=saying)


def test_a_cut_cache_entry_is_made_again_and_a_file_is_no_cache(curated, tmp_path):
    from data_prep import batches

    rows = triplets.read_manifest(curated).rows[:1]
    cached = batches.TripletDataset(rows, ("vv", "slope"), cache=tmp_path)
    whole = cached[0, 0][0]
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    assert np.array_equal(cached[0, 0][0], whole, equal_nan=True)
    (tmp_path / "file").touch()
    refuse(
        "train_unet.py", "--data", curated, "--out", tmp_path / "t", "--cache", tmp_path / "file",
        saying="is a file, expected a folder",
    )  # fmt: skip
