"""Overlays of Segment Anything's maps, with the prompts drawn on the picture that it saw."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from data_prep import foreign_masks, pictures, predictions, reporting, triplets

BOX, SNOW_POINT, BARE_POINT = (230, 159, 0), (86, 180, 233), (213, 94, 0)  # Okabe and Ito
DARK = (0, 0, 0)  # around everything drawn, so that it shows on snow too
POINTS = "points: of snow blue, of snow-free ground red"
KEYS = {  # by kind of prompt
    "points": POINTS,
    "box": "prompts: orange boxes",
    "grid": "blue: points whose masks were kept",
    "mask": f"orange: contour of the mask prompt; {POINTS}",
}
COMPOSITE = "radar: red VV, green VH, blue VH-VV"
BAR = "SAM's logistic, not calibrated"


def with_prompts(picture: np.ndarray, prompts: list[dict], mask: np.ndarray | None = None) -> np.ndarray:
    """A copy of uint8 (H, W, 3) with boxes (x0 y0 x1 y1) and points (x y, labels 1 or 0) drawn on it.

    mask: bool (H, W), whose contour is drawn where one of the prompts is a mask.
    """
    side = max(picture.shape)
    width, radius = max(1, side // 128), max(2, side // 64)
    if mask is not None and any("mask" in prompt for prompt in prompts):
        around = ndimage.binary_dilation(mask, iterations=width)
        picture = picture.copy()
        picture[ndimage.binary_dilation(around, iterations=width) & ~around] = DARK
        picture[around & ~mask] = BOX
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for prompt in prompts:
        if "box" in prompt:
            x0, y0, x1, y1 = prompt["box"]
            pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=DARK, width=width + 2)
            pen.rectangle((x0, y0, x1, y1), outline=BOX, width=width)
        for (x, y), label in zip(prompt.get("points", ()), prompt.get("labels", ()), strict=True):
            place = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(place, fill=SNOW_POINT if label else BARE_POINT, outline=DARK)
    return np.asarray(image)


def overlays(path: Path, title: str, asked_by: str, cases, masks, per_image: list[dict], args, read) -> None:
    """Triplets of one source from best to worst.

    asked_by: kind of its prompts, a key of KEYS; cases: id -> (row, its prompts); masks: the source's mask
    folder; per_image: its scores; read(row): what SAM saw, uint8 (H, W, 3), and the mask that prompted it,
    bool (H, W) or None. Of args: target, image, compose, overlays.
    """
    panels = []
    for shown, caption in reporting.best_to_worst(per_image, args.overlays):
        row, prompts = cases[shown["id"]]
        reference = triplets.read_mask(row, args.target)
        found = [foreign_masks.read(masks, row, reference.shape, kind) for kind in ("mask", "probability")]
        panel = predictions.panel(row, caption, reference, *found)
        seen, asked = read(row)
        panel["rgb" if args.image == "rgb" else "radar"] = with_prompts(seen, prompts, asked)
        panels.append(panel)
    composite = args.image == "sar" and args.compose == "vv,vh,ratio"
    words = [KEYS[asked_by], *([COMPOSITE] if composite else []), "from best to worst"]
    pictures.overlays(path, panels, f"{title}\n{'; '.join(words)}", BAR)
