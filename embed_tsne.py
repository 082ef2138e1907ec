"""Embed the RGB and the SAR of triplets, show both clouds in a plane, and measure the gap between them.

    python embed_tsne.py --data runs/default/3_split --model statistics --out runs/embed

In: a triplets folder, and a model: sar-rgb (--weights: best.pt of train_sar_rgb.py), clip or dinov2 (class
token and mean of the patches), or statistics, plain figures of the pictures. Or --embeddings, what an earlier
run wrote. Out: embeddings.parquet (two rows a triplet), projection.png and .pdf (PCA and t-SNE), gap.png and
.pdf, projection.html (one page that needs no network; hover shows the chips), modality_gap.json, .csv and
.md: the gap before and after a shift and a rotation, against shuffled pairs, moved RGB pictures and random
weights, on one date of each piece of ground, and the sentence that answers whether it is a translation.
A stopped run goes on from batches/, which is deleted at the end.
"""

import functools
import importlib.util
import math
import shutil
import signal
import sys
from pathlib import Path

from data_prep import named_paths, runs
from data_prep.runs import BadInput

MODELS = ("sar-rgb", "clip", "dinov2", "statistics")
FROZEN = ("clip", "dinov2")  # families of networks a checkpoint may stand on
EXTRAS = ("pyarrow", "plotly")  # of requirements-extra.txt
FITTED = 32  # grounds of val that corrections are fitted on alone; fewer: train as well. A choice
PERPLEXITY = 30  # of t-SNE, where there are rows enough
DEFAULTS = {"split": "all", "dates": "all", "compose": "vv", "floor": True}  # with --data
CHIPS = 600  # pairs that have chips on the page
KEPT = ("model", "weights_sha256", "compose", "size", "precision")  # what vectors in batches/ depend on
WRITTEN = ("embeddings.parquet", "projection.png", "projection.pdf", "projection.html", "gap.png", "gap.pdf",
           "modality_gap.json", "modality_gap.csv", "modality_gap.md")  # fmt: skip


def check_stop(stop, where: str) -> None:
    if stop.requested:
        raise runs.Interrupted(f"{where}: stopped by {stop.requested}; what was embedded is kept.")


def stop_at_once() -> None:
    """From here on a signal ends the job where it stands: files are written atomically, none is half done."""

    def leave(number, frame):
        raise runs.Interrupted(f"Stopped by {signal.Signals(number).name}; what was embedded is kept.")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, leave)


def load_encoder(args):
    """The encoder of --model on --device; how the radar becomes a picture is its own, or --compose."""
    from models import pair_encoders, training

    given = named_paths.named_paths(args.frozen, FROZEN, "--frozen")
    try:
        device = training.choose_device(args.device)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    more = (given, args.seed, args.size, device, args.amp, runs.say)
    try:
        encoder = pair_encoders.load(args.model, args.weights, *more)
    except ValueError as error:  # CheckpointError is one
        raise BadInput(f"--model {args.model}: {error}.") from None
    encoder.how = encoder.how or args.compose
    encoder.about["compose"] = encoder.how
    return encoder


# ---- embedding ---------------------------------------------------------------------------------------------


