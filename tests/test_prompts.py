"""Prompts out of cues: inside their class, seeded, empty where there is no snow, and blind to the truth."""

import numpy as np
import pytest
from conftest import blobs
from scipy import ndimage

from models import baselines, prompts


def cue_of(seed=0, shape=(80, 96)):
    cue = blobs(*shape, seed).astype(np.uint8)
    cue[:6, 10:40] = 255
    return cue


@pytest.mark.parametrize("seed", range(6))
def test_points_lie_in_their_class_away_from_its_border(seed):
    cue = cue_of(seed)
    xy, labels = prompts.points(cue, 5, f"image-{seed}")
    assert xy.shape == (10, 2) and xy.dtype == np.float32
    assert labels.tolist() == [1] * 5 + [0] * 5
    assert len({tuple(point) for point in xy}) == 10
    for (x, y), label in zip(xy.astype(int), labels, strict=True):
        assert cue[y, x] == label
        depth = ndimage.distance_transform_edt(cue == label)
        assert depth[y, x] >= min(prompts.MARGIN, depth.max() / 2)


def test_points_are_a_function_of_the_seed():
    cue = cue_of()
    same = [prompts.points(cue, 5, "a")[0] for _ in range(2)]
    assert (same[0] == same[1]).all()
    assert (prompts.points(cue, 5, "b")[0] != same[0]).any()


def test_points_without_a_class_or_with_few_pixels():
    empty, full, single = np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    single[4, 6] = 1
    assert prompts.from_cue("points", empty, 5) == prompts.from_cue("box", empty, 5) == []
    assert prompts.from_cue("points", np.full((9, 9), 255, np.uint8), 5) == []
    assert prompts.points(full, 5)[1].tolist() == [1] * 5
    xy, labels = prompts.points(single, 5)
    assert xy[0].tolist() == [6, 4] and labels.tolist() == [1] + [0] * 5


def test_boxes_frame_the_largest_components_largest_first():
    cue = np.zeros((50, 60), np.uint8)
    cue[2:12, 3:23], cue[30:45, 40:60], cue[20, 20] = 1, 1, 1
    cue[0, :] = 255
    assert prompts.boxes(cue, 5).tolist() == [[40, 30, 59, 44], [3, 2, 22, 11]]
    assert prompts.boxes(cue, 1).tolist() == [[40, 30, 59, 44]]
    speck = np.zeros((9, 9), np.uint8)
    speck[3, 4] = 1
    assert prompts.boxes(speck, 5).tolist() == [[4, 3, 4, 3]]


@pytest.mark.parametrize("seed", range(4))
def test_every_box_is_tight(seed):
    cue = cue_of(seed)
    for x0, y0, x1, y1 in prompts.boxes(cue, 4).astype(int):
        part = cue[y0 : y1 + 1, x0 : x1 + 1] == 1
        for edge in (part[0], part[-1], part[:, 0], part[:, -1]):
            assert edge.any()


def test_a_mask_prompt_is_zero_at_the_threshold_and_negative_without_data():
    probability = np.array([[0.0, 0.2, 0.3], [0.31, 1.0, np.nan]])
    (prompt,) = prompts.from_probability(probability, 0.3)
    mask = prompt["mask"]
    assert mask.dtype == np.float32 and np.isfinite(mask).all()
    assert ((mask >= -1e-6) == [[False, False, True], [True, True, False]]).all()
    assert mask[0, 2] == pytest.approx(0, abs=1e-6)
    assert prompts.from_probability(probability, 1.1) == []
    assert prompts.from_probability(np.full((2, 2), np.nan)) == []
    (sure,) = prompts.from_probability(np.ones((2, 2)), 0.0)
    assert np.isfinite(sure["mask"]).all()


def test_cues_take_the_side_they_claim_and_leave_no_data_out():
    snow = blobs(64, 64, 3)
    random = np.random.default_rng(0)
    db = np.where(snow, -16.0, -8.0) + 10 * np.log10(random.gamma(4.4, 1 / 4.4, snow.shape))
    db[:5, :7] = np.nan
    cue = prompts.radar_cue(db)
    assert (np.isnan(db) == (cue == 255)).all()
    core = ndimage.distance_transform_edt(snow) > 4, ndimage.distance_transform_edt(~snow) > 4
    known = cue != 255
    assert (cue[core[0] & known] == 1).mean() > 0.97 and (cue[core[1] & known] == 0).mean() > 0.97
    assert (cue == 1).sum() != np.nansum(baselines.predict_otsu(None, db[None]))  # speckle is averaged first
    picture = np.where(snow, 230, 60).astype(np.uint8)[..., None] * np.ones(3, np.uint8)
    assert (prompts.optical_cue(picture, known) == np.where(known, snow, 255)).all()
    grey = prompts.grey_cue(np.where(snow, 40.0, 90.0))
    assert (grey[core[0]] == 1).all() and (grey[core[1]] == 0).all()


def test_an_image_without_contrast_gives_no_prompt():
    cue = prompts.radar_cue(np.full((30, 30), -9.0))
    assert (cue == 0).all() and prompts.from_cue("box", cue, 3) == []


def test_automatic_masks_are_chosen_by_the_cue():
    cue = np.zeros((10, 10), np.uint8)
    cue[:, :5], cue[0] = 1, 255
    left, half, right, unknown = (np.zeros((10, 10), bool) for _ in range(4))
    left[:, :6], half[2:4, 3:7], right[:, 4:], unknown[0] = True, True, True, True
    assert prompts.choose_automatic([right, left, half, unknown], cue) == [1]
    assert prompts.choose_automatic([], cue) == []


def test_what_saw_the_truth_says_so():
    for source, (cue, _) in prompts.SOURCES.items():
        assert (prompts.ORACLE in prompts.label(source)) == (cue == "truth")
        if source != "grid":
            assert prompts.ORACLE in prompts.label(source, "oracle")
        assert prompts.RANDOM in prompts.label(source, random_weights=True)
        assert prompts.RANDOM not in prompts.label(source)
