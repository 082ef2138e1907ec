"""Snow cover and weather as one table: what is dropped, and why; what is refused, in one sentence."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from data_prep import climate_tables
from data_prep.runs import BadInput

DAYS = [f"2020-{month:02d}-{day:02d}" for month in (1, 2, 3) for day in (1, 7, 13, 19, 25)] + ["2020-02-29"]
UNITS = {
    "temperature_2m_max": "°C",
    "temperature_2m_min": "°C",
    "precipitation_sum": "mm",
    "snowfall_sum": "cm",
}
ABOUT = {"timezone": "Europe/Zurich", "units": UNITS, "sites": {"a": {"elevation_m": 1000.0}, "b": {}}}


def cover_rows(sites=("a",), source="unet", orbit="066", days=DAYS) -> list[dict]:
    random = np.random.default_rng(len(source) + len(orbit))
    return [
        {
            "site": site, "date": day, "source": source, "relative_orbit": orbit, "valid_pixels": 1000,
            "snow_pixels": (snow := int(random.integers(100, 900))), "snow_fraction": snow / 1000,
            "snow_area_km2": snow / 1e4,
        }
        for site in sites for day in days
    ]  # fmt: skip


def weather_rows(sites=("a",)) -> list[dict]:
    random = np.random.default_rng(5)
    return [
        {
            "site": site, "date": f"{day:%Y-%m-%d}", "temperature_2m_max": round(random.normal(3, 4) + 5, 1),
            "temperature_2m_min": round(random.normal(0, 1) - 15, 1),
            "precipitation_sum": round(random.exponential(3), 1),
            "snowfall_sum": round(random.exponential(1), 2),
        }
        for site in sites for day in pd.date_range("2020-01-01", "2020-03-31")
    ]  # fmt: skip


def lay(folder, cover, weather, about=ABOUT):
    folder.mkdir(exist_ok=True)
    pd.DataFrame(cover).to_csv(folder / "snow_cover.csv", index=False)
    pd.DataFrame(weather).to_csv(folder / "weather.csv", index=False)
    if about is not None:
        (folder / "weather.json").write_text(json.dumps(about))
    return folder


def reasons(tables, file="snow_cover.csv") -> dict[int, str]:
    found = {drop["line"]: drop["reason"] for drop in tables.dropped if drop["file"] == file}
    assert len(found) == sum(drop["file"] == file for drop in tables.dropped), "a row dropped twice"
    return found


def said(tables, text: str) -> bool:
    return any(text in note for note in tables.notes)


# ---- the join ----------------------------------------------------------------------------------------------


def test_join_has_the_values_of_both_tables(tmp_path):
    cover, weather = cover_rows(("b", "a")), weather_rows(("a", "b"))
    tables = climate_tables.read(lay(tmp_path, cover, weather))
    assert tables.response == "snow_fraction" and tables.named_sites and not tables.dropped
    assert tables.rows["date"].dtype == "datetime64[ns]" and tables.variables == list(UNITS) == list(
        tables.units
    )
    assert list(tables.rows.columns) == ["site", "date", "snow", *UNITS]
    by_day = {(row["site"], row["date"]): row for row in weather}
    expected = sorted(cover, key=lambda row: (row["site"], row["date"]))
    assert len(tables.rows) == len(expected) == len(tables.valid_pixels)
    for row, valid, want in zip(tables.rows.itertuples(), tables.valid_pixels, expected, strict=True):
        here = by_day[want["site"], want["date"]]
        assert (row.site, f"{row.date:%Y-%m-%d}", row.snow, valid) == (
            want["site"], want["date"], want["snow_fraction"], 1000,
        )  # fmt: skip
        assert [getattr(row, name) for name in UNITS] == [here[name] for name in UNITS]
    assert sorted(tables.daily) == ["a", "b"] and len(tables.daily["a"]) == 91
    assert (
        tables.daily["a"].index.freq is not None
        or (np.diff(tables.daily["a"].index) == np.timedelta64(1, "D")).all()
    )


def test_order_of_lines_changes_nothing(tmp_path):
    cover, weather = cover_rows(("a", "b")), weather_rows(("a", "b"))
    straight = climate_tables.read(lay(tmp_path / "straight", cover, weather))
    random = np.random.default_rng(0)
    shuffled = [[rows[i] for i in random.permutation(len(rows))] for rows in (cover, weather)]
    other = climate_tables.read(lay(tmp_path / "shuffled", *shuffled))
    pd.testing.assert_frame_equal(straight.rows, other.rows)
    pd.testing.assert_frame_equal(straight.daily["b"], other.daily["b"])


def test_tables_may_lie_elsewhere(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    lay(one, cover_rows(), weather_rows())
    two.mkdir()
    tables = climate_tables.read(two, cover=one, weather=one / "weather.csv")
    pd.testing.assert_frame_equal(tables.rows, climate_tables.read(one / "snow_cover.csv").rows)
    with pytest.raises(BadInput, match=r"two.snow_cover.csv: no such file"):
        climate_tables.read(two)


# ---- rows dropped ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"date": "2020-01-01T05:30"}, "time of day or a time zone"),
        ({"date": "2020-01-01 00:00+02:00"}, "time of day or a time zone"),
        ({"date": "2019-02-29"}, "no date"),
        ({"date": "1.2.2020"}, "no date"),
        ({"date": ""}, "no date"),
        ({"date": "2031-01-01"}, "future"),
        ({"date": "1901-01-01"}, "before 1940-01-01"),
        ({"site": " "}, "no site"),
        ({"site": "c"}, "no weather of that site"),
        ({"date": "2020-04-01"}, "no usable weather of that day"),
        ({"valid_pixels": 0, "snow_pixels": 0, "snow_fraction": ""}, "no pixel is valid"),
        ({"valid_pixels": ""}, "is empty"),
        ({"valid_pixels": "many"}, "valid_pixels 'many' is no number"),
        ({"valid_pixels": "inf"}, "valid_pixels is infinite"),
        ({"snow_pixels": -1}, "no counts of pixels"),
        ({"snow_pixels": 10.5}, "no counts of pixels"),
        ({"snow_pixels": 1001}, "more snow than valid pixels"),
        ({"snow_fraction": 1.2}, "outside 0..1"),
        (
            {"snow_pixels": 500, "snow_fraction": 0.4},
            "snow_fraction 0.4 is not snow_pixels / valid_pixels, 0.5",
        ),
        ({"valid_pixels": 599, "snow_pixels": 0, "snow_fraction": 0}, "59.9% of the site's pixels are valid"),
    ],
)
def test_impossible_snow_rows_go_with_a_reason(tmp_path, change, reason):
    cover = cover_rows()
    cover[3] = {**cover[3], **change}
    tables = climate_tables.read(lay(tmp_path, cover, weather_rows()), today="2026-01-01")
    ((line, found),) = reasons(tables).items()
    assert line == 5 and reason in found, found
    assert len(tables.rows) == len(cover) - 1 and said(tables, "1 rows were dropped")


def test_a_date_at_the_limit_of_valid_pixels_stays_and_each_orbit_has_its_own_limit(tmp_path):
    cover = cover_rows()
    cover[0] |= {"valid_pixels": 600, "snow_pixels": 300, "snow_fraction": 0.5}
    narrow = [
        {**row, "valid_pixels": 500, "snow_pixels": 250, "snow_fraction": 0.5}
        for row in cover_rows(orbit="117")
    ]
    tables = climate_tables.read(lay(tmp_path, [*cover, *narrow], weather_rows()))
    assert not tables.dropped and len(tables.rows) == len(DAYS)
    assert len(reasons(climate_tables.read(tmp_path, min_valid=0.61))) == 1


def test_repeated_rows_go_once_and_contradicting_ones_go_all(tmp_path):
    cover = cover_rows()
    cover += [dict(cover[2]), {**cover[4], "snow_pixels": 0, "snow_fraction": 0.0}, dict(cover[2])]
    weather = weather_rows()
    weather += [dict(weather[0]), {**weather[6], "snowfall_sum": 99.0}]  # 1 January, 7 January
    tables = climate_tables.read(lay(tmp_path, cover, weather))
    n = len(DAYS)
    assert reasons(tables) == {
        n + 2: "repeats line 4", n + 4: "repeats line 4",
        6: f"contradicts line {n + 3}: which is right is unknown",
        n + 3: "contradicts line 6: which is right is unknown",
        3: "no usable weather of that day",
    }  # fmt: skip
    found = reasons(tables, "weather.csv")
    assert found[93] == "repeats line 2" and found[8].startswith("contradicts line 94") and len(found) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"temperature_2m_max": 75.0}, "temperature_2m_max 75 °C is outside -90..60"),
        ({"temperature_2m_min": -9999}, "temperature_2m_min -9999 °C is outside"),
        ({"temperature_2m_min": 59.0}, "temperature_2m_min 59 is above temperature_2m_max"),
        ({"precipitation_sum": -0.1}, "precipitation_sum -0.1 mm is outside 0..2000"),
        ({"snowfall_sum": "trace"}, "snowfall_sum 'trace' is no number"),
        ({"relative_humidity_2m_mean": 101}, "relative_humidity_2m_mean 101 % is outside 0..100"),
        ({"date": "2020-01-01T00:00"}, "time of day"),
    ],
)
def test_impossible_weather_goes_with_its_day(tmp_path, change, reason):
    weather = [{**row, "relative_humidity_2m_mean": 50 + i % 20} for i, row in enumerate(weather_rows())]
    weather[0] |= change
    tables = climate_tables.read(lay(tmp_path, cover_rows(), weather))
    ((line, found),) = reasons(tables, "weather.csv").items()
    assert line == 2 and reason in found, found
    assert reasons(tables) == {2: "no usable weather of that day"}
    assert "2020-01-01" not in set(tables.rows["date"].astype(str))


def test_missing_weather_is_named_counted_and_never_filled(tmp_path):
    weather = weather_rows()
    weather[0]["snowfall_sum"] = weather[6]["snowfall_sum"] = weather[7]["precipitation_sum"] = None
    del weather[40]  # 10 February
    tables = climate_tables.read(lay(tmp_path, cover_rows(), weather))
    assert reasons(tables) == dict.fromkeys((2, 3), "that day lacks snowfall_sum")
    assert said(tables, "2 of 16 rows lack weather, most often snowfall_sum (12%)")
    daily = tables.daily["a"]
    assert (
        len(daily) == 91
        and daily.loc["2020-02-10"].isna().all()
        and np.isnan(daily.loc["2020-01-01", "snowfall_sum"])
    )
    (gap,) = tables.gaps
    assert gap == {
        "site": "a", "dates": 14, "first": "2020-01-13", "last": "2020-03-25", "longest_gap_days": 7,
        "gap_from": "2020-01-25", "missing_weather_days": 1,
    }  # fmt: skip


def test_every_line_is_used_once_or_dropped_once(tmp_path):
    """Faults put at random anywhere, several in one row too."""
    random = np.random.default_rng(1)
    cover, weather = cover_rows(("a", "b")), weather_rows(("a", "b"))
    faults = [
        ("date", "x"), ("date", "2999-01-01"), ("snow_pixels", 5000), ("valid_pixels", 20), ("site", "z"),
        ("snow_fraction", 7), ("site", ""), ("valid_pixels", "?"),
    ]  # fmt: skip
    for row in cover:
        for name, value in faults:
            if random.random() < 0.03:
                row[name] = value
    cover += [dict(cover[i]) for i in (1, 5, 9)]
    for row in weather:
        if random.random() < 0.1:
            row[["temperature_2m_max", "precipitation_sum"][random.integers(2)]] = [None, -500][
                random.integers(2)
            ]
    tables = climate_tables.read(lay(tmp_path, cover, weather), min_dates=2)
    assert len(reasons(tables)) + len(tables.rows) == len(cover) and 5 < len(reasons(tables)) < len(cover) - 5
    assert all(
        drop["reason"] and drop["file"] in ("snow_cover.csv", "weather.csv") for drop in tables.dropped
    )
    assert not tables.rows.isna().any(axis=None)


# ---- sources, orbits, elevation ----------------------------------------------------------------------------


def test_mixed_sources_are_refused_until_one_is_chosen(tmp_path):
    lay(tmp_path, cover_rows() + cover_rows(source="truth", days=DAYS[:12]), weather_rows())
    with pytest.raises(BadInput, match=r"truth \(12 rows\), unet \(16 rows\).*--source"):
        climate_tables.read(tmp_path)
    with pytest.raises(BadInput, match="has no source 'sam'"):
        climate_tables.read(tmp_path, source="sam")
    tables = climate_tables.read(tmp_path, source="truth")
    assert len(tables.rows) == 12 and tables.sources == {"unet": 16, "truth": 12} and tables.source == "truth"
    assert (
        set(reasons(tables).values()) == {"source 'unet' is not the chosen one"} and len(tables.dropped) == 16
    )
    assert said(tables, "0 rows were dropped, each for a reason, and 16 of another source")


def test_two_orbits_of_a_day_are_averaged_by_valid_pixels_or_chosen(tmp_path):
    other = [
        {**row, "valid_pixels": 3000, "snow_fraction": row["snow_pixels"] / 3000}
        for row in cover_rows(orbit="117")
    ]
    lay(tmp_path, [*cover_rows(), *other[:3]], weather_rows())
    both = climate_tables.read(tmp_path).rows["snow"].to_numpy()
    one, two = cover_rows()[0]["snow_pixels"], other[0]["snow_pixels"]
    assert both[0] == pytest.approx((one / 1000 * 1000 + two / 3000 * 3000) / 4000, abs=1e-15)
    assert said(climate_tables.read(tmp_path), "3 of 16 dates have more than one orbit")
    chosen = climate_tables.read(tmp_path, orbit="66")  # 066 in the table
    assert chosen.rows["snow"].iloc[0] == one / 1000 and len(chosen.dropped) == 3
    with pytest.raises(BadInput, match=r"no relative_orbit '5'; found 066 \(16 rows\), 117 \(3 rows\)"):
        climate_tables.read(tmp_path, orbit="5")


def test_standardised_snow_is_the_sum_over_bands(tmp_path):
    """Against a loop over sites, dates and bands: hidden bands, bands hardly seen, dates that see too few."""
    random, bands, cover = np.random.default_rng(3), [], []
    for site in "ab":
        for day in DAYS:
            here = []
            for edge, size in ((500, 400), (750, 1000), (1000, 200)):
                hidden = random.random() < 0.3
                valid = int(size * (random.choice([0, 0.02, 0.05]) if hidden else random.uniform(0.5, 1)))
                here.append((edge, valid, int(valid * random.random())))
            key = {"site": site, "date": day, "source": "unet", "relative_orbit": "066"}
            valid, snow = (sum(band[i] for band in here) for i in (1, 2))
            cover.append({**key, "valid_pixels": valid, "snow_pixels": snow})
            bands += [{**key, "elevation_from_m": e, "valid_pixels": v, "snow_pixels": s} for e, v, s in here]
    lay(tmp_path, cover, weather_rows(("a", "b")))
    with pytest.raises(BadInput, match=r"snow_cover_by_elevation.csv: no such file"):
        climate_tables.read(tmp_path, elevation_standardised=True)
    pd.DataFrame(bands).to_csv(tmp_path / "snow_cover_by_elevation.csv", index=False)
    tables = climate_tables.read(tmp_path, elevation_standardised=True, min_valid=0.3)
    expected = {}
    for site in "ab":
        of = [band for band in bands if band["site"] == site]
        most = {
            edge: max(b["valid_pixels"] for b in of if b["elevation_from_m"] == edge)
            for edge in (500, 750, 1000)
        }
        widest = max(row["valid_pixels"] for row in cover if row["site"] == site)
        for row in (row for row in cover if row["site"] == site):
            if row["valid_pixels"] < 0.3 * widest:
                continue
            day = {b["elevation_from_m"]: b for b in of if b["date"] == row["date"]}
            share = {e: most[e] / sum(most.values()) for e in most if day[e]["valid_pixels"] >= 0.1 * most[e]}
            if sum(share.values()) >= 0.3:
                total = sum(share[e] * day[e]["snow_pixels"] / day[e]["valid_pixels"] for e in share)
                expected[site, row["date"]] = total / sum(share.values())
    found = {(row.site, f"{row.date:%Y-%m-%d}"): row.snow for row in tables.rows.itertuples()}
    assert found == pytest.approx(expected, abs=1e-12) and 5 < len(found) < len(cover)
    assert said(tables, "standardised over elevation bands")


def test_dates_whose_bands_hold_too_little_of_the_site_go(tmp_path):
    """Two bands never seen together: every date has as many pixels as any, and half of the site."""
    key = {"source": "unet", "relative_orbit": "066"}
    cover = [{**row, "valid_pixels": 1000} for row in cover_rows()]
    lay(tmp_path, cover, weather_rows())
    bands = [
        {**key, "site": "a", "date": row["date"], "elevation_from_m": 250 * (number % 2),
         "valid_pixels": 1000,
         "snow_pixels": row["snow_pixels"]}
        for number, row in enumerate(cover)
    ]  # fmt: skip
    pd.DataFrame(bands[:-1]).to_csv(tmp_path / "snow_cover_by_elevation.csv", index=False)
    with pytest.raises(BadInput, match=r"bands seen hold 50.0% of the site, under 60%"):
        climate_tables.read(tmp_path, elevation_standardised=True, today="2026-01-01")
    tables = climate_tables.read(tmp_path, elevation_standardised=True, min_valid=0.5)
    assert len(tables.rows) == len(cover) - 1 and set(reasons(tables).values()) == {
        "no elevation band of that date"
    }


def test_standardised_snow_does_not_see_clouds_over_the_peaks(tmp_path):
    """Peaks all white, valleys bare: hiding half of the peaks changes the plain fraction, not this one."""
    cover, bands = [], []
    for number, day in enumerate(DAYS):
        top = 500 if number % 2 else 250
        key = {"site": "a", "date": day, "source": "unet", "relative_orbit": "066"}
        low_snow = 5 * number
        cover.append({**key, "valid_pixels": 500 + top, "snow_pixels": low_snow + top})
        bands.append({**key, "elevation_from_m": 0, "valid_pixels": 500, "snow_pixels": low_snow})
        bands.append({**key, "elevation_from_m": 250, "valid_pixels": top, "snow_pixels": top})
    lay(tmp_path, cover, weather_rows())
    pd.DataFrame(bands).to_csv(tmp_path / "snow_cover_by_elevation.csv", index=False)
    order = np.argsort(DAYS)
    expected = (0.5 * 5 * np.arange(len(DAYS)) / 500 + 0.5)[order]
    standard = climate_tables.read(tmp_path, elevation_standardised=True).rows["snow"].to_numpy()
    assert standard == pytest.approx(expected, abs=1e-12)
    assert np.abs(climate_tables.read(tmp_path).rows["snow"].to_numpy() - expected).max() > 0.1


# ---- units and time zones ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("temperature_2m_max", "°F", "°C"), ("precipitation_sum", "inch", "mm"),
        ("temperature_2m_min", "K", "°C"), ("snowfall_sum", "mm", "cm"),
    ],
)  # fmt: skip
def test_another_unit_is_refused_wherever_it_is_stated(tmp_path, name, unit, expected):
    message = rf"column {name} is in {unit}, expected {expected}"
    lay(tmp_path, cover_rows(), weather_rows(), {**ABOUT, "units": {**UNITS, name: unit}})
    with pytest.raises(BadInput, match=rf"weather.json: {message}"):
        climate_tables.read(tmp_path)
    weather = [
        {f"{name} ({unit})" if key == name else key: row[key] for key in row} for row in weather_rows()
    ]
    lay(tmp_path, cover_rows(), weather, {"timezone": "UTC"})
    with pytest.raises(BadInput, match=rf"weather.csv: {message}"):
        climate_tables.read(tmp_path)
    both = {**ABOUT, "sites": {"a": {"units": {name: expected}}, "b": {"units": {name: unit}}}}
    lay(tmp_path, cover_rows(("a", "b")), weather_rows(("a", "b")), both)
    with pytest.raises(BadInput, match=rf"{name} is in {expected} in .* and in {unit} in .*site b"):
        climate_tables.read(tmp_path)


def test_stated_units_are_read_under_other_spellings_and_unstated_ones_are_a_note(tmp_path):
    weather = [
        {f"{k} (deg C)" if k.startswith("temp") else k: v for k, v in row.items()} for row in weather_rows()
    ]
    tables = climate_tables.read(lay(tmp_path, cover_rows(), weather, {"timezone": "UTC"}))
    assert tables.units == UNITS
    assert said(
        tables,
        "no unit is stated; taken as Open-Meteo's default: precipitation_sum in mm, snowfall_sum in cm",
    )


@pytest.mark.parametrize(
    ("convert", "looks"),
    [(lambda c: c + 273.15, "Kelvin"), (lambda c: c * 1.8 + 60, "Fahrenheit")],  # a warm place
)
def test_a_column_in_another_unit_is_seen_by_its_values(tmp_path, convert, looks):
    weather = [{**row, "temperature_2m_max": convert(row["temperature_2m_max"])} for row in weather_rows()]
    with pytest.raises(BadInput, match=rf"column temperature_2m_max looks like {looks}.*expected °C"):
        climate_tables.read(lay(tmp_path, cover_rows(), weather))


def test_fahrenheit_of_a_cold_place_is_seen_by_the_snow_that_falls(tmp_path):
    weather = [
        {**row, "temperature_2m_max": 40.0, "temperature_2m_min": 25.0 + number % 5}
        for number, row in enumerate(weather_rows())
    ]
    with pytest.raises(BadInput, match=r"temperature_2m_min looks like Fahrenheit .*days of snowfall"):
        climate_tables.read(lay(tmp_path, cover_rows(), weather))


def test_humidity_as_a_fraction_is_seen(tmp_path):
    weather = [{**row, "relative_humidity_2m_mean": i / 100} for i, row in enumerate(weather_rows())]
    with pytest.raises(
        BadInput, match=r"relative_humidity_2m_mean looks like a fraction \(largest 0.9\), expected %"
    ):
        climate_tables.read(lay(tmp_path, cover_rows(), weather))


def test_precipitation_in_metres_is_seen_and_a_dry_place_is_not_taken_for_it(tmp_path):
    days = pd.date_range("2020-01-01", periods=200)

    def weather(amount):  # one day in two is wet
        return [
            {"site": "a", "date": f"{day:%Y-%m-%d}", "precipitation_sum": amount(i) * (i % 2)}
            for i, day in enumerate(days)
        ]

    lay(tmp_path, cover_rows(), weather(lambda i: (1 + i % 30) / 1000))
    with pytest.raises(BadInput, match=r"precipitation_sum looks like metres .*100 wet days.*expected mm"):
        climate_tables.read(tmp_path)
    for amount in (lambda i: 0.1 + 2 * (i == 51), lambda i: 0.2 * (i < 80)):  # one rain; few wet days
        assert climate_tables.read(lay(tmp_path, cover_rows(), weather(amount)))


def test_unknown_columns_are_left_out_by_name(tmp_path):
    weather = [{**row, "sunrise": "2020-01-01T08:00", "weather_code": 3} for row in weather_rows()]
    tables = climate_tables.read(lay(tmp_path, cover_rows(), weather))
    assert tables.variables == list(UNITS) and said(tables, "left out sunrise, weather_code")
    assert climate_tables.read(tmp_path, variables=["snowfall_sum"]).variables == ["snowfall_sum"]
    with pytest.raises(BadInput, match="no known variable weather_code"):
        climate_tables.read(tmp_path, variables=["weather_code"])


def test_time_zones_are_told_and_distant_utc_days_are_a_warning(tmp_path):
    def notes(about):
        return climate_tables.read(
            lay(tmp_path, cover_rows(("a", "b")), weather_rows(("a", "b")), about)
        ).notes

    far = {"timezone": "UTC", "units": UNITS, "sites": {"a": {"longitude": -117.0}, "b": {"longitude": 10.0}}}
    assert any("Warning: days are UTC days" in n and "a (-7.8 h)" in n and "b (" not in n for n in notes(far))
    assert not any("Warning" in n for n in notes(ABOUT)[:1]) and any(
        "Europe/Zurich" in n for n in notes(ABOUT)
    )
    mixed = {"units": UNITS, "sites": {"a": {"timezone": "UTC"}, "b": {"timezone": "America/Denver"}}}
    assert any(
        "Warning: the sites' daily weather is of days of different time zones" in n for n in notes(mixed)
    )
    assert any("time zone of its days is not stated" in n for n in notes({"units": UNITS}))


# ---- nothing to analyse ------------------------------------------------------------------------------------


def test_a_misspelt_column_is_named_with_what_is_expected(tmp_path):
    (tmp_path / "one.csv").write_text("time,temperature_2m_max,snow_pixels_count\n2020-01-01,3,5\n")
    with pytest.raises(
        BadInput, match=r"no column snow_pixel_count; found time, .*snow_pixels_count; expected"
    ):
        climate_tables.read(tmp_path / "one.csv")


def test_what_cannot_be_answered_is_refused(tmp_path):
    def refused(cover, weather, message, **more):
        with pytest.raises(BadInput, match=message) as caught:
            climate_tables.read(lay(tmp_path, cover, weather), **more)
        assert "\n" not in str(caught.value)

    refused(cover_rows(days=DAYS[:9]), weather_rows(), "9 dates have both snow and weather, 10 are needed")
    refused(cover_rows(("c",)), weather_rows(), "has weather of a, but .* has snow of c; name the sites")
    white = [{**row, "snow_pixels": 1000, "snow_fraction": 1} for row in cover_rows()]
    refused(white, weather_rows(), "snow is 1 on all 16 rows")
    refused([{"site": "a", "date": "2020-01-01"}], weather_rows(), "column valid_pixels, snow_pixels missing")
    refused(cover_rows(), [{"date": "2020-01-01", "snowfall_sum": 1.0}], "needs columns site and date")
    refused(cover_rows(), weather_rows(), "min_valid 60: a share", min_valid=60)
    local = [{**row, "date": row["date"] + "T05:30Z"} for row in cover_rows()]
    refused(local, weather_rows(), "line 17: date with a time of day or a time zone")
    (tmp_path / "snow_cover.csv").write_text("site,date,valid_pixels,snow_pixels\na,2020-01-01,5,1,9,9\n")
    with pytest.raises(BadInput, match="not a table of 4 columns"):
        climate_tables.read(tmp_path)
    (tmp_path / "weather.json").write_text("[]")
    with pytest.raises(BadInput, match=r"is no weather.json"):
        climate_tables.read(lay(tmp_path, cover_rows(), weather_rows(), None))
    with pytest.raises(BadInput, match="no such file or folder"):
        climate_tables.read(tmp_path / "nowhere")


def test_variables_that_say_nothing_are_left_out_by_name(tmp_path):
    weather = [{**row, "precipitation_sum": None, "snowfall_sum": 0.0} for row in weather_rows()]
    tables = climate_tables.read(lay(tmp_path, cover_rows(), weather))
    assert tables.variables == ["temperature_2m_max", "temperature_2m_min"] == list(tables.units)
    assert list(tables.rows.columns) == ["site", "date", "snow", *tables.variables] and len(tables.rows) == 16
    assert said(tables, "Warning: weather.csv: left out precipitation_sum: all values are missing")
    assert said(tables, "Warning: left out snowfall_sum: the same on all 16 rows")
    assert said(tables, "Warning: all dates are of one year")


def test_what_weather_json_says_stays_with_the_sites_of_the_rows(tmp_path):
    sites = {"a": {"latitude": -33.1, "elevation_m": 900.0}, "elsewhere": {"latitude": 47.0}}
    about = {**ABOUT, "sites": sites, "source": "simulated by hand", "model": "era5"}
    tables = climate_tables.read(lay(tmp_path, cover_rows(), weather_rows(), about))
    assert tables.places == {"a": sites["a"]} and tables.about_weather == "simulated by hand era5"
    with pytest.raises(BadInput, match=r"weather.json: .*latitude of site a is no angle"):
        sites["a"]["latitude"] = 1e9
        climate_tables.read(lay(tmp_path, cover_rows(), weather_rows(), about))


def test_names_in_tables_are_text_and_no_paths(tmp_path):
    """A site called NA, or like a path, is a name as any other."""
    cover = [{**row, "site": {"a": "NA", "b": "../../etc"}[row["site"]]} for row in cover_rows(("a", "b"))]
    weather = [
        {**row, "site": {"a": "NA", "b": "../../etc"}[row["site"]]} for row in weather_rows(("a", "b"))
    ]
    tables = climate_tables.read(lay(tmp_path, cover, weather, {"units": UNITS}))
    assert sorted(tables.daily) == ["../../etc", "NA"] and not tables.dropped and len(tables.rows) == 32


# ---- other tables ------------------------------------------------------------------------------------------


def test_the_original_table_is_rows_of_unnamed_places():
    path = SHARED / "original" / "results_df.csv"
    if not path.exists():
        pytest.skip("the original's table is not there: ../shared/data/original is absent")
    tables = climate_tables.read(path)
    assert tables.response == "snow_pixel_count" and not tables.named_sites and tables.daily == {}
    assert len(tables.rows) == 895 and tables.rows["date"].nunique() == 479 and not tables.dropped
    assert set(tables.rows["site"]) == {""} and tables.variables[0] == "temperature_2m_max"
    assert said(tables, "20 of 895 counts stand at 512 x 512 = 262144")
    assert said(tables, "895 rows, 479 dates, up to 3 a date; the order of rows within a date names no site")
    own = pd.read_csv(path)
    assert (tables.rows["snow"].to_numpy() == own["snow_pixel_count"].to_numpy()).all()
    with pytest.raises(BadInput, match="holds snow and weather itself; leave out --weather, --source"):
        climate_tables.read(path, source="unet", weather=path)


def test_a_single_table_drops_whole_repeats_and_keeps_places_of_one_date(tmp_path):
    lines = [f"2020-01-{day:02d},{day}.5,{100 * day}" for day in range(1, 15)]
    lines += ["2020-01-03,3.5,300", "2020-01-03,3.5,999", "2020-01-04,4.5,-7", "2020-01-05,,10"]
    (tmp_path / "one.csv").write_text(
        "time,temperature_2m_max,snow_pixel_count\n" + "\n".join(lines) + "\n\n"
    )
    tables = climate_tables.read(tmp_path / "one.csv")
    assert {d["line"]: d["reason"] for d in tables.dropped} == {
        16: "repeats line 4", 18: "snow_pixel_count -7 is no count",
        19: "that day lacks temperature_2m_max",
    }  # fmt: skip
    assert tables.rows["snow"].tolist()[2:4] == [300, 999] and not said(tables, "512 x 512")


def test_a_download_of_one_place_serves_one_site(tmp_path):
    path = SHARED / "weather" / "weather_valais.csv"
    if not path.exists():
        pytest.skip("the downloaded weather is not there: ../shared/data/weather is absent")
    cover = cover_rows()
    lay(tmp_path, cover, weather_rows())
    tables = climate_tables.read(tmp_path, weather=path)
    assert len(tables.rows) == 16 and tables.units["snowfall_sum"] == "cm" and said(tables, "Europe/Zurich")
    own = pd.read_csv(path, skiprows=3).set_index("time")["temperature_2m_max (°C)"]
    assert tables.rows["temperature_2m_max"].tolist() == own[tables.rows["date"].astype(str)].tolist()
    assert tables.places["a"]["longitude"] == pytest.approx(7.177, abs=1e-3) and len(tables.daily["a"]) > 2000
    lay(tmp_path, cover_rows(("a", "b")), weather_rows())
    with pytest.raises(BadInput, match=r"names no site, and .* has 2"):
        climate_tables.read(tmp_path, weather=path)
