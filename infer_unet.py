"""Map snow with a trained U-Net: score it on triplets, or write masks of whole scenes and a snow-cover table.

    python infer_unet.py --data runs/default/3_split --weights runs/default/4_train/best.pt --out runs/default/5_score
    python infer_unet.py --data data/sample/scenes --weights runs/default/4_train/best.pt --out runs/default/6_map

In: a triplets folder, a folder of scenes, or one GeoTIFF. Out for triplets: mask/, probability/, metrics.json,
per_image.csv, histogram.png, overlays.png, snow_cover.csv. Out for scenes: <site>/<scene>_mask.tif and _probability.tif (Cloud
Optimized GeoTIFFs, no data in = no data out), previews and snow_cover.csv. An interrupted run goes on with the next scene.
"""

import csv
import json
import sys
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

COVER = ("site", "date", "source", "relative_orbit", "valid_pixels", "snow_pixels", "snow_fraction", "snow_area_km2")
ROWS_AT_ONCE = 256  # of a strip, while thresholds are applied and pixels counted
NO_DATA = 255


def snow_cover_row(key: dict, counts: dict) -> dict:
    """One row of snow_cover.csv from valid and snow pixels and the area of a pixel."""
    valid, snow = int(counts["valid_pixels"]), int(counts["snow_pixels"])
    return {**key, "valid_pixels": valid, "snow_pixels": snow, "snow_fraction": snow / valid if valid else None,
            "snow_area_km2": counts["snow_area_km2"]}


def write_csv(path: Path, columns, rows) -> None:
    with runs.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_cover(out: Path, rows: list[dict], by_band: list[dict]) -> None:
    """snow_cover.csv, and the same per elevation band where there is elevation."""
    order = [(r["site"], r["date"], str(r["relative_orbit"])) for r in rows]
    write_csv(out / "snow_cover.csv", COVER, [row for _, row in sorted(zip(order, rows, strict=True), key=lambda p: p[0])])
    if by_band:
        write_csv(out / "snow_cover_by_elevation.csv", (*COVER[:4], "elevation_from_m", "elevation_to_m", *COVER[4:]), by_band)


# ---- triplets --------------------------------------------------------------------------------------------------------

