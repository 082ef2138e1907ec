"""The gap of clouds whose relation is known: identical, shifted, rotated, independent; nulls; sizes."""

import numpy as np
import pytest

from models import gap

SITES = np.repeat([f"s{number:02}" for number in range(30)], 10)


def cloud(seed: int = 0, count: int = 300, dimensions: int = 16) -> np.ndarray:
    """Rows around a direction, as embeddings are: a narrow cone."""
    x = 0.05 * np.random.default_rng(seed).normal(size=(count, dimensions))
    x[:, 0] += 1
    return x


def shifted(x: np.ndarray) -> np.ndarray:
    """Rows of length 1 whose difference from x is the same vector in all of them but for their length."""
    moved = gap.unit(x).copy()
    moved[:, 1] += 0.5
    return moved


def rotation(dimensions: int = 16) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(9).normal(size=(dimensions, dimensions)))[0]


RELATIONS = {
    "the same": (lambda x: x.copy(), "no gap"),
    "shifted": (shifted, "translation"),
    "rotated": (lambda x: x @ rotation(), "not a translation"),
    "independent": (lambda x: cloud(1), "no gap"),
    "independent and shifted": (lambda x: shifted(cloud(1)), "not a translation"),
    "shifted and half noise": (lambda x: shifted(x + 0.75 * (cloud(1) - cloud(1).mean(0))), "in part"),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_are_called_by_their_name(name):
    make, expected = RELATIONS[name]
    found = gap.measure(cloud(), make(cloud()), SITES)
    word, sentence = gap.verdict(found)
    assert word == expected, sentence
    assert f"of {found['raw']['sar_to_rgb']['gallery']}" in sentence


def test_figures_of_known_clouds():
    x = cloud()
    same = gap.measure(x, x.copy(), SITES)
    assert (
        same["gap"]["norm"] == 0
        and same["raw"]["alignment"] == 0
        and same["raw"]["cosines"]["paired"] == pytest.approx(1)
    )
    assert same["raw"]["sar_to_rgb"]["r_at_1"] == 1 and same["raw"]["neighbours"] == pytest.approx(0.5)
    assert same["cka"] == pytest.approx(1)
    turned = gap.measure(x, x @ rotation(), SITES)
    assert turned["shift and rotation"]["unexplained"] < 1e-6
    assert turned["shift and rotation"]["rgb_to_sar"]["r_at_1"] == 1
    assert turned["shift"]["rgb_to_sar"]["r_at_1"] < 0.05
    apart = gap.measure(x, cloud(1), SITES)
    for treatment in gap.TREATMENTS:
        assert apart[treatment]["unexplained"] == pytest.approx(1, abs=0.1)
        assert apart[treatment]["sar_to_rgb"]["median_rank"] == pytest.approx(30.5, abs=5)
        assert apart[treatment]["sar_to_rgb"]["gallery"] == 60  # five folds of sites
        assert same["shuffled"][treatment]["sar_to_rgb"]["r_at_10"] < 0.25
    assert abs(apart["cka_unbiased"]) < 0.05


def test_gap_vector_and_its_share_of_variance():
    random = np.random.default_rng(0)
    a = random.normal(size=(4000, 3)) * [1, 2, 1]
    b = random.normal(size=(4000, 3)) * [1, 2, 1] + [6, 0, 0]
    found = gap.gap(a, b)
    assert found["norm"] == pytest.approx(6, abs=0.15)
    assert found["share_of_variance"] == pytest.approx(9 / (9 + 6), abs=0.02)  # 6^2 / 4 over it and 1 + 4 + 1
    assert found["cosine_with_pc1"] > 0.99
    whole = np.concatenate([a, b])
    values = np.linalg.eigvalsh(np.cov(whole.T, bias=True))
    assert found["pc1_share_of_variance"] == pytest.approx(values[-1] / values.sum(), rel=1e-6)


def test_corrections_are_fitted_on_other_sites():
    """A site that is moved on its own is not brought back by the others' shift."""
    x = gap.unit(cloud())
    moved = shifted(x)
    alone = SITES == "s07"
    moved[alone] += np.float32([0, 0, 0.4] + [0] * 13)
    parts = gap.splits(SITES)
    back = gap.corrected(x, moved, "shift", parts)
    assert np.abs(back - x)[~alone].mean() < 0.03 < np.abs(back - x)[alone][:, 2].mean()
    for fit_on, judged in parts:
        assert not set(SITES[fit_on]) & set(SITES[judged])


def test_nulls_are_at_chance_after_corrections_too():
    """Sites that differ, more dimensions than pairs: what held-out fitting gets wrong when it is done badly.

    A gallery with rows a correction was fitted on puts shuffled pairs below chance, and a probe that has seen
    the others of a mean of zero guesses wrong on purpose.
    """
    found = {name: [] for name in ("r", "chance", "probe", "rank")}
    for seed in range(6):
        random = np.random.default_rng(seed)
        level = np.repeat(random.normal(size=(30, 64)), 10, axis=0)
        a, b = (level + random.normal(size=(300, 64)) + 1 for _ in range(2))
        b[:, 0] += 12
        one = gap.measure(a, b, SITES, seed=seed)
        for way in ("rgb_to_sar", "sar_to_rgb"):
            for treatment in gap.TREATMENTS[1:]:
                null = one["shuffled"][treatment][way]
                found["r"].append(null["r_at_10"])
                found["chance"].append(null["chance_r_at_10"])
                found["rank"].append(null["median_rank"] / null["chance_median_rank"])
        found["probe"].append(one["shift"]["probe"])
        assert one["raw"]["probe"] > 0.75
    assert np.mean(found["r"]) == pytest.approx(np.mean(found["chance"]), rel=0.2)
    assert np.mean(found["rank"]) == pytest.approx(1, abs=0.1)
    assert np.mean(found["probe"]) > 0.45


def test_trained_rows_are_fitted_on_and_never_judged():
    train = np.isin(SITES, [f"s{k:02}" for k in range(20)])
    x = cloud()
    found = gap.measure(x, shifted(x), SITES, train)
    assert (found["pairs"], found["sites"], found["raw"]["sar_to_rgb"]["gallery"]) == (100, 10, 100)
    assert gap.verdict(found)[0] == "translation"
    shift = gap.fit_shift(gap.unit(x)[train], gap.unit(shifted(x))[train])
    parts = gap.splits(SITES, train)
    moved = gap.corrected(gap.unit(x), gap.unit(shifted(x)), "shift", parts)
    np.testing.assert_allclose(moved[~train], shift(gap.unit(shifted(x)))[~train], atol=1e-6)


def test_few_pairs_keep_galleries_of_more_than_one():
    for count, parts in ((6, 2), (100, 3), (160, 5), (300, 5)):
        sites = [f"s{k}" for k in range(count)]
        assert len(gap.splits(sites)) == parts
    found = gap.measure(cloud(0, 6), cloud(1, 6), list("abcdef"))
    assert found["raw"]["sar_to_rgb"]["gallery"] == 3 and gap.verdict(found)[1]
    few = gap.measure(cloud(0, 4), cloud(1, 4), list("aabb"))
    assert few["raw"]["probe"] is None and "linear probe" not in gap.verdict(few)[1]


def test_ranks_by_hand_and_ties():
    gallery = np.eye(4)
    assert gap.ranks(gallery, gallery).tolist() == [1, 1, 1, 1]
    assert gap.ranks(gallery[[1, 0, 2, 3]], gallery).tolist() == [
        3,
        3,
        1,
        1,
    ]  # one better, two tied with its own
    assert gap.ranks(np.ones((4, 4)), np.ones((4, 4))).tolist() == [2.5] * 4  # guessing among four
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 50, 8))
    similar = gap.unit(a) @ gap.unit(b).T
    by_hand = (similar > np.diag(similar)[:, None]).sum(1) + 1
    assert gap.ranks(a, b).tolist() == by_hand.tolist()
    some = np.arange(0, 50, 5)
    others = [
        (np.delete(similar[k, some], np.flatnonzero(some == k)) > similar[k, k]).sum() + 1 for k in range(50)
    ]
    assert gap.ranks(a, b, some).tolist() == others


