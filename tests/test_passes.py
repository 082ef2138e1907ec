"""From items to files: versions, halves of tiles, what ids tell, names that are files' own."""

from argparse import Namespace
from pathlib import Path

import pytest

from data_prep import passes
from data_prep.runs import BadInput

BURST_ID = (
    r"_T(?P<relative_orbit>[0-9]{3})-(?P<burst>[0-9]{6}-IW[123])_.*_(?P<platform>S1[A-D])_30_"  # as OPERA's
)
RADAR = {
    "collection": "c", "assets": {"VV": "*_VV.tif", "VH": "*_VH.tif"}, "units": "linear",
    "backscatter": "gamma0_rtc", "id_pattern": BURST_ID, "file_tags": {"orbit_state": "ORBIT_PASS_DIRECTION"},
}  # fmt: skip
OPTICAL = {"collection": "c", "assets": {"B04": "B04"}, "offset": "item"}
ANY = Namespace(orbit_state=None, relative_orbit=None)


def burst(number: str, processed: str, second: int = 41) -> dict:
    name = f"OPERA_L2_RTC-S1_T102-{number}_20240703T1623{second}Z_{processed}_S1A_30_v1.0"
    assets = {f"a{i}": {"href": f"https://h/{name}_{band}.tif"} for i, band in enumerate(("VV", "VH"))}
    return {"id": name, "properties": {"datetime": f"2024-07-03T16:23:{second}Z"}, "assets": assets}


def tile(name: str, generated: str, **properties) -> dict:
    about = {
        "datetime": "2020-02-10T07:30:31.024Z", "platform": "Sentinel-2A", "s2:mgrs_tile": "37MEU",
        "s2:processing_baseline": "02.14", "s2:generation_time": generated, "proj:epsg": 32737, **properties,
    }  # fmt: skip
    return {"id": name, "properties": about, "assets": {"B04": {"href": f"https://h/{name}.tif"}}}


def test_of_a_burst_processed_twice_the_newest_alone():
    old, new = burst("217155-IW1", "20240101T000000Z"), burst("217155-IW1", "20240703T210000Z")
    beside = burst("217155-IW2", "20240101T000000Z")  # in the same second
    for items in ([old, new, beside], [beside, new, old]):
        (plan,) = passes.radar_plans("s", items, RADAR, [], ANY)
        assert {source.item for source in plan.bands["VV"]} == {new["id"], beside["id"]}
    frames = [
        {**frame, "id": f"frame{i}", "properties": {**frame["properties"], "created": created}}
        for i, (frame, created) in enumerate([(old, "2024-01-01"), (old, "2024-07-03"), (beside, "2023")])
    ]
    (plan,) = passes.radar_plans("s", frames, {**RADAR, "id_pattern": ""}, [], ANY)
    assert [source.item for source in plan.bands["VV"]] == ["frame1", "frame0", "frame2"]


def test_radar_of_the_sites_own_zone_comes_first():
    first, second = burst("217155-IW1", "2024"), burst("217156-IW1", "2024", second=44)
    first["properties"]["proj:epsg"], second["properties"]["proj:epsg"] = 32633, 32632
    for crs, expected in (("EPSG:32632", second), ("EPSG:32633", first)):
        (plan,) = passes.radar_plans("s", [first, second], RADAR, [], ANY, crs)
        assert plan.bands["VH"][0].item == expected["id"]


def test_what_the_id_tells():
    (plan,) = passes.radar_plans("s", [burst("217155-IW1", "2024")], RADAR, [], ANY)
    assert plan.tags["platform"] == "sentinel-1a" and plan.tags["relative_orbit"] == "102"
    assert plan.orbit_state == ""


def test_unknown_orbit_state_is_left_to_the_file():
    for state in ("ascending", "descending"):
        wanted = Namespace(orbit_state=state, relative_orbit=None)
        (plan,) = passes.radar_plans("s", [burst("217155-IW1", "2024")], RADAR, [], wanted)
        assert plan.orbit_state == state
    told = burst("217155-IW1", "2024")
    told["properties"]["sat:orbit_state"] = "ascending"
    assert passes.radar_plans("s", [told], RADAR, [], wanted) == []


def test_both_halves_of_a_tile_are_kept():
    """Tiles received by two ground stations: one tile, second and baseline, two items (stactools #5)."""
    late, early = tile("a", "2020-02-10T13:09:12Z"), tile("b", "2020-02-10T10:06:52Z")
    (plan,) = passes.optical_plans("s", [early, late], OPTICAL, "EPSG:32737", 60)
    assert [source.item for source in plan.bands["B04"]] == ["a", "b"]
    newer = tile("c", "2020-02-09T00:00:00Z", **{"s2:processing_baseline": "05.00", "eo:cloud_cover": 10})
    other = tile("d", "2020-02-10T00:00:00Z", **{"s2:mgrs_tile": "36MZZ", "proj:epsg": 32736})
    (plan,) = passes.optical_plans("s", [early, late, newer, other], OPTICAL, "EPSG:32737", 60)
    found = [(source.item, source.offset, source.baseline) for source in plan.bands["B04"]]
    assert found[:2] == [("c", -1000, "05.00"), ("d", 0, "02.14")]
    assert [name for name, *_ in found[2:]] == ["a", "b"] and plan.tags["cloud_percent"] == 10


def test_an_asset_that_cannot_be_read_hides_no_other():
    one = burst("217155-IW1", "2024")
    one["assets"] = {"S3": {"href": f"s3://b/{one['id']}_VV.tif"}, **one["assets"]}
    assert passes.asset_url(one, "*_VV.tif") == ("a0", f"https://h/{one['id']}_VV.tif")
    assert len(passes.complete([one], RADAR)) == 1


def test_two_satellites_in_one_second_are_two_files():
    frames = [burst("217155-IW1", "2024"), burst("217155-IW2", "2024")]
    frames[1]["properties"]["platform"] = "Sentinel-1C"
    names = {Path(plan.path).stem for plan in passes.radar_plans("s", frames, RADAR, [], ANY)}
    assert names == {"2024-07-03T162341_102-sentinel-1a", "2024-07-03T162341_102-sentinel-1c"}
    tiles = [tile("a", "2020"), tile("b", "2020", platform="Sentinel-2C")]
    names = {Path(plan.path).stem for plan in passes.optical_plans("s", tiles, OPTICAL, "", 60)}
    assert names == {"2020-02-10T073031_sentinel-2a", "2020-02-10T073031_sentinel-2c"}
    tiles[1]["properties"] |= {"platform": "Sentinel-2A", "sat:relative_orbit": 7}
    with pytest.raises(BadInput, match="two passes of c"):
        passes.optical_plans("s", tiles, OPTICAL, "", 60)
