"""Embeddings in a plane: PCA and t-SNE, and how far the plane can be trusted. Needs numpy and scikit-learn.

    plane, shares = pca(x)                               # (n, 2), (2,)
    plane = tsne(x, perplexity=30, seed=0)

t-SNE keeps neighbours, not distances: the gap between two clouds cannot be read off it; gap.py measures it.
"""

import numpy as np

BLOCK = 2048  # rows at once
TRUST_ROWS, TRUST_NEIGHBOURS = 2000, 10


def pca(x: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, d) on their first principal components (n, count), and the components' shares of variance.

    From sums over blocks of rows, in float64. Signs: the largest weight of a component is positive. Where d
    is smaller than count, the rest is zeros.
    """
    x = np.asarray(x)
    middle, scatter = x.mean(axis=0, dtype=np.float64), np.zeros((x.shape[1], x.shape[1]))
    parts = [slice(start, start + BLOCK) for start in range(0, len(x), BLOCK)]
    for rows in parts:
        centred = x[rows] - middle
        scatter += centred.T @ centred
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1][:, :count]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    plane = np.concatenate([(x[rows] - middle) @ vectors for rows in parts])
    shares = values[:count] / values.sum() if values.sum() > 0 else np.zeros(len(values[:count]))
    lacking = count - plane.shape[1]
    return np.pad(plane, ((0, 0), (0, lacking))), np.pad(shares, (0, count - len(shares)))


def largest_perplexity(rows: int) -> float:
    """What t-SNE can take of so many rows: its 3 * perplexity neighbours must be fewer than the others."""
    return (rows - 2) / 3


def tsne(x: np.ndarray, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Rows (n, d) in a plane (n, 2) by t-SNE (van der Maaten & Hinton 2008, JMLR 9, 2579), seeded.

    It begins at the principal components with a standard deviation of 1e-4 (Kobak & Berens 2019,
    10.1038/s41467-019-13056-x). ValueError for a perplexity of 0 or less, or too large for n.
    """
    from sklearn.manifold import TSNE

    most = largest_perplexity(len(x))
    if not 0 < perplexity <= most:
        raise ValueError(
            f"perplexity {perplexity:g} does not fit {len(x)} rows: {most:.2f} is the largest possible"
        )
    start = pca(x)[0]
    start = (start / max(start[:, 0].std(), 1e-12) * 1e-4).astype(np.float32)
    model = TSNE(2, perplexity=perplexity, init=start, learning_rate="auto", random_state=seed)
    return model.fit_transform(np.ascontiguousarray(x, np.float32)).astype(np.float64)


def trust(x: np.ndarray, plane: np.ndarray, seed: int = 0) -> dict:
    """Trustworthiness of a plane (n, 2) of rows (n, d): 1 if its neighbours are neighbours in d dimensions.

    Venna & Kaski 2001 (10.1007/3-540-44668-0_68), on at most TRUST_ROWS seeded rows, of TRUST_NEIGHBOURS
    neighbours or as many as so few rows allow. Returns trustworthiness, neighbours, rows.
    """
    from sklearn.manifold import trustworthiness

    rows = np.arange(len(x))
    if len(x) > TRUST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(x), TRUST_ROWS, replace=False))
    count = min(TRUST_NEIGHBOURS, (len(rows) - 1) // 2)
    value = trustworthiness(x[rows], plane[rows], n_neighbors=count)
    return {"trustworthiness": float(value), "neighbours": count, "rows": len(rows)}
