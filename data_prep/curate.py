"""Make SAR/RGB/mask triplets from raw scenes: pair, put on one grid, cut tiles, apply named rules.

    python -m data_prep.curate --data data/sample/scenes --out runs/default/2_curate

In: scenes/<site>/{site.json,s1/*.tif,s2/*.tif,[dem.tif],[landcover.tif],[truth/*.tif]}. Out: triplets.csv,
sar/, rgb/, mask/, [mask_wet/], [dem/], [landcover/], [ref/], rejected.csv, flagged.csv, curation.json,
contact sheets. Interrupted, it goes on where it was. Tasks of an array may share the sites: each adds
--share K/N to the command, and once they are through the command with --collect writes the tables.
"""

import contextlib
import csv
import itertools
import shutil
import sys
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

from data_prep import curation_journal, runs, shares
from data_prep.runs import BadInput

KEPT_TAGS = ("units", "backscatter", "rule", "years", "dates", "product", "date", "source")
OPTIONAL = ("mask_wet", "dem", "landcover")  # folders that go again if nothing is in them
FOLDERS = ("sar", "rgb", "mask", *OPTIONAL, "ref")
DUPLICATE_DB = 0.5  # mean difference over sampled pixels; independent speckle of 4.4 looks differs by 3 dB
SHIFT_PX, SHIFT_RESPONSE = 3.0, 0.15  # found on the sample: true pairs stay below either
SHARES = ("radar_share", "optical_share", "cloud_share", "valid_fraction", "snow_fraction")
REJECTED_COLUMNS = ("site", "s1", "s2", "row", "col", "rule", "reason", "gap_hours", *SHARES)


# ---- one pair ----------------------------------------------------------------------------------------------


def work(task) -> list[dict] | str:
    """Judge every tile of a pair and write the good ones; the records are what the journal keeps.

    A file that cannot be read stops a plain run; of a share it is the pair's outcome, as text.
    """
    from data_prep import pairs

    site, s1, s2, gap, args = task
    names = {"site": site.name, "s1": s1.path.name, "s2": s2.path.name, "gap_hours": gap}
    try:
        pair = pairs.open_pair(site, s1, s2, args)
        boxes = pairs.tiles_of(pair["grid"].height, pair["grid"].width, args.tile)
        return [{**names, **keep_tile(pair, s1, s2, box, args)} for box in boxes]
    except BadInput as error:
        if args.share and not args.skip_bad:
            return str(error)
        if not args.skip_bad:
            raise BadInput(
                f"{str(error).rstrip('.')}. Mend the file, or leave such files out with --skip-bad."
            ) from None
        return [{**names, "rule": "unreadable", "reason": str(error)}]


