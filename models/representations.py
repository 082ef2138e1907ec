"""What rows of features hold, in numbers: CKA, effective rank, sparsity, and the AUC of single channels.

    linear_cka(x, y); effective_rank(x)                 # x: (n, d1), y: (n, d2), rows of the same n things
    channel_auc(x, snow)                                # snow: (n,) bool; (d1,), the sign kept

Needs numpy. Streams (Moments, Sparsity) take batch after batch and hold memory that depends on the channels
alone; the functions are those streams given one batch.
"""

import numpy as np


def linear_cka(x: np.ndarray, y: np.ndarray, unbiased: bool = False) -> float:
    """Similarity of two representations (n, d1) and (n, d2) of the same n things, 0 to 1.

    NaN if one is constant. |X'Y|^2 / (|X'X| |Y'Y|), columns centred (Kornblith 2019, 1905.00414, eq. 8): 1
    for rotations, shifts and scale of each other. It grows with d/n even for unrelated data; unbiased=True
    takes the estimator of Song 2012 (JMLR 13, 1393) for each of the three terms: about 0 for unrelated data,
    at times below. Raises ValueError for unequal n, and for n < 4 where unbiased.
    """
    # of more columns than rows, the triangle of QR has the same products between rows
    x, y = (
        np.linalg.qr(part.T, mode="r").T if part.shape[1] > len(part) else part
        for part in map(doubles, (x, y))
    )
    moments = Moments()
    moments.add(x, y)
    return moments.cka(unbiased)


def doubles(x: np.ndarray) -> np.ndarray:
    """Rows (n, d) as finite float64, else ValueError."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2:
        raise ValueError(f"rows have shape {x.shape}, expected (n, d)")
    if not np.isfinite(x).all():
        raise ValueError("rows hold NaN or infinity")
    return x


def effective_rank(x: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares of (n, d), columns centred; 1 to min(n - 1, d).

    Roy and Vetterli 2007 (EUSIPCO, 606-610): k for k equal singular values. NaN for constant rows.
    """
    x = doubles(x)
    return rank_of(np.linalg.svd(x - x.mean(0), compute_uv=False))


def rank_of(singular: np.ndarray) -> float:
    """exp of the entropy of the shares of singular values; those under rounding are zero."""
    singular = singular[singular > singular.max(initial=0) * 1e-7]  # sqrt of the rounding of second moments
    if not len(singular):
        return float("nan")
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


class Moments:
    """Second moments of pairs of rows, batch after batch: linear_cka and effective_rank of all rows, exactly.

    Memory: (d1 + d2)^2 doubles, whatever the number of rows. Sums are about the first batch's mean, so that a
    large offset costs no digits. y may be left out where only the rank of x is asked for.
    """

    def __init__(self):
        self.rows = 0

    def add(self, x: np.ndarray, y: np.ndarray | None = None) -> None:
        """x: (n, d1), y: (n, d2), rows paired; NaN and infinities raise ValueError."""
        x = doubles(x)
        y = x[:, :0] if y is None else doubles(y)
        if len(x) != len(y):
            raise ValueError(f"rows of shape {x.shape} and {y.shape}, expected (n, d1) and (n, d2)")
        if not len(x):
            return
        both = np.concatenate([x, y], axis=1)
        if not self.rows:
            self.split, width = x.shape[1], both.shape[1]
            self.origin, self.total, self.square = both.mean(0), np.zeros(width), np.zeros((width, width))
            self.norms, self.weighted = np.zeros((2, 2)), np.zeros((2, width))
        both -= self.origin
        lengths = np.stack([(both[:, : self.split] ** 2).sum(1), (both[:, self.split :] ** 2).sum(1)])  # 2 n
        self.rows += len(both)
        self.total += both.sum(0)
        self.square += both.T @ both
        self.norms += lengths @ lengths.T  # sum of |a|^2 |b|^2
        self.weighted += lengths @ both  # sum of |a|^2 b

    def effective_rank(self, which: str = "x") -> float:
        """As the function, of "x" or "y"."""
        if not self.rows:
            return float("nan")
        part = self.part(which)
        scatter = self.square[part, part] - np.outer(self.total[part], self.total[part]) / self.rows
        return rank_of(np.sqrt(np.maximum(np.linalg.eigvalsh(scatter), 0)))

    def cka(self, unbiased: bool = False) -> float:
        """As linear_cka."""
        if self.rows < (4 if unbiased else 2):
            raise ValueError(f"CKA needs at least {4 if unbiased else 2} rows, found {self.rows}")
        term = self.unbiased_hsic if unbiased else self.hsic
        of_x, of_y = term("x", "x"), term("y", "y")
        return float(term("x", "y") / np.sqrt(of_x * of_y)) if of_x > 0 and of_y > 0 else float("nan")

    def part(self, which: str) -> slice:
        return slice(None, self.split) if which == "x" else slice(self.split, None)

    def hsic(self, a: str, b: str) -> float:
        """|A'B|^2, columns centred."""
        a, b = self.part(a), self.part(b)
        return float(((self.square[a, b] - np.outer(self.total[a], self.total[b]) / self.rows) ** 2).sum())

    def unbiased_hsic(self, a: str, b: str) -> float:
        """n (n - 3) times Song's estimator, of K = AA' and L = BB' without their diagonals."""
        n, i, j = self.rows, "xy".index(a), "xy".index(b)
        a, b = self.part(a), self.part(b)
        product = (self.square[a, b] ** 2).sum() - self.norms[i, j]  # tr KL
        sum_k = self.total[a] @ self.total[a] - np.trace(self.square[a, a])  # 1'K1
        sum_l = self.total[b] @ self.total[b] - np.trace(self.square[b, b])
        both = (
            self.total[a] @ self.square[a, b] @ self.total[b]
            - self.total[a] @ self.weighted[j, a]
            - self.weighted[i, b] @ self.total[b]
            + self.norms[i, j]
        )  # 1'KL1
        return float(product + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 * both / (n - 2))


