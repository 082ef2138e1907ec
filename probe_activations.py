"""What CLIP, DINOv2 and DeepLabV3 see in RGB and in SAR of the same place, in figures and in numbers.

    python probe_activations.py --data runs/default/3_split --sample 48 --out runs/probe \\
        --weights dinov2=weights/dinov2-small

In: a triplets folder; weights from the hub, or of a path for each model. Out, for each model:
<model>_activations_comparison.png and .pdf (feature maps, patch PCA, attention or class activation of some
triplets, RGB above SAR); for all of them layers.png and .pdf, layers.csv (per layer: CKA between RGB and SAR,
effective rank, sparsity, and the AUC within images with which the channel best on other sites tells snow from
bare ground), channels.csv (the best channels) and result.json; each beside the same network with random
weights, the floor. <model>_attention_heads.png: a transformer's attention head by head. records/ holds what
is measured: a stopped run goes on from there, and tasks of an array may share the models and the floors: each
adds --share K/N, and after them --collect writes the tables. --list-layers prints what --layers takes;
--save-activations writes activations/<model>/<id>.safetensors.
"""

import contextlib
import json
import sys
from pathlib import Path

from data_prep import activation_files, runs, shares
from data_prep.runs import BadInput

FAMILIES = ("clip", "dinov2", "deeplabv3")  # of models.backbones
TITLES = {"clip": "CLIP", "dinov2": "DINOv2", "deeplabv3": "DeepLabV3"}
BEST = 10  # channels of a layer and modality in channels.csv
HEADS = 12  # of attention shown, as many as fit a page's width
WRITTEN = ("layers.csv", "channels.csv", "layers.png", "layers.pdf")

# ---- networks ----------------------------------------------------------------------------------------------


def check_stop(stop, where: str) -> None:
    if stop.requested:
        raise runs.Interrupted(f"{where}: stopped by {stop.requested}; what was measured is kept.")


def named(texts: list[str] | None, flag: str) -> dict[str, list[str]]:
    """["clip=x", "y"] as {"clip": ["x"], "": ["y"]}; the name before = must be a model's."""
    found: dict[str, list[str]] = {}
    for text in texts or ():
        name, sign, rest = text.partition("=")
        name, rest = (name, rest) if sign else ("", text)
        if (name and name not in FAMILIES) or not rest:
            raise BadInput(f"{flag} {text}: expected NAME=..., NAME one of {', '.join(FAMILIES)}.")
        found.setdefault(name, []).append(rest)
    return found


def items_of(args, weights: dict[str, str]) -> list[tuple[str, str]]:
    """(family, "given" or "random") of every network to measure: each model, and behind it its floor."""
    items = []
    for family in args.models or FAMILIES:
        own = "random" if weights.get(family) == "random" else "given"
        items += [(family, one) for one in dict.fromkeys([own, "random"] if args.floor else [own])]
    return items


def load_models(args, families, weights: dict[str, str], device, stop) -> tuple[dict, dict[str, str]]:
    """The networks whose weights are there, by family, and why others are left out; a named one must be."""
    from models import backbones

    loaded, left_out = {}, {}
    for family in families:
        try:
            given = weights.get(family)
            loaded[family] = backbones.load(family, given, args.seed, device=device, say=runs.say)
        except ValueError as error:
            if args.models or family in weights:
                raise BadInput(f"--models {family}: {error}.") from None
            left_out[family] = str(error)
            runs.say(f"left out: {error}")
        check_stop(stop, f"{family}, loading")
    if not (loaded or args.share):
        raise BadInput("--models: no weights of any model are there; see the lines above for the three ways.")
    return loaded, left_out


def choose_layers(backbone, patterns: list[str] | None) -> dict[str, str]:
    """{name: kind} of the layers to look at: those that fit the patterns, or the main blocks."""
    from models import backbones, layer_numbers

    known = backbones.layers(backbone)
    try:
        names = backbones.match(known, patterns) if patterns else backbones.blocks(backbone)
    except ValueError as error:
        raise BadInput(f"--layers: {backbone.family}: {error}.") from None
    chosen = {name: kind for name, kind in known if name in set(names)}
    if not set(layer_numbers.PLACED) & set(chosen.values()):
        raise BadInput(
            f"--layers: none of {backbone.family}'s {', '.join(list(chosen)[:5])} is a map or tokens: "
            "nothing to compare; choose others of --list-layers."
        )
    return chosen


