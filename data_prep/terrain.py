"""Slope, aspect, the radar's look direction, local incidence angle, layover and shadow. Needs numpy only.

Arrays are north-up: rows go south, columns east. Angles are in degrees, azimuths clockwise from north.
"""

import numpy as np

INCLINATION = (
    98.18  # degrees; this, period and height: ESA, Sentinel-1 orbit parameters (SentiWiki, S1 mission)
)
PERIOD = 98.6  # minutes
HEIGHT_KM = 693.0
SIDEREAL_DAY = 1436.07  # minutes
EARTH_RADIUS_KM = 6371.0
MID_SWATH = 39.0  # degrees of incidence, the middle of the IW swath's 29 to 46 (ESA, Sentinel-1 IW mode)


def slope_aspect(elevation: np.ndarray, pixel_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope and aspect, float32 (H, W), of an elevation (H, W) in metres, from 3 x 3 pixels.

    Aspect is the direction the slope faces, downhill; 0 where the ground is flat. NaN where one of the nine
    heights is NaN. The border repeats its outermost pixels: give a margin of a pixel where seams matter.
    Horn 1981, 10.1109/PROC.1981.11918.
    """
    z = np.pad(np.asarray(elevation, np.float64), 1, mode="edge")
    across, down = z[:-2] + 2 * z[1:-1] + z[2:], z[:, :-2] + 2 * z[:, 1:-1] + z[:, 2:]
    eastward = (across[:, 2:] - across[:, :-2]) / (8 * pixel_m)
    northward = (down[:-2] - down[2:]) / (8 * pixel_m)
    missing = np.isnan(z[1:-1, 1:-1])
    slope = np.degrees(np.arctan(np.hypot(eastward, northward)))
    aspect = np.degrees(np.arctan2(-eastward, -northward)) % 360
    flat = (eastward == 0) & (northward == 0)
    aspect = np.where(flat | (aspect == 360), 0, aspect)
    return tuple(np.where(missing, np.nan, plane).astype(np.float32) for plane in (slope, aspect))


def look_azimuth(latitude: float, orbit_state: str) -> float:
    """Azimuth in which Sentinel-1 looks at the ground of a latitude: right of its track, by a circular orbit.

    About 80 (ascending) and 280 (descending) at mid-latitudes. It is taken where the beam meets the ground in
    mid-swath: there the great circle has turned by some degrees since it left the track. Accurate to a degree
    or two over the swath. ValueError for another orbit_state and for latitudes where no track goes.
    """
    if orbit_state not in ("ascending", "descending"):
        raise ValueError(f"orbit_state {orbit_state!r} is neither 'ascending' nor 'descending'")
    if not abs(latitude) <= 80:
        raise ValueError(f"latitude {latitude!r} is beyond 80 degrees, where look directions turn quickly")
    up = 1 if orbit_state == "ascending" else -1
    incidence, target = np.radians(MID_SWATH), np.radians(latitude)
    off_nadir = np.arcsin(EARTH_RADIUS_KM / (EARTH_RADIUS_KM + HEIGHT_KM) * np.sin(incidence))
    arc = incidence - off_nadir  # from the track to the ground seen, at the Earth's centre
    below = target  # latitude of the point below the satellite, found by iteration
    for _ in range(30):
        sine = np.clip(np.cos(np.radians(INCLINATION)) / np.cos(below), -1, 1)
        east = sine / PERIOD - np.cos(below) / SIDEREAL_DAY  # the Earth turns away below the orbit
        north = up * np.sqrt(1 - sine**2) / PERIOD
        look = np.arctan2(east, north) + np.pi / 2
        reached = np.arcsin(np.sin(below) * np.cos(arc) + np.cos(below) * np.sin(arc) * np.cos(look))
        below = np.clip(below + target - reached, -1.42, 1.42)  # 81.4 degrees: the orbit turns at 81.8
    arrival = np.arctan2(
        np.sin(look) * np.cos(below) * np.sin(arc), np.sin(target) * np.cos(arc) - np.sin(below)
    )
    return float(np.degrees(arrival) % 360)


def local_incidence_angle(slope_deg, aspect_deg, incidence_deg, look_azimuth_deg) -> np.ndarray:
    """Angle between the terrain's normal and the direction to the satellite, degrees, float32 like slope.

    incidence_deg is to the flat ground, a scalar or an array; look_azimuth_deg points from the satellite on.
    """
    angles = slope_deg, aspect_deg, incidence_deg
    slope, aspect, incidence = (np.radians(np.asarray(angle, np.float64)) for angle in angles)
    facing = -np.cos(aspect - np.radians(look_azimuth_deg))  # 1: the slope faces the satellite
    cosine = np.cos(slope) * np.cos(incidence) + np.sin(slope) * np.sin(incidence) * facing
    return np.degrees(np.arccos(np.clip(cosine, -1, 1))).astype(np.float32)


def layover_shadow(
    elevation: np.ndarray, pixel_m: float, incidence_deg, look_azimuth_deg: float
) -> np.ndarray:
    """uint8 (H, W): 0 seen, 1 layover, 2 shadow, by the order of slant ranges along the look direction.

    Elevation (H, W) in metres; incidence_deg a scalar or (H, W). Ground that shares its slant range with
    ground before or behind it is layover, whichever caused it; ground below a grazing ray is shadow, and
    returns nothing that could lie over other ground. Ground without elevation is 0 and hides nothing; what
    stands outside the array is not known. The wave is taken as plane over the height of the terrain.
    """
    z = np.asarray(elevation, np.float64)
    theta = np.radians(np.broadcast_to(np.asarray(incidence_deg, np.float64), z.shape))
    missing = np.isnan(theta)
    if missing.all():
        return np.zeros(z.shape, np.uint8)
    theta = np.where(missing, theta[~missing].mean(), theta)
    look = np.radians(look_azimuth_deg)
    along, across = np.sin(look), -np.cos(look)  # distance ahead for a step to the east, to the south
    turned = abs(across) > abs(along)
    if turned:
        z, theta, along, across = z.T, theta.T, across, along
    mirrored = along < 0
    if mirrored:
        z, theta, along = z[:, ::-1], theta[:, ::-1], -along
    # Now near range is at column 0, and a line ahead moves down by `across / along` rows a column. Heights
    # are interpolated on that line, each of its points stands for the pixel of the nearest row.
    height, width = z.shape
    drift = np.arange(width) * (across / along)
    first = np.floor(drift).astype(int)
    share = drift - first
    nearest = np.rint(drift).astype(int)
    lines = np.arange(-nearest.max(), height - nearest.min())[:, None]
    rows, columns = lines + nearest, np.arange(width)[None]
    inside = (rows >= 0) & (rows < height)
    above, below = (np.clip(lines + first + step, 0, height - 1) for step in (0, 1))
    on_line = z[above, columns]
    on_line = on_line + share * np.where(share > 0, z[below, columns] - on_line, 0)
    on_line[~inside] = np.nan
    theta = theta[np.clip(rows, 0, height - 1), columns]
    step = pixel_m / along  # metres of ground from one point of a line to the next
    known = ~np.isnan(on_line)

    grazing = on_line + np.cumsum(step / np.tan(theta), axis=1)  # height above a grazing ray through 0
    highest = np.maximum.accumulate(np.where(known, grazing, -np.inf), axis=1)
    shadow = known & (grazing < highest)
    slant = np.cumsum(step * np.sin(theta), axis=1) - on_line * np.cos(theta)
    heard = known & ~shadow
    farthest = np.maximum.accumulate(np.where(heard, slant, -np.inf), axis=1)
    nearest_behind = np.minimum.accumulate(np.where(heard, slant, np.inf)[:, ::-1], axis=1)[:, ::-1]
    layover = heard & ((slant < farthest) | (slant > nearest_behind))

    seen = np.zeros(z.shape, np.uint8)
    state = np.where(shadow, np.uint8(2), layover.astype(np.uint8))
    seen[rows[inside], np.broadcast_to(columns, rows.shape)[inside]] = state[inside]
    seen = seen[:, ::-1] if mirrored else seen
    return np.ascontiguousarray(seen.T if turned else seen)
