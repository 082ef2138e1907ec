"""climate_analysis as a user runs it: the original's table to the printed digit, made series, bad tables."""

import csv
import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, refuse, result, run

from data_prep import climate_figures, climate_report
from models import climate_tests, verdicts

JOB = "climate_analysis.py"
ORIGINAL = SHARED / "original" / "results_df.csv"
FIGURES = (
    "snow_vs_climate_scatter_with_regression", "seasonal_regression_plots", "climate_vs_snow_pixels",
    "snow_pixels_over_time", "max_temp_regression", "max_temp_time",
)  # fmt: skip


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def number(row, name):
    return float(row[name])


def only(rows, **wanted):
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


# ---- the original's table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    if not ORIGINAL.exists():
        pytest.skip("the original's table, shared/data/original/results_df.csv, is not beside the repository")
    out = tmp_path_factory.mktemp("original") / "out"
    done = run(JOB, "--data", ORIGINAL, "--original-axes", "--out", out)
    return out, result(done), done.stderr


PRINTED = {  # variable: over rows raw, deseasonalised (4 digits), over per-date means raw, deseasonalised (3)
    "temperature_2m_max": (-0.4985, -0.1249, -0.609, -0.272),
    "temperature_2m_min": (-0.5156, -0.1361, None, None),
    "precipitation_sum": (0.0800, -0.0187, None, None),
    "snowfall_sum": (0.2625, 0.0090, 0.280, -0.023),
    "relative_humidity_2m_mean": (-0.2814, 0.0137, -0.280, 0.043),
}


@pytest.mark.parametrize("variable", PRINTED)
def test_correlations_of_the_original_to_the_printed_digit(original, variable):
    rows, printed = rows_of(original[0] / "associations.csv"), PRINTED[variable]
    cases = [(of, how) for of in ("row", "date") for how in ("raw", "deseasonalised")]
    for (of, how), value, digits in zip(cases, printed, (4, 4, 3, 3), strict=True):
        row = only(rows, variable=variable, row=of, treatment=how)
        assert row["n"] == {"row": "895", "date": "479"}[of]
        if value is not None:
            assert round(number(row, "r"), digits) == value


def test_collinearity_of_the_original(original):
    rows = rows_of(original[0] / "vif.csv")
    vif = {row["variable"]: round(float(row["vif"]), 2) for row in rows if row["treatment"] == "raw"}
    assert vif["temperature_2m_max"] == 10.86 and vif["temperature_2m_min"] == 10.52


def test_annual_trends_of_the_original(original):
    rows = rows_of(original[0] / "trends.csv")
    for over, tau, p, slope, low, high in (
        ("rows", -0.20, 0.45, -670, -2070, 1506), ("dates", 0.09, 0.76, 672, -2791, 2521),
    ):  # fmt: skip
        row = only(rows, series="snow", season=f"annual means over {over}", method="Kendall's tau, Theil-Sen")
        assert round(number(row, "tau"), 2) == tau and round(number(row, "p"), 2) == p
        assert [round(number(row, f"slope{end}") / 10) for end in ("", "_low", "_high")] == [slope, low, high]
    row = only(rows, series="temperature_2m_max", season="annual means over rows", method="least squares")
    assert round(number(row, "slope") / 10, 3) == -0.014 and round(number(row, "p"), 2) == 0.87


def test_seasonal_slopes_of_the_original_and_how_the_definition_moves_winter(original):
    rows = rows_of(original[0] / "seasonal.csv")
    for season, slope, p in (
        ("winter", -518, 0.69), ("spring", 599, 0.71), ("summer", 145, 0.91), ("fall", -684, 0.64),
    ):  # fmt: skip
        row = only(rows, season=season, method="least squares, rows on calendar year + day / 365.25")
        assert round(number(row, "slope") / 10) == slope and round(number(row, "p"), 2) == p
    for method, slope in (
        ("means of calendar years", 88), ("means of seasons, named for the year they end in", -1321),
        ("rows on calendar year", 149),
    ):  # fmt: skip
        row = only(rows, season="winter", method=f"least squares, {method}")
        assert round(number(row, "slope") / 10) == slope


