"""Judge anyone's snow masks against triplets, known truth or snow depths of stations, by one code for all.

    python score_masks.py --data runs/default/3_split --masks unet=runs/default/5_score --out runs/judged

In: folders of GeoTIFF masks in any CRS and resolution. A triplet's mask is <id>.tif (in the folder or its
mask/), or else every mask on its ground whose date (tag `date`, or the first date in its name) is that of the
radar, its time, if any, within an hour; probability/<id>.tif adds AUPRC and calibration. Several methods are
scored on the pixels where all of them and the reference are valid, and the first is compared with each other.
Against stations each row of the table is an observation, and --data only narrows the sites to its split's.
Out: scores.csv, strata.csv, paired.csv, per_image.csv (stations: per_station.csv), metrics.json,
overlays.png, strata.png, histogram_<method>.png. Codes of other products, for one method or for all:

    --masks unet=runs/default/5_score fsc=my/fsc --snow fsc=50-100 --snow-free fsc=0-49
"""

import sys
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

WRITTEN = (
    "scores.csv", "strata.csv", "paired.csv", "per_image.csv", "per_station.csv", "metrics.json",
    "strata.png", "overlays.png",
)  # fmt: skip

# ---- against triplets: their label, or the truth of simulated sites ----------------------------------------


def read_reference(args, row: dict):
    """uint8 (H, W) 0, 1, 255 to judge by, and the stratum codes of its pixels."""
    import numpy as np

    from data_prep import rasters, strata, triplets, truth

    planes = strata.read_truth(row, args.truth) if args.truth else None
    wet = None if planes is None else truth.wet(planes)
    if args.against == "label":
        reference = triplets.read_mask(row, args.target)
    elif planes is None:
        folder = args.truth / row["site"] / "truth"
        raise BadInput(f"{folder}: no truth of {row['s1_date']} for triplet {row['id']}.")
    else:
        radar = rasters.open_header(row["sar"])
        bands = [name for name in rasters.RADAR if name in radar.bands]
        seen = np.isfinite(rasters.read(radar, bands)).all(axis=0) & truth.known(planes)
        snow = wet if args.target == "wet" else truth.snow(planes)
        reference = np.where(seen, snow, 255).astype(np.uint8)
    return reference, strata.codes(row, reference.shape, planes, None if args.target == "wet" else wet)


def read_method(args, masks, row: dict, shape):
    """A method's mask (0, 1, 255) and probability (NaN = none) of a triplet; None where there is no file."""
    from data_prep import foreign_masks
    from models import metrics

    probability = foreign_masks.read(masks, row, shape, "probability")
    if args.threshold is None:
        return foreign_masks.read(masks, row, shape), probability
    return None if probability is None else metrics.to_mask(probability, args.threshold), probability


def judge_triplets(args, run, methods, chosen) -> dict:
    """Score every triplet with every method; returns what `report` needs. One triplet in memory at a time."""
    from data_prep import mask_folders, pictures, predictions, reporting, strata
    from models import metrics

    tallies = {masks.name: metrics.Tally(strata.CLASSES, strata.SNOW_ONLY) for masks in methods}
    sure = {masks.name for masks in methods if mask_folders.has_probabilities(masks, chosen.rows)}
    covered, found, per_image = dict.fromkeys(tallies, 0), dict.fromkeys(tallies, 0), []
    valid = judged = 0
    for row in runs.progress(chosen.rows, len(chosen.rows), "triplets"):
        try:
            reference, codes = read_reference(args, row)
            by_method = {masks.name: read_method(args, masks, row, reference.shape) for masks in methods}
        except BadInput as error:
            leave_out(args, error, chosen.bad)
            continue
        rows, here = reporting.judge_triplet(row, reference, codes, by_method, tallies, sure)
        per_image += rows
        valid += int((reference != 255).sum())
        judged += any(scores["pixels"] for scores in rows)
        for name, (mask, _) in by_method.items():
            found[name], covered[name] = found[name] + (mask is not None), covered[name] + here[name]
    if len(chosen.bad) == len(chosen.rows):
        raise BadInput(f"{args.data}: none of its triplets can be judged; the first: {chosen.bad[0]}")
    for masks in methods:
        require_found(args, masks, found[masks.name], chosen.rows)
    reporting.require_common("--masks", tallies, covered, valid)
    begin(run)
    per_image.sort(key=lambda r: (r["method"] != methods[0].name, r["method"], r["id"]))
    runs.write_csv(args.out / "per_image.csv", list(per_image[0]), per_image)
    by_id, panels = {row["id"]: row for row in chosen.rows}, []
    own = [row for row in per_image if row["method"] == methods[0].name]
    for shown, caption in reporting.best_to_worst(own, args.overlays):
        row = by_id[shown["id"]]
        reference, _ = read_reference(args, row)
        mask, probability = read_method(args, methods[0], row, reference.shape)
        panels.append(predictions.panel(row, caption, reference, mask, probability))
    title = f"{methods[0].name}: {what(args, chosen.rows)}, from best to worst"
    pictures.overlays(args.out / "overlays.png", panels, title)
    coverage = {name: covered[name] / valid if valid else None for name in covered}
    if judged < len(chosen.rows):
        runs.say(
            f"{judged} of {len(chosen.rows)} triplets have a pixel valid in all methods and the reference"
        )
    about = {"with_mask": found, "judged": judged, "title": what(args, chosen.rows)}
    return {"tallies": tallies, "coverage": coverage, **about}


