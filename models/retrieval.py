"""How well paired rows of two clouds find each other, and 95 % intervals over sites.

    found = retrieval(sar, rgb, sites)                   # (n, d) each; r_at_1, ..., median_rank, chance
    found = rank_figures(ranks(sar, rgb), sizes, sites)  # the same of ranks that were pooled elsewhere
    low, high = ratio_over_sites(top, bottom, sites)     # of sum(top) / sum(bottom)

Needs numpy, and metrics.py beside it. Sites are drawn once for a number of sites and a seed, as bytes: time
and memory are linear in rows and in sites.
"""

import functools

import numpy as np

from models.metrics import percents

GALLERY = 10_000  # rows of a gallery
AT = (1, 5, 10)
BLOCK = 2048  # rows at once
SAME = np.float32(1e-6)  # cosines nearer than this tie: float32 products in another order differ as much
REPLICATES, DRAWS = 1000, 32  # draws of sites, and how many of them are numbers of eight bytes at once


def blocks(n: int):
    """Slices of BLOCK rows, so that nothing of the size of a cloud is copied."""
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows (n, d) as float32 of length 1; ValueError for NaN, infinity or a row of zeros."""
    x = np.asarray(x, np.float32)
    if x.ndim != 2:
        raise ValueError(f"embeddings have shape {x.shape}, expected (n, d)")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not np.isfinite(length).all():
        raise ValueError(f"{(~np.isfinite(length)).sum()} of {len(x)} embeddings hold NaN or infinity")
    if not length.all():
        raise ValueError(f"{(length == 0).sum()} of {len(x)} embeddings are all zeros")
    return x / length


def choose(n: int, count: int, seed: int) -> np.ndarray:
    """At most `count` seeded rows of n, in order."""
    if n <= count:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, count, replace=False))


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    chosen: np.ndarray | None = None,
    asked: np.ndarray | None = None,
) -> np.ndarray:
    """Rank of each `asked` query's own row (n, d) by cosine among the `chosen` gallery rows and itself.

    1 is best. Of rows that tie with its own, half count as better: equal rows give the rank of guessing.
    """
    chosen = np.arange(len(gallery)) if chosen is None else chosen
    asked = np.arange(len(queries)) if asked is None else asked
    against, found = np.ascontiguousarray(unit(gallery[chosen]).T), np.empty(len(asked))
    is_chosen = np.isin(asked, chosen)
    for rows in blocks(len(asked)):
        here = unit(queries[asked[rows]])
        similar = here @ against
        own = (here * unit(gallery[asked[rows]])).sum(axis=1)[:, None]
        above = (similar > own + SAME).sum(axis=1)  # several times faster than count_nonzero with an axis
        tied = (similar >= own - SAME).sum(axis=1) - above - is_chosen[rows]
        found[rows] = 1 + above + tied / 2
    return found


def retrieval(queries, gallery, sites, seed: int = 0, parts=None, most: int | None = None) -> dict:
    """rank_figures of the rank of each query's own row, and the mean size of the gallery it meets.

    parts: arrays of rows, each a gallery of its own (of GALLERY seeded rows at most); all rows by default.
    most: queries asked in each part. gallery: the mean size a query meets, itself included. sites: None
    for no intervals.
    """
    found, size, who = [], [], []
    for part in [np.arange(len(queries))] if parts is None else parts:
        asked = choose(len(part), most or len(part), seed)
        chosen = choose(len(part), GALLERY, seed)
        found.append(ranks(queries[part], gallery[part], chosen, asked))
        size.append(np.where(np.isin(asked, chosen), len(chosen), len(chosen) + 1))
        who.append(part[asked])
    sites = None if sites is None else np.asarray(sites)[np.concatenate(who)]
    return rank_figures(np.concatenate(found), np.concatenate(size), sites, seed)


def rank_figures(found: np.ndarray, sizes: np.ndarray, sites=None, seed: int = 0) -> dict:
    """R@1, 5, 10 and median rank of ranks (n) in galleries of `sizes` (n), chance, and intervals over sites.

    Returns gallery (mean size), queries, and of r_at_1, r_at_5, r_at_10, median_rank the value, chance_*, and
    with sites (n) *_low and *_high, None under two sites.
    """
    sizes = np.asarray(sizes)
    result = {"gallery": round(float(sizes.mean())), "queries": len(found)}
    result["median_rank"], result["chance_median_rank"] = float(np.median(found)), float(sizes.mean() + 1) / 2
    for k in AT:
        hits = (found <= k).astype(float)
        result[f"chance_r_at_{k}"] = float(np.minimum(1, k / sizes).mean())
        result[f"r_at_{k}"] = float(hits.mean())
        if sites is not None:
            result[f"r_at_{k}_low"], result[f"r_at_{k}_high"] = over_sites(hits, sites, seed)
    if sites is not None:
        result["median_rank_low"], result["median_rank_high"] = median_over_sites(found, sites, seed)
    return result


# ---- intervals over sites ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def draws_of_sites(count: int, seed: int) -> np.ndarray:
    """How often each of `count` sites is drawn with replacement, (REPLICATES, count) bytes."""
    random, drawn = np.random.default_rng(seed), np.empty((REPLICATES, count), np.uint8)
    for row in drawn:
        row[:] = np.bincount(random.integers(0, count, count), minlength=count)
    return drawn


def over_sites(values: np.ndarray, sites, seed: int = 0) -> tuple[float | None, float | None]:
    """95 % interval of a mean over rows (n), sites drawn with replacement; None with under two sites."""
    return ratio_over_sites(values, np.ones(len(values)), sites, seed)


def ratio_over_sites(
    top: np.ndarray, bottom: np.ndarray, sites, seed: int = 0
) -> tuple[float | None, float | None]:
    """95 % interval of sum(top) / sum(bottom) over rows (n), by sites; None under two sites or for 0 / 0."""
    names, number = np.unique(np.asarray(sites), return_inverse=True)
    if len(names) < 2 or not np.any(bottom):
        return None, None
    sums = np.stack([np.bincount(number, part) for part in (top, bottom)], axis=1)
    drawn = draws_of_sites(len(names), seed)
    parts = [drawn[k : k + DRAWS].astype(float) @ sums for k in range(0, len(drawn), DRAWS)]
    above, below = np.concatenate(parts).T
    low, high = np.percentile((above / np.where(below == 0, np.nan, below))[below != 0], percents(len(names)))
    return float(low), float(high)


def median_over_sites(values: np.ndarray, sites, seed: int = 0) -> tuple[float | None, float | None]:
    """95 % interval of a median over rows (n), sites drawn with replacement; None with under two sites."""
    names, number = np.unique(np.asarray(sites), return_inverse=True)
    if len(names) < 2:
        return None, None
    order = np.argsort(values, kind="stable")
    number, medians = number[order], []
    for weights in draws_of_sites(len(names), seed):
        total = np.cumsum(weights[number], dtype=np.int64)
        medians.append(values[order[np.searchsorted(total, total[-1] / 2)]])
    low, high = np.percentile(medians, percents(len(names)))
    return float(low), float(high)
