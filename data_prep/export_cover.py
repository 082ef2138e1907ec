"""Write snow cover tables as NetCDF with CF names, for xarray, Panoply, R and archives.

    python -m data_prep.export_cover --data runs/default/8_cover --sites runs/default/1_simulate/scenes \\
        --out runs/cover_netcdf

In: a folder with snow_cover.csv (and snow_cover_by_elevation.csv), and where its sites lie: a scenes folder
with <site>/site.json, or a sites.csv. Out: snow_cover.nc (and snow_cover_by_elevation.nc), CF-1.11 discrete
sampling geometry of feature type timeSeries: one series a site, source and relative orbit (and band of
elevation), times in days, no data where a series has no row. The figures are the table's own.
"""

import datetime
import sys
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

CONVENTIONS = "CF-1.11"
NAMES = ("snow_cover", "snow_cover_by_elevation")
EPOCH = datetime.date(1970, 1, 1)
MOST_CELLS = (1 << 28) - 1  # of one variable: NetCDF of 64-bit offsets holds less than 2 GiB of doubles
SOURCES = {
    "unet": "unet: U-Net on Sentinel-1 backscatter",
    "optical": "optical: snow index of Sentinel-2 reflectance",
    "truth": "truth: what the simulation knows",
}
REFERENCES = (
    "U-Net: Ronneberger et al. 2015, https://doi.org/10.1007/978-3-319-24574-4_28; snow index: Dozier 1989, "
    "https://doi.org/10.1016/0034-4257(89)90101-6; project: SnowSAR, README.md"
)


# ---- where sites lie ---------------------------------------------------------------------------------------


def site_files(path: Path) -> list[Path]:
    """What places are read from: the sites.csv, or every site.json of a scenes folder."""
    if path.is_dir():
        return sorted(path.glob("*/site.json"))
    if not path.is_file():
        raise BadInput(f"{path}: no such file or folder; --sites names a scenes folder or sites.csv.")
    return [path]


def read_places(path: Path) -> dict[str, dict]:
    """Of each site: latitude and longitude (WGS84 degrees), and source and licence where they are stated."""
    from data_prep import scenes, sites

    if path.is_dir():
        return {folder.name: scenes.read_site(folder) for folder in scenes.list_sites(path)}
    found = sites.read_sites(path)
    return {site.name: {"latitude": site.latitude, "longitude": site.longitude} for site in found}


# ---- one table, one file -----------------------------------------------------------------------------------


def days_since_epoch(path: Path, row: dict) -> int:
    try:
        return (datetime.date.fromisoformat(row["date"]) - EPOCH).days
    except ValueError:
        raise BadInput(
            f"{path}: site {row['site']}, date {row['date']!r}, expected YYYY-MM-DD; mend or write it again."
        ) from None


def arrange(path: Path, rows: list[dict], places: dict[str, dict]) -> tuple[list[tuple], list[int], dict]:
    """Keys of the series (site, source, orbit, [from, to]), days, and arrays (series, day) of each figure."""
    import numpy as np

    from data_prep import cover

    if not rows:
        raise BadInput(f"{path}: holds no row; write it again.")
    cover.require_one_each([(str(path), row) for row in rows])
    banded = cover.BAND[0] in rows[0]
    names = ("site", "source", "relative_orbit", *(cover.BAND if banded else ()))
    keys = sorted({tuple(row[name] for name in names) for row in rows})
    lacking = sorted({key[0] for key in keys} - places.keys())
    if lacking:
        raise BadInput(
            f"{path}: site {lacking[0]!r} is not among the {len(places)} of --sites; name the scenes "
            "folder or sites.csv that has it."
        )
    days = sorted({days_since_epoch(path, row) for row in rows})
    if len(keys) * len(days) > MOST_CELLS:
        raise BadInput(
            f"{path}: {len(keys)} series of {len(days)} days are more than a file takes; export it in parts."
        )
    line, column = ({key: place for place, key in enumerate(of)} for of in (keys, days))
    figures = {name: np.full((len(keys), len(days)), np.nan) for name in cover.FIGURES}
    for row in rows:
        place = line[tuple(row[name] for name in names)], column[days_since_epoch(path, row)]
        for name, values in figures.items():
            values[place] = np.nan if row[name] is None else row[name]
    return keys, days, figures


