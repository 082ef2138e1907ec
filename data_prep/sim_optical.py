"""Simulated Sentinel-2 reflectance: endmembers mixed by cover, snow and canopy, lit by the sun, under clouds.

Needs numpy. Endmembers are rounded from spectral libraries (snow: Wiscombe & Warren 1980, and ECOSTRESS, as
cited below) and from the real chips (Sentinel-2 L1C of eight mountain sites, less the haze in the blue).
"""

import numpy as np

from data_prep.sim_land import CROP, LAKE, PIXEL_M, ROCK, SETTLEMENT, Land, fractal, waves

BANDS = ("B02", "B03", "B04", "B08", "B11")

# reflectance in the five bands
GREEN = (0.03, 0.07, 0.05, 0.38, 0.20)  # meadow and crops in summer
DRY = (0.06, 0.08, 0.10, 0.22, 0.24)  # meadow in winter
SOIL = (0.08, 0.11, 0.14, 0.22, 0.30)  # bare fields
COVERS = {
    SETTLEMENT: (0.12, 0.13, 0.14, 0.22, 0.22),
    ROCK: (0.12, 0.14, 0.16, 0.20, 0.24),
    LAKE: (0.030, 0.035, 0.020, 0.015, 0.008),
}
CROWN = (0.025, 0.045, 0.030, 0.20, 0.10)  # conifers; real chips: B08 0.16-0.29, B11 0.10-0.17
# grains of 50-100 um (Wiscombe & Warren 1980; ECOSTRESS fine snow); of 500-1000 um, some dust
FRESH_SNOW, OLD_SNOW = (0.95, 0.95, 0.95, 0.90, 0.14), (0.80, 0.80, 0.79, 0.66, 0.04)
GRAIN_DAYS = 8.0  # from fresh to old; wet snow is old at once
FLOOR_SHADE = 0.95  # share of light full crowns take from the ground
HELD_SNOW = 0.15  # of crowns white after snowfall below 0 degrees, for two days
# share of skylight per band with the sun at 45 degrees; more with a lower sun
DIFFUSE = (0.25, 0.18, 0.14, 0.08, 0.04)

CLOUD = (0.62, 0.61, 0.62, 0.64, 0.45)  # water cloud
ICE_CLOUD_B11 = 0.28  # as dark in the shortwave infrared as to come near snow
CLOUDY = {True: (2.5, 0.6), False: (0.55, 1.0)}  # beta distributions of cloud share, on wet and on dry days
CLOUD_HEIGHT_M = (400, 2000)
CLOUD_EDGE = 0.3  # standard deviations of the field from the first haze to full cloud; chosen
# optical share from which the scene classification sees a cloud, drawn by date: thin edges stay
DETECTED = (0.3, 0.6)
FALSE_CLOUD = 0.03  # of snow taken for cloud: Sen2Cor's known confusion; share chosen
NOISE = 0.02  # share of reflectance


def sun(latitude: float, day: int, hour: float = 10.5) -> tuple[float, float]:
    """Zenith and azimuth of the sun in degrees at a local solar time (declination: Cooper 1969)."""
    declination = np.radians(23.45 * np.sin(2 * np.pi * (284 + day) / 365))
    latitude, angle = np.radians(latitude), np.radians(15 * (hour - 12))
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(angle)
    east = -np.cos(declination) * np.sin(angle)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(angle)
    return float(np.degrees(np.arccos(up))), float(np.degrees(np.arctan2(east, north)) % 360)


def ground(land: Land, day: int) -> np.ndarray:
    """(5, H, W) reflectance of the snow-free ground without trees on a day of the year."""
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (day - 30) / 365.25)  # green in late July
    summer = np.clip(summer - (land.elevation - 500) / 6000, 0, 1)  # later and poorer above
    mix = (1 - summer) * column(DRY) + summer * column(GREEN)
    grown = 0.5 + 0.5 * np.cos(2 * np.pi * day / 365.25 - land.crop_phase)
    crop = (1 - grown) * column(SOIL) + grown * column(GREEN)
    mix = np.where(land.cover == CROP, crop, mix)
    for code, values in COVERS.items():
        mix = np.where(land.cover == code, column(values), mix)
    # rough and bright are not the same: weak link
    brightness = np.exp(0.12 * land.texture_db / 1.2).clip(0.6, 1.6)
    return mix * np.where(land.cover == LAKE, 1, brightness)


