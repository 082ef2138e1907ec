"""The simulator holds to published figures; its job is deterministic, resumes, refuses nonsense."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import command, refuse, result, run

from data_prep import (
    rasters,
    sim_land,
    sim_optical,
    sim_radar,
    sim_snow,
    sim_weather,
    simulate,
    snow_index,
    terrain,
)

SIZE = 96


def flat_land(cover: int, canopy: float = 0.0, elevation: float = 1200.0) -> sim_land.Land:
    """Level ground of one cover, with the texture a site has."""
    random, shape = np.random.default_rng(3), (SIZE, SIZE)
    codes, zero = np.full(shape, cover, np.uint8), np.zeros(shape, np.float32)
    return sim_land.Land(
        "test", zero + elevation, zero, zero, codes, zero + canopy, sim_land.texture(random, codes),
        zero + 3.4, zero + 1,
    )  # fmt: skip


def state(**changes) -> dict:
    """Snow-free, moist, mild; `changes` as scalars."""
    usual = {
        "snow_fraction": 0.0, "snow_depth": 0.0, "liquid_water": 0.0, "wet_days": 0.0, "snow_age": 20.0,
        "soil_frozen": False, "soil_water": 0.2, "air_c": 8.0,
    }  # fmt: skip
    return {
        name: np.full((SIZE, SIZE), value, bool if name == "soil_frozen" else np.float32)
        for name, value in {**usual, **changes}.items()
    }


def mean_db(cover: int, canopy: float = 0.0, angle: float = 40.0, **changes) -> np.ndarray:
    """VV and VH in dB of the mean power over a cover."""
    angles = np.full((SIZE, SIZE), angle, np.float32)
    power = sim_radar.backscatter(
        flat_land(cover, canopy), state(**changes), angles, 200, np.random.default_rng(2)
    )
    return 10 * np.log10([p.mean() for p in power])


WET = {"snow_fraction": 1.0, "snow_depth": 0.8, "liquid_water": 0.025, "wet_days": 2.0, "air_c": 3.0}
DRY = {"snow_fraction": 1.0, "snow_depth": 0.8, "air_c": -4.0}


@pytest.mark.parametrize(
    "cover, canopy, vv, vh",
    [  # dB near 40 degrees; medians of snow-free real chips: VV -9.4..-11.6, VH -15.1..-17.7, VH-VV -6..-7
        (sim_land.TREE, 0.75, (-11.5, -8.5), (-17.0, -13.5)),
        (sim_land.MEADOW, 0.0, (-13.5, -10.0), (-20.0, -16.0)),
        (sim_land.CROP, 0.0, (-13.5, -9.0), (-20.5, -15.5)),
        (sim_land.ROCK, 0.0, (-12.0, -8.0), (-19.5, -15.5)),
        (sim_land.SETTLEMENT, 0.0, (-6.0, 1.0), (-13.0, -7.0)),
        (sim_land.LAKE, 0.0, (-27.0, -15.0), (-35.0, -23.0)),
    ],
)
def test_levels_by_cover(cover, canopy, vv, vh):
    found = mean_db(cover, canopy)
    assert vv[0] < found[0] < vv[1] and vh[0] < found[1] < vh[1], found


def test_cross_ratio_and_angle():
    forest, meadow = mean_db(sim_land.TREE, 0.75), mean_db(sim_land.MEADOW)
    for vv, vh in (forest, meadow):
        assert -7.5 < vh - vv < -4.5
    slope = (mean_db(sim_land.MEADOW, angle=45) - mean_db(sim_land.MEADOW, angle=30)) / 15
    assert ((slope > -0.25) & (slope < -0.08)).all()  # sigma0 of grassland: about -0.1 to -0.2 dB a degree


def test_wet_snow_drops_by_what_nagler_saw_and_dry_snow_hardly():
    reference = mean_db(sim_land.MEADOW)
    wet, dry = mean_db(sim_land.MEADOW, **WET) - reference, mean_db(sim_land.MEADOW, **DRY) - reference
    assert ((wet > -8) & (wet < -3)).all(), wet  # threshold -2 dB, drops of 3 dB and more (10.3390/rs8040348)
    assert (abs(dry) < 1).all(), dry
    forest = mean_db(sim_land.TREE, 0.75, **WET) - mean_db(sim_land.TREE, 0.75)
    assert ((forest > -2) & (forest < -0.2)).all(), forest  # why wet snow under trees is masked


def test_runoff_phase_rises_again():
    """Marin 2020: backscatter is lowest when the snow is ripe, and rises by some dB while it runs off."""
    early, late = (mean_db(sim_land.MEADOW, **{**WET, "wet_days": days}) for days in (0, 40))
    assert ((late - early > 2) & (late - early < 5)).all()


def test_deep_dry_snow_raises_the_cross_ratio():
    shallow, deep = (mean_db(sim_land.MEADOW, **{**DRY, "snow_depth": depth}) for depth in (0.3, 3.0))
    rise = (deep[1] - deep[0]) - (shallow[1] - shallow[0])
    assert 0.5 < rise < 3 and deep[1] > shallow[1] and 0 < deep[0] - shallow[0] < 1.5


def test_frozen_soil_and_crowns_look_like_wet_snow():
    frozen = mean_db(sim_land.CROP, soil_frozen=True, air_c=-8) - mean_db(sim_land.CROP)
    assert ((frozen > -4) & (frozen < -2)).all()
    crowns = mean_db(sim_land.TREE, 0.8, air_c=-10) - mean_db(sim_land.TREE, 0.8)
    assert ((crowns > -3) & (crowns < -0.8)).all()
    rain = mean_db(sim_land.MEADOW, soil_water=0.38) - mean_db(sim_land.MEADOW)
    assert ((rain > 1) & (rain < 4)).all()


def test_absorption_gives_the_penetration_depth_of_wet_snow():
    """At C-band about 30 cm at 1 % of water, under 10 cm at 3 %, some 4 cm at 5 % (Tiuri 1984)."""
    depth = 1 / sim_radar.absorption_per_m(np.array([0.01, 0.03, 0.05]))
    assert 0.2 < depth[0] < 0.4 and 0.05 < depth[1] < 0.1 and 0.03 < depth[2] < 0.06


def test_speckle_has_the_stated_looks_and_the_correlation_of_real_pixels():
    field = sim_radar.speckle(np.random.default_rng(0), (800, 800), 4.4)
    assert abs(field.mean() - 1) < 0.01 and abs(1 / field.var() - 4.4) < 0.15
    centred = field - field.mean()
    lag = [float((centred[:, :-k] * centred[:, k:]).mean() / field.var()) for k in (1, 2, 4)]
    assert 0.55 < lag[0] < 0.8 and 0.1 < lag[1] < 0.45 and abs(lag[2]) < 0.03


def test_noise_is_the_floor_and_facing_slopes_are_bright():
    shape, random = (400, 400), np.random.default_rng(0)
    nothing, angle = [np.zeros(shape, np.float32)] * 2, np.full(shape, 40, np.float32)
    seen = np.zeros(shape, np.uint8)
    dark = sim_radar.observe(nothing, angle, angle, seen, 4.4, "sigma0", random)
    assert abs(10 * np.log10((10 ** (dark / 10)).mean()) - sim_radar.NOISE_DB) < 0.1
    level = [np.full(shape, 0.1, np.float32)] * 2
    facing = sim_radar.observe(level, np.full(shape, 15, np.float32), angle, seen, 1000, "sigma0", random)
    brighter = 10 * np.log10(np.sin(np.radians(40)) / np.sin(np.radians(15)))
    assert abs(np.median(facing) - (-10 + brighter)) < 0.1
    shadow = sim_radar.observe(level, angle, angle, seen + 2, 4.4, "sigma0", random)
    assert np.median(shadow) < -25


def indices(cover: int, canopy: float = 0.0, day: int = 80, **changes):
    """NDSI, NDFSI, NIR of level ground under a spring sun."""
    land = flat_land(cover, canopy)
    reflectance = sim_optical.surface(land, state(**changes), day)
    zenith, azimuth = sim_optical.sun(46.9, day)
    lit = sim_optical.illuminate(reflectance, land, zenith, azimuth, np.zeros((SIZE, SIZE), bool))
    bands = dict(zip(sim_optical.BANDS, lit, strict=True))
    ndsi = snow_index.ndsi(bands["B03"], bands["B11"])
    return np.median(ndsi), np.median(snow_index.ndfsi(bands["B08"], bands["B11"])), np.median(bands["B08"])


def test_snow_indices_of_known_covers():
    for age, low, high in ((0, 0.65, 0.85), (30, 0.8, 0.98)):  # pure snow: NDSI 0.7 fresh to 0.95 coarse
        ndsi, ndfsi, nir = indices(sim_land.MEADOW, snow_fraction=1, snow_depth=1, snow_age=age, air_c=-3)
        assert low < ndsi < high and ndfsi > 0.6 and nir > 0.5
    ndsi, ndfsi, _ = indices(sim_land.TREE, 0.75, snow_fraction=1, snow_depth=1, air_c=-3)
    assert 0 < ndsi < 0.4 and ndfsi > 0.4  # bow-banff: 0.30 and 0.49 under trees (Klein 1998: NDSI 0-0.4)
    ndsi, ndfsi, _ = indices(sim_land.TREE, 0.75, day=200)
    # alps-drome, radium: NDSI -0.17..-0.37, NDFSI 0.13..0.42
    assert -0.6 < ndsi < -0.15 and 0.1 < ndfsi < 0.5
    ndsi, ndfsi, _ = indices(sim_land.MEADOW, day=200)
    assert ndsi < -0.2 and ndfsi > 0  # green meadow: NDFSI without snow, the trap of SCIENCE.md
    ndsi, _, nir = indices(sim_land.LAKE, day=200)
    assert ndsi > 0.4 and nir < 0.11  # what the water guard is for
    ndsi, ndfsi, _ = indices(sim_land.ROCK, day=200)
    assert -0.5 < ndsi < -0.1 and ndfsi < 0.1


def test_the_sun_stands_where_it_should():
    assert sim_optical.sun(46.9, 172, 12) == pytest.approx((46.9 - 23.45, 180), abs=0.3)
    assert sim_optical.sun(46.9, 355, 12) == pytest.approx((46.9 + 23.45, 180), abs=0.3)
    assert 90 < sim_optical.sun(46.9, 80, 9)[1] < 180


def test_weather_has_the_climate_it_claims():
    days = np.arange(np.datetime64("1991-01-01"), np.datetime64("2021-01-01"))
    months = (days.astype("datetime64[M]").astype(int)) % 12
    for height, annual, january, july in ((556, 9.7, 0.8, 18.8), (1594, 4.1, -4.5, 12.8)):  # Zurich, Davos
        series = sim_weather.generate(np.random.default_rng(1), days, 46.8, height)
        mean = series["temperature_2m_mean"]
        assert abs(mean.mean() - annual) < 0.6
        assert abs(mean[months == 0].mean() - january) < 1.6 and abs(mean[months == 6].mean() - july) < 1.6
        assert 900 < series["precipitation_sum"].sum() / 30 < 1600
        assert (series["temperature_2m_min"] < mean).all() and (mean < series["temperature_2m_max"]).all()
        total = series["rain_sum"] + series["snowfall_sum"] / sim_weather.CM_PER_MM
        assert np.allclose(total, series["precipitation_sum"])


def test_weather_errors_are_as_stated():
    days = np.arange(np.datetime64("2000-01-01"), np.datetime64("2010-01-01"))
    series = sim_weather.generate(np.random.default_rng(1), days, 46.8, 1500)
    exact = sim_weather.with_errors(np.random.default_rng(2), series, "exact")
    assert all(np.allclose(exact[name], series[name]) for name in series)
    lasting, spread, sums = [], [], []
    for seed in range(60):
        known = sim_weather.with_errors(np.random.default_rng(seed), series, "reanalysis")
        error = known["temperature_2m_mean"] - series["temperature_2m_mean"]
        lasting.append(error.mean())
        spread.append(error.std())
        sums.append(np.log(known["precipitation_sum"].sum() / series["precipitation_sum"].sum()))
    poor = [sim_weather.with_errors(np.random.default_rng(seed), series, "poor") for seed in range(60)]
    assert max(known["precipitation_sum"].max() for known in poor) == sim_weather.MOST_MM
    assert 0.8 < np.std(lasting) < 1.25 and 1.4 < np.mean(spread) < 1.6 and 0.18 < np.std(sums) < 0.33


def day_of(mean: float, low: float, high: float, precipitation: float) -> dict:
    """Weather of a day: °C and mm."""
    return {
        "temperature_2m_mean": mean, "temperature_2m_min": low, "temperature_2m_max": high,
        "precipitation_sum": precipitation,
    }  # fmt: skip


def test_snow_keeps_its_water():
    """What falls is in the pack, was held as water, or ran off: nothing else may happen to it."""
    land = flat_land(sim_land.MEADOW)
    snow = sim_snow.Snow(land, 1200.0, 0.0054)
    cold = day_of(-6.0, -9.0, -3.0, 10.0)
    warm, frosty = day_of(5.0, 1.0, 9.0, 0.0), day_of(-2.0, -8.0, 4.0, 0.0)
    for _ in range(30):
        snow.step(cold, 15)
    assert np.allclose(snow.swe, 300, rtol=1e-4) and not snow.liquid.any()
    assert 0.9 < snow.depth().mean() < 1.6 and (snow.fraction() > 0.99).all()  # 190-330 kg/m3
    before = snow.swe.mean()
    snow.step(warm, 100)
    assert 10 < before - snow.swe.mean() < 35
    assert snow.liquid.mean() <= sim_snow.HOLDING * snow.swe.mean() + 1e-3
    dusk = snow.at_overpass(warm, morning=False)["liquid_water"].mean()
    assert dusk > 0.01 and snow.at_overpass(frosty, morning=True)["liquid_water"].mean() < dusk
    for _ in range(60):
        snow.step(warm, 130)
    assert not snow.swe.any() and not snow.fraction().any()


def test_degree_days_of_a_straight_day():
    assert sim_snow.positive(np.float32(2), np.float32(4), np.float32(6)) == 4
    assert sim_snow.positive(np.float32(-6), np.float32(-4), np.float32(-2)) == 0
    assert sim_snow.positive(np.float32(-5), np.float32(0), np.float32(5)) == pytest.approx(1.25)


# ---- the job -----------------------------------------------------------------------------------------------

SMALL = ("--sites", 2, "--size", 48, "--years", 0.3, "--interval-days", 30)


def listing(folder) -> dict:
    """Content of every raster and table, by name."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in ("args.json", "result.json", "log.jsonl")
    }


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    done = run("simulate", "--out", tmp_path / "a", "--workers", 0, *SMALL)
    run("simulate", "--out", tmp_path / "b", "--workers", 2, *SMALL)
    run("simulate", "--out", tmp_path / "c", "--workers", 0, "--seed", 1, *SMALL)
    a, b, c = (listing(tmp_path / name) for name in "abc")
    assert a.keys() == b.keys() and all(a[name] == b[name] for name in a)
    assert a.keys() == c.keys() and a["scenes/sim-00/dem.tif"] != c["scenes/sim-00/dem.tif"]
    assert result(done)["radar"] == 8
    about = json.loads(a["scenes/sim-00/site.json"])
    assert about["source"].startswith("simulated")
    radar = rasters.open_radar(next((tmp_path / "a/scenes/sim-00/s1").iterdir()))
    assert radar.tags["product"] == "simulated" and radar.bands == ("VV", "VH", "incidence_angle")
    assert not np.isnan(rasters.read(radar, radar.bands)).any()
    weather = json.loads(a["weather.json"])
    assert weather["model"] == "simulated" and weather["sites"].keys() == {"sim-00", "sim-01"}