def score_triplets(args, run, predictor, state, threshold: float) -> dict:
    """Predict every triplet of the split, write masks, scores and pictures; returns the figures of the result."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader

    from data_prep import triplets
    from models import metrics

    manifest = triplets.read_manifest(args.data)
    chosen = manifest if args.split == "all" else manifest.of(args.split)
    chosen.rows = chosen.rows[:args.limit]
    if not chosen.rows:
        raise BadInput(f"{args.data}: no triplet in split {args.split!r}; choose another --split or run data_prep.split.")
    contract = state["contract"]
    channels, target = tuple(contract["bands"]), state["target"]
    for row in chosen.rows:
        if row["backscatter"] != contract["backscatter"]:
            raise BadInput(f"{row['id']}: backscatter {row['backscatter']}, but the checkpoint was trained on "
                           f"{contract['backscatter']}; use triplets or a checkpoint of the same kind.")
    triplets.inspect(chosen, channels, target, args.skip_bad, "reading")
    if args.dry_run:
        runs.say(f"would score {len(chosen.rows)} triplets of split {args.split}")
        return {}
    run.begin()
    for folder in ("mask", "probability"):
        (args.out / folder).mkdir(exist_ok=True)
    rows, histogram, batches = chosen.rows, metrics.Histogram(), triplets.batches_by_size(chosen.rows, args.batch)
    dataset = triplets.TripletDataset(rows, channels, target)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=args.workers, worker_init_fn=runs.ignore_signals)
    per_image, cover, area = [], {}, {}
    for images, masks, indices in runs.progress(loader, len(batches), "batches"):
        probabilities = predictor(images).cpu().numpy()
        for index, probability, mask in zip(indices.tolist(), probabilities, masks.numpy(), strict=True):
            row, own = rows[index], metrics.Histogram()
            own.add(probability, mask)
            histogram.snow += own.snow
            histogram.snow_free += own.snow_free
            predicted = predicted_mask(probability, threshold)
            pixel_m2 = write_prediction(args.out, row, probability, predicted, threshold)
            scores = own.at(threshold)
            per_image.append({"id": row["id"], "site": row["site"], "scene": row["s1_date"] or row["id"],
                              "split": row["split"], **scores, "auprc": own.auprc()})
            key = (row["site"], row["date"], "unet", row["relative_orbit"])
            total = cover.setdefault(key, {"valid_pixels": 0, "snow_pixels": 0, "snow_area_km2": 0.0})
            total["valid_pixels"] += (predicted != NO_DATA).sum()
            total["snow_pixels"] += (predicted == 1).sum()
            area[key] = None if pixel_m2 is None else True
            total["snow_area_km2"] += (predicted == 1).sum() * (pixel_m2 or 0) / 1e6
    del torch, np
    summary = histogram.summary(threshold)
    interval = metrics.cluster_bootstrap(per_image, args.seed)
    per_image.sort(key=lambda row: row["id"])
    write_csv(args.out / "per_image.csv", list(per_image[0]), per_image)
    if not manifest.original:
        write_cover(args.out, [snow_cover_row(dict(zip(COVER, key, strict=False)), counts) for key, counts in cover.items()], [])
    runs.write_json(args.out / "metrics.json", {"threshold": threshold, "scores": summary, "interval_95": interval,
                                                "calibration": histogram.calibration()})
    draw(args, rows, per_image, histogram, threshold, summary)
    for name in ("iou", "f1", "precision", "recall", "balanced_accuracy", "mcc", "auprc", "expected_calibration_error"):
        value, low_high = summary[name], interval.get(name)
        runs.say(f"{name:28s}{'null: nothing to score' if value is None else f'{value:.4f}'}"
                 + (f"  [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else ""))
    if not summary["prevalence"] or summary["prevalence"] == 1:
        runs.say(f"split {args.split} has {'no snow' if not summary['prevalence'] else 'nothing but snow'} among "
                 f"{summary['pixels']} labelled pixels: a check of the plumbing, not of skill")
    return {"split": args.split, "triplets": len(rows), "threshold": threshold, "scores": summary, "interval_95": interval,
            "left_out": chosen.bad}


def predicted_mask(probability, threshold: float):
    """uint8 mask 0, 1, 255 from probability (NaN = no data)."""
    import numpy as np

    from models import metrics

    missing = np.isnan(probability)
    return np.where(missing, np.uint8(NO_DATA), metrics.is_snow(np.where(missing, 0, probability), threshold)).astype(np.uint8)


def probability_bytes(probability):
    """Probability as bytes of 0.004, 255 = no data."""
    import numpy as np

    from data_prep.scenes import PROBABILITY_SCALE

    missing = np.isnan(probability)
    return np.where(missing, NO_DATA, np.where(missing, 0, probability) / PROBABILITY_SCALE + 0.5).astype(np.uint8)


def write_prediction(out: Path, row: dict, probability, predicted, threshold: float) -> float | None:
    """Write mask and probability in the triplet's own format; returns the area of a pixel in m2 where it is known."""
    from PIL import Image

    from data_prep import scenes

    if row["sar"].suffix == ".png":
        with runs.atomic(out / "mask" / f"{row['id']}.png") as path:
            Image.fromarray((predicted == 1) * 255).convert("L").save(path, "png")
        return None
    grid = scenes.open_header(row["sar"]).grid
    scenes.write(out / "mask" / f"{row['id']}.tif", predicted[None], ("snow",), grid, NO_DATA, threshold=threshold)
    scenes.write(out / "probability" / f"{row['id']}.tif", probability_bytes(probability)[None], ("snow_probability",), grid,
                 NO_DATA, scale=scenes.PROBABILITY_SCALE)
    return grid.pixel_area_m2()


