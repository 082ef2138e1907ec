import numpy as np
import pytest
import rasterio
from conftest import grid, write_optical, write_radar
from rasterio.crs import CRS
from rasterio.transform import from_origin

from data_prep import rasters, sar
from data_prep.runs import BadInput


def test_write_and_read_keep_bands_tags_grid_and_no_data(tmp_path):
    where, values = grid(30, 40), np.random.default_rng(0).normal(-10, 3, (2, 30, 40)).astype(np.float32)
    values[:, 3, 4] = np.nan
    rasters.write(tmp_path / "a.tif", values, ("VV", "VH"), where, np.nan, units="dB", backscatter="sigma0")
    raster = rasters.open_radar(tmp_path / "a.tif")
    assert raster.bands == ("VV", "VH") and raster.grid == where and raster.units == "dB"
    assert np.array_equal(rasters.read(raster, ["VH", "VV"]), values[::-1], equal_nan=True)
    assert np.array_equal(rasters.read(raster, ["VV"], (2, 3, 5, 6))[0], values[0, 2:7, 3:9], equal_nan=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tif"]


def test_bands_are_found_by_name_not_position(tmp_path):
    values = np.stack([np.full((8, 8), -20), np.full((8, 8), -10)]).astype(np.float32)
    rasters.write(
        tmp_path / "a.tif", values, ("VH", "VV"), grid(8, 8), np.nan, units="dB", backscatter="sigma0"
    )
    assert rasters.read(rasters.open_radar(tmp_path / "a.tif"), ["VV"]).mean() == -10
    with pytest.raises(BadInput, match="incidence_angle not found among VH, VV"):
        rasters.read(rasters.open_radar(tmp_path / "a.tif"), ["incidence_angle"])


def test_resampling_of_db_is_in_linear_power(tmp_path):
    values = np.indices((64, 64)).sum(axis=0) % 2 * -20.0  # a chess board of 0 and -20 dB
    values = np.where(values == 0, -0.001, values)
    rasters.write(
        tmp_path / "a.tif",
        values[None].astype(np.float32),
        ("VV",),
        grid(64, 64),
        np.nan,
        units="dB",
        backscatter="sigma0",
    )
    raster = rasters.open_header(tmp_path / "a.tif")
    half = raster.grid.window(10, 10, 20, 20)
    shifted = rasters.Grid(half.crs, half.transform * rasters.Affine.translation(0.5, 0.5), 20, 20)
    got = rasters.read_on(raster, ["VV"], shifted, "bilinear")[0]
    assert got == pytest.approx(
        10 * np.log10((1 + 0.01) / 2), abs=0.02
    )  # -2.97 dB; the mean of dB would be -10


def test_read_on_another_crs_finds_the_same_ground(tmp_path):
    where = grid(200, 200)
    rows, cols = np.indices((200, 200))
    raster_path = tmp_path / "a.tif"
    rasters.write(raster_path, (rows + cols)[None].astype(np.float32), ("elevation",), where, np.nan)
    west, south, east, north = where.geographic_bounds()
    other = rasters.Grid(
        CRS.from_epsg(4326), from_origin(west, north, (east - west) / 220, (north - south) / 220), 220, 220
    )
    there = rasters.read_on(rasters.open_header(raster_path), ["elevation"], other, "bilinear")
    rasters.write(tmp_path / "b.tif", there, ("elevation",), other, np.nan)
    back = rasters.read_on(rasters.open_header(tmp_path / "b.tif"), ["elevation"], where, "bilinear")[0]
    inner = (slice(20, -20),) * 2
    assert np.nanmax(np.abs(back - (rows + cols))[inner]) < 0.6
    far = rasters.Grid(where.crs, where.transform * rasters.Affine.translation(9999, 0), 20, 20)
    assert np.isnan(rasters.read_on(rasters.open_header(raster_path), ["elevation"], far)).all()


def test_zero_in_qa60_means_clear_and_not_no_data(tmp_path):
    snow = np.zeros((16, 16), bool)
    path = write_optical(tmp_path / "s2.tif", snow, grid(16, 16))
    with rasterio.open(path, "r+") as source:
        source.descriptions = ("B02", "B03", "B04", "B08", "B11", "QA60")
        stack = source.read()
        stack[5] = 0
        stack[0, 0, 0] = 0
        source.write(stack)
    bands = rasters.read(rasters.open_optical(path), ["B02", "QA60"])
    assert np.isnan(bands[0, 0, 0]) and np.isnan(bands[0]).sum() == 1 and (bands[1] == 0).all()


def test_linear_and_db_scenes_agree(tmp_path):
    snow = np.zeros((32, 32), bool)
    db = rasters.open_radar(write_radar(tmp_path / "db.tif", snow, grid(32, 32)))
    linear = rasters.open_radar(write_radar(tmp_path / "linear.tif", snow, grid(32, 32), units="linear"))
    assert np.allclose(sar.to_db(rasters.read(linear, ["VV"])), rasters.read(db, ["VV"]), atol=1e-3)


def test_pixel_area_of_metric_and_geographic_grids():
    assert grid(10, 10).pixel_area_m2() == 100
    degrees = rasters.Grid(CRS.from_epsg(4326), from_origin(10, 60.001, 0.0001, 0.0001), 20, 20)
    assert degrees.pixel_area_m2() == pytest.approx(11.132**2 * 0.5, rel=0.01)


def test_cog_is_a_cog_and_a_failed_one_leaves_nothing(tmp_path):
    where = grid(700, 900)
    with rasters.cog_writer(
        tmp_path / "m.tif", where, "uint8", 255, "snow", "nearest", date="2021-01-01"
    ) as target:
        for row in range(0, 700, 100):
            block = np.full((100, 900), row // 100, np.uint8)
            target.write(block, 1, window=rasters.Window(0, row, 900, 100))
    with rasterio.open(tmp_path / "m.tif") as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and source.overviews(1)
        assert (
            source.descriptions == ("snow",)
            and source.nodata == 255
            and source.tags()["date"] == "2021-01-01"
        )
        assert (source.read(1)[:, 0] == np.repeat(np.arange(7), 100)).all()
    with (
        pytest.raises(RuntimeError),
        rasters.cog_writer(tmp_path / "n.tif", where, "uint8", 255, "snow", "nearest"),
    ):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]


def test_png_and_npy(tmp_path):
    from PIL import Image

    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / "a.png")
    assert rasters.read_png(tmp_path / "a.png").tolist() == np.arange(16).reshape(4, 4).tolist()
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(BadInput, match=r"cut\.png"):
        rasters.read_png(tmp_path / "cut.png")
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4)))
    assert rasters.read_npy(tmp_path / "a.npy").shape == (2, 3, 4)
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"evil\.npy"):
        rasters.read_npy(tmp_path / "evil.npy")


def test_north_of_a_map_is_its_meridian_convergence():
    def north(epsg, x, y):
        return (
            rasters.Grid(CRS.from_epsg(epsg), from_origin(x - 10, y + 10, 10, 10), 2, 2).north() + 180
        ) % 360 - 180

    assert abs(north(32632, 500000, 5200000)) < 1e-3  # on the central meridian
    longitude, latitude = 11.635, 46.92  # of 700000, 5200000: tan(convergence) = tan(dlon) sin(latitude)
    expected = np.degrees(np.arctan(np.tan(np.radians(longitude - 9)) * np.sin(np.radians(latitude))))
    assert abs(north(32632, 700000, 5200000) - expected) < 0.03  # east of it, map north is east of true
    assert abs(north(3413, 0, -1000000)) < 0.01 and abs(abs(north(3413, 0, 1000000)) - 180) < 0.01  # polar
