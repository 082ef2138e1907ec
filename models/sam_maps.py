"""Snow maps by Segment Anything: from embeddings of tiles and cues to logits by every source of prompts.

    plan = tiles((H, W), 1024)                                 # windows and their weights
    embeddings = [encode(net, frame(picture[window])[None])[0] for window, _ in plan]
    logits, asked, seconds = map_image(net, plan, embeddings, ["otsu-box", "grid"], {"otsu": cue}, Asking())

No file is touched. Needs torch, segment_anything, and sam.py, prompts.py, tiling.py, baselines.py beside.
"""

import time
from dataclasses import dataclass

import numpy as np

from models import prompts, sam, tiling

NONE = -10.0  # logit where no mask is; others are cut to this size, so that tiles can be blended
SINGLE = "single"  # the mask SAM gives where it is to give one: meant for several points, or a mask with them
KEEP = (*sam.RULES, SINGLE)
PIXELS_AT_ONCE = 1 << 24  # of logits in memory: 3 masks a prompt


@dataclass
class Asking:
    """How SAM is asked: points of each class, boxes, points of the grid along a side, which mask is kept."""

    points: int = 5
    boxes: int = 5
    grid_points: int = 32
    keep: str = "score"
    seed: str = "0"


def tiles(shape: tuple[int, int], tile: int) -> list[tuple]:
    """(window, weight) of tiles that overlap by an eighth: two slices, and (h, w) that sum to 1."""
    blend = tile // 8
    spans = [tiling.starts(length, tile, 0, blend, 1) for length in shape]
    sides = [[tiling.weights(part, k, 0, blend) for k in range(len(part))] for part in spans]
    return [
        ((slice(*down), slice(*across)), y[:, None] * x[None])
        for down, y in zip(spans[0], sides[0], strict=True)
        for across, x in zip(spans[1], sides[1], strict=True)
    ]


def map_image(net, plan, embeddings, sources, cues: dict, asking: Asking) -> tuple[dict, dict, float]:
    """Logits (H, W) of snow by source, the prompts that were given, and the seconds SAM took.

    plan: of `tiles`; embeddings: (256, 64, 64) of each, any iterable. cues: uint8 (H, W) of 0, 1, 255 by name
    (truth, otsu, unet), as far as the sources and asking.keep need them; probability (H, W) and threshold for
    unet-mask. A source without prompt is NONE everywhere. Prompts are dicts of lists, in pixels of the image;
    of the grid they are the points whose masks were kept.
    """
    shape = next(cue for name, cue in cues.items() if name in ("truth", "otsu", "unet")).shape
    total = {source: np.zeros(shape, np.float32) for source in sources}
    asked, seconds = {source: [] for source in sources}, 0.0
    for (window, weight), embedding in zip(plan, embeddings, strict=True):
        here = {n: cue[window] if isinstance(cue, np.ndarray) else cue for n, cue in cues.items()}
        corner = window[0].start, window[1].start
        given = {source: ask(source, here, asking, corner) for source in sources if source != "grid"}
        began = time.perf_counter()
        found = answer(net, embedding, given, here.get("truth"), weight.shape, asking.keep)
        if "grid" in sources:
            found["grid"], given["grid"] = answer_grid(net, embedding, here["otsu"], asking.grid_points)
        seconds += time.perf_counter() - began
        for source in sources:
            total[source][window] += weight * found[source]
            asked[source] += [shown(prompt, corner) for prompt in given[source]]
    return total, asked, seconds


def ask(source: str, cues: dict, asking: Asking, corner=(0, 0)) -> list[dict]:
    """The prompts of a source in a window whose first row and column are `corner`."""
    name, kind = prompts.SOURCES[source]
    if kind == "box":
        return prompts.from_cue("box", cues[name], asking.boxes)
    found = prompts.from_cue("points", cues[name], asking.points, f"{asking.seed} {name} {corner}")
    if kind == "mask":  # with its points: SAM never saw a mask alone in training, and answers it badly
        probability = cues.get("probability")
        probability = (cues[name] == 1).astype(np.float32) if probability is None else probability
        masks = prompts.from_probability(probability, cues["threshold"])
        found = [{**one, **mask} for one, mask in zip(found, masks, strict=False)]
    return found


def answer(net, embedding, given: dict[str, list[dict]], truth, shape, keep: str) -> dict:
    """Logits (H, W) of each source: the largest at every pixel of the masks kept, NONE without prompt."""
    found = {source: np.full(shape, NONE, np.float32) for source in given}
    questions = [(source, sam.Prompt(**prompt)) for source, some in given.items() for prompt in some]
    at_once = max(1, PIXELS_AT_ONCE // (3 * shape[0] * shape[1]))
    for start in range(0, len(questions), at_once):
        some = questions[start : start + at_once]
        logits, scores = sam.decode(net, embedding, [prompt for _, prompt in some], shape, keep != SINGLE)
        kept = (logits[:, 0] if keep == SINGLE else sam.choose(logits, scores, keep, truth)).cpu().numpy()
        for (source, _), mask in zip(some, kept, strict=True):
            np.maximum(found[source], mask.clip(NONE, -NONE), out=found[source])
    return found


def answer_grid(net, embedding, cue: np.ndarray, points_per_side: int) -> tuple[np.ndarray, list[dict]]:
    """Logits (H, W) of the automatic masks that the cue calls snow, by SAM's score of them; their points."""
    masks = sam.grid_masks(net, embedding, cue.shape, points_per_side)
    logits, points = np.full(cue.shape, NONE, np.float32), []
    for place in prompts.choose_automatic([mask["segmentation"] for mask in masks], cue):
        score = min(max(masks[place]["predicted_iou"], 0.5), prompts.SURE)
        here = masks[place]["segmentation"]
        logits[here] = np.maximum(logits[here], np.float32(np.log(score / (1 - score))))
        points.append({"points": np.array(masks[place]["point_coords"]), "labels": np.array([1])})
    return logits, points


def shown(prompt: dict, corner: tuple[int, int]) -> dict:
    """A prompt in pixels of the image, for figures and records: of a mask that there is one."""
    down, across = corner
    result = {"mask": True} if "mask" in prompt else {}
    if "points" in prompt:
        result["points"] = (prompt["points"] + [across, down]).tolist()
        result["labels"] = prompt["labels"].tolist()
    if "box" in prompt:
        result["box"] = (prompt["box"] + [across, down, across, down]).tolist()
    return result


def probability(logits: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """float32 logistic of logits, NaN where not valid; an order of pixels, not calibrated."""
    return np.where(valid, 1 / (1 + np.exp(-logits)), np.nan).astype(np.float32)
