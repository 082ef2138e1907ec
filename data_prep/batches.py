"""The torch Dataset over triplets, and the order of its batches as a function of (seed, epoch)."""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from data_prep import runs, triplets
from data_prep.channels import RADAR_CHANNELS


class TripletDataset:
    """Image float32 (C, size, size) with NaN for no data, mask uint8 (size, size), by key (epoch, index).

    Crop, dihedral flip and gain are functions of (seed, epoch, index) alone, so no worker count changes them.
    Without `size` a triplet comes whole and as it is. Tiles smaller than `size` are padded with NaN and 255.
    cache: a folder that keeps each image as it was computed, for many epochs of many bands: reading GeoTIFFs
    and computing bands can take as much of the processors as the net. What comes out is the same to the bit.
    """

    def __init__(
        self,
        rows: list[dict],
        channels,
        target: str = "total",
        size: int | None = None,
        seed: int = 0,
        augment: bool = False,
        gain_db: float = 0.0,
        cache: Path | None = None,
    ):
        self.rows, self.channels, self.target = rows, tuple(channels), target
        self.size, self.seed, self.augment, self.gain_db = size, seed, augment, gain_db
        self.cache = cache

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        row, window = self.rows[index], None
        if self.size is not None:  # read what is cropped, no more
            random = generator(self.seed, epoch, index)
            window = self._crop(*triplets.picture_size(row), random)
        image = self._cached(row)
        image, mask = triplets.read_pair(row, self.channels, self.target, window, image)
        image, mask = torch.from_numpy(image), torch.from_numpy(mask)
        if self.size is not None:
            pad = (0, self.size - mask.shape[1], 0, self.size - mask.shape[0])
            image, mask = F.pad(image, pad, value=float("nan")), F.pad(mask, pad, value=triplets.NO_DATA)
            if self.augment:
                image, mask = self._augment(image, mask, random)
        return image, mask, index

    def _cached(self, row) -> np.ndarray | None:
        """The whole image as a memory map, computed and written if it is not there; None without a cache."""
        if self.cache is None:
            return None
        path = self.cache / f"{triplets.image_key(row, self.channels)}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):  # not there, or cut
            with runs.atomic(path) as temporary, open(temporary, "wb") as stream:
                np.save(stream, triplets.read_image(row, self.channels))
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _crop(self, height, width, random):
        """(row, col, height, width) of the crop: `size` on a side, or less where the triplet is smaller."""
        size = self.size
        row, col = (
            int(torch.randint(max(0, side - size) + 1, (), generator=random)) for side in (height, width)
        )
        return row, col, min(size, height), min(size, width)

    def _augment(self, image, mask, random):
        turns, mirror = (int(torch.randint(n, (), generator=random)) for n in (4, 2))
        image, mask = torch.rot90(image, turns, (1, 2)), torch.rot90(mask, turns, (0, 1))
        if mirror:
            image, mask = image.flip(2), mask.flip(1)
        if self.gain_db:
            gain = (2 * torch.rand((), generator=random) - 1) * self.gain_db
            radar = torch.tensor([name in RADAR_CHANNELS for name in self.channels]).view(-1, 1, 1)
            image = image + gain * radar
        return image.contiguous(), mask.contiguous()


def shuffled(count: int, batch: int, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """Keys of the epoch's full batches (or of one smaller one); the order is a function of (seed, epoch)."""
    order = torch.randperm(count, generator=generator(seed, epoch)).tolist()
    batches = [order[start : start + batch] for start in range(0, max(1, count // batch) * batch, batch)]
    return [[(epoch, index) for index in indices] for indices in batches]


def part(keys: list, rank: int, ranks: int) -> list:
    """The contiguous part of a batch that process `rank` of `ranks` works on; sizes differ by one at most."""
    return keys[len(keys) * rank // ranks : len(keys) * (rank + 1) // ranks]


def epochs(
    count: int, batch: int, seed: int, first: int, last: int, begun: int, rank: int = 0, ranks: int = 1
):
    """Yield the keys of every batch of epochs first..last-1, beginning inside the first after `begun`.

    ranks: processes that share each batch, of which this one is `rank`.
    """
    for epoch in range(first, last):
        for keys in shuffled(count, batch, seed, epoch)[begun if epoch == first else 0 :]:
            yield part(keys, rank, ranks)


def by_size(rows: list[dict], batch: int) -> list[list[tuple[int, int]]]:
    """Keys in batches of equally large triplets, for evaluation without padding; every triplet once."""
    groups: dict[tuple, list] = {}
    for index, row in enumerate(rows):
        groups.setdefault(triplets.picture_size(row), []).append((0, index))
    return [keys[start : start + batch] for keys in groups.values() for start in range(0, len(keys), batch)]


def generator(*numbers: int) -> torch.Generator:
    """A random generator that depends on these numbers alone."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def loader(dataset, batches, workers: int, persistent: bool = False) -> DataLoader:
    """Batches in the order given, from worker processes if there are any."""
    more = {"prefetch_factor": 4, "persistent_workers": persistent} if workers else {}
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=runs.ignore_signals,
        pin_memory=torch.cuda.is_available(),
        **more,
    )
