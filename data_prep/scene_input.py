"""A model's input from a whole scene, window by window: the bands of its contract on one metric grid."""

from pathlib import Path

import numpy as np

from data_prep import degree_days, rasters, references, sar, scenes, terrain
from data_prep.channels import add_computed, assemble, need_weather, planes_by_file
from data_prep.runs import BadInput
from data_prep.snow_index import WATER


class SceneInput:
    """Reads float32 (C, H, W) windows of a scene in the contract's bands and units; NaN = no data.

    site: the scene's site folder, for dem.tif and ref/; None for a lone raster. references: a folder of
    <site>/<orbit>_<rule>*.tif to use in place of ref/. weather: a weather.csv. A geographic grid is read on
    UTM pixels of `resolution_m`. What the contract asks for and the scene lacks is a BadInput that names it.
    """

    def __init__(
        self,
        contract: dict,
        scene: scenes.Scene,
        site: Path | None = None,
        references: Path | None = None,
        units: str | None = None,
        backscatter: str | None = None,
        resolution_m: float = 10,
        weather: Path | None = None,
    ):
        self.contract, self.channels, self.date = contract, tuple(contract["bands"]), scene.date
        path = scene.path
        if contract["units"] != "dB":
            raise BadInput(
                f"{path}: the checkpoint was trained on {contract['units']} pictures, not on backscatter; "
                "train one on triplets, or give it pictures."
            )
        if contract.get("speckle", "none") != "none":
            raise BadInput(
                f"{path}: the checkpoint was trained on radar with a {contract['speckle']} filter, scenes "
                "are not filtered; train one on triplets curated with --speckle none."
            )
        self.raster = rasters.open_radar(path, units, backscatter)
        found = self.raster.tags["backscatter"]
        if found != contract["backscatter"]:
            raise BadInput(
                f"{path}: backscatter {found}, but the checkpoint was trained on {contract['backscatter']}; "
                "they differ by several dB on slopes. Use a scene or a checkpoint of the same kind."
            )
        self.grid = self.raster.grid
        if self.grid.crs.is_geographic:
            self.grid = rasters.utm_grid(self.grid, resolution_m)
        self.orbit = scenes.relative_orbit(self.raster, scene)
        self.latitude = scenes.read_site(site)["latitude"] if site else self.grid.centre()[0]
        self.dem, self.landcover = (
            rasters.open_header(site / name) if site and (site / name).exists() else None
            for name in ("dem.tif", "landcover.tif")
        )
        for raster in filter(None, (self.dem, self.landcover)):
            rasters.need_crs(raster)
        self.weather = degree_days.read_weather(weather).get(scene.site) if weather else None
        need_weather(self.channels, self.weather, path)
        self.planes = planes_by_file(self.channels)
        self.azimuth = None  # where the radar looks, if the local incidence angle is to be computed
        self._need_sar_bands()
        if "dem" in self.planes and not self.dem:
            self._refuse(self.planes["dem"], "dem.tif beside the scenes")
        self.reference = self._open_reference(site, references) if "ref" in self.planes else None

    def _refuse(self, planes, what: str) -> None:
        names = ", ".join(planes)
        raise BadInput(f"{self.raster.path}: the checkpoint needs band {names}, and there is no {what}.")

    def _need_sar_bands(self) -> None:
        """Every band of the SAR file is there, or is an angle that can be computed."""
        names, bands = self.planes.get("sar", []), self.raster.bands
        ellipsoid, local = rasters.ANGLES
        if local in names and local not in bands and ellipsoid in bands and self.dem:
            self.azimuth = scenes.look_azimuth(self.raster, self.latitude)
        computed = () if self.azimuth is None else (local,)
        missing = [name for name in names if name not in (*bands, *computed)]
        if missing:
            raise BadInput(
                f"{self.raster.path}: the checkpoint needs band {', '.join(missing)}; found "
                f"{', '.join(bands)}"
                + (
                    f" ({local} follows from {ellipsoid}, dem.tif and orbit_state)."
                    if local in missing
                    else "."
                )
            )

    def _open_reference(self, site: Path | None, folder: Path | None) -> rasters.Raster:
        folder = folder / site.name if folder and site else site and site / "ref"
        kind = tuple(self.contract.get("reference", ()))
        path = folder and references.choose(folder, self.orbit, self.date, self.latitude, kind)
        if not path:
            rule = kind[0] if kind else "<rule>"
            where = f"ref/{self.orbit}_{rule}.tif beside the scenes that uses dates before {self.date} alone"
            self._refuse(self.planes["ref"], where)
        reference = rasters.open_reference(path, self.raster)
        rasters.need_crs(reference)
        missing = [name for name in self.planes["ref"] if name not in reference.bands]
        if missing:
            raise BadInput(
                f"{path}: the checkpoint needs band {', '.join(missing)}; found {', '.join(reference.bands)}."
            )
        return reference

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        window, planes = self.grid.window(row, col, height, width), {}
        ellipsoid, local = rasters.ANGLES
        names = list(self.planes.get("sar", []))
        if self.azimuth is not None:
            names[names.index(local)] = ellipsoid
        for raster, wanted in ((self.raster, dict.fromkeys(names)), (self.reference, self.planes.get("ref"))):
            if not wanted:
                continue
            values = rasters.read_on(raster, list(wanted), window, "bilinear")
            for name, plane in zip(wanted, values, strict=True):
                in_power = name in rasters.RADAR and raster.units == "linear"
                planes[name] = sar.to_db(plane) if in_power else plane
        if "dem" in self.planes or self.azimuth is not None:
            planes |= scenes.terrain_planes(self.dem, window)
        if self.azimuth is not None:
            angles = planes["slope"], planes["aspect"], planes[ellipsoid]
            planes[local] = terrain.local_incidence_angle(*angles, self.azimuth)
        add_computed(planes, self.channels, (height, width), self.date, self.latitude, self.weather)
        return assemble(self.channels, planes)

    def water(self, row: int, col: int, height: int, width: int) -> np.ndarray | bool:
        """Where landcover.tif has water, on which nothing tells snow; False without the file."""
        if self.landcover is None:
            return False
        window = self.grid.window(row, col, height, width)
        return rasters.read_on(self.landcover, self.landcover.bands[:1], window, "nearest")[0] == WATER

    def elevation(self, row: int, col: int, height: int, width: int) -> np.ndarray | None:
        """Elevation in metres of a window, or None without a DEM."""
        if self.dem is None:
            return None
        window = self.grid.window(row, col, height, width)
        return rasters.read_on(self.dem, self.dem.bands[:1], window, "bilinear")[0]
