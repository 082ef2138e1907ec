"""Pairs of radar and RGB to train on, checked file by file, and what a checkpoint says of them."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_prep import runs, triplets
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
        try:
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
            return sums, None
        except BadInput as error:
            return None, str(error)

    good, totals = [], [[0, 0.0, 0.0], [0, 0.0, 0.0]]
    with contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(runs.core_count())
        stack.callback(pool.shutdown, cancel_futures=True)
        found = runs.progress(pool.map(look, chosen.rows), len(chosen.rows), label)
        for row, (sums, problem) in zip(chosen.rows, found, strict=True):
            go_on()
            if problem:
                if not skip_bad:
                    raise BadInput(
                        f"{problem.rstrip('.')}; mend it, or leave such triplets out with --skip-bad."
                    )
                runs.say(f"left out: {problem}")
                chosen.bad.append(problem)
                continue
            good.append(row)
            totals = [
                [have + more for have, more in zip(*both, strict=True)]
                for both in zip(totals, sums, strict=True)
            ]
    chosen.rows = good
    statistics = {}
    for prefix, (count, total, square) in zip(("", "rgb_"), totals, strict=True):
        mean = total / max(1, count)
        std = np.sqrt(np.maximum(square / max(1, count) - mean**2, 0))
        statistics[f"{prefix}mean"] = np.asarray(mean).tolist()
        statistics[f"{prefix}std"] = np.where(std > 1e-6, std, 1.0).tolist()
    return statistics
