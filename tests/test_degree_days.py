import json
import time

import numpy as np
import pytest

from data_prep import degree_days
from data_prep.runs import BadInput

HEADER = "site,date,temperature_2m_mean,precipitation_sum\n"


def write(folder, lines, elevations=None, header=HEADER):
    path = folder / "weather.csv"
    path.write_text(header + "".join(f"{line}\n" for line in lines))
    sites = {site: {"elevation_m": m} for site, m in (elevations or {"a": 1000}).items()}
    path.with_suffix(".json").write_text(json.dumps({"sites": sites, "units": {}, "model": "test"}))
    return path


def series(temperatures, precipitation=None, elevation_m=1000.0):
    dates = np.datetime64("2020-01-01") + np.arange(len(temperatures))
    water = np.zeros(len(temperatures)) if precipitation is None else np.asarray(precipitation, float)
    return {
        "site": "a",
        "elevation_m": elevation_m,
        "dates": dates,
        "temperature_2m_mean": np.asarray(temperatures, float),
        "precipitation_sum": water,
    }


def test_the_table_becomes_daily_series_in_order_of_date(tmp_path):
    lines = ["a,2020-01-03,2,1", "b,2020-01-01,-5,0", "a,2020-01-01,1,", "b,2020-01-02,,3"]
    got = degree_days.read_weather(write(tmp_path, lines, {"a": 1000, "b": 2000.5}))
    assert got["a"]["elevation_m"] == 1000 and got["b"]["elevation_m"] == 2000.5
    assert [str(day) for day in got["a"]["dates"]] == ["2020-01-01", "2020-01-02", "2020-01-03"]
    assert np.array_equal(got["a"]["temperature_2m_mean"], [1, np.nan, 2], equal_nan=True)
    assert np.array_equal(got["a"]["precipitation_sum"], [np.nan, np.nan, 1], equal_nan=True)
    assert np.array_equal(got["b"]["temperature_2m_mean"], [-5, np.nan], equal_nan=True)


def test_by_hand():
    """Two pixels: at the station, and 1000 m above, 6.5 K colder."""
    weather = series([-5, 1, 10, 3], [4, 4, 4, 4])
    height = np.array([[1000.0, 2000.0]])
    assert degree_days.temperature(weather, "2020-01-03", 2, height).tolist() == [[5.5, -1.0]]
    assert degree_days.degree_days(weather, "2020-01-04", 4, height).tolist() == [[14.0, 3.5]]
    # at the station: all of -5, half of 1, none of 10 and 3; above: -11.5, -5.5, 3.5, -3.5 C
    assert degree_days.snowfall(weather, "2020-01-04T053000", 4, height).tolist() == [[6.0, 12.0]]
    assert degree_days.temperature(weather, "2020-01-01", 1, 1000).tolist() == -5


def test_higher_ground_is_colder_and_snowier_and_no_data_stays():
    random = np.random.default_rng(0)
    weather = series(random.normal(2, 8, 200), random.gamma(0.5, 8, 200))
    height = np.linspace(-100, 4000, 60).reshape(6, 10)
    height[2, 3] = np.nan
    for function, sign in (
        (degree_days.temperature, -1),
        (degree_days.degree_days, -1),
        (degree_days.snowfall, 1),
    ):
        plane = function(weather, "2020-06-30", 180, height)
        assert plane.dtype == np.float32 and plane.shape == height.shape
        assert np.array_equal(np.isnan(plane), np.isnan(height))
        assert (sign * np.diff(plane[np.isfinite(plane)]) > -1e-3).all()
    assert np.isnan(degree_days.snowfall(weather, "2020-06-30", 7, np.full((3, 3), np.nan))).all()


def test_the_table_of_elevations_is_close_to_the_sum_and_quick():
    random = np.random.default_rng(0)
    weather = series(random.normal(2, 8, 200), random.gamma(0.5, 8, 200))
    height = random.uniform(800, 2300, (256, 256)).astype(np.float32)
    daily = weather["temperature_2m_mean"][20:200]
    began = time.perf_counter()
    for _ in range(10):
        got = degree_days.degree_days(weather, "2020-07-18", 180, height)
    assert (time.perf_counter() - began) / 10 < 0.05  # 2 ms on an idle core
    some = height[:4, :50].astype(float)
    exact = np.maximum(daily - 0.0065 * (some[..., None] - 1000), 0).sum(axis=-1)
    assert np.abs(got[:4, :50] - exact).max() < 0.15  # K day, of some 900
    part = degree_days.degree_days(weather, "2020-07-18", 180, height[:4, :50])
    assert np.abs(part - got[:4, :50]).max() < 1e-3  # whatever else is in the window


def test_a_fifth_of_the_days_may_be_missing_and_counts_as_the_others():
    values = np.full(10, 4.0)
    values[[2, 7]] = np.nan
    weather = series(values, np.full(10, 3.0))
    assert degree_days.degree_days(weather, "2020-01-10", 10, 1000) == pytest.approx(40)
    weather["temperature_2m_mean"][5] = np.nan
    with pytest.raises(BadInput, match=r"site a: 3 of 10 days lack temperature_2m_mean .* 2020-01-10"):
        degree_days.degree_days(weather, "2020-01-10", 10, 1000)


@pytest.mark.parametrize(("date", "days"), [("2020-01-02", 3), ("2020-01-11", 1), ("2019-12-31", 1)])
def test_a_window_beyond_the_series_is_refused(date, days):
    with pytest.raises(BadInput, match=f"site a: .* from 2020-01-01 to 2020-01-10 .*{date}"):
        degree_days.temperature(series(np.zeros(10)), date, days, 1000)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a,2020-01-01,1,1", "a,2020-01-01,2,1"], "line 3: a 2020-01-01 stands twice"),
        (["a,2020-01-01,274.1,1"], "274.1 is outside -90..60 C"),
        (["a,2020-01-01,1,-4"], "precipitation_sum -4"),
        (["a,2020-01-01,inf,1"], "inf is outside"),
        (["a,2020-01-32,1,1"], "2020-01-32"),
        (["a,2020,1,1"], "line 2"),
        (["a,2020-01-01,warm,1"], "warm"),
        (["a,2020-01-01"], "line 2"),
        (["a,2020-01-01,1,1", "zz,2020-01-01,1,1"], "no elevation_m for site zz"),
    ],
)
def test_bad_tables(tmp_path, lines, said):
    with pytest.raises(BadInput, match=said) as error:
        degree_days.read_weather(write(tmp_path, lines))
    assert "weather." in str(error.value)


def test_bad_files(tmp_path):
    path = write(tmp_path, ["a,2020-01-01,1"], header="site,date,temperature_2m_mean\n")
    with pytest.raises(BadInput, match="precipitation_sum missing"):
        degree_days.read_weather(path)
    path.with_suffix(".json").write_text('{"sites": {"a": {}}}')
    with pytest.raises(BadInput, match=r"weather.json: needs .*elevation_m"):
        degree_days.read_weather(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(BadInput, match=r"weather.json: no such file"):
        degree_days.read_weather(path)
    write(tmp_path, ["a,2020-01-01,1,1"], {"a": 99999})
    with pytest.raises(BadInput, match="99999"):
        degree_days.read_weather(path)
    write(tmp_path, []).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"weather\.csv"):
        degree_days.read_weather(path)