def write_netcdf(path: Path, keys, days, figures: dict, places: dict[str, dict], history: str) -> None:
    """One NetCDF file of variables (series, time), whole or not at all."""
    import numpy as np
    from scipy.io import netcdf_file

    banded = len(keys[0]) > 3
    label = [f"{key[0]} {key[1]} {key[2] or 'orbit unknown'}" for key in keys]
    if banded:
        label = [f"{text} {key[3]} to {key[4]} m" for text, key in zip(label, keys, strict=True)]
    with runs.atomic(path) as temporary, netcdf_file(temporary, "w", version=2) as file:

        def put(name, dimensions, values, **attributes):
            values = np.asarray(values)
            if values.dtype.kind in "US":  # text: one more dimension, of bytes
                values = np.char.encode(values, "utf-8")
                file.createDimension(f"{name}_length", values.dtype.itemsize)
                values, dimensions = (
                    values.view("S1").reshape(*values.shape, -1),
                    (*dimensions, f"{name}_length"),
                )
                attributes["_Encoding"] = "utf-8"
            variable = file.createVariable(name, values.dtype.char.replace("S", "c"), dimensions)
            for key, value in attributes.items():
                setattr(variable, key, value.encode() if isinstance(value, str) else value)
            variable[:] = values

        def count(name, **attributes):
            values = figures[name]
            whole = np.int32 if np.nanmax(values) <= np.iinfo(np.int32).max else np.float64
            put(
                name, ("series", "time"), np.where(np.isnan(values), -1, values).astype(whole),
                _FillValue=whole(-1), units="1", coordinates=coordinates, **attributes,
            )  # fmt: skip

        file.createDimension("series", len(keys))
        file.createDimension("time", len(days))
        coordinates = "latitude longitude series_id site source relative_orbit" + " elevation" * banded
        put("time", ("time",), np.array(days, np.int32), standard_name="time", axis="T", calendar="standard",
            long_name="day (UTC) of the observation", units=f"days since {EPOCH}",
            units_metadata="leap_seconds: none")  # fmt: skip
        put(
            "series_id", ("series",), label, cf_role="timeseries_id", long_name="site, source, relative orbit"
        )
        put("site", ("series",), [key[0] for key in keys], long_name="name of the site")
        put("source", ("series",), [key[1] for key in keys], long_name="origin of the snow masks")
        put(
            "relative_orbit", ("series",), [key[2] or " " for key in keys],
            long_name="relative orbit of Sentinel-1, blank where not known",
        )  # fmt: skip
        for name, unit in (("latitude", "degrees_north"), ("longitude", "degrees_east")):
            put(name, ("series",), np.array([places[key[0]][name] for key in keys], float), units=unit,
                standard_name=name, long_name=f"{name} of the middle of the site, WGS84")  # fmt: skip
        if banded:
            edges = np.array([key[3:] for key in keys], float)
            file.createDimension("edge", 2)
            put("elevation", ("series",), edges.mean(axis=1), standard_name="surface_altitude", units="m",
                long_name="middle of the band of elevation", bounds="elevation_bounds")  # fmt: skip
            put("elevation_bounds", ("series", "edge"), edges)
        figure = {"_FillValue": np.float64(np.nan), "coordinates": coordinates}
        put("snow_fraction", ("series", "time"), figures["snow_fraction"], units="1", **figure,
            standard_name="surface_snow_area_fraction", long_name="snow pixels a valid pixel",
            cell_methods="time: point area: mean", ancillary_variables="valid_pixels")  # fmt: skip
        put("snow_area", ("series", "time"), figures["snow_area_km2"], units="km2", **figure,
            long_name="area of the snow pixels", cell_methods="time: point area: sum")  # fmt: skip
        count(
            "valid_pixels",
            standard_name="number_of_observations",
            long_name="pixels that are snow or snow-free",
        )
        count("snow_pixels", long_name="pixels that are snow")
        for name, value in global_attributes(keys, places, history, banded).items():
            setattr(file, name, value.encode())


def global_attributes(keys, places: dict[str, dict], history: str, banded: bool) -> dict[str, str]:
    used = [places[name] for name in sorted({key[0] for key in keys})]
    origins, licences = (
        sorted({str(place[name]) for place in used if place.get(name)}) for name in ("source", "licence")
    )
    masks = [SOURCES.get(name, name) for name in sorted({key[1] for key in keys})]
    return {
        "Conventions": CONVENTIONS,
        "featureType": "timeSeries",
        "title": "Snow cover of sites by day" + ", by band of elevation" * banded,
        "source": "; ".join([*masks, *(f"scenes: {origin}" for origin in origins)]),
        "history": history,
        "references": REFERENCES,
        "license": "; ".join(licences) or "not stated",
        "comment": "Fractions are of valid pixels, areas of snow pixels alone: where valid_pixels changes "
        "from day to day, compare fractions. Series of a site differ in the source of masks or in the orbit.",
    }


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    common = ("--data", "--out", "--config", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *common, data="a folder with snow_cover.csv")
    text = "where sites lie: a scenes folder with <site>/site.json, or sites.csv"
    parser.add_argument("--sites", type=Path, required=True, metavar="PATH", help=text)
    return parser


def main(args) -> int:
    tables = [path for path in (args.data / f"{name}.csv" for name in NAMES) if path.is_file()]
    if not tables or tables[0].stem != NAMES[0]:
        raise BadInput(
            f"{args.data / NAMES[0]}.csv: no such file; --data names a folder with snow_cover.csv."
        )
    run = runs.Run(args, [*tables, *site_files(args.sites)])
    if run.finished():
        return runs.DONE
    from data_prep import cover

    places = read_places(args.sites)
    arranged = [arrange(path, cover.read_rows(path), places) for path in tables]
    if args.dry_run:
        runs.say(f"would write {', '.join(f'{path.stem}.nc' for path in tables)}")
        return runs.DONE
    run.begin(*(f"{name}.nc" for name in NAMES))
    now, written = datetime.datetime.now(datetime.UTC), {}
    for path, (keys, days, figures) in zip(tables, arranged, strict=True):
        history = f"{now:%Y-%m-%dT%H:%M:%SZ} python -m data_prep.export_cover: {path.name} to NetCDF"
        write_netcdf(args.out / f"{path.stem}.nc", keys, days, figures, places, history)
        written[f"{path.stem}.nc"] = {"series": len(keys), "days": len(days)}
        runs.say(f"{args.out / path.stem}.nc: {len(keys)} series, {len(days)} days")
    return run.finish(files=written, conventions=CONVENTIONS)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
