"""The gap between two clouds of paired embeddings, in numbers: is one cloud the other, shifted?

    found = measure(rgb, sar, sites, train)         # rgb, sar: (n, d), row i of both is one triplet
    found["raw"]["probe"], found["shift"]["unexplained"]; gap_verdict.verdict(found) says it in words

Needs numpy, scipy and scikit-learn, retrieval.py and representations.py. Rows are brought to unit length
first. Corrections move the SAR cloud onto the RGB cloud and are fitted on other sites than those they
are judged on. Retrieval, probe and neighbours stay inside such a part of the rows: a gallery that held rows a
correction was fitted on would favour them over the query's own (shuffled pairs then fall below chance), and a
probe that knew them would guess wrong on purpose. Everything is linear in n: retrieval and uniformity go
against GALLERY seeded rows, the probe and neighbours take PROBE.
"""

import numpy as np
from scipy.linalg import orthogonal_procrustes

from models.representations import Moments, effective_rank
from models.retrieval import (  # noqa: F401 (others have all of them from here)
    AT,
    BLOCK,
    GALLERY,
    blocks,
    choose,
    median_over_sites,
    over_sites,
    ranks,
    ratio_over_sites,
    retrieval,
    unit,
)

PROBE, RANK_ROWS = 4_000, 4_000  # rows: of a probe, of effective rank
FOLDS, FOLD_PAIRS = 5, 32  # folds of sites; fewer, but two, where one would hold fewer pairs. A choice
TREATMENTS = ("raw", "shift", "shift and rotation")
NEIGHBOURS = 5
PERMUTATIONS = 20  # of the null, up to PROBE pairs; one beyond


# ---- geometry ----------------------------------------------------------------------------------------------


