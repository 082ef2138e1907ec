"""A small archive as a STAC API describes it: COGs of two real and simulated places, and their items.

Place "alps" is simulated: a radar pass in two overlapping frames, an optical pass in two tiles of two UTM
zones, 20 m bands, elevation and land cover in degrees. Place "banff" is real, from ../shared/data/scenes,
with the +1000 offset of newer baselines put on.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from conftest import SHARED, blobs
from rasterio.crs import CRS
from rasterio.shutil import copy
from rasterio.transform import Affine, from_origin
from rasterio.warp import Resampling, reproject, transform_bounds

from data_prep import rasters, sites

BLOCK = 64
ALPS = sites.square_grid(46.9, 10.35, 700)
SITES = "site,latitude,longitude,half_width_m,start,end\n"
ALPS_ROW = "alps,46.9,10.35,480,2021-01-01,2021-12-31\n"
BANFF_ROW = "banff,51.1382,-115.6297,400,2025-04-01,2025-05-31\n"
SOIL = {"B02": 900, "B03": 1100, "B04": 1300, "B08": 2200, "B11": 2600, "SCL": 5}
SNOW = {"B02": 8000, "B03": 7900, "B04": 7800, "B08": 7500, "B11": 900, "SCL": 11}


def cog(path: Path, values: np.ndarray, crs: CRS, transform: Affine, nodata: float | None) -> None:
    """One band as a Cloud Optimized GeoTIFF with 64-pixel blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = {
        "driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": 1,
        "dtype": values.dtype.name, "crs": crs, "transform": transform, "nodata": nodata,
    }  # fmt: skip
    with rasterio.MemoryFile() as memory:
        with memory.open(**draft) as target:
            target.write(values, 1)
        with memory.open() as source:
            copy(source, path, driver="COG", compress="deflate", blocksize=128)


@dataclass
class Archive:
    """A folder of COGs and the items that tell of them; {base} stands for the address of the folder."""

    folder: Path
    features: list = field(default_factory=list)

    def item(self, name: str, collection: str, when: str, assets: dict, **properties) -> None:
        """assets: key -> (file name, array, crs, transform, nodata), or a file name that exists."""
        bounds = []
        links = {}
        for key, what in assets.items():
            file = what if isinstance(what, str) else what[0]
            if not isinstance(what, str):
                cog(self.folder / file, *what[1:])
            links[key] = {"href": "{base}/" + file, "type": "image/tiff"}
            with rasterio.open(self.folder / file) as source:
                crs = source.crs
                bounds.append(transform_bounds(crs or "EPSG:4326", "EPSG:4326", *source.bounds))
        west, south = min(b[0] for b in bounds), min(b[1] for b in bounds)
        east, north = max(b[2] for b in bounds), max(b[3] for b in bounds)
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        about = {"datetime": when, "proj:code": crs.to_string() if crs else None, **properties}
        self.features.append({
            "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name, "links": [],
            "collection": collection, "bbox": [west, south, east, north], "properties": about,
            "geometry": {"type": "Polygon", "coordinates": [ring]}, "assets": links,
        })  # fmt: skip

    def items(self, base: str) -> list[dict]:
        made = []
        for feature in self.features:
            links = {
                k: {**v, "href": v["href"].replace("{base}", base)} for k, v in feature["assets"].items()
            }
            made.append({**feature, "assets": links})
        return made


