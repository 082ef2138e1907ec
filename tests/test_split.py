import csv
import json
import math
from collections import defaultdict

import pytest
from conftest import grid, refuse, result, run, write_site

from data_prep import split


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """Six sites over four winters."""
    base = tmp_path_factory.mktemp("years")
    for seed in range(6):
        write_site(
            base / "scenes", f"site-{seed}", seed, dates=[f"{year}-01-1{seed}" for year in range(2018, 2022)]
        )
    run("curate", "--data", base / "scenes", "--out", base / "c", "--workers", 0)
    return base / "c"


def sides(folder, column=lambda row: row["site"]):
    found = defaultdict(set)
    for row in table(folder / "triplets.csv"):
        if row["split"]:
            found[column(row)].add(row["split"])
    return found


@pytest.mark.parametrize("seed", range(4))
def test_by_site_no_site_is_on_two_sides_and_all_sides_exist(curated, tmp_path, seed):
    run("split", "--data", curated, "--out", tmp_path / "s", "--seed", seed)
    found = sides(tmp_path / "s")
    assert all(len(splits) == 1 for splits in found.values())
    assert set().union(*found.values()) == {"train", "val", "test"}
    assert (tmp_path / "s" / "class_balance.png").stat().st_size > 5000
    assert {r["split"] for r in table(tmp_path / "s" / "split.csv")} == {"train", "val", "test"}


def test_a_split_without_snow_is_warned_of(curated, tmp_path):
    """Snow at one site only: two of the three splits can have none."""
    (tmp_path / "c").mkdir()
    for name in ("sar", "rgb", "mask"):
        (tmp_path / "c" / name).symlink_to(curated / name)
    rows = table(curated / "triplets.csv")
    for row in rows:
        row["snow_fraction"] = row["snow_fraction"] if row["site"] == "site-2" else "0"
    with open(tmp_path / "c" / "triplets.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = run("split", "--data", tmp_path / "c", "--out", tmp_path / "s")
    with_snow = {row["split"] for row in table(tmp_path / "s" / "triplets.csv") if row["site"] == "site-2"}
    without = {"train", "val", "test"} - with_snow
    assert set(result(done)["without_snow"]) == without and len(without) == 2
    assert all(f"warning: {name} has no snow at all" in done.stderr for name in without)
    assert done.stderr.count("warning") == 2
    run("split", "--data", curated, "--out", tmp_path / "fine")
    assert json.loads((tmp_path / "fine" / "result.json").read_text())["without_snow"] == []


def test_it_is_deterministic_by_seed(curated, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("split", "--data", curated, "--out", tmp_path / name, "--seed", seed)
    a, b, c = ((tmp_path / name / "triplets.csv").read_text() for name in "abc")
    assert a == b != c


def test_by_year_the_latest_winters_are_the_test(curated, tmp_path):
    done = run("split", "--data", curated, "--out", tmp_path / "s", "--by", "year")
    found = sides(tmp_path / "s", lambda row: row["date"][:4])
    assert {year: next(iter(s)) for year, s in found.items()} == {
        "2018": "train",
        "2019": "train",
        "2020": "val",
        "2021": "test",
    }
    assert result(done)["shares_ground"] is True and "same ground" in done.stderr


def test_by_site_and_year_both_are_new(curated, tmp_path):
    run("split", "--data", curated, "--out", tmp_path / "s", "--by", "site-year")
    rows = table(tmp_path / "s" / "triplets.csv")
    used = [row for row in rows if row["split"]]
    assert all(len(s) == 1 for s in sides(tmp_path / "s").values())
    test_years = {row["date"][:4] for row in used if row["split"] == "test"}
    assert test_years.isdisjoint(row["date"][:4] for row in used if row["split"] != "test")
    assert max(row["date"][:4] for row in used) in test_years
    assert 0 < len(used) < len(rows) and {row["split"] for row in used} == {"train", "val", "test"}


def test_by_block_keeps_its_distance(tmp_path):
    site = write_site(tmp_path / "scenes", "wide", 1, height=448, width=448)
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "c", "--workers", 0, "--tile", 32)
    run(
        "split",
        "--data",
        tmp_path / "c",
        "--out",
        tmp_path / "s",
        "--by",
        "block",
        "--block-m",
        960,
        "--buffer-m",
        300,
    )
    rows = table(tmp_path / "s" / "triplets.csv")
    assert site.name == "wide" and len(rows) == 196 and any(not row["split"] for row in rows)
    kept = [(row["split"], int(row["row"]), int(row["col"])) for row in rows if row["split"]]
    for a, r, c in kept:
        for b, r2, c2 in kept:
            if a != b:
                gap = max(abs(r - r2), abs(c - c2)) - 32
                assert gap * 10 >= 300 - 15  # pixels of 10 m; metres on a sphere differ a little from UTM's
    assert {a for a, _, _ in kept} == {"train", "val", "test"}


def test_two_sites_on_one_ground_are_refused_unless_on_one_side(tmp_path):
    for number in range(5):
        write_site(tmp_path / "scenes", f"site-{number}", number)
    write_site(tmp_path / "scenes", "twin", 4)  # the ground of site-4
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "c", "--workers", 0)
    codes = []
    for seed in range(6):
        rows = table(tmp_path / "c" / "triplets.csv")
        dealt = dict(
            zip(
                (row["site"] for row in rows),
                split.by_site(
                    rows,
                    type(
                        "A",
                        (),
                        {"fractions": {"train": 1 - 0.2 - 0.2, "val": 0.2, "test": 0.2}, "seed": seed},
                    ),
                ),
                strict=True,
            )
        )
        apart = dealt["twin"] != dealt["site-4"]
        codes.append(apart)
        words = ("--data", tmp_path / "c", "--out", tmp_path / f"s{seed}", "--seed", seed)
        if apart:
            assert "site-4" in refuse("split", *words, saying="same ground")
            assert not (tmp_path / f"s{seed}").exists()
        else:
            run("split", *words)
    assert True in codes and False in codes