def list_layers(loaded: dict) -> int:
    """Print the layers of every model: name, kind, shape of what one square image gives."""
    from models import layer_views

    for family, backbone in loaded.items():
        side, shapes = backbone.size, layer_views.shapes(backbone)
        print(f"{family}: {backbone.name}, {backbone.provenance}; input (1, 3, {side}, {side})")
        for name, kind, shape in shapes:
            print(f"  {name}  {kind}  {shape}")
    return runs.DONE


# ---- triplets ----------------------------------------------------------------------------------------------


def choose_triplets(args, stop):
    """RGB and SAR pictures of the sampled triplets of the split, and what is wrong with those left out."""
    from data_prep import compose, picture_pairs, triplets

    manifest = triplets.read_manifest(args.data)
    rows = manifest.rows if args.split == "all" else manifest.of(args.split).rows
    rows = compose.sample(rows, args.sample, args.seed)[: args.limit]
    if not rows:
        raise BadInput(
            f"{args.data}: split {args.split!r} is empty; choose another --split or run data_prep.split."
        )
    scenes = {compose.scene_key(row) for row in rows}
    siblings = [row for row in manifest.rows if compose.scene_key(row) in scenes]
    unreadable = [] if args.skip_bad else None
    limits = compose.scene_limits(siblings, compose.COMPOSE[args.compose], unreadable)
    pairs = picture_pairs.PicturePairs(rows, args.compose, limits, args.target)
    bad = pairs.inspect(args.skip_bad, lambda: check_stop(stop, "reading"))
    if not pairs.rows:
        raise BadInput(f"{args.data}: none of its triplets can be used; the first: {bad[0]}")
    pairs.rows = picture_pairs.sites_in_turn(pairs.rows)
    return pairs, bad


# ---- one model ---------------------------------------------------------------------------------------------


def measure(args, backbone, kinds: dict, pairs, stop, dtype, label: str, folder=None) -> list[dict]:
    """[{"row", "best"}] of each layer over all triplets, "input" first; one batch in memory at a time.

    best: the rows of its best channels. folder: where to save the layers' outputs, a file a triplet.
    """
    from data_prep import batches, picture_pairs
    from models import layer_numbers

    order, groups = batches.by_size(pairs.rows, args.batch), picture_pairs.groups(pairs.rows)
    numbers = {}
    loader = batches.loader(pairs, order, args.workers)
    for images, masks, seen, indices in runs.progress(loader, len(order), label):
        check_stop(stop, label)
        batch = images.numpy(), masks.numpy(), seen.numpy()
        values, cells, whole = layer_numbers.look(backbone, kinds, *batch, args.seed, bool(folder), dtype)
        for name, (rows, size) in values.items():
            layer = numbers.setdefault(name, layer_numbers.Numbers())
            layer.about = {"channels": rows.shape[-1], "map": f"{size[0]}x{size[1]}"}
            for k, place in enumerate(indices.tolist()):
                at = (part[k] for part in cells[size])
                try:
                    layer.add(rows[k], rows[len(images) + k], *at, groups[place])
                except ValueError as error:
                    raise BadInput(f"{label}: {name}: {error}; run with --amp off.") from None
        for k, place in enumerate(indices.tolist() if folder else ()):
            tensors = activation_files.outputs_of(whole, {"RGB": k, "SAR": len(images) + k})
            name = pairs.rows[place]["id"]
            about = {"id": name, "model": backbone.name, "provenance": backbone.provenance}
            activation_files.save(folder / f"{name}.safetensors", tensors, about)
    results = []
    for depth, (name, layer) in enumerate(numbers.items()):
        row, areas = layer.result()
        about = {"layer": name, "depth": depth, "kind": kinds.get(name, "picture"), **layer.about}
        results.append({"row": {**about, **row}, "best": layer_numbers.best_rows(areas, BEST)})
    return results


