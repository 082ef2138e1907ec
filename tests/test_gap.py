"""The gap of clouds whose relation is known: identical, shifted, rotated, independent; nulls; sizes."""

import numpy as np
import pytest

from models import gap, gap_verdict, retrieval

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
    word, sentence = gap_verdict.verdict(found)
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
    assert gap_verdict.verdict(found)[0] == "translation"
    shift = gap.fit_shift(gap.unit(x)[train], gap.unit(shifted(x))[train])
    parts = gap.splits(SITES, train)
    moved = gap.corrected(gap.unit(x), gap.unit(shifted(x)), "shift", parts)
    np.testing.assert_allclose(moved[~train], shift(gap.unit(shifted(x)))[~train], atol=1e-6)


def test_few_pairs_keep_galleries_of_more_than_one():
    for count, parts in ((6, 2), (100, 3), (160, 5), (300, 5)):
        sites = [f"s{k}" for k in range(count)]
        assert len(gap.splits(sites)) == parts
    found = gap.measure(cloud(0, 6), cloud(1, 6), list("abcdef"))
    assert found["raw"]["sar_to_rgb"]["gallery"] == 3 and gap_verdict.verdict(found)[1]
    few = gap.measure(cloud(0, 4), cloud(1, 4), list("aabb"))
    assert few["raw"]["probe"] is None and "linear probe" not in gap_verdict.verdict(few)[1]


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


# ---- verdicts, intervals, the null -------------------------------------------------------------------------


def test_near_clouds_are_not_called_shifted():
    """A small step and noise: pairs lie near each other, and a shift takes little of what divides them."""
    random = np.random.default_rng(0)
    z = random.normal(size=(600, 64))
    other = z + 0.3 * random.normal(size=(600, 64))
    other[:, 0] += 1.2
    found = gap.measure(z, other, np.repeat(np.arange(60), 10))
    assert found["gap"]["share_of_variance"] < 0.01 and found["shift"]["unexplained"] < 0.1
    assert found["shift"]["taken_low"] < found["shift"]["taken"] < found["shift"]["taken_high"] < 0.3
    assert gap_verdict.verdict(found)[0] == "near, but not by a shift"


def figures(left, taken, told=(0.9, 0.9), between=0.3, **ends) -> dict:
    """What a verdict reads, of made figures; ends: intervals."""
    way = {"r_at_1": 0.5, "gallery": 60, "chance_r_at_1": 1 / 60}
    one = {"unexplained": left, "taken": taken, "sar_to_rgb": way}
    one |= {"probe": told[0], "neighbours": told[1], **ends}
    return {"gap": {"share_of_variance": between}, **dict.fromkeys(gap.TREATMENTS, one)}


@pytest.mark.parametrize(
    "found, word",
    [
        (figures(0.05, 0.95), "translation"),
        (figures(0.05, 0.7), "in part"),
        (figures(0.3, 0.95), "in part"),
        (figures(0.05, 0.1), "near, but not by a shift"),
        (figures(0.15, 0.04, between=0.004), "near, but not by a shift"),
        (figures(0.8, 0.95), "not a translation"),
        (figures(0.9, 0.0, (0.55, 0.55), 0.004), "no gap"),
        (figures(0.9, 0.0, (0.52, 0.52), 0.004, probe_low=0.51, probe_high=0.53), "no gap"),  # many pairs
        (figures(0.9, 0.0, (0.61, 0.5), 0.004, probe_low=0.55, probe_high=0.67),
         "between no gap and not a translation"),
        (figures(0.08, 0.95, unexplained_low=0.06, unexplained_high=0.12), "between translation and in part"),
        (figures(0.08, 0.95, unexplained_low=0.06, unexplained_high=0.09), "translation"),
        (figures(0.05, 0.5, taken_low=0.4, taken_high=0.6), "between in part and near, but not by a shift"),
    ],
)  # fmt: skip
def test_a_word_is_said_only_where_the_interval_lies_on_one_side(found, word):
    assert gap_verdict.verdict(found)[0] == word


