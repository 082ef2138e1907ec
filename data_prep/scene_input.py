"""A model's input from a whole scene, window by window: the bands of its contract on one metric grid."""

from pathlib import Path

import numpy as np

from data_prep import rasters, sar, scenes, triplets
from data_prep.runs import BadInput


class SceneInput:
    """Reads float32 (C, H, W) windows of a scene in the contract's bands and units; NaN = no data.

    site: the scene's site folder, for dem.tif and ref/; None for a lone raster. A geographic grid is read on
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
    ):
        self.channels, self.date = tuple(contract["bands"]), scene.date
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
        self.files: dict[str, tuple[rasters.Raster, list[str]]] = {}
        self.orbit = scenes.relative_orbit(self.raster, scene)
        for plane in triplets.planes_needed(self.channels):
            if plane != "season":
                kind = triplets.PLANE_FILE.get(plane, "sar")
                self.files.setdefault(kind, (self._open(kind, plane, site, references), []))[1].append(plane)
        self.dem = rasters.open_header(site / "dem.tif") if site and (site / "dem.tif").exists() else None
        if self.dem:
            rasters.need_crs(self.dem)

    def _open(self, kind: str, plane: str, site: Path | None, references: Path | None) -> rasters.Raster:
        if kind == "sar":
            raster = self.raster
        else:
            folder = references / site.name if references and site else site and site / "ref"
            found = (
                [site / "dem.tif"]
                if kind == "dem" and site
                else sorted((folder or Path("-")).glob(f"{self.orbit}_*.tif"))
            )
            if not found or not found[0].exists():
                name = "dem.tif" if kind == "dem" else f"ref/{self.orbit}_<rule>.tif"
                raise BadInput(
                    f"{self.raster.path}: the checkpoint needs band {plane}, and there is no {kind} file for "
                    f"it ({name} beside the scenes)."
                )
            opened = rasters.open_header(found[0])
            raster = rasters.open_reference(found[0], self.raster) if kind == "ref" else opened
            rasters.need_crs(raster)
        if kind == "dem":
            return rasters.replace(raster, bands=("elevation", *raster.bands[1:]))
        if plane not in raster.bands:
            raise BadInput(
                f"{raster.path}: the checkpoint needs band {plane}; found {', '.join(raster.bands)}."
            )
        return raster

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        window, planes = self.grid.window(row, col, height, width), {}
        for raster, names in self.files.values():
            for name, values in zip(names, rasters.read_on(raster, names, window, "bilinear"), strict=True):
                linear = name in rasters.RADAR and raster.units == "linear"
                planes[name] = sar.to_db(values) if linear else values
        planes["season"] = np.full((height, width), triplets.season_angle(self.date), np.float32)
        return triplets.assemble(self.channels, planes)

    def elevation(self, row: int, col: int, height: int, width: int) -> np.ndarray | None:
        """Elevation in metres of a window, or None without a DEM."""
        if self.dem is None:
            return None
        window = self.grid.window(row, col, height, width)
        return rasters.read_on(self.dem, self.dem.bands[:1], window, "bilinear")[0]
