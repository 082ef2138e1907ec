"""Map snow with Segment Anything, prompted from every source, and judge it beside the U-Net in one table.

    python run_sam.py --data runs/default/3_split --sample 48 --unet runs/default/5_score \\
        --weights data/weights/mobile-sam.safetensors --grid-points 8 --out runs/sam

In: a triplets folder and weights of SAM (vit_b, vit_l, vit_h or MobileSAM's vit_t). --image says whether SAM
sees the radar, stretched by its whole scene, or the RGB. A triplet is read whole, and one larger than --tile
is mapped in tiles. Sources of prompts:

    oracle-points oracle-box           from the truth: an upper bound, no result
    grid                               SAM's automatic masks, kept where most of them is snow to Otsu's cut
    otsu-box otsu-points               radar: darker than Otsu's threshold; RGB: brighter
    unet-points unet-box unet-mask     from infer_unet's output, --unet; the mask goes with its points

Out: <source>/mask/<id>.tif and <source>/probability/<id>.tif, scores.csv, strata.csv, paired.csv,
per_image.csv, metrics.json, strata.png, overlays_<source>.png. A probability is the logistic of SAM's logit:
an order, not calibrated. An image whose cue is empty is mapped snow-free and counted. Embeddings are kept in
--cache (4 MiB an image); an interrupted run goes on with the next triplet. Tasks of an array may share the
triplets: each adds --share K/N to the command, and after them the command with --collect writes the tables.
"""

import json
import sys
import time
from pathlib import Path

from data_prep import runs, shares
from data_prep.runs import BadInput

TABLES = ("scores.csv", "strata.csv", "paired.csv", "per_image.csv", "metrics.json", "strata.png")
EMBEDDING_FORMAT = 2  # one more when what is encoded or kept changes: embeddings on disk are then made again
THRESHOLD = 0.5  # of the probability: SAM's own, logit 0
KINDS = ("mask", "probability")


# ---- what is to be mapped ----------------------------------------------------------------------------------


def choose_sources(args) -> list[str]:
    """Names of the sources asked for, or all that need no more than was given."""
    from models import prompts

    unknown = [name for name in args.prompts or () if name not in prompts.SOURCES]
    if unknown:
        raise BadInput(f"--prompts {' '.join(unknown)}: unknown; there are {', '.join(prompts.SOURCES)}.")
    names = [name for name in prompts.SOURCES if name in (args.prompts or prompts.SOURCES)]
    needy = [name for name in names if prompts.SOURCES[name][0] == "unet"]
    if needy and args.prompts and not args.unet:
        raise BadInput(f"--prompts {' '.join(needy)}: need --unet with what infer_unet.py wrote of the data.")
    return [name for name in names if args.unet or name not in needy]


def add_otsu(args, row: dict, picture, valid, cues: dict) -> None:
    """The cue "otsu" of what SAM sees: the radar's first band in dB, an 8-bit picture, or RGB."""
    import numpy as np

    from data_prep import compose, triplets
    from models import prompts

    if args.image == "rgb":
        cues["otsu"] = prompts.optical_cue(picture, valid)
    elif row["sar"].suffix == ".png":
        cues["otsu"] = prompts.grey_cue(picture[..., 0].astype(np.float32))
    else:
        band = triplets.read_image(row, compose.COMPOSE[args.compose][:1])[0]
        cues["otsu"] = np.where(valid, prompts.radar_cue(band), np.uint8(255))


# ---- maps --------------------------------------------------------------------------------------------------


def encode_missing(args, net, dtype, tiles: dict, stop) -> dict:
    """Make the embeddings that are not in the cache; tiles: file -> picture. Returns file -> seconds."""
    import torch

    from data_prep import embeddings
    from models import sam

    missing, seconds = [path for path in tiles if embeddings.load(path) is None], {}
    for start in range(0, len(missing), args.batch):
        if stop.requested:
            raise runs.Interrupted
        part = missing[start : start + args.batch]
        frames = torch.stack([sam.frame(tiles[path]) for path in part])
        began = time.perf_counter()
        found = sam.encode(net, frames, dtype).cpu()
        took = time.perf_counter() - began
        if not found.isfinite().all():
            fix = "run with --amp off" if dtype else "its weights are damaged, fetch them again"
            raise BadInput(f"{args.weights}: its embeddings are not finite in {dtype or 'float32'}; {fix}.")
        for path, embedding in zip(part, found.numpy(), strict=True):
            embeddings.save(path, embedding)
            seconds[path] = took / len(part)
    return seconds


