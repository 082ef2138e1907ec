"""Snow cover straight from masks: optical masks, truth of simulated sites and tables of maps, in one table.

    python -m data_prep.snow_cover --data runs/default/2_curate --truth runs/default/1_simulate/scenes \\
        --tables runs/default/7_map --out runs/default/8_cover

In: a triplets folder; a scenes folder with <site>/truth; folders with snow_cover.csv. Out: snow_cover.csv
with a row a site, date, source and orbit, and snow_cover_by_elevation.csv where there is elevation.

Source `optical` is the masks of the triplets: the tiles of one site and day summed, and no pixel beside them.
Its date is the radar's, as in triplets.csv, for it stands beside the radar's maps; the optical scene may be
older or younger (gap_hours in triplets.csv), and one that partners two radar scenes counts with each. Source
`truth` is every radar scene of a simulated site: snow where at least half of the ground is under it, over
ground that is known and no water. Rows of --tables keep their source. Choose one with climate_analysis.py
--source.
"""

import sys
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

TABLES = ("snow_cover.csv", "snow_cover_by_elevation.csv")


# ---- from rasters ------------------------------------------------------------------------------------------


def optical_rows(args, chosen, bad: list[str]) -> tuple[list[dict], list[dict]]:
    """Rows of the triplets' masks: whole, and by elevation. One triplet in memory at a time."""
    from data_prep import cover, rasters, triplets

    totals, seen = {}, set()
    for row in runs.progress(chosen.rows, len(chosen.rows), "triplets"):
        key = (row["site"], row["date"][:10], "optical", row["relative_orbit"])
        try:
            place = (*key, row["s1_date"], row["row"], row["col"])
            if place in seen:
                raise BadInput(
                    f"{row['id']}: a second triplet of one tile and radar scene; keep one of them."
                )
            mask, elevation = triplets.read_mask(row), None
            grid = rasters.open_header(row["mask"]).grid
            if row["dem"] is not None:
                dem = rasters.open_header(row["dem"])
                rasters.need_crs(dem)
                elevation = rasters.read_on(dem, dem.bands[:1], grid, "bilinear")[0]
            # Tiles of one day share their pixel: the area is summed by it.
            total = totals.setdefault((key, round(grid.pixel_area_m2(), 3)), {})
            cover.count(total, mask, elevation, args.elevation_step_m)
            seen.add(place)
        except BadInput as error:
            leave_out(args, error, bad)
    sizes = {key for key, _ in totals}
    if len(sizes) < len(totals):
        site, date, *_ = next(key for key, _ in totals if sum(k == key for k, _ in totals) > 1)
        raise BadInput(f"{args.data}: {site} {date} has tiles of different pixel sizes; curate it with one.")
    return to_rows(args, [(key, total, square_m) for (key, square_m), total in totals.items()])


def truth_rows(args, found, bad: list[str]) -> tuple[list[dict], list[dict]]:
    """Rows of the truth of radar scenes: whole, and by elevation. One scene in memory at a time."""
    import numpy as np

    from data_prep import cover, rasters, scenes, truth

    counted, elevations = [], {}
    for site, scene, path in runs.progress(found, len(found), "truth"):
        try:
            radar = rasters.open_header(scene.path)
            rasters.need_crs(radar)
            planes = truth.read_on(path, radar.grid)
            mask = np.where(truth.known(planes), truth.snow(planes), 255).astype(np.uint8)
            if (site / "dem.tif").exists() and (site, radar.grid) not in elevations:
                dem = rasters.open_header(site / "dem.tif")
                rasters.need_crs(dem)
                elevations = {
                    (site, radar.grid): rasters.read_on(dem, dem.bands[:1], radar.grid, "bilinear")[0]
                }
            key, total = (site.name, scene.date, "truth", scenes.relative_orbit(radar, scene)), {}
            cover.count(total, mask, elevations.get((site, radar.grid)), args.elevation_step_m)
            counted.append((key, total, radar.grid.pixel_area_m2()))
        except BadInput as error:
            leave_out(args, error, bad)
    return to_rows(args, counted)


