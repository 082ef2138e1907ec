"""What CLIP, DINOv2 and DeepLabV3 see in RGB and in SAR of the same place, in figures and in numbers.

    python probe_activations.py --data runs/default/3_split --sample 48 --out runs/probe \\
        --weights dinov2=weights/dinov2-small

In: a triplets folder; weights from the hub, or of a path for each model. Out, for each model:
<model>_activations_comparison.png and .pdf (feature maps, patch PCA, attention or class activation of some
triplets, RGB above SAR); for all of them layers.png and .pdf, layers.csv (per layer: CKA between RGB and SAR,
effective rank, sparsity, and the AUC with which its best channel tells snow from bare ground), channels.csv
(the best channels) and result.json; each beside the same network with random weights, the floor.
--list-layers prints what --layers takes; --save-activations writes activations/<model>/<id>.safetensors.
"""

import contextlib
import functools
import shutil
import sys
import textwrap
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

FAMILIES = ("clip", "dinov2", "deeplabv3")  # of models.backbones
TITLES = {"clip": "CLIP", "dinov2": "DINOv2", "deeplabv3": "DeepLabV3"}
MODALITIES = ("RGB", "SAR")
PLACED = ("map", "tokens", "patches")  # kinds of layers whose output has a place in the image
BEST = 10  # channels of a layer and modality in channels.csv
SHOWN_DEPTHS, SHOWN_CHANNELS = 4, 6  # of the figure
WRITTEN = ("layers.csv", "channels.csv", "layers.png", "layers.pdf")

# ---- networks ----------------------------------------------------------------------------------------------


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


def load_models(args, weights: dict[str, str], device) -> tuple[dict, dict[str, str]]:
    """The networks whose weights are there, by family, and why others are left out; a named one must be."""
    from models import backbones

    loaded, left_out = {}, {}
    for family in args.models or FAMILIES:
        try:
            loaded[family] = backbones.load(family, weights.get(family), args.seed, device=device)
        except ValueError as error:
            if args.models or family in weights:
                raise BadInput(f"--models {family}: {error}.") from None
            left_out[family] = str(error)
            runs.say(f"left out: {error}")
    if not loaded:
        raise BadInput("--models: no weights of any model are there; see the lines above for the three ways.")
    return loaded, left_out


def choose_layers(backbone, patterns: list[str] | None) -> dict[str, str]:
    """{name: kind} of the layers to look at: those that fit the patterns, or the main blocks."""
    from models import backbones

    known = backbones.layers(backbone)
    try:
        names = backbones.match(known, patterns) if patterns else backbones.blocks(backbone)
    except ValueError as error:
        raise BadInput(f"--layers: {backbone.family}: {error}.") from None
    chosen = {name: kind for name, kind in known if name in set(names)}
    if not set(PLACED) & set(chosen.values()):
        raise BadInput(
            f"--layers: none of {backbone.family}'s {', '.join(list(chosen)[:5])} is a map or tokens: "
            "nothing to compare; choose others of --list-layers."
        )
    return chosen


def list_layers(loaded: dict) -> int:
    """Print the layers of every model: name, kind, shape of what one square image gives."""
    import numpy as np
    import torch

    from models import activations, backbones

    for family, backbone in loaded.items():
        kinds = dict(backbones.layers(backbone))
        x = backbones.prepare(backbone, np.zeros((1, backbone.size, backbone.size, 3), np.uint8))
        with (
            torch.no_grad(),
            activations.Capture(backbone.net, kinds, lambda out: tuple(out.shape)) as capture,
        ):
            backbone(x)
        print(f"{family}: {backbone.name}, {backbone.provenance}; input {tuple(x.shape)}")
        for name, kind in kinds.items():
            print(f"  {name}  {kind}  {capture.outputs.get(name)}")
    return runs.DONE


# ---- triplets ----------------------------------------------------------------------------------------------


def choose_triplets(args):
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
    bad = pairs.inspect(args.skip_bad)
    if not pairs.rows:
        raise BadInput(f"{args.data}: none of its triplets can be used; the first: {bad[0]}")
    pairs.rows = picture_pairs.by_turns(pairs.rows)
    return pairs, bad


# ---- numbers of the layers ---------------------------------------------------------------------------------


