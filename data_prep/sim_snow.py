"""Simulated snow: a daily degree-day balance with liquid water, pixel by pixel. Needs numpy.

Each step takes a day's weather at a reference elevation; `at_overpass` gives what a radar sees at dawn (after
the night's refreezing) or in the evening (after the day's melt).
"""

from dataclasses import dataclass

import numpy as np

from data_prep import degree_days, sim_land, sim_weather

# mm/(K d) under trees, in the open; snow 1.6-6, forest below open (Hock 2003, 10.1016/S0022-1694(03)00257-9,
# table 1)
FOREST_MELT_MM, OPEN_MELT_MM = 2.8, 4.5
# mm/(K d): chosen between HBV's 0.05 of the degree-day factor and freezing of all that melts
REFREEZE_MM = 1.0
# liquid water held, share of the ice mass: HBV's 0.1 (Bergstroem 1992) less what drains on slopes
HOLDING = 0.06
# share of snowfall lost from full canopies (Hedstrom & Pomeroy 1998; Pomeroy 1998: 30-40 %)
INTERCEPTED = 0.35
# kg/m3 dry and melting; dry: Verseghy 1991 (10.1002/joc.3370110202), melting: chosen, old firn
MAX_DENSITY = (300.0, 450.0)
SETTLING_PER_DAY = 0.24  # 0.01 an hour (Verseghy 1991)
ROUGHNESS_M = 0.01  # ground roughness length of the depletion curve (Niu & Yang 2007, 10.1029/2007JD008674)
# soil is frozen below -0.5 °C and follows the air over 10 days; 20 cm of snow insulate
FREEZING_C, SOIL_DAYS, INSULATING_M = -0.5, 10.0, 0.2
# soil water by volume, and the time in which rain is forgotten: chosen
FIELD_CAPACITY, WILTING, DRYING_DAYS = 0.40, 0.08, 8.0
TOP_SOIL_MM = 50.0  # that C-band feels