def mean(x: np.ndarray) -> np.ndarray:
    """Mean row (d,) of (n, d), float64."""
    return x.mean(axis=0, dtype=np.float64)


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of products of the centred columns of (n, d) and (n, d): (d, d), added up in float64."""
    mean_a, mean_b, total = mean(a).astype(a.dtype), mean(b).astype(b.dtype), np.float64(0)
    for rows in blocks(len(a)):
        total = total + (a[rows] - mean_a).T @ (b[rows] - mean_b)
    return total


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


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distance of each pair of rows, float64 (n)."""
    return np.concatenate([((a[r] - b[r]) ** 2).sum(axis=1, dtype=np.float64) for r in blocks(len(a))])


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of pairs (Wang & Isola 2020, arXiv:2005.10242, alpha 2)."""
    return float(apart(a, b).mean())


def around(x: np.ndarray) -> np.ndarray:
    """Squared distance of each row of (n, d) from their mean, float64 (n)."""
    middle = mean(x)
    return np.concatenate([((x[rows] - middle) ** 2).sum(axis=1) for rows in blocks(len(x))])


def distances(a: np.ndarray, b: np.ndarray, raw: np.ndarray | None = None, sites=None, seed: int = 0) -> dict:
    """How far pairs lie apart, squared, against strangers and against how far they lay before.

    alignment: of apart(), the mean. unexplained: it over that of
    strangers of centred clouds: 0 same, about 1 no pairs. taken: what is gone of the mean of `raw` (n),
    apart() before b was moved; below 0 where pairs were moved away. With sites (n) their
    intervals, *_low and *_high.
    """
    here, strangers = apart(a, b), around(a) + around(b)
    found = {"alignment": float(here.mean())}
    found["unexplained"] = float(here.sum() / strangers.sum()) if strangers.any() else None
    found["taken"] = None
    if raw is not None:
        found["taken"] = float(1 - here.sum() / raw.sum()) if raw.any() else 0.0
    if sites is not None:
        low, high = ratio_over_sites(here, strangers, sites, seed)
        found["unexplained_low"], found["unexplained_high"] = low, high
        low, high = (None, None) if raw is None else ratio_over_sites(raw - here, raw, sites, seed)
        found["taken_low"], found["taken_high"] = low, high
    return found


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


def neighbours(a: np.ndarray, b: np.ndarray, sites, parts, seed: int = 0) -> dict:
    """Share of NEIGHBOURS nearest rows, own pair left out, of the same cloud: 0.5 = mixed, 1 = apart.

    The two-sample statistic of Schilling 1986 (10.1080/01621459.1986.10478337) on PROBE seeded pairs, inside
    each part, with interval. It sees shape as well: a linear probe is blind once the centres agree.
    """
    shares, where = [], []
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
            shares.append((near // count == number // count).mean(axis=1))
            where.append(sites[rows[number[:, 0] % count]])
    if not shares:
        return {"neighbours": 0.5, "neighbours_low": None, "neighbours_high": None}
    shares = np.concatenate(shares)
    low, high = over_sites(shares, np.concatenate(where), seed)
    return {"neighbours": float(shares.mean()), "neighbours_low": low, "neighbours_high": high}


# ---- all of it ---------------------------------------------------------------------------------------------


def measure(rgb, sar, sites, train: np.ndarray | None = None, seed: int = 0) -> dict:
    """Every figure of the gap, raw and with each correction of SAR, on the rows that are not in `train` (n).

    Returns pairs, sites, dimensions, gap, with `train` also gap_of_fitted of its rows; a dict a treatment of
    TREATMENTS: probe, neighbours, alignment, unexplained, taken, cosines, rgb_to_sar and sar_to_rgb
    (retrieval); shuffled; cka, uniformity, effective_rank of each cloud. ValueError for fewer than three
    pairs, one site, shapes that differ or rows that cannot be normalised.
    """
    rgb, sar, sites = unit(rgb), unit(sar), np.unique(np.asarray(sites), return_inverse=True)[1]
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
    if train is not None:
        found["gap_of_fitted"] = gap(rgb[train], sar[train])
    inside, raw = [np.searchsorted(judged, rows) for _, rows in parts], apart(a, b)
    for treatment in TREATMENTS:
        moved = corrected(rgb, sar, treatment, parts)
        moved = moved if len(judged) == len(moved) else moved[judged]
        found[treatment] = {
            **probe(a, moved, here, inside, seed),
            **neighbours(a, moved, here, inside, seed),
            **distances(a, moved, None if treatment == "raw" else raw, here, seed),
            "cosines": cosines(a, moved, seed),
            "rgb_to_sar": retrieval(a, moved, here, seed, inside),
            "sar_to_rgb": retrieval(moved, a, here, seed, inside),
        }
    found["shuffled"] = shuffled(rgb, sar, a, parts, seed)
    some = choose(len(a), RANK_ROWS, seed)
    found |= cka(a, b)
    for name, cloud in (("rgb", a), ("sar", b)):
        found[f"uniformity_{name}"] = uniformity(cloud, seed)
        found[f"effective_rank_{name}"] = effective_rank(cloud[some])
    return found


def cka(a: np.ndarray, b: np.ndarray) -> dict:
    """Linear CKA and its unbiased estimate (None under four rows), without doubles of whole clouds."""
    moments = Moments()
    for rows in blocks(len(a)):
        moments.add(a[rows], b[rows])
    return {"cka": moments.cka(), "cka_unbiased": moments.cka(unbiased=True) if len(a) >= 4 else None}


def shuffled(rgb: np.ndarray, sar: np.ndarray, a: np.ndarray, parts, seed: int = 0) -> dict:
    """A null: what corrections fitted to pairs mixed up inside each part leave, and retrieve.

    a: the judged rows of rgb. Means over PERMUTATIONS, and of more than one their percentiles 2.5 and 97.5
    as *_low and *_high; retrieval of PROBE queries, against galleries of the same size as the pairs'.
    """
    judged = np.sort(np.concatenate([rows for _, rows in parts]))
    inside, most = [np.searchsorted(judged, rows) for _, rows in parts], PROBE // len(parts)
    random, runs = np.random.default_rng([seed, 1]), []
    for _ in range(PERMUTATIONS if len(a) <= PROBE else 1):
        mixed, one = np.array(sar), {}
        for rows in [rows for _, rows in parts] + ([parts[0][0]] if len(parts) == 1 else []):
            mixed[rows] = sar[random.permutation(rows)]
        for treatment in TREATMENTS:
            moved = corrected(rgb, mixed, treatment, parts)
            moved = moved if len(judged) == len(moved) else moved[judged]
            if treatment == "raw":
                one |= cka(a, moved)
                raw = apart(a, moved)
            one[treatment] = {
                **distances(a, moved, None if treatment == "raw" else raw),
                "cosines": {"paired": cosines(a, moved, seed)["paired"]},
                "rgb_to_sar": retrieval(a, moved, None, seed, inside, most),
                "sar_to_rgb": retrieval(moved, a, None, seed, inside, most),
            }
        runs.append(one)
    return {"permutations": len(runs), **over_runs(runs)}


def over_runs(runs: list[dict]) -> dict:
    """Dicts of the same keys as one: of each number that differs its mean, *_low and *_high, in dicts too."""
    found = {}
    for key, first in runs[0].items():
        values = [one[key] for one in runs]
        if isinstance(first, dict):
            found[key] = over_runs(values)
        elif first is None or key.startswith("chance") or key in ("gallery", "queries"):
            found[key] = first
        else:
            found[key] = float(np.mean(values))
            if len(runs) > 1:
                found[f"{key}_low"], found[f"{key}_high"] = map(float, np.percentile(values, (2.5, 97.5)))
    return found
