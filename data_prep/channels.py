"""Input channels of a model: which planes each is made of, where planes are found, how they are computed."""

import datetime
import math

import numpy as np

from data_prep import degree_days, sar
from data_prep.runs import BadInput

WEATHER_DAYS = (1, 3, 7, 14, 30, 90, 180)
WEATHER = {  # a plane of weather: the function of degree_days it is, and its days
    f"{name}-{days}": (function, days)
    for name, function in (
        ("temperature", degree_days.temperature),
        ("degree-days", degree_days.degree_days),
        ("snowfall", degree_days.snowfall),
    )
    for days in WEATHER_DAYS
}


def same(plane: np.ndarray) -> np.ndarray:
    return plane


def northness(slope: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    """1 on a wall that faces north, -1 on one that faces south, 0 on flat ground; angles in degrees."""
    return np.sin(np.radians(slope)) * np.cos(np.radians(aspect))


def eastness(slope: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    return np.sin(np.radians(slope)) * np.sin(np.radians(aspect))


# An input channel: the planes it is made of, and how.
CHANNELS = {
    "vv": (("VV",), same),
    "vh": (("VH",), same),
    "vh-vv": (("VH", "VV"), sar.ratio_db),
    "vv-ref": (("VV", "VV_ref"), sar.ratio_db),
    "vh-ref": (("VH", "VH_ref"), sar.ratio_db),
    "reference-vv": (("VV_ref",), same),  # known without the current image
    "reference-vh": (("VH_ref",), same),
    "incidence-angle": (("incidence_angle",), same),
    "local-incidence-angle": (("local_incidence_angle",), same),
    "elevation": (("elevation",), same),
    "slope": (("slope",), same),
    "northness": (("slope", "aspect"), northness),
    "eastness": (("slope", "aspect"), eastness),
    "season-sin": (("season",), np.sin),
    "season-cos": (("season",), np.cos),
    **{name: ((name,), same) for name in WEATHER},
    "grey": (("grey",), same),  # the original's 8-bit SAR pictures
}
RADAR_CHANNELS = ("vv", "vh", "vv-ref", "vh-ref")  # a change of radiometric gain shifts these, in dB
# Where planes come from: season and weather are computed, these are in files, all others in the SAR file.
COMPUTED = ("season", *WEATHER)
PLANE_FILE = {"VV_ref": "ref", "VH_ref": "ref", **dict.fromkeys(("elevation", "slope", "aspect"), "dem")}


def check_channels(names) -> tuple[str, ...]:
    unknown = [name for name in names if name not in CHANNELS]
    if unknown or not names or len(set(names)) != len(names):
        problem = f"unknown {', '.join(unknown)}" if unknown else "empty or repeated"
        raise BadInput(f"--bands {','.join(names)}: {problem}; there are {', '.join(CHANNELS)}.")
    return tuple(names)


def planes_needed(channels) -> tuple[str, ...]:
    """Every plane of the channels, and the elevation that weather is brought to."""
    planes = [plane for name in channels for plane in CHANNELS[name][0]]
    elevation = ["elevation"] if set(planes) & set(WEATHER) else []
    return tuple(dict.fromkeys([*planes, *elevation]))


def planes_by_file(channels) -> dict[str, list[str]]:
    """The planes that are read, by the kind of file that holds them: sar, dem, ref."""
    kinds: dict[str, list[str]] = {}
    for plane in planes_needed(channels):
        if plane not in COMPUTED:
            kinds.setdefault(PLANE_FILE.get(plane, "sar"), []).append(plane)
    return kinds


def need_weather(channels, series: dict | None, what) -> None:
    """BadInput if a channel of weather has no series to be made from."""
    names = [name for name in channels if name in WEATHER]
    if names and series is None:
        raise BadInput(
            f"{what}: band {', '.join(names)} needs the site's daily weather; pass --weather with a "
            "weather.csv that holds it, or choose other bands."
        )


def season_angle(date: str, latitude: float) -> float:
    """Angle of the day in the year, 0 on 1 January, 2 pi a year later; half a turn on in the south."""
    try:
        day = datetime.date.fromisoformat(date[:10]).timetuple().tm_yday
    except ValueError:
        raise BadInput(f"the season needs a date, found {date!r}; leave the season out of --bands.") from None
    return 2 * math.pi * (day - 1) / 365.25 + (math.pi if latitude < 0 else 0)


def add_computed(
    planes: dict[str, np.ndarray],
    channels,
    shape: tuple[int, int],
    date: str,
    latitude: float,
    series: dict | None,
) -> None:
    """Add to the planes that were read those that follow from date, latitude, weather and elevation."""
    for plane in planes_needed(channels):
        if plane == "season":
            planes[plane] = np.full(shape, season_angle(date, latitude), np.float32)
        elif plane in WEATHER:
            function, days = WEATHER[plane]
            planes[plane] = function(series, date, days, planes["elevation"])


def assemble(channels, planes: dict[str, np.ndarray]) -> np.ndarray:
    """float32 (C, H, W) of the named channels from planes (H, W); NaN = no data."""
    return np.stack(
        [CHANNELS[name][1](*(planes[plane] for plane in CHANNELS[name][0])) for name in channels]
    ).astype(np.float32)