@dataclass
class Snow:
    """The state of a site's snow and soil at the end of a day; arrays (H, W)."""

    land: sim_land.Land
    elevation_m: float  # at which the weather holds
    lapse: float  # K a metre
    swe: np.ndarray = None  # mm of ice
    liquid: np.ndarray = None  # mm of water in the snow
    density: np.ndarray = None  # kg/m3
    age: np.ndarray = None  # days since fresh snow covered it
    wet_days: np.ndarray = None  # days of wetness, of a spell
    soil_c: np.ndarray = None  # °C
    soil_water: np.ndarray = None  # by volume

    def __post_init__(self):
        shape = self.land.elevation.shape
        zero = np.zeros(shape, np.float32)
        self.swe, self.liquid, self.age, self.wet_days = (zero.copy() for _ in range(4))
        self.density = np.full(shape, 100, np.float32)
        self.soil_c, self.soil_water = zero + 8, zero + 0.2
        self.warmer = (self.elevation_m - self.land.elevation) * np.float32(self.lapse)
        self.wetter = sim_weather.wetter(self.land.elevation) / sim_weather.wetter(self.elevation_m)
        self.factor = np.where(self.land.canopy > 0.3, FOREST_MELT_MM, OPEN_MELT_MM).astype(np.float32)
        north = np.sin(np.radians(self.land.slope)) * np.cos(np.radians(self.land.aspect))
        self.sun = (1 - 0.5 * north).astype(np.float32)  # melt on slopes: +-25 % at 30 degrees, chosen
        self.caught = self.land.drift * (1 - INTERCEPTED * self.land.canopy) * self.wetter
        self.no_snow = self.land.cover == sim_land.LAKE  # lakes are masked in every product; theirs stay bare

    def step(self, weather: dict, day_of_year: int) -> None:
        """One day: weather holds temperature_2m_mean, _min, _max (°C) and precipitation_sum (mm)."""
        mean, low, high = (weather[f"temperature_2m_{name}"] + self.warmer for name in ("mean", "min", "max"))
        share = degree_days.snow_share(mean)
        water = np.float32(weather["precipitation_sum"])
        snow = np.where(self.no_snow, 0, water * share * self.caught)
        rain = water * (1 - share) * self.wetter
        fresh_density = 67.9 + 51.3 * np.exp(np.minimum(mean, 0) / 2.6)  # kg/m3 (Hedstrom & Pomeroy 1998)
        total = self.swe + snow
        mix = np.divide(snow, total, out=np.zeros_like(total), where=total > 0)
        self.density = self.density * (1 - mix) + fresh_density * mix
        limit = np.where(self.liquid > 0.01 * self.swe, MAX_DENSITY[1], MAX_DENSITY[0])
        settled = limit - (limit - self.density) * np.float32(np.exp(-SETTLING_PER_DAY))
        self.density = np.maximum(self.density, settled)
        self.age = np.where(snow > 3, 0, self.age + 1)

        old_snow = 0.85 + 0.3 * np.minimum(self.age, 15) / 15  # grains grow, albedo falls: chosen
        melt = self.factor * self.sun * old_snow * positive(low, mean, high)
        melt = np.minimum(total, melt)
        freeze = np.minimum(self.liquid, REFREEZE_MM * positive(-high, -mean, -low))
        self.swe = total - melt + freeze
        self.liquid = self.liquid + melt + np.where(self.swe > 0, rain, 0) - freeze
        held = np.minimum(self.liquid, HOLDING * self.swe)
        runoff, self.liquid = self.liquid - held + np.where(self.swe > 0, 0, rain), held
        gone = self.swe < 0.2
        self.swe, self.liquid = np.where(gone, 0, self.swe), np.where(gone, 0, self.liquid)
        self.wet_days = np.where(self.liquid > 0.02 * self.swe, self.wet_days + 1, self.wet_days * 0.7)
        self.wet_days = np.where(gone, 0, self.wet_days)

        covered = self.depth() > INSULATING_M
        pull = np.where(covered, 0.0, mean)
        self.soil_c = self.soil_c + (pull - self.soil_c) / SOIL_DAYS
        winter = 0.5 + 0.5 * np.cos(2 * np.pi * (day_of_year - sim_weather.COLDEST_DAY) / 365.25)
        dried = self.soil_water - (self.soil_water - WILTING) / (DRYING_DAYS * (1 + 2 * winter))
        self.soil_water = np.clip(dried + runoff / TOP_SOIL_MM * 0.4, WILTING, FIELD_CAPACITY)

    def depth(self) -> np.ndarray:
        """Snow depth in m, over the snow-covered and bare parts of a pixel together."""
        return self.swe / self.density

    def fraction(self) -> np.ndarray:
        """Snow-covered share of the ground (Niu & Yang 2007, equation 4, its exponent 1)."""
        scale = 2.5 * ROUGHNESS_M * np.maximum(1, self.density / 100)
        return np.tanh(self.depth() / scale).astype(np.float32)

    def at_overpass(self, weather: dict, morning: bool) -> dict:
        """What is there at a pass: after the night before this day's step, or in the evening after the step.

        float32 (H, W): snow_fraction, snow_depth (m), liquid_water (volume share of the snow), wet_days,
        snow_age (days), soil_frozen (bool), soil_water (by volume), air_c (°C).
        """
        mean, low, high = (weather[f"temperature_2m_{name}"] + self.warmer for name in ("mean", "min", "max"))
        liquid = self.liquid
        if morning:
            liquid = np.maximum(0, liquid - REFREEZE_MM * positive(-high, -mean, -low))
        depth = self.depth()
        volume = np.divide(liquid, 1000 * depth, out=np.zeros_like(depth), where=depth > 0.01)
        return {
            "snow_fraction": self.fraction(),
            "snow_depth": depth.astype(np.float32),
            "liquid_water": np.clip(volume, 0, 0.1).astype(np.float32),
            "wet_days": self.wet_days.astype(np.float32),
            "snow_age": self.age.astype(np.float32),
            "soil_frozen": self.soil_c < FREEZING_C,
            "soil_water": self.soil_water.astype(np.float32),
            "air_c": (low if morning else mean).astype(np.float32),
        }


def positive(low: np.ndarray, mean: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Degree days above 0 °C of a day whose temperature runs straight between low and high."""
    span = np.maximum(high - low, 0.1)
    part = np.maximum(high, 0) ** 2 / (2 * span)
    return np.where(low >= 0, mean, part).astype(np.float32)
