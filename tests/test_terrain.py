import numpy as np
import pytest

from data_prep.terrain import layover_shadow, local_incidence_angle, look_azimuth, slope_aspect

ROWS, COLUMNS = np.mgrid[:60, :70]


def plane(slope_deg, aspect_deg, pixel_m=10):
    """Heights of a plane that faces `aspect_deg`."""
    aspect = np.radians(aspect_deg)
    ahead = np.sin(aspect) * COLUMNS - np.cos(aspect) * ROWS  # towards the aspect, downhill
    return -np.tan(np.radians(slope_deg)) * ahead * pixel_m


def strip(profile, rows=20):
    """Terrain that changes from west to east alone."""
    return np.tile(np.asarray(profile, float), (rows, 1))


# ---- slope, aspect, angle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [5, 30, 60])
@pytest.mark.parametrize("aspect", [0, 45, 90, 180, 200, 315, 359])
def test_a_plane_has_its_slope_and_aspect(slope, aspect):
    got_slope, got_aspect = slope_aspect(plane(slope, aspect, 25) + 1234, 25)
    inner = slice(1, -1), slice(1, -1)
    assert got_slope.dtype == got_aspect.dtype == np.float32
    assert got_slope[inner] == pytest.approx(slope, abs=1e-3)
    turn = (got_aspect[inner] - aspect + 180) % 360 - 180
    assert turn == pytest.approx(0, abs=1e-3) and (got_aspect >= 0).all() and (got_aspect < 360).all()


def test_flat_ground_faces_nowhere_and_no_data_stays():
    height = np.full((9, 9), 700.0)
    height[4, 4] = np.nan
    slope, aspect = slope_aspect(height, 10)
    hole = np.zeros((9, 9), bool)
    hole[3:6, 3:6] = True
    assert np.array_equal(np.isnan(slope), hole) and np.array_equal(np.isnan(aspect), hole)
    assert (slope[~hole] == 0).all() and (aspect[~hole] == 0).all()


def test_a_margin_of_one_pixel_removes_the_seam():
    height = np.random.default_rng(0).normal(size=(40, 40)).cumsum(0).cumsum(1)
    whole, part = slope_aspect(height, 10), slope_aspect(height[9:31, 14:36], 10)
    for a, b in zip(whole, part, strict=True):
        assert np.array_equal(a[10:30, 15:35], b[1:-1, 1:-1])


@pytest.mark.parametrize("look", [80, 280, 13.5])
def test_local_incidence_angle_on_exact_geometry(look):
    def angle(slope, aspect):
        return float(local_incidence_angle(slope, aspect, 40.0, look))

    assert angle(20, look + 180) == pytest.approx(20, abs=1e-3)  # faces the radar
    assert angle(20, look) == pytest.approx(60, abs=1e-3)  # faces away
    assert angle(0, 123) == pytest.approx(40, abs=1e-3)  # flat
    along_track = np.degrees(np.arccos(np.cos(np.radians(20)) * np.cos(np.radians(40))))
    assert angle(20, look + 90) == angle(20, look - 90) == pytest.approx(along_track, abs=1e-3)
    assert angle(40, look + 180) == pytest.approx(0, abs=0.05)  # the arc cosine is blunt there


def flown(phase_deg):
    """(latitude of the ground seen, azimuth of the beam there) of an orbit flown in vectors; radius 1."""
    phase, tilt = np.radians(phase_deg), np.radians(98.18)
    up = np.array([np.cos(phase), np.sin(phase) * np.cos(tilt), np.sin(phase) * np.sin(tilt)])
    ahead = np.array([-np.sin(phase), np.cos(phase) * np.cos(tilt), np.cos(phase) * np.sin(tilt)])
    velocity = ahead * 2 * np.pi / 98.6 - np.cross([0, 0, 2 * np.pi / 1436.07], up)  # seen from the ground
    right = np.cross(velocity, up)
    right /= np.linalg.norm(right)
    arc = np.radians(39) - np.arcsin(6371 / 7064 * np.sin(np.radians(39)))
    ground, beam = np.cos(arc) * up + np.sin(arc) * right, np.cos(arc) * right - np.sin(arc) * up
    east = np.cross([0, 0, 1], ground)
    east /= np.linalg.norm(east)
    azimuth = np.degrees(np.arctan2(beam @ east, beam @ np.cross(ground, east))) % 360
    return np.degrees(np.arcsin(ground[2])), azimuth


@pytest.mark.parametrize("state", ["ascending", "descending"])
def test_the_look_azimuth_is_that_of_an_orbit_flown_in_vectors(state):
    for phase in range(-64, 65, 8):
        latitude, azimuth = flown(phase if state == "ascending" else 180 - phase)
        assert look_azimuth(latitude, state) == pytest.approx(azimuth, abs=0.01)
    assert look_azimuth(47, state) == pytest.approx({"ascending": 80, "descending": 280}[state], abs=0.2)


