import numpy as np
import pytest

from data_prep import snow_index


def bands(**values):
    """One pixel a value: B02 B03 B04 B08 B11."""
    names = ("B02", "B03", "B04", "B08", "B11")
    return {
        name: np.array([[v] for v in values.values()], np.float32)[:, :, k] for k, name in enumerate(names)
    }


SPECTRA = {  # B02 B03 B04 B08 B11, reflectance
    "open snow": (0.80, 0.79, 0.78, 0.75, 0.09),
    "snow under trees": (0.06, 0.07, 0.05, 0.12, 0.04),
    "green farmland": (0.04, 0.07, 0.03, 0.50, 0.18),
    "bare soil": (0.09, 0.11, 0.13, 0.22, 0.26),
    "clear water": (0.06, 0.05, 0.03, 0.02, 0.005),
    "snow in shade": (0.10, 0.10, 0.09, 0.09, 0.02),
}
EXPECTED = {  # in the snow season
    "ndsi": (1, 0, 0, 0, 0, 0),
    "ndfsi": (1, 1, 1, 0, 1, 1),
    "combined": (1, 1, 0, 0, 255, 255),
}


@pytest.mark.parametrize("rule", snow_index.RULES)
def test_rules_on_known_spectra(rule):
    got = snow_index.snow_mask(bands(**SPECTRA), rule)[:, 0]
    assert dict(zip(SPECTRA, got.tolist(), strict=True)) == dict(zip(SPECTRA, EXPECTED[rule], strict=True))


def test_combined_looks_under_trees_in_the_snow_season_only():
    summer = snow_index.snow_mask(bands(**SPECTRA), "combined", snow_season=False)[:, 0]
    assert summer.tolist() == [1, 0, 0, 0, 255, 255]


def test_land_cover_decides_where_trees_and_water_are():
    cover = np.array([[60], [10], [40], [60], [80], [60]])
    assert snow_index.snow_mask(bands(**SPECTRA), landcover=cover)[:, 0].tolist() == [1, 1, 0, 0, 255, 255]
    cover[1] = 40
    assert snow_index.snow_mask(bands(**SPECTRA), landcover=cover)[1, 0] == 0


def test_cloud_and_missing_bands_are_no_data_under_every_rule():
    given = bands(**SPECTRA)
    given["B11"][1] = np.nan
    cloud = np.zeros((6, 1), bool)
    cloud[0] = True
    for rule in snow_index.RULES:
        assert snow_index.snow_mask(given, rule, cloud)[:2, 0].tolist() == [255, 255]


def test_thresholds_are_exclusive():
    edge = {"at": (0, 0.7, 0, 0.7, 0.3), "above": (0, 0.701, 0, 0.7, 0.3)}  # NDSI 0.4 exactly and just above
    assert snow_index.snow_mask(bands(**edge), "ndsi")[:, 0].tolist() == [0, 1]


def test_cloud_bands():
    assert snow_index.cloud_from_scl(np.arange(12)).tolist() == [c in (0, 1, 3, 8, 9, 10) for c in range(12)]
    assert snow_index.cloud_from_qa60(np.array([0, 1024, 2048, 3072, 512])).tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert snow_index.qa60_is_blank("2022-10-11") and not snow_index.qa60_is_blank("2025-04-25")
    bright = snow_index.cloud_from_brightness(np.array([0.8, 0.8, 0.1]), np.array([0.9, 0.1, 0.1]))
    assert bright.tolist() == [False, True, False]


def test_grow_is_a_square_and_shadow_needs_a_cloud_in_reach():
    cloud = np.zeros((21, 21), bool)
    cloud[10, 10] = True
    grown = snow_index.grow(cloud, 3)
    assert grown.sum() == 49 and grown[7:14, 7:14].all()
    dark, ndsi = np.full((21, 21), 0.05), np.zeros((21, 21))
    shadow = snow_index.cloud_shadow(dark, ndsi, cloud, 2)
    assert shadow.sum() == 24 and not shadow[10, 10]


@pytest.mark.parametrize(
    ("month", "latitude", "expected"),
    [
        (1, 46, True),
        (5, 46, True),
        (6, 46, False),
        (10, 46, False),
        (11, 46, True),
        (7, -45, True),
        (11, -45, True),
        (12, -45, False),
        (4, -45, False),
        (5, -45, True),
    ],
)
def test_snow_season_turns_round_south_of_the_equator(month, latitude, expected):
    assert snow_index.in_snow_season(month, latitude) is expected


def test_reflectance_offset_and_fraction():
    assert snow_index.reflectance(np.array([1000, 3000, 500]), -1000).tolist() == pytest.approx([0, 0.2, 0])
    ndsi = np.linspace(-1, 1, 50)
    fraction = snow_index.fractional_snow_cover(ndsi)
    assert (np.diff(fraction) > 0).all() and fraction[0] < 0.01 and 0.9 < fraction[-1] < 1
    assert snow_index.snow_fraction(np.array([1, 0, 0, 255])) == pytest.approx(1 / 3)
    assert snow_index.snow_fraction(np.array([255, 255])) is None


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="combined"):
        snow_index.snow_mask(bands(**SPECTRA), "magic")