def radar_values(snow: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear VV and VH, snow 5 dB darker, speckle of 4.4 looks."""
    random = np.random.default_rng(seed)
    level = np.stack([np.where(snow, -13.0, -8.0), np.where(snow, -20.0, -15.0)])
    return tuple((10 ** (level / 10) * random.gamma(4.4, 1 / 4.4, level.shape)).astype(np.float32))


def coarse(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values[::2, ::2])


def warped(values, grid, crs: str, step_m: float, shape, left, top, method) -> np.ndarray:
    target = np.zeros(shape, values.dtype)
    reproject(
        values, target, src_crs=grid.crs, src_transform=grid.transform, src_nodata=0, dst_nodata=0,
        dst_crs=crs, dst_transform=from_origin(left, top, step_m, step_m), resampling=method,
    )  # fmt: skip
    return target


def add_alps(archive: Archive, dates=(10, 22)) -> None:
    """Radar in two frames (rows 0-89 and 70-139), optical in a whole tile and one of the next zone."""
    grid, crs = ALPS, ALPS.crs
    for number, day in enumerate(dates):
        snow = blobs(grid.height, grid.width, 100 + number)
        vv, vh = radar_values(snow, number)
        for frame, rows, second, gain in (("N", slice(0, 90), 0, 1.0), ("S", slice(70, 140), 25, 1.05)):
            where = grid.transform * Affine.translation(0, rows.start)
            folder = f"s1/{day}{frame}"
            archive.item(
                f"S1A_IW_{day}_{frame}_rtc", "sentinel-1-rtc", f"2021-01-{day}T05:30:{second:02d}Z",
                {
                    key: (f"{folder}/{key}.tif", plane[rows] * np.float32(gain), crs, where, -32768)
                    for key, plane in (("vv", vv), ("vh", vh))
                },
                **{"platform": "SENTINEL-1A", "sat:relative_orbit": 44, "sat:orbit_state": "descending"},
            )  # fmt: skip
        half = np.s_[:, :110]  # the tile ends inside the site; the next zone's has the rest
        bands = {name: np.where(snow, SNOW[name], SOIL[name]).astype(np.uint16) for name in SNOW}
        own = {}
        for name, values in bands.items():
            step = 2 if name in ("B11", "SCL") else 1
            values = values[half][::step, ::step].astype(np.uint8 if name == "SCL" else np.uint16)
            own[name] = (f"s2/{day}A/{name}.tif", values, crs, grid.transform * Affine.scale(step), 0)
        about = {"platform": "Sentinel-2A", "s2:processing_baseline": "02.14", "eo:cloud_cover": 4.0}
        when = f"2021-01-{day}T10:15:00Z"
        archive.item(f"S2A_{day}_T32TPT", "sentinel-2-l2a", when, own, **about, **{"s2:mgrs_tile": "32TPT"})
        beside = {}
        west, south, east, north = transform_bounds(crs, "EPSG:32633", *grid.bounds())
        left, top = np.floor(west / 20) * 20, np.ceil(north / 20) * 20
        for name, values in bands.items():
            step = 20 if name in ("B11", "SCL") else 10
            shape = int((top - south) // step), int((east - left) // step)
            method = Resampling.nearest if name == "SCL" else Resampling.bilinear
            out = warped(values, grid, "EPSG:32633", step, shape, left, top, method)
            out = out.astype(np.uint8) if name == "SCL" else out
            beside[name] = (
                f"s2/{day}B/{name}.tif",
                out,
                CRS.from_epsg(32633),
                from_origin(left, top, step, step),
                0,
            )
        archive.item(
            f"S2A_{day}_T33TUN", "sentinel-2-l2a", when, beside, **about, **{"s2:mgrs_tile": "33TUN"}
        )
    add_land(archive, grid, "alps", 800 + 3 * np.add.outer(np.arange(60), np.arange(90)))


def add_land(archive: Archive, grid, name: str, metres: np.ndarray) -> None:
    west, south, east, north = grid.geographic_bounds()
    tall, wide = metres.shape
    where = Affine(
        (east - west + 0.004) / wide, 0, west - 0.002, 0, -(north - south + 0.004) / tall, north + 0.002
    )
    geographic = CRS.from_epsg(4326)
    height = (f"land/{name}_dem.tif", metres.astype(np.float32), geographic, where, None)
    archive.item(f"Copernicus_{name}", "cop-dem-glo-30", "2021-04-22T00:00:00Z", {"data": height})
    for year, code in ((2020, 60), (2021, 30)):
        cover = (f"land/{name}_{year}.tif", np.full((tall, wide), code, np.uint8), geographic, where, 0)
        archive.item(
            f"ESA_WorldCover_{year}_{name}", "esa-worldcover", f"{year}-01-01T00:00:00Z", {"map": cover}
        )


def add_banff(archive: Archive) -> bool:
    """The real place on 2025-04-25; False where the shared scenes are absent."""
    folder = SHARED / "scenes" / "bow-banff"
    if not folder.is_dir():
        return False
    radar = rasters.open_header(folder / "s1" / "2025-04-25.tif")
    vv, vh = (np.nan_to_num(10 ** (plane / 10), nan=-32768) for plane in rasters.read(radar, ("VV", "VH")))
    where, crs = radar.grid.transform, radar.grid.crs
    archive.item(
        "S1A_IW_banff_rtc", "sentinel-1-rtc", "2025-04-25T01:20:00Z",
        {key: (f"s1/banff/{key}.tif", plane, crs, where, -32768) for key, plane in (("vv", vv), ("vh", vh))},
        **{"platform": "sentinel-1a", "sat:relative_orbit": 49, "sat:orbit_state": "ascending"},
    )  # fmt: skip
    optical = rasters.open_header(folder / "s2" / "2025-04-25.tif")
    names = ("B02", "B03", "B04", "B08", "B11")
    values = dict(zip(names, rasters.read(optical, names), strict=True))
    seen = ~np.isnan(np.stack(list(values.values()))).any(axis=0)
    where, crs = optical.grid.transform, optical.grid.crs
    bands = {name: np.where(seen, plane + 1000, 0).astype(np.uint16) for name, plane in values.items()}
    bands["SCL"] = np.where(seen, 5, 0).astype(np.uint8)
    archive.item(
        "S2B_banff", "sentinel-2-l2a", "2025-04-25T18:40:00Z",
        {name: (f"s2/banff/{name}.tif", plane, crs, where, 0) for name, plane in bands.items()},
        **{"platform": "Sentinel-2B", "s2:processing_baseline": "05.11", "eo:cloud_cover": 20.0},
    )  # fmt: skip
    dem = rasters.read(rasters.open_header(folder / "dem.tif"), ("elevation",))[0]
    add_land(archive, optical.grid, "banff", np.nan_to_num(dem, nan=float(np.nanmean(dem)))[::3, ::3])
    return True


def catalog(url: str, signing: str = "none", **changes) -> str:
    """A TOML catalogue of this archive; changes: section_key=value, in TOML's words."""
    sections = {
        "": {"url": f'"{url}"', "signing": f'"{signing}"', "signing_url": f'"{url}/sign"'},
        "s1": {
            "collection": '"sentinel-1-rtc"', "assets": '{ VV = "vv", VH = "vh" }', "units": '"linear"',
            "backscatter": '"gamma0_rtc"', "nodata": "-32768",
        },
        "s2": {
            "collection": '"sentinel-2-l2a"', "nodata": "0",
            "assets": "{ " + ", ".join(f'{name} = "{name}"' for name in SNOW) + " }",
        },
        "dem": {"collection": '"cop-dem-glo-30"', "assets": '{ elevation = "data" }'},
        "landcover": {"collection": '"esa-worldcover"', "assets": '{ landcover = "map" }', "nodata": "0"},
    }  # fmt: skip
    for name, value in changes.items():
        section, _, key = name.partition("_")
        sections[section][key] = value
    lines = []
    for name, settings in sections.items():
        lines += [f"[{name}]"] if name else []
        lines += [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"