def choose_rows(args, encoder, stop):
    """(inputs of the encoder, all rows of the manifest, what is wrong with those left out)."""
    from data_prep import compose, embedding_inputs, sar_rgb_pairs, triplets

    manifest = triplets.read_manifest(args.data)
    rows = manifest.rows if args.split == "all" else manifest.of(args.split).rows
    if args.dates == "one":
        rows = sar_rgb_pairs.one_per_ground(rows, args.seed)
    rows = compose.sample(rows, args.sample, args.seed)[: args.limit]
    if not rows:
        raise BadInput(
            f"{args.data}: split {args.split!r} is empty; choose another --split or run data_prep.split."
        )
    contract = encoder.contract
    if contract and encoder.channels:
        units = "8-bit" if manifest.pictures else "dB"
        kinds = {row["backscatter"] for row in rows}
        if contract["units"] != units or kinds != {contract["backscatter"]}:
            raise BadInput(
                f"{args.data}: holds {units} of {', '.join(sorted(kinds))}, but {args.weights} was trained "
                f"on {contract['units']} of {contract['backscatter']}; embed what it was trained on."
            )
    limits = None
    if encoder.pictures:
        limits = embedding_inputs.limits_for(rows, manifest.rows, encoder.how, args.skip_bad)
    inputs = embedding_inputs.EmbeddingInputs(rows, encoder.how, limits, encoder.channels)
    bad = inputs.inspect(args.skip_bad, lambda: check_stop(stop, "reading"))
    rows = inputs.rows
    if len(rows) < 3 or len({row["site"] for row in rows}) < 2:
        raise BadInput(
            f"{args.data}: {len(rows)} pairs of {len({row['site'] for row in rows})} sites in split "
            f"{args.split!r}; at least 3 pairs of 2 sites are needed to measure a gap."
        )
    return inputs, manifest.rows, bad


def embed(args, inputs, function, clouds: tuple, about: tuple, stop, label: str):
    """Yield (rows, {cloud: (B, d)}) batch by batch; each is kept in batches/ from when it is computed."""
    import numpy as np

    from data_prep import batches, embeddings

    folder = args.out / "batches"
    folder.mkdir(exist_ok=True)
    order = batches.by_size(inputs.rows, args.batch)
    ids = [[inputs.rows[index]["id"] for _, index in keys] for keys in order]
    paths = [folder / f"{embeddings.key(*about, clouds, names)}.npy" for names in ids]
    todo = [k for k, path in enumerate(paths) if embeddings.load(path) is None]
    loader = batches.loader(inputs, [order[k] for k in todo], args.workers)
    for k, batch in zip(todo, runs.progress(loader, len(todo), label), strict=True):
        check_stop(stop, label)
        found = function(batch, clouds)
        vectors = np.stack([found[cloud] for cloud in clouds])
        if not np.isfinite(vectors).all():
            raise BadInput(f"{ids[k][0]}: {label} gives NaN or infinity; run with --amp off.")
        embeddings.save(paths[k], vectors)
    for keys, path in zip(order, paths, strict=True):
        vectors = embeddings.load(path)
        yield [inputs.rows[index] for _, index in keys], dict(zip(clouds, vectors, strict=True))


def write_embeddings(args, encoder, inputs, stop) -> dict:
    """Write embeddings.parquet; returns what made them, as it stands in the file."""
    from data_prep import embedding_files, triplets

    about = {**encoder.about, "origin": triplets.origin(inputs.rows), "seed": args.seed}
    key = ("embedded", *(about.get(name) for name in KEPT))
    parts = embed(args, inputs, encoder.embed, ("rgb", "sar"), key, stop, args.model)
    first, clouds = next(parts)
    path = args.out / "embeddings.parquet"
    with embedding_files.write(path, clouds["rgb"].shape[1], about) as add:
        add(first, clouds["rgb"], clouds["sar"])
        for rows, clouds in parts:
            add(rows, clouds["rgb"], clouds["sar"])
    return about


def floors(args, encoder, inputs, table: dict, places, stop) -> dict:
    """{"moved": (rgb, the same moved), "random": (rgb, sar)} of the table's pairs at `places`."""
    import numpy as np

    ids = [table["rows"][k]["id"] for k in places]

    place = {name: k for k, name in enumerate(ids)}
    inputs.rows = [row for row in inputs.rows if row["id"] in place]
    key = (*(encoder.about.get(name) for name in KEPT), args.seed)
    found = {}
    for name, function, clouds in (
        ("moved", encoder.embed, ("rgb_moved",)), ("random", encoder.random, ("rgb", "sar"))
    ):  # fmt: skip
        if function is None:
            continue
        kept = None
        for rows, vectors in embed(args, inputs, function, clouds, (name, *key), stop, f"floor, {name}"):
            if kept is None:
                kept = [np.empty((len(ids), vectors[clouds[0]].shape[1]), np.float32) for _ in clouds]
            where = [place[row["id"]] for row in rows]
            for cloud, values in zip(clouds, kept, strict=True):
                values[where] = vectors[cloud]
        found[name] = [table["rgb"][places], *kept] if name == "moved" else kept
    return found


