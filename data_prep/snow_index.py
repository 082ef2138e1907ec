"""Snow masks from optical reflectance. Needs numpy only; arrays are (H, W), reflectance 0..1, NaN = no data.

bands = {name: reflectance(dn[name]) for name in ("B02", "B03", "B04", "B08", "B11")}
mask = snow_mask(bands, rule="combined", cloud=cloud_from_scl(scl), snow_season=True)   # 0, 1, 255
"""

import numpy as np

SNOW_FREE, SNOW, NO_DATA = 0, 1, 255
RULES = ("combined", "ndsi", "ndfsi")

NDSI_SNOW = 0.4  # Dozier 1989 (10.1016/0034-4257(89)90101-6); Hall 1995 (10.1016/0034-4257(95)00137-P)
NIR_SNOW = 0.11  # water guard, Hall 1995: water has high NDSI too, but is dark in the near infrared
NDFSI_SNOW = 0.4  # Wang 2015 (10.3390/rs71215882)
NDVI_CANOPY = (
    0.1  # Klein 1998 (10.1002/(SICI)1099-1085(199808/09)12:10/11<1723::AID-HYP691>3.0.CO;2-2): snow under
)
# trees lies at NDSI 0..0.4 with NDVI above about 0.1; leaves without snow have NDSI below 0
NDSI_CANOPY = 0.0
BRIGHT_BLUE = (
    0.25  # found on scenes whose QA60 is blank: B02 > 0.2 took lit rock as cloud, > 0.3 left thin cloud
)
DARK_NIR = 0.15  # cloud shadow: found on the same scenes, only within reach of a cloud
TREE_COVER, WATER = 10, 80  # ESA WorldCover 2021 classes
SCL_UNUSABLE = (
    0,
    1,
    3,
    8,
    9,
    10,
)  # no data, saturated, cloud shadow, cloud medium, cloud high, cirrus (Sen2Cor)
QA60_CLOUD = (1 << 10) | (1 << 11)  # opaque, cirrus
QA60_BLANK = ("2022-01-25", "2024-02-28")  # processing baseline 04.00 until QA60 was made again: all zero


def reflectance(dn: np.ndarray, offset: float = 0, scale: float = 10000) -> np.ndarray:
    """Reflectance of digital numbers; offset -1000 if baseline 04.00 (from 2022-01-25) is uncorrected."""
    return ((np.asarray(dn, np.float32) + np.float32(offset)) / np.float32(scale)).clip(0)


def normalised_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(a - b) / (a + b), NaN where the sum is not positive."""
    total = a + b
    return np.divide(a - b, total, out=np.full_like(total, np.nan), where=total > 0)


def ndsi(green: np.ndarray, swir: np.ndarray) -> np.ndarray:
    """Normalised difference snow index of B03 and B11."""
    return normalised_difference(green, swir)


def ndfsi(nir: np.ndarray, swir: np.ndarray) -> np.ndarray:
    """Normalised difference forest snow index of B08 and B11 (Wang 2015); band for band it equals NDMI."""
    return normalised_difference(nir, swir)


def ndvi(red: np.ndarray, nir: np.ndarray) -> np.ndarray:
    return normalised_difference(nir, red)


def fractional_snow_cover(ndsi_values: np.ndarray) -> np.ndarray:
    """Snow share 0..1 of a 20 m pixel from NDSI (Gascoin 2020, 10.3390/rs12182904); 95 % interval ~0.38."""
    return 0.5 * np.tanh(2.65 * ndsi_values - 1.42) + 0.5


def in_snow_season(month: int, latitude: float, first: int = 11, last: int = 5) -> bool:
    """Is the month in the northern snow season first..last (wrapping), six months later in the south?"""
    month = month if latitude >= 0 else (month + 5) % 12 + 1
    return first <= month <= last if first <= last else month >= first or month <= last


def cloud_from_scl(scl: np.ndarray) -> np.ndarray:
    """Unusable pixels by Sen2Cor's scene classification: cloud, cirrus, shadow, saturated, no data."""
    return np.isin(scl, SCL_UNUSABLE)


