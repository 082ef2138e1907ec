"""Simulated Sentinel-1 backscatter of snow, soil and canopy. Needs numpy and scipy.

A sum of terms in linear power: crowns, ground seen through snow, dry-snow volume, wet-snow surface; then the
geometry of a geocoded product, noise and speckle. dB comes last. Levels are fixed from the literature and
from snow-free and snowy real chips (Sentinel-1 GRD sigma0 of eight mountain sites: medians VV -9 to -12, VH
-15 to -18, VH-VV -6 to -7 dB at 31-43 degrees; the rest chosen to fit these).
"""

import functools

import numpy as np
from scipy import ndimage, special, stats

from data_prep.sim_land import CROP, LAKE, MEADOW, ROCK, SETTLEMENT, TREE, Land

# sigma0 in dB at 40 degrees of local incidence, VV and VH, and its slope in dB a degree; for TREE the ground
# under it. C-band ranges by cover: Ulaby & Dobson 1989, Handbook of Radar Scattering Statistics for Terrain
GROUND = {
    TREE: (-12.0, -18.5, -0.15),
    MEADOW: (-12.0, -18.5, -0.15),
    CROP: (-11.5, -18.0, -0.15),
    SETTLEMENT: (-4.5, -12.0, -0.05),
    ROCK: (-10.5, -18.0, -0.20),
    LAKE: (-20.0, -28.0, -0.35),
}
# closed conifer crowns, as GROUND; nearly a volume: sigma0 ~ cos(theta)
CROWN = (-10.6, -15.8, -0.07)
# share of ground echo a full crown takes, both ways; leaves forests the weak melt signal they show
CROWN_OPAQUE = 0.85
# frozen conifers are 1-3 dB lower at C-band (ERS-1 over Alaska: Rignot & Way 1994, Remote Sens. Environ. 49,
# 131); here 2 dB, of which half at -3 °C
FROZEN_CROWN_DB, FROZEN_CROWN_C = 2.0, -3.0
# VV, VH: 2 dB and more over frozen crops (Baghdadi 2018, 10.3390/rs10081182), 3-5 elsewhere
FROZEN_SOIL_DB = (3.0, 2.5)
# dB per unit of soil water by volume, 0.15 dB per vol %: bare soil has 0.2 (clay) to 0.6 (sandy loam; Remote
# Sensing 17(3) 542, 2025), overgrown soil less, by the shares of FELT_MOISTURE
MOISTURE_DB = 15.0
FELT_MOISTURE = {TREE: 0.4, MEADOW: 0.7, CROP: 1.0, SETTLEMENT: 0.1, ROCK: 0.3, LAKE: 0.0}
GROWTH_DB = (1.2, 2.0)  # VV, VH: seasonal swing of a field of crops, each with its own time; chosen
# linear power of dry snow per metre of depth, VV and VH: 2 m raise VH by about 1 dB and VH/VV by 0.8 dB,
# inside what Lievens 2019 (10.1038/s41467-019-12566-y) and 2022 (10.5194/tc-16-159-2022) show
VOLUME_PER_M = (0.0030, 0.0020)
# smooth wet snow, as GROUND; puts wet meadow 3-6 dB under its reference (Nagler & Rott 2016,
# 10.3390/rs8040348: threshold -2 dB; observed drops 3-6 dB)
WET_SURFACE_DB = (-16.5, -24.5, -0.22)
# a day of wetness, and at most: sigma0 rises again in the runoff phase (Marin 2020, 10.5194/tc-14-935-2020)
ROUGHENING_DB, ROUGHENING_MAX_DB = 0.15, 4.0
WALLS = 0.7  # share of a settlement's echo that comes from walls, above the snow; chosen
WAVELENGTH_M = 0.0555  # 5.405 GHz
# imaginary permittivity of water at 0 °C and 5.4 GHz: Debye, relaxation at 9 GHz, static 88
WATER_LOSS = 37.0
SNOW_INDEX = 1.3  # refractive index of seasonal snow
# noise-equivalent sigma0, left in; IW requires -22, in practice -24 to -30 over the swath
NOISE_DB = -28.0
STABILITY_DB = 0.2  # from date to date; Sentinel-1 radiometric stability about 0.1-0.3 dB
WIND_DB = 2.5  # of lakes, from date to date; chosen
LAYOVER_DB = 4.0  # several grounds in one cell; chosen
AREA_LIMIT_DB = 10.0  # of slopes that face the radar: the pixel's mean stays finite
# smoothing of the normal field under the gamma one: neighbours correlate by 0.66, next ones by 0.19, as GRD
# high resolution is 20 x 22 m at 10 m spacing; real chips without relief, texture included: 0.78-0.80 and
# 0.41-0.47
SPECKLE_PX = 0.78


def linear(db):
    return np.power(np.float32(10), np.asarray(db, np.float32) / np.float32(10))


def absorption_per_m(liquid_water: np.ndarray) -> np.ndarray:
    """Power absorption coefficient (1/m) of wet snow at C-band; liquid water as a share of volume.

    Tiuri 1984 (10.1109/JOE.1984.1145645): imaginary permittivity (0.10 w + 0.80 w^2) of that of water.
    """
    loss = (0.10 * liquid_water + 0.80 * liquid_water**2) * WATER_LOSS
    return 4 * np.pi / WAVELENGTH_M * loss / (2 * SNOW_INDEX)


