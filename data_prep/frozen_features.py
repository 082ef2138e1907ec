"""What a frozen network says of triplets' pictures, computed once and kept on disk."""

from pathlib import Path

import numpy as np

from data_prep import compose, embeddings, runs
from data_prep.sar_rgb_pairs import turned

AT_ONCE = 32  # pictures that a network is given


def of_both(rows, everything, networks: dict, how: str, skip_bad: bool, *work, rank=0, ranks=1, wait=None):
    """{"sar" or "rgb": float32 (n, turns, F)} of rows by the networks there are, {name: (encode, about)}.

    everything: rows of the manifest, for the limits of whole scenes. how, encode, about and work (turns,
    folder, go_on): as `features` has them. Of several processes each computes its share, then all read all;
    wait: until every one has come.
    """
    found = {}
    for name, (encode, about) in networks.items():
        limits = None
        if name == "sar":
            scenes = {compose.scene_key(row) for row in rows}
            siblings = [row for row in everything if compose.scene_key(row) in scenes]
            limits = compose.scene_limits(siblings, compose.COMPOSE[how], [] if skip_bad else None)
        turns, folder, go_on = work
        words = (name, how, limits, turns, encode, about, folder, go_on)
        if ranks > 1:
            if rows[rank::ranks]:
                features(rows[rank::ranks], *words)
            wait()
        found[name] = features(rows, *words)
    return found


def features(rows, name: str, how: str, limits, turns: int, encode, about: tuple, folder: Path, go_on):
    """float32 (n, turns, F) of the "sar" or "rgb" pictures of rows, each in its first `turns` positions.

    how, limits: of compose.sar_picture. encode: uint8 (B, H, W, 3) -> float32 (B, F); about: what its result
    depends on beside the picture (weights, size, precision). folder: where vectors are kept, under a name
    made of about, the picture and the turns, so that a stopped run goes on and other runs share them. go_on:
    called before each row, may raise to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, waiting = None, {}  # place: (path, picture), of pictures that are encoded together
    for place, row in enumerate(runs.progress(rows, len(rows), f"frozen features, {name}")):
        go_on()
        picture = (compose.rgb_picture(row) if name == "rgb" else compose.sar_picture(row, how, limits))[0]
        path = folder / f"{embeddings.key('features', *about, turns, picture)}.npy"
        vectors = embeddings.load(path)
        ready = {}
        if vectors is None:
            waiting[place] = path, picture
        else:
            ready[place] = vectors
        if waiting and (len(waiting) * turns >= AT_ONCE or place == len(rows) - 1):
            encoded = in_turns([picture for _, picture in waiting.values()], turns, encode)
            for (at, (path, _)), vectors in zip(waiting.items(), encoded, strict=True):
                embeddings.save(path, vectors)
                ready[at] = vectors
            waiting = {}
        for at, vectors in ready.items():
            if found is None:
                found = np.empty((len(rows), *vectors.shape), np.float32)
            found[at] = vectors
    return found


def in_turns(pictures: list[np.ndarray], turns: int, encode) -> np.ndarray:
    """(n, turns, F) of pictures uint8 (H, W, 3), first `turns` positions; those of one shape at once."""
    shapes: dict[tuple, list] = {}
    for k, picture in enumerate(pictures):
        for turn in range(turns):
            seen = turned(picture.transpose(2, 0, 1), turn).transpose(1, 2, 0)
            shapes.setdefault(seen.shape, []).append(((k, turn), seen))
    vectors = {}
    for members in shapes.values():
        for first in range(0, len(members), AT_ONCE):
            places, seen = zip(*members[first : first + AT_ONCE], strict=True)
            vectors |= dict(zip(places, encode(np.stack(seen)), strict=True))
    return np.stack([[vectors[k, turn] for turn in range(turns)] for k in range(len(pictures))])
