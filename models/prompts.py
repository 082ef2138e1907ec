"""Prompts for Segment Anything out of masks, probabilities, images. Needs numpy, scipy, baselines.py beside.

    cue = radar_cue(vv_db)                                   # uint8 (H, W): 1 snow, 0 snow-free, 255 unknown
    prompts = from_cue("points", cue, 5, seed="my-image")    # dicts of points, labels, box, mask
    prompts = from_cue("box", cue, 3) + from_probability(probability, threshold)

A source is a cue and a kind: SOURCES. Pixels are (x, y), counted from 0, a pixel's centre at whole numbers.
An empty cue gives no prompt: the image is then mapped snow-free. Prompts out of the truth tell how far SAM
can be led, not how well it maps: an upper bound, never a benchmark.
"""

import hashlib

import numpy as np
from scipy import ndimage

from models import baselines

NO_DATA = 255
SOURCES = {  # name: (cue, kind of prompt)
    "oracle-points": ("truth", "points"),
    "oracle-box": ("truth", "box"),
    "grid": ("otsu", "grid"),
    "otsu-box": ("otsu", "box"),
    "otsu-points": ("otsu", "points"),
    "unet-points": ("unet", "points"),
    "unet-box": ("unet", "box"),
    "unet-mask": ("unet", "mask"),
}
ORACLE = "oracle (upper bound)"
RANDOM = "random weights"
MARGIN = 4  # pixels from the border of a class at least, where it is so wide
FEWEST = 16  # pixels of a component that gets a box
WINDOW = 7  # pixels: speckle is averaged over it before Otsu's cut, as baselines does for ratios
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R BT.601
SURE = 0.999  # probabilities are cut to 1 - SURE..SURE before they become logits


# ---- cues: where an image, not its truth, says that there may be snow --------------------------------------


def otsu_cue(values: np.ndarray, darker: bool = True) -> np.ndarray:
    """uint8 (H, W) of an image (NaN = no data) cut at its own Otsu threshold; snow is the darker side.

    It claims two classes in every image, with or without snow: see baselines.predict_otsu.
    """
    found = baselines.predict_otsu(None, (values if darker else -values)[None])
    return np.where(np.isnan(found), NO_DATA, found).astype(np.uint8)


def radar_cue(db: np.ndarray) -> np.ndarray:
    """Darker than Otsu's threshold after averaging over WINDOW in linear power: wet snow, water, shadow."""
    return otsu_cue(baselines.smooth_db(db, WINDOW))


def grey_cue(grey: np.ndarray) -> np.ndarray:
    """The same for radar pictures whose unit is lost (NaN = no data), averaged as they are."""
    return otsu_cue(baselines.window_mean(grey, WINDOW))


def optical_cue(picture: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Brighter than Otsu's threshold of the luminance of uint8 (H, W, 3): snow, cloud, bare rock, sand."""
    light = picture.astype(np.float32) @ np.array(LUMINANCE, np.float32)
    return otsu_cue(np.where(valid, light, np.nan), darker=False)


# ---- prompts out of a cue ----------------------------------------------------------------------------------


def inside(region: np.ndarray) -> np.ndarray:
    """Indices (into the flat array) of a region's pixels away from its border; the image's edge is none.

    Away: MARGIN pixels, or half of the deepest pixel's distance where no pixel is that deep.
    """
    if region.all():
        return np.arange(region.size)
    depth = ndimage.distance_transform_edt(region)
    return np.flatnonzero(region & (depth >= min(MARGIN, depth.max() / 2)))


def points(cue: np.ndarray, count: int, seed: str = "") -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, 2) points and int (N,) labels, 1 snow, 0 snow-free: up to `count` of each, snow first.

    Drawn at random (a function of the seed's text alone) away from the border of their class. Without snow
    there are none at all.
    """
    random = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
    found, labels = [], []
    for label in (1, 0):
        region = cue == label
        if not region.any():
            if label == 1:
                break
            continue
        places = inside(region)
        drawn = random.choice(places, min(count, len(places)), replace=False)
        rows, columns = np.unravel_index(drawn, cue.shape)
        found.append(np.stack([columns, rows], axis=1))
        labels += [label] * len(drawn)
    xy = np.concatenate(found) if found else np.empty((0, 2))
    return xy.astype(np.float32), np.array(labels, np.int64)


def boxes(cue: np.ndarray, count: int) -> np.ndarray:
    """float32 (N, 4): first x, first y, last x, last y of the cue's `count` largest connected components.

    Components of fewer than FEWEST pixels get none, unless there is no other.
    """
    regions, number = ndimage.label(cue == 1, np.ones((3, 3)))
    if not number:
        return np.empty((0, 4), np.float32)
    size = np.bincount(regions.ravel())[1:]
    order = np.argsort(-size, kind="stable")[:count]
    order = order[size[order] >= min(FEWEST, size.max())]
    places = ndimage.find_objects(regions)
    corners = [(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in (places[k] for k in order)]
    return np.array(corners, np.float32)


def from_cue(kind: str, cue: np.ndarray, count: int, seed: str = "") -> list[dict]:
    """Prompts of a kind: all points together are one prompt, each box is one."""
    if kind == "points":
        xy, labels = points(cue, count, seed)
        return [{"points": xy, "labels": labels}] if len(xy) else []
    return [{"box": box} for box in boxes(cue, count)]


def from_probability(probability: np.ndarray, threshold: float = 0.5) -> list[dict]:
    """A mask prompt: the logit of a probability (NaN = none) above that of its threshold; 0 is the border.

    No prompt where no pixel reaches the threshold.
    """
    known = np.isfinite(probability)
    if not (known & (probability >= threshold)).any():
        return []
    low, high = 1 - SURE, SURE
    p = np.where(known, probability, 0).astype(np.float64).clip(low, high)
    t = min(max(threshold, low), high)
    return [{"mask": (np.log(p / (1 - p)) - np.log(t / (1 - t))).astype(np.float32)}]


# ---- masks that no prompt asked for ------------------------------------------------------------------------


def choose_automatic(masks, cue: np.ndarray) -> list[int]:
    """Which of SAM's automatic masks, bool (H, W), are snow: most of their pixels are snow in the cue."""
    chosen = []
    for place, mask in enumerate(masks):
        known = mask & (cue != NO_DATA)
        if known.any() and 2 * int((cue[known] == 1).sum()) > int(known.sum()):
            chosen.append(place)
    return chosen


def label(source: str, keep: str = "score", random_weights: bool = False) -> str:
    """The name of a source in tables and titles; what saw the truth, or has random weights, says so."""
    cue, kind = SOURCES[source]
    seen = cue == "truth" or (keep == "oracle" and kind != "grid")
    words = (ORACLE if seen else "", RANDOM if random_weights else "")
    return ", ".join([f"sam-{source}", *(word for word in words if word)])