def embedding_parts(args, net, dtype) -> tuple:
    """What an embedding depends on, beside the picture."""
    from importlib.metadata import version

    from models import sam

    weights = sam.weights_hash(args.weights, net.model, args.seed), net.model
    timm = version("timm") if net.model == "vit_t" else None
    return EMBEDDING_FORMAT, *weights, str(dtype), net.device.type, version("torch"), timm


def map_triplet(args, net, row: dict, sources, plan, files, picture, valid, unet) -> dict:
    """Write a triplet's mask and probability by every source; returns its record. files: of embeddings."""
    import torch

    from data_prep import embeddings, predictions, sam_input
    from models import metrics, prompts, sam_maps

    name = {source: prompts.label(source, args.keep, is_random(args)) for source in sources}
    cues = sam_input.read_cues(args, row, picture, unet)
    add_otsu(args, row, picture, valid, cues)
    found = (torch.from_numpy(embeddings.load(path)) for path in files)
    asking = sam_maps.Asking(args.points, args.boxes, args.grid_points, args.keep, f"{args.seed} {row['id']}")
    logits, asked, seconds = sam_maps.map_image(net, plan, found, sources, cues, asking)
    for source in sources:
        probability = sam_maps.probability(logits[source], valid)
        mask = metrics.to_mask(probability, THRESHOLD)
        tags = {"threshold": THRESHOLD, "source": name[source], "sam": net.provenance}
        predictions.write(args.out / source, row, probability, mask, **tags)
    about = {"model": net.model, "provenance": net.provenance, "device": str(net.device)}
    return {"id": row["id"], "tiles": len(files), "decoder_seconds": seconds, "prompts": asked, **about}


def map_triplets(args, net, dtype, rows, limits, sources, unet, stop) -> None:
    """Masks, probabilities and records of all triplets; those on disk are not made again."""
    from data_prep import embeddings, sam_input
    from models import sam_maps

    known = embedding_parts(args, net, dtype)
    cache = args.cache or args.out / "embeddings"
    for folder in (cache, args.out / "records", *(args.out / s / k for s in sources for k in KINDS)):
        folder.mkdir(parents=True, exist_ok=True)
    count = 0
    batches = [rows[start : start + args.batch] for start in range(0, len(rows), args.batch)]
    for batch in runs.progress(batches, len(batches), "batches"):
        done = {row["id"]: read_record(args, row, sources) for row in batch}
        todo, tiles = [], {}
        for row in batch:
            if not done[row["id"]] or "left_out" in done[row["id"]]:
                picture, valid = sam_input.read_picture(args, row, limits)
                plan = sam_maps.tiles(valid.shape, args.tile)
                parts = [picture[window] for window, _ in plan]
                files = [cache / f"{embeddings.key(*known, part)}.npy" for part in parts]
                tiles |= dict(zip(files, parts, strict=True))
                todo.append((row, plan, files, picture, valid))
        made = encode_missing(args, net, dtype, tiles, stop)
        for row, plan, files, picture, valid in todo:
            if stop.requested:
                raise runs.Interrupted(f"{count} of {len(rows)} triplets are done.")
            record = map_triplet(args, net, row, sources, plan, files, picture, valid, unet)
            own = [made.pop(file) for file in files if file in made]  # equal pictures are encoded once
            record |= {"encoded": len(own), "encoder_seconds": sum(own), "precision": str(dtype or "float32")}
            runs.write_json(record_path(args, row["id"]), record)
        count += len(batch)


def record_path(args, name: str) -> Path:
    return args.out / "records" / f"{name}.json"


def read_record(args, row: dict, sources) -> dict | None:
    """The record of a triplet that is done, or that was left out for its `left_out`."""
    path = record_path(args, row["id"])
    if not path.exists():
        return None
    end = ".png" if row["sar"].suffix == ".png" else ".tif"
    record = json.loads(path.read_text(encoding="utf-8"))
    masks = [args.out / source / "mask" / f"{row['id']}{end}" for source in sources]
    return record if "left_out" in record or all(mask.exists() for mask in masks) else None


def recorded(args, rows, sources) -> tuple[list[dict], dict[str, str]]:
    """(triplets that are mapped, {id: problem} of those left out); Failed where records lack."""
    found = {row["id"]: read_record(args, row, sources) for row in rows}
    absent = {name: shares.read_why(record_path(args, name)) for name, record in found.items() if not record}
    if absent:
        raise shares.missing(args.out, "triplets", len(rows), absent)
    problems = {name: record["left_out"] for name, record in found.items() if "left_out" in record}
    return [row for row in rows if row["id"] not in problems], problems


