"""Overlays of Segment Anything's maps, with the prompts drawn on the picture that it saw."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_prep import foreign_masks, pictures, predictions, reporting, triplets

BOX, SNOW_POINT, BARE_POINT = (230, 159, 0), (86, 180, 233), (213, 94, 0)  # Okabe and Ito
KEY = "prompts: box orange, point of snow blue, of snow-free ground red"


def with_prompts(picture: np.ndarray, prompts: list[dict]) -> np.ndarray:
    """A copy of uint8 (H, W, 3) with boxes (x0 y0 x1 y1) and points (x y, labels 1 or 0) drawn on it."""
    image = Image.fromarray(picture)
    pen, side = ImageDraw.Draw(image), max(picture.shape)
    width, radius = max(1, side // 128), max(2, side // 64)
    for prompt in prompts:
        if "box" in prompt:
            pen.rectangle(prompt["box"], outline=BOX, width=width)
        for (x, y), label in zip(prompt.get("points", ()), prompt.get("labels", ()), strict=True):
            colour, place = (
                SNOW_POINT if label else BARE_POINT,
                (x - radius, y - radius, x + radius, y + radius),
            )
            pen.ellipse(place, fill=colour, outline=(255, 255, 255))
    return np.asarray(image)


def overlays(path: Path, title: str, cases, masks, per_image: list[dict], args, read_picture) -> None:
    """Triplets of one source from best to worst.

    cases: id -> (row, its prompts); masks: the source's mask folder; per_image: its scores;
    read_picture(row): what SAM saw, and where it is valid. Of args: target, image, overlays.
    """
    panels = []
    for shown, caption in reporting.best_to_worst(per_image, args.overlays):
        row, prompts = cases[shown["id"]]
        reference = triplets.read_mask(row, args.target)
        found = [foreign_masks.read(masks, row, reference.shape, kind) for kind in ("mask", "probability")]
        panel = predictions.panel(row, caption, reference, *found)
        panel["rgb" if args.image == "rgb" else "radar"] = with_prompts(read_picture(row)[0], prompts)
        panels.append(panel)
    pictures.overlays(path, panels, f"{title}\n{KEY}; from best to worst")
