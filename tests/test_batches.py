"""What a cache gives is what the files give; a crop is the same whether cut from the whole or read alone."""

import os

import numpy as np
import torch

from data_prep import batches, triplets


def test_cache_and_crop_change_nothing(triplets_folder, tmp_path):
    rows = triplets.read_manifest(triplets_folder).rows[:3]
    channels = ("vv", "vh", "vh-vv", "season-sin")
    usual = batches.TripletDataset(rows, channels, size=40, seed=3, augment=True, gain_db=1)
    cached = batches.TripletDataset(rows, channels, size=40, seed=3, augment=True, gain_db=1, cache=tmp_path)
    for _ in range(2):  # written, then read
        for index in range(3):
            for a, b in zip(usual[7, index], cached[7, index], strict=True):
                assert torch.equal(torch.as_tensor(a).nan_to_num(9e9), torch.as_tensor(b).nan_to_num(9e9))
    assert len(list(tmp_path.iterdir())) == 3
    whole, mask = triplets.read_pair(rows[0], channels)
    part, part_mask = triplets.read_pair(rows[0], channels, window=(5, 9, 30, 20))
    assert np.array_equal(part, whole[:, 5:35, 9:29], equal_nan=True)
    assert np.array_equal(part_mask, mask[5:35, 9:29])


def test_another_file_or_band_is_another_cache_entry(triplets_folder):
    row = dict(triplets.read_manifest(triplets_folder).rows[0])
    key = triplets.image_key(row, ("vv", "vh"))
    assert key != triplets.image_key(row, ("vh", "vv")) and key == triplets.image_key(row, ("vv", "vh"))
    state = os.stat(row["sar"])
    os.utime(row["sar"], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert key != triplets.image_key(row, ("vv", "vh"))
    os.utime(row["sar"], ns=(state.st_atime_ns, state.st_mtime_ns))