def draw(args, rows, per_image, histogram, threshold: float, summary: dict) -> None:
    """Histogram and reliability of all pixels; overlays of up to --overlays triplets from the best to the worst."""
    import numpy as np

    from data_prep import pictures, sar, scenes, triplets

    by_id = {row["id"]: row for row in rows}
    ranked = sorted(per_image, key=lambda r: (r["accuracy"] is None, -(r["accuracy"] or 0)))
    places = sorted({round(p) for p in np.linspace(0, len(ranked) - 1, min(args.overlays, len(ranked)))})
    panels = []
    for scores in (ranked[place] for place in places):
        row = by_id[scores["id"]]
        image, mask = triplets.read_pair(row, triplets.check_channels((("grey",) if row["sar"].suffix == ".png" else ("vv",))))
        path = args.out / "mask" / (row["id"] + row["sar"].suffix)
        if row["sar"].suffix == ".png":
            predicted, probability = (scenes.read_png(path) == 255).astype(np.uint8), None
            rgb = scenes.read_png(row["rgb"]) if row["rgb"] else None
        else:
            predicted, probability = (scenes.read(scenes.replace(scenes.open_header(args.out / kind / path.name), nodata=None),
                                                  [band])[0] for kind, band in (("mask", "snow"),
                                                                                ("probability", "snow_probability")))
            probability = np.where(probability == NO_DATA, np.nan, probability * scenes.PROBABILITY_SCALE)
            raster = scenes.open_header(row["rgb"]) if row["rgb"] else None
            rgb = raster and scenes.read(scenes.replace(raster, nodata=None), raster.bands).astype(np.uint8).transpose(1, 2, 0)
        iou = "none" if scores["iou"] is None else f"{scores['iou']:.2f}"
        panels.append({"sar": sar.stretch(image[0], sar.stretch_limits(image[0])), "rgb": rgb, "reference mask": mask,
                       "probability": probability, "errors": pictures.error_colours(mask, predicted),
                       "caption": f"{row['id'][:40]}\nIoU {iou}, accuracy {scores['accuracy'] or 0:.2f}"})
    title = f"U-Net on split {args.split}, threshold {threshold:.3f}"
    pictures.overlays(args.out / "overlays.png", panels, f"{title}: best to worst")
    pictures.probability_histogram(args.out / "histogram.png", histogram.snow, histogram.snow_free, threshold, title,
                                   histogram.calibration())


# ---- scenes ----------------------------------------------------------------------------------------------------------

def list_inputs(args) -> list[dict]:
    """What to map: every radar scene of a scenes folder, or the one raster given."""
    from data_prep import scenes

    if args.data.is_file():
        match = scenes.SCENE_NAME.fullmatch(args.data.name)
        date = scenes.open_header(args.data).tags.get("date", match["date"] if match else "")[:10]
        if not date:
            raise BadInput(f"{args.data}: no date in its name or tags; name it <YYYY-MM-DD>.tif or set the tag 'date'.")
        return [{"site": args.data.parent.parent.name if match else args.data.stem, "path": args.data, "date": date,
                 "orbit": (match and match["orbit"]) or "", "folder": None}]
    return [{"site": scene.site, "path": scene.path, "date": scene.date, "orbit": scene.orbit, "folder": site}
            for site in scenes.list_sites(args.data) for scene in scenes.list_scenes(site, "s1")][:args.limit]


