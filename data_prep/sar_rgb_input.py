"""Pairs of radar and RGB to train on, checked file by file, and what a checkpoint says of them."""

import numpy as np

from data_prep import triplets
from data_prep.channels import check_channels, need_weather, planes_by_file
from data_prep.runs import BadInput
from data_prep.sar_rgb_pairs import read_rgb, read_sar, seen_sites


def load(folder, bands: str, limit: int | None, skip_bad: bool, go_on=lambda: None):
    """({"train": Triplets, "val": Triplets}, contract, the manifest's rows) of a triplets folder.

    bands: radar channels, "" for vv,vh or, of PNGs, grey. contract: channels, train's statistics, units and
    all else of the data that whoever embeds must give the same. go_on: as `inspect` has it.
    """
    manifest = triplets.read_manifest(folder)
    channels = check_channels(tuple((bands or ("grey" if manifest.pictures else "vv,vh")).split(",")))
    need_weather(channels, None, f"--bands {bands}")
    data, statistics = {}, {}
    for split in ("train", "val"):
        chosen = data[split] = manifest.of(split)
        chosen.rows = chosen.rows[:limit]
        if chosen.rows:
            statistics[split] = inspect(chosen, channels, skip_bad, f"reading {split}", go_on)
    train = data["train"]
    if not train.rows:
        raise BadInput(f"{folder}: no triplet in split 'train'; assign them with python -m data_prep.split.")
    everything, used = manifest.rows, train.rows + data["val"].rows
    manifest.rows = used
    contract = {
        "bands": list(channels), **statistics["train"], "units": "8-bit" if train.pictures else "dB",
        "backscatter": manifest.common("backscatter"), "speckle": triplets.speckle_of(train.rows[0]),
        "origin": triplets.origin(train.rows), "seen": seen_sites(used),
        "reference": triplets.reference_of(train.rows[0]) if "ref" in planes_by_file(channels) else [],
    }  # fmt: skip
    return data, contract, everything


def inspect(chosen: triplets.Triplets, channels, skip_bad: bool, label: str, go_on=lambda: None) -> dict:
    """Read every pair once: drop or refuse bad ones; leaves in `chosen` what is good, with height and width.

    Returns mean and std of each radar channel and, as rgb_mean and rgb_std, of RGB. go_on: called after each
    pair, may raise to stop.
    """

    def look(row):
        sar, rgb = read_sar(row, channels), read_rgb(row)
        if sar.shape[1:] != rgb.shape[1:]:
            raise BadInput(
                f"{row['id']}: SAR is {sar.shape[1:]} pixels, RGB {rgb.shape[1:]}; they must be equal."
            )
        row["height"], row["width"] = sar.shape[1:]
        sums = []
        for name, image in (("sar", sar), ("rgb", rgb)):
            valid = image[:, np.isfinite(image).all(axis=0)].astype(np.float64)
            if not valid.size:
                raise BadInput(f"{row[name]}: no valid pixel.")
            sums.append((valid.shape[1], valid.sum(axis=1), (valid**2).sum(axis=1)))
        return sums

    good, totals = [], {"": [0, 0.0, 0.0], "rgb_": [0, 0.0, 0.0]}
    for row, sums in triplets.each_good(chosen.rows, look, skip_bad, label, chosen.bad, go_on):
        good.append(row)
        for total, of_picture in zip(totals.values(), sums, strict=True):
            total[:] = [have + more for have, more in zip(total, of_picture, strict=True)]
    chosen.rows, statistics = good, {}
    if good:
        for prefix, total in totals.items():
            statistics[f"{prefix}mean"], statistics[f"{prefix}std"] = triplets.mean_and_std(*total)
    return statistics