def draw(args, family: str, backbone, layers: list[dict], pairs, shown: list[int], origin: str) -> None:
    """<model>_activations_comparison.png and .pdf, and <model>_attention_heads.png and .pdf if it has any."""
    from data_prep import activation_figures, picture_pairs
    from models import backbones, layer_views

    examples = [picture_pairs.example(pairs, place) for place in shown]
    inputs = [backbones.prepare(backbone, example["pictures"]) for example in examples]
    label = layer_views.class_number(args.cam_class, backbone) if backbone.labels else None
    views, heads, depths, note = layer_views.all_of(backbone, inputs, layers, args.attention_layer, label)
    title = f"{TITLES[family]} on RGB and SAR of the same place{origin}. {sentence(backbone.provenance)}"
    path = args.out / f"{family}_activations_comparison.png"
    activation_figures.comparison(path, title, examples, views, depths, note)
    if heads:
        note = "Of the class token to the patches, a head a column; 1: spread evenly."
        note += f" The first {HEADS} of {len(heads)} heads." if len(heads) > HEADS else ""
        path, title = args.out / f"{family}_attention_heads.png", f"Attention of each head. {title}"
        activation_figures.comparison(path, title, examples, heads[:HEADS], [], note)


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def probe(args, family: str, weights: str, backbone, kinds: dict, pairs, stop, dtype) -> None:
    """Measure a model or its floor and draw a model's figures; what an earlier run did of it is kept."""
    from data_prep import picture_pairs, triplets
    from models import backbones

    floor = weights == "random" and not backbone.random
    label, saved = f"{family}, {weights} weights", None
    names = [] if floor else activation_files.figure_names(family, bool(backbone.heads))
    figures = [args.out / name for name in names]
    if args.save_activations and not floor:
        saved = args.out / "activations" / family
        saved.mkdir(parents=True, exist_ok=True)
    path = activation_files.record_path(args.out, family, weights)
    of = {
        "provenance": backbone.provenance, "layers": kinds, "dtype": str(dtype),
        "triplets": [row["id"] for row in pairs.rows],
    }  # fmt: skip
    record = activation_files.read_record(path, of)
    if saved and not all((saved / f"{row['id']}.safetensors").exists() for row in pairs.rows):
        record = None
    if record is None:
        for old in figures:
            old.unlink(missing_ok=True)
        net = backbones.floor(backbone, args.seed) if floor else backbone
        check_stop(stop, label)
        layers = measure(args, net, kinds, pairs, stop, dtype, label, saved)
        device = next(net.net.parameters()).device
        about = {
            "name": backbone.name, "provenance": backbone.provenance, "random": backbone.random,
            "input_pixels": backbone.size, "heads": backbone.heads, "device": str(device),
            "precision": str(dtype or "torch.float32"),
        }  # fmt: skip
        record = activation_files.write_record(path, of, about, layers)
        check_stop(stop, label)
    else:
        runs.say(f"{label}: measured by an earlier run")
    if record["layers"] and not all(figure.exists() for figure in figures):
        shown = picture_pairs.most_mixed(pairs.rows, args.examples)
        draw(args, family, backbone, record["layers"], pairs, shown, triplets.origin(pairs.rows))
        check_stop(stop, f"{family}, figures")


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    flags = ("--config", "--seed", "--device", "--amp", "--workers", "--limit", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *flags)
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH", help="triplets folder (not needed for --list-layers)")
    add("--out", type=Path, metavar="DIR", help="the only folder this job writes into")
    add("--split", choices=("train", "val", "test", "all"), default="test", help="of triplets")
    add("--sample", type=int, metavar="N", help="only N of the split's triplets, chosen by --seed")
    add("--models", nargs="+", choices=FAMILIES, help="default: those whose weights are there")
    weights = "folder, hub name or file of a model's weights, or random (default: the hub's)"
    add("--weights", nargs="+", metavar="NAME=PATH", help=weights)
    layers = "names or patterns of layers, of all models or of one (default: the main blocks)"
    add("--layers", nargs="+", metavar="[NAME=]PATTERN", help=layers)
    add("--list-layers", action="store_true", help="print the layers of the models and stop")
    add("--compose", choices=("vv", "vh", "vv,vh,ratio"), default="vv", help="radar bands as a picture")
    add("--target", choices=("total", "wet"), default="total", help="total or wet snow")
    add("--batch", type=int, default=4, metavar="N", help="triplets at once")
    add("--examples", type=int, default=2, metavar="N", help="triplets shown in the figures")
    add("--cam-class", metavar="CLASS", help="name or number of the class whose activation is shown")
    add(
        "--attention-layer",
        type=int,
        default=-1,
        metavar="N",
        help="of a transformer: 0 the first, -1 the last",
    )
    add("--no-floor", dest="floor", action="store_false", help="leave out the random-weight floor")
    add("--save-activations", action="store_true", help="write the layers' outputs as safetensors")
    add("--skip-bad", action="store_true", help="leave damaged triplets out, by name, instead of stopping")
    shares.add_flags(parser)
    return parser


