"""Radar and RGB of one place as pairs for a contrastive model; batches without two pairs of one ground."""

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F

from data_prep import batches, compose, runs, triplets
from data_prep.channels import RADAR_CHANNELS
from data_prep.runs import BadInput

TURNS = 8  # the square's symmetries: quarter turns, and the same of the mirror image

# ---- grounds -----------------------------------------------------------------------------------------------


def ground(row: dict) -> tuple[str, str, str]:
    """The piece of land a triplet shows: triplets of several dates share it."""
    return row["site"], row["row"], row["col"]


def seen_sites(rows: list[dict]) -> list[str]:
    """How a checkpoint names its sites: 16 hex digits of the sha256 of each name, sorted."""
    return sorted({hashlib.sha256(row["site"].encode()).hexdigest()[:16] for row in rows})


def one_per_ground(rows: list[dict], seed: int) -> list[dict]:
    """One triplet of each ground, in the order of rows: the first by a hash of (seed, id)."""
    best: dict[tuple, tuple] = {}
    for row in rows:
        rank = hashlib.sha256(f"{seed} {row['id']}".encode()).digest()
        if ground(row) not in best or rank < best[ground(row)][0]:
            best[ground(row)] = rank, row["id"]
    kept = {name for _, name in best.values()}
    return [row for row in rows if row["id"] in kept]


def batch_count(rows: list[dict], batch: int) -> int:
    """Batches of an epoch: as many as `batch` rows each need, or as the ground with the most rows needs."""
    most: dict[tuple, int] = {}
    for row in rows:
        most[ground(row)] = most.get(ground(row), 0) + 1
    return max(math.ceil(len(rows) / batch), *most.values())


def check_batches(rows: list[dict], batch: int, ranks: int = 1) -> int:
    """Steps of an epoch; says where batches are smaller than asked, BadInput where one has a single pair.

    ranks: processes that share each batch; each needs two pairs, as batch norms have it.
    """
    count, grounds = batch_count(rows, batch), len({ground(row) for row in rows})
    smallest = len(rows) // count
    share = smallest // ranks
    if share < 2:
        made = f"{len(rows)} training triplets of {grounds} grounds make {count} batches of"
        if ranks > 1:
            raise BadInput(
                f"{made} {smallest}, {share} for each of {ranks} processes, which need 2; start "
                "fewer processes, give triplets of more grounds, or a larger --batch."
            )
        raise BadInput(
            f"{made} {smallest}, and a pair is told from others of its batch; give triplets of more "
            "grounds, or a larger --batch."
        )
    if smallest < min(batch, len(rows)) - 1:
        runs.say(
            f"batches hold {smallest} of --batch {batch}: {len(rows)} triplets are of {grounds} grounds, "
            "and no batch holds two of one"
        )
    return count