def measure(args, backbone, kinds: dict, pairs, dtype, label: str, folder=None) -> dict:
    """{layer: (row, areas)} over all triplets, "input" first; one batch in memory at a time.

    folder: where to save the layers' outputs, a file a triplet.
    """
    import torch
    import torch.nn.functional as F

    from data_prep import batches, picture_pairs
    from models import activations, backbones, layer_numbers, training

    rows, stop, numbers = pairs.rows, runs.StopSignal(), {}
    order, half = batches.by_size(rows, args.batch), picture_pairs.halves(rows)
    device = next(backbone.net.parameters()).device
    loader = batches.loader(pairs, order, args.workers)
    for images, masks, seen, indices in runs.progress(loader, len(order), label):
        if stop.requested:
            raise runs.Interrupted(f"{label}: stopped before its end.")
        count, places = len(images), indices.tolist()
        x = backbones.prepare(backbone, images.transpose(0, 1).flatten(0, 1).numpy())  # RGB, then SAR

        def keep(output, kind, x=x):
            maps = backbones.as_map(backbone, output, x) if kind in PLACED else None
            rows = None if maps is None else layer_numbers.rows_of(maps, args.seed)
            return {"rows": rows, "whole": output.cpu() if folder else None}

        with contextlib.ExitStack() as stack:
            captures = {
                name: stack.enter_context(
                    activations.Capture(backbone.net, [name], functools.partial(keep, kind=kind))
                )
                for name, kind in kinds.items()
            }
            with torch.inference_mode(), training.autocast(device, dtype):
                backbone(x)
        held = {name: capture.outputs[name] for name, capture in captures.items() if capture.outputs}
        found = {name: kept["rows"] for name, kept in held.items() if kept["rows"]}
        if found:  # beside them the picture itself, as coarse as the last layer
            pooled = F.adaptive_avg_pool2d(x, list(found.values())[-1][1])
            found = {"input": layer_numbers.rows_of(pooled, args.seed), **found}
        cells = {
            size: layer_numbers.cells_of(masks.numpy(), seen.numpy(), size, args.seed)
            for size in {size for _, size in found.values()}
        }
        for name, (values, size) in found.items():
            layer = numbers.setdefault(name, layer_numbers.Numbers(args.seed))
            layer.about = {"channels": values.shape[-1], "map": f"{size[0]}x{size[1]}"}
            for k, place in enumerate(places):
                at = (part[k] for part in cells[size])
                try:
                    layer.add(values[k], values[count + k], *at, half[place], place)
                except ValueError as error:
                    raise BadInput(f"{label}: {name}: {error}; run with --amp off.") from None
        if folder:
            whole = {name: (kept["whole"], kinds[name]) for name, kept in held.items()}
            for k, place in enumerate(places):
                save_activations(folder, rows[place], whole, (k, count + k), backbone)
    results = {}
    for depth, (name, layer) in enumerate(numbers.items()):
        row, areas = layer.result()
        about = {"layer": name, "depth": depth, "kind": kinds.get(name, "picture"), **layer.about}
        results[name] = {**about, **row}, areas
    return results


# ---- activations on disk -----------------------------------------------------------------------------------


def saved_bytes(backbone, kinds: dict[str, str], rows: list[dict]) -> int:
    """Bytes that --save-activations takes for these triplets at most: float32, RGB and SAR."""
    from collections import Counter

    from models import activations, backbones

    sizes = Counter(backbones.input_size(backbone, row["height"], row["width"]) for row in rows)
    return sum(
        2 * count * sum(activations.size_of(backbone, kinds, size).values()) for size, count in sizes.items()
    )


def check_space(args, needed: int) -> None:
    """Say how much will be written; refuse what the disk cannot hold."""
    place = args.out.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    runs.say(f"--save-activations: {needed / 1e6:,.1f} MB to write, {free / 1e6:,.0f} MB free")
    if needed > free:
        raise BadInput(
            f"{args.out}: --save-activations needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "choose fewer --layers, a smaller --sample or another --out."
        )


def save_activations(folder: Path, row: dict, whole: dict, places: tuple[int, int], backbone) -> None:
    """<id>.safetensors with RGB/<layer> and SAR/<layer>: what `whole` has of the layers at these places."""
    from safetensors.torch import save_file

    tensors = {}
    for name, (output, kind) in whole.items():
        for modality, place in zip(MODALITIES, places, strict=True):
            one = output if kind == "constant" else output[place]
            tensors[f"{modality}/{name}"] = one.clone().contiguous()
    about = {"id": row["id"], "model": backbone.name, "provenance": backbone.provenance}
    with runs.atomic(folder / f"{row['id']}.safetensors") as path:
        save_file(tensors, path, metadata=about)


# ---- the figure of a model ---------------------------------------------------------------------------------


