"""The gap between two clouds of paired embeddings, in numbers: is one cloud the other, shifted?

    found = measure(rgb, sar, sites, train)         # rgb, sar: (n, d), row i of both is one triplet
    found["raw"]["probe"], found["shift"]["unexplained"], verdict(found)

Needs numpy, scipy and scikit-learn, and metrics.py and representations.py beside it. Rows are brought to unit
length first. Corrections move the SAR cloud onto the RGB cloud and are fitted on other sites than those they
are judged on. Retrieval, probe and neighbours stay inside such a part of the rows: a gallery that held rows a
correction was fitted on would favour them over the query's own (shuffled pairs then fall below chance), and a
probe that knew them would guess wrong on purpose. Everything is linear in n: retrieval and uniformity go
against GALLERY seeded rows, the probe and neighbours take PROBE.
"""

import numpy as np
from scipy.linalg import orthogonal_procrustes

from models.metrics import percents
from models.representations import Moments, effective_rank

GALLERY, PROBE, RANK_ROWS = 10_000, 4_000, 4_000  # rows: of a gallery, of a probe, of effective rank
FOLDS, FOLD_PAIRS = 5, 32  # folds of sites; fewer, but two, where one would hold fewer pairs. A choice
AT = (1, 5, 10)
TREATMENTS = ("raw", "shift", "shift and rotation")
BLOCK = 2048  # rows at once
SAME = np.float32(1e-6)  # cosines nearer than this tie: float32 products in another order differ as much
NEIGHBOURS = 5
NEARLY_NONE, HALF = (
    0.1,
    0.5,
)  # of the distance of strangers: what a translation leaves of that of pairs. A choice


# ---- geometry ----------------------------------------------------------------------------------------------


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


def blocks(n: int):
    """Slices of BLOCK rows, so that nothing of the size of a cloud is copied."""
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def mean(x: np.ndarray) -> np.ndarray:
    """Mean row (d,) of (n, d), float64."""
    return x.mean(axis=0, dtype=np.float64)


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of products of the centred columns of (n, d) and (n, d): (d, d), added up in float64."""
    mean_a, mean_b, total = mean(a).astype(a.dtype), mean(b).astype(b.dtype), np.float64(0)
    for rows in blocks(len(a)):
        total = total + (a[rows] - mean_a).T @ (b[rows] - mean_b)
    return total


def spread(x: np.ndarray) -> float:
    """Mean squared distance of rows (n, d) from their mean."""
    middle = mean(x)
    return float(sum(((x[rows] - middle) ** 2).sum() for rows in blocks(len(x))) / len(x))


def gap(a: np.ndarray, b: np.ndarray) -> dict:
    """The vector between two clouds: norm; share of the variance of all rows; |cosine| with their PC1.

    Norm: Liang 2022 (arXiv:2203.02053). share: |gap|^2 / 4 over the variance of both clouds in one, for equal
    n; 0 for one centre, 1 for two points.
    """
    difference = mean(a) - mean(b)
    between = float(difference @ difference) / 4
    inside = (products(a, a) + products(b, b)) / (2 * len(a))
    within = float(np.trace(inside))
    values, vectors = np.linalg.eigh(inside + np.outer(difference, difference) / 4)
    norm = float(np.linalg.norm(difference))
    return {
        "norm": norm,
        "share_of_variance": between / (between + within) if between + within else None,
        "cosine_with_pc1": float(abs(vectors[:, -1] @ difference) / norm) if norm else None,
        "pc1_share_of_variance": float(values[-1] / values.sum()) if values.sum() else None,
    }


def fit_shift(a: np.ndarray, b: np.ndarray):
    """The translation that brings the mean of b onto that of a, as a function of rows."""
    step = (mean(a) - mean(b)).astype(np.float32)
    return lambda rows: rows + step


def fit_rotation(a: np.ndarray, b: np.ndarray):
    """Shift and orthogonal map that bring rows of b nearest to their pairs in a (Schönemann 1966)."""
    mean_a, mean_b = mean(a).astype(np.float32), mean(b).astype(np.float32)
    across = products(b, a)
    # the matrix nearest to `across` among the orthogonal ones: what the rows themselves would give
    turn = orthogonal_procrustes(np.eye(len(across)), across)[0].astype(np.float32)
    return lambda rows: (rows - mean_b) @ turn + mean_a


FITS = {"raw": None, "shift": fit_shift, "shift and rotation": fit_rotation}


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of pairs (Wang & Isola 2020, arXiv:2005.10242, alpha 2)."""
    return float(sum(((a[rows] - b[rows]) ** 2).sum(dtype=np.float64) for rows in blocks(len(a))) / len(a))


