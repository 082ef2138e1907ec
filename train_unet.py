"""Train a U-Net to map snow from Sentinel-1 backscatter.

    python train_unet.py --data runs/default/3_split --out runs/default/4_train

In: a triplets folder with its splits (or the original's SAR/, Masks/ folders). Out: best.pt (highest
validation IoU), last.pt (to go on from), log.jsonl, curves.png, result.json. Interrupted (SIGTERM, Ctrl-C,
SIGUSR1) it saves and exits 75; the same command goes on from last.pt, to the same weights as if it had never
stopped. Under torchrun the processes share each batch, and learn what one process would.
"""

import argparse
import functools
import math
import sys
from pathlib import Path

from data_prep import learning, runs
from data_prep.runs import BadInput

# ---- data --------------------------------------------------------------------------------------------------


def load_data(args, ranks: int, go_on) -> tuple[dict, dict, tuple[str, ...]]:
    """Triplets of train and val, checked file by file, their figures, and the input channels.

    ranks: processes that share a batch. go_on: called after each file, may raise to stop.
    """
    from data_prep import triplets
    from data_prep.channels import check_channels, need_weather

    manifest = triplets.read_manifest(args.data, args.weather)
    bands = args.bands or ("grey" if manifest.pictures else "vv,vh")
    channels = check_channels(tuple(bands.split(",")))
    if not args.weather:
        need_weather(channels, None, f"--bands {bands}")
    data, figures = {}, {}
    for split in ("train", "val"):
        chosen = data[split] = manifest.of(split)
        if args.limit:
            chosen.rows = chosen.rows[: args.limit]
        if not chosen.rows:
            raise BadInput(
                f"{args.data}: no triplet in split {split!r}; assign them with python -m data_prep.split."
            )
        what = (channels, args.target, args.skip_bad, f"reading {split}", go_on)
        figures[split] = triplets.inspect(chosen, *what)
        if not figures[split]["snow"] + figures[split]["snow_free"]:
            raise BadInput(f"{args.data}: split {split!r} has no labelled pixel (target {args.target}).")
    if min(args.batch, len(data["train"].rows)) < ranks * args.accumulate:
        raise BadInput(
            f"--batch {args.batch}: too small, of {len(data['train'].rows)} training triplets, for {ranks} "
            f"processes with --accumulate {args.accumulate}; each part needs one image."
        )
    manifest.rows = data["train"].rows + data["val"].rows
    manifest.common("backscatter")
    return data, figures, channels


# ---- learning ----------------------------------------------------------------------------------------------


def optimise(learner, task, args, batch, counts, step: int) -> float:
    """One step on this process's part of a batch, cut in --accumulate; returns its share of the loss.

    counts: labelled pixels and images (losses.count_valid) of the batch over all processes.
    """
    import torch

    from models import losses, training

    total = torch.zeros((), device=learner.device)
    cut = [whole.tensor_split(args.accumulate) for whole in batch[:2]]  # as many parts in every process
    for number, (image, mask) in enumerate(zip(*cut, strict=True), 1):
        image, mask = (t.to(learner.device, non_blocking=True) for t in (image, mask))
        x = training.normalise(image, task["mean"], task["std"]).contiguous(memory_format=torch.channels_last)
        with training.sharing(task["forward"], number == len(cut[0])):
            with training.autocast(learner.device, learner.dtype):
                logits = task["forward"](x)
            loss = losses.segmentation_loss(logits, mask, *counts, args.loss, task["snow_weight"])
            learner.scaler.scale(loss * task["ranks"]).backward()  # of which the mean over processes is taken
        total += loss.detach()
    share = total.item()
    learner.step(step)
    return share