def begin(run) -> None:
    """Open the output folder; with --overwrite the tables and figures of another run go."""
    run.begin(*WRITTEN, *(path.name for path in run.out.glob("histogram_*.png")))


def leave_out(args, error: BadInput, bad: list[str]) -> None:
    if not args.skip_bad:
        more = "" if "--skip-bad" in str(error) else " Mend it, or leave such triplets out with --skip-bad."
        raise BadInput(f"{str(error).rstrip('.')}.{more}")
    runs.say(f"left out: {error}")
    bad.append(str(error))


def require_found(args, masks, found: int, rows: list[dict]) -> None:
    """A method with codes nobody explained, or without any mask of the split, is refused."""
    from data_prep import foreign_masks, mask_folders

    kind = "probability" if args.threshold is not None else "mask"
    if kind == "mask":
        foreign_masks.check_codes(masks)
    if not found:
        row = rows[0]
        day, what, named = (
            (row.get("s1_date") or row.get("date") or "its date")[:10],
            "stations and dates",
            "",
        )
        if "id" in row:
            what, named = "triplets", f"{row['id']}.tif in it and in {kind}/, and for "
        raise BadInput(
            f"{masks.folder}: no {kind} for any of {len(rows)} {what}; looked for {named}GeoTIFFs of {day} "
            f"on that ground, and so on; found {mask_folders.what_lies(masks)}."
        )
    if found < len(rows):
        masks.said.append(f"{masks.name}: has no {kind} for {len(rows) - found} of {len(rows)}")
        runs.say(masks.said[-1])


def what(args, rows) -> str:
    """What was judged by what, for titles."""
    from data_prep import triplets

    kind = {"label": f"{args.target}-snow label", "truth": f"truth of {args.target} snow"}[args.against]
    return f"against the {kind}, split {args.split}{triplets.origin(rows)}"


# ---- against stations --------------------------------------------------------------------------------------