def check(args) -> None:
    if args.batch < 1 or (args.sample is not None and args.sample < 1) or not 1 <= args.examples <= 6:
        raise BadInput("--batch and --sample must be positive, --examples 1 to 6.")
    if args.list_layers:
        return
    for flag, path in (("--data", args.data), ("--out", args.out)):
        if path is None:
            raise BadInput(f"{flag} is missing; only --list-layers goes without it.")
    if not args.data.exists():
        raise BadInput(f"{args.data}: no such file or folder.")
    if args.out.exists() and args.out.samefile(args.data):
        raise BadInput(f"{args.out}: holds the input; choose another --out.")


def main(args) -> int:
    shares.check(args)
    check(args)
    weights = {name: rest[0] for name, rest in named(args.weights, "--weights").items()}
    if len(weights) < len(args.weights or ()):
        raise BadInput(f"--weights {' '.join(args.weights)}: one for each model, no more.")
    patterns = named(args.layers, "--layers")
    if "" in weights:
        raise BadInput(
            f"--weights {weights['']}: say of which model: NAME=PATH, NAME one of {', '.join(FAMILIES)}."
        )
    if args.models:
        idle = (set(weights) | set(patterns)) - {"", *args.models}
        if idle:
            raise BadInput(
                f"--models {' '.join(args.models)}: leaves out {idle.pop()}, for which a flag is given."
            )
    if not args.list_layers:
        files = [Path(path) for path in weights.values() if Path(path).exists()]
        run = runs.Run(args, [*runs.triplets_inputs(args.data), *files])
        if not wants_more(args, run) and run.finished():
            return runs.DONE
    stop = runs.StopSignal()
    if args.collect:
        pairs, bad = choose_triplets(args, stop)
        return collect(args, run, items_of(args, weights), pairs, bad, {})
    from models import backbones, layer_views, training

    training.use_huge_pages()
    try:
        device = training.choose_device(args.device)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    if args.list_layers:
        return list_layers(load_models(args, args.models or FAMILIES, weights, device, stop)[0])
    items = shares.mine(items_of(args, weights), args.share)
    loaded, left_out = load_models(args, dict.fromkeys(family for family, _ in items), weights, device, stop)
    chosen = {
        family: choose_layers(backbone, patterns.get("", []) + patterns.get(family, []))
        for family, backbone in loaded.items()
    }
    if args.cam_class is not None:
        heads = [backbone for backbone in loaded.values() if backbone.labels]
        if not (heads or args.share):
            raise BadInput(f"--cam-class {args.cam_class}: none of the models has a head with classes.")
        for backbone in heads:
            try:
                layer_views.class_number(args.cam_class, backbone)
            except ValueError as error:
                raise BadInput(f"--cam-class {args.cam_class}: {error}.") from None
    for family, backbone in loaded.items():
        count = len(backbones.blocks(backbone))
        if backbone.heads and not -1 <= args.attention_layer < count:
            raise BadInput(f"--attention-layer {args.attention_layer}: {family} has layers 0 to {count - 1}.")
    if args.workers is None:
        args.workers = min(4, runs.core_count() - 1)
    pairs, bad = choose_triplets(args, stop)
    if args.save_activations:
        sizes = [(row["height"], row["width"]) for row in pairs.rows]
        own = {family for family, _ in items if family in loaded}
        needed = sum(layer_views.bytes_of(loaded[name], chosen[name], sizes) for name in own)
        activation_files.check_space(args.out, needed)
    if args.dry_run:
        runs.say(f"would probe {', '.join(loaded)} on {len(pairs.rows)} triplets of split {args.split}")
        return runs.DONE
    old = [name for family in FAMILIES for name in activation_files.figure_names(family, heads=True)]
    for pattern in ("activations/*/*.safetensors", "records/*"):
        old += [str(path.relative_to(run.out)) for path in run.out.glob(pattern)]
    run.begin(*WRITTEN, *old)
    dtype = training.choose_precision(device, args.amp)
    outcome = probe_all(args, items, loaded, chosen, left_out, pairs, stop, dtype)
    if args.share:
        return shares.finish(args.share, *outcome)
    items = [item for item in items if item[0] not in left_out]
    return collect(args, run, items, pairs, bad, left_out)