def evaluate(learner, task, args, batches) -> dict:
    """Loss, scores and best threshold of the averaged net over whole validation triplets of all processes."""
    import numpy as np
    import torch

    from models import losses, metrics, training

    net, histogram, total = learner.average.net, metrics.Histogram(), 0.0
    training.take_from_first(net)
    with torch.inference_mode():
        for images, masks, _ in batches:
            images, masks = images.to(learner.device), masks.to(learner.device)
            x = training.normalise(images, task["mean"], task["std"])
            with training.autocast(learner.device, learner.dtype):
                logits = net(x.contiguous(memory_format=torch.channels_last))[:, 0].float()
            counts = task["val_pixels"], task["val_images"]
            total += losses.segmentation_loss(logits, masks, *counts, args.loss, task["snow_weight"]).item()
            histogram.add(torch.sigmoid(logits).cpu().numpy(), masks.cpu().numpy())
    total, *pixels = training.sums_of_processes(
        total, *histogram.snow, *histogram.snow_free, device=learner.device
    )
    histogram.snow, histogram.snow_free = np.array(pixels, np.int64).reshape(2, -1)
    threshold = histogram.best_threshold()
    scores = histogram.summary(0.5 if threshold is None else threshold)
    return {"val_loss": total, "val": scores, "threshold": threshold}


def better(record: dict, best: dict) -> bool:
    """Higher IoU of snow; lower loss where validation has no snow, or nothing else, to score."""
    if record["val"]["balanced_accuracy"] is not None:
        return best["iou"] is None or record["val"]["iou"] > best["iou"]
    return best["loss"] is None or record["val_loss"] < best["loss"]


def fit(args, run, learner, task, data, contract, stop) -> dict:
    """The epochs, going on from last.pt if there is one; returns the figures of the result."""
    from data_prep import batches, pictures, triplets
    from models import losses, training

    rank, ranks = task["rank"], task["ranks"]
    plan = {"batch": args.batch, "epochs": args.epochs, "seed": args.seed}
    nothing = {"epoch": -1, "iou": None, "loss": None, "threshold": 0.5, "val": None}
    progress = {"epoch": 0, "batch": 0, "step": 0, "loss_sum": 0.0, "best": nothing}

    def load(path):
        return training.load_last(learner, path, contract, plan)

    saved = training.done_by_first(lambda: learning.last_checkpoint(args, load), learning.LEAVING)
    if saved:
        if rank:
            learner.load(saved)
        progress = saved["progress"]
    records = run.cut_log(lambda record: record["epoch"] < progress["epoch"]) if rank == 0 else []

    def save(name, **more):
        best = progress["best"]
        more |= {"seed": args.seed, "plan": plan, "best": best}
        more |= {"epoch": progress["epoch"], "step": progress["step"]}
        state = training.checkpoint(learner.net, contract, args.target, best["threshold"], **more)
        learning.write_checkpoint(args.out / name, state)

    def save_last():
        if rank == 0:
            save("last.pt", **learner.state(), progress=progress)
        training.wait_for_processes()  # who leaves before it is written would end all

    train, val = data["train"].rows, data["val"].rows
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
    what = {"channels": task["channels"], "target": args.target, "cache": args.cache}
    train_set = batches.TripletDataset(
        train, size=contract["tile"], seed=args.seed, augment=args.augment, gain_db=args.gain_db, **what
    )
    val_set = batches.TripletDataset(val, **what)
    begun = progress["epoch"], args.epochs, progress["batch"]
    order = batches.epochs(len(train), args.batch, args.seed, *begun, rank, ranks)
    train_batches = iter(batches.loader(train_set, order, args.workers))
    val_order = batches.by_size(val, task["val_batch"])[rank::ranks]
    val_batches = batches.loader(val_set, val_order, args.workers, persistent=True)
    job = {
        "save_last": save_last, "count": lambda batch: losses.count_valid(batch[1]),
        "sums": functools.partial(training.sums_of_processes, device=learner.device),
        "optimise": functools.partial(optimise, learner, task, args),
    }  # fmt: skip

    while progress["epoch"] < args.epochs and not learning.out_of_patience(args, progress):
        epoch = progress["epoch"]
        record = learning.train_one_epoch(
            learner, progress, args.epochs, task["steps_per_epoch"], train_batches, stop, **job
        )
        record |= evaluate(learner, task, args, val_batches)
        if not math.isfinite(record["val_loss"]):
            raise FloatingPointError(
                f"validation loss is {record['val_loss']} after epoch {epoch + 1}; stopped before it could "
                "spoil last.pt. Lower --learning-rate or pass --amp off."
            )
        progress |= {"epoch": epoch + 1, "batch": 0, "loss_sum": 0.0}
        improved = better(record, progress["best"])
        if improved:
            threshold = 0.5 if record["threshold"] is None else record["threshold"]
            scores = {"iou": record["val"]["iou"], "loss": record["val_loss"], "val": record["val"]}
            progress["best"] = {"epoch": epoch, **scores, "threshold": threshold}
        if rank == 0:
            if improved:
                save("best.pt", weights=learner.average.net.state_dict())
            records.append({"epoch": epoch, **record, "peak_memory_mib": runs.peak_memory_mib()})
            run.log(**records[-1])  # before last.pt, or a kill between them would lose the record
            say_epoch(args, records[-1], improved)
        save_last()
        learning.say_why_no_more(args, progress)
    if records:
        bands = (
            ", ".join(task["channels"]) if len(task["channels"]) <= 6 else f"{len(task['channels'])} bands"
        )
        title = f"U-Net, width {args.width}, {bands}{triplets.origin(train + val)}"
        pictures.training_curves(args.out / "curves.png", records, title)
    return {"best": progress["best"], "epochs": progress["epoch"], "steps": progress["step"]}