def test_intervals_of_a_ratio_hold_it_and_narrow_with_sites():
    random, width = np.random.default_rng(0), {}
    for count in (20, 500):
        sites = np.repeat(np.arange(count), 4)
        bottom = random.uniform(1, 3, 4 * count)
        top = 0.25 * bottom + 0.1 * random.normal(size=4 * count)
        low, high = retrieval.ratio_over_sites(top, bottom, sites)
        assert low < 0.25 < high and low < top.sum() / bottom.sum() < high
        width[count] = high - low
    assert width[500] < width[20] / 3
    assert retrieval.ratio_over_sites(top, bottom, np.zeros(2000)) == (None, None)
    names = np.array([f"s{k}" for k in sites])
    assert retrieval.over_sites(top, names) == retrieval.over_sites(top, names)
    medians = retrieval.median_over_sites(np.round(top, 1), names)
    assert medians[0] <= np.median(np.round(top, 1)) <= medians[1]


def test_draws_of_many_sites_are_bytes_and_made_once():
    retrieval.draws_of_sites.cache_clear()
    values, sites = np.random.default_rng(0).normal(size=10_000), np.arange(10_000)
    for _ in range(5):
        low, high = retrieval.over_sites(values, sites)
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.1)
    assert retrieval.draws_of_sites.cache_info().misses == 1
    drawn = retrieval.draws_of_sites(10_000, 0)
    assert drawn.nbytes == retrieval.REPLICATES * 10_000 and (drawn.sum(axis=1, dtype=int) == 10_000).all()


def test_the_null_is_many_permutations_with_their_spread(monkeypatch):
    x = cloud(0, 100)
    null = gap.measure(x, x.copy(), SITES[:100])["shuffled"]
    assert null["permutations"] == gap.PERMUTATIONS
    raw = null["raw"]
    for figure, low, high in (
        (null["cka"], null["cka_low"], null["cka_high"]),
        (null["cka_unbiased"], null["cka_unbiased_low"], null["cka_unbiased_high"]),
        (raw["alignment"], raw["alignment_low"], raw["alignment_high"]),
        (raw["unexplained"], raw["unexplained_low"], raw["unexplained_high"]),
        *((part["cosines"]["paired"], part["cosines"]["paired_low"], part["cosines"]["paired_high"])
          for part in (raw, null["shift"])),
        *((raw[way]["r_at_5"], raw[way]["r_at_5_low"], raw[way]["r_at_5_high"])
          for way in ("rgb_to_sar", "sar_to_rgb")),
    ):  # fmt: skip
        assert low < figure < high
    assert raw["unexplained"] == pytest.approx(1, abs=0.1) and abs(null["cka_unbiased"]) < 0.05
    monkeypatch.setattr(gap, "PROBE", 60)
    once = gap.measure(x, x.copy(), SITES[:100])["shuffled"]
    assert once["permutations"] == 1 and "r_at_1_low" not in once["raw"]["sar_to_rgb"]


def test_ranks_pooled_elsewhere_have_the_same_figures():
    x, y = cloud(0), cloud(0) + 0.3 * cloud(1)
    whole = gap.retrieval(x, y, SITES, seed=3)
    found = retrieval.rank_figures(gap.ranks(x, y), np.full(300, 300), SITES, 3)
    assert found == whole and found["chance_r_at_5"] == pytest.approx(5 / 300)
    mixed = retrieval.rank_figures(np.array([1.0, 3, 8]), np.array([3, 3, 12]))
    assert mixed["chance_r_at_5"] == pytest.approx((1 + 1 + 5 / 12) / 3) and "r_at_1_low" not in mixed


def test_the_gap_of_the_rows_that_were_fitted_stands_beside():
    train = np.isin(SITES, [f"s{k:02}" for k in range(20)])
    x, y = cloud(), cloud()
    y[~train, 1] += 0.5
    found = gap.measure(x, y, SITES, train)
    assert found["gap_of_fitted"]["norm"] < 1e-6 < 0.3 < found["gap"]["norm"]