def keep_tile(pair: dict, s1, s2, box, args) -> dict:
    """Write a tile's files if no rule fails, and return its record."""
    import numpy as np

    from data_prep import pairs, rasters, scenes

    tile = pairs.judge_tile(pair, box, args)
    record = dict(zip(("row", "col", "height", "width"), box, strict=True))
    record |= {name: tile[name] for name in (*SHARES, "rule")}
    record["product"] = pair["radar"].tags.get("product", "")
    if tile["rule"]:
        return {**record, "reason": pairs.RULES[tile["rule"]]}
    name = f"{s1.site}_{s1.path.stem}_{s2.path.stem}_r{box[0]:05d}c{box[1]:05d}"
    grid, tags = tile["grid"], pair["radar"].tags
    dates = {"date": s1.date, "s2_date": s2.date}
    radiometry = {**dates, "units": "dB", "backscatter": tags["backscatter"], "speckle": args.speckle}
    files = {
        "rgb": (tile["rgb"], ("red", "green", "blue"), 0, dates),
        "mask": (tile["mask"][None], ("snow",), 255, {**dates, "index": args.index}),
    }
    if pair["truth"]:
        files["mask_wet"] = (pairs.wet_mask(tile, pair["truth"])[None], ("wet_snow",), 255, dates)
    azimuth = scenes.look_azimuth(pair["radar"], pair["site"]["latitude"])
    for kind, raster in pair["extra"].items():
        label = {name: raster.tags[name] for name in KEPT_TAGS if name in raster.tags}
        if kind == "dem":
            planes = scenes.terrain_planes(raster, grid)
            if pairs.add_local_incidence(tile, planes, azimuth):
                radiometry["local_incidence_angle"] = "computed from DEM"
            files[kind] = (np.stack(list(planes.values())), tuple(planes), np.nan, label)
        elif kind == "landcover":
            cover = np.nan_to_num(rasters.read_on(raster, raster.bands[:1], grid, "nearest"))
            files[kind] = (cover.astype(np.uint8), ("landcover",), 0, label)
        else:
            bands = [band for band in raster.bands if band.endswith("_ref")]
            files[kind] = (rasters.read_on(raster, bands, grid, "bilinear"), bands, np.nan, label)
    files["sar"] = (tile["radar"], tile["bands"], np.nan, radiometry)
    for kind, (array, bands, nodata, label) in files.items():
        rasters.write(args.out / kind / f"{name}.tif", array, bands, grid, nodata, **label)
    latitude, longitude = grid.centre()
    first = tile["radar"][0]
    shift, response = pairs.misregistration(first, tile["nir"]) if min(first.shape) >= 32 else (0.0, 0.0)
    rows, cols = (np.linspace(0, side - 1, 12).astype(int) for side in first.shape)
    return {
        **record,
        "id": name,
        "date": s1.date,
        "s1_date": s1.date + (f"T{s1.time}" if s1.time else ""),
        "s2_date": s2.date + (f"T{s2.time}" if s2.time else ""),
        "platform": tags.get("platform", ""),
        "backscatter": tags["backscatter"],
        "relative_orbit": pair["orbit"],
        "orbit_state": tags.get("orbit_state", ""),
        "latitude": round(latitude, 6),
        "longitude": round(longitude, 6),
        **{kind: f"{kind}/{name}.tif" for kind in files},
        "pixels_db": [round(float(v), 2) for v in first[np.ix_(rows, cols)].ravel()],
        "shift_px": shift,
        "shift_response": response,
    }


# ---- all pairs, and the tables they become -----------------------------------------------------------------


def numbered(args, sites: list[Path]):
    """Yield (number, candidate) of these sites; the numbers are the same whichever sites are asked for."""
    from data_prep import pairs

    names = {site.name for site in sites}
    for number, task in enumerate(itertools.islice(pairs.candidates(args), args.limit)):
        if site_of(task) in names:
            yield number, task


def site_of(task) -> str:
    return task["site"] if isinstance(task, dict) else task[0].name


def process(args, sites: list[Path], weather: dict) -> tuple[int, int, list[str], list[str]]:
    """References of the sites, then their candidates, `--workers` at a time, but nothing that is done.

    Returns how many candidates were done now, how many before, what was left out, and what (of a share) is
    broken.
    """
    from data_prep import references

    places, why = curation_journal.read_journals(args.out)
    numbers = [number for number, _ in numbered(args, sites)]
    todo = {number for number in numbers if number not in places}
    left_out = [why[number] for number in numbers if number in why and number not in todo]
    stop, done, before, spoilt, broken = runs.StopSignal(), 0, len(numbers) - len(todo), {}, []
    for site in sites if args.reference != "none" else []:
        if stop.requested:
            break
        try:
            references.write_site(site, args, weather)
        except BadInput as error:
            if not args.share:
                raise
            spoilt[site.name] = str(error)
    tasks = (item for item in numbered(args, sites) if item[0] in todo)
    workers = runs.core_count() if args.workers is None else args.workers

    def known(task):
        """The outcome of a candidate that takes no work."""
        return spoilt.get(site_of(task)) or ([task] if isinstance(task, dict) else None)

    def outcomes():
        for number, task in tasks:
            if stop.requested:
                return
            yield number, known(task) or work((*task, args))

    def in_parallel():
        with ProcessPoolExecutor(workers, initializer=runs.ignore_signals) as pool:
            running = {}
            for number, task in itertools.chain(tasks, [(None, None)]):
                if task and known(task):
                    yield number, known(task)
                elif task and not stop.requested:
                    running[pool.submit(work, (*task, args))] = number
                while running and (len(running) >= 3 * workers or number is None or stop.requested):
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
                if stop.requested:
                    return

    with curation_journal.new_journal(args.out) as note:
        source = in_parallel() if workers > 1 else outcomes()
        for number, outcome in runs.progress(source, len(todo), "pairs"):
            note(number, outcome)
            if isinstance(outcome, str):
                broken.append(outcome)
            else:
                done, left_out = done + 1, left_out + curation_journal.unreadable(outcome)
    if stop.requested:
        raise runs.Interrupted(f"{before + done} of {runs.counted(len(numbers), 'pair')} done.")
    return done, before, left_out, broken