def say_epoch(args, record: dict, improved: bool) -> None:
    iou = "none" if record["val"]["iou"] is None else f"{record['val']['iou']:.4f}"
    runs.say(
        f"epoch {record['epoch'] + 1}/{args.epochs}  loss {record['train_loss']:.4f}  "
        f"val loss {record['val_loss']:.4f}  val IoU {iou}{' *' if improved else '  '}  "
        f"{record['seconds']:.1f} s, data {record['data_share']:.0%}, {record['peak_memory_mib']:.0f} MiB"
    )


def try_step(args, bands: int, size: int, batch: int) -> None:
    """One step on empty images, in a process of its own; it exits with 1 where memory does not suffice."""
    import torch

    from models import training
    from models.unet import UNet

    device = training.choose_device(args.device)
    net, dtype = UNet(bands, args.width, args.depth, args.norm), training.choose_precision(device, args.amp)
    learner = training.Learner(net, device, dtype, args.learning_rate, args.weight_decay, args.ema, 1, 1)
    zero, one = torch.zeros(bands, device=device), torch.ones(bands, device=device)
    task = {"mean": zero, "std": one, "forward": net, "snow_weight": 1.0, "ranks": 1}
    masks = torch.zeros(batch, size, size, dtype=torch.uint8)
    whole = argparse.Namespace(**{**vars(args), "accumulate": 1})
    try:
        optimise(learner, task, whole, (torch.zeros(batch, bands, size, size), masks), (1, 1), 0)
    except (RuntimeError, MemoryError):
        sys.exit(1)