def test_deal_gives_every_split_snow_while_it_lasts():
    groups = {f"g{k}": (4, k < 3) for k in range(12)}
    for seed in range(20):
        dealt = split.deal(groups, {"train": 0.6, "val": 0.2, "test": 0.2}, seed)
        assert {dealt[f"g{k}"] for k in range(3)} == {"train", "val", "test"}
        assert [list(dealt.values()).count(s) for s in ("train", "val", "test")] in (
            [7, 3, 2],
            [7, 2, 3],
            [6, 3, 3],
        )


@pytest.mark.parametrize("place", [(9.0, 46.0), (-111.0, 45.0), (171.0, -44.0), (25.0, 66.0)])
@pytest.mark.parametrize("across", [True, False])
def test_neighbours_by_distance_on_the_ground(place, across):
    """Two tiles of 1 km, straight north-south or east-west of each other, `apart` metres apart."""
    longitude, latitude = place
    tall = 1000 / 111195
    wide = tall / math.cos(math.radians(latitude))

    def boxes(apart):
        step = (1000 + apart) / 1000
        x, y = (step * wide, 0) if across else (0, step * tall)
        first = (longitude, latitude, longitude + wide, latitude + tall)
        return [first, (first[0] + x, first[1] + y, first[2] + x, first[3] + y)]

    for apart, margin, close in (
        (100, 2000, True),
        (1900, 2000, True),
        (2100, 2000, False),
        (-250, 0, True),
        (0, 0, False),
        (5, 0, False),
    ):
        assert bool(list(split.neighbours(boxes(apart), margin))) is close, (apart, margin)


def test_hydrological_years():
    assert split.snow_year({"date": "2020-10-01", "latitude": "46"}) == "2021"
    assert split.snow_year({"date": "2020-09-30", "latitude": "46"}) == "2020"
    assert split.snow_year({"date": "2020-04-01", "latitude": "-45"}) == "2021"
    assert split.snow_year({"date": "2020-03-31", "latitude": "-45"}) == "2020"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--val", 0.6, "--test", 0.5), "leave something"),
        (("--block-m", 0), "--block-m"),
        (("--val", -0.1), "shares"),
    ],
)
def test_bad_arguments(curated, tmp_path, words, said):
    refuse("split", "--data", curated, "--out", tmp_path / "s", *words, saying=said)


def test_too_few_groups_and_bad_folders(tmp_path):
    write_site(tmp_path / "scenes", "only", 1)
    run("curate", "--data", tmp_path / "scenes", "--out", tmp_path / "c", "--workers", 0)
    refuse(
        "split",
        "--data",
        tmp_path / "c",
        "--out",
        tmp_path / "s",
        saying="1 site with triplets cannot fill 3 splits",
    )
    refuse(
        "split",
        "--data",
        tmp_path / "c",
        "--out",
        tmp_path / "s",
        "--by",
        "year",
        saying="split by site instead",
    )
    refuse("split", "--data", tmp_path / "c", "--out", tmp_path / "c", saying="another folder")
    refuse("split", "--data", tmp_path, "--out", tmp_path / "s", saying="neither triplets.csv")
    assert (
        grid().pixel_area_m2() == 100
        and json.loads((tmp_path / "c" / "result.json").read_text())["kept"] == 1
    )