def unexplained(a: np.ndarray, b: np.ndarray) -> float | None:
    """Mean squared distance of pairs over that of strangers of centred clouds: 0 same, about 1 no pairs."""
    scale = spread(a) + spread(b)
    return alignment(a, b) / scale if scale > 0 else None


def uniformity(x: np.ndarray, seed: int = 0) -> float:
    """log mean exp(-2 |x - y|^2) over pairs of rows of a seeded GALLERY (Wang & Isola 2020, t 2); -4 to 0."""
    x = x[choose(len(x), GALLERY, seed)]
    total, squares = 0.0, (x**2).sum(axis=1)
    for rows in blocks(len(x)):
        distance = squares[rows, None] + squares - 2 * x[rows] @ x.T
        total += np.exp(-2 * np.maximum(distance, 0), dtype=np.float64).sum() - len(distance)  # less itself
    return float(np.log(max(total, 1e-300) / (len(x) * (len(x) - 1))))


def cosines(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict:
    """Mean cosine of pairs, of strangers across the clouds, and inside each cloud (the width of its cone)."""
    a, b = unit(a), unit(b)
    n, mean_a, mean_b = len(a), a.mean(axis=0, dtype=np.float64), b.mean(axis=0, dtype=np.float64)
    paired = float((a * b).sum(axis=1, dtype=np.float64).mean())

    def inside(mean):
        return float((n * mean @ mean - 1) / (n - 1))  # mean over pairs of different rows of unit length

    return {
        "paired": paired,
        "unpaired": float((n * mean_a @ mean_b - paired) / (n - 1)),
        "inside_rgb": inside(mean_a),
        "inside_sar": inside(mean_b),
    }


def choose(n: int, count: int, seed: int) -> np.ndarray:
    """At most `count` seeded rows of n, in order."""
    if n <= count:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, count, replace=False))


# ---- retrieval ---------------------------------------------------------------------------------------------


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
    """R@1, 5, 10 and median rank with 95 % intervals over sites, size of the gallery, and chance.

    parts: arrays of rows, each a gallery of its own (of GALLERY seeded rows at most); all rows by default.
    most: queries asked in each part. gallery: the mean size a query meets, itself included.
    """
    found, size, who = [], [], []
    for part in [np.arange(len(queries))] if parts is None else parts:
        asked = choose(len(part), most or len(part), seed)
        chosen = choose(len(part), GALLERY, seed)
        found.append(ranks(queries[part], gallery[part], chosen, asked))
        size.append(np.where(np.isin(asked, chosen), len(chosen), len(chosen) + 1))
        who.append(part[asked])
    found, size, sites = np.concatenate(found), np.concatenate(size), np.asarray(sites)[np.concatenate(who)]
    hits = {f"r_at_{k}": (found <= k).astype(float) for k in AT}
    result = {"gallery": round(float(size.mean())), "queries": len(found)}
    result["median_rank"], result["chance_median_rank"] = float(np.median(found)), float(size.mean() + 1) / 2
    for k, (name, values) in zip(AT, hits.items(), strict=True):
        result[f"chance_{name}"] = float(np.minimum(1, k / size).mean())
        result[name] = float(values.mean())
        result[f"{name}_low"], result[f"{name}_high"] = over_sites(values, sites, seed)
    result["median_rank_low"], result["median_rank_high"] = median_over_sites(found, sites, seed)
    return result