def out_of_memory(args, bands: int, size: int, ranks: int) -> str:
    """The sentence for a batch that does not fit, naming one that does: a half, a quarter, ... is tried."""
    import multiprocessing

    at_a_time = fits = -(-args.batch // (ranks * args.accumulate))
    while fits > 1 and ranks == 1:
        fits //= 2
        trial = multiprocessing.get_context("spawn").Process(target=try_step, args=(args, bands, size, fits))
        trial.start()
        trial.join()
        if trial.exitcode == 0:
            parts = -(-args.batch // fits)
            same = "the same" if args.norm == "group" else "the same but for the batch norm's statistics"
            advice = f"{fits} at a time fit: --batch {args.batch} --accumulate {parts} computes {same}"
            break
    else:
        advice = "not even one fits: lower --crop or --width"
        if ranks > 1:  # whose other processes hold memory, and wait
            advice = f"try --accumulate {2 * args.accumulate}, more processes, or a lower --crop or --width"
    return f"train_unet.py: out of memory with {at_a_time} images of {size} px at a time; {advice}."


def take_init(net, path: Path, contract: dict) -> int:
    """Start the net from what fits of a U-Net, or from a SAR-RGB model's radar encoder; returns how much.

    A U-Net must be of the net's norm, an encoder of its width and depth too, and have read what it reads.
    """
    from models import sar_rgb, training

    try:
        state = training.load_checkpoint(path, model=None)
        is_net = state["model"] == "unet"
        given = None if is_net else sar_rgb.load(path)[0].unet_encoder()
    except ValueError as error:  # a CheckpointError is one
        raise BadInput(f"--init {path}: {str(error).removeprefix(f'{path}: ')}.") from None
    for name in () if is_net else ("bands", "units", "backscatter"):
        theirs, own = state["contract"][name], contract[name]
        if theirs != own:
            theirs, own = (",".join(x) if name == "bands" else x for x in (theirs, own))
            raise BadInput(f"--init {path}: its radar encoder reads {name} {theirs}, not {own}.")
    for name in ("norm",) if is_net else ("width", "depth", "norm"):
        theirs, own = state["arguments"].get(name), net.arguments[name]
        if theirs != own:
            whose = "net" if is_net else "radar encoder"
            raise BadInput(
                f"--init {path}: its {whose} has {name} {theirs}, not {own}; pass --{name} {theirs}."
            )
    return training.take_weights(net, state if is_net else {"weights": given})


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    parser = runs.get_parser(__doc__, *runs.COMMON, data="triplets folder with splits, or the original's")
    add, number = parser.add_argument, {"type": int, "metavar": "N"}
    add(
        "--bands",
        metavar="A,B",
        help="input channels, e.g. vv,vh,vh-vv,incidence-angle (default vv,vh; grey for PNGs)",
    )
    add(
        "--weather",
        type=Path,
        metavar="CSV",
        help="daily weather of the sites, for bands temperature-N, degree-days-N, snowfall-N (N days)",
    )
    add("--target", choices=("total", "wet"), default="total", help="total or wet snow")
    add("--width", **number, default=16, help="channels at full resolution; 64 is the original's size")
    add("--depth", **number, default=4, help="halvings of the resolution")
    add("--norm", choices=("batch", "group"), default="batch", help="group: for batches of one or two")
    add("--sync-norm", action="store_true", help="on CUDA: batch norms see the images of all processes")
    add("--init", type=Path, metavar="PT", help="start from those weights of a checkpoint that fit")
    add("--resume", type=Path, metavar="PT", help="go on from this last.pt if --out holds none")
    add("--epochs", **number, default=40, help="passes over the training tiles")
    add("--batch", **number, default=8, help="images a step, over all processes")
    add("--accumulate", **number, default=1, help="parts a process's batch is cut into, to save memory")
    add(
        "--crop",
        type=int,
        metavar="PX",
        help="side of the training crop (default: the largest tile, at most 256)",
    )
    add("--loss", default="bce-dice", help="bce-dice, bce, dice, focal, focal-dice, tversky")
    add(
        "--snow-weight",
        default="none",
        metavar="none|balanced|X",
        help="weight of snow pixels in pixel losses",
    )
    add("--learning-rate", type=float, default=1e-3, metavar="X", help="at its highest, after warm-up")
    add("--weight-decay", type=float, default=1e-2, metavar="X", help="of AdamW")
    add("--warm-up", type=float, default=0.05, metavar="S", help="share of the steps in which it rises")
    add("--ema", type=float, default=0.99, metavar="X", help="decay of the weight average that is kept")
    add("--patience", **number, default=0, help="stop after N epochs without a better one; 0 = never")
    switch = argparse.BooleanOptionalAction
    add("--augment", action=switch, default=True, help="random quarter turns and mirrors, gain")
    add("--gain-db", type=float, default=0.5, metavar="DB", help="random radiometric gain, plus or minus")
    add("--stop-after", type=int, metavar="EPOCH", help="save and exit 75 after this epoch, to go on later")
    add("--cache", type=Path, metavar="DIR", help="keep computed inputs here: for many bands and epochs")
    add("--compile", action="store_true", help="torch.compile the net")
    add("--skip-bad", action="store_true", help="leave damaged triplets out, by name, instead of stopping")
    return parser


def check(args) -> None:
    from models import losses

    if args.loss not in losses.LOSSES:
        raise BadInput(f"--loss {args.loss}: expected one of {', '.join(losses.LOSSES)}.")
    positive = ("width", "depth", "epochs", "batch", "accumulate", "learning_rate")
    wrong = next((name for name in positive if not 0 < getattr(args, name) < math.inf), None)
    if not 0 <= args.weight_decay < math.inf:
        wrong = "weight_decay"
    shares = 0 <= args.ema < 1 and 0 <= args.warm_up < 1
    if wrong or not shares or args.patience < 0 or not 0 <= args.gain_db < math.inf:
        raise BadInput(
            f"--{(wrong or 'patience, gain-db, ema, warm-up').replace('_', '-')}: out of range "
            "(counts and rates are positive, --ema and --warm-up lie in 0..1)."
        )
    if args.accumulate > args.batch:
        raise BadInput(
            f"--accumulate {args.accumulate}: cannot cut a batch of {args.batch} into so many parts."
        )
    if args.crop is not None and args.crop < 1 << args.depth:
        raise BadInput(f"--crop {args.crop}: must be at least {1 << args.depth} for --depth {args.depth}.")
    try:
        if args.snow_weight not in ("none", "balanced") and not 0 < float(args.snow_weight) < math.inf:
            raise ValueError
    except ValueError:
        raise BadInput(
            f"--snow-weight {args.snow_weight}: expected none, balanced or a positive number."
        ) from None
    if args.cache and args.cache.exists() and not args.cache.is_dir():
        raise BadInput(f"--cache {args.cache}: is a file, expected a folder.")
    for path in (args.init, args.resume):
        if path and not path.is_file():
            raise BadInput(f"{path}: no such checkpoint.")


def main(args) -> int:
    weather = [args.weather, args.weather.with_suffix(".json")] if args.weather else []
    run = runs.Run(args, [*runs.triplets_inputs(args.data), *filter(None, [args.init]), *weather])
    with learning.first_speaks():
        if run.finished():
            return runs.DONE
        check(args)
        return train(args, run, runs.StopSignal())


def train(args, run, stop) -> int:
    """Check the input, build the net, train it, write the result."""
    import torch

    from data_prep import batches, triplets
    from data_prep.channels import planes_by_file
    from models import training
    from models.unet import UNet, count_parameters

    if args.workers is None:
        args.workers = min(4, runs.core_count() - 1)
    training.use_huge_pages()
    training.keep_memory()
    try:
        device = training.choose_device(args.device)
        rank, ranks, device = training.join_processes(device, args.sync_norm)
        dtype = training.shared_precision(device, args.amp)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    data, figures, channels = training.done_by_first(
        lambda: load_data(args, ranks, functools.partial(learning.stop_if, stop)), learning.LEAVING
    )
    rows, statistics = data["train"].rows, figures["train"]
    largest = max(max(triplets.picture_size(row)) for row in rows)
    largest_val = max(max(triplets.picture_size(row)) for row in data["val"].rows)
    at_a_time = -(-args.batch // (ranks * args.accumulate))
    size = args.crop or min(256, largest + -largest % (1 << args.depth))
    val_at_a_time = at_a_time * size**2 // max(largest_val, size) ** 2  # no more pixels than in training
    steps_per_epoch = len(batches.shuffled(len(rows), args.batch, 0, 0))
    balanced = statistics["snow_free"] / max(1, statistics["snow"])
    weight = {"none": 1.0, "balanced": min(100.0, max(0.01, balanced))}

    contract = {
        "bands": list(channels),
        "units": "8-bit" if data["train"].pictures else "dB",
        "backscatter": data["train"].common("backscatter"),
        "mean": statistics["mean"],
        "std": statistics["std"],
        "tile": size,
        "speckle": triplets.speckle_of(rows[0]),
        "reference": triplets.reference_of(rows[0]) if "ref" in planes_by_file(channels) else [],
    }

    torch.manual_seed(args.seed)
    net = UNet(len(channels), args.width, args.depth, args.norm)
    if args.init:
        taken = training.done_by_first(lambda: take_init(net, args.init, contract), learning.LEAVING)
        runs.say(f"{taken} of {len(net.state_dict())} tensors start from {args.init}")
    if args.sync_norm:
        net = training.norms_over_processes(net)
    elif ranks > 1 and training.has_batch_norm(net):
        runs.say(
            f"batch norms see the images of one process, {at_a_time} at a time; --norm group needs no sharing"
        )
    steps = steps_per_epoch * args.epochs
    warm_up = max(1, round(args.warm_up * steps))
    learner = training.Learner(
        net, device, dtype, args.learning_rate, args.weight_decay, args.ema, steps, warm_up
    )
    for either in (net, learner.average.net):  # of --init the first has read
        training.take_from_first(either)
    example = torch.zeros(1, len(channels), size, size, device=device)
    forward = training.share_gradients(net, example)
    task = {
        "rank": rank, "ranks": ranks, "channels": channels, "steps_per_epoch": steps_per_epoch,
        "val_pixels": figures["val"]["pixels"], "val_images": figures["val"]["images"],
        "val_batch": max(1, min(val_at_a_time, len(data["val"].rows) // ranks)),  # something for each process
        "forward": torch.compile(forward) if args.compile else forward,
        "snow_weight": weight.get(args.snow_weight) or float(args.snow_weight),
    }  # fmt: skip
    task |= {name: torch.tensor(contract[name], device=device) for name in ("mean", "std")}
    runs.say(
        f"U-Net of {count_parameters(net) / 1e6:.2f} M parameters on {device.type}, "
        f"{dtype or torch.float32}; {len(rows)} triplets train, {len(data['val'].rows)} val; "
        f"{steps} steps of {args.batch} x {size} px" + (f", {ranks} processes" if ranks > 1 else "")
    )
    for split, f in figures.items():
        if not f["snow"] or not f["snow_free"]:
            runs.say(
                f"{split} has {'no snow' if not f['snow'] else 'nothing but snow'}: scores of snow "
                f"{'are null' if split == 'val' else 'cannot be learned'}, this run is plumbing"
            )
    if args.dry_run:
        return runs.DONE
    if rank == 0:
        run.begin("last.pt", "best.pt")
    training.wait_for_processes()
    outcome = None
    try:
        outcome = fit(args, run, learner, task, data, contract, stop)
    except (RuntimeError, MemoryError) as error:
        if not training.is_out_of_memory(error):
            raise
    if outcome is None:  # outside the handler, whose traceback keeps the activations alive
        training.give_back_memory()
        raise SystemExit(out_of_memory(args, len(channels), size, ranks))
    if rank:
        return runs.DONE
    return run.finish(
        **outcome, parameters=count_parameters(net), contract=contract, classes=figures, processes=ranks,
        left_out=data["train"].bad + data["val"].bad, precision=str(dtype or torch.float32),
        device=str(device),
    )  # fmt: skip


if __name__ == "__main__":
    learning.run_and_leave(main, get_parser())
