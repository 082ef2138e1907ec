"""Windows of TIFFs by their own bytes: every layout against GDAL's reading of the whole; damaged ones."""

import random
import struct

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.windows import Window

from data_prep import rasters
from data_prep.tiff_window import BadTiff, read_header, small_tiff

HEIGHT, WIDTH = 150, 203
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 32}
LAYOUTS = {
    "strips": {},
    "rows": {"blockysize": 1, "compress": "lzw"},
    "one strip": {"blockysize": HEIGHT, "compress": "deflate"},
    "tiles": TILED,
    "big": {**TILED, "BIGTIFF": "YES", "compress": "deflate", "predictor": 2},
    "motorola": {**TILED, "ENDIANNESS": "BIG", "compress": "deflate"},
    "big motorola": {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
    "bands apart": {**TILED, "count": 3, "interleave": "band", "compress": "lzw"},
    "bands together": {**TILED, "count": 3, "interleave": "pixel", "compress": "zstd"},
    "jpeg": {"tiled": True, "blockxsize": 64, "blockysize": 64, "count": 3, "dtype": "uint8",
             "compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel"},
    "floats": {**TILED, "dtype": "float32", "compress": "deflate", "predictor": 3, "nodata": np.nan},
    "sparse": {**TILED, "sparse_ok": True, "nodata": 0},
    "cog": {"COG": True, "dtype": "float32"},
    "cog with a mask": {"COG": True, "count": 3, "dtype": "uint8", "mask": True},
}  # fmt: skip


def make(path, layout: dict):
    """A raster of random numbers of that layout, with tags, CRS and descriptions."""
    layout = dict(layout)
    cog, mask = layout.pop("COG", False), layout.pop("mask", False)
    profile = {
        "driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint16",
        "crs": "EPSG:32632", "transform": from_origin(600000, 5200000, 10, 10),
        **(TILED if cog else {}), **layout,
    }  # fmt: skip
    draft = path.with_suffix(".draft") if cog else path
    values = np.random.default_rng(0).integers(0, 255, (profile["count"], HEIGHT, WIDTH))
    if layout.get("sparse_ok"):
        values[:, :64], values[:, :, 130:] = 0, 0
    with rasterio.open(draft, "w", **profile) as target:
        target.write(values.astype(profile["dtype"]))
        target.update_tags(orbit="ascending", note="x" * 5000)
        target.scales = (0.5,) * profile["count"]
        if profile["count"] == 1:
            target.colorinterp = [ColorInterp.gray]
            target.set_band_description(1, "VV")
        if mask:
            target.write_mask(np.ones((HEIGHT, WIDTH), bool))
    if cog:
        copy(draft, path, driver="COG", blocksize=64, compress="deflate", overview_resampling="nearest")
    return path.read_bytes()


def window_of(body: bytes, window: tuple[int, int, int, int]):
    """(pixels of the first band, what GDAL says of the small file, the bytes that were asked for)."""
    asked = []

    def part(start, end):
        asked.append((start, end))
        return body[start:end]

    header = read_header(part, len(body))
    blocks, _ = header.blocks(window)
    small = small_tiff(
        header, {number: part(start, start + size) for number, (start, size) in blocks.items()}
    )
    row, col, height, width = window
    with rasterio.MemoryFile(small) as memory, memory.open(driver="GTiff") as source:
        return source.read(1, window=Window(col, row, width, height)), about(source), asked, blocks


def about(source) -> tuple:
    nodata = source.nodata
    return (
        source.crs, source.transform, source.shape, source.count, source.dtypes, source.scales,
        source.descriptions, "nan" if nodata is not None and np.isnan(nodata) else nodata,
        {key: value for key, value in source.tags().items() if key in ("orbit", "note")},
    )  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_window_is_that_of_the_whole_file(tmp_path, name):
    body, chance = make(tmp_path / "a.tif", LAYOUTS[name]), random.Random(name)
    with rasterio.open(tmp_path / "a.tif") as source:
        whole, expected = source.read(1), about(source)
    for _ in range(25):
        row, col = chance.randrange(HEIGHT), chance.randrange(WIDTH)
        height, width = chance.randint(1, HEIGHT - row), chance.randint(1, WIDTH - col)
        got, said, asked, blocks = window_of(body, (row, col, height, width))
        assert np.array_equal(got, whole[row : row + height, col : col + width]) and said == expected
        assert sum(end - start for start, end in asked) < 12_000 + sum(size for _, size in blocks.values())


def test_only_the_blocks_of_a_window_are_asked_for(tmp_path):
    """Tiles of 32 rows and 64 columns, 4 a row: the window touches those of rows 1-2, columns 1-2."""
    header = read_header_of(make(tmp_path / "a.tif", TILED))
    blocks, again = header.blocks((40, 70, 50, 100))
    assert list(blocks) == [5, 6, 9, 10] and again == {blocks[number] for number in (6, 9, 10)}
    sparse = read_header_of(make(tmp_path / "b.tif", LAYOUTS["sparse"]))
    assert list(sparse.blocks((0, 0, HEIGHT, WIDTH))[0]) == [8, 9, 10, 12, 13, 14, 16, 17, 18]


def read_header_of(body: bytes):
    return read_header(lambda start, end: body[start:end], len(body))


def test_what_is_no_tiff_or_points_outside_of_itself(tmp_path):
    body = make(tmp_path / "a.tif", TILED)
    directory = struct.unpack("<I", body[4:8])[0]
    for bad, saying in (
        (b"", "does not begin"), (b"II", "does not begin"), (b"<html>" * 9, "does not begin"),
        (b"II*\0" + struct.pack("<I", len(body)) + body[8:], "points outside"),
        (body[:4] + struct.pack("<I", 0) + body[8:], "points outside"),
        (body[: directory + 6], "points outside"),
        (b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 62) + bytes(99), "points outside"),
    ):  # fmt: skip
        with pytest.raises(BadTiff, match=saying):
            read_header_of(bad)
    header = read_header_of(body)
    for code, value, saying in (
        (324, b"\xff" * 8 * 20, "points outside"), (325, b"\xff" * 8 * 20, "points outside"),
        (324, bytes(8), "other blocks"), (322, bytes(8), "no pixels"), (256, None, "missing"),
        (322, struct.pack("<Q", 1 << 24), "too large to read a window"),
    ):  # fmt: skip
        tags = {key: kept for key, kept in header.tags.items() if key != code}
        if value is not None:
            tags[code] = (16, len(value) // 8, value)
        with pytest.raises(BadTiff, match=saying):
            type(header)("<", tags, len(body)).blocks((0, 0, 9, 9))
    lone = {256: (3, 1, b"\x09\0"), 257: (3, 1, b"\x09\0"), 273: (4, 1, b"\x08\0\0\0"), 279: (4, 1, bytes(4))}
    with pytest.raises(BadTiff, match="size of its only block is not stated"):
        type(header)("<", lone, 999).blocks((0, 0, 9, 9))
    tiles_as_strips = {{324: 273, 325: 279}.get(code, code): value for code, value in header.tags.items()}
    with pytest.raises(BadTiff, match="tag 324 is missing"):
        type(header)("<", tiles_as_strips, len(body)).blocks((0, 0, 9, 9))
    again = b"".join(struct.pack("<HHII", 60000 + number, 2, 900, 8) for number in range(3))
    with pytest.raises(BadTiff, match="larger than the file"):
        read_header_of(b"II*\0" + struct.pack("<I", 948) + bytes(940) + struct.pack("<H", 3) + again)
    huge = {**header.tags, 325: (16, 20, struct.pack("<20Q", *[400 << 20] * 20))}
    with pytest.raises(BadTiff, match="too much to read at once"):
        type(header)("<", huge, 1 << 40).blocks((0, 0, HEIGHT, WIDTH))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_damaged_bytes_are_an_error_or_an_image(tmp_path):
    """Flipped and cut anywhere in the header: no other error, nothing that hangs or fills the memory."""
    chance, bodies = random.Random(3), [make(tmp_path / "a.tif", LAYOUTS[name]) for name in ("big", "strips")]
    refused = 0
    for turn in range(600):
        body = bytearray(bodies[turn % 2])
        if chance.random() < 0.2:
            del body[chance.randrange(len(body)) :]
        else:
            at = struct.unpack("<Q", body[8:16])[0] if turn % 2 == 0 else struct.unpack("<I", body[4:8])[0]
            for _ in range(chance.randint(1, 4)):
                body[chance.choice((chance.randrange(16), at + chance.randrange(400))) % len(body)] = (
                    chance.randrange(256)
                )
        try:
            window_of(bytes(body), (10, 10, 50, 50))
        except (ValueError, *rasters.GDAL_ERRORS):
            refused += 1
    assert 100 < refused < 600