def sparsity(x: np.ndarray) -> dict[str, float | None]:
    """How few channels speak at a position, of (n, d): {"zero", "hoyer"}.

    zero: share of exact zeros; hoyer: mean over rows of (sqrt(d) - L1/L2) / (sqrt(d) - 1) (Hoyer 2004, JMLR
    5, 1457): 0 all equal, 1 a single channel; rows of zeros only count in "zero". None where there is nothing
    to judge.
    """
    stream = Sparsity()
    stream.add(x)
    return stream.result()


class Sparsity:
    """sparsity() of batch after batch."""

    def __init__(self):
        self.values = self.zeros = self.rows = 0
        self.hoyer = 0.0

    def add(self, x: np.ndarray) -> None:
        size = np.abs(np.asarray(x, np.float64))
        self.values += size.size
        self.zeros += int((size == 0).sum())
        size = size[size.any(1)]
        if len(size) and size.shape[1] > 1:
            root = np.sqrt(size.shape[1])
            size /= size.max(1, keepdims=True)
            self.hoyer += float(((root - size.sum(1) / np.sqrt((size**2).sum(1))) / (root - 1)).sum())
            self.rows += len(size)

    def result(self) -> dict[str, float | None]:
        return {
            "zero": self.zeros / self.values if self.values else None,
            "hoyer": self.hoyer / self.rows if self.rows else None,
        }


def ranks(x: np.ndarray) -> np.ndarray:
    """Place of each value in its channel, 1 the smallest, ties share their mean: (n, d) -> (d, n) float64."""
    columns = np.ascontiguousarray(np.asarray(x, np.float32).T)  # d n
    order = np.argsort(columns, axis=1)
    ordered = np.take_along_axis(columns, order, 1)
    place = np.broadcast_to(np.arange(columns.shape[1]), columns.shape)
    new = np.ones(columns.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    last = np.ones(columns.shape, bool)
    last[:, :-1] = new[:, 1:]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    final = np.minimum.accumulate(np.where(last, place, columns.shape[1])[:, ::-1], axis=1)[:, ::-1]
    result = np.empty(columns.shape)
    np.put_along_axis(result, order, (first + final) / 2 + 1, 1)
    return result


def channel_wins(x: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, int]:
    """In how many pairs a positive row's value exceeds a negative one's, ties half: (d,); and of how many.

    x: (n, d), positive: (n,) bool. NaN in channels with NaN. Sums over images, divided, are a mean of their
    AUC weighted by pairs.
    """
    x, positive = np.asarray(x, np.float32), np.asarray(positive, bool)
    if x.ndim != 2 or positive.shape != x.shape[:1]:
        raise ValueError(
            f"values of shape {x.shape} and labels of {positive.shape}, expected (n, d) and (n,)"
        )
    count = int(positive.sum())
    pairs = count * (len(x) - count)
    if not pairs:
        return np.zeros(x.shape[1]), 0
    wins = ranks(x)[:, positive].sum(1) - count * (count + 1) / 2  # Mann and Whitney 1947
    return np.where(np.isnan(x).any(0), np.nan, wins), pairs


def channel_auc(x: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each channel of (n, d) as a score of `positive` (n,) bool: (d,) float64.

    The chance that a positive row's value exceeds a negative one's, ties half (Hanley and McNeil 1982,
    10.1148/radiology.143.1.7063747). The sign is kept: 0.1 separates as well as 0.9, with low values for
    positives. NaN where a class is absent, and in channels with NaN.
    """
    wins, pairs = channel_wins(x, positive)
    return wins / pairs if pairs else np.full(len(wins), np.nan)


def best_channels(auc: np.ndarray, count: int = 5) -> list[tuple[int, float]]:
    """(channel, AUC) of the channels farthest from 0.5 to either side; channels with NaN never."""
    order = np.argsort(-np.nan_to_num(np.abs(np.asarray(auc) - 0.5), nan=-1), kind="stable")
    return [(int(i), float(auc[i])) for i in order[:count] if not np.isnan(auc[i])]
