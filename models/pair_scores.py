"""How well pairs find each other: what a contrastive model is chosen by. Needs torch, gap.py, sar_rgb.py.

found = scores(sar, rgb, scale=1 / 0.07, batch=64)      # (n, d) each, rows of length 1, row i one place
"""

import numpy as np
import torch

from models import gap, sar_rgb


def scores(sar: torch.Tensor, rgb: torch.Tensor, scale: float, batch: int, seed: int = 0) -> dict:
    """Loss in batches as in training, retrieval both ways, temperature, and the length of the gap.

    Retrieval: R@1, mean reciprocal and median rank against a seeded gallery of gap.GALLERY rows at most, and
    the mean reciprocal rank of both ways. Raises ValueError for NaN or rows of zeros.
    """
    order, loss = np.random.default_rng(seed).permutation(len(sar)), 0.0
    for rows in np.array_split(order, -(-len(order) // batch)):
        loss += sar_rgb.info_nce(sar[rows], rgb[rows], scale).item() * len(rows) / len(order)
    sar, rgb = sar.numpy(), rgb.numpy()
    chosen = gap.choose(len(sar), gap.GALLERY, seed)
    found = {"loss": loss, "gallery": len(chosen), "temperature": 1 / scale, "gap": gap.gap(rgb, sar)["norm"]}
    for way, (queries, gallery) in {"sar_to_rgb": (sar, rgb), "rgb_to_sar": (rgb, sar)}.items():
        ranks = gap.ranks(queries, gallery, chosen)
        found[way] = {
            "r_at_1": float((ranks <= 1).mean()), "mean_reciprocal_rank": float((1 / ranks).mean()),
            "median_rank": float(np.median(ranks)),
        }  # fmt: skip
    both = [found[way]["mean_reciprocal_rank"] for way in ("sar_to_rgb", "rgb_to_sar")]
    return found | {"mean_reciprocal_rank": sum(both) / 2}