def drop_repeats(records: list[dict]) -> None:
    """Mark a site's kept records whose radar tile is kept already: other optical date, or second delivery."""
    import numpy as np

    from data_prep import pairs

    kept: dict[tuple, list] = {}

    def best_first(record):
        return abs(record["gap_hours"]), -record["valid_fraction"], record["id"]

    for record in sorted((r for r in records if not r["rule"]), key=best_first):
        ground = round(record["latitude"], 4), round(record["longitude"], 4)
        here = kept.setdefault(ground, [])
        pixels = np.array(record["pixels_db"], float)
        for other, other_pixels in here:
            same = record["s1"] == other["s1"]
            if not same and (
                record["date"] != other["date"]
                or pixels.shape != other_pixels.shape
                or not np.nanmean(np.abs(pixels - other_pixels)) < DUPLICATE_DB
            ):
                continue
            record["rule"] = "superseded" if same else "near-duplicate"
            record["reason"] = f"{pairs.RULES[record['rule']]}: {other['id']}"
            break
        else:
            here.append((record, pixels))


def remove_files(record: dict, out: Path) -> None:
    for kind in FOLDERS:
        if record.get(kind):
            (out / record[kind]).unlink(missing_ok=True)


def write_tables(args, journal: Path, places: dict[int, int]) -> dict:
    """triplets.csv, rejected.csv, flagged.csv, site by site; returns the funnel and the sheets' samples."""
    from data_prep import sheets
    from data_prep.triplets import COLUMNS

    funnel, samples = Counter(), {"kept": [], "rejected": []}
    seen = Counter()
    tables = {
        "triplets": COLUMNS,
        "rejected": REJECTED_COLUMNS,
        "flagged": ("id", "flag", "shift_px", "shift_response"),
    }
    with (
        runs.atomic(args.out / "triplets.csv") as a,
        runs.atomic(args.out / "rejected.csv") as b,
        runs.atomic(args.out / "flagged.csv") as c,
        open(a, "w", newline="", encoding="utf-8") as kept_file,
        open(b, "w", newline="", encoding="utf-8") as rejected_file,
        open(c, "w", newline="", encoding="utf-8") as flagged_file,
    ):
        streams = zip(tables.items(), (kept_file, rejected_file, flagged_file), strict=True)
        writers = {
            name: csv.DictWriter(stream, columns, lineterminator="\n", restval="", extrasaction="ignore")
            for (name, columns), stream in streams
        }
        for writer in writers.values():
            writer.writeheader()
        for records in curation_journal.records_by_site(journal, places):
            drop_repeats(records)
            for record in records:
                funnel[record["rule"] or "kept"] += 1
                if record["rule"]:
                    remove_files(record, args.out)
                    writers["rejected"].writerow(record)
                    group = "rejected"
                else:
                    writers["triplets"].writerow({**record, "split": ""})
                    group = "kept"
                    if record["shift_px"] > SHIFT_PX and record["shift_response"] > SHIFT_RESPONSE:
                        funnel["flagged"] += 1
                        writers["flagged"].writerow({**record, "flag": "suspected misregistration"})
                sheets.sample(samples[group], record, seen, args.sheet)
    return {"funnel": funnel, "samples": samples}


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    from data_prep.snow_index import RULES as INDICES

    parser = runs.get_parser(
        __doc__,
        "--data",
        "--out",
        "--config",
        "--workers",
        "--limit",
        "--overwrite",
        "--dry-run",
        data="folder of scenes, one folder a site",
    )
    add = parser.add_argument
    add("--index", choices=INDICES, default="combined", help="snow index of the masks")
    add(
        "--max-gap-hours",
        type=float,
        default=24,
        metavar="H",
        help="largest gap between radar and optical pass",
    )
    add("--tile", type=int, default=256, metavar="PX", help="side of a tile; smaller sites are one tile")
    add("--resolution-m", type=float, default=10, metavar="M", help="pixel for scenes on a geographic grid")
    add(
        "--max-cloud-share",
        type=float,
        default=0.3,
        metavar="S",
        help="of cloud and shadow in the optical pixels of a tile",
    )
    add(
        "--min-valid-share",
        type=float,
        default=0.5,
        metavar="S",
        help="of a tile with radar, optical data and a label",
    )
    add(
        "--min-class-share",
        type=float,
        default=0.0,
        metavar="S",
        help="of the rarer class in a tile; 0 keeps all-snow and all-bare tiles",
    )
    add(
        "--snow-season",
        type=int,
        nargs=2,
        default=(11, 5),
        metavar=("FIRST", "LAST"),
        help="northern months in which `combined` looks for snow under trees",
    )
    add(
        "--cloud-buffer-px",
        type=int,
        default=2,
        metavar="PX",
        help="margin of no data around clouds, without SCL",
    )
    add(
        "--shadow-reach-px",
        type=int,
        default=40,
        metavar="PX",
        help="how far clouds throw shadow, without SCL",
    )
    add("--speckle", choices=("none", "lee"), default="none", help="filter of the radar")
    add("--speckle-window", type=int, default=7, metavar="PX", help="side of the filter's window, odd")
    add("--looks", type=float, default=4.4, metavar="N", help="equivalent number of looks, for the filter")
    add(
        "--reference",
        choices=("none", "summer", "warm"),
        default="summer",
        help="same-track reference, where the orbit is known: dates by month, or by a mild month before them",
    )
    add(
        "--reference-years",
        choices=("earlier", "all"),
        default="earlier",
        help="earlier: only seasons that were over before a scene; all: its own and later ones too",
    )
    add("--need-reference", action="store_true", help="leave out scenes that have no reference")
    add("--weather", type=Path, metavar="CSV", help="daily temperature of the sites, for --reference warm")
    add("--units", choices=("dB", "linear"), help="units of radar files without that tag")
    add("--backscatter", choices=("sigma0", "gamma0", "gamma0_rtc"), help="of radar files without that tag")
    add("--sheet", type=int, default=24, metavar="N", help="triplets on a contact sheet")
    add("--card", action="store_true", help="write a data-set card with sources, licences and checksums")
    add("--skip-bad", action="store_true", help="leave unreadable files out, by name, instead of stopping")
    shares.add_flags(parser)
    return parser


