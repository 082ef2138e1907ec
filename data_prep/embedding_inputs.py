"""What an encoder of pairs sees of each triplet, and chips of triplets for people."""

import base64

import cv2
import numpy as np

from data_prep import compose, readers, sar_rgb_pairs, triplets
from data_prep.runs import BadInput

CHIP, QUALITY = 64, 60  # pixels of the longer side, of WebP


class EmbeddingInputs:
    """A dict a triplet, by key (epoch, index); needs no mask.

    index; with `how` and `limits` (of compose.sar_picture): pictures uint8 (2, H, W, 3) and valid bool
    (2, H, W), RGB first; with `channels`: sar float32 (C, H, W) and rgb float32 (3, H, W) as
    sar_rgb_pairs.SarRgbPairs gives them. Whole triplets.
    """

    def __init__(self, rows: list[dict], how: str, limits: dict | None, channels=()):
        self.rows, self.how, self.limits, self.channels = rows, how, limits, tuple(channels)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        row, found = self.rows[key[1]], {"index": key[1]}
        if self.limits is not None:
            rgb, in_rgb = compose.rgb_picture(row)
            sar, in_sar = compose.sar_picture(row, self.how, self.limits)
            same_size(row, sar.shape[:2], rgb.shape[:2])
            found |= {"pictures": np.stack([rgb, sar]), "valid": np.stack([in_rgb, in_sar])}
        if self.channels:
            sar, rgb = sar_rgb_pairs.read_sar(row, self.channels), sar_rgb_pairs.read_rgb(row)
            same_size(row, sar.shape[1:], rgb.shape[1:])
            found |= {"sar": sar, "rgb": rgb}
        return found

    def inspect(self, skip_bad: bool, go_on=lambda: None) -> list[str]:
        """Read every triplet once; refuse bad ones, or leave them out and return what is wrong with them.

        Rows get height and width. go_on: called after each, may raise to stop.
        """
        bad, numbers = [], range(len(self))
        good = triplets.each_good(numbers, self._look, skip_bad, "reading", bad, go_on)
        self.rows = [self.rows[index] for index, _ in list(good)]
        return bad

    def _look(self, index: int) -> None:
        row, found = self.rows[index], self[0, index]
        seen = [part.any() for part in found.get("valid", ())]
        seen += [np.isfinite(found[name]).all(axis=0).any() for name in ("sar", "rgb") if name in found]
        if not all(seen):
            raise BadInput(f"{row['id']}: no pixel of its RGB or of its SAR is valid.")
        row["height"], row["width"] = (
            found["pictures"].shape[1:3] if "pictures" in found else triplets.picture_size(row)
        )


def same_size(row: dict, sar: tuple, rgb: tuple) -> None:
    if sar != rgb:
        raise BadInput(f"{row['id']}: SAR is {sar} pixels, RGB {rgb}; curate them again.")


def limits_for(rows: list[dict], everything: list[dict], how: str, skip_bad: bool) -> dict:
    """compose.scene_limits of the scenes of `rows`, over all their triplets in `everything`."""
    scenes = {compose.scene_key(row) for row in rows}
    siblings = [row for row in everything if compose.scene_key(row) in scenes]
    return compose.scene_limits(siblings, compose.COMPOSE[how], [] if skip_bad else None)


def chip(picture: np.ndarray) -> str:
    """A data URI of a picture uint8 (H, W, 3), CHIP pixels on its longer side at most, as WebP."""
    scale = CHIP / max(picture.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    fine, data = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not fine:
        raise RuntimeError("OpenCV cannot write WebP")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()


def chips(rows: list[dict], how: str, limits: dict) -> dict[str, list[str]]:
    """{id: [RGB, SAR]} as data URIs."""

    def both(row):
        pictures = compose.rgb_picture(row)[0], compose.sar_picture(row, how, limits)[0]
        return row["id"], [chip(picture) for picture in pictures]

    return dict(readers.in_order(both, rows))
