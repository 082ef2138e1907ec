"""Map snow with a trained U-Net: score it on triplets, or write masks of whole scenes and a snow-cover table.

    python infer_unet.py --data runs/default/3_split --weights runs/default/4_train/best.pt --out runs/score
    python infer_unet.py --data data/sample/scenes --weights runs/default/4_train/best.pt --out runs/map

In: a triplets folder, a folder of scenes, or one GeoTIFF. Out for triplets: mask/, probability/,
metrics.json, per_image.csv, histogram.png, overlays.png, snow_cover.csv, and strata.csv with strata.png (by
surface, angle, season, as far as the triplets tell). Out for scenes:
<site>/<scene>_mask.tif and _probability.tif (Cloud Optimized GeoTIFFs, no data in = no data out), previews,
snow_cover.csv and styles for QGIS. An interrupted run goes on with the next scene. Tasks of an array share
the scenes: each adds --share K/N to the command; once they are through, --collect writes the table.
"""

import contextlib
import datetime
import json
import sys
from collections import Counter
from pathlib import Path

from data_prep import runs, shares
from data_prep.runs import BadInput

WRITTEN = (
    "metrics.json",
    "per_image.csv",
    "snow_cover*.csv",
    "strata.*",
    "overlays.png",
    "histogram.png",
    "snow_*.qml",
)
PIXELS_AT_ONCE = 1 << 20  # of a block, while thresholds are applied and pixels counted
SHOWN = (
    "iou",
    "f1",
    "precision",
    "recall",
    "balanced_accuracy",
    "mcc",
    "auprc",
    "expected_calibration_error",
)


# ---- triplets ----------------------------------------------------------------------------------------------


def choose_triplets(args, state):
    """The triplets of the split, checked one by one against the checkpoint's contract."""
    from data_prep import triplets

    manifest, contract = triplets.read_manifest(args.data, args.weather), state["contract"]
    chosen = manifest if args.split == "all" else manifest.of(args.split)
    chosen.rows = chosen.rows[: args.limit]
    if not chosen.rows:
        raise BadInput(
            f"{args.data}: split {args.split!r} is empty; choose another --split or run data_prep.split."
        )
    if not chosen.common("backscatter") == contract["backscatter"]:
        raise BadInput(
            f"{args.data}: backscatter {chosen.common('backscatter')}, but the checkpoint was trained on "
            f"{contract['backscatter']}; use triplets or a checkpoint of the same kind."
        )
    triplets.inspect(chosen, tuple(contract["bands"]), state["target"], args.skip_bad, "reading")
    if not chosen.rows:
        raise BadInput(f"{args.data}: none of its triplets can be used; the first: {chosen.bad[0]}")
    return chosen


def predict_triplets(args, chosen, predictor, state, threshold: float):
    """Write all masks and probabilities; returns the tally, a row a triplet, and rows of snow cover."""
    from data_prep import batches, cover, predictions, strata
    from models import metrics

    for folder in ("mask", "probability"):
        (args.out / folder).mkdir(exist_ok=True)
    order = batches.by_size(chosen.rows, args.batch)
    dataset = batches.TripletDataset(chosen.rows, state["contract"]["bands"], state["target"])
    tally, per_image, covers = metrics.Tally(strata.CLASSES, strata.SNOW_ONLY), [], {}
    loader = batches.loader(dataset, order, args.workers)
    for images, masks, indices in runs.progress(loader, len(order), "batches"):
        found = predictor(images).cpu().numpy()
        for index, probability, reference in zip(indices.tolist(), found, masks.numpy(), strict=True):
            row = chosen.rows[index]
            mask, codes = metrics.to_mask(probability, threshold), strata.codes(row, reference.shape)
            scene = row["s1_date"] or row["id"]
            scores = tally.add(row["site"], scene, mask, reference, codes, probability)
            pixel_km2 = predictions.write(args.out, row, probability, mask, threshold=threshold)
            about = {"id": row["id"], "site": row["site"], "scene": scene, "split": row["split"]}
            per_image.append({**about, **scores})
            key = (row["site"], row["date"], "unet", row["relative_orbit"])
            if pixel_km2:
                cover.count(covers.setdefault((key, pixel_km2), {}), mask, None, 1)
    per_image.sort(key=lambda row: row["id"])
    table = [
        cover.rows(dict(zip(cover.KEY, key, strict=True)), total, km2, 1)[0]
        for (key, km2), total in covers.items()
    ]
    return tally, per_image, table