def column(values) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def surface(land: Land, state: dict, day: int) -> np.ndarray:
    """(5, H, W) reflectance of ground, snow and crowns together, before illumination."""
    old = 1 - np.exp(-state["snow_age"] / GRAIN_DAYS)
    old = np.where(state["liquid_water"] > 0.01, 1, old)
    snow = (1 - old) * column(FRESH_SNOW) + old * column(OLD_SNOW)
    share = state["snow_fraction"]
    below = share * snow + (1 - share) * ground(land, day)
    held = HELD_SNOW * ((state["snow_age"] < 2) & (state["air_c"] < 0) & (share > 0.3))
    crown = (1 - held) * column(CROWN) + held * column(FRESH_SNOW)
    return land.canopy * crown + (1 - land.canopy) * (1 - FLOOR_SHADE * land.canopy) * below


def illuminate(
    reflectance: np.ndarray, land: Land, zenith: float, azimuth: float, cast: np.ndarray
) -> np.ndarray:
    """Reflectance (5, H, W) as a product without full terrain correction shows it.

    zenith, azimuth: of the sun, degrees; cast: bool (H, W), where other slopes take the sun.
    """
    z, s = np.radians(zenith), np.radians(land.slope)
    facing = np.cos(z) * np.cos(s) + np.sin(z) * np.sin(s) * np.cos(np.radians(azimuth - land.aspect))
    direct = np.where(cast, 0, np.maximum(facing, 0)) / np.cos(z)
    sky = column(DIFFUSE) * min(2.5, np.cos(np.radians(45)) / np.cos(z))
    sky = np.minimum(sky, 0.6)
    return reflectance * ((1 - sky) * np.minimum(direct, 2.5) + sky * (1 + np.cos(s)) / 2)


def scene(
    land: Land, state: dict, latitude: float, day: int, wet_day: bool, cast_shadow, cloud_share, random
):
    """uint16 (6, H, W): the five bands in reflectance * 10000, and SCL.

    cast_shadow(zenith, azimuth) gives bool (H, W). cloud_share None: drawn by the day's weather.
    """
    zenith, azimuth = sun(latitude, day)
    clear = illuminate(surface(land, state, day), land, zenith, azimuth, cast_shadow(zenith, azimuth))
    size = land.elevation.shape[0]
    share = random.beta(*CLOUDY[bool(wet_day)]) if cloud_share is None else cloud_share
    around = waves(random, 2 * size, 1.4)  # of the clouds in and around the site
    floor = np.quantile(around[:size, :size], 1 - share) if share < 1 else around.min() - CLOUD_EDGE
    around = np.clip((around - floor) / CLOUD_EDGE, 0, 1) if share > 0 else np.zeros_like(around)
    thick = around[:size, :size]
    height = random.uniform(*CLOUD_HEIGHT_M) * np.tan(np.radians(zenith)) / PIXEL_M
    away = np.radians(azimuth + 180)
    shift = round(-np.cos(away) * height), round(np.sin(away) * height)
    shade = np.roll(around, shift, (0, 1))[:size, :size]
    cloud = column(CLOUD).copy()
    if random.random() < 0.3:
        cloud[4] = ICE_CLOUD_B11
    lit = clear * (1 - 0.75 * shade)
    seen = (1 - thick) * lit + thick * cloud * (0.8 + 0.25 * thick)
    seen = seen * (1 + NOISE * random.standard_normal(seen.shape, np.float32))
    coarse = seen[4, : size // 2 * 2, : size // 2 * 2].reshape(size // 2, 2, size // 2, 2).mean((1, 3))
    seen[4, : size // 2 * 2, : size // 2 * 2] = coarse.repeat(2, 0).repeat(2, 1)  # B11 has 20 m
    scl = classify(land, seen, thick, shade, random)
    bands = np.clip(seen * 10000, 1, 15000).round()
    return np.concatenate([bands, scl[None]]).astype(np.uint16)


def classify(land: Land, seen: np.ndarray, thick: np.ndarray, shade: np.ndarray, random) -> np.ndarray:
    """Scene classification in Sen2Cor's codes, with misses of thin cloud and false cloud on snow."""
    detected = random.uniform(*DETECTED)
    snow = (seen[1] - seen[4]) / (seen[1] + seen[4]) > 0.4
    green = (seen[3] - seen[2]) / (seen[3] + seen[2]) > 0.4
    scl = np.where(green, 4, 5)
    scl = np.where(land.cover == LAKE, 6, np.where(snow & (seen[3] > 0.11), 11, scl))
    scl = np.where(shade > 0.5, 3, scl)
    false = fractal(random, seen.shape[1], 1.2)
    false = false < np.quantile(false, FALSE_CLOUD)
    scl = np.where((thick > detected) | (false & (scl == 11)), 8, scl)
    return np.where(thick > 0.8, 9, scl)
