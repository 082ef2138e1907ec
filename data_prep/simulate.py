"""Simulate sites whose snow is known: Sentinel-1 and -2 scenes, terrain, land cover, truth and weather.

    python -m data_prep.simulate --out runs/default/1_simulate

Out: scenes/<site>/{site.json, s1/, s2/, truth/, dem.tif, landcover.tif} as every job reads them, weather.csv
(with the errors of a reanalysis), weather_exact.csv and weather_poor.csv. Everything is a function of --seed;
all files say that they are simulated. An interrupted run goes on with the next site.
"""

import datetime
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

SOURCE = "simulated by SnowSAR data_prep.simulate, seed {seed}; no measurement"
# from late September for a start in July: snow, soil and lagged weather have forgotten their start
SPIN_UP_DAYS = 280
DAWN = {"name": "066", "time": "053000", "orbit_state": "descending", "morning": True}
DUSK = {"name": "015", "time": "171500", "orbit_state": "ascending", "morning": False}
S2_TIME = "102000"
INCIDENCE_DEG = (32.0, 44.0)  # of a site, within IW's 29 to 46
WEST, NORTH, APART_M = 500_000, 5_220_000, 12_000  # UTM 32N: the northern Alps; sites in rows of six
STEP_DB = 1 / 64  # of stored backscatter: files of half the size, far below speckle


