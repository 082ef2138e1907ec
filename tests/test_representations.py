"""CKA, effective rank, sparsity and AUC against closed forms and scikit-learn; streams equal to the whole."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models import representations
from models.representations import Moments, linear_cka


def normal(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def rotation(size: int, seed=0) -> np.ndarray:
    return np.linalg.qr(normal(size, size, seed=seed))[0]


# ---- CKA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("shape", [(200, 12), (30, 70)])
def test_cka_is_one_for_the_same_thing_turned_shifted_and_scaled(unbiased, shape):
    x = normal(*shape)
    turned = 3 * x @ rotation(shape[1]) + normal(1, shape[1], seed=1)
    assert linear_cka(x, x, unbiased) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, turned, unbiased) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, x + normal(*shape, seed=2), unbiased) < 0.95


def test_cka_closed_forms():
    # one column each: CKA is the squared correlation
    a, b = normal(50, 1), normal(50, 1, seed=1) + normal(50, 1)
    assert linear_cka(a, b) == pytest.approx(np.corrcoef(a[:, 0], b[:, 0])[0, 1] ** 2, abs=1e-12)
    # orthogonal columns of equal length: the share of y's variance that x spans, over sqrt of both ranks
    basis = np.linalg.qr(np.c_[np.ones(40), normal(40, 9)])[0][:, 1:]
    assert linear_cka(basis[:, :4], basis[:, 2:9]) == pytest.approx(2 / np.sqrt(4 * 7), abs=1e-12)
    assert linear_cka(basis[:, :4], basis[:, 4:9]) == pytest.approx(0, abs=1e-12)
    assert np.isnan(linear_cka(np.ones((5, 2)), normal(5, 2)))


def test_biased_cka_of_unrelated_data_grows_with_columns_and_the_unbiased_does_not():
    biased, unbiased = [], []
    for seed in range(40):
        x, y = normal(60, 50, seed=seed), normal(60, 50, seed=1000 + seed)
        biased.append(linear_cka(x, y))
        unbiased.append(linear_cka(x, y, unbiased=True))
    assert np.mean(biased) > 0.4
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(len(unbiased)) < 0.05


def test_unbiased_cka_is_songs_estimator_of_kernels():
    def hsic(k, el):  # Song 2012, eq. 5
        n, one = len(k), np.ones(len(k))
        k, el = k - np.diag(np.diag(k)), el - np.diag(np.diag(el))
        whole = (one @ k @ one) * (one @ el @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ el) + whole - 2 / (n - 2) * one @ k @ el @ one) / (n * (n - 3))

    x = normal(25, 6) + 5
    y = x[:, :4] @ normal(4, 7, seed=1) + normal(25, 7, seed=2)
    k, el = x @ x.T, y @ y.T
    expected = hsic(k, el) / np.sqrt(hsic(k, k) * hsic(el, el))
    assert linear_cka(x, y, unbiased=True) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
def test_moments_in_any_batches_and_order_equal_the_whole(unbiased):
    x, y = 1e4 + normal(300, 10), normal(300, 7, seed=1)
    y[:, :5] += x[:, :5] - 1e4
    order = np.random.default_rng(2).permutation(300)
    stream = Moments()
    for rows in np.split(order, [1, 2, 50, 50, 211]):
        stream.add(x[rows].astype(np.float32), y[rows])
    x = x.astype(np.float32)
    assert stream.rows == 300
    assert stream.cka(unbiased) == pytest.approx(linear_cka(x, y, unbiased), rel=1e-10)
    assert stream.effective_rank("x") == pytest.approx(representations.effective_rank(x), rel=1e-10)
    assert stream.effective_rank("y") == pytest.approx(representations.effective_rank(y), rel=1e-10)


def test_moments_hold_the_same_memory_for_any_number_of_rows():
    def held(stream):
        return sum(v.nbytes for v in vars(stream).values() if isinstance(v, np.ndarray))

    stream = Moments()
    stream.add(normal(4, 5), normal(4, 6))
    before = held(stream)
    for seed in range(20):
        stream.add(normal(400, 5, seed=seed), normal(400, 6))
    assert held(stream) == before


def test_rows_that_cannot_be_paired_or_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(4, 2\)"):
        linear_cka(normal(5, 2), normal(4, 2))
    with pytest.raises(ValueError, match="NaN"):
        linear_cka(np.full((5, 2), np.nan), normal(5, 2))
    with pytest.raises(ValueError, match="at least 4 rows, found 3"):
        linear_cka(normal(3, 2), normal(3, 2), unbiased=True)


# ---- rank, sparsity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank):
    basis = np.linalg.qr(np.c_[np.ones(64), normal(64, 8)])[0][:, 1 : rank + 1]
    x = basis @ rotation(20)[:rank] + 7
    stream = Moments()
    stream.add(x)
    assert representations.effective_rank(x) == pytest.approx(rank, rel=1e-6)
    assert stream.effective_rank() == pytest.approx(rank, rel=1e-5)


def test_effective_rank_of_unequal_directions_and_of_nothing():
    basis = np.linalg.qr(np.c_[np.ones(64), normal(64, 8)])[0][:, 1:3]
    share = np.array([0.75, 0.25])  # singular values 3 and 1
    expected = np.exp(-(share * np.log(share)).sum())
    assert representations.effective_rank(basis * [3, 1]) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(representations.effective_rank(np.ones((9, 4))))


def test_sparsity_of_one_channel_of_all_and_of_a_stream():
    one, all_equal = np.eye(6), np.full((3, 16), -2.0)
    assert representations.sparsity(one) == {"zero": pytest.approx(5 / 6), "hoyer": pytest.approx(1)}
    assert representations.sparsity(all_equal) == {"zero": 0, "hoyer": pytest.approx(0, abs=1e-12)}
    assert representations.sparsity(np.zeros((4, 5))) == {"zero": 1, "hoyer": None}
    x = np.maximum(normal(90, 12), 0)
    stream = representations.Sparsity()
    for rows in np.split(x, [5, 40]):
        stream.add(rows)
    assert stream.result() == {k: pytest.approx(v) for k, v in representations.sparsity(x).items()}


# ---- AUC ---------------------------------------------------------------------------------------------------


def test_auc_of_channels_is_scikit_learns_with_ties_and_sign():
    positive = np.random.default_rng(0).random(400) < 0.2
    x = normal(400, 5).astype(np.float32) + positive[:, None] * np.array([0, 1, -1, 3, 0.5], np.float32)
    x[:, 4] = np.round(x[:, 4])  # many ties
    x = np.c_[x, np.ones(400), np.where(positive, -1, 1)].astype(np.float32)
    found = representations.channel_auc(x, positive)
    np.testing.assert_allclose(found, [roc_auc_score(positive, c) for c in x.T], atol=1e-12)
    assert found[2] < 0.4 and found[5] == 0.5 and found[6] == 0
    assert [i for i, _ in representations.best_channels(found, 2)] == [6, 3]
    assert np.isnan(representations.channel_auc(x, np.ones(400, bool))).all()


def test_wins_of_images_add_up_to_the_mean_of_their_auc_weighted_by_pairs():
    images = [(normal(50, 3, seed=s).round(1), np.random.default_rng(s).random(50) < 0.3) for s in range(5)]
    wins, pairs = zip(*(representations.channel_wins(*image) for image in images), strict=True)
    each = [representations.channel_auc(*image) for image in images]
    expected = np.average(each, axis=0, weights=pairs)
    np.testing.assert_allclose(sum(wins) / sum(pairs), expected, atol=1e-12)
    holed = images[0][0].copy()
    holed[3, 1] = np.nan
    found = representations.channel_auc(holed, images[0][1])
    assert np.isnan(found[1]) and found[0] == each[0][0]
    assert representations.channel_wins(holed, np.ones(50, bool))[1] == 0
    with pytest.raises(ValueError, match="expected"):
        representations.channel_wins(holed, np.ones(49, bool))
