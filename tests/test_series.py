"""Calendars, anomalies, months, lagged weather and snow seasons: by hand, and against plain loops."""

import datetime
import math

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from data_prep import climate_tables, series
from data_prep.runs import BadInput


def rows_of(observed: dict[str, float], site: str = "a") -> pd.DataFrame:
    dates = pd.DatetimeIndex(list(observed)).astype("datetime64[ns]")
    return pd.DataFrame({"site": site, "date": dates, "snow": list(observed.values())})


def many_rows(seed: int = 0, n: int = 400) -> pd.DataFrame:
    """Rows of three sites over six years, with holes and missing values."""
    random = np.random.default_rng(seed)
    days = random.choice(np.arange(np.datetime64("2015-09-01"), np.datetime64("2021-09-01")), n)
    rows = pd.DataFrame({
        "site": random.choice(list("abc"), n), "date": days.astype("datetime64[ns]"),
        "snow": random.random(n), "temperature_2m_mean": random.normal(0, 8, n),
    })  # fmt: skip
    rows.loc[random.random(n) < 0.1, "temperature_2m_mean"] = np.nan
    return rows


# ---- seasons and years -------------------------------------------------------------------------------------


def test_seasons_are_parsed_in_their_order():
    assert series.parse_seasons(None) == series.SEASONS
    assert series.parse_seasons(["winter=1,12,2", "rest=mar,April,5"]) == {
        "winter": (12, 1, 2),
        "rest": (3, 4, 5),
    }
    assert series.parse_seasons(["year=1,2,3,4,5,6,7,8,9,10,11,12"])["year"] == tuple(range(1, 13))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["winter=12,1,2", "cold=2,3"], "month 2 is in winter already"),
        (["winter=12,1,13"], "different months, 1 to 12"),
        (["winter=yule"], "different months, 1 to 12"),
        (["winter=1,1"], "different months"),
        (["winter="], "different months"),
        (["winter"], "different months"),
        (["=1,2"], "new, plain name"),
        (["../up=1,2"], "new, plain name"),
        (["a=1", "a=2"], "new, plain name"),
        (["odd=1,7"], "must follow each other"),
    ],
)
def test_seasons_that_cannot_be_are_refused(texts, message):
    with pytest.raises(BadInput, match=message):
        series.parse_seasons(texts)


def test_each_month_has_its_season_and_december_counts_to_the_next_year():
    dates = [f"2019-{month:02d}-15" for month in range(1, 13)] + ["2020-02-29"]
    assert series.season_of(dates, series.SEASONS).tolist() == [
        *["winter"] * 2, *["spring"] * 3, *["summer"] * 3, *["fall"] * 3, "winter", "winter"
    ]  # fmt: skip
    assert series.season_year(dates, series.SEASONS).tolist() == [2019] * 11 + [2020, 2020]
    south = series.southern(series.SEASONS)
    assert south == {"winter": (6, 7, 8), "spring": (9, 10, 11), "summer": (12, 1, 2), "fall": (3, 4, 5)}
    assert series.southern(south) == series.SEASONS
    long = series.parse_seasons(["snow=10,11,12,1,2,3,4,5"])
    assert series.season_year(dates, long).tolist() == [2019] * 9 + [2020] * 4
    assert series.season_of(dates, long).tolist()[5:9] == [""] * 4
    whole = series.parse_seasons(["year=1,2,3,4,5,6,7,8,9,10,11,12"])
    assert set(series.season_year(dates[:12], whole)) == {2019}


def test_hydrological_years_turn_in_october_or_in_april():
    dates = ["2019-09-30", "2019-10-01", "2020-03-31", "2020-04-01"]
    assert series.hydrological_year(dates).tolist() == [2019, 2020, 2020, 2020]
    assert series.hydrological_year(dates, southern=True).tolist() == [2020, 2020, 2020, 2021]
    assert series.hydrological_year(dates, [False, True, False, True]).tolist() == [2019, 2020, 2020, 2021]


def test_decimal_years_know_leap_years():
    found = series.decimal_year(["2019-01-01", "2019-12-31", "2020-02-29", "2020-12-31", "2100-12-31"])
    assert found == pytest.approx(
        [2019, 2019 + 364 / 365, 2020 + 59 / 366, 2020 + 365 / 366, 2100 + 364 / 365], abs=0
    )


# ---- means -------------------------------------------------------------------------------------------------