def write_site(task) -> str:
    """One site, all its dates; site.json comes last and says that the site is whole."""
    import numpy as np

    from data_prep import rasters, sim_land, sim_optical, sim_radar, sim_snow, terrain

    args, number, name, dates, days, weather, weather_m = task
    folder = args.out / "scenes" / name
    for part in ("s1", "s2", "truth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    seed = int(np.random.SeedSequence([args.seed, number]).generate_state(1)[0])
    random = np.random.default_rng(seed)
    land = sim_land.make(random, number, args.size, terrain.slope_aspect)
    grid = site_grid(number, args.size)
    latitude, longitude = grid.centre()
    product = "simulated"
    rasters.write(folder / "dem.tif", land.elevation[None], ("elevation",), grid, np.nan, product=product)
    rasters.write(folder / "landcover.tif", land.cover[None], ("landcover",), grid, 0, product=product)
    tracks = [geometry(track, land, latitude, random) for track in (DAWN, DUSK)[: args.tracks]]

    def cast_shadow(zenith, azimuth):
        return terrain.layover_shadow(land.elevation, sim_land.PIXEL_M, zenith, (azimuth + 180) % 360) == 2

    snow, wanted = sim_snow.Snow(land, weather_m, args.lapse_k_per_km / 1000), set(dates)
    for index, day in enumerate(days):
        today = {key: float(values[index]) for key, values in weather.items()}  # as float32 arrays stay so
        of_year = int((day - day.astype("datetime64[Y]")).astype(int)) + 1
        if day not in wanted:
            snow.step(today, of_year)
            continue
        before = snow.at_overpass(today, morning=True)
        snow.step(today, of_year)
        after = snow.at_overpass(today, morning=False)
        for track in tracks:
            state = before if track["morning"] else after
            own = np.random.default_rng([seed, index, track["morning"]])
            power = sim_radar.backscatter(land, state, track["local"], of_year, own)
            values = sim_radar.observe(
                power, track["local"], track["incidence"], track["hidden"], args.looks, args.backscatter, own
            )
            values = (np.floor(values / STEP_DB) + 0.5) * STEP_DB  # never 0, which reads as no data
            stem = f"{day}T{track['time']}_{track['name']}"
            rasters.write(
                folder / "s1" / f"{stem}.tif",
                np.concatenate([values, track["incidence"][None]]).astype(np.float32),
                ("VV", "VH", "incidence_angle"), grid, np.nan,
                units="dB", backscatter=args.backscatter, product=product, platform=product, date=str(day),
                relative_orbit=track["name"], orbit_state=track["orbit_state"], looks=args.looks,
            )  # fmt: skip
            truth = np.stack(
                [
                    np.round(state["snow_fraction"] * 256) / 256,
                    np.round(state["liquid_water"] * 4096) / 4096,
                    np.round(state["snow_depth"] * 256) / 256,
                    land.cover,
                    track["hidden"],
                ]
            ).astype(np.float32)
            rasters.write(
                folder / "truth" / (f"{stem}.tif" if args.tracks > 1 else f"{day}.tif"), truth,
                ("snow_fraction", "liquid_water", "snow_depth", "landcover", "layover_shadow"), grid, np.nan,
                product=product, date=str(day),
            )  # fmt: skip
        bands = sim_optical.scene(
            land, before, latitude, of_year, today["precipitation_sum"] > 1, cast_shadow, args.cloud_share,
            np.random.default_rng([seed, index, 2]),
        )  # fmt: skip
        rasters.write(
            folder / "s2" / f"{day}T{S2_TIME}.tif", bands, (*sim_optical.BANDS, "SCL"), grid, 0,
            units="reflectance*10000", offset=0, product=product, platform=product, date=str(day),
        )  # fmt: skip
    about = {
        "site": name, "latitude": round(latitude, 6), "longitude": round(longitude, 6), "kind": land.kind,
        "source": SOURCE.format(seed=args.seed), "licence": "MIT",
    }  # fmt: skip
    runs.write_json(folder / "site.json", about)
    return name


def site_grid(number: int, size: int):
    """North-up 10 m pixels of site `number`; sites do not touch."""
    from rasterio.crs import CRS
    from rasterio.transform import from_origin

    from data_prep import rasters, sim_land

    apart = max(APART_M, 2 * size * sim_land.PIXEL_M)
    west, north = WEST + number % 6 * apart, NORTH - number // 6 * apart
    transform = from_origin(west, north, sim_land.PIXEL_M, sim_land.PIXEL_M)
    return rasters.Grid(CRS.from_epsg(32632), transform, size, size)


def geometry(track: dict, land, latitude: float, random) -> dict:
    """The track with its angles (H, W) and what it cannot see at a site."""
    import numpy as np

    from data_prep import sim_land, terrain

    look = terrain.look_azimuth(latitude, track["orbit_state"])
    rows, cols = np.mgrid[: len(land.elevation), : len(land.elevation)]
    ahead = np.sin(np.radians(look)) * cols - np.cos(np.radians(look)) * rows
    incidence = random.uniform(*INCIDENCE_DEG) + 0.07e-3 * sim_land.PIXEL_M * ahead  # 17 degrees over 250 km
    incidence = incidence.astype(np.float32)
    local = terrain.local_incidence_angle(land.slope, land.aspect, incidence, look)
    hidden = terrain.layover_shadow(land.elevation, sim_land.PIXEL_M, incidence, look)
    return {**track, "incidence": incidence, "local": local, "hidden": hidden}


# ---- weather -----------------------------------------------------------------------------------------------


def make_weather(args, days) -> list[tuple[dict, float]]:
    """Of each site: the daily series that drives its snow, and the elevation at which it holds."""
    import numpy as np

    from data_prep import sim_land, sim_weather

    made = []
    given = read_given(args.weather, days) if args.weather else None
    for number in range(args.sites):
        if given:
            made.append(given[number % len(given)])
            continue
        random = np.random.default_rng([args.seed, number, 7])
        lowest, highest = sim_land.KINDS[sim_land.ORDER[number % len(sim_land.ORDER)]][0]
        elevation = round(random.uniform(lowest, highest + 300))
        latitude = site_grid(number, args.size).centre()[0]
        made.append((sim_weather.generate(random, days, latitude, elevation), float(elevation)))
    return made


def read_given(path: Path, days) -> list[tuple[dict, float]]:
    """Series of the sites of a weather table, which must cover all days without a gap."""
    import numpy as np

    from data_prep import degree_days

    names = ("temperature_2m_mean", "temperature_2m_min", "temperature_2m_max", "precipitation_sum")
    found = []
    for site, series in degree_days.read_weather(path, names).items():
        at = np.searchsorted(series["dates"], days)
        last = len(series["dates"]) - 1
        there = (at <= last) & (series["dates"][np.minimum(at, last)] == days)
        chosen = {name: np.asarray(series[name], float)[np.where(there, at, 0)] for name in names}
        whole = there & np.all([np.isfinite(values) for values in chosen.values()], axis=0)
        if not whole.all():
            raise BadInput(
                f"{path}: site {site} has no complete weather on {(~whole).sum()} of {len(days)} days, "
                f"the first {days[~whole][0]}; the series must run from {days[0]} "
                f"({SPIN_UP_DAYS} days before --start) to {days[-1]}."
            )
        mean, low, high, _ = chosen.values()
        if not ((low <= mean) & (mean <= high)).all():
            day = days[np.flatnonzero(~((low <= mean) & (mean <= high)))[0]]
            raise BadInput(f"{path}: site {site} {day}: expected minimum <= mean <= maximum temperature.")
        found.append((chosen, series["elevation_m"]))
    if not found:
        raise BadInput(f"{path}: has no site; expected daily weather to drive the snow with.")
    return found


def write_weather(args, names, days, made) -> None:
    """weather.csv as a user would have it, and the same exact and poor, each with its JSON."""
    import numpy as np

    from data_prep import sim_weather

    for level, errors in sim_weather.ERRORS.items():
        path = args.out / ("weather.csv" if level == "reanalysis" else f"weather_{level}.csv")
        rows = []
        for number, (name, (series, _)) in enumerate(zip(names, made, strict=True)):
            random = np.random.default_rng([args.seed, number, 8])
            known = sim_weather.with_errors(random, series, level)
            columns = {key: np.round(values, 3).tolist() for key, values in known.items()}
            rows += [
                {"site": name, "date": str(day), **{key: values[index] for key, values in columns.items()}}
                for index, day in enumerate(days)
            ]
        runs.write_csv(path, list(rows[0]), rows)
        about = {
            "model": f"given by {args.weather.name}" if args.weather else "simulated",
            "source": SOURCE.format(seed=args.seed), "timezone": "UTC",
            "errors": {"level": level, "values": errors},
            "units": {key: unit for key, unit in sim_weather.UNITS.items() if key in rows[0]},
            "sites": {
                name: {"elevation_m": height, "latitude": round(site_grid(number, args.size).centre()[0], 6)}
                for number, (name, (_, height)) in enumerate(zip(names, made, strict=True))
            },
        }  # fmt: skip
        runs.write_json(path.with_suffix(".json"), about)


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    flags = ("--out", "--config", "--seed", "--workers", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *flags)
    add, number = parser.add_argument, {"type": int, "metavar": "N"}
    add("--sites", **number, default=36, help="places, each with ground and weather of its own")
    add("--size", type=int, default=256, metavar="PX", help="side of a site, 10 m pixels")
    add("--years", type=float, default=3, metavar="Y", help="of passes, from --start on")
    first = "a summer first gives references from the start"
    add("--start", default="2019-07-01", metavar="DATE", help=first)
    add("--interval-days", **number, default=12, help="between passes of a track")
    add("--tracks", type=int, choices=(1, 2), default=1, help="1: at dawn; 2: in the evening too")
    add("--looks", type=float, default=4.4, help="equivalent number of looks of the speckle (GRD: 4.4)")
    kinds = "sigma0: as measured; gamma0_rtc: corrected for slopes"
    add("--backscatter", choices=("sigma0", "gamma0_rtc"), default="sigma0", help=kinds)
    add("--lapse-k-per-km", type=float, default=5.4, metavar="K", help="of temperature with height")
    clouds = "of every optical scene (default: by the day's weather)"
    add("--cloud-share", type=float, metavar="S", help=clouds)
    add("--weather", type=Path, metavar="CSV", help="drive the snow with this weather.csv (and its .json)")
    return parser


def check(args):
    """The dates of passes and the days of weather (datetime64[D]); BadInput for what cannot be simulated."""
    import numpy as np

    try:
        start = np.datetime64(datetime.date.fromisoformat(args.start), "D")
    except ValueError:
        raise BadInput(f"--start {args.start}: no date; expected YYYY-MM-DD.") from None
    if min(args.sites, args.interval_days) < 1 or args.size < 32 or not 0 < args.years <= 100:
        raise BadInput("--sites and --interval-days must be positive, --size at least 32, --years in 0..100.")
    if not 0.5 <= args.looks <= 1000:
        raise BadInput(f"--looks {args.looks:g}: speckle has 0.5 to 1000 looks; a GRD pixel has 4.4.")
    if not 0 <= args.lapse_k_per_km <= 10:
        raise BadInput(
            f"--lapse-k-per-km {args.lapse_k_per_km:g}: expected 0 to 10 K/km, "
            "positive where it is colder above."
        )
    if args.cloud_share is not None and not 0 <= args.cloud_share <= 1:
        raise BadInput(f"--cloud-share {args.cloud_share:g}: a share lies in 0..1.")
    end = start + np.timedelta64(round(args.years * 365.25), "D")
    dates = np.arange(start, end, np.timedelta64(args.interval_days, "D"))
    if len(dates) < 2:
        raise BadInput(
            f"--years {args.years:g} with --interval-days {args.interval_days}: "
            f"leaves {len(dates)} date; take more."
        )
    return dates, np.arange(start - np.timedelta64(SPIN_UP_DAYS, "D"), end)


def main(args) -> int:
    inputs = [args.weather, args.weather.with_suffix(".json")] if args.weather else []
    run = runs.Run(args, inputs)
    if run.finished():
        return runs.DONE
    dates, days = check(args)
    scenes = args.sites * len(dates)
    if args.dry_run:
        radar = scenes * args.tracks
        runs.say(f"would simulate {radar} radar and {scenes} optical scenes at {args.sites} sites")
        return runs.DONE
    names = [f"sim-{number:02d}" for number in range(args.sites)]
    made = make_weather(args, days)
    if args.overwrite:  # before the new arguments are on record: no scene of the old ones may stay
        shutil.rmtree(args.out / "scenes", ignore_errors=True)
    run.begin()
    write_weather(args, names, days, made)
    tasks = [
        (args, number, name, dates, days, *made[number])
        for number, name in enumerate(names)
        if not (args.out / "scenes" / name / "site.json").exists()
    ]
    stop, done = runs.StopSignal(), args.sites - len(tasks)
    workers = runs.core_count() if args.workers is None else args.workers
    for _ in runs.progress(work(tasks, workers, stop), len(tasks), "sites"):
        done += 1
    if done < args.sites:
        raise runs.Interrupted(f"{done} of {args.sites} sites are done.")
    runs.say(f"{args.sites} simulated sites with {len(dates)} dates each in {args.out / 'scenes'}")
    return run.finish(sites=args.sites, dates=len(dates), radar=scenes * args.tracks, optical=scenes)


def work(tasks, workers: int, stop):
    """Yield the names of finished sites; after a stop signal the sites begun are finished, no other is."""
    if workers < 2:
        for task in tasks:
            if stop.requested:
                return
            yield write_site(task)
        return
    with ProcessPoolExecutor(workers, initializer=runs.ignore_signals) as pool:
        futures = [pool.submit(write_site, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
            if stop.requested:
                pool.shutdown(cancel_futures=True)
                return


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