def ground_batches(rows: list[dict], batch: int, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """Keys (epoch, index) of every row, in batches that never hold two triplets of one ground.

    Rows of a ground lie side by side in a random order and are dealt to the batches in turn, so sizes differ
    by one at most. A function of (seed, epoch).
    """
    places: dict[tuple, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(ground(row), []).append(index)
    random, groups = batches.generator(seed, epoch), list(places.values())
    dealt = []
    for group in torch.randperm(len(groups), generator=random).tolist():
        members = groups[group]
        dealt += [members[k] for k in torch.randperm(len(members), generator=random).tolist()]
    count = batch_count(rows, batch)
    return [[(epoch, index) for index in dealt[first::count]] for first in range(count)]


def epochs(rows, batch: int, seed: int, first: int, last: int, begun: int, rank: int = 0, ranks: int = 1):
    """Yield the keys of every batch of epochs first..last-1, beginning inside the first after `begun`.

    ranks: processes that share each batch, of which this one is `rank`.
    """
    for epoch in range(first, last):
        for keys in ground_batches(rows, batch, seed, epoch)[begun if epoch == first else 0 :]:
            yield batches.part(keys, rank, ranks)


def which_fit(sets: list[list[dict]], channels, room: int) -> list[bool]:
    """Of which sets of rows all decoded pairs stay in `room` bytes, those of sets before them included."""
    found = []
    for rows in sets:
        sides = (triplets.picture_size(row) for row in rows)
        size = 4 * (len(channels) + 3) * sum(height * width for height, width in sides)
        found.append(size <= room)
        room -= size * found[-1]
    return found


# ---- pairs -------------------------------------------------------------------------------------------------


class SarRgbPairs:
    """SAR float32 (C, s, s), RGB float32 (3, s, s) in 0..255, index; by key (epoch, index). NaN = no data.

    Without `size` a pair comes whole and as it is. Crop, turn and gain are functions of (seed, epoch, index)
    alone; crop and turn are the same for both. Pairs smaller than `size` are padded with NaN.
    features: {"sar" or "rgb": float32 (rows, turns, F)} of frozen networks, which take the place of the
    pictures; such a vector is of the whole tile, so the other picture is cropped at its centre. keep: hold
    every pair in memory once it is read.
    """

    def __init__(
        self,
        rows: list[dict],
        channels,
        size: int | None = None,
        seed: int = 0,
        augment: bool = False,
        gain_db: float = 0.0,
        features: dict[str, np.ndarray] | None = None,
        keep: bool = False,
    ):
        self.rows, self.channels, self.size, self.seed = rows, tuple(channels), size, seed
        self.augment, self.gain_db, self.features = augment, gain_db, features or {}
        self.keep, self.kept = keep, {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        row, window, random = self.rows[index], None, batches.generator(self.seed, epoch, index)
        if self.size is not None:
            window = self._window(*triplets.picture_size(row), random)
        turn = int(torch.randint(TURNS, (), generator=random)) if self.augment else 0
        gain = (2 * torch.rand((), generator=random) - 1) * self.gain_db if self.augment else None
        found = []
        for name in ("sar", "rgb"):
            if name in self.features:
                found.append(torch.from_numpy(self.features[name][index, turn]))
                continue
            image = torch.from_numpy(self._read(name, index, window))
            if name == "sar" and gain is not None:
                radar = torch.tensor([channel in RADAR_CHANNELS for channel in self.channels])
                image = image + gain * radar.view(-1, 1, 1)
            if self.size is not None:
                image = self._pad(image)
            found.append(turned(image, turn).contiguous())
        return *found, index

    def _read(self, name: str, index: int, window) -> np.ndarray:
        """The "sar" or "rgb" picture of a row, or of its window."""
        row = self.rows[index]
        if not self.keep:
            return read_sar(row, self.channels, window) if name == "sar" else read_rgb(row, window)
        if (name, index) not in self.kept:
            self.kept[name, index] = read_sar(row, self.channels) if name == "sar" else read_rgb(row)
        return np.array(triplets.cut(self.kept[name, index], window))

    def _window(self, height: int, width: int, random) -> tuple[int, int, int, int]:
        """(row, col, height, width) of the crop: random, or at the centre beside frozen features."""
        room = [max(0, side - self.size) for side in (height, width)]
        corner = [int(torch.randint(space + 1, (), generator=random)) for space in room]
        if self.features:
            corner = [space // 2 for space in room]
        return *corner, min(self.size, height), min(self.size, width)

    def _pad(self, image: torch.Tensor) -> torch.Tensor:
        """No data around a picture that is smaller than `size`, evenly."""
        down, right = (self.size - side for side in image.shape[1:])
        sides = (right // 2, right - right // 2, down // 2, down - down // 2)
        return F.pad(image, sides, value=float("nan"))


def turned(image, turn: int):
    """A picture (..., H, W), tensor or array, in one of TURNS positions: turn 0 is as it was."""
    if isinstance(image, np.ndarray):
        image = np.rot90(image, turn % 4, (-2, -1))
        return np.flip(image, -1) if turn >= 4 else image
    image = torch.rot90(image, turn % 4, (-2, -1))
    return image.flip(-1) if turn >= 4 else image


def read_sar(row: dict, channels, window=None) -> np.ndarray:
    """float32 (C, H, W) of a triplet's radar channels, NaN = no data; of a window if given."""
    return np.array(triplets.read_image(row, channels, window))


def read_rgb(row: dict, window=None) -> np.ndarray:
    """float32 (3, H, W) of a triplet's RGB picture, 0 to 255, NaN = no data; of a window if given."""
    picture, valid = compose.rgb_picture(row)
    image = np.where(valid, picture.transpose(2, 0, 1).astype(np.float32), np.float32("nan"))
    return np.ascontiguousarray(triplets.cut(image, window))