def ground_db(land: Land, state: dict, day: int, random: np.random.Generator) -> list[np.ndarray]:
    """dB of VV and VH of the snow-free ground at 40 degrees, of a day of the year.

    Cover, texture, soil water, frost (which takes the water's effect away), crops, wind on lakes.
    """
    swing = np.cos(2 * np.pi * day / 365.25 - land.crop_phase) * (land.cover == CROP)
    frozen = state["soil_frozen"] & np.isin(land.cover, (TREE, MEADOW, CROP))
    felt = np.where(frozen, 0, lookup(land.cover, FELT_MOISTURE))
    moisture = MOISTURE_DB * felt * (state["soil_water"] - 0.2)
    wind, stability = random.normal(0, WIND_DB), random.normal(0, STABILITY_DB)
    found = []
    for place in (0, 1):
        level = lookup(land.cover, {code: values[place] for code, values in GROUND.items()})
        level = level + land.texture_db + moisture + swing * GROWTH_DB[place] + stability
        level = level - np.where(frozen, FROZEN_SOIL_DB[place], 0)
        found.append(level + wind * (land.cover == LAKE))
    return found


def lookup(cover: np.ndarray, values: dict) -> np.ndarray:
    table = np.zeros(256, np.float32)
    for code, value in values.items():
        table[code] = value
    return table[cover]


def backscatter(land: Land, state: dict, angle: np.ndarray, day: int, random) -> list[np.ndarray]:
    """Linear sigma0 of the local surface, VV and VH, without noise; angle: local incidence in degrees."""
    theta = np.clip(angle, 5, 80)
    away = theta - 40
    cos_in_snow = np.sqrt(1 - (np.sin(np.radians(theta)) / SNOW_INDEX) ** 2)
    depth, wet = state["snow_depth"], state["liquid_water"]
    through = np.exp(-2 * absorption_per_m(wet) * depth / cos_in_snow)
    slope = lookup(land.cover, {code: values[2] for code, values in GROUND.items()})
    wetness = wet / (wet + 0.01)  # how far the surface echo of wet snow has come up
    rough = np.minimum(ROUGHENING_DB * state["wet_days"], ROUGHENING_MAX_DB)
    cold = special.expit(FROZEN_CROWN_C - state["air_c"]) * FROZEN_CROWN_DB
    seen = 1 - CROWN_OPAQUE * land.canopy
    share = state["snow_fraction"] * np.where(land.cover == SETTLEMENT, 1 - WALLS, 1)
    power = []
    for place, ground in enumerate(ground_db(land, state, day, random)):
        bare = linear(ground + slope * away)
        volume = VOLUME_PER_M[place] * depth * through
        surface = linear(WET_SURFACE_DB[place] + WET_SURFACE_DB[2] * away + rough) * wetness
        snow = bare * through + volume + surface
        crown = linear(CROWN[place] + CROWN[2] * away - cold) * land.canopy
        power.append(crown + seen * ((1 - share) * bare + share * snow))
    return power


def speckle(random: np.random.Generator, shape: tuple[int, int], looks: float) -> np.ndarray:
    """Gamma-distributed factor of mean 1 and variance 1/looks; neighbours correlate as GRD pixels do."""
    normal = ndimage.gaussian_filter(random.standard_normal(shape, np.float32), SPECKLE_PX, mode="wrap")
    normal /= normal.std()
    return np.interp(normal, *gamma_table(looks)).astype(np.float32)


@functools.cache
def gamma_table(looks: float) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal values and the gamma values (mean 1, variance 1/looks) of equal probability."""
    normal = np.linspace(-5, 5, 2001)
    return normal, stats.gamma.ppf(special.ndtr(normal), looks, scale=1 / looks)


def observe(power, angle, incidence, hidden, looks: float, backscatter_kind: str, random) -> np.ndarray:
    """float32 (2, H, W) dB of a geocoded product from the local sigma0; hidden: 1 layover, 2 shadow.

    sigma0: per area of the ellipsoid, so slopes facing the radar are bright: times sin(incidence) over
    sin(local) (Ulander 1996, 10.1109/36.536527, whose angle is this one in the range plane). gamma0_rtc: per
    illuminated area of the terrain.
    """
    lit = np.sin(np.radians(incidence)) / np.sin(np.radians(np.clip(angle, 3, 90)))
    lit = np.minimum(lit, linear(AREA_LIMIT_DB))
    noise, found = linear(NOISE_DB), []
    for sigma in power:
        seen = np.where(hidden == 2, 0, sigma * lit * np.where(hidden == 1, linear(LAYOVER_DB), 1))
        seen = (seen + noise) * speckle(random, sigma.shape, looks)
        if backscatter_kind == "gamma0_rtc":
            seen = seen / lit / np.cos(np.radians(np.clip(angle, 0, 80)))
        found.append(10 * np.log10(seen))
    return np.stack(found).astype(np.float32)
