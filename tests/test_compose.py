"""Pictures of triplets: one stretch per radar scene, no data kept apart, 8-bit pictures as they are."""

import numpy as np
import pytest
from conftest import blobs, grid
from PIL import Image

from data_prep import compose, rasters, sar, triplets
from data_prep.runs import BadInput


def row_of(folder, name, values, site="a", date="2021-01-10T053000", **more):
    """A triplet row whose radar file holds VV and VH of `values` (2, H, W)."""
    path = folder / f"{name}.tif"
    rasters.write(path, values.astype(np.float32), ("VV", "VH"), grid(*values.shape[1:]), np.nan, units="dB")
    row = dict.fromkeys(triplets.COLUMNS, "") | dict.fromkeys(("mask", "rgb", "dem", "ref", "weather"))
    return row | {"id": name, "site": site, "s1_date": date, "relative_orbit": "44", "sar": path, **more}


def radar(seed, shift=0.0, shape=(40, 56)):
    random = np.random.default_rng(seed)
    ground = np.where(blobs(*shape, seed), -13, -8) + shift
    return np.stack([ground, ground - 7]) + random.normal(0, 1.5, (2, *shape))


def test_limits_are_those_of_all_tiles_of_the_scene_and_of_no_other(tmp_path):
    tiles = [radar(k, shift=3 * k) for k in range(3)]
    tiles[1][0, :5] = np.nan
    rows = [row_of(tmp_path, f"t{k}", tile) for k, tile in enumerate(tiles)]
    other = row_of(tmp_path, "u", radar(9, shift=20), date="2021-01-22T053000")
    names = compose.COMPOSE["vv,vh,ratio"]
    limits = compose.scene_limits([rows[2], other, rows[0], rows[1]], names)
    assert set(limits) == {compose.scene_key(rows[0]), compose.scene_key(other)}
    whole = np.concatenate([tile.reshape(2, -1) for tile in tiles], axis=1)
    for name, values in zip(names, (*whole, whole[1] - whole[0]), strict=True):
        assert limits[compose.scene_key(rows[0])][name] == pytest.approx(
            sar.stretch_limits(values), abs=2 * compose.STEP_DB
        )
    assert limits[compose.scene_key(other)]["vv"][0] > limits[compose.scene_key(rows[0])]["vv"][0] + 5


def test_a_tile_shows_the_same_grey_for_the_same_backscatter_as_its_neighbour(tmp_path):
    first, second = radar(0), radar(1, shift=4)
    second[:, 0, 0] = first[:, 0, 0] = (-11, -18)
    rows = [row_of(tmp_path, "a", first), row_of(tmp_path, "b", second)]
    for name, bands in compose.COMPOSE.items():
        limits = compose.scene_limits(rows, bands)
        (one, _), (two, _) = (compose.sar_picture(row, name, limits) for row in rows)
        assert one.dtype == np.uint8 and one.shape == (40, 56, 3)
        assert (one[0, 0] == two[0, 0]).all()
        planes = {"vv": np.float32(first[0]), "vh": np.float32(first[1])}
        planes["vh-vv"] = planes["vh"] - planes["vv"]
        spans = limits[compose.scene_key(rows[0])]
        for channel in range(3):
            band = bands[channel % len(bands)]
            assert (one[..., channel] == sar.stretch(planes[band], spans[band])).all()


def test_no_data_is_zero_in_every_channel_and_valid_is_never_zero(tmp_path):
    values = radar(2)
    values[0, 3:9, 4:11] = np.nan
    values[1, 20, 20] = np.nan
    row = row_of(tmp_path, "a", values)
    limits = compose.scene_limits([row], compose.COMPOSE["vv,vh,ratio"])
    picture, valid = compose.sar_picture(row, "vv,vh,ratio", limits)
    assert (valid == np.isfinite(values).all(axis=0)).all() and not valid[20, 20]
    assert (picture[~valid] == 0).all() and (picture[valid] > 0).all()
    picture, valid = compose.sar_picture(row, "vv", compose.scene_limits([row], ("vv",)))
    assert valid[20, 20] and not valid[5, 5]