def cloud_from_qa60(qa60: np.ndarray) -> np.ndarray:
    """Opaque cloud and cirrus bits; has no shadow."""
    return (np.nan_to_num(qa60).astype(np.int64) & QA60_CLOUD) != 0


def qa60_is_blank(date: str) -> bool:
    """Was QA60 written as zeros on this date (YYYY-MM-DD)?"""
    return QA60_BLANK[0] <= date <= QA60_BLANK[1]


def cloud_from_brightness(blue: np.ndarray, ndsi_values: np.ndarray) -> np.ndarray:
    """Bright in B02 and not snow-like: for scenes whose cloud band says nothing."""
    return (blue > BRIGHT_BLUE) & ~(ndsi_values > NDSI_SNOW)


def cloud_shadow(nir: np.ndarray, ndsi_values: np.ndarray, cloud: np.ndarray, reach_px: int) -> np.ndarray:
    """Dark pixels that are not snow-like within reach of a cloud: for cloud bands without a shadow class."""
    return (nir < DARK_NIR) & ~(ndsi_values > NDSI_SNOW) & grow(cloud, reach_px) & ~cloud


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask widened by a square of `pixels` on each side."""
    if pixels < 1 or not mask.any():
        return mask.copy()
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (pixels + 1, pixels)
        total = np.cumsum(np.pad(mask.astype(np.int32), pad), axis=axis)
        high, low = [slice(None)] * 2, [slice(None)] * 2
        high[axis], low[axis] = slice(2 * pixels + 1, None), slice(None, -2 * pixels - 1)
        mask = total[tuple(high)] > total[tuple(low)]
    return mask


def snow_mask(
    bands: dict[str, np.ndarray],
    rule: str = "combined",
    cloud: np.ndarray | None = None,
    snow_season: bool = True,
    landcover: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 mask (H, W): 0 snow-free, 1 snow, 255 no data.

    bands: B03, B08, B11 and, for "combined", B04. "ndsi": NDSI > 0.4 and B08 > 0.11. "ndfsi": NDFSI > 0.4.
    "combined": ndsi, and in the snow season forest pixels (WorldCover tree cover, or NDVI > 0.1 without a
    land cover) with NDFSI > 0.4 and NDSI > 0; what is still stopped by the water guard (NDSI > 0.4 but dark:
    water, or snow in shade) is 255. Cloud, missing bands and WorldCover water are 255 under every rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}: expected one of {', '.join(RULES)}")
    green, nir, swir = (bands[name] for name in ("B03", "B08", "B11"))
    missing = np.isnan(green) | np.isnan(nir) | np.isnan(swir)
    snow_index, forest_index = ndsi(green, swir), ndfsi(nir, swir)
    bright, forest_snow = snow_index > NDSI_SNOW, forest_index > NDFSI_SNOW
    open_snow, guarded = bright & (nir > NIR_SNOW), np.zeros_like(bright)
    if rule == "ndsi":
        snow = open_snow
    elif rule == "ndfsi":
        snow = forest_snow
    else:
        forest = ndvi(bands["B04"], nir) > NDVI_CANOPY if landcover is None else landcover == TREE_COVER
        snow = open_snow | (forest & forest_snow & (snow_index > NDSI_CANOPY) & snow_season)
        guarded = bright & ~snow
    no_data = missing | guarded | np.isnan(snow_index)
    if cloud is not None:
        no_data |= cloud
    if landcover is not None:
        no_data |= landcover == WATER
    return np.where(no_data, NO_DATA, snow).astype(np.uint8)


def snow_fraction(mask: np.ndarray) -> float | None:
    """Snow share of the valid pixels; None if there are none."""
    valid = mask != NO_DATA
    return float((mask == SNOW).sum() / valid.sum()) if valid.any() else None