def test_verdicts_on_the_original_claims(original):
    told = {row["claim"]: row["verdict"] for row in rows_of(original[0] / "verdicts.csv")}
    few = [claim for claim in told if claim.startswith("11 years are too few")]
    assert told == {
        "colder days (maximum) go with more snow": "supported",
        "colder days (minimum) go with more snow": "supported",
        "more precipitation goes with more snow": "not supported",
        "more snowfall goes with more snow": "not supported",
        "drier air goes with more snow": "not supported",
        "the maximum temperature has risen, on dates of snow cover": "undetectable with this n",
        "colder days (mean) go with more snow": "not tested",
        **{f"snow cover in {season} has fallen": "undetectable with this n"
           for season in ("winter", "spring", "summer", "fall")},
        "snow cover has fallen": "undetectable with this n",
        few[0]: "supported",
    }  # fmt: skip


def test_what_the_original_leaves_open_is_said(original):
    _, _, said = original
    assert "20 of 895 counts stand at 512 x 512" in said
    assert "unnamed place" in said and "up to 3 a date" in said


def test_figures_tables_and_the_list_of_tests(original):
    out = original[0]
    for name in (*FIGURES, "Winter_regression_plot", "climatology", "trends", "diagnostics"):
        assert (out / f"{name}.png").stat().st_size > 10_000 and (out / f"{name}.pdf").stat().st_size > 1000
    tests = rows_of(out / "tests.csv")
    assert len(tests) == original[1]["tests"] > 100
    assert all(0 <= float(row["p"]) <= 1 for row in tests)
    order = np.argsort([float(row["p"]) for row in tests])
    corrected = np.array([float(row["p_corrected"]) for row in tests])[order]
    assert (np.diff(corrected) >= 0).all()  # Benjamini and Hochberg keep the order
    assert (corrected >= np.sort([float(row["p"]) for row in tests])).all()
    for name in ("associations", "seasonal", "trends", "regression"):
        text = (out / "tables" / f"{name}.tex").read_text()
        assert text.startswith("\\begin{table}") and text.count("\\\\") > 3
        for sign in "%_":
            assert all(a == "\\" for a, b in itertools.pairwise(text) if b == sign), (name, sign)


# ---- made series -------------------------------------------------------------------------------------------