def score_triplets(args, run, predictor, state, threshold: float) -> dict:
    """Predict and judge the triplets of the split; returns the figures of the result."""
    from data_prep import cover, pictures, predictions, qgis_style, reporting, triplets
    from models import metrics

    chosen = choose_triplets(args, state)
    if args.dry_run:
        runs.say(f"would score {runs.counted(len(chosen.rows), 'triplet')} of split {args.split}")
        return {}
    run.begin(*old_files(args.out, *WRITTEN, "mask/*", "probability/*"))
    tally, per_image, table = predict_triplets(args, chosen, predictor, state, threshold)
    histogram, summary = tally.histogram(), tally.scores()
    interval, calibration = metrics.cluster_bootstrap(tally.rows(), args.seed), histogram.calibration()
    if table:
        cover.write(args.out, table, [])
        qgis_style.write(args.out)
    runs.write_csv(args.out / "per_image.csv", list(per_image[0]), per_image)
    scores = {"threshold": threshold, "scores": summary, "interval_95": interval}
    runs.write_json(args.out / "metrics.json", {**scores, "calibration": calibration})
    title = f"U-Net on split {args.split}, threshold {threshold:.3f}{triplets.origin(chosen.rows)}"
    pictures.probability_histogram(
        args.out / "histogram.png", histogram.snow, histogram.snow_free, threshold, title, calibration
    )
    reporting.write_figures(args.out, {"unet": tally.table(args.seed)}, title)
    by_id, panels = {row["id"]: row for row in chosen.rows}, []
    for shown, caption in reporting.best_to_worst(per_image, args.overlays):
        row = by_id[shown["id"]]
        reference, found = triplets.read_mask(row, state["target"]), predictions.read_written(args.out, row)
        panels.append(predictions.panel(row, caption, reference, *found))
    pictures.overlays(args.out / "overlays.png", panels, f"{title}: from best to worst")
    say_scores(args, summary, interval)
    return {"split": args.split, "triplets": len(chosen.rows), **scores, "left_out": chosen.bad}


def say_scores(args, summary: dict, interval: dict) -> None:
    from data_prep import reporting

    for name in SHOWN:
        value, limits = summary[name], interval.get(name)
        text = "null: nothing to score" if value is None else f"{value:.4f}"
        runs.say(f"{name:28s}{text}" + (f"  [{limits[0]:.4f}, {limits[1]:.4f}]" if limits else ""))
    reporting.say_floor(summary)
    reporting.say_everywhere({"the net": summary})
    sizes = (runs.counted(interval[f"{name}s"], name) for name in ("site", "scene"))
    runs.say(f"intervals over {', '.join(sizes)}")
    if summary["prevalence"] in (None, 0, 1):
        what = "nothing but snow" if summary["prevalence"] else "no snow"
        pixels = f"among {runs.counted(summary['pixels'], 'labelled pixel')}"
        runs.say(f"split {args.split} has {what} {pixels}: a check of the plumbing, not of skill")


def old_files(out: Path, *patterns: str) -> list[str]:
    """Files of an earlier run, which --overwrite takes away, so that nothing of it stays beside the new."""
    found = (path for pattern in patterns for path in out.glob(pattern) if path.is_file())
    return [str(path.relative_to(out)) for path in found]


# ---- scenes ------------------------------------------------------------------------------------------------


def list_inputs(args) -> list[tuple]:
    """(scene, site folder or None) to map: every radar scene of a scenes folder, or the one raster given."""
    from data_prep import rasters, scenes

    if not args.data.is_file():
        sites = scenes.list_sites(args.data)
        scenes.leave_out_overlooked(args.data, args.skip_bad)
        return [(scene, site) for site in sites for scene in scenes.list_scenes(site, "s1")][: args.limit]
    match = scenes.SCENE_NAME.fullmatch(args.data.name)
    date = match["date"] if match else rasters.open_header(args.data).tags.get("date", "")[:10]
    try:
        datetime.date.fromisoformat(date)
    except ValueError:
        raise BadInput(
            f"{args.data}: no date in its name or tags; name it <YYYY-MM-DD>.tif or set the tag 'date'."
        ) from None
    site = args.data.resolve().parent.parent
    inside = (site / "site.json").exists()
    name = site.name if inside else args.data.stem
    if not scenes.SAFE_NAME.fullmatch(name):
        raise BadInput(f"{args.data}: {name!r} may hold letters, digits, '.', '_' and '-' only; rename it.")
    return [
        (scenes.Scene(name, args.data, date, "", (match and match["orbit"]) or ""), site if inside else None)
    ]