def judge_stations(args, run, methods, rows: list[dict]) -> dict:
    """Score every station and date with every method; returns what `report` needs."""
    import itertools

    import numpy as np

    from data_prep import foreign_masks, reporting, strata
    from models import metrics

    taken = {"snow", *rows[0]} & {masks.name for masks in methods}
    if taken:
        raise BadInput(f"--masks: {taken.pop()!r} is a column of per_station.csv; name it with NAME=DIR.")
    tallies = {masks.name: metrics.Tally(strata.CLASSES, strata.SNOW_ONLY) for masks in methods}
    found, table, visits, judged = dict.fromkeys(tallies, 0), [], [], 0
    for (site, date), here in itertools.groupby(rows, key=lambda row: (row["site"], row["date"])):
        group, read = list(here), {}
        for masks in methods:
            chances = foreign_masks.read_points(masks, date, group, "probability")
            if args.threshold is None:
                classes = foreign_masks.read_points(masks, date, group)
            else:
                classes = metrics.to_mask(chances, args.threshold)
            read[masks.name] = classes, chances
            found[masks.name] += int((classes != 255).sum())
        visits.append((site, date, group, read))
    sure = {name for *_, read in visits for name, (_, p) in read.items() if np.isfinite(p).any()}
    for site, date, group, read in visits:
        depth = np.array([row["depth_m"] for row in group])
        reference = (depth > args.snow_depth_m).astype(np.uint8)
        codes = {"depth": strata.by_edges("depth", depth), "season": strata.season(date, depth.shape)}
        seen = np.all([classes != 255 for classes, _ in read.values()], axis=0)
        judged += int(seen.sum())
        chances = foreign_masks.in_common({name: read[name][1] for name in sure}, depth.shape)
        for name, (classes, _) in read.items():
            judged_by = np.where(seen, reference, 255)
            tallies[name].add(site, date, classes, judged_by, codes, chances.get(name))
        for place, row in enumerate(group):
            marks = {name: None if m[place] == 255 else int(m[place]) for name, (m, _) in read.items()}
            table.append({**row, "snow": int(reference[place]), **marks})
    for masks in methods:
        require_found(args, masks, found[masks.name], rows)
    reporting.require_common("--masks", tallies, found, len(rows))
    begin(run)
    runs.write_csv(args.out / "per_station.csv", list(table[0]), table)
    coverage = {name: count / len(rows) for name, count in found.items()}
    title = f"against snow depth over {args.snow_depth_m:g} m at stations"
    about = {"with_mask": found, "judged": judged, "title": title}
    return {"tallies": tallies, "coverage": coverage, **about}


# ---- the report --------------------------------------------------------------------------------------------


def report(args, tallies, coverage, with_mask, judged, title) -> dict:
    """Write the tables and figures and say the main ones; returns the figures of the result."""
    from data_prep import pictures, reporting
    from models import metrics

    heading = title[0].upper() + title[1:]
    methods, pairs = reporting.write_tables(args.out, tallies, coverage, heading, args.seed, metrics)
    for name, tally in tallies.items():
        methods[name]["with_mask"] = with_mask[name]
        histogram = tally.histogram()
        if methods[name]["scores"]["brier"] is not None:
            calibration = methods[name]["calibration"] = histogram.calibration()
            path, heading = args.out / f"histogram_{name}.png", f"{name}: {title}"
            counts = histogram.snow, histogram.snow_free
            pictures.probability_histogram(path, *counts, args.threshold, heading, calibration)
    about = {"against": args.against, "target": args.target, "split": args.split, "threshold": args.threshold}
    about["judged"] = judged
    about |= {"comparisons": reporting.comparisons(pairs)} if pairs else {}
    figures = {**about, "methods": methods, "paired": [row for row in pairs if row["stratum"] == "all"]}
    runs.write_json(args.out / "metrics.json", {**figures, "paired": pairs})
    return figures


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    common = ("--out", "--config", "--seed", "--limit", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *common)
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH", help="triplets folder (may be left out --against stations)")
    add(
        "--masks",
        nargs="+",
        required=True,
        metavar="[NAME=]DIR",
        help="folders of masks; the first is compared",
    )
    add("--split", choices=("train", "val", "test", "all"), default="test", help="of triplets")
    add("--sample", type=int, metavar="N", help="only N of the split's triplets, chosen by --seed")
    add("--against", choices=("label", "truth", "stations"), default="label", help="what to judge by")
    add("--target", choices=("total", "wet"), default="total", help="total or wet snow, of label and truth")
    add(
        "--truth",
        type=Path,
        metavar="SCENES",
        help="scenes folder with <site>/truth (label: for strata only)",
    )
    add("--stations", type=Path, metavar="CSV", help="site, date, latitude, longitude, depth_m or depth_cm")
    add("--snow-depth-m", type=float, default=0.02, metavar="M", help="at stations, snow is deeper than this")
    codes = {"nargs": "+", "metavar": "[NAME=]CODES"}
    add("--snow", **codes, help="codes of snow: 110, 1,2 or 50-100 (default 1; others are no data)")
    add(
        "--snow-free",
        **codes,
        help="codes of snow-free ground (default 0); stated codes win over a no-data tag",
    )
    layers = "part of the names of the masks to take, of a product with layers: FSCOG"
    add("--layer", nargs="+", metavar="[NAME=]TEXT", help=layers)
    add("--threshold", type=float, metavar="P", help="judge the probabilities at P instead of the masks")
    add("--overlays", type=int, default=8, metavar="N", help="triplets shown in overlays.png")
    add("--skip-bad", action="store_true", help="leave damaged files out, by name, instead of stopping")
    return parser