def draws_of_sites(sites, seed: int, replicates: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """How often each site is drawn (replicates, s), and the number of the site of each row (n)."""
    names, number = np.unique(np.asarray(sites), return_inverse=True)
    random = np.random.default_rng(seed)
    return random.multinomial(len(names), np.full(len(names), 1 / len(names)), replicates), number


def over_sites(values: np.ndarray, sites, seed: int = 0) -> tuple[float | None, float | None]:
    """95 % interval of a mean over rows (n), sites drawn with replacement; None with under two sites."""
    drawn, number = draws_of_sites(sites, seed)
    if drawn.shape[1] < 2:
        return None, None
    sums, counts = np.bincount(number, values), np.bincount(number)
    low, high = np.percentile(drawn @ sums / (drawn @ counts), percents(drawn.shape[1]))
    return float(low), float(high)


def median_over_sites(values: np.ndarray, sites, seed: int = 0) -> tuple[float | None, float | None]:
    """95 % interval of a median over rows (n), sites drawn with replacement; None with under two sites."""
    drawn, number = draws_of_sites(sites, seed)
    if drawn.shape[1] < 2:
        return None, None
    order = np.argsort(values, kind="stable")
    medians = []
    for weights in drawn:
        total = np.cumsum(weights[number[order]])
        medians.append(values[order[np.searchsorted(total, total[-1] / 2)]])
    low, high = np.percentile(medians, percents(drawn.shape[1]))
    return float(low), float(high)


# ---- held out ----------------------------------------------------------------------------------------------


def splits(sites, train: np.ndarray | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit on, rows to judge) without a site in both: by `train` (n), else FOLDS groups of sites."""
    from sklearn.model_selection import GroupKFold

    sites = np.asarray(sites)
    if train is not None:
        return [(np.flatnonzero(train), np.flatnonzero(~np.asarray(train)))]
    count = len(np.unique(sites))
    if count < 2:
        raise ValueError(f"{count} site: corrections are fitted on other sites than they are judged on")
    folds = min(FOLDS, count, max(2, len(sites) // FOLD_PAIRS))
    return list(GroupKFold(folds).split(sites, groups=sites))


def corrected(a: np.ndarray, b: np.ndarray, treatment: str, parts) -> np.ndarray:
    """b (n, d) moved onto a, each row by a correction fitted without its site."""
    if FITS[treatment] is None:
        return b
    moved = np.array(b)
    for fit_on, judged in parts:
        moved[judged] = FITS[treatment](a[fit_on], b[fit_on])(b[judged])
    return moved


def probe(a: np.ndarray, b: np.ndarray, sites, parts, seed: int = 0) -> dict:
    """Accuracy of a linear probe that tells a from b on sites it has not seen, 0.5 = cannot, with interval.

    Logistic regression on standardised columns of PROBE seeded pairs, fitted and judged inside each part, by
    folds of its sites; parts of one site are left out, and without another the probe is None.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right, where, sites = [], [], np.asarray(sites)
    for part in parts:
        rows = part[choose(len(part), PROBE // len(parts), seed)]
        x, here = np.concatenate([a[rows], b[rows]]), np.tile(sites[rows], 2)
        y, count = np.repeat([0, 1], len(rows)), len(np.unique(here))
        for fit_on, judged in GroupKFold(min(FOLDS, count)).split(x, groups=here) if count > 1 else ():
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            right.append(model.fit(x[fit_on], y[fit_on]).predict(x[judged]) == y[judged])
            where.append(here[judged])
    if not right:
        return {"probe": None, "probe_low": None, "probe_high": None}
    right = np.concatenate(right).astype(float)
    low, high = over_sites(right, np.concatenate(where), seed)
    return {"probe": float(right.mean()), "probe_low": low, "probe_high": high}


def neighbours(a: np.ndarray, b: np.ndarray, parts, seed: int = 0) -> float:
    """Share of NEIGHBOURS nearest rows, own pair left out, of the same cloud: 0.5 = mixed, 1 = apart.

    The two-sample statistic of Schilling 1986 (10.1080/01621459.1986.10478337) on PROBE seeded pairs, inside
    each part. It sees shape as well: a linear probe is blind once the centres agree.
    """
    same = total = 0
    for part in parts:
        rows = part[choose(len(part), PROBE // len(parts), seed)]
        count, both = len(rows), np.concatenate([a[rows], b[rows]])
        wanted, lengths = min(NEIGHBOURS, 2 * count - 2), (both**2).sum(axis=1)
        for some in blocks(2 * count) if wanted else ():
            number = np.arange(some.start, some.stop)[:, None]
            distance = lengths - 2 * both[some] @ both.T  # less what is the same for the whole row
            own = np.concatenate([number % count, number % count + count], axis=1)
            np.put_along_axis(distance, own, np.inf, axis=1)
            near = np.argpartition(distance, wanted - 1, axis=1)[:, :wanted]
            same, total = same + (near // count == number // count).sum(), total + near.size
    return float(same / total) if total else 0.5


# ---- all of it ---------------------------------------------------------------------------------------------


def measure(rgb, sar, sites, train: np.ndarray | None = None, seed: int = 0) -> dict:
    """Every figure of the gap, raw and with each correction of SAR, on the rows that are not in `train` (n).

    Returns pairs, sites, dimensions, gap; a dict a treatment of TREATMENTS: probe, neighbours, alignment,
    unexplained, cosines, rgb_to_sar and sar_to_rgb (retrieval); shuffled; cka, uniformity, effective_rank of
    each cloud. ValueError for fewer than three pairs, one site, shapes that differ or rows that cannot be
    normalised.
    """
    rgb, sar, sites = unit(rgb), unit(sar), np.asarray(sites)
    if rgb.shape != sar.shape or len(sites) != len(rgb):
        raise ValueError(f"RGB embeddings have shape {rgb.shape}, SAR {sar.shape}, sites {len(sites)}")
    parts = splits(sites, train)
    judged = np.sort(np.concatenate([rows for _, rows in parts]))
    here = sites[judged]
    if len(judged) < 3 or len(np.unique(here)) < 2:
        raise ValueError(
            f"{len(judged)} pairs of {len(np.unique(here))} sites; 3 pairs of 2 sites are the least"
        )
    a, b = (rgb, sar) if len(judged) == len(rgb) else (rgb[judged], sar[judged])
    found = {
        "pairs": len(judged),
        "sites": len(np.unique(here)),
        "dimensions": rgb.shape[1],
        "gap": gap(a, b),
    }
    inside = [np.searchsorted(judged, rows) for _, rows in parts]
    for treatment in TREATMENTS:
        moved = corrected(rgb, sar, treatment, parts)
        moved = moved if len(judged) == len(moved) else moved[judged]
        found[treatment] = {
            **probe(a, moved, here, inside, seed),
            "neighbours": neighbours(a, moved, inside, seed),
            "alignment": alignment(a, moved),
            "unexplained": unexplained(a, moved),
            "cosines": cosines(a, moved, seed),
            "rgb_to_sar": retrieval(a, moved, here, seed, inside),
            "sar_to_rgb": retrieval(moved, a, here, seed, inside),
        }
    found["shuffled"] = shuffled(rgb, sar, sites, parts, seed)
    some = choose(len(a), RANK_ROWS, seed)
    moments = Moments()  # as linear_cka, without doubles of whole clouds
    for rows in blocks(len(a)):
        moments.add(a[rows], b[rows])
    found["cka"] = moments.cka()
    found["cka_unbiased"] = moments.cka(unbiased=True) if len(a) >= 4 else None
    for name, cloud in (("rgb", a), ("sar", b)):
        found[f"uniformity_{name}"] = uniformity(cloud, seed)
        found[f"effective_rank_{name}"] = effective_rank(cloud[some])
    return found


def shuffled(rgb: np.ndarray, sar: np.ndarray, sites, parts, seed: int = 0) -> dict:
    """A null: what corrections fitted to pairs mixed up inside each part leave, and retrieve.

    PROBE queries, against galleries of the same size as the pairs'.
    """
    random, mixed = np.random.default_rng([seed, 1]), np.array(sar)
    for rows in [rows for _, rows in parts] + ([parts[0][0]] if len(parts) == 1 else []):
        mixed[rows] = sar[random.permutation(rows)]
    judged, found = np.sort(np.concatenate([rows for _, rows in parts])), {}
    inside, here, a = [np.searchsorted(judged, rows) for _, rows in parts], sites[judged], rgb[judged]
    for treatment in TREATMENTS:
        moved, most = corrected(rgb, mixed, treatment, parts)[judged], PROBE // len(parts)
        found[treatment] = {
            "unexplained": unexplained(a, moved),
            "rgb_to_sar": retrieval(a, moved, here, seed, inside, most),
            "sar_to_rgb": retrieval(moved, a, here, seed, inside, most),
        }
    return found


def verdict(found: dict) -> tuple[str, str]:
    """("no gap" | "translation" | "in part" | "not a translation", one sentence) of what `measure` found.

    By what a shift leaves of the distance of pairs, as a share of that of strangers: under NEARLY_NONE it is
    a translation, under HALF in part. No gap: under 1 % of the variance lies between the centres and neither
    a linear probe nor neighbours tell the clouds apart.
    """
    raw, shift, turned = (found[treatment] for treatment in TREATMENTS)
    taken = 1 - shift["alignment"] / raw["alignment"] if raw["alignment"] else 0.0
    left = shift["unexplained"]
    between = found["gap"]["share_of_variance"] or 0.0
    probed = ""
    if raw["probe"] is not None:
        probed = f"a linear probe tells SAR from RGB with accuracy {raw['probe']:.2f} before and "
        probed += f"{shift['probe']:.2f} after it, "
    told = (
        f"{probed}{raw['neighbours']:.0%} and {shift['neighbours']:.0%} of nearest neighbours are of the "
        f"same modality (50 %: mixed); R@1 from SAR to RGB goes from {raw['sar_to_rgb']['r_at_1']:.3f} to "
        f"{shift['sar_to_rgb']['r_at_1']:.3f}, with a rotation as well to "
        f"{turned['sar_to_rgb']['r_at_1']:.3f}, of {raw['sar_to_rgb']['gallery']} "
        f"(chance {raw['sar_to_rgb']['chance_r_at_1']:.3f})."
    )
    if between < 0.01 and raw["neighbours"] < 0.6 and (raw["probe_low"] or 0) <= 0.5:
        return "no gap", (
            f"There is no gap: {between:.1%} of the variance lies between the centres; pairs lie "
            f"{raw['unexplained']:.0%} as far apart as strangers (squared); {told}"
        )
    word, claim = "not a translation", "No, the SAR cloud is not the RGB cloud, shifted"
    if left <= HALF:
        word, claim = "in part", "The SAR cloud is the RGB cloud, shifted, only in part"
    if left <= NEARLY_NONE:
        word, claim = "translation", "Yes, the SAR cloud is the RGB cloud, shifted"
    return word, (
        f"{claim}: a shift fitted on other sites takes away {taken:.0%} of the squared distance of pairs and "
        f"leaves them {left:.0%} as far apart as strangers (with a rotation as well: "
        f"{turned['unexplained']:.0%}); {told}"
    )