def test_stopped_it_goes_on_to_the_same_bytes(tmp_path):
    words = ("--sites", 4, "--size", 64, "--years", 0.5, "--interval-days", 12, "--workers", 0)
    run("simulate", "--out", tmp_path / "straight", *words)
    whole = listing(tmp_path / "straight")
    process = subprocess.Popen(
        command("simulate", "--out", tmp_path / "stopped", *words), stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    first = tmp_path / "stopped/scenes/sim-00/site.json"
    deadline = time.time() + 60
    while not first.exists() and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert not (tmp_path / "stopped/scenes/sim-03/site.json").exists()
    run("simulate", "--out", tmp_path / "stopped", *words)
    assert listing(tmp_path / "stopped") == whole


def test_two_tracks_see_morning_and_evening(tmp_path):
    words = ("--tracks", 2, "--sites", 1, "--size", 64, "--years", 1, "--workers", 0)
    run("simulate", "--out", tmp_path / "s", *words)
    site = tmp_path / "s/scenes/sim-00"
    water = {"053000_066": [], "171500_015": []}
    for path in sorted((site / "truth").iterdir()):
        raster = rasters.open_header(path)
        assert (site / "s1" / path.name).exists()
        water[path.stem[11:]].append(rasters.read(raster, ["liquid_water"]).mean())
    dawn, dusk = (np.array(values) for values in water.values())
    assert len(dawn) == len(dusk) == 31 and dusk.sum() > dawn.sum() > 0
    states = {rasters.open_header(p).tags["orbit_state"] for p in (site / "s1").iterdir()}
    assert states == {"ascending", "descending"}


def test_given_weather_drives_the_snow(tmp_path):
    run("simulate", "--out", tmp_path / "a", *SMALL, "--workers", 0)
    table = (tmp_path / "a/weather_exact.csv").read_text().splitlines()
    names = table[0].split(",")
    frozen = [table[0]]
    for line in table[1:]:
        fields = dict(zip(names, line.split(","), strict=True))
        fields.update(temperature_2m_mean="-8", temperature_2m_min="-12", temperature_2m_max="-4")
        frozen.append(",".join(fields[name] for name in names))
    (tmp_path / "w.csv").write_text("\n".join(frozen) + "\n")
    (tmp_path / "w.json").write_text((tmp_path / "a/weather_exact.json").read_text())
    run("simulate", "--out", tmp_path / "b", "--weather", tmp_path / "w.csv", *SMALL, "--workers", 0)

    def snow(folder):
        paths = sorted((folder / "scenes/sim-00/truth").iterdir())
        return np.mean([rasters.read(rasters.open_header(p), ["snow_depth"]).mean() for p in paths])

    assert snow(tmp_path / "b") > 1 > snow(tmp_path / "a")
    (tmp_path / "w.csv").write_text("\n".join(frozen[:100]) + "\n")
    words = ("--weather", tmp_path / "w.csv", *SMALL)
    refuse("simulate", "--out", tmp_path / "d", *words, saying="no complete weather")


@pytest.mark.parametrize(
    "words, saying",
    [
        (("--looks", 0), "speckle has 0.5 to 1000 looks"),
        (("--lapse-k-per-km", -3), "expected 0 to 10 K/km"),
        (("--years", 0), "--years in 0..100"),
        (("--interval-days", 400, "--years", 1), "leaves 1 date"),
        (("--interval-days", 0), "must be positive"),
        (("--start", "yesterday"), "no date"),
        (("--start", "NaT"), "no date"),
        (("--seed", -1), "--seed -1: must be zero or more"),
        (("--sites", 0), "must be positive"),
        (("--cloud-share", 1.5), "a share lies in 0..1"),
        (("--weather", "nowhere.csv"), "no such file"),
    ],
)
def test_bad_parameters_are_refused_in_a_sentence(tmp_path, words, saying):
    refuse("simulate", "--out", tmp_path / "s", *words, saying=saying)
    assert not (tmp_path / "s").exists()


def test_terrain_is_alpine():
    lands = [sim_land.make(np.random.default_rng(seed), 0, 256, terrain.slope_aspect) for seed in range(6)]
    assert 20 < np.mean([land.slope.mean() for land in lands]) < 30  # the high Alps: about 25 degrees
    for land in lands:
        assert abs(land.drift.mean() - 1) < 1e-3 and set(np.unique(land.cover)) <= set(sim_land.NAMES)
        assert (land.canopy[land.cover != sim_land.TREE] == 0).all() and land.canopy.max() < 0.95
    assert len({simulate.site_grid(number, 256).transform for number in range(36)}) == 36


def test_overwrite_leaves_no_scene_of_another_simulation(tmp_path):
    run("simulate", "--out", tmp_path / "a", "--workers", 0, *SMALL)
    words = ("--sites", 1, "--size", 32, "--years", 0.3, "--interval-days", 40, "--start", "2020-08-01")
    run("simulate", "--out", tmp_path / "a", "--workers", 0, *words, "--overwrite")
    run("simulate", "--out", tmp_path / "b", "--workers", 0, *words)
    assert listing(tmp_path / "a") == listing(tmp_path / "b")
    (tmp_path / "empty.csv").write_text(
        "site,date,temperature_2m_mean,temperature_2m_min,temperature_2m_max,precipitation_sum\n"
    )
    (tmp_path / "empty.json").write_text('{"sites": {}}')
    refuse(
        "simulate", "--out", tmp_path / "c", "--weather", tmp_path / "empty.csv", *SMALL, saying="has no site"
    )