# ---- the table ---------------------------------------------------------------------------------------------


def judge(args, rows, records, methods: dict) -> dict:
    """Tally and coverage of every method, on the pixels valid in all of them and in the reference.

    methods: name -> its folder of masks. Writes per_image.csv.
    """
    from data_prep import foreign_masks, mask_folders, reporting, strata, triplets
    from models import metrics

    tallies = {name: metrics.Tally(strata.CLASSES, strata.SNOW_ONLY) for name in methods}
    sure = {name for name, masks in methods.items() if mask_folders.has_probabilities(masks, rows)}
    covered, valid, per_image = dict.fromkeys(methods, 0), 0, []
    for row, record in zip(rows, records, strict=True):
        reference = triplets.read_mask(row, args.target)
        shape = reference.shape
        read = {n: [foreign_masks.read(m, row, shape, kind) for kind in KINDS] for n, m in methods.items()}
        codes = strata.codes(row, shape)
        scores, here = reporting.judge_triplet(row, reference, codes, read, tallies, sure)
        asked = {name: record["prompts"].get(masks.folder.name) for name, masks in methods.items()}
        asked |= {"unet": None}
        for one in scores:
            some = asked[one["method"]]
            per_image.append({**one, "prompts": None if some is None else len(some)})
        valid += int((reference != 255).sum())
        covered = {name: covered[name] + here[name] for name in methods}
    reporting.require_common(f"{args.data}, methods {', '.join(methods)}", tallies, covered, valid)
    order = list(methods)
    per_image.sort(key=lambda found: (order.index(found["method"]), found["id"]))
    runs.write_csv(args.out / "per_image.csv", list(per_image[0]), per_image)
    coverage = {name: covered[name] / valid for name in methods}
    return {"tallies": tallies, "coverage": coverage, "per_image": per_image}


def report(args, tallies, coverage, title: str) -> dict:
    """Write the tables and their figure; returns what result.json holds of every method."""
    from data_prep import reporting
    from models import metrics

    methods, pairs = reporting.write_tables(args.out, tallies, coverage, title, args.seed, metrics)
    about = reporting.comparisons(pairs) if pairs else None
    random_weights = {"random_weights": is_random(args)}
    figures = {**random_weights, "methods": methods, "comparisons": about}
    runs.write_json(args.out / "metrics.json", {**figures, "paired": pairs})
    return figures


def draw(args, rows, records, methods, per_image, limits, title: str) -> None:
    """overlays_<source>.png of every source."""
    from data_prep import foreign_masks, sam_input, sam_pictures
    from models import prompts

    def read(row):
        picture, _ = sam_input.read_picture(args, row, limits)
        if kind != "mask":
            return picture, None
        return picture, foreign_masks.read(methods["unet"], row, picture.shape[:2]) == 1

    for name, masks in methods.items():
        if name != "unet":
            source, own = masks.folder.name, [found for found in per_image if found["method"] == name]
            kind = prompts.SOURCES[source][1]
            cases = {row["id"]: (row, r["prompts"][source]) for row, r in zip(rows, records, strict=True)}
            path = args.out / f"overlays_{source}.png"
            sam_pictures.overlays(path, f"{name}: {title}", kind, cases, masks, own, args, read)


def figures_of(args, sources, records, problems: dict[str, str], not_stretched) -> dict:
    """What result.json says of the run itself.

    Of the encoder's seconds only those of images that were encoded for this output; None if none was.
    """
    tiles, encoded = (sum(record[name] for record in records) for name in ("tiles", "encoded"))
    images = sum(record["encoded"] / record["tiles"] for record in records)
    seconds = {name: sum(r[f"{name}_seconds"] for r in records) for name in ("encoder", "decoder")}
    made = ("model", "provenance", "device", "precision")  # by whichever task
    made = {name: ", ".join(sorted({record[name] for record in records})) for name in made}
    return {
        "split": args.split, "triplets": len(records), "target": args.target, "image": args.image,
        "compose": args.compose if args.image == "sar" else None, "keep": args.keep,
        **made, "tiles": tiles, "encoded": encoded, "cache_hits": tiles - encoded,
        "left_out": list(problems.values()), "left_out_of_stretch": not_stretched,
        "encoder_seconds_per_image": seconds["encoder"] / images if images else None,
        "decoder_seconds_per_image": seconds["decoder"] / len(records),
        "prompts": {name: sum(len(record["prompts"][name]) for record in records) for name in sources},
        "without_prompt": {name: sum(not r["prompts"][name] for r in records) for name in sources},
    }  # fmt: skip


