"""Simulated daily weather of a site under Open-Meteo's variable names. Needs numpy.

A seasonal cycle with autocorrelated anomalies, wet and dry spells, and what follows from them. Constants give
the climate of the Alps; the normals beside them are MeteoSwiss's for 1991-2020, rounded.
"""

import numpy as np

from data_prep.degree_days import snow_share

UNITS = {
    "temperature_2m_max": "°C",
    "temperature_2m_min": "°C",
    "temperature_2m_mean": "°C",
    "precipitation_sum": "mm",
    "rain_sum": "mm",
    "snowfall_sum": "cm",
    "relative_humidity_2m_mean": "%",
    "shortwave_radiation_sum": "MJ/m²",
    "wind_speed_10m_max": "km/h",
}

# annual mean at sea level and its lapse (K/m): gives Zurich (556 m) 9.7, Davos (1594 m) 4.1, Saentis (2501 m)
# -0.8 °C; lapse in the Alps 5.4-5.8 K/km (Rolland 2003, 10.1175/1520-0442(2003)016<1032:SASVOA>2.0.CO;2)
SEA_LEVEL_C, CLIMATE_LAPSE = 12.7, 0.0054
# half the range of monthly means (Davos -4 to 13), day of the year
AMPLITUDE_C, COLDEST_DAY = 9.0, 20
PERSISTENCE = 0.80  # AR(1) of daily temperature anomalies; mid-latitude stations 0.7-0.85
SPREAD_C = (3.2, 4.6)  # standard deviation of daily anomalies in summer and winter
# chance of a wet day; share of wet days 0.42, about 125 days a year above 1 mm
WET_AFTER_WET, WET_AFTER_DRY = 0.62, 0.28
# mean of wet days at 600 m and gamma shape; about 1080 mm a year
WET_DAY_MM, WET_SHAPE = 7.0, 0.75
PRECIPITATION_GRADIENT = 0.0003  # share a metre: +30 % a km, within the Alpine 10-40 %
RANGE_DRY_C, RANGE_WET_C = 9.5, 5.5  # between a day's lowest and highest temperature
CM_PER_MM = 0.7  # Open-Meteo's snowfall_sum: 7 cm of snow are 10 mm of water


def wetter(elevation_m):
    """Factor on precipitation at an elevation, 1 at 600 m."""
    return 1 + PRECIPITATION_GRADIENT * (elevation_m - 600)


def generate(random: np.random.Generator, dates: np.ndarray, latitude: float, elevation_m: float) -> dict:
    """Daily series (name -> float array, one value a date) at `elevation_m`.

    dates: datetime64[D], unbroken.
    """
    count = len(dates)
    day = (dates - dates.astype("datetime64[Y]")).astype(int)
    winter = 0.5 + 0.5 * np.cos(2 * np.pi * (day - COLDEST_DAY) / 365.25)  # 1 in January, 0 in July
    mean = SEA_LEVEL_C - CLIMATE_LAPSE * elevation_m - AMPLITUDE_C * (2 * winter - 1)
    wet, anomaly = np.zeros(count, bool), np.zeros(count)
    uniform, shock = random.random(count), random.standard_normal(count)
    before, previous = False, shock[0]
    for index in range(count):  # two Markov chains
        wet[index] = uniform[index] < (WET_AFTER_WET if before else WET_AFTER_DRY)
        previous = PERSISTENCE * previous + np.sqrt(1 - PERSISTENCE**2) * shock[index]
        before, anomaly[index] = wet[index], previous
    spread = SPREAD_C[0] + (SPREAD_C[1] - SPREAD_C[0]) * winter
    # wet days: mild in winter, cool in summer
    rain_cools = np.where(wet, 1.2 * winter - 1.8 * (1 - winter), 0)
    temperature = mean + spread * anomaly + rain_cools
    half = 0.5 * np.where(wet, RANGE_WET_C, RANGE_DRY_C) * (1.15 - 0.35 * winter)
    amount = random.gamma(WET_SHAPE, WET_DAY_MM / WET_SHAPE, count)
    precipitation = np.where(wet, amount * wetter(elevation_m), 0)
    precipitation = np.where(precipitation < 0.1, 0, precipitation)
    share = snow_share(temperature)
    humidity = np.clip(np.where(wet, 86, 69) + 6 * random.standard_normal(count), 20, 100)
    return {
        "temperature_2m_max": temperature + half,
        "temperature_2m_min": temperature - half,
        "temperature_2m_mean": temperature,
        "precipitation_sum": precipitation,
        "rain_sum": precipitation * (1 - share),
        "snowfall_sum": precipitation * share * CM_PER_MM,
        "relative_humidity_2m_mean": humidity,
        "shortwave_radiation_sum": extraterrestrial(day, latitude) * np.where(wet, 0.38, 0.75),
        "wind_speed_10m_max": random.gamma(3.0, 5.0, count),
    }