def check(args) -> None:
    fractions = {
        "--max-cloud-share": args.max_cloud_share,
        "--min-valid-share": args.min_valid_share,
        "--min-class-share": args.min_class_share,
    }
    for flag, value in fractions.items():
        if not 0 <= value <= 1:
            raise BadInput(f"{flag} {value:g}: a share lies in 0..1.")
    if (
        args.tile < 16
        or args.max_gap_hours < 0
        or args.resolution_m <= 0
        or args.looks <= 0
        or args.sheet < 1
    ):
        raise BadInput(
            "--tile must be at least 16, --resolution-m, --looks and --sheet positive, "
            "--max-gap-hours not negative."
        )
    if not all(1 <= month <= 12 for month in args.snow_season):
        raise BadInput(f"--snow-season {args.snow_season[0]} {args.snow_season[1]}: months are 1 to 12.")
    if args.speckle_window < 3 or args.speckle_window % 2 == 0:
        raise BadInput(f"--speckle-window {args.speckle_window}: must be odd and at least 3.")
    if (args.reference == "warm") != (args.weather is not None):
        raise BadInput("--reference warm and --weather CSV need each other.")
    if args.need_reference and args.reference == "none":
        raise BadInput("--need-reference leaves nothing with --reference none; choose summer or warm.")
    if min(args.cloud_buffer_px, args.shadow_reach_px) < 0:
        raise BadInput("--cloud-buffer-px and --shadow-reach-px must not be negative.")


