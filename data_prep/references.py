"""Same-track references: mean backscatter of an orbit over dates chosen by calendar, never by label."""

from pathlib import Path

import numpy as np

from data_prep import rasters, sar, scenes
from data_prep.runs import BadInput, say

RULES = {"summer": (7, 8, 9)}  # northern months, six later in the south: the ground at its barest
BLOCK = 1024


def reference_dates(found: list[scenes.Scene], latitude: float, args) -> dict[str, list[scenes.Scene]]:
    """Scenes of each relative orbit whose month belongs to the rule; scenes of unknown orbit give none."""
    months = RULES[args.reference]
    if latitude < 0:
        months = tuple((month + 5) % 12 + 1 for month in months)
    groups: dict[str, list[scenes.Scene]] = {}
    for scene in (scene for scene in found if int(scene.date[5:7]) in months):
        try:
            raster = rasters.open_radar(scene.path, args.units, args.backscatter)
            if orbit := scenes.relative_orbit(raster, scene):
                groups.setdefault(orbit, []).append(scene)
        except BadInput as error:
            if not args.skip_bad:
                raise
            say(f"left out of the reference: {error}")
    return groups


def write_reference(
    path: Path, group: list[scenes.Scene], rule: str, units: str | None, backscatter: str | None
) -> None:
    """Average the scenes in linear power, block by block, on the first's grid; VV_ref and VH_ref in dB."""
    images = [rasters.open_radar(scene.path, units, backscatter) for scene in group]
    first = images[0]
    for raster in images[1:]:
        if raster.tags["backscatter"] != first.tags["backscatter"]:
            raise BadInput(
                f"{raster.path}: backscatter {raster.tags['backscatter']}, but {first.path.name} of the same "
                f"track has {first.tags['backscatter']}; a reference needs one of them."
            )
    bands = [name for name in rasters.RADAR if all(name in raster.bands for raster in images)]
    rasters.need_bands(first, tuple(bands) or rasters.RADAR)
    tags = {
        "units": "dB",
        "backscatter": first.tags["backscatter"],
        "rule": rule,
        "dates": ",".join(scene.date for scene in group),
    }
    with rasters.window_writer(
        path, first.grid, [f"{name}_ref" for name in bands], "float32", np.nan, **tags
    ) as target:
        for row in range(0, first.grid.height, BLOCK):
            for col in range(0, first.grid.width, BLOCK):
                size = min(BLOCK, first.grid.height - row), min(BLOCK, first.grid.width - col)
                block, total, count = first.grid.window(row, col, *size), None, None
                for raster in images:
                    values = rasters.read_on(raster, bands, block, "bilinear")
                    linear = sar.to_linear(values) if raster.units == "dB" else values
                    total, count = sar.running_mean(total, count, linear)
                mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
                target.write(sar.to_db(mean), window=rasters.Window(col, row, size[1], size[0]))


def write_all(sites: list[Path], args) -> None:
    """References of all sites' tracks into <out>/ref/<site>/<orbit>_<rule>.tif; those already there stay."""
    for site in sites:
        latitude = scenes.read_site(site)["latitude"]
        groups = reference_dates(scenes.list_scenes(site, "s1"), latitude, args)
        for orbit, group in groups.items():
            path = args.out / "ref" / site.name / f"{orbit}_{args.reference}.tif"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_reference(path, group, args.reference, args.units, args.backscatter)
