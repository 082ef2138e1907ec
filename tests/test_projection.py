"""Planes of embeddings against what they must be: exact PCA, seeded t-SNE, known statistics."""

import numpy as np
import pytest

from models import projection
from models.picture_statistics import NAMES, picture_statistics


def test_pca_is_that_of_the_centred_rows_whatever_the_blocks():
    x = np.random.default_rng(0).normal(size=(projection.BLOCK + 77, 6)) * [5, 3, 1, 1, 1, 1] + 10
    plane, shares = projection.pca(x.astype(np.float32))
    left, singular, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(plane), np.abs(left[:, :2] * singular[:2]), atol=1e-3)
    np.testing.assert_allclose(shares, singular[:2] ** 2 / (singular**2).sum(), rtol=1e-5)
    turned, _ = projection.pca(x[::-1])
    np.testing.assert_allclose(turned[::-1], plane, atol=1e-3)  # signs do not depend on the order
    flat, shares = projection.pca(np.arange(6.0)[:, None])
    assert flat.shape == (6, 2) and not flat[:, 1].any() and shares.tolist() == [1, 0]
    assert not projection.pca(np.ones((5, 3)))[1].any()


def test_tsne_is_seeded_keeps_clusters_and_names_the_largest_perplexity():
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(size=(20, 8)), random.normal(size=(20, 8)) + 8])
    plane = projection.tsne(x, 10, seed=1)
    np.testing.assert_array_equal(plane, projection.tsne(x, 10, seed=1))
    apart = np.linalg.norm(plane[:20].mean(0) - plane[20:].mean(0))
    assert apart > 2 * np.linalg.norm(plane[:20] - plane[:20].mean(0), axis=1).mean()
    assert projection.trust(x, plane)["trustworthiness"] > 0.8
    assert projection.trust(x, plane[random.permutation(40)])["trustworthiness"] < 0.7
    most = projection.largest_perplexity(40)
    assert projection.tsne(x, most).shape == (40, 2)
    for wrong in (most + 0.01, 0, -1):
        with pytest.raises(ValueError, match=f"{most:.2f} is the largest"):
            projection.tsne(x, wrong)


def test_trust_says_on_what_it_was_measured():
    x = np.random.default_rng(0).normal(size=(projection.TRUST_ROWS + 50, 3))
    found = projection.trust(x, x[:, :2])
    assert found["rows"] == projection.TRUST_ROWS and found["neighbours"] == projection.TRUST_NEIGHBOURS
    assert projection.trust(x[:6], x[:6, :2])["neighbours"] == 2


def test_statistics_of_known_pictures():
    picture, valid = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool)
    picture[:, 4:] = 255
    found = dict(zip(NAMES, picture_statistics(picture, valid), strict=True))
    assert found["mean"] == found["standard deviation"] == 0.5 and found["percentile 99"] == 1
    assert found["cell 0,0"] == found["cell 3,1"] == 0 and found["cell 0,2"] == 1
    assert found["gradient at 1 px"] == pytest.approx((8 / 112) ** 0.5)  # 8 of 2 * 7 * 8 neighbours differ
    valid[:, 4:] = False
    half = dict(zip(NAMES, picture_statistics(picture, valid), strict=True))
    assert half["mean"] == half["gradient at 1 px"] == half["cell 0,3"] == 0
    assert not picture_statistics(picture, np.zeros((8, 8), bool)).any()
    tiny = picture_statistics(np.full((2, 3, 3), 255, np.uint8))
    assert np.isfinite(tiny).all() and tiny[0] == 1