def check(args) -> None:
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise BadInput(f"--threshold {args.threshold:g}: a probability lies in 0..1.")
    if args.sample is not None and args.sample < 1:
        raise BadInput(f"--sample {args.sample}: must be positive.")
    if args.sample and args.against == "stations":
        raise BadInput("--sample chooses triplets; leave it out --against stations.")
    if args.overlays < 1 or not 0 <= args.snow_depth_m < 15:
        raise BadInput("--overlays must be positive, --snow-depth-m 0 to 15 metres.")
    if args.against == "stations" and args.stations is None:
        raise BadInput("--against stations needs --stations with a CSV of snow depths.")
    if args.against == "stations" and args.target == "wet":
        raise BadInput(
            "--against stations judges total snow: a depth says nothing of wetness; drop --target wet."
        )
    if args.against != "stations" and args.stations:
        raise BadInput("--stations is for --against stations; add it, or leave the stations out.")
    if args.against != "stations" and args.data is None:
        raise BadInput(f"--against {args.against} needs --data with a triplets folder.")
    if args.against == "truth" and args.truth is None:
        raise BadInput("--against truth needs --truth with the scenes folder that holds <site>/truth.")
    for path in (args.data, args.truth, args.stations):
        if path is not None and not path.exists():
            raise BadInput(f"{path}: no such file or folder.")


def choose(args):
    """The triplets of the split, or None without --data."""
    from data_prep import compose, triplets

    if args.data is None:
        return None
    manifest = triplets.read_manifest(args.data)
    chosen = manifest if args.split == "all" else manifest.of(args.split)
    if args.against != "stations":
        chosen.rows = compose.sample(chosen.rows, args.sample, args.seed)[: args.limit]
    if not chosen.rows:
        raise BadInput(f"{args.data}: split {args.split!r} is empty; choose another --split.")
    if args.against == "truth" and chosen.original:
        raise BadInput(f"{args.data}: pictures without coordinates have no truth; use --against label.")
    return chosen


def split_name(text: str) -> tuple[str, str]:
    """NAME=REST as (NAME, REST); without a name ("", text)."""
    name, sign, rest = text.partition("=")
    return (name, rest) if sign and "/" not in name else ("", text)


def main(args) -> int:
    check(args)
    folders = [split_name(text) for text in args.masks]
    inputs = [*(runs.triplets_inputs(args.data) if args.data else ()), args.truth, args.stations]
    run = runs.Run(args, [path for path in (*inputs, *(Path(folder) for _, folder in folders)) if path])
    if run.finished():
        return runs.DONE
    from data_prep import mask_folders, stations

    words = (args.snow, args.snow_free, args.layer)
    pairs = ([split_name(text) for text in texts or ()] for texts in words)
    methods = mask_folders.choose(folders, *pairs, skip_bad=args.skip_bad)
    chosen, empty = choose(args), 0
    if args.against == "stations":
        rows, empty = stations.read(args.stations)
        sites = {row["site"] for row in chosen.rows} if chosen else {row["site"] for row in rows}
        rows = [row for row in rows if row["site"] in sites][: args.limit]
        if not rows:
            raise BadInput(f"{args.stations}: none of its sites is in split {args.split!r} of {args.data}.")
    if args.dry_run:
        count = (
            f"{len(rows)} stations and dates"
            if args.against == "stations"
            else f"{len(chosen.rows)} triplets"
        )
        runs.say(f"would judge {', '.join(masks.name for masks in methods)} on {count}")
        return runs.DONE
    if args.against == "stations":
        figures = report(args, **judge_stations(args, run, methods, rows))
        counts = {"observations": len(rows), "without_depth": empty}
    else:
        figures = report(args, **judge_triplets(args, run, methods, chosen))
        counts = {"triplets": len(chosen.rows)}
    bad = [problem for masks in methods for problem in masks.bad.values()]
    notes = [line for masks in methods for line in masks.said]
    return run.finish(**figures, **counts, left_out=(chosen.bad if chosen else []) + bad, notes=notes)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
