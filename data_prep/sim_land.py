"""Simulated ground: fractal terrain, land cover, canopy and fields of a site. Needs numpy and scipy.

Nothing here is measured. Kinds of site and their shares are chosen to span what Alpine users map.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage
from scipy.spatial import cKDTree

# ESA WorldCover 2021 codes
TREE, MEADOW, CROP, SETTLEMENT, ROCK, LAKE = 10, 30, 40, 50, 60, 80
NAMES = {TREE: "forest", MEADOW: "meadow", CROP: "crop", SETTLEMENT: "settlement", ROCK: "rock", LAKE: "lake"}

# kind: ranges of the site's lowest elevation (m) and of its relief over 2.56 km (m)
# chosen: valley floors and massifs of the Alps
KINDS = {
    "alpine": ((1500, 2100), (600, 1000)),
    "subalpine": ((900, 1400), (450, 800)),
    "hills": ((600, 900), (150, 350)),
    "foreland": ((400, 600), (15, 60)),
}
# kinds of sites 0, 1, 2, ..., repeated after the sixth
ORDER = ("alpine", "subalpine", "alpine", "hills", "subalpine", "foreland")

# mean potential tree line in the Alps: about 1900-2200 m (Paulsen & Koerner 2001, J. Veg. Sci. 12, 817)
TREE_LINE_M = 2000
# chosen: scree and walls above alpine meadows
ROCK_LINE_M, ROCK_SLOPE_DEG = 2450, 42
# amplitude ~ k^-(1 + H), H near 1: topography has H 0.8-1 (Huang & Turcotte 1989, 10.1029/JB094iB06p07491);
# 2.0 gives alpine sites a mean slope of 20-25 degrees, 1.85 gave 27-40
SPECTRUM = 2.0
FIELD_M = 130  # side of a field: chosen
PIXEL_M = 10.0


@dataclass
class Land:
    """The unchanging ground of a site; arrays (H, W)."""

    kind: str
    elevation: np.ndarray  # m
    slope: np.ndarray  # degrees
    aspect: np.ndarray  # degrees clockwise from north, downhill
    cover: np.ndarray  # uint8, WorldCover codes
    canopy: np.ndarray  # share of the ground hidden by crowns, 0..1
    texture_db: np.ndarray  # lasting differences of backscatter between places of one cover
    crop_phase: np.ndarray  # radians: when in the year the crop of a pixel's field stands highest
    drift: np.ndarray  # factor on snowfall: wind and slides, mean 1


def fractal(random: np.random.Generator, size: int, exponent: float = SPECTRUM) -> np.ndarray:
    """float32 (size, size) random surface of amplitude spectrum k^-exponent, mean 0, standard deviation 1."""
    surface = waves(random, 2 * size, exponent)[:size, :size]  # a quarter of a periodic one is not periodic
    return ((surface - surface.mean()) / surface.std()).astype(np.float32)


def waves(random: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """As fractal, but the surface goes on at the opposite edge."""
    noise = random.standard_normal((size, size), np.float32)
    surface = fft.irfft2(fft.rfft2(noise) * falloff(size, exponent), s=(size, size))
    return (surface / surface.std()).astype(np.float32)


@functools.cache
def falloff(size: int, exponent: float) -> np.ndarray:
    """Amplitude k^-exponent of each wave of a real 2-D transform; none for the mean."""
    wave = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None])
    wave[0, 0] = np.inf
    return (wave**-exponent).astype(np.float32)


def quantile_rank(surface: np.ndarray) -> np.ndarray:
    """Rank of each pixel, 0..1: thresholds on it are shares of the area."""
    order = np.empty(surface.size, np.float32)
    order[np.argsort(surface, axis=None)] = np.linspace(0, 1, surface.size, dtype=np.float32)
    return order.reshape(surface.shape)


def make(random: np.random.Generator, number: int, size: int, slope_aspect) -> Land:
    """The land of site `number`, square, `size` pixels a side.

    slope_aspect: the function of data_prep.terrain, given so that this file stands alone.
    """
    kind = ORDER[number % len(ORDER)]
    lowest, relief = (random.uniform(*span) for span in KINDS[kind])
    surface = ndimage.gaussian_filter(fractal(random, size), 1.5)  # a DEM of 30 m shows no single boulders
    surface = (surface - surface.min()) / np.ptp(surface)
    elevation = (lowest + relief * min(1.0, size / 256) * surface).astype(np.float32)
    lake = np.zeros(elevation.shape, bool)
    if random.random() < 0.5:
        level = np.quantile(elevation, random.uniform(0.02, 0.08))
        lake = largest(elevation <= level)
        elevation = np.where(lake, level, elevation).astype(np.float32)
    slope, aspect = slope_aspect(elevation, PIXEL_M)
    patches, woods = quantile_rank(fractal(random, size, 1.6)), quantile_rank(fractal(random, size, 1.5))
    points = random.uniform(0, size, (max(4, int(size * PIXEL_M / FIELD_M) ** 2), 2))
    pixels = np.stack(np.mgrid[:size, :size], -1).reshape(-1, 2)
    field = cKDTree(points).query(pixels)[1].reshape(size, size)

    cover = np.full(elevation.shape, MEADOW, np.uint8)
    cover[(slope < 8) & (elevation < 1000) & (patches[*points[field].astype(int).T].T < 0.7)] = CROP
    tree_line = TREE_LINE_M + 120 * fractal(random, size, 1.5)
    wooded = {"alpine": 0.6, "subalpine": 0.65, "hills": 0.5, "foreland": 0.25}[kind]
    forest = (elevation < tree_line) & (woods < wooded)
    cover[forest] = TREE
    cover[(elevation > ROCK_LINE_M + 150 * fractal(random, size, 1.5)) | (slope > ROCK_SLOPE_DEG)] = ROCK
    town = (patches > 0.96) & (slope < 12) & (elevation < 1500)
    cover[town] = SETTLEMENT
    cover[lake] = LAKE
    closed = 0.55 + 0.35 * quantile_rank(fractal(random, size, 1.2))  # crowns of conifer stands: 55..90 %
    open_edge = ndimage.uniform_filter((cover == TREE).astype(np.float32), 3)
    canopy = np.where(cover == TREE, closed * open_edge, 0).astype(np.float32)
    # CV of alpine snow depth within a slope: 0.2-0.5 (Gruenewald 2010, 10.5194/tc-4-215-2010), of which
    # elevation is a part
    drift = np.exp(0.30 * ndimage.gaussian_filter(fractal(random, size, 1.0), 1))
    drift *= np.clip(1 - (slope - 35) / 30, 0.3, 1)  # steep faces hold little
    return Land(
        kind=kind,
        elevation=elevation,
        slope=slope,
        aspect=aspect,
        cover=cover,
        canopy=canopy,
        texture_db=texture(random, cover),
        crop_phase=random.normal(3.4, 0.5, len(points)).astype(np.float32)[
            field
        ],  # mid-July, +- a month; chosen
        drift=(drift / drift.mean()).astype(np.float32),
    )


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    parts, count = ndimage.label(mask)
    return parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()) if count else mask


def texture(random: np.random.Generator, cover: np.ndarray) -> np.ndarray:
    """Lasting differences in dB within a cover: standard deviations found on the real chips after speckle."""
    deviation = {TREE: 0.8, MEADOW: 1.2, CROP: 1.0, SETTLEMENT: 4.0, ROCK: 2.0, LAKE: 0.3}
    field = 0.7 * fractal(random, cover.shape[0], 1.0) + 0.7 * random.standard_normal(cover.shape)
    scale = np.zeros(cover.shape, np.float32)
    for code, sigma in deviation.items():
        scale[cover == code] = sigma
    return (scale * field).astype(np.float32)