def say_costs(about: dict) -> None:
    """Where no prompt was found, and what SAM cost."""
    for name, number in about["without_prompt"].items():
        if number:
            what = "no mask kept" if name == "grid" else "no prompt"
            runs.say(f"{name}: {what} in {number} of {about['triplets']} triplets, mapped snow-free")
    seconds = about["encoder_seconds_per_image"]
    encoder = "" if seconds is None else f"encoder {seconds:.2f} s an image, "
    kept = f"{about['encoded']} pictures encoded, {about['cache_hits']} taken from the cache"
    runs.say(
        f"{about['provenance']}: {encoder}decoder {about['decoder_seconds_per_image']:.2f} s an image; {kept}"
    )


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    parser = runs.get_parser(
        __doc__,
        *(
            "--data",
            "--out",
            "--config",
            "--seed",
            "--device",
            "--amp",
            "--limit",
            "--overwrite",
            "--dry-run",
        ),
        data="triplets folder",
    )
    add = parser.add_argument
    weights = "SAM's weights (.pth, .pt, .safetensors; python -m data_prep.weights), or random: plumbing only"
    add("--weights", type=Path, required=True, metavar="PATH", help=weights)
    add("--model", choices=("auto", "vit_t", "vit_b", "vit_l", "vit_h"), default="auto", help="auto: by file")
    add("--split", choices=("train", "val", "test", "all"), default="test", help="of triplets")
    add("--sample", type=int, metavar="N", help="only N of the split's triplets, chosen by --seed")
    add("--target", choices=("total", "wet"), default="total", help="snow to judge by, and oracles' truth")
    add("--image", choices=("sar", "rgb"), default="sar", help="what SAM sees")
    add("--compose", choices=("vv", "vh", "vv,vh,ratio"), default="vv", help="radar bands as a picture")
    add("--prompts", nargs="+", metavar="SOURCE", help="sources (default: all that need no more than given)")
    add("--unet", type=Path, metavar="DIR", help="output of infer_unet.py on the same triplets")
    rules = ("score", "smallest", "middle", "largest", "single", "oracle")
    keep = (
        "which of SAM's masks of a prompt: its own best score, by size, the one it gives when asked for one"
    )
    add("--keep", choices=rules, default="score", help=f"{keep}; oracle: best against truth")
    add("--points", type=int, default=5, metavar="N", help="points of snow, and as many of bare ground")
    add("--boxes", type=int, default=5, metavar="N", help="boxes around the largest components of a cue")
    grid = "points along a side of the grid: 32 are 1024 prompts an image, 8 are 64"
    add("--grid-points", type=int, default=32, metavar="N", help=grid)
    add("--cache", type=Path, metavar="DIR", help="of embeddings (default: <out>/embeddings)")
    add("--tile", type=int, default=1024, metavar="PX", help="larger triplets are mapped in tiles of it")
    add("--batch", type=int, default=4, metavar="N", help="pictures at once through SAM's encoder")
    add("--overlays", type=int, default=8, metavar="N", help="triplets shown in overlays_<source>.png")
    add("--skip-bad", action="store_true", help="leave damaged triplets out, by name, instead of stopping")
    shares.add_flags(parser)
    return parser


def check(args) -> None:
    for name in ("points", "boxes", "grid_points", "batch", "overlays", "sample"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name.replace('_', '-')} {value}: must be positive.")
    if args.tile < 64:
        raise BadInput(f"--tile {args.tile}: must be 64 pixels or more.")
    for path in (args.data, args.unet):
        if path is not None and not path.is_dir():
            raise BadInput(f"{path}: no such folder.")
        if path is not None and path.resolve().is_relative_to(args.out.resolve()):
            raise BadInput(f"{args.out}: holds the input {path}; choose another --out.")


def is_random(args) -> bool:
    return str(args.weights) == "random"


def old_files(out: Path) -> list[str]:
    """What an earlier run of this job wrote into its folder, by name; nothing else there is touched."""
    from models import prompts

    names = [
        *TABLES,
        *(f"overlays_{source}.png" for source in prompts.SOURCES),
        "records/*.json",
        f"records/*{shares.WHY}",
    ]
    names += [f"{source}/{kind}/*" for source in prompts.SOURCES for kind in KINDS]
    return [str(path.relative_to(out)) for name in names for path in out.glob(name) if path.is_file()]


def out_of_memory(args) -> str:
    """The sentence for a batch that does not fit."""
    if args.batch == 1:
        return "run_sam.py: out of memory with --batch 1; use a smaller model, or --device cpu --overwrite."
    return (
        f"run_sam.py: out of memory with --batch {args.batch}; take --batch {args.batch // 2} --overwrite "
        "(the embeddings made so far are kept)."
    )