# ---- measuring ---------------------------------------------------------------------------------------------


def choose_measured(rows: list[dict], about: dict, seed: int):
    """(places that are measured, which of them corrections are fitted on or None for folds, how it is said).

    One date of each ground. Sites a checkpoint has seen (about["seen"], hashes of names; of one that does not
    say, those of train and val) are not judged where three pairs of two other sites are there: corrections
    are fitted on them, on val alone where it has FITTED grounds of two sites: the net was not trained on it.
    """
    import numpy as np

    from data_prep import sar_rgb_pairs

    grounds = [{"id": row["id"], "site": row["ground"], "row": "", "col": ""} for row in rows]
    kept = {row["id"] for row in sar_rgb_pairs.one_per_ground(grounds, seed)}
    places = np.array([k for k, row in enumerate(rows) if row["id"] in kept])
    splits, sites = (np.array([rows[k][name] for k in places]) for name in ("split", "site"))
    hashes = about.get("seen")
    if not isinstance(hashes, list):
        seen, judged, where = np.isin(splits, ("train", "val")), splits == "test", "split test"
        if not about.get("trained_on_these_splits"):
            seen[:] = False
        elif seen.any():
            runs.say("the checkpoint does not say which sites it has seen; taken for it: train and val")
    else:
        hashes = set(map(str, hashes))
        known = {site for site in set(sites) if sar_rgb_pairs.seen_sites([{"site": site}])[0] in hashes}
        seen = np.array([site in known for site in sites])
        judged, where = ~seen, f"{len(set(sites[~seen]))} sites the model has not seen"
        leaked = sorted(set(sites[seen & (splits == "test")]))
        if leaked:
            runs.say(
                f"the model has seen {len(leaked)} of {len(set(sites[splits == 'test']))} sites of split "
                f"test ({', '.join(leaked[:4])}{', ...' if len(leaked) > 4 else ''}): they are not judged"
            )
    if not seen.any():
        return places, None, "corrections by folds of sites"
    if judged.sum() < 3 or len(set(sites[judged])) < 2 or seen.sum() < 3:
        runs.say("too few pairs of sites the model has not seen: it is judged on pairs it was trained on")
        return places, None, "judged on pairs the model was trained on, corrections by folds of sites"
    fit, on = seen, "sites it has seen" if isinstance(hashes, set) else "train and val"
    chosen_by = seen & (splits == "val")
    if chosen_by.sum() >= FITTED and len(set(sites[chosen_by])) >= 2:
        fit, on = chosen_by, "val"
    used = fit | judged
    return places[used], fit[used], f"judged on {where}, corrections fitted on {on}"


def measure(table: dict, places, train, others: dict, path: Path, seed: int) -> dict:
    """gap.measure of the model's clouds and of the floors, all on the same pairs."""
    import numpy as np

    from models import gap

    sites = np.array([table["rows"][k]["site"] for k in places])
    whole = len(places) == len(table["rows"])
    pairs = {"model": [cloud if whole else cloud[places] for cloud in (table["rgb"], table["sar"])], **others}
    found = {}
    for name, (a, b) in pairs.items():
        runs.say(f"measuring {len(a)} pairs of {a.shape[1]} dimensions: {name}")
        try:
            found[name] = gap.measure(a, b, sites, train, seed)
        except ValueError as error:
            raise BadInput(f"{path}: {name}: {error}.") from None
    return found