def wants_more(args, run) -> bool:
    """Whether an earlier run of these arguments left models out whose weights may be there now."""
    path = args.out / "result.json"
    if args.models or args.overwrite or not path.exists():
        return False
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        before = json.loads(path.read_text(encoding="utf-8"))
        same = before["arguments"] == run.arguments and before["inputs"] == run.inputs
        if same and before["models_left_out"]:
            runs.say(
                f"{args.out}: left out {', '.join(before['models_left_out'])}; looking for their weights"
            )
            return True
    return False


def probe_all(args, items, loaded: dict, chosen: dict, left_out: dict, pairs, stop, dtype) -> tuple:
    """Probe item after item; (how many now, how many a share found done, those left out, those broken)."""
    from models import training

    done, skipped, broken, absent = 0, 0, [], []
    for family, weights in items:
        record = activation_files.measured(args, family, weights, pairs.rows)
        if args.share and activation_files.is_measured(record):
            skipped += 1
            continue
        path = activation_files.record_path(args.out, family, weights)
        if family in left_out:
            if args.share:
                path.parent.mkdir(exist_ok=True)
                runs.write_json(path, {"left_out": left_out[family]})
                absent.append(left_out[family])
                done += 1
            continue
        try:
            probe(args, family, weights, loaded[family], chosen[family], pairs, stop, dtype)
            done += 1
        except BadInput as error:
            if not args.share:
                raise
            runs.say(f"broken: {error}")
            path.parent.mkdir(exist_ok=True)
            shares.write_why(path, str(error))
            broken.append(str(error))
        except (RuntimeError, MemoryError) as error:
            if not training.is_out_of_memory(error):
                raise
            raise SystemExit(f"{family}: out of memory with --batch {args.batch}; lower it.") from None
    return done, skipped, absent, broken


def collect(args, run, items, pairs, bad: list[str], left_out: dict[str, str]) -> int:
    """Write the tables and the figure of all models from their records; say the main numbers."""
    from data_prep import activation_figures, picture_pairs, triplets

    found = {item: activation_files.measured(args, *item, pairs.rows) for item in items}
    there = {family for (family, _), record in found.items() if activation_files.is_measured(record)}
    absent = {}
    for (family, weights), record in found.items():
        if record is None or ("left_out" in record and family in there):
            path = activation_files.record_path(args.out, family, weights)
            absent[f"{family} with {weights} weights"] = (
                record["left_out"] if record else shares.read_why(path)
            )
        elif "left_out" in record:
            left_out[family] = record["left_out"]
    if absent:
        raise shares.missing(args.out, "models and floors", len(items), absent)
    if not there:
        raise BadInput(
            "--models: no weights of any model are there; see the shares' lines for the three ways."
        )
    if args.dry_run:
        runs.say(f"would collect {', '.join(sorted(there))}")
        return runs.DONE
    run.begin()
    shares.tidy(args.out)
    shown = [pairs.rows[k]["id"] for k in picture_pairs.most_mixed(pairs.rows, args.examples)]
    records = {item: record for item, record in found.items() if activation_files.is_measured(record)}
    rows, channels, models = activation_files.tables(records, shown)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    runs.write_csv(args.out / "layers.csv", columns, rows)
    runs.write_csv(args.out / "channels.csv", list(channels[0]) if channels else ["model"], channels)
    sites = len({row["site"] for row in pairs.rows})
    count = f"{len(pairs.rows)} triplets of {sites} sites, split {args.split}"
    titles = {family: f"{TITLES[family]}. {sentence(models[family]['provenance'])}" for family in models}
    title = f"What the layers hold, by depth: {count}{triplets.origin(pairs.rows)}"
    activation_figures.layers(args.out / "layers.png", rows, titles, title)
    for line in activation_figures.last_layers(rows):
        runs.say(line)
    abouts = [record["about"] for record in records.values()]
    by = {name: ", ".join(sorted({about[name] for about in abouts})) for name in ("device", "precision")}
    return run.finish(
        models=models, triplets=len(pairs.rows), sites=sites, split=args.split, compose=args.compose,
        models_left_out=left_out, left_out=bad, **by,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