def test_a_scene_without_contrast_or_without_data_still_gives_limits(tmp_path):
    flat, empty = np.full((2, 20, 20), -9.0), np.full((2, 20, 20), np.nan)
    limits = compose.scene_limits([row_of(tmp_path, "a", flat)], ("vv",))
    assert limits[("a", "2021-01-10T053000", "44")]["vv"] == pytest.approx((-9, -8), abs=0.01)
    row = row_of(tmp_path, "b", empty)
    limits = compose.scene_limits([row], ("vv",))
    assert limits[compose.scene_key(row)]["vv"] == (0.0, 1.0)
    assert not compose.sar_picture(row, "vv", limits)[1].any()


def test_damaged_neighbours_stop_or_are_named(tmp_path):
    rows = [row_of(tmp_path, name, radar(k)) for k, name in enumerate("ab")]
    rows[1]["sar"].write_bytes(b"not a raster")
    with pytest.raises(BadInput, match=r"b\.tif"):
        compose.scene_limits(rows, ("vv",))
    bad = []
    limits = compose.scene_limits(rows, ("vv",), bad)
    assert len(bad) == 1 and "b.tif" in bad[0]
    assert limits == compose.scene_limits(rows[:1], ("vv",))


def test_the_originals_pictures_are_grey_as_they_are(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (30, 41), np.uint8)
    Image.fromarray(levels).save(tmp_path / "x.png")
    row = {"id": "x", "site": "x", "s1_date": "", "relative_orbit": "", "latitude": "", "weather": None}
    row |= {"sar": tmp_path / "x.png", "rgb": tmp_path / "x.png"}
    assert compose.scene_limits([row], ("vv",)) == {}
    picture, valid = compose.sar_picture(row, "vv,vh,ratio", {})
    assert (picture == levels[..., None]).all() and valid.all()
    assert (compose.rgb_picture(row)[0] == levels[..., None]).all()


def test_rgb_keeps_no_data_apart_and_refuses_what_is_no_picture(tmp_path):
    bands = np.random.default_rng(0).integers(1, 256, (3, 20, 30)).astype(np.uint8)
    bands[:, 2:5, :4] = 0
    rasters.write(tmp_path / "r.tif", bands, ("red", "green", "blue"), grid(20, 30), 0)
    picture, valid = compose.rgb_picture({"id": "r", "rgb": tmp_path / "r.tif"})
    assert (picture == bands.transpose(1, 2, 0)).all() and picture.dtype == np.uint8
    assert (~valid).sum() == 12 and not valid[2:5, :4].any()
    with pytest.raises(BadInput, match="no RGB"):
        compose.rgb_picture({"id": "r", "rgb": None})
    rasters.write(tmp_path / "f.tif", bands.astype(np.float32), ("red", "green", "blue"), grid(20, 30), 0)
    with pytest.raises(BadInput, match="expected 3 of uint8"):
        compose.rgb_picture({"id": "f", "rgb": tmp_path / "f.tif"})


def test_a_sample_depends_on_seed_and_ids_alone():
    rows = [{"id": f"t{k}"} for k in range(50)]
    chosen = compose.sample(rows, 7, 0)
    assert len(chosen) == 7 and chosen == sorted(chosen, key=rows.index)
    shuffled = np.random.default_rng(0).permutation(rows).tolist()
    assert {row["id"] for row in compose.sample(shuffled, 7, 0)} == {row["id"] for row in chosen}
    smaller = compose.sample(rows, 3, 0)
    assert [row for row in chosen if row in smaller] == smaller
    assert compose.sample(rows, 7, 1) != chosen
    assert compose.sample(rows, 50, 0) == compose.sample(rows, None, 0) == rows