def map_scene(args, predictor, state, item: dict, threshold: float) -> dict:
    """Write mask and probability of one scene and return its rows of snow cover; memory depends on the tile alone."""
    import numpy as np
    import torch

    from data_prep import scene_input, scenes
    from models import tiling

    source = scene_input.SceneInput(item["path"], state["contract"], item["date"], item["orbit"], item["folder"],
                                    args.references, args.units, args.backscatter)
    grid, net = source.grid, predictor.net
    cell, trim = 1 << len(net.up), net.receptive_radius()
    trim += -trim % cell
    blend = cell * 2 if state["arguments"]["norm"] == "group" else 0
    folder = args.out / item["site"]
    folder.mkdir(parents=True, exist_ok=True)
    stem, pixel_km2 = item["path"].stem, grid.pixel_area_m2() / 1e6
    valid = snow = 0
    bands: dict[int, list[int]] = {}
    tags = {"date": item["date"], "threshold": threshold, "relative_orbit": source.orbit, "source": "unet"}
    with scenes.cog_writer(folder / f"{stem}_mask.tif", grid, "uint8", NO_DATA, "snow", "nearest", **tags) as mask_file, \
            scenes.cog_writer(folder / f"{stem}_probability.tif", grid, "uint8", NO_DATA, "snow_probability", "average",
                              scenes.PROBABILITY_SCALE, **tags) as probability_file:
        strips = tiling.predict(source.read, lambda x: predictor(torch.from_numpy(x)[None])[0].cpu().numpy(), grid.height,
                                grid.width, (args.tile, args.tile), trim, blend, cell)
        for top, strip in strips:
            for row in range(0, len(strip), ROWS_AT_ONCE):
                part = strip[row:row + ROWS_AT_ONCE]
                predicted = predicted_mask(part, threshold)
                window = scenes.Window(0, top + row, grid.width, len(part))
                mask_file.write(predicted, 1, window=window)
                probability_file.write(probability_bytes(part), 1, window=window)
                valid += int((predicted != NO_DATA).sum())
                snow += int((predicted == 1).sum())
                if (elevation := source.elevation(top + row, len(part))) is not None:
                    count_by_band(bands, elevation, predicted, args.elevation_step_m)
    del np
    if not valid:
        raise BadInput(f"{item['path']}: no pixel has every band of the checkpoint ({', '.join(source.channels)}).")
    key = {"site": item["site"], "date": item["date"], "source": "unet", "relative_orbit": source.orbit}
    return {"row": snow_cover_row(key, {"valid_pixels": valid, "snow_pixels": snow, "snow_area_km2": snow * pixel_km2}),
            "by_elevation": [snow_cover_row(
                {**key, "elevation_from_m": band, "elevation_to_m": band + args.elevation_step_m},
                {"valid_pixels": v, "snow_pixels": s, "snow_area_km2": s * pixel_km2}) for band, (v, s) in sorted(bands.items())],
            "overhead": tiling.overhead(grid.height, grid.width, (args.tile, args.tile), trim, blend, cell)}


def count_by_band(bands: dict, elevation, predicted, step_m: int) -> None:
    """Add valid and snow pixels to their elevation bands."""
    import numpy as np

    known = (predicted != NO_DATA) & np.isfinite(elevation)
    lower = np.floor(elevation[known] / step_m).astype(int) * step_m
    for band in np.unique(lower):
        inside = predicted[known][lower == band]
        total = bands.setdefault(int(band), [0, 0])
        total[0] += len(inside)
        total[1] += int((inside == 1).sum())


def draw_scene(args, item: dict) -> None:
    """A preview of the scene's radar, probability and mask, from decimated reads."""
    import numpy as np

    from data_prep import pictures, sar, scenes

    folder, stem = args.out / item["site"], item["path"].stem
    mask, probability = (scenes.read(scenes.replace(scenes.open_header(folder / f"{stem}_{kind}.tif"), nodata=None), [band],
                                     max_pixels=600 * 600)[0]
                         for kind, band in (("mask", "snow"), ("probability", "snow_probability")))
    raster = scenes.open_radar(item["path"], args.units, args.backscatter)
    band = next(name for name in scenes.RADAR if name in raster.bands)
    radar = scenes.read(raster, [band], max_pixels=600 * 600)[0]
    radar = sar.to_db(radar) if raster.units == "linear" else radar
    pictures.scene_preview(folder / f"{stem}_preview.png", sar.stretch(radar, sar.stretch_limits(radar)),
                           np.where(probability == NO_DATA, np.nan, probability * scenes.PROBABILITY_SCALE),
                           mask.astype(np.uint8), f"{item['site']} {item['date']}: radar {band} and U-Net")


