"""The bytes of a large TIFF that one window of it needs, and a small TIFF made of them alone.

GDAL reads the small one from memory, and asks nothing of a server. rasterio's `opener` would save this file,
but for each raster that is opened it changes GDAL's list of file systems, which the reads of other threads
walk through without a lock: now and then such a process dies of a segmentation fault.

Layout after TIFF 6.0 (Adobe, 1992), sections 2 and 15, and https://libtiff.gitlab.io/libtiff/specification/
bigtiff.html. Needs numpy alone.
"""

import struct
from dataclasses import dataclass

import numpy as np

TYPES = {1: (1, 2, 6, 7), 2: (3, 8), 4: (4, 9, 11, 13), 8: (5, 10, 12, 16, 17, 18)}  # by bytes of a value
SIZES = {kind: size for size, kinds in TYPES.items() for kind in kinds}
NUMBERS = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}  # types that count or point
LONG8 = 16
WIDTH, HEIGHT, BITS, SAMPLES, ROWS, TILE_WIDTH, TILE_HEIGHT = 256, 257, 258, 277, 278, 322, 323
STRIPS, TILES = (273, 279), (324, 325)  # tags of the blocks' offsets and sizes
ELSEWHERE = {330, 34665, 34853, 40965}  # tags that point to other directories: of cameras, of parts
LARGEST = 512 << 20  # bytes of a tag, a block or a window's blocks: those of COGs are far smaller


class BadTiff(ValueError):
    """Bytes that are no TIFF, or none that can be read by parts."""


@dataclass(frozen=True)
class Header:
    """The first directory of a TIFF of `size` bytes."""

    order: str  # of bytes, "<" or ">"
    tags: dict[int, tuple[int, int, bytes]]  # code -> (type, count, value)
    size: int

    def numbers(self, code: int, default=None) -> np.ndarray:
        """Values of a tag of whole numbers."""
        if code not in self.tags and default is not None:
            return np.array([default])
        kind, _, value = self.tags.get(code, (0, 0, b""))
        if kind not in NUMBERS or not value:
            raise BadTiff(f"its tag {code} is missing or holds no whole numbers")
        return np.frombuffer(value, self.order + NUMBERS[kind]).astype(np.int64)

    def block_tags(self) -> tuple[int, int]:
        return TILES if TILE_WIDTH in self.tags else STRIPS

    def block_shape(self) -> tuple[int, int]:
        """(rows, columns) of a tile, or of a strip."""
        height, width = int(self.numbers(HEIGHT)[0]), int(self.numbers(WIDTH)[0])
        if self.block_tags() == TILES:
            shape = int(self.numbers(TILE_HEIGHT)[0]), int(self.numbers(TILE_WIDTH)[0])
        else:
            shape = min(height, int(self.numbers(ROWS, height)[0])), width
        if min(height, width, *shape) < 1:
            raise BadTiff("it has no pixels")
        pixel_bytes = int(self.numbers(SAMPLES, 1)[0]) * int(self.numbers(BITS, 1).max()) / 8
        if shape[0] * shape[1] * pixel_bytes > LARGEST:
            raise BadTiff(f"its blocks of {shape[0]} x {shape[1]} pixels are too large to read a window")
        return shape

    def blocks(self, window: tuple[int, int, int, int]) -> tuple[dict[int, tuple[int, int]], set]:
        """number -> (start, size) of the first band's blocks that a window (row, col, height, width) touches.

        And those in its last row and column of blocks, which the windows after it touch too. Blocks that a
        sparse file leaves out are left out.
        """
        row, col, height, width = window
        tall, wide = self.block_shape()
        across = -(-int(self.numbers(WIDTH)[0]) // wide)
        starts, sizes = (self.numbers(code) for code in self.block_tags())
        last_y, last_x = (row + height - 1) // tall, (col + width - 1) // wide
        if len(starts) != len(sizes) or last_y * across + last_x >= len(starts):
            raise BadTiff("it lists other blocks than its size asks for")
        found, again = {}, set()
        for y in range(row // tall, last_y + 1):
            for x in range(col // wide, last_x + 1):
                start, size = int(starts[y * across + x]), int(sizes[y * across + x])
                if min(start, size) < 0 or start + size > self.size:
                    raise BadTiff("its header points outside of it")
                if start and not size and len(starts) == 1:
                    raise BadTiff("the size of its only block is not stated")
                if size:
                    found[y * across + x] = (start, size)
                    if y == last_y or x == last_x:
                        again.add((start, size))
        if (total := sum(size for _, size in found.values())) > LARGEST:
            raise BadTiff(f"a window of it takes {total >> 20} MiB, too much to read at once")
        return found, again


def read_header(part, size: int) -> Header:
    """The header of a TIFF of `size` bytes, by part(start, end) -> its bytes there; raises BadTiff."""
    mark = part(0, min(16, size))
    order = {b"II": "<", b"MM": ">"}.get(mark[:2])
    version = struct.unpack(order + "H", mark[2:4])[0] if order and len(mark) == 16 else 0
    if version not in (42, 43):
        raise BadTiff("it does not begin as one")
    big = version == 43
    place = struct.unpack(order + ("Q" if big else "I"), mark[8:16] if big else mark[4:8])[0]

    def bytes_at(start: int, length: int) -> bytes:
        if start < 8 or length > LARGEST or start + length > size:
            raise BadTiff("its header points outside of it")
        return part(start, start + length)

    counts, entry = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    lead, step = struct.calcsize(order + counts), struct.calcsize(order + entry)
    entries = struct.unpack(order + counts, bytes_at(place, lead))[0]
    table = bytes_at(place + lead, entries * step)
    tags, total = {}, 0
    for code, kind, count, value in struct.iter_unpack(order + entry, table):
        length = SIZES.get(kind, 0) * count
        if not length or code in ELSEWHERE:
            continue  # of a type that no reader knows, or of a directory that does not come along
        total += length
        if total > size:
            raise BadTiff("its header is larger than the file")
        if length > len(value):
            value = bytes_at(struct.unpack(order + ("Q" if big else "I"), value)[0], length)
        tags[code] = (kind, count, value[:length])
    return Header(order, tags, size)


def small_tiff(header: Header, blocks: dict[int, bytes]) -> bytes:
    """A sparse BigTIFF with all tags of `header` that holds these blocks (number -> bytes) and no others."""
    order, codes = header.order, header.block_tags()
    starts, sizes = (np.zeros(len(header.numbers(code)), order + "u8") for code in codes)
    body, place = [], 16
    for number, block in blocks.items():
        starts[number], sizes[number] = place, len(block)
        body.append(block)
        place += len(block)
    tags = dict(header.tags)
    for code, values in zip(codes, (starts, sizes), strict=True):
        tags[code] = (LONG8, len(values), values.tobytes())
    entries, values, beyond = [], [], place + 8 + 20 * len(tags) + 8
    for code, (kind, count, value) in sorted(tags.items()):
        if len(value) > 8:
            entries.append(struct.pack(order + "HHQQ", code, kind, count, beyond))
            values.append(value)
            beyond += len(value)
        else:
            entries.append(struct.pack(order + "HHQ8s", code, kind, count, value))
    mark = (b"II" if order == "<" else b"MM") + struct.pack(order + "HHHQ", 43, 8, 0, place)
    return b"".join((mark, *body, struct.pack(order + "Q", len(tags)), *entries, bytes(8), *values))