def finish_share(args, mine, mapped: int, problems: dict[str, str], sources) -> int:
    """Put on record why triplets of a share are not mapped, and print its line."""
    for name, problem in problems.items():
        if args.skip_bad:
            runs.write_json(record_path(args, name), {"id": name, "left_out": problem})
        else:
            shares.write_why(record_path(args, name), problem)
    records = [record for row in mine if (record := read_record(args, row, sources))]
    left_out = [record["left_out"] for record in records if "left_out" in record]
    broken = [] if args.skip_bad else list(problems.values())
    done = mapped + len(problems) - len(broken)
    return shares.finish(args.share, done, len(records) - done, left_out, broken)


def collect(args, run, rows, problems, limits, not_stretched, sources, unet) -> int:
    """Judge the masks of all triplets, whoever mapped them; write the tables, the figures and the result."""
    from data_prep import mask_folders, triplets
    from models import prompts

    shares.tidy(args.out)
    records = [read_record(args, row, sources) for row in rows]
    about = figures_of(args, sources, records, problems, not_stretched)
    ordered = sorted(sources, key=lambda source: prompts.ORACLE in prompts.label(source, args.keep))
    named = [(prompts.label(source, args.keep, is_random(args)), args.out / source) for source in ordered]
    methods = {"unet": unet} if unet else {}
    methods |= {name: mask_folders.MaskFolder(folder.name, folder) for name, folder in named}
    seen = f"radar ({args.compose})" if args.image == "sar" else "RGB"
    title = f"SAM on {seen}, split {args.split}{triplets.origin(rows)}\n{about['provenance']}"
    found = judge(args, rows, records, methods)
    draw(args, rows, records, methods, found["per_image"], limits, title)
    figures = report(args, found["tallies"], found["coverage"], title)
    say_costs(about)
    return run.finish(**about, **figures)


def load(args):
    """(SAM's network on the device, what it computes in)."""
    from models import sam, training

    training.use_huge_pages()
    try:
        device = training.choose_device(args.device)
        net = sam.load(args.weights, args.model, device, args.seed)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    return net, training.choose_precision(device, args.amp)


def main(args) -> int:
    shares.check(args)
    check(args)
    weights = [] if is_random(args) else [args.weights]
    if weights and not args.weights.is_file():
        raise BadInput(
            f"{args.weights}: no such file; --weights takes an official sam_vit_*.pth of the hub, the file "
            "that `python -m data_prep.weights --model mobile-sam --out DIR` makes, or random."
        )
    run = runs.Run(args, [*runs.triplets_inputs(args.data), *weights, *([args.unet] if args.unet else [])])
    if run.finished():
        return runs.DONE
    stop = runs.StopSignal()
    sources = choose_sources(args)
    from data_prep import mask_folders, sam_input
    from models import training

    unet = mask_folders.choose([("unet", args.unet)], (), ())[0] if args.unet else None
    mine, every = sam_input.choose_triplets(args)
    if args.collect:
        rows, problems = recorded(args, mine, sources)
        limits, unreadable = sam_input.stretch(args, mine, every)
    else:
        net, dtype = load(args)
        todo = [row for row in mine if not (args.share and read_record(args, row, sources))]
        limits, unreadable = sam_input.stretch(args, todo, every)
        rows, problems = sam_input.look_at(args, todo, limits, unet, stop)
    if not (rows or args.share):
        first = next(iter(problems.values()))
        raise BadInput(f"{args.data}: none of its triplets can be used; the first: {first}")
    not_stretched = [problem for problem in unreadable if problem not in problems.values()]
    for problem in not_stretched:
        runs.say(f"not among those to map, and left out of its scene's stretch: {problem}")
    if args.dry_run:
        what = "collect" if args.collect else "map"
        runs.say(f"would {what} {len(rows)} triplets of split {args.split} by {', '.join(sources)}")
        return runs.DONE
    run.begin(*old_files(args.out))
    if args.collect:
        return collect(args, run, rows, problems, limits, not_stretched, sources, unet)
    mapped = False
    try:
        map_triplets(args, net, dtype, rows, limits, sources, unet, stop)
        mapped = True
    except (RuntimeError, MemoryError) as error:
        if not training.is_out_of_memory(error):
            raise
    if not mapped:
        raise SystemExit(out_of_memory(args))
    if args.share:
        return finish_share(args, mine, len(rows), problems, sources)
    return collect(args, run, rows, problems, limits, not_stretched, sources, unet)


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