def write_series(folder, years=8, sites=("a", "b", "c", "d"), every=12, beta=-0.02, seed=0, **more):
    """snow_cover.csv and weather.csv in which snow falls by `beta` for each degree of the day's anomaly."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    days = pd.date_range("2010-01-01", f"{2010 + years}-12-31")
    season = np.cos(2 * np.pi * (days.day_of_year.to_numpy() - 15) / 365.25)
    cover, weather = [], []
    for site in sites:
        noise = np.convolve(random.normal(0, 3, len(days) + 9), np.full(10, 10**-0.5), "valid")
        table = pd.DataFrame({
            "site": site, "date": days.strftime("%Y-%m-%d"), "temperature_2m_max": 8 - 12 * season + noise,
            "temperature_2m_min": -2 - 12 * season + noise, "temperature_2m_mean": 3 - 12 * season + noise,
            "precipitation_sum": random.gamma(0.5, 6, len(days)),
            "relative_humidity_2m_mean": random.uniform(50, 95, len(days)),
        })  # fmt: skip
        table["snowfall_sum"] = np.where(
            table["temperature_2m_mean"] < 1, table["precipitation_sum"] * 0.7, 0
        )
        weather.append(table)
        fraction = (0.45 + 0.25 * season + beta * noise + random.normal(0, 0.05, len(days))).clip(0, 1)
        snow = np.round(10_000 * fraction[::every]).astype(int)
        cover.append(pd.DataFrame({
            "site": site, "date": table["date"][::every], "source": "unet", "relative_orbit": "66",
            "valid_pixels": 10_000, "snow_pixels": snow, "snow_fraction": snow / 10_000,
            "snow_area_km2": snow / 1e4,
        }))  # fmt: skip
    pd.concat(cover).to_csv(folder / "snow_cover.csv", index=False)
    pd.concat(weather).round(3).to_csv(folder / "weather.csv", index=False)
    units = {"temperature_2m_max": "°C", "temperature_2m_min": "°C", "temperature_2m_mean": "°C",
             "precipitation_sum": "mm", "snowfall_sum": "cm", "relative_humidity_2m_mean": "%"}  # fmt: skip
    about = {"units": units, "timezone": "UTC", "sites": {site: {"elevation_m": 1000} for site in sites}}
    (folder / "weather.json").write_text(json.dumps({**about, **more}))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = write_series(tmp_path_factory.mktemp("made") / "in")
    done = run(JOB, "--data", folder, "--out", folder.parent / "out", "--resamples", 200)
    return folder, folder.parent / "out", result(done)


def test_a_planted_slope_is_found_and_what_was_not_planted_is_not(made):
    rows = rows_of(made[1] / "associations.csv")
    row = only(rows, variable="temperature_2m_mean", treatment="deseasonalised")
    assert number(row, "slope_low") < -0.02 < number(row, "slope_high") < 0
    raw = only(rows, variable="temperature_2m_mean", treatment="raw")
    assert number(raw, "r") < number(row, "r")  # season makes it look stronger
    told = {r["claim"]: r["verdict"] for r in rows_of(made[1] / "verdicts.csv")}
    assert told["colder days (mean) go with more snow"] == "supported"
    assert told["drier air goes with more snow"] == "not supported"


@pytest.mark.slow
def test_the_original_does_not_depend_on_the_order_of_its_rows(original, tmp_path):
    table = pd.read_csv(ORIGINAL, dtype=str).sample(frac=1, random_state=1)
    table.to_csv(tmp_path / "mixed.csv", index=False)
    run(JOB, "--data", tmp_path / "mixed.csv", "--original-axes", "--out", tmp_path / "out")
    for name in ("associations.csv", "trends.csv", "seasonal.csv", "regression.csv"):
        ours, theirs = (pd.read_csv(f / name) for f in (original[0], tmp_path / "out"))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-9)


def test_lags_and_snow_season_are_written_and_the_run_repeats(made):
    folder, out, figures = made
    names = {row["variable"] for row in rows_of(out / "lags.csv")}
    assert {
        "temperature_2m_mean_7d",
        "snowfall_sum_14d",
        "degree_days_30d",
        "snowfall_since_october",
    } <= names
    assert rows_of(out / "snow_season.csv") and (out / "lags.png").exists()
    assert figures["errors"] == "year" and figures["regression"]["leave_one_year_out"]["r2"] > 0
    assert "already done" in run(JOB, "--data", folder, "--out", out, "--resamples", 200).stderr


@pytest.mark.slow
def test_shuffled_rows_give_the_same_figures(made, tmp_path):
    folder, out, _ = made
    for name in ("snow_cover.csv", "weather.csv"):
        pd.read_csv(folder / name, dtype=str).sample(frac=1, random_state=0).to_csv(
            tmp_path / name, index=False
        )
    shutil.copy(folder / "weather.json", tmp_path)
    run(JOB, "--data", tmp_path, "--out", tmp_path / "out", "--resamples", 200)
    for name in ("associations.csv", "trends.csv", "seasonal.csv", "regression.csv"):
        ours, theirs = (pd.read_csv(f / name) for f in (out, tmp_path / "out"))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-9)


@pytest.mark.slow
def test_masks_of_other_origin_are_compared_on_common_dates(made, tmp_path):
    cover = pd.read_csv(made[0] / "snow_cover.csv")
    worse = cover.assign(
        source="worse", snow_pixels=(5000 + (cover["snow_pixels"] - 5000) / 2).round().astype(int)
    )
    worse["snow_fraction"] = worse["snow_pixels"] / worse["valid_pixels"]
    pd.concat([cover, worse[worse["date"] > "2012"]]).to_csv(tmp_path / "snow_cover.csv", index=False)
    for name in ("weather.csv", "weather.json"):
        shutil.copy(made[0] / name, tmp_path)
    refuse(JOB, "--data", tmp_path, "--out", tmp_path / "out", saying="mixes source")
    run(JOB, "--data", tmp_path, "--source", "unet", "--out", tmp_path / "out", "--resamples", 200)
    rows = [row for row in rows_of(tmp_path / "out/sources.csv") if row["question"] == "association"]
    slope = {
        row["source"]: float(row["slope"]) for row in rows if row["variable"] == "temperature_2m_mean_30d"
    }
    assert slope["worse"] == pytest.approx(slope["unet"] / 2, rel=0.01)
    assert len({row["n"] for row in rows}) == 1 and (tmp_path / "out/sources.png").exists()


# ---- what is refused or warned of --------------------------------------------------------------------------


def test_one_year_gives_no_trend_and_says_so(tmp_path):
    folder = write_series(tmp_path / "in", years=0)
    done = run(JOB, "--data", folder, "--out", tmp_path / "out")
    assert "one year" in done.stderr
    told = {row["claim"]: row["verdict"] for row in rows_of(tmp_path / "out/verdicts.csv")}
    assert told["snow cover has fallen"] == "not tested"
    assert {told[claim] for claim in told if claim.startswith("1 year is too few")} == {"not tested"}
    for table in ("trends", "seasonal"):  # lines through many dates of one year are no trend either
        for row in rows_of(tmp_path / "out" / f"{table}.csv"):
            assert not row["p"] and not row["slope"] and row["why_not"], row
    assert "1 year; a trend needs 5 or more" in result(done)["left_out"]["trends"]
    assert not (tmp_path / "out" / "trends.png").exists()


def test_annual_means_of_weather_are_of_whole_years(tmp_path):
    """Weather of 2010 and half of 2011: half a year is half of the seasons."""
    folder = write_series(tmp_path / "in", years=1, sites=("a",))
    for name in ("weather.csv", "snow_cover.csv"):
        table = pd.read_csv(folder / name)
        table[table["date"] < "2011-07-01"].to_csv(folder / name, index=False)
    run(JOB, "--data", folder, "--out", tmp_path / "out")
    rows = [r for r in rows_of(tmp_path / "out/trends.csv") if r["season"] == "annual means over days"]
    assert rows and all(row["years"] == "1" for row in rows)


def test_bad_tables_are_refused_with_a_sentence(made, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"

    def case(saying, cover=None, weather=None, about=None, words=()):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made[0], folder)
        for name, change in (("snow_cover.csv", cover), ("weather.csv", weather)):
            if change is not None:
                change(pd.read_csv(folder / name)).to_csv(folder / name, index=False)
        if about is not None:
            known = json.loads((folder / "weather.json").read_text())
            (folder / "weather.json").write_text(json.dumps(about(known)))
        refuse(JOB, "--data", folder, "--out", out, *words, saying=saying)
        assert not out.exists()

    case("dates", cover=lambda t: t[t["date"] < "2010-02"])
    case("snow is", cover=lambda t: t.assign(snow_pixels=0, snow_fraction=0.0))
    case("expected °C", about=lambda k: {**k, "units": {**k["units"], "temperature_2m_max": "°F"}})
    case("no row", weather=lambda t: t.assign(date="2031-01-01"))
    both = ("has weather of 1990-01-02 to", "snow of 2010-01-01 to 2018-12-")
    for part in both:
        case(
            part, weather=lambda t: t.assign(date=(pd.to_datetime(t["date"]) - pd.Timedelta("7304D")).dt.date)
        )
    case("has weather of x, but", weather=lambda t: t[t["site"] == "a"].assign(site="x"))
    case("column", cover=lambda t: t.drop(columns="valid_pixels"))
    case("hemispheres", about=lambda k: {**k, "sites": {
        s: {"elevation_m": 1, "latitude": 45 if s < "c" else -45} for s in "abcd"}})  # fmt: skip
    case("--predictors", words=("--predictors", "moon_phase"))
    case("--seasons", words=("--seasons", "winter=12,1,2", "cold=2,3"))
    case("--worth-r", words=("--worth-r", "2"))
    case("has no source", words=("--source", "sam"))
    case("stands twice", words=("--predictors", "temperature_2m_mean", "temperature_2m_mean_1d"))
    case("latitude of site a", about=lambda k: {**k, "sites": {"a": {"latitude": 146.5}}})
    case("days before it; bring daily weather", weather=lambda t: t.iloc[::7])
    case("needs 3 sites", cover=lambda t: t[t["site"] == "a"], words=("--errors", "site"))


@pytest.mark.slow
def test_strange_names_thin_sites_weak_sources_and_late_weather_do_not_stop_it(made, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(made[0], folder)
    cover, weather = pd.read_csv(folder / "snow_cover.csv"), pd.read_csv(folder / "weather.csv")
    names = {"a": "$^$", "b": "_hidden", "c": "<b>c</b>", "d": "d\\textbf{%"}
    cover, weather = (t.assign(site=t["site"].map(names)) for t in (cover, weather))
    weak = cover.iloc[:3].assign(source="weak")
    once = pd.concat([cover.iloc[[40 + k]].assign(site=f"once {k}") for k in range(5)])
    more = pd.concat([weather[weather["site"] == "$^$"].assign(site=f"once {k}") for k in range(5)])
    weather = pd.concat([weather, more]).assign(wind_gusts_10m_max=np.nan)
    weather.loc[weather["date"] > "2016", "wind_gusts_10m_max"] = 50.0
    pd.concat([cover, weak, once]).to_csv(folder / "snow_cover.csv", index=False)
    weather[weather["date"] > "2011"].to_csv(folder / "weather.csv", index=False)
    about = json.loads((folder / "weather.json").read_text())
    (folder / "weather.json").write_text(json.dumps({**about, "sites": {}}))
    words = ("--source", "unet", "--seasons", "winter=12,1,2", "cold=3", "--response-scale", "logit")
    done = run(JOB, "--data", folder, "--out", tmp_path / "out", "--resamples", 200, *words)
    assert "weak is not compared" in done.stderr and "wind_gusts" in done.stderr
    told = {row["claim"]: row["verdict"] for row in rows_of(tmp_path / "out/verdicts.csv")}
    assert told["colder days (mean) go with more snow"] == "supported"
    trend = only(rows_of(tmp_path / "out/trends.csv"), series="snow", season="all months", default="True")
    assert trend["years"] == "9"  # snow of 2010 counts, although weather begins in 2011
    assert "logit of snow fraction" in (tmp_path / "out/regression.csv").read_text()


def test_dropped_rows_have_reasons_and_a_southern_site_has_southern_seasons(made, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(made[0], folder)
    cover = pd.read_csv(folder / "snow_cover.csv")
    extra = cover.iloc[[0, 1, 2]].assign(date=["2098-01-01", "2010-13-01", "2010-06-01T10:00Z"])
    thin = cover.iloc[[5]].assign(date="2010-07-04", valid_pixels=100, snow_pixels=1, snow_fraction=0.01)
    pd.concat([cover, extra, thin, cover.iloc[[9]]]).to_csv(folder / "snow_cover.csv", index=False)
    about = json.loads((folder / "weather.json").read_text())
    about["sites"] = {site: {"elevation_m": 1000, "latitude": -40.0} for site in about["sites"]}
    (folder / "weather.json").write_text(json.dumps(about))
    done = result(run(JOB, "--data", folder, "--out", tmp_path / "out", "--resamples", 200))
    reasons = [row["reason"] for row in rows_of(tmp_path / "out/dropped.csv")]
    assert done["dropped"] == len(reasons) == 5
    for word in ("future", "YYYY-MM-DD", "time", "valid", "repeats"):
        assert any(word in reason for reason in reasons), (word, reasons)
    winter = only(
        rows_of(tmp_path / "out/seasonal.csv"), season="winter", method="least squares, rows on calendar year"
    )
    months = pd.to_datetime(cover["date"]).dt.month.isin([6, 7, 8])
    assert int(winter["n"]) == months.sum()


# ---- words and figures of little data ----------------------------------------------------------------------


def test_too_few_years_for_any_trend_answer_nothing():
    told = verdicts.too_few(
        {"years": 2, "n": 24, "why_not": "2 years; a trend needs 5 or more"}, 0.36, "km² a decade"
    )
    assert told["verdict"] == "not tested"
    claim = "2 years are too few to show a trend of 0.36 km² a decade"
    assert told["in_words"] == f"{claim}: not tested; 2 years; a trend needs 5 or more."


def test_a_scatter_prints_the_slope_and_r_of_its_own_line():
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"site": list("ab") * 50, "date": pd.Timestamp("2020-01-05"), "t": random.normal(size=100)}
    )
    rows["snow"] = 0.5 - 0.1 * rows["t"] + random.normal(0, 0.1, 100)
    tables = SimpleNamespace(units={"t": "°C"}, response="snow_fraction")
    row = climate_tests.association(rows["snow"], rows["t"], rows["site"], None, rows["site"], "ols")
    for original, x, y, unit in (
        (False, "t", "snow", "snow fraction per °C"),
        (True, "snow", "t", "°C per snow"),
    ):
        args = SimpleNamespace(original_axes=original)
        drawn = climate_report.panel(args, rows, "t", ["winter"] * 100, row, tables, "raw")
        slope, intercept = np.polyfit(rows[x], rows[y], 1)
        assert np.allclose((drawn["slope"], drawn["intercept"]), (slope, intercept))
        words = drawn["title"].splitlines()[-2:]
        assert float(words[0].split()[1]) == pytest.approx(slope, rel=0.05) and words[1].startswith(unit)
        assert f"r {np.corrcoef(rows['t'], rows['snow'])[0, 1]:.3f}" in drawn["title"]


@pytest.mark.filterwarnings("error")
def test_a_short_series_has_axes_of_its_own_length(tmp_path, monkeypatch):
    """One year: no axis of decades, no number beside an axis that belongs to its ticks, titles inside."""
    drawn = {}
    monkeypatch.setattr(climate_figures, "save", lambda fig, path: drawn.update({path: fig}))
    season = {"first_day": 40, "last_day": None, "season_days": None}
    frame = [{"site": site, "hydrological_year": 2021, **season} for site in "abcdef"]
    climate_figures.snow_season("season", frame, "title " * 60)
    month = np.arange(1, 13)
    about = {"label": "snow", "month": month, "mean": month, "low": month, "high": month}
    days = [np.datetime64(f"2021-{m:02}-15") for m in month]
    climate_figures.climatology("months", {"snow": about}, {"snow": (days, np.full(12, 1e-17))}, "title")
    for fig in drawn.values():
        fig.canvas.draw()
        for axes in fig.axes:
            assert not axes.xaxis.get_offset_text().get_text() + axes.yaxis.get_offset_text().get_text()
        width = fig.get_window_extent().width
        box = fig._suptitle.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width
    assert [axes.get_xlim() for axes in drawn["season"].axes] == [(2020.5, 2021.5)] * 3
    assert "seen in one year only" in drawn["months"].axes[1].texts[0].get_text()


@pytest.mark.filterwarnings("error")
def test_a_season_without_a_line_has_no_empty_legend(tmp_path, caplog):
    bare = {"season": "winter", "years": [2020.1, 2020.2], "values": [1.0, 2.0], "lines": []}
    fitted = {**bare, "season": "summer", "lines": [("least squares", 0.1, -200.0, {"color": "k"})]}
    climate_figures.seasonal(tmp_path / "a.png", [bare, fitted], "snow", "title")
    assert (tmp_path / "a.png").stat().st_size > 0 and "No artists" not in caplog.text
