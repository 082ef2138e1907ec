"""Sites of interest: sites.csv, and the one grid on which everything of a site lies."""

import csv
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform

from data_prep.rasters import Grid
from data_prep.runs import BadInput
from data_prep.scenes import SAFE_NAME

PIXEL_M = 10
HALF_WIDTHS_M = (100, 100_000)
UTM_LATITUDES = (-80, 84)  # where UTM is defined (DMA TM 8358.2)
COLUMNS = ("site", "start", "end")


@dataclass(frozen=True)
class Site:
    """A row of sites.csv: a place in WGS84 degrees, a period with both ends included, and its 10 m grid.

    geometry_file: the GeoJSON file beside the table that the grid was made of, if one was.
    """

    name: str
    latitude: float
    longitude: float
    start: datetime.date
    end: datetime.date
    grid: Grid
    geometry_file: Path | None = None

    def bbox(self) -> tuple[float, float, float, float]:
        """West, south, east, north in WGS84 degrees."""
        return self.grid.geographic_bounds()


def read_sites(path: Path) -> list[Site]:
    """The sites of a sites.csv in order of the file; the first row that cannot be is a BadInput.

    Columns: site, start, end (YYYY-MM-DD), and latitude, longitude, half_width_m or geometry (a GeoJSON file
    beside the table, whose bounds are taken).
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a readable CSV file ({error}).") from None
    missing = [name for name in COLUMNS if name not in names]
    if missing or not ("geometry" in names or {"latitude", "longitude", "half_width_m"} <= set(names)):
        raise BadInput(
            f"{path}: columns {', '.join(names) or 'none'}; expected site, latitude, longitude, half_width_m "
            "(or geometry), start, end."
        )
    if not rows:
        raise BadInput(f"{path}: names no site.")
    sites = [read_row(path, line, {k: (v or "").strip() for k, v in row.items() if k}) for line, row in rows]
    twice = [site.name for site in sites if [other.name for other in sites].count(site.name) > 1]
    if twice:
        raise BadInput(f"{path}: site {twice[0]!r} stands twice; a site has one row.")
    return sites


def read_row(path: Path, line: int, row: dict[str, str]) -> Site:
    where = f"{path}, line {line}"
    if not SAFE_NAME.fullmatch(row["site"]):
        raise BadInput(
            f"{where}: site {row['site']!r}; a name may hold letters, digits, '.', '_' and '-' only."
        )
    try:
        start, end = (datetime.date.fromisoformat(row[key]) for key in ("start", "end"))
    except ValueError:
        raise BadInput(
            f"{where}: start {row['start']!r} and end {row['end']!r}; expected dates YYYY-MM-DD."
        ) from None
    if end < start:
        raise BadInput(f"{where}: start {start} lies after end {end}; exchange them.")
    geometry_file = Path(path).parent / row["geometry"] if row.get("geometry") else None
    if geometry_file:
        west, south, east, north = geometry_bounds(path, where, row["geometry"])
        latitude, longitude = (south + north) / 2, (west + east) / 2
        need_place(where, latitude, longitude)
        grid = covering_grid(latitude, longitude, (west, south, east, north))
        if max(grid.height, grid.width) * PIXEL_M > 2 * HALF_WIDTHS_M[1]:
            raise BadInput(f"{where}: the geometry is over {2 * HALF_WIDTHS_M[1] // 1000} km wide; split it.")
    else:
        try:
            latitude, longitude, half = (float(row[k]) for k in ("latitude", "longitude", "half_width_m"))
        except (ValueError, KeyError):
            raise BadInput(
                f"{where}: latitude, longitude and half_width_m must be numbers, or geometry name a file."
            ) from None
        need_place(where, latitude, longitude)
        if not HALF_WIDTHS_M[0] <= half <= HALF_WIDTHS_M[1]:
            raise BadInput(
                f"{where}: half_width_m {half:g}, expected {HALF_WIDTHS_M[0]} to {HALF_WIDTHS_M[1]}."
            )
        grid = square_grid(latitude, longitude, half)
    site = Site(row["site"], latitude, longitude, start, end, grid, geometry_file)
    west, _, east, _ = site.bbox()
    if west >= east or east - west > 180:
        raise BadInput(f"{where}: site {site.name} crosses the 180th meridian; make two sites of it.")
    return site


def need_place(where: str, latitude: float, longitude: float) -> None:
    if not (UTM_LATITUDES[0] <= latitude <= UTM_LATITUDES[1] and -180 <= longitude <= 180):
        raise BadInput(
            f"{where}: latitude {latitude:g}, longitude {longitude:g}; expected degrees in "
            f"{UTM_LATITUDES[0]}..{UTM_LATITUDES[1]} and -180..180 (are they exchanged?)."
        )


def geometry_bounds(path: Path, where: str, name: str) -> tuple[float, float, float, float]:
    """West, south, east, north of a GeoJSON file that lies beside the table."""
    if Path(name).name != name:
        raise BadInput(f"{where}: geometry {name!r}; expected the name of a GeoJSON file beside {path.name}.")
    try:
        table = json.loads((Path(path).parent / name).read_text(encoding="utf-8"))
        points = list(coordinates(table))
        west, east = min(x for x, _ in points), max(x for x, _ in points)
        south, north = min(y for _, y in points), max(y for _, y in points)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{where}: {name} is no readable GeoJSON geometry ({error!r}).") from None
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise BadInput(
            f"{where}: {name} spans {west:g}..{east:g}, {south:g}..{north:g}; expected WGS84 degrees."
        )
    return west, south, east, north


def coordinates(part):
    """Every (longitude, latitude) of a GeoJSON object."""
    if isinstance(part, list):
        if len(part) >= 2 and all(isinstance(number, int | float) for number in part):
            yield float(part[0]), float(part[1])
        else:
            for inner in part:
                yield from coordinates(inner)
        return
    for key in ("features", "geometries", "geometry", "coordinates"):
        if part.get(key) is not None:
            yield from coordinates(part[key])


def utm(latitude: float, longitude: float) -> CRS:
    """The UTM zone of a place, with the wide zones of south-west Norway and Svalbard (DMA TM 8358.2)."""
    zone = int((longitude + 180) // 6) % 60 + 1
    if 56 <= latitude < 64 and 3 <= longitude < 12:
        zone = 32
    if latitude >= 72 and 0 <= longitude < 42:
        zone = 31 + 2 * int((longitude + 3) // 12)  # 31, 33, 35, 37: bounds at 9, 21 and 33 degrees
    return CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def square_grid(latitude: float, longitude: float, half_width_m: float) -> Grid:
    """The 10 m UTM grid around a place, its corners on whole tens of metres."""
    crs = utm(latitude, longitude)
    (x,), (y,) = transform("EPSG:4326", crs, [longitude], [latitude])
    half = round(half_width_m / PIXEL_M)
    left, top = (round(x / PIXEL_M) - half) * PIXEL_M, (round(y / PIXEL_M) + half) * PIXEL_M
    return Grid(crs, from_origin(left, top, PIXEL_M, PIXEL_M), 2 * half, 2 * half)


def covering_grid(latitude: float, longitude: float, bounds: tuple[float, float, float, float]) -> Grid:
    """The smallest such grid that covers bounds in degrees (west, south, east, north)."""
    crs = utm(latitude, longitude)
    west, south, east, north = bounds
    steps = [i / 20 for i in range(21)]
    edge = [(west + s * (east - west), y) for s in steps for y in (south, north)]
    edge += [(x, south + s * (north - south)) for s in steps for x in (west, east)]
    xs, ys = transform("EPSG:4326", crs, [x for x, _ in edge], [y for _, y in edge])
    left, top = int(min(xs) // PIXEL_M) * PIXEL_M, -int(-max(ys) // PIXEL_M) * PIXEL_M
    width, height = -int(-(max(xs) - left) // PIXEL_M), -int(-(top - min(ys)) // PIXEL_M)
    return Grid(crs, from_origin(left, top, PIXEL_M, PIXEL_M), max(1, height), max(1, width))