def project(args, table: dict) -> tuple:
    """(places of the pairs shown, {name: (2 n, 2)}, figures): both clouds in a plane, RGB rows first."""
    import numpy as np

    from data_prep import compose
    from models import gap, projection

    chosen = {row["id"] for row in compose.sample(table["rows"], args.points // 2, args.seed)}
    shown = np.array([k for k, row in enumerate(table["rows"]) if row["id"] in chosen])
    both = np.concatenate([gap.unit(table["rgb"]), gap.unit(table["sar"])])
    rows = np.concatenate([shown, shown + len(table["rows"])])
    plane, shares = projection.pca(both)
    both, planes = both[rows], {"PCA": plane[rows]}
    del plane
    perplexity = choose_perplexity(args, len(table["rows"]))
    planes["t-SNE"] = projection.tsne(both, perplexity, args.seed)
    figures = {"pairs_shown": len(shown), "perplexity": perplexity, "pca_shares": shares}
    figures |= {name: projection.trust(both, plane, args.seed) for name, plane in planes.items()}
    return shown, planes, figures


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    flags = ("--config", "--seed", "--device", "--amp", "--workers", "--limit", "--overwrite", "--dry-run")
    parser = runs.get_parser(__doc__, *flags)
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH", help="triplets folder")
    add("--embeddings", type=Path, metavar="PARQUET", help="measure these, in place of --data and --model")
    add("--out", type=Path, required=True, metavar="DIR", help="the only folder this job writes into")
    add("--model", choices=MODELS, help="what takes pictures to vectors (needed with --data)")
    weights = "sar-rgb: its checkpoint; clip, dinov2: folder, hub name or random (default: the hub's)"
    add("--weights", metavar="PATH", help=weights)
    frozen = "weights of the frozen network a sar-rgb checkpoint was trained on (default: the hub's)"
    add("--frozen", nargs="+", metavar="NAME=PATH", help=frozen)
    add("--split", choices=("train", "val", "test", "all"), help="of triplets (default all)")
    add("--dates", choices=("one", "all"), help="of each ground that are embedded (default all)")
    add("--sample", type=int, metavar="N", help="only N of the split's triplets, chosen by --seed")
    add("--compose", choices=("vv", "vh", "vv,vh,ratio"), help="radar bands as a picture (default vv)")
    add("--size", type=int, metavar="PX", help="longer side of what clip and dinov2 see (default: their own)")
    add("--batch", type=int, default=16, metavar="N", help="triplets at once")
    add("--perplexity", type=float, metavar="X", help=f"of t-SNE (default {PERPLEXITY}, less of few pairs)")
    add("--points", type=int, default=5000, metavar="N", help="rows in the plane, two a pair")
    add(
        "--no-floor", dest="floor", action="store_false", default=None, help="no moved RGB, no random weights"
    )
    add("--skip-bad", action="store_true", help="leave damaged triplets out, by name, instead of stopping")
    return parser


def check(args) -> None:
    if (args.data is None) == (args.embeddings is None):
        raise BadInput("give either --data with --model, or --embeddings, and not both.")
    if args.data is not None and args.model is None:
        raise BadInput(f"--model is missing; it is one of {', '.join(MODELS)}.")
    if args.embeddings is not None and (args.model or args.weights):
        raise BadInput("--embeddings takes no --model and no --weights: the vectors are there.")
    given = [name for name in ("split", "dates", "sample", "compose", "limit", "floor", "frozen", "size")
             if getattr(args, name) is not None]  # fmt: skip
    if args.embeddings is not None and given:
        flags = ", ".join({"floor": "--no-floor"}.get(name, f"--{name}") for name in given)
        raise BadInput(
            f"--embeddings takes no {flags}: all its rows are measured, and there are no pictures."
        )
    for name, value in DEFAULTS.items() if args.data else ():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    if args.model == "sar-rgb" and not args.weights:
        raise BadInput("--model sar-rgb needs --weights, a checkpoint of train_sar_rgb.py.")
    if args.model == "statistics" and args.weights:
        raise BadInput(f"--weights {args.weights}: --model statistics has none.")
    if args.frozen and args.model != "sar-rgb":
        raise BadInput("--frozen goes with --model sar-rgb.")
    if args.size and args.model not in ("clip", "dinov2"):
        raise BadInput("--size goes with --model clip and dinov2.")
    if args.batch < 1 or args.points < 6 or (args.sample is not None and args.sample < 1):
        raise BadInput("--batch and --sample must be positive, --points at least 6.")
    source = args.data or args.embeddings
    if not source.exists():
        raise BadInput(f"{source}: no such file or folder.")
    if args.data and args.out.exists() and args.out.samefile(args.data):
        raise BadInput(f"{args.out}: holds the input; choose another --out.")
    if args.embeddings and args.embeddings.resolve() == (args.out / "embeddings.parquet").resolve():
        raise BadInput(f"{args.embeddings}: lies where this job writes; choose another --out.")
    lacking = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if lacking:
        pip = "python -m pip install -r requirements-extra.txt"
        raise BadInput(f"{' and '.join(lacking)} is missing; install it with {pip}.")


def choose_perplexity(args, pairs: int) -> float:
    """--perplexity if t-SNE can take it of so many pairs; without one PERPLEXITY, or less of few pairs."""
    from models import projection

    rows = 2 * min(pairs, args.points // 2)
    most = projection.largest_perplexity(rows)
    if args.perplexity is None:
        return min(PERPLEXITY, math.floor(most))
    if not 0 < args.perplexity <= most:
        raise BadInput(
            f"--perplexity {args.perplexity:g}: is not above 0, or too large for the {rows} rows that are "
            f"shown: {most:.2f} is the largest possible."
        )
    return args.perplexity


def main(args) -> int:
    check(args)
    files = [Path(path) for path in named_paths.named_paths(args.frozen, FROZEN, "--frozen").values()]
    files += [Path(args.weights)] if args.weights else []
    inputs = runs.triplets_inputs(args.data) if args.data else [args.embeddings]
    run = runs.Run(args, [*inputs, *(path for path in files if path.exists())])
    if run.finished():
        return runs.DONE
    stop = runs.StopSignal()
    if args.workers is None:
        args.workers = min(4, runs.core_count() - 1)
    if args.embeddings:
        return from_embeddings(args, run, stop)
    from models import training

    training.use_huge_pages()
    encoder = load_encoder(args)
    check_stop(stop, "loading")
    found, everything, bad = choose_rows(args, encoder, stop)
    choose_perplexity(args, len(found.rows))  # before anything is computed
    if args.dry_run:
        runs.say(f"would embed {len(found.rows)} triplets of split {args.split} with {args.model}")
        return runs.DONE
    run.begin(*WRITTEN)
    if args.overwrite:
        shutil.rmtree(args.out / "batches", ignore_errors=True)
    try:
        about = write_embeddings(args, encoder, found, stop)
        from data_prep import embedding_files

        table = embedding_files.read(args.out / "embeddings.parquet")
        by_id = {row["id"]: row for row in found.rows}
        places, train, judged = choose_measured(table["rows"], about, args.seed)
        others = floors(args, encoder, found, table, places, stop) if args.floor else {}
    except (RuntimeError, MemoryError) as error:
        if not training.is_out_of_memory(error):
            raise
        raise SystemExit(f"embed_tsne.py: out of memory with --batch {args.batch}; lower it.") from None
    check_stop(stop, "embedding")
    chips = functools.partial(make_chips, args, encoder.how, by_id, everything)
    code = report(args, run, table, (places, train, judged), others, chips, left_out=bad)
    shutil.rmtree(args.out / "batches", ignore_errors=True)
    return code


def from_embeddings(args, run, stop) -> int:
    """Measure and project what a Parquet file holds; there are no pictures for chips, and no floors."""
    from data_prep import embedding_files

    table = embedding_files.read(args.embeddings)
    check_stop(stop, "reading")
    rows = table["rows"]
    if len(rows) < 3 or len({row["site"] for row in rows}) < 2:
        raise BadInput(
            f"{args.embeddings}: {len(rows)} pairs of {len({row['site'] for row in rows})} sites; at least 3 "
            "pairs of 2 sites are needed to measure a gap."
        )
    choose_perplexity(args, len(rows))
    if args.dry_run:
        runs.say(f"would measure {len(rows)} pairs")
        return runs.DONE
    run.begin(*WRITTEN[1:])
    measured = choose_measured(rows, table["about"], args.seed)
    return report(args, run, table, measured, {}, lambda ids: {}, left_out=[])


def make_chips(args, how: str, by_id: dict, everything: list[dict], ids: list[str]) -> dict:
    """Chips of the first CHIPS of `ids`."""
    from data_prep import embedding_inputs

    rows = [by_id[name] for name in ids[:CHIPS]]
    limits = embedding_inputs.limits_for(rows, everything, how, args.skip_bad)
    return embedding_inputs.chips(rows, how, limits)


def report(args, run, table: dict, measured: tuple, others: dict, chips, left_out: list[str]) -> int:
    """Measure, project, write the tables, the figures and the page, say the main numbers."""
    stop_at_once()
    from data_prep import embedding_figures, embedding_page, embedding_words, gap_tables
    from models import gap, gap_verdict

    (places, train, judged), about = measured, dict(table["about"])
    if isinstance(about.get("seen"), list):
        about["seen_sites"] = len(about.pop("seen"))  # a line for each site
    found = measure(table, places, train, others, args.embeddings or args.data, args.seed)
    shown, planes, plane_figures = project(args, table)
    word, sentence = gap_verdict.verdict(found["model"])
    rows, origin = [table["rows"][k] for k in shown], embedding_words.origin(about)
    of = embedding_words.measured(found["model"], judged)
    answer = f"{sentence} By {origin}; {of}."
    note = embedding_words.note(rows, len(table["rows"]), plane_figures, args.points, args.seed)
    found = {"verdict": word, "sentence": sentence, "judged": judged, "about": about, **found}
    gap_tables.write(args.out, found, gap.TREATMENTS, ["# SAR against RGB in embedding space", "", answer])
    title, planes = f"RGB and SAR embeddings: {origin}", embedding_words.named(planes, plane_figures)
    embedding_figures.projection(args.out / "projection.png", rows, planes, title, note)
    embedding_figures.retrieval(
        args.out / "gap.png", found, gap.TREATMENTS, gap.AT, (gap_verdict.NEARLY_NONE, gap_verdict.HALF),
        f"Do pairs find each other? {origin}", f"{of[0].upper()}{of[1:]}. Bars: 95 % over sites.",
    )  # fmt: skip
    pictures = chips([row["id"] for row in rows])
    words = embedding_words.page(title, answer, note, CHIPS if pictures else 0)
    size = embedding_page.write(args.out / "projection.html", rows, planes, pictures, words)
    runs.say(note)
    if train is not None:
        norms = [found["model"][name]["norm"] for name in ("gap", "gap_of_fitted")]
        runs.say(f"length of the gap: {norms[0]:.3f} on the judged pairs, {norms[1]:.3f} on those fitted on")
    runs.say(answer)
    return run.finish(
        verdict=word, sentence=sentence, judged=judged, about=about, pairs=len(table["rows"]),
        pairs_measured=found["model"]["pairs"], sites_measured=found["model"]["sites"],
        gallery=found["model"]["raw"]["sar_to_rgb"]["gallery"],
        projection=plane_figures, chips=len(pictures), page_bytes=size, left_out=left_out,
        gap=found["model"]["gap"], gap_of_fitted=found["model"].get("gap_of_fitted"),
        retrieval={t: {way: found["model"][t][way] for way in gap_tables.WAYS} for t in gap.TREATMENTS},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