def draw(args, family: str, backbone, results: dict, pairs, origin: str) -> list[str]:
    """<model>_activations_comparison.png and .pdf; returns the ids shown."""
    import numpy as np

    from data_prep import activation_figures, picture_pairs
    from models import backbones, layer_numbers, layer_views

    names = [name for name in results if name != "input"]
    deep = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, SHOWN_DEPTHS).round().astype(int))]
    middle, last = names[len(names) // 2], names[-1]
    examples, inputs, shown = [], [], picture_pairs.most_mixed(pairs.rows, args.examples)
    for place in shown:
        (images, mask, valid, _), row = pairs[0, place], pairs.rows[place]
        inputs.append(backbones.prepare(backbone, images))
        share = f"{row['snow']:.0%} snow of\n{row['known']:.0%} labelled"
        site = "\n".join(textwrap.wrap(row["site"], 18)[:2])
        caption = "\n".join(part for part in (site, row["s1_date"][:10], share) if part)
        examples.append({"pictures": images, "mask": np.where(valid, mask, 255), "caption": caption})
    maps = layer_views.layer_maps(backbone, inputs, dict.fromkeys([*deep, middle, last]))
    views = [layer_views.pca(maps[last], last, "common")]
    views += [layer_views.pca(maps[name], name, "centred") for name in dict.fromkeys([last, middle])]
    if backbone.heads:
        views += layer_views.attention(backbone, inputs)
    known = dict(backbones.layers(backbone))
    under_head = [name for name in backbones.blocks(backbone) if known[name] == "map"]
    if backbone.labels and under_head:
        label = None if args.cam_class is None else class_number(args.cam_class, backbone)
        views += layer_views.classes(backbone, inputs, under_head[-1], label)
    depths = []
    for name in deep:
        row, areas = results[name]
        best = layer_numbers.by_turns(areas, SHOWN_CHANNELS)
        best = best or [(k, []) for k in range(min(SHOWN_CHANNELS, row["channels"]))]
        channels = [
            {"title": f"{k}\n" + " ".join(f"{auc:.2f}" for auc in both), "maps": maps[name][0][:, k]}
            for k, both in best
        ]
        depths.append({"title": f"{name}: {row['channels']} channels, {row['map']}", "channels": channels})
    notes = [view["note"] for view in views if view["note"]]
    notes.append(
        "Feature maps: of the first triplet; above each its channel and the AUC in RGB and in SAR with which "
        f"it tells snow from bare ground over {len(pairs.rows)} triplets (below 0.5: low on snow); RGB and "
        "SAR of a channel share one scale, its 1 to 99 %."
    )
    title = f"{TITLES[family]} on RGB and SAR of the same place{origin}. {sentence(backbone.provenance)}"
    path = args.out / f"{family}_activations_comparison.png"
    activation_figures.comparison(path, title, examples, views, depths, " ".join(notes))
    return [pairs.rows[place]["id"] for place in shown]


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def class_number(text: str, backbone) -> int:
    names = list(backbone.labels)
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    known = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    raise BadInput(f"--cam-class {text}: {backbone.name} has no such class; it has {known}.")


# ---- the job -----------------------------------------------------------------------------------------------


def probe(args, family: str, backbone, kinds: dict[str, str], pairs, dtype, origin: str):
    """Measure a model and its floor, draw its figure; returns its rows, those of channels, its account."""
    from models import backbones, layer_numbers

    folder = args.out / "activations" / family if args.save_activations else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    kind = "random" if backbone.random else "given"
    found = {kind: measure(args, backbone, kinds, pairs, dtype, f"{family}, {kind} weights", folder)}
    shown = draw(args, family, backbone, found[kind], pairs, origin) if found[kind] else []
    if args.floor and not backbone.random:
        floor = backbones.floor(backbone, args.seed)
        found["random"] = measure(args, floor, kinds, pairs, dtype, f"{family}, random weights")
        found["random"].pop("input", None)
    rows, channels = [], []
    for weights, results in found.items():
        for name, (row, areas) in results.items():
            rows.append({"model": family, "weights": weights, **row})
            about = {"model": family, "weights": weights, "layer": name}
            channels += [{**about, **best} for best in layer_numbers.best_rows(areas, BEST)]
    account = {
        "name": backbone.name, "provenance": backbone.provenance, "random": backbone.random,
        "input_pixels": backbone.size, "shown": shown, "layers": rows,
    }  # fmt: skip
    return rows, channels, account


def layers_figure(args, rows: list[dict], models: dict, count: str, origin: str) -> None:
    """layers.png and .pdf from the rows of layers.csv."""
    from data_prep import activation_figures as figures

    tables = {}
    for family, about in models.items():
        table: dict[str, dict] = {}
        for row in rows:
            if row["model"] == family:
                table.setdefault(row["layer"], {"layer": row["layer"]})[row["weights"]] = row
        tables[f"{TITLES[family]}. {sentence(about['provenance'])}"] = list(table.values())
    figures.layers(args.out / "layers.png", tables, f"What the layers hold, by depth: {count}{origin}")


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
    add("--no-floor", dest="floor", action="store_false", help="leave out the random-weight floor")
    add("--save-activations", action="store_true", help="write the layers' outputs as safetensors")
    add("--skip-bad", action="store_true", help="leave damaged triplets out, by name, instead of stopping")
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
        if run.finished():
            return runs.DONE
    from models import training

    training.use_huge_pages()
    try:
        device = training.choose_device(args.device)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    loaded, left_out = load_models(args, weights, device)
    if args.list_layers:
        return list_layers(loaded)
    chosen = {
        family: choose_layers(backbone, patterns.get("", []) + patterns.get(family, []))
        for family, backbone in loaded.items()
    }
    if args.cam_class is not None:
        heads = [backbone for backbone in loaded.values() if backbone.labels]
        if not heads:
            raise BadInput(f"--cam-class {args.cam_class}: none of the models has a head with classes.")
        for backbone in heads:
            class_number(args.cam_class, backbone)
    if args.workers is None:
        args.workers = min(4, runs.core_count() - 1)
    pairs, bad = choose_triplets(args)
    if args.save_activations:
        check_space(args, sum(saved_bytes(loaded[name], chosen[name], pairs.rows) for name in loaded))
    if args.dry_run:
        runs.say(f"would probe {', '.join(loaded)} on {len(pairs.rows)} triplets of split {args.split}")
        return runs.DONE
    figures_of = [f"{family}_activations_comparison.{end}" for family in FAMILIES for end in ("png", "pdf")]
    old = [str(path.relative_to(run.out)) for path in run.out.glob("activations/*/*.safetensors")]
    run.begin(*WRITTEN, *figures_of, *old)
    return report(args, run, loaded, chosen, pairs, left_out, bad)


def report(args, run, loaded: dict, chosen: dict, pairs, left_out: dict, bad: list[str]) -> int:
    """Probe model after model, write the tables and the figure of all, say the main numbers."""
    from data_prep import triplets
    from models import training

    origin = triplets.origin(pairs.rows)
    device = next(next(iter(loaded.values())).net.parameters()).device
    dtype = training.choose_precision(device, args.amp)
    rows, channels, models = [], [], {}
    for family in list(loaded):
        backbone = loaded.pop(family)
        try:
            found = probe(args, family, backbone, chosen[family], pairs, dtype, origin)
        except (RuntimeError, MemoryError) as error:
            if not training.is_out_of_memory(error):
                raise
            raise SystemExit(f"{family}: out of memory with --batch {args.batch}; lower it.") from None
        rows, channels, models[family] = rows + found[0], channels + found[1], found[2]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    runs.write_csv(args.out / "layers.csv", columns, rows)
    runs.write_csv(args.out / "channels.csv", list(channels[0]) if channels else ["model"], channels)
    sites = len({row["site"] for row in pairs.rows})
    count = f"{len(pairs.rows)} triplets of {sites} sites, split {args.split}"
    layers_figure(args, rows, models, count, origin)
    say_table(rows)
    return run.finish(
        models=models, triplets=len(pairs.rows), sites=sites, split=args.split, compose=args.compose,
        models_left_out=left_out, left_out=bad, device=str(device), precision=str(dtype or "torch.float32"),
    )  # fmt: skip


def say_table(rows: list[dict]) -> None:
    """For each model and kind of weights, the last layer and the input."""
    shown = ("cka", "cka_other", "held_out_auc_rgb", "held_out_auc_sar")
    runs.say(f"{'':42s}" + "".join(f"{name:>18s}" for name in shown))
    last = {(row["model"], row["weights"], row["layer"] == "input"): row for row in rows}
    for row in last.values():
        values = ("null" if row.get(name) is None else f"{row[name]:.3f}" for name in shown)
        label = f"{row['model']}, {row['weights']}, {row['layer']}"
        runs.say(f"{label:42s}" + "".join(f"{value:>18s}" for value in values))


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