def test_anomalies_are_values_less_the_mean_of_their_site_and_month():
    rows = many_rows(n=120)
    found = series.anomalies(rows, ["snow", "temperature_2m_mean"])
    assert list(found.columns) == ["snow", "temperature_2m_mean"] and (found.index == rows.index).all()
    for name in found:
        for place, row in enumerate(rows.itertuples()):
            same = [r for r in rows.itertuples() if r.site == row.site and r.date.month == row.date.month]
            known = [getattr(r, name) for r in same if not math.isnan(getattr(r, name))]
            want = getattr(row, name) - np.mean(known) if known else math.nan
            assert found[name].iloc[place] == pytest.approx(want, abs=1e-12, nan_ok=True)


def test_the_published_correlations_of_the_original_table():
    """SCIENCE.md, over rows and over per-date means, raw and deseasonalised."""
    path = SHARED / "original" / "results_df.csv"
    if not path.exists():
        pytest.skip("the original's table is not there: ../shared/data/original is absent")
    rows = climate_tables.read(path).rows
    expected = {
        "temperature_2m_max": (-0.4985, -0.1249), "temperature_2m_min": (-0.5156, -0.1361),
        "precipitation_sum": (0.0800, -0.0187), "snowfall_sum": (0.2625, 0.0090),
        "relative_humidity_2m_mean": (-0.2814, 0.0137),
    }  # fmt: skip
    columns = ["snow", *expected]
    for name, (raw, without_season) in expected.items():
        assert round(rows["snow"].corr(rows[name]), 4) == raw
        less = series.anomalies(rows, columns)
        assert round(less["snow"].corr(less[name]), 4) == without_season
    means = series.per_date_means(rows)
    less = series.anomalies(means, columns)
    assert len(means) == 479 and means["n"].sum() == 895
    for name, raw, without_season in (
        ("temperature_2m_max", -0.609, -0.272), ("snowfall_sum", 0.280, -0.023),
        ("relative_humidity_2m_mean", -0.280, 0.043),
    ):  # fmt: skip
        assert round(means["snow"].corr(means[name]), 3) == raw
        assert round(less["snow"].corr(less[name]), 3) == without_season


def test_per_date_means_weigh_rows_alike():
    rows = pd.concat([rows_of({"2020-01-01": 1.0, "2020-01-02": 5.0}), rows_of({"2020-01-01": 4.0}, "b")])
    means = series.per_date_means(rows)
    assert (
        means["snow"].tolist() == [2.5, 5.0] and means["n"].tolist() == [2, 1] and set(means["site"]) == {""}
    )


@pytest.mark.parametrize("first_month", [1, 10])
def test_months_and_the_cube_of_years(first_month):
    rows = many_rows(1, 150)
    columns = ["snow", "temperature_2m_mean"]
    months = series.monthly(rows, columns)
    assert list(months.columns) == ["site", "year", "month", "decimal_year", "n", *columns]
    assert months["n"].sum() == len(rows) and not months.duplicated(["site", "year", "month"]).any()
    values, times, sites, years = series.cube(months, "temperature_2m_mean", first_month)
    assert values.shape == times.shape == (3, len(years), 12) and sites == ["a", "b", "c"]
    assert years == list(range(years[0], years[-1] + 1)) and np.isfinite(times).all()
    for i, site in enumerate(sites):
        for j, year in enumerate(years):
            for k in range(12):
                month = (first_month - 1 + k) % 12 + 1
                calendar = year - (first_month > 1 and month >= first_month)
                inside = (rows["site"] == site) & (rows["date"].dt.year == calendar)
                here = rows[inside & (rows["date"].dt.month == month)]
                known = here["temperature_2m_mean"].dropna()
                assert values[i, j, k] == pytest.approx(known.mean() if len(known) else math.nan, nan_ok=True)
                if len(known):
                    assert times[i, j, k] == pytest.approx(series.decimal_year(here["date"]).mean(), abs=1e-9)
                else:
                    assert times[i, j, k] == pytest.approx(calendar + (month - 0.5) / 12, abs=1e-9)
    assert np.isfinite(values).sum() == months["temperature_2m_mean"].notna().sum()


# ---- weather of the days before ----------------------------------------------------------------------------


def daily_weather(seed: int = 0) -> pd.DataFrame:
    random, index = np.random.default_rng(seed), pd.date_range("2018-08-15", "2020-06-30", unit="ns")
    n = len(index)
    frame = pd.DataFrame({
        "temperature_2m_max": random.normal(4, 6, n), "temperature_2m_min": random.normal(-4, 6, n),
        "snowfall_sum": random.exponential(1, n) * (random.random(n) < 0.4),
    }, index)  # fmt: skip
    return frame.mask(random.random((n, 3)) < 0.06)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("southern", [False, True])
