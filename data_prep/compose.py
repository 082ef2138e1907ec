"""Pictures of triplets as image networks want them: uint8 (H, W, 3), radar stretched by its whole scene.

limits = scene_limits(rows, COMPOSE["vv,vh,ratio"])         # one pass over the radar files
picture, valid = sar_picture(row, "vv,vh,ratio", limits)    # uint8 (H, W, 3), bool (H, W)
"""

import contextlib
import hashlib
import itertools

import numpy as np

from data_prep import rasters, readers, sar, triplets
from data_prep.runs import BadInput

COMPOSE = {"vv": ("vv",), "vh": ("vh",), "vv,vh,ratio": ("vv", "vh", "vh-vv")}  # ratio: VH over VV, in dB
STEP_DB = 0.01  # of the histograms that percentiles are read from; a grey level is some 0.05 dB
RANGE_DB = (-80.0, 40.0)  # outside of it values count at its ends


def sample(rows: list[dict], count: int | None, seed: int) -> list[dict]:
    """At most `count` of the rows, in their order: chosen by (seed, id) alone, so that jobs agree."""
    if count is None or len(rows) <= count:
        return rows
    digest = {row["id"]: hashlib.sha256(f"{seed} {row['id']}".encode()).digest() for row in rows}
    chosen = set(sorted(digest, key=digest.get)[:count])
    return [row for row in rows if row["id"] in chosen]


def scene_key(row: dict) -> tuple[str, str, str]:
    """What the triplets of one radar scene share: site, radar date, relative orbit."""
    return row["site"], row["s1_date"], row["relative_orbit"]


def scene_limits(rows: list[dict], names, bad: list[str] | None = None) -> dict:
    """{scene key: {band: (low, high)}}: 2 % and 98 % limits in dB of a radar scene over all its triplets.

    names: bands of data_prep.channels. Give the triplets of every split, so that a triplet's picture does
    not depend on which others are looked at. To within STEP_DB; memory: a few triplets, whatever their
    number. A file that cannot be read is a BadInput, or with `bad`, left out and named there. The original's
    8-bit pictures are stretched already and have no limits.
    """
    ordered = sorted((row for row in rows if row["sar"].suffix != ".png"), key=scene_key)
    groups = [(key, list(group)) for key, group in itertools.groupby(ordered, scene_key)]

    def look(group):
        try:
            return limits_of(group[1], names, bad)
        except BadInput as error:
            return error

    result = {}
    with contextlib.closing(readers.in_order(look, groups)) as read:
        for (key, _), found in zip(groups, read, strict=True):
            if isinstance(found, BadInput):
                raise found
            result[key] = found
    return result


def limits_of(rows: list[dict], names, bad: list[str] | None) -> dict[str, tuple[float, float]]:
    """Limits of each band over the triplets of one scene."""
    low, high = RANGE_DB
    bins = round((high - low) / STEP_DB)
    counts = np.zeros((len(names), bins), np.int64)
    for row in rows:
        try:
            image = triplets.read_image(row, names)
        except BadInput as error:
            if bad is None:
                raise
            bad.append(str(error))
            continue
        for count, values in zip(counts, image, strict=True):
            place = (values[np.isfinite(values)] - low) / STEP_DB
            count += np.bincount(place.clip(0, bins - 1).astype(np.int64), minlength=bins)
    middle = low + STEP_DB * (np.arange(bins) + 0.5)
    return {name: percentiles(middle, count) for name, count in zip(names, counts, strict=True)}


def percentiles(middle: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    """What sar.stretch_limits gives for the values in a histogram."""
    total = count.cumsum()
    if not total[-1]:
        return sar.stretch_limits(np.array([]))
    low, high = (float(middle[np.searchsorted(total, share * (total[-1] - 1) + 1)]) for share in (0.02, 0.98))
    return low, high if high > low else low + 1


def sar_picture(row: dict, compose: str, limits: dict) -> tuple[np.ndarray, np.ndarray]:
    """A triplet's radar as uint8 (H, W, 3) and where it is valid, bool (H, W); no data is 0.

    compose: a key of COMPOSE; one band is repeated. limits: of `scene_limits` with that key's bands. The
    original's 8-bit pictures are shown as they are, in grey, and are valid everywhere.
    """
    if row["sar"].suffix == ".png":
        grey = triplets.read_image(row, ["grey"])[0].astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), np.ones(grey.shape, bool)
    names = COMPOSE[compose]
    image, spans = triplets.read_image(row, names), limits[scene_key(row)]
    valid = np.isfinite(image).all(axis=0)
    image = np.where(valid, image, np.nan)
    bands = [sar.stretch(band, spans[name]) for name, band in zip(names, image, strict=True)]
    return np.stack(bands * (3 // len(bands)), axis=2), valid


def rgb_picture(row: dict) -> tuple[np.ndarray, np.ndarray]:
    """A triplet's optical picture as uint8 (H, W, 3) and where it is valid; BadInput without one."""
    path = row["rgb"]
    if path is None:
        raise BadInput(f"{row['id']}: has no RGB picture; curate with one, or use the radar.")
    if path.suffix == ".png":
        picture = rasters.read_png(path)
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        return picture, np.ones(picture.shape[:2], bool)
    raster = rasters.open_header(path)
    if len(raster.bands) != 3 or raster.dtype != "uint8":
        raise BadInput(f"{path}: {len(raster.bands)} bands of {raster.dtype}, expected 3 of uint8 (RGB).")
    bands = rasters.read(raster, raster.bands, raw=True).astype(np.uint8)
    valid = (
        (bands != raster.nodata).all(axis=0) if raster.nodata is not None else np.ones(bands.shape[1:], bool)
    )
    return np.ascontiguousarray(bands.transpose(1, 2, 0)), valid