def test_other_orbit_states_have_no_look_azimuth():
    for wrong in ("", "ASC", "up"):
        with pytest.raises(ValueError, match="ascending"):
            look_azimuth(47, wrong)
    for latitude in (float("nan"), 81, -90):
        with pytest.raises(ValueError, match="latitude"):
            look_azimuth(latitude, "ascending")


# ---- layover and shadow ------------------------------------------------------------------------------------


def test_gentle_terrain_is_seen_all_over():
    hills = 80 * np.sin(COLUMNS / 7) * np.cos(ROWS / 9)  # slopes up to 53 %, 28 degrees
    for look in range(0, 360, 15):
        assert not layover_shadow(hills, 25, 40, look).any()
        for across in (look + 90, look - 90):  # steep, but along the track
            assert not layover_shadow(plane(60, across), 10, 40, look).any()


@pytest.mark.parametrize("look", [0, 45, 80, 137, 225, 280, 300, 359])
def test_planes_fold_over_or_fall_dark_at_the_critical_angle(look):
    inner = slice(1, -1), slice(1, -1)  # a line of one pixel in a corner has nothing to fold over
    for slope, expected in ((39, 0), (41, 1)):
        assert (layover_shadow(plane(slope, look + 180), 10, 40, look)[2:-2, 2:-2] == expected).all()
    assert (layover_shadow(plane(49, look), 10, 40, look)[inner] == 0).all()
    dark = layover_shadow(plane(51, look), 10, 40, look)
    assert set(np.unique(dark)) == {0, 2} and (dark == 0).mean() < 0.05  # the edge nearest to the radar


def test_a_ridge_casts_a_shadow_of_the_right_length_behind_it():
    profile = np.zeros(100)
    profile[30] = 200  # a wall of 200 m, 10 m thick
    seen = layover_shadow(strip(profile), 10, 45, 90)
    shadow = np.flatnonzero(seen[5] == 2)
    assert shadow.tolist() == list(range(31, 50))  # 200 m * tan 45; the ray touches ground at column 50
    seen = layover_shadow(strip(profile), 10, 30, 90)
    assert np.flatnonzero(seen[5] == 2).tolist() == list(range(31, 42))  # 200 tan 30 = 115 m
    assert (layover_shadow(strip(profile)[:, ::-1], 10, 45, 270)[5, ::-1] == 2).sum() == 19


def test_a_near_side_steeper_than_the_incidence_angle_folds_over_the_ground_before_it():
    profile = np.zeros(100)
    profile[40:51] = 20 * np.arange(11)  # climbs 63 degrees towards the east
    profile[51:] = 200
    seen = layover_shadow(strip(profile), 10, 45, 90)[5]
    slant = (10 * np.arange(100) - profile) / np.sqrt(2)
    expected = [any(slant[i] >= slant[i + 1 :]) or any(slant[i] <= slant[:i]) for i in range(100)]
    same = (slant[:, None] == slant[None]).sum(axis=1) > 1  # touching at a point: either is right
    assert np.array_equal((seen == 1)[~same], np.array(expected)[~same])
    assert (seen[31:40] == 1).all() and (seen[41:50] == 1).all() and not (seen == 2).any()
    assert (seen[:29] == 0).all() and (seen[62:] == 0).all()


def test_what_lies_in_shadow_returns_nothing_that_folds_over_lit_ground():
    profile = np.full(70, 250.0)
    profile[:31] = np.arange(31) * 200 / 30  # too gentle to fold over itself
    profile[31:40] = 0
    profile[39] = 100  # in the dark, farther in slant range than the lit plateau behind it
    seen = layover_shadow(strip(profile), 10, 45, 90)[5]
    assert np.flatnonzero(seen == 2).tolist() == list(range(31, 40)) and not (seen == 1).any()


def test_turning_the_world_turns_the_result():
    height = np.random.default_rng(1).normal(size=(90, 70)).cumsum(0).cumsum(1)
    for look in (80, 280, 20):
        seen = layover_shadow(height, 10, 38, look)
        assert len(np.unique(seen)) == 3
        assert np.array_equal(layover_shadow(height[::-1, ::-1], 10, 38, look + 180)[::-1, ::-1], seen)
        assert np.array_equal(layover_shadow(height, 10, np.full(height.shape, 38.0), look), seen)
        quarter = layover_shadow(np.rot90(height, -1), 10, 38, look + 90)  # clockwise
        assert np.array_equal(np.rot90(quarter), seen)


def test_ground_without_height_hides_nothing():
    profile = np.zeros(60)
    profile[20] = 200
    height = strip(profile)
    height[:, 20:23] = np.nan
    assert not layover_shadow(height, 10, 45, 90).any()
    incidence = np.full(height.shape, np.nan)
    assert not layover_shadow(height, 10, incidence, 90).any()