def open_scene(args, state, scene, site):
    """A scene as the net's input; a BadInput where it does not cover the checkpoint's contract."""
    from data_prep import scene_input

    return scene_input.SceneInput(
        state["contract"], scene, site, args.references, args.units, args.backscatter, weather=args.weather
    )


def any_opens(args, state, items) -> bool:
    for scene, site in items:
        with contextlib.suppress(BadInput):
            open_scene(args, state, scene, site)
            return True
    return False


def map_scene(args, predictor, state, scene, site, threshold: float) -> dict:
    """Write a scene's mask and probability; returns its snow cover. Memory: by tile and scene width alone."""
    import numpy as np
    import torch

    from data_prep import cover, predictions, rasters, triplets
    from models import metrics, tiling

    source = open_scene(args, state, scene, site)
    grid, net, total = source.grid, predictor.net, {}
    cell = 1 << len(net.up)
    trim = net.receptive_radius() + -net.receptive_radius() % cell
    blend = 2 * cell if state["arguments"]["norm"] == "group" else 0
    plan = {"tile": (args.tile, args.tile), "trim": trim, "blend": blend, "multiple": cell}
    try:
        overhead = tiling.overhead(grid.height, grid.width, **plan)
    except ValueError as error:
        raise BadInput(f"--tile {args.tile}: does not suit this net, {error}.") from None
    folder = args.out / scene.site
    folder.mkdir(parents=True, exist_ok=True)
    mask_path, probability_path = (
        folder / f"{scene.path.stem}_{kind}.tif" for kind in ("mask", "probability")
    )
    tags = {"date": scene.date, "threshold": threshold, "relative_orbit": source.orbit, "source": "unet"}
    write_mask = rasters.cog_writer(mask_path, grid, "uint8", 255, "snow", "nearest", **tags)
    write_probability = rasters.cog_writer(
        probability_path, grid, "uint8", 255, "snow_probability", "average", rasters.PROBABILITY_SCALE, **tags
    )

    def probability(tile):
        return predictor(torch.from_numpy(tile)[None])[0].cpu().numpy()

    with write_mask as mask_file, write_probability as probability_file:
        for top, left, block in tiling.predict(source.read, probability, grid.height, grid.width, **plan):
            rows_at_once = max(1, PIXELS_AT_ONCE // block.shape[1])
            for row in range(0, len(block), rows_at_once):
                part = block[row : row + rows_at_once]
                window = top + row, left, *part.shape
                part = np.where(source.water(*window), np.float32(np.nan), part)
                mask = metrics.to_mask(part, threshold)
                mask_file.write(mask, 1, window=rasters.as_window(window))
                probability_bytes = predictions.probability_bytes(part)
                probability_file.write(probability_bytes, 1, window=rasters.as_window(window))
                cover.count(total, mask, source.elevation(*window), args.elevation_step_m)
        if not total[None][0]:
            bands = ", ".join(source.channels)
            raise BadInput(f"{scene.path}: no pixel of land has every band of the checkpoint ({bands}).")
    if args.previews:
        simulated = triplets.origin([source.raster.tags])
        title = f"{scene.site} {scene.date}: radar and U-Net{simulated}"
        predictions.preview(
            folder / f"{scene.path.stem}_preview.png", source.raster, mask_path, probability_path, title
        )
    key = dict(zip(cover.KEY, (scene.site, scene.date, "unet", source.orbit), strict=True))
    whole, bands = cover.rows(key, total, grid.pixel_area_m2() / 1e6, args.elevation_step_m)
    return {"row": whole, "by_elevation": bands, "overhead": overhead}


def record_path(out: Path, scene) -> Path:
    """A scene is done when this file is there: its snow cover, or why it was left out."""
    return out / scene.site / f"{scene.path.stem}_snow_cover.json"


def map_scenes(args, run, items, predictor, state, threshold: float) -> tuple[int, list[str]]:
    """Map the scenes that have no record yet, one after the other; returns how many, and what is broken."""
    ends = ("_snow_cover.*", "_mask.tif", "_probability.tif", "_preview.png")
    run.begin(*old_files(args.out, *WRITTEN, *(f"*/*{end}" for end in ends)))
    stop, mapped, broken, reasons = runs.StopSignal(), 0, [], Counter()
    about = {"device": str(predictor.device), "precision": str(predictor.dtype)}
    for number, (scene, site) in enumerate(runs.progress(items, len(items), "scenes")):
        record = record_path(args.out, scene)
        if stop.requested:
            raise runs.Interrupted(f"{number - len(broken)} of {len(items)} scenes are done.")
        if record.exists() and "left_out" not in json.loads(record.read_text(encoding="utf-8")):
            continue
        try:
            outcome = {**map_scene(args, predictor, state, scene, site, threshold), **about}
        except BadInput as error:
            why = str(error).rstrip(".")
            if not (args.skip_bad or args.share):
                others = [item for item in items if item[0] != scene]
                if any_opens(args, state, others):
                    raise BadInput(f"{why}. Mend it, or leave such scenes out with --skip-bad.") from None
                alike = f". No other scene ({len(others)} tried) can be mapped either" if others else ""
                raise BadInput(f"{why}{alike}.") from None
            reason = why.removeprefix(f"{scene.path}: ")
            reasons[reason] += 1
            if reasons[reason] == 1:
                runs.say(f"{'left out' if args.skip_bad else 'broken'}: {why}")
            record.parent.mkdir(exist_ok=True)
            if not args.skip_bad:
                shares.write_why(record, str(error))
                broken.append(str(error))
                continue
            outcome = {"left_out": str(error)}
        runs.write_json(record, outcome)
        mapped += 1
    for reason, count in reasons.items():
        if count > 1:
            runs.say(f"{'left out' if args.skip_bad else 'broken'}, {count} scenes: {reason}")
    return mapped, broken


def read_records(out: Path, items) -> tuple[list[dict], list[str], dict[str, str]]:
    """What mapping found of every scene, the reasons of those left out, and {scene: why} without a record."""
    outcomes, left_out, absent = [], [], {}
    for scene, _ in items:
        record = record_path(out, scene)
        if not record.exists():
            absent[f"{scene.site}/{scene.path.stem}"] = shares.read_why(record)
            continue
        outcome = json.loads(record.read_text(encoding="utf-8"))
        if "left_out" in outcome:
            left_out.append(outcome["left_out"])
        else:
            outcomes.append(outcome)
    return outcomes, left_out, absent


def collect(args, run, items, threshold: float) -> int:
    """Write the tables and the result from the records of all scenes, whoever mapped them."""
    from data_prep import cover, qgis_style

    outcomes, left_out, absent = read_records(args.out, items)
    if absent:
        raise shares.missing(args.out, "scenes", len(items), absent)
    if not outcomes:
        scenes = runs.counted(len(items), "scene")
        raise BadInput(f"{args.data}: none of {scenes} could be mapped; the first: {left_out[0]}")
    shares.tidy(args.out)
    cover.write(args.out, [o["row"] for o in outcomes], [row for o in outcomes for row in o["by_elevation"]])
    qgis_style.write(args.out)
    overhead = max(outcome["overhead"] for outcome in outcomes)
    about = {
        key: ", ".join(sorted({o[key] for o in outcomes if key in o})) for key in ("device", "precision")
    }
    return run.finish(
        scenes=len(outcomes), threshold=threshold, left_out=left_out, overhead=overhead, **about
    )


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    parser = runs.get_parser(__doc__, *runs.COMMON, data="triplets folder, scenes folder or one GeoTIFF")
    add = parser.add_argument
    add("--weights", type=Path, metavar="PT", help="best.pt of train_unet.py, needed")
    add("--split", choices=("train", "val", "test", "all"), default="test", help="of triplets")
    add(
        "--threshold",
        type=float,
        metavar="P",
        help="probability of snow (default: chosen in training on validation)",
    )
    add("--batch", type=int, default=8, metavar="N", help="triplets at once")
    add("--tile", type=int, default=1600, metavar="PX", help="side of a tile of a scene")
    add(
        "--references",
        type=Path,
        metavar="DIR",
        help="folder of <site>/<orbit>_<rule>.tif (default: the site's ref/)",
    )
    add(
        "--weather",
        type=Path,
        metavar="CSV",
        help="daily weather of the sites, for a net trained with bands of it",
    )
    add("--elevation-step-m", type=int, default=250, metavar="M", help="height of the bands of snow cover")
    add("--overlays", type=int, default=8, metavar="N", help="triplets shown in overlays.png")
    add("--previews", action="store_true", help="a picture of every scene")
    add("--units", choices=("dB", "linear"), help="of radar files without that tag")
    add("--backscatter", choices=("sigma0", "gamma0", "gamma0_rtc"), help="of radar files without that tag")
    add("--skip-bad", action="store_true", help="leave damaged files out, by name, instead of stopping")
    shares.add_flags(parser)
    return parser


def check_weights(path: Path | None) -> None:
    if path is None:
        raise BadInput(
            "--weights: not given; pass the best.pt of a train_unet.py run, as <its --out>/best.pt."
        )
    if path.is_dir():
        inside = path / "best.pt"
        way = (
            f"pass {inside}" if inside.exists() else "it holds no best.pt; choose the --out of train_unet.py"
        )
        raise BadInput(f"--weights {path}: is a folder, expected a checkpoint file; {way}")
    if not path.exists():
        raise BadInput(f"--weights {path}: no such file; train_unet.py writes best.pt into its --out.")


def main(args) -> int:
    shares.check(args)
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise BadInput(f"--threshold {args.threshold:g}: a probability lies in 0..1.")
    if args.batch < 1 or args.elevation_step_m < 1 or args.overlays < 1 or args.tile < 16 or args.tile % 16:
        raise BadInput(
            "--batch, --elevation-step-m and --overlays must be positive, --tile a multiple of 16."
        )
    check_weights(args.weights)
    if not args.data.exists():
        raise BadInput(f"{args.data}: no such file or folder.")
    if args.out.exists() and args.out.samefile(args.data):
        raise BadInput(
            f"{args.out}: holds the input, whose masks would be written over; choose another --out."
        )
    manifest = args.data / "triplets.csv"
    weather = [args.weather, args.weather.with_suffix(".json")] if args.weather else []
    on_triplets = manifest.exists() or (args.data / "SAR").is_dir()
    if (args.share or args.collect) and (on_triplets or args.data.is_file()):
        raise BadInput(f"{args.data}: --share and --collect are for a folder of scenes; leave them out.")
    run = runs.Run(args, [*runs.triplets_inputs(args.data), args.weights, *weather])
    if run.finished():
        return runs.DONE
    items = [] if on_triplets else list_inputs(args)
    mine = shares.mine(items, args.share)
    if not (items or on_triplets):
        raise BadInput(f"{args.data}: no radar scene in any site's s1 folder.")
    from data_prep.channels import check_channels
    from models import training

    try:
        state = training.load_checkpoint(args.weights)
        net = training.build_net(state, args.weights)
        device = training.choose_device("cpu" if args.collect else args.device)
        check_channels(tuple(state["contract"]["bands"]))
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    if args.workers is None:
        args.workers = min(4, runs.core_count() - 1)
    threshold = state["threshold"] if args.threshold is None else args.threshold
    if args.dry_run and not on_triplets:
        todo = len(read_records(args.out, mine)[2])
        what, many = "collect" if args.collect else "map", runs.counted(len(mine), "scene")
        runs.say(f"would {what} {many}, {todo} without a record")
        return runs.DONE
    if args.collect:
        return collect(args, run, items, threshold)
    training.use_huge_pages()
    dtype = training.choose_precision(device, args.amp)
    predictor = training.Predictor(net, state["contract"], device, dtype)
    if on_triplets:
        figures = score_triplets(args, run, predictor, state, threshold)
        about = {"device": str(device), "precision": str(predictor.dtype)}
        return run.finish(**figures, **about) if figures else runs.DONE
    mapped, broken = map_scenes(args, run, mine, predictor, state, threshold)
    if args.share:
        left_out = read_records(args.out, mine)[1]
        return shares.finish(args.share, mapped, len(mine) - mapped - len(broken), left_out, broken)
    return collect(args, run, items, threshold)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