def test_uniformity_and_cosines_against_all_pairs():
    x, y = gap.unit(cloud(2, 60)), gap.unit(cloud(3, 60))
    squared = ((x[:, None] - x[None]) ** 2).sum(-1)
    off = ~np.eye(60, dtype=bool)
    assert gap.uniformity(x) == pytest.approx(np.log(np.exp(-2 * squared[off]).mean()), abs=1e-5)
    found = gap.cosines(x, y)
    assert found["unpaired"] == pytest.approx((x @ y.T)[off].mean(), abs=1e-6)
    assert found["inside_rgb"] == pytest.approx((x @ x.T)[off].mean(), abs=1e-6)


def test_a_rotation_from_sums_is_that_of_the_rows():
    from scipy.linalg import orthogonal_procrustes

    a, b = cloud(0), cloud(0) @ rotation() + 0.1 * cloud(4)
    turn = orthogonal_procrustes(b - b.mean(0), a - a.mean(0))[0]
    expected = (b - b.mean(0)) @ turn + a.mean(0)
    np.testing.assert_allclose(gap.fit_rotation(a, b)(b), expected, atol=1e-5)


@pytest.mark.parametrize(
    "rgb, sar, sites, saying",
    [
        (cloud(count=10), cloud(count=9), SITES[:10], "shape"),
        (cloud(count=2), cloud(count=2), ["a", "b"], "the least"),
        (cloud(count=10), cloud(count=10), ["a"] * 10, "1 site"),
        (np.full((10, 4), np.nan), cloud(count=10, dimensions=4), SITES[:10], "NaN"),
        (np.zeros((10, 4)), cloud(count=10, dimensions=4), SITES[:10], "zeros"),
    ],
)
def test_what_cannot_be_measured_is_refused(rgb, sar, sites, saying):
    with pytest.raises(ValueError, match=saying):
        gap.measure(rgb, sar, sites)
