"""Predict an image too large for memory, tile by tile, equal to predicting it whole. Needs numpy only.

    for row, col, block in predict(read, net_probability, height, width, (1536, 1536), trim=112, multiple=16):
        write(row, col, block)             # float32 (rows, cols), every pixel once

Tiles start at multiples of the net's pooling cell and overlap by twice `trim` pixels, which are not used:
with trim at least the net's receptive radius, no tile sees its own border and no seam can appear. `blend`
cross-fades over so many pixels more, for nets whose result depends on the extent of the tile (group norm).
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def starts(length: int, tile: int, trim: int, blend: int, multiple: int) -> list[tuple[int, int]]:
    """(start, stop) of tiles over `length`: as few as possible, as small as these few can be, ends flush."""
    if length <= tile:
        return [(0, length)]
    overlap = 2 * trim + blend
    if tile % multiple or tile <= overlap + multiple:
        raise ValueError(
            f"tile {tile}: must be a multiple of {multiple} and larger than {overlap + multiple}"
        )
    count = -(-(length - overlap) // (tile - overlap))
    while True:
        size = -(-(length + (count - 1) * overlap) // count)
        size += -size % multiple
        step = (size - overlap) // multiple * multiple
        if size <= tile and (count - 1) * step + size >= length:
            return [(k * step, min(k * step + size, length)) for k in range(count)]
        count += 1


def seams(spans: list[tuple[int, int]], trim: int) -> list[tuple[int, int]]:
    """(first, last) pixel of each cross-fade between neighbours: both are at least `trim` from their ends."""
    return [
        (after[0] + trim, max(after[0] + trim, before[1] - trim))
        for before, after in itertools.pairwise(spans)
    ]


def weights(spans: list[tuple[int, int]], index: int, trim: int, blend: int) -> np.ndarray:
    """Weight of a span's pixels: 1 inside, a ramp of at most `blend` at seams, 0 beyond; spans sum to 1."""
    start, stop = spans[index]
    position = np.arange(start, stop) + 0.5
    weight = np.ones(stop - start, np.float32)
    fades = seams(spans, trim)
    for side, place in ((1, index - 1), (-1, index)):
        if 0 <= place < len(fades):
            first, last = fades[place]
            middle, half = (first + last) // 2, min(blend, last - first) / 2
            ramp = (position - middle) / (2 * half) + 0.5 if half else (position > middle).astype(np.float32)
            ramp = np.clip(ramp, 0, 1)
            weight *= (ramp if side == 1 else 1 - ramp).astype(np.float32)
    return weight


def overhead(height: int, width: int, tile: tuple[int, int], trim: int, blend: int, multiple: int) -> float:
    """Pixels pushed through the net for each pixel of the image."""
    rows, cols = (starts(n, t, trim, blend, multiple) for n, t in ((height, tile[0]), (width, tile[1])))
    return sum(b - a for a, b in rows) * sum(b - a for a, b in cols) / (height * width)


def predict(
    read: Callable[[int, int, int, int], np.ndarray],
    net: Callable[[np.ndarray], np.ndarray],
    height: int,
    width: int,
    tile: tuple[int, int],
    trim: int,
    blend: int = 0,
    multiple: int = 16,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (row, col, block) with block float32 (rows, cols), every pixel once; copy what is to be kept.

    read(row, col, height, width) gives the input of a tile, net(input) its prediction (height, width), NaN
    allowed. The next tile is read while the net works on this one. Memory: two tiles and one row of tiles of
    output.
    """
    rows, cols = (starts(n, t, trim, blend, multiple) for n, t in ((height, tile[0]), (width, tile[1])))
    boxes = [(r0, c0, r1 - r0, c1 - c0) for r0, r1 in rows for c0, c1 in cols]
    final = [
        *((a + b) // 2 - blend // 2 for a, b in seams(rows, trim)),
        height,
    ]  # rows done after each row of tiles
    strip, top = np.zeros((max(b - a for a, b in rows) if blend else 0, width), np.float32), 0
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(read, *boxes[0])
        for number, (row, col, _, _) in enumerate(boxes):
            tile_input = waiting.result()
            if number + 1 < len(boxes):
                waiting = reader.submit(read, *boxes[number + 1])
            i, j = divmod(number, len(cols))
            down, across = weights(rows, i, trim, blend), weights(cols, j, trim, blend)
            y, x = used(down), used(across)
            part = net(tile_input)[y, x]
            if not blend:
                yield row + y.start, col + x.start, part
                continue
            place = slice(row + y.start - top, row + y.stop - top), slice(col + x.start, col + x.stop)
            strip[place] += part * (down[y, None] * across[None, x])
            if j == len(cols) - 1:
                done = final[i] - top
                yield top, 0, strip[:done]
                top += done
                rest = row + y.stop - top  # begun, and finished by the next row of tiles
                strip[:rest] = strip[done : done + rest]
                strip[rest:] = 0


def used(weight: np.ndarray) -> slice:
    """The stretch of a span whose weight is not 0."""
    inside = np.flatnonzero(weight)
    return slice(int(inside[0]), int(inside[-1]) + 1)