def extraterrestrial(day: np.ndarray, latitude: float) -> np.ndarray:
    """Radiation above the atmosphere in MJ/m² a day (FAO Irrigation and Drainage Paper 56, equation 21)."""
    latitude = np.radians(latitude)
    distance = 1 + 0.033 * np.cos(2 * np.pi * (day + 1) / 365)
    declination = 0.409 * np.sin(2 * np.pi * (day + 1) / 365 - 1.39)
    sunset = np.arccos(np.clip(-np.tan(latitude) * np.tan(declination), -1, 1))
    height = sunset * np.sin(latitude) * np.sin(declination)
    height += np.cos(latitude) * np.cos(declination) * np.sin(sunset)
    return 37.6 * distance * height  # 24 * 60 / pi * 0.0820


# What a user knows of the weather, against what fell: errors of the series that models may see, per level.
# Standard deviations of a site's lasting temperature error (K), of its daily one (K, AR(1) of 0.7), of its
# lasting error of precipitation (ln of a factor) and of each wet day's. Fixed before any net was trained.
ERRORS = {
    "exact": (0.0, 0.0, 0.0, 0.0),
    # ERA5 and ERA5-Land in mountains: daily temperature RMSE about 1.5-2.5 K, precipitation wrong by tens of
    # percent (Munoz-Sabater 2021, 10.5194/essd-13-4349-2021, and validations there)
    "reanalysis": (1.0, 1.5, 0.25, 0.5),
    # twice that
    "poor": (2.0, 3.0, 0.5, 1.0),
}


MOST_MM = 500.0  # a day, in tables with errors: more than an Alpine day has brought; chosen


def with_errors(random: np.random.Generator, series: dict, level: str) -> dict:
    """The series as a user of that quality of weather would know it: a copy with errors of ERRORS[level]."""
    lasting_k, daily_k, lasting_ln, daily_ln = ERRORS[level]
    count = len(series["temperature_2m_mean"])
    error, now = np.zeros(count), random.standard_normal()
    for index, shock in enumerate(random.standard_normal(count)):
        error[index] = now = 0.7 * now + np.sqrt(1 - 0.7**2) * shock
    offset = lasting_k * random.standard_normal() + daily_k * error
    factor = np.exp(lasting_ln * random.standard_normal() + daily_ln * random.standard_normal(count))
    factor /= np.exp(daily_ln**2 / 2)  # the daily errors leave the sum as it is
    changed = {name: np.array(values) for name, values in series.items()}
    for name in ("temperature_2m_max", "temperature_2m_min", "temperature_2m_mean"):
        changed[name] = changed[name] + offset
    changed["precipitation_sum"] = np.minimum(changed["precipitation_sum"] * factor, MOST_MM)
    share = snow_share(changed["temperature_2m_mean"])
    changed["rain_sum"] = changed["precipitation_sum"] * (1 - share)
    changed["snowfall_sum"] = changed["precipitation_sum"] * share * CM_PER_MM
    return changed