def to_rows(args, counted) -> tuple[list[dict], list[dict]]:
    from data_prep import cover

    whole, by_elevation = [], []
    for key, total, square_m in counted:
        named = dict(zip(cover.KEY, key, strict=True))
        row, bands = cover.rows(named, total, square_m / 1e6, args.elevation_step_m)
        whole.append(row)
        by_elevation += bands
    return whole, by_elevation


def list_truth(folder: Path) -> list[tuple]:
    """(site folder, radar scene, truth file) of every radar scene whose truth is known."""
    from data_prep import scenes, truth

    found = [
        (site, scene, path)
        for site in scenes.list_sites(folder)
        for scene in scenes.list_scenes(site, "s1")
        if (path := truth.find(site, scene.path.stem))
    ]
    if not found:
        raise BadInput(
            f"{folder}: no <site>/truth/<date>.tif of any radar scene; only simulated sites have truth."
        )
    return found


def leave_out(args, error: BadInput, bad: list[str]) -> None:
    if not args.skip_bad:
        raise BadInput(f"{str(error).rstrip('.')}. Mend it, or leave such files out with --skip-bad.")
    runs.say(f"left out: {error}")
    bad.append(str(error))


# ---- from tables -------------------------------------------------------------------------------------------


def table_paths(args) -> list[Path]:
    """The snow cover tables of the --tables folders, those by elevation after their own."""
    paths = []
    for folder in args.tables:
        whole = folder / TABLES[0] if folder.is_dir() else folder
        if not whole.is_file():
            raise BadInput(f"{whole}: no such file; --tables names folders with snow_cover.csv.")
        beside = whole.with_name(f"{whole.stem}_by_elevation.csv")
        paths += [whole, *([beside] if beside.is_file() else [])]
    return paths


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    common = ("--data", "--out", "--config", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *common, data="a triplets folder")
    add = parser.add_argument
    add("--truth", type=Path, metavar="SCENES", help="scenes folder of simulated sites, with <site>/truth")
    add(
        "--tables",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders with snow_cover.csv to take in",
    )
    add("--elevation-step-m", type=int, default=250, metavar="M", help="height of the bands of snow cover")
    add("--skip-bad", action="store_true", help="leave damaged files out, by name, instead of stopping")
    return parser


def main(args) -> int:
    if args.elevation_step_m < 1:
        raise BadInput(f"--elevation-step-m {args.elevation_step_m}: must be positive.")
    paths = table_paths(args)
    run = runs.Run(args, [*runs.triplets_inputs(args.data), *([args.truth] if args.truth else []), *paths])
    if run.finished():
        return runs.DONE
    from data_prep import cover, triplets

    chosen = triplets.read_manifest(args.data)
    if chosen.original or not chosen.rows:
        why = "pictures have neither date nor place" if chosen.original else "it holds no triplet"
        raise BadInput(f"{args.data}: {why}; curate scenes for a table of snow cover.")
    found = list_truth(args.truth) if args.truth else []
    tables = [(path, cover.read_rows(path)) for path in paths]
    named = [(str(path), row) for path, rows in tables for row in rows]
    cover.require_one_each(named)
    if args.dry_run:
        runs.say(
            f"would count {len(chosen.rows)} triplets, {len(found)} scenes of truth, {len(named)} table rows"
        )
        return runs.DONE
    bad, parts = [], {}
    parts[str(args.data)] = optical_rows(args, chosen, bad)
    if found:
        parts[str(args.truth)] = truth_rows(args, found, bad)
    named += [(where, row) for where, both in parts.items() for rows in both for row in rows]
    cover.require_one_each(named)
    rows = sorted(
        (row for _, row in named), key=lambda r: [r[name] for name in cover.KEY] + [r.get(cover.BAND[0], 0)]
    )
    whole, by_elevation = (
        [row for row in rows if (cover.BAND[0] in row) == banded] for banded in (False, True)
    )
    if not whole:
        raise BadInput(f"{args.data}: none of its masks can be read; the first: {bad[0]}")
    run.begin(*TABLES)
    cover.write(args.out, whole, by_elevation)
    sources = {
        source: sum(r["source"] == source for r in whole) for source in sorted({r["source"] for r in whole})
    }
    runs.say(", ".join(f"{count} rows of {source}" for source, count in sources.items()))
    return run.finish(rows=len(whole), sources=sources, left_out=bad)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
