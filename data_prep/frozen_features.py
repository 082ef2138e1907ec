"""What a frozen network says of triplets' pictures, computed once and kept on disk."""

from pathlib import Path

import numpy as np

from data_prep import compose, embeddings, runs
from data_prep.sar_rgb_pairs import turned


def features(rows, name: str, how: str, limits, turns: int, encode, about: tuple, folder: Path, go_on):
    """float32 (n, turns, F) of the "sar" or "rgb" pictures of rows, each in its first `turns` positions.

    how, limits: of compose.sar_picture. encode: uint8 (B, H, W, 3) -> float32 (B, F); about: what its result
    depends on beside the picture (weights, size, precision). folder: where vectors are kept, under a name
    made of about, the picture and the turns, so that a stopped run goes on and other runs share them. go_on:
    called before each row, may raise to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for row in runs.progress(rows, len(rows), f"frozen features, {name}"):
        go_on()
        picture = (compose.rgb_picture(row) if name == "rgb" else compose.sar_picture(row, how, limits))[0]
        path = folder / f"{embeddings.key('features', *about, turns, picture)}.npy"
        vectors = embeddings.load(path)
        if vectors is None:
            vectors = in_turns(picture, turns, encode)
            embeddings.save(path, vectors)
        found.append(vectors)
    return np.stack(found)


def in_turns(picture: np.ndarray, turns: int, encode) -> np.ndarray:
    """(turns, F) of a picture uint8 (H, W, 3) in its first `turns` positions; those of one shape at once."""
    channels_first, vectors = picture.transpose(2, 0, 1), {}
    seen = [turned(channels_first, turn).transpose(1, 2, 0) for turn in range(turns)]
    for shape in {image.shape for image in seen}:
        places = [turn for turn, image in enumerate(seen) if image.shape == shape]
        vectors |= dict(zip(places, encode(np.stack([seen[turn] for turn in places])), strict=True))
    return np.stack([vectors[turn] for turn in range(turns)])