def test_lagged_weather_is_that_of_a_loop_over_days(before, southern):
    daily = daily_weather()
    dates = pd.date_range("2018-08-10", "2020-07-05", freq="5D").append(
        pd.DatetimeIndex(["2019-10-01", "2020-02-29"])
    )
    names = series.lag_names(daily.columns)
    assert len(names) == len(set(names)) == 3 * 5 + 2 + 1
    found = series.lagged(daily, dates, names, southern, before)
    assert list(found.columns) == names and len(found) == len(dates)
    known = {day.date(): row for day, row in zip(daily.index, daily.to_dict("records"), strict=True)}

    def value(day: datetime.date, variable: str) -> float:
        row = known.get(day, {})
        if variable == "degree_days":
            both = [row.get(f"temperature_2m_{end}", math.nan) for end in ("max", "min")]
            return max(sum(both) / 2, 0) if not math.isnan(sum(both)) else math.nan
        return row.get(variable, math.nan)

    counted = 0
    for place, date in enumerate(dates.date):
        last = date - datetime.timedelta(before)
        for name in names:
            if name == "snowfall_since_october":
                month = 4 if southern else 10
                began = datetime.date(date.year - (date.month < month), month, 1)
                variable, length = "snowfall_sum", (last - began).days + 1
            else:
                variable, length = name.rsplit("_", 1)[0], int(name.rsplit("_", 1)[1][:-1])
            window = [value(last - datetime.timedelta(back), variable) for back in range(length)]
            there = [v for v in window if not math.isnan(v)]
            if length - len(there) > 0.2 * length:
                want = math.nan
            elif variable.endswith("_sum") or variable == "degree_days":
                want = sum(there) / len(there) * length if there else 0.0
            else:
                want = sum(there) / len(there)
            counted += not math.isnan(want)
            assert found[name].iloc[place] == pytest.approx(want, rel=1e-12, abs=1e-12, nan_ok=True), (
                name,
                date,
            )
    assert 0.5 * found.size < counted < found.size


def test_windows_end_with_the_date_and_lack_at_most_a_fifth():
    daily = pd.DataFrame(
        {"precipitation_sum": [1.0, 2, 4, 8, 16]}, pd.date_range("2020-02-27", periods=5, unit="ns")
    )
    names = ["precipitation_sum_1d", "precipitation_sum_5d"]
    assert series.lagged(daily, ["2020-03-02"], names).to_numpy().tolist() == [[16, 31]]
    assert series.lagged(daily, ["2020-03-02"], names, before=True).to_numpy()[0, 0] == 8
    assert series.lagged(daily, ["2020-03-03"], names, before=True).to_numpy().tolist() == [[16, 31]]
    daily.iloc[1] = np.nan  # one of five: the mean of the others stands for it
    assert series.lagged(daily, ["2020-03-02"], names).to_numpy()[0, 1] == 29 / 4 * 5
    daily.iloc[2] = np.nan
    assert np.isnan(series.lagged(daily, ["2020-03-02"], names).to_numpy()[0, 1])
    with pytest.raises(BadInput, match="no daily snowfall_sum; found precipitation_sum"):
        series.lagged(daily, ["2020-03-02"], ["snowfall_sum_7d"])
    with pytest.raises(BadInput, match="expected <variable>_<days>d"):
        series.lagged(daily, ["2020-03-02"], ["precipitation_sum_0d"])


def test_degree_days_prefer_the_daily_mean_and_count_thaw_alone():
    index = pd.date_range("2020-05-01", periods=7, unit="ns")
    daily = pd.DataFrame(
        {"temperature_2m_mean": [-5.0, 3, 0, 2.5, -1, 1, 4], "temperature_2m_max": 30.0}, index
    )
    assert series.lagged(daily, ["2020-05-07"], ["degree_days_7d"]).iloc[0, 0] == 10.5


def test_lags_go_to_the_rows_of_their_own_site():
    weather = {site: daily_weather(seed) for seed, site in enumerate("ab")}
    rows = many_rows(2, 60)
    names = ["snowfall_sum_7d", "temperature_2m_max_3d"]
    rows["date"] = rows["date"].where(rows["date"] < "2019-02-01", pd.Timestamp("2019-02-01"))
    found = series.with_lagged(rows, weather, names)
    assert list(found.columns) == [*rows.columns, *names] and found[rows.columns].equals(rows)
    for site, daily in weather.items():
        here = found[found["site"] == site]
        alone = series.lagged(daily, here["date"], names)
        assert np.array_equal(here[names].to_numpy(), alone.to_numpy(), equal_nan=True)
        assert alone.notna().any(axis=None)
    assert found.loc[found["site"] == "c", names].isna().all(axis=None)


