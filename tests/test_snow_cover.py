"""Snow cover straight from masks, and from tables of maps: every pixel counted once, sources told apart."""

import csv
import shutil

import numpy as np
import pytest
import rasterio
from conftest import blobs, grid, refuse, result, run, write_site

from data_prep import climate_tables, cover, rasters
from data_prep.runs import BadInput

DATES = ("2021-01-10", "2021-02-03")
WATER, LAKE = 80, np.s_[:8, :8]


def table(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def snowy(number: int) -> np.ndarray:
    """Where the truth of a date has snow, water included."""
    return blobs(96, 192, number) & (np.arange(192) >= 40 * number)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Scenes of two sites, one of two tiles with DEM, a lake and truth on both dates; and their triplets."""
    base = tmp_path_factory.mktemp("places")
    for seed, width in ((0, 192), (1, 96)):
        site, where = (
            write_site(base / "scenes", f"site-{seed}", seed, 96, width, DATES),
            grid(96, width, 600000 + 10000 * seed),
        )
        if seed:
            continue
        height = np.broadcast_to(np.linspace(800, 1400, width, dtype=np.float32), (1, 96, width))
        rasters.write(site / "dem.tif", height, ("elevation",), where, np.nan)
        (site / "truth").mkdir()
        for number, date in enumerate(DATES):
            fraction = np.where(snowy(number), 0.5, 0.49).astype(np.float32)
            landcover = np.full_like(fraction, 30)
            landcover[LAKE] = WATER
            state = np.stack([fraction, np.zeros_like(fraction), landcover])
            names = ("snow_fraction", "liquid_water", "landcover")
            rasters.write(site / "truth" / f"{date}.tif", state, names, where, np.nan)
    run("curate", "--data", base / "scenes", "--out", base / "triplets", "--tile", 96, "--workers", 0)
    return base


@pytest.fixture(scope="module")
def covers(places):
    """The job's output for masks and truth."""
    out = places / "cover"
    done = run("snow_cover", "--data", places / "triplets", "--truth", places / "scenes", "--out", out)
    assert result(done)["sources"] == {"optical": 4, "truth": 2} and result(done)["rows"] == 6
    return out


def masks_of(places, site: str, date: str) -> list[np.ndarray]:
    rows = [
        row
        for row in table(places / "triplets" / "triplets.csv")
        if (row["site"], row["date"]) == (site, date)
    ]
    found = []
    for row in rows:
        with rasterio.open(places / "triplets" / row["mask"]) as source:
            found.append(source.read(1))
    return found


def test_optical_cover_is_the_sum_of_a_days_tiles(places, covers):
    for row in table(covers / "snow_cover.csv"):
        if row["source"] != "optical":
            continue
        masks = masks_of(places, row["site"], row["date"])
        assert len(masks) == (2 if row["site"] == "site-0" else 1) and row["relative_orbit"] == "044"
        valid, snow = sum((m != 255).sum() for m in masks), sum((m == 1).sum() for m in masks)
        assert (int(row["valid_pixels"]), int(row["snow_pixels"])) == (valid, snow) and 0 < snow < valid
        assert float(row["snow_fraction"]) == snow / valid
        assert float(row["snow_area_km2"]) == pytest.approx(snow * 1e-4, rel=1e-12)


def test_truth_is_half_snow_over_known_ground_without_water(places, covers):
    rows = [row for row in table(covers / "snow_cover.csv") if row["source"] == "truth"]
    assert [(row["site"], row["date"]) for row in rows] == [("site-0", date) for date in DATES]
    for number, row in enumerate(rows):
        snow = snowy(number)
        snow[LAKE] = False
        assert (int(row["valid_pixels"]), int(row["snow_pixels"])) == (96 * 192 - 64, snow.sum())


def test_bands_of_elevation_add_up_and_lie_where_the_dem_says(places, covers):
    whole = {(r["site"], r["date"], r["source"]): r for r in table(covers / "snow_cover.csv")}
    bands = table(covers / "snow_cover_by_elevation.csv")
    assert {row["site"] for row in bands} == {"site-0"}
    for key in {(r["site"], r["date"], r["source"]) for r in bands}:
        of = [row for row in bands if (row["site"], row["date"], row["source"]) == key]
        assert [(row["elevation_from_m"], row["elevation_to_m"]) for row in of] == [
            ("750", "1000"), ("1000", "1250"), ("1250", "1500")
        ]  # fmt: skip
        for name in ("valid_pixels", "snow_pixels"):
            assert sum(int(row[name]) for row in of) == int(whole[key][name])
    height = np.linspace(800, 1400, 192, dtype=np.float32)
    mask = np.concatenate(masks_of(places, "site-0", DATES[0]), axis=1)
    low = next(row for row in bands if row["source"] == "optical" and row["date"] == DATES[0])
    assert int(low["snow_pixels"]) == (mask[:, height < 1000] == 1).sum()


def test_tables_of_maps_come_in_with_their_source(places, covers, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("snow_cover.csv", "snow_cover_by_elevation.csv"):
        (maps / name).write_text(
            (covers / name).read_text().replace(",truth,", ",unet,").replace(",optical,", ",sam,")
        )
    more = ("--data", places / "triplets", "--tables", maps, "--out")
    done = run("snow_cover", *more, tmp_path / "out")
    assert result(done)["sources"] == {"optical": 4, "sam": 4, "unet": 2}
    for name in ("snow_cover.csv", "snow_cover_by_elevation.csv"):
        found, before = table(tmp_path / "out" / name), table(covers / name)
        for source, old in (("unet", "truth"), ("sam", "optical"), ("optical", "optical")):
            mine = [{**row, "source": ""} for row in found if row["source"] == source]
            assert mine == [{**row, "source": ""} for row in before if row["source"] == old]
    refuse(
        "snow_cover", "--data", places / "triplets", "--tables", covers, "--out", tmp_path / "two",
        saying="source optical, orbit 044 stands twice",
    )  # fmt: skip
    refuse(
        "snow_cover", "--data", places / "triplets", "--tables", maps, maps, "--out", tmp_path / "two",
        saying="stands twice",
    )  # fmt: skip


def test_its_table_is_what_the_climate_tables_read(places, covers, tmp_path):
    days = [f"2021-{month:02d}-{day:02d}" for month in (1, 2) for day in range(1, 29)]
    (tmp_path / "weather.csv").write_text(
        "site,date,temperature_2m_max\n"
        + "".join(f"site-{s},{d},{int(d[-2:])}\n" for s in (0, 1) for d in days)
    )
    standard = climate_tables.read(
        covers, weather=tmp_path, source="truth", elevation_standardised=True, min_dates=2
    )
    plain = climate_tables.read(covers, weather=tmp_path, source="truth", min_dates=2)
    assert plain.sources == {"optical": 4, "truth": 2} and len(plain.rows) == 2
    assert standard.rows["snow"].to_numpy() == pytest.approx(plain.rows["snow"].to_numpy(), abs=1e-12)


def test_a_finished_run_is_not_done_again_and_a_dry_one_writes_nothing(places, covers, tmp_path):
    words = ("--data", places / "triplets", "--truth", places / "scenes", "--out")
    assert "already done" in run("snow_cover", *words, covers).stderr
    done = run("snow_cover", *words, tmp_path / "dry", "--dry-run")
    assert "6 triplets, 2 scenes of truth" in done.stderr and not (tmp_path / "dry").exists()


def test_bad_files_are_refused_by_name_or_left_out(places, tmp_path):
    folder = tmp_path / "triplets"
    shutil.copytree(places / "triplets", folder)
    row = table(folder / "triplets.csv")[-1]
    (folder / row["mask"]).write_bytes(b"no raster")
    words = ("--data", folder, "--out", tmp_path / "out")
    assert "--skip-bad" in refuse("snow_cover", *words, saying=row["mask"].split("/")[-1])
    found = result(run("snow_cover", *words, "--skip-bad"))
    assert found["rows"] == 3 and len(found["left_out"]) == 1
    for path in (folder / "mask").iterdir():
        path.write_bytes(b"no raster")
    refuse("snow_cover", *words[:3], tmp_path / "none", "--skip-bad", saying="none of its masks can be read")


def test_what_it_cannot_use_is_one_sentence(places, tmp_path):
    words = ("--data", places / "triplets", "--out", tmp_path / "out")
    refuse("snow_cover", *words, "--elevation-step-m", 0, saying="must be positive")
    refuse("snow_cover", *words, "--tables", tmp_path, saying="--tables names folders with snow_cover.csv")
    refuse("snow_cover", "--data", tmp_path, "--out", tmp_path / "out", saying="neither triplets.csv nor")
    (tmp_path / "site-9").mkdir()
    shutil.copy(places / "scenes" / "site-1" / "site.json", tmp_path / "site-9")
    refuse("snow_cover", *words, "--truth", tmp_path, saying="only simulated sites have truth")
    head = "site,date,source,relative_orbit,valid_pixels,snow_pixels,snow_fraction,snow_area_km2\n"
    for line, saying in (
        ("a,2021-01-01,unet,044,10,11,1.1,0.1", "line 2: needs a site, a source, and no more snow"),
        ("a,2021-01-01,unet,044,ten,1,0.1,0.1", "line 2: invalid literal"),
        ("a,2021-01-01,unet,044,10", "line 2: another number of fields"),
        (",2021-01-01,unet,044,10,1,0.1,0.1", "line 2: needs a site"),
    ):
        (tmp_path / "snow_cover.csv").write_text(head + line + "\n")
        with pytest.raises(BadInput, match=saying):
            cover.read_rows(tmp_path / "snow_cover.csv")
    refuse("snow_cover", *words, "--tables", tmp_path, saying="line 2")