def map_scenes(args, run, predictor, state, threshold: float) -> dict:
    """Every scene, one after the other; a scene whose record is on disk is not done again."""
    items = list_inputs(args)
    if not items:
        raise BadInput(f"{args.data}: no radar scene in any site's s1 folder.")
    if args.dry_run:
        runs.say(f"would map {len(items)} scenes")
        return {}
    run.begin()
    if args.overwrite:
        for path in args.out.glob("*/*_snow_cover.json"):
            path.unlink()
    stop, rows, by_band, left_out, overhead = runs.StopSignal(), [], [], [], []
    for item in runs.progress(items, len(items), "scenes"):
        record = args.out / item["site"] / f"{item['path'].stem}_snow_cover.json"
        if not record.exists():
            try:
                outcome = map_scene(args, predictor, state, item, threshold)
            except BadInput as error:
                if not args.skip_bad:
                    raise BadInput(f"{str(error).rstrip('.')}. Mend it, or leave such scenes out with --skip-bad.") from None
                runs.say(f"left out: {error}")
                left_out.append(str(error))
                continue
            if args.previews:
                draw_scene(args, item)
            runs.write_json(record, outcome)
        outcome = json.loads(record.read_text(encoding="utf-8"))
        rows.append(outcome["row"])
        by_band += outcome["by_elevation"]
        overhead.append(outcome["overhead"])
        if stop.requested:
            raise runs.Interrupted(f"{len(rows)} of {len(items)} scenes are done.")
    if not rows:
        raise BadInput(f"{args.data}: none of {len(items)} scenes could be mapped; the first: {left_out[0]}")
    write_cover(args.out, rows, by_band)
    return {"scenes": len(rows), "threshold": threshold, "left_out": left_out, "overhead": max(overhead), "snow_cover": rows[:20]}


# ---- the job ---------------------------------------------------------------------------------------------------------

def get_parser():
    parser = runs.get_parser(__doc__, *runs.COMMON, data="triplets folder, scenes folder or one GeoTIFF")
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="PT", help="a checkpoint of train_unet.py")
    add("--split", choices=("train", "val", "test", "all"), default="test", help="of triplets")
    add("--threshold", type=float, metavar="P", help="probability of snow (default: chosen in training on validation)")
    add("--batch", type=int, default=8, metavar="N", help="triplets at once")
    add("--tile", type=int, default=1536, metavar="PX", help="side of a tile of a scene")
    add("--references", type=Path, metavar="DIR", help="folder of <site>/<orbit>_<rule>.tif (default: the site's ref/)")
    add("--elevation-step-m", type=int, default=250, metavar="M", help="height of the bands of snow cover")
    add("--overlays", type=int, default=8, metavar="N", help="triplets shown in overlays.png")
    add("--previews", action="store_true", help="a picture of every scene")
    add("--units", choices=("dB", "linear"), help="of radar files without that tag")
    add("--backscatter", choices=("sigma0", "gamma0", "gamma0_rtc"), help="of radar files without that tag")
    add("--skip-bad", action="store_true", help="leave damaged files out, by name, instead of stopping")
    return parser


def main(args) -> int:
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise BadInput(f"--threshold {args.threshold:g}: a probability lies in 0..1.")
    if args.batch < 1 or args.elevation_step_m < 1 or args.overlays < 1 or args.tile < 16 or args.tile % 16:
        raise BadInput("--batch, --elevation-step-m and --overlays must be positive, --tile a multiple of 16.")
    if not args.data.exists():
        raise BadInput(f"{args.data}: no such file or folder.")
    manifest = args.data / "triplets.csv"
    run = runs.Run(args, [manifest if manifest.exists() else args.data, args.weights])
    if run.finished():
        return runs.DONE
    from models import training

    try:
        state = training.load_checkpoint(args.weights)
        net = training.build_net(state, args.weights)
        device = training.choose_device(args.device)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    if args.workers is None:
        args.workers = min(4, runs.core_count() - 1)
    on_triplets = manifest.exists() or (args.data / "SAR").is_dir()
    dtype = training.choose_precision(device, args.amp)
    predictor = training.Predictor(net, state["contract"], device, dtype)
    threshold = state["threshold"] if args.threshold is None else args.threshold
    figures = (score_triplets if on_triplets else map_scenes)(args, run, predictor, state, threshold)
    return run.finish(**figures, device=str(device), precision=str(predictor.dtype)) if figures else runs.DONE


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