# ---- snow seasons ------------------------------------------------------------------------------------------


def every(days: int, first: str, last: str, snow_from: str, snow_to: str, snow=1.0) -> dict[str, float]:
    dates = pd.date_range(first, last, freq=f"{days}D")
    return {f"{day:%Y-%m-%d}": snow if snow_from <= f"{day:%Y-%m-%d}" <= snow_to else 0.0 for day in dates}


def test_a_season_seen_daily_is_exact():
    (year,) = series.snow_season(
        rows_of(every(1, "2018-10-01", "2019-09-30", "2018-11-20", "2019-04-02"))
    ).to_dict("records")
    assert year["hydrological_year"] == 2019 and year["observed_dates"] == 365 and year["why_missing"] == ""
    assert (str(year["first_snow"])[:10], str(year["last_snow"])[:10]) == ("2018-11-20", "2019-04-02")
    assert (
        year["season_days"]
        == year["snow_days"]
        == (datetime.date(2019, 4, 2) - datetime.date(2018, 11, 20)).days + 1
    )


def test_snow_days_leave_out_the_bare_weeks_within_a_season():
    observed = every(1, "2018-10-01", "2019-09-30", "2018-12-01", "2019-03-10")
    observed |= dict.fromkeys((f"2019-01-{day:02d}" for day in range(5, 15)), 0.2)
    (year,) = series.snow_season(rows_of(observed)).to_dict("records")
    assert year["season_days"] == 100 and year["snow_days"] == 90


def test_southern_years_turn_in_april():
    observed = every(1, "2019-04-01", "2020-03-31", "2019-06-01", "2019-09-08")
    (year,) = series.snow_season(rows_of(observed), southern=True).to_dict("records")
    assert (year["hydrological_year"], year["season_days"]) == (2020, 100)


def test_transitions_in_gaps_are_not_told():
    observed = every(6, "2018-10-01", "2019-09-30", "2018-11-20", "2019-04-02")
    for gap, missing, other in (
        ("2018-11", "first_snow", "last_snow"),
        ("2019-04", "last_snow", "first_snow"),
    ):
        without = {day: value for day, value in observed.items() if not day.startswith(gap)}
        (year,) = series.snow_season(rows_of(without)).to_dict("records")
        assert pd.isna(year[missing]) and not pd.isna(year[other]) and np.isnan(year["season_days"])
        assert f"{missing}: 36 days without a date" in year["why_missing"] and year["longest_gap_days"] == 36
        assert np.isnan(year["snow_days"]) and "snow_days: dates at most 24 days apart" in year["why_missing"]
        (wide,) = series.snow_season(rows_of(without), max_gap_days=36).to_dict("records")
        assert not pd.isna(wide[missing]) and wide["snow_days"] > 100


def test_records_that_begin_or_end_in_snow_do_not_tell_the_season():
    (year,) = series.snow_season(
        rows_of(every(6, "2019-01-01", "2019-02-20", "2018-01-01", "2019-12-31"))
    ).to_dict("records")
    assert pd.isna(year["first_snow"]) and pd.isna(year["last_snow"])
    assert "first_snow: no date before 2019-01-01; last_snow: no date after 2019-02-18" in year["why_missing"]
    years = series.snow_season(rows_of(every(6, "2018-07-01", "2019-12-31", "2018-08-01", "2019-06-01")))
    assert years["hydrological_year"].tolist() == [2018, 2019, 2020]
    assert "first_snow: snow lay when the year began" in years["why_missing"][1]
    assert "last_snow: snow lay when the year ended" in years["why_missing"][0]
    assert "no date with snow" in years["why_missing"][2] and pd.isna(years["first_snow"][2])


def test_snow_seasons_are_of_fractions_or_of_counts_with_their_own_threshold():
    counts = rows_of(
        {
            day: 1000 * snow
            for day, snow in every(6, "2018-10-01", "2019-09-30", "2018-12-01", "2019-03-10").items()
        }
    )
    with pytest.raises(BadInput, match=r"a threshold of 0.5 is for fractions"):
        series.snow_season(counts)
    one = series.snow_season(counts, threshold=500)
    two = series.snow_season(counts.assign(snow=counts["snow"] / 1000))
    pd.testing.assert_frame_equal(one, two)
    assert len(series.snow_season(counts.iloc[:0])) == 0