def main(args) -> int:
    from data_prep import card, degree_days, pairs, scenes, sheets

    shares.check(args)
    check(args)
    sites = scenes.list_sites(args.data)
    scenes.leave_out_overlooked(args.data, args.skip_bad)
    mine = shares.mine(sites, args.share)
    if args.data.resolve().is_relative_to(args.out.resolve()):
        raise BadInput(f"{args.out}: holds the scenes; --out names a folder of its own for triplets.")
    run = runs.Run(args, [args.data, *degree_days.files(args.weather)])
    if run.finished():
        return runs.DONE
    weather = degree_days.read_weather(args.weather) if args.weather else {}
    if next(numbered(args, sites), None) is None:
        raise BadInput(f"{args.data}: the sites hold no scene at all (s1/*.tif, s2/*.tif).")
    pairs.need_one_backscatter(args, (task for _, task in numbered(args, mine)))
    if args.dry_run:
        found = [isinstance(task, dict) for _, task in numbered(args, mine)]
        cut, alone = found.count(False), found.count(True)
        there, todo = runs.counted(len(mine), "site"), runs.counted(cut, "pair")
        runs.say(f"{there}, {todo} to cut into tiles, {runs.counted(alone, 'scene')} without a partner")
        return runs.DONE
    if args.overwrite:  # before the new arguments are on record: nothing of the old ones may be gone on from
        for path in args.out.glob("journal*.jsonl"):
            path.unlink()
        for folder in FOLDERS:
            shutil.rmtree(args.out / folder, ignore_errors=True)
    if not args.collect:
        run.begin()
        for folder in FOLDERS:
            (args.out / folder).mkdir(exist_ok=True)
        outcome = process(args, mine, weather)
        if args.share:
            return shares.finish(args.share, *outcome)
    candidates = ((number, site_of(task)) for number, task in numbered(args, sites))
    places = curation_journal.join_journals(args.out, candidates)
    shares.tidy(args.out)
    tables = write_tables(args, args.out / curation_journal.JOURNAL, places)
    for folder in OPTIONAL:
        with contextlib.suppress(OSError):  # it holds something, or it went before
            (args.out / folder).rmdir()
    sheets.draw(args, tables["samples"])
    funnel = tables["funnel"]
    runs.write_json(
        args.out / "curation.json",
        {
            "candidates": sum(n for name, n in funnel.items() if name != "flagged"),
            "kept": funnel["kept"],
            "flagged": funnel["flagged"],
            "rejected": {rule: funnel[rule] for rule in pairs.RULES if funnel[rule]},
            "rules": pairs.RULES,
            "thresholds": run.arguments,
            "versions": runs.versions(),
        },
    )
    if args.card:
        card.write(args.out, sites, run.arguments)
    if not funnel["kept"]:
        raise BadInput(
            f"{args.data}: no candidate passed the rules ({dict(funnel)}); see {args.out / 'rejected.csv'}."
        )
    for rule in pairs.RULES:
        if funnel[rule]:
            runs.say(f"rejected {funnel[rule]:6d}  {rule}: {pairs.RULES[rule]}")
    runs.say(f"kept     {funnel['kept']:6d}  triplets in {args.out}")
    return run.finish(
        kept=funnel["kept"],
        flagged=funnel["flagged"],
        rejected={rule: funnel[rule] for rule in pairs.RULES if funnel[rule]},
    )


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
