"""Train a U-Net to map snow from Sentinel-1 backscatter.

    python train_unet.py --data runs/default/3_split --out runs/default/4_train

In: a triplets folder with its splits (or the original's SAR/, Masks/ folders). Out: best.pt (highest
validation IoU), last.pt (to go on from), log.jsonl, curves.png, result.json. Interrupted (SIGTERM, Ctrl-C,
SIGUSR1) it saves and exits 75; the same command goes on from last.pt, to the same weights as if it had never
stopped.
"""

import argparse
import itertools
import math
import shutil
import sys
import time
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

# ---- data --------------------------------------------------------------------------------------------------


def load_data(args) -> tuple[dict, dict, tuple[str, ...]]:
    """Triplets of train and val, checked file by file, their figures, and the input channels."""
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
        figures[split] = triplets.inspect(chosen, channels, args.target, args.skip_bad, f"reading {split}")
        if not figures[split]["snow"] + figures[split]["snow_free"]:
            raise BadInput(f"{args.data}: split {split!r} has no labelled pixel (target {args.target}).")
    manifest.rows = data["train"].rows + data["val"].rows
    manifest.common("backscatter")
    return data, figures, channels


# ---- learning ----------------------------------------------------------------------------------------------


def optimise(learner, task, args, images, masks, step: int) -> float:
    """One step on a batch, in --accumulate parts; returns its loss; the net stays as it is if not finite."""
    import torch

    from models import losses, training

    pixels, count = losses.count_valid(masks)
    total = torch.zeros((), device=learner.device)
    for image, mask in zip(images.chunk(args.accumulate), masks.chunk(args.accumulate), strict=True):
        image, mask = (t.to(learner.device, non_blocking=True) for t in (image, mask))
        x = training.normalise(image, task["mean"], task["std"]).contiguous(memory_format=torch.channels_last)
        with training.autocast(learner.device, learner.dtype):
            logits = task["forward"](x)
        loss = losses.segmentation_loss(logits, mask, pixels, count, args.loss, task["snow_weight"])
        learner.scaler.scale(loss).backward()
        total += loss.detach()
    value = total.item()
    if math.isfinite(value):
        learner.step(step)
    return value


def evaluate(learner, task, args, batches) -> dict:
    """Loss, scores and best threshold of the averaged net over whole validation triplets."""
    import torch

    from models import losses, metrics, training

    net, histogram, total = learner.average.net, metrics.Histogram(), 0.0
    with torch.inference_mode():
        for images, masks, _ in batches:
            images, masks = images.to(learner.device), masks.to(learner.device)
            x = training.normalise(images, task["mean"], task["std"])
            with training.autocast(learner.device, learner.dtype):
                logits = net(x.contiguous(memory_format=torch.channels_last))[:, 0].float()
            counts = task["val_pixels"], task["val_images"]
            total += losses.segmentation_loss(logits, masks, *counts, args.loss, task["snow_weight"]).item()
            histogram.add(torch.sigmoid(logits).cpu().numpy(), masks.cpu().numpy())
    threshold = histogram.best_threshold()
    scores = histogram.summary(0.5 if threshold is None else threshold)
    return {"val_loss": total, "val": scores, "threshold": threshold}


def train_one_epoch(learner, task, args, batches, progress, stop, save_last) -> dict:
    """Go through the rest of the epoch; returns mean loss, and the share of time spent waiting for data."""
    learner.net.train()
    began = mark = said = time.time()
    waited, first = 0.0, progress["step"]
    for images, masks, _ in itertools.islice(batches, task["steps_per_epoch"] - progress["batch"]):
        waited += time.time() - mark
        loss = optimise(learner, task, args, images, masks, progress["step"])
        if not math.isfinite(loss):
            raise SystemExit(
                f"train_unet.py: loss is {loss} at step {progress['step']}; stopped before it could spoil "
                "the weights, last.pt is sound. Lower --learning-rate or pass --amp off."
            )
        progress["step"], progress["batch"] = progress["step"] + 1, progress["batch"] + 1
        progress["loss_sum"] += loss
        mark = time.time()
        if mark - said > 15:
            said, pace = mark, (mark - began) / (progress["step"] - first)
            minutes = pace * (learner.steps - progress["step"]) / 60
            at = f"epoch {progress['epoch'] + 1}/{args.epochs} step {progress['step']}/{learner.steps}"
            runs.say(
                f"{at} loss {loss:.4f}  {pace:.2f} s a step, data {waited / (mark - began):.0%}, "
                f"about {minutes:.1f} min to go"
            )
        if stop.requested:
            save_last()
            at = f"step {progress['step']} of {learner.steps}"
            raise runs.Interrupted(f"{stop.requested} at {at}, saved in last.pt.")
    seconds = time.time() - began
    return {
        "step": progress["step"], "train_loss": progress["loss_sum"] / task["steps_per_epoch"],
        "learning_rate": learner.optimizer.param_groups[0]["lr"], "seconds": seconds,
        "data_share": waited / max(1e-9, seconds),
    }  # fmt: skip


def better(record: dict, best: dict) -> bool:
    """Higher IoU of snow; lower loss where validation has no snow, or nothing else, to score."""
    if record["val"]["balanced_accuracy"] is not None:
        return best["iou"] is None or record["val"]["iou"] > best["iou"]
    return best["loss"] is None or record["val_loss"] < best["loss"]


def fit(args, run, learner, task, data, contract) -> dict:
    """The epochs, going on from last.pt if there is one; returns the figures of the result."""
    import torch

    from data_prep import batches, pictures, triplets
    from models import training

    stop = runs.StopSignal()
    plan = {"batch": args.batch, "epochs": args.epochs, "seed": args.seed}
    start = next((path for path in (args.out / "last.pt", args.resume) if path and path.exists()), None)
    nothing = {"epoch": -1, "iou": None, "loss": None, "threshold": 0.5, "val": None}
    progress = {"epoch": 0, "batch": 0, "step": 0, "loss_sum": 0.0, "best": nothing}
    if start:
        progress = resume(learner, start, contract, plan)
        for name in ("best.pt", "log.jsonl"):
            source = start.parent / name
            if source.exists() and not (args.out / name).exists():  # --resume from another folder
                with runs.atomic(args.out / name) as temporary:
                    shutil.copyfile(source, temporary)
    records = run.cut_log(lambda record: record["epoch"] < progress["epoch"])

    def save(name, **more):
        best = progress["best"]
        more |= {"seed": args.seed, "plan": plan, "best": best}
        more |= {"epoch": progress["epoch"], "step": progress["step"]}
        state = training.checkpoint(learner.net, contract, args.target, best["threshold"], **more)
        path = args.out / name
        with runs.atomic(path) as temporary, runs.disk_errors(path, RuntimeError):
            torch.save(state, temporary)

    def save_last():
        save("last.pt", **learner.state(), progress=progress)

    train, val = data["train"].rows, data["val"].rows
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
    what = {"channels": task["channels"], "target": args.target, "cache": args.cache}
    train_set = batches.TripletDataset(
        train, size=contract["tile"], seed=args.seed, augment=args.augment, gain_db=args.gain_db, **what
    )
    val_set = batches.TripletDataset(val, **what)
    order = batches.epochs(
        len(train), args.batch, args.seed, progress["epoch"], args.epochs, progress["batch"]
    )
    train_batches = iter(batches.loader(train_set, order, args.workers))
    val_order = batches.by_size(val, task["val_batch"])
    val_batches = batches.loader(val_set, val_order, args.workers, persistent=True)

    def out_of_patience():
        return args.patience and progress["epoch"] - 1 - progress["best"]["epoch"] >= args.patience

    while progress["epoch"] < args.epochs and not out_of_patience():
        epoch = progress["epoch"]
        record = train_one_epoch(learner, task, args, train_batches, progress, stop, save_last)
        record |= evaluate(learner, task, args, val_batches)
        progress |= {"epoch": epoch + 1, "batch": 0, "loss_sum": 0.0}
        improved = better(record, progress["best"])
        if improved:
            threshold = 0.5 if record["threshold"] is None else record["threshold"]
            scores = {"iou": record["val"]["iou"], "loss": record["val_loss"], "val": record["val"]}
            progress["best"] = {"epoch": epoch, **scores, "threshold": threshold}
            save("best.pt", weights=learner.average.net.state_dict())
        records.append({"epoch": epoch, **record, "peak_memory_mib": runs.peak_memory_mib()})
        run.log(**records[-1])  # before last.pt, or a kill between them would lose the record
        save_last()
        say_epoch(args, records[-1], improved)
        if out_of_patience():
            runs.say(f"no better epoch in {args.patience}: stopped early")
        elif progress["epoch"] < args.epochs and (stop.requested or progress["epoch"] == args.stop_after):
            raise runs.Interrupted(f"{progress['epoch']} of {args.epochs} epochs done, saved in last.pt.")
    bands = ", ".join(task["channels"]) if len(task["channels"]) <= 6 else f"{len(task['channels'])} bands"
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


def resume(learner, path: Path, contract: dict, plan: dict) -> dict:
    """Load a last.pt of this contract and plan into the learner and return the progress it stands at."""
    from models import training

    try:
        saved = training.load_checkpoint(path, learner.device)
        if saved["contract"] != contract or "progress" not in saved:
            raise training.CheckpointError(f"{path}: was trained on other data or bands")
        training.check_plan(saved, plan, path)
        learner.load(saved)
    except training.CheckpointError as error:
        raise BadInput(f"{error}; pass --overwrite to start anew.") from None
    except (KeyError, RuntimeError, ValueError) as error:
        why = f"does not fit these arguments ({str(error).splitlines()[0]})"
        raise BadInput(f"{path}: {why}; pass --overwrite to start anew.") from None
    runs.say(f"going on from {path}: epoch {saved['progress']['epoch']}, step {saved['progress']['step']}")
    return saved["progress"]


def try_step(args, bands: int, size: int, batch: int) -> None:
    """One step on empty images, in a process of its own; it exits with 1 where memory does not suffice."""
    import torch

    from models import training
    from models.unet import UNet

    device = training.choose_device(args.device)
    net, dtype = UNet(bands, args.width, args.depth, args.norm), training.choose_precision(device, args.amp)
    learner = training.Learner(net, device, dtype, args.learning_rate, args.weight_decay, args.ema, 1, 1)
    zero, one = torch.zeros(bands, device=device), torch.ones(bands, device=device)
    task = {"mean": zero, "std": one, "forward": net, "snow_weight": 1.0}
    masks = torch.zeros(batch, size, size, dtype=torch.uint8)
    whole = argparse.Namespace(**{**vars(args), "accumulate": 1})
    try:
        optimise(learner, task, whole, torch.zeros(batch, bands, size, size), masks, 0)
    except (RuntimeError, MemoryError):
        sys.exit(1)


def out_of_memory(args, bands: int, size: int) -> str:
    """The sentence for a batch that does not fit, naming one that does: a half, a quarter, ... is tried."""
    import multiprocessing

    at_a_time = fits = -(-args.batch // args.accumulate)
    while fits > 1:
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
    return f"train_unet.py: out of memory with {at_a_time} images of {size} px at a time; {advice}."


def take_init(net, path: Path, contract: dict) -> int:
    """Start the net from what fits of a U-Net, or from a SAR-RGB model's radar encoder; returns how much.

    The encoder must be of the net's width, depth and norm, and have read what the net reads.
    """
    from models import sar_rgb, training

    try:
        state = training.load_checkpoint(path, model=None)
        if state["model"] == "unet":
            return training.take_weights(net, state)
        given = sar_rgb.load(path)[0].unet_encoder()
    except ValueError as error:  # a CheckpointError is one
        raise BadInput(f"--init {path}: {str(error).removeprefix(f'{path}: ')}.") from None
    for name in ("bands", "units", "backscatter"):
        theirs, own = state["contract"][name], contract[name]
        if theirs != own:
            theirs, own = (",".join(x) if name == "bands" else x for x in (theirs, own))
            raise BadInput(f"--init {path}: its radar encoder reads {name} {theirs}, not {own}.")
    for name in ("width", "depth", "norm"):
        theirs, own = state["arguments"][name], net.arguments[name]
        if theirs != own:
            raise BadInput(
                f"--init {path}: its radar encoder has {name} {theirs}, not {own}; pass --{name} {theirs}."
            )
    return training.take_weights(net, {"weights": given})


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
    add("--target", choices=("total", "wet"), default="total")
    add("--width", **number, default=16, help="channels at full resolution; 64 is the original's size")
    add("--depth", **number, default=4, help="halvings of the resolution")
    add("--norm", choices=("batch", "group"), default="batch")
    add("--init", type=Path, metavar="PT", help="start from those weights of a checkpoint that fit")
    add("--resume", type=Path, metavar="PT", help="go on from this last.pt if --out holds none")
    add("--epochs", **number, default=40)
    add("--batch", **number, default=8, help="images a step")
    add("--accumulate", **number, default=1, help="parts a batch is cut into, to save memory")
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
    add("--learning-rate", type=float, default=1e-3, metavar="X")
    add("--weight-decay", type=float, default=1e-2, metavar="X")
    add("--warm-up", type=float, default=0.05, metavar="S", help="share of the steps")
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
    if run.finished():
        return runs.DONE
    check(args)
    import torch

    from data_prep import batches, triplets
    from data_prep.channels import planes_by_file
    from models import training
    from models.unet import UNet, count_parameters

    if args.workers is None:
        args.workers = min(4, runs.core_count() - 1)
    data, figures, channels = load_data(args)
    try:
        device = training.choose_device(args.device)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    dtype = training.choose_precision(device, args.amp)
    rows, train = data["train"].rows, figures["train"]
    largest = max(max(triplets.picture_size(row)) for row in rows)
    largest_val = max(max(triplets.picture_size(row)) for row in data["val"].rows)
    at_a_time = -(-args.batch // args.accumulate)
    size = args.crop or min(256, largest + -largest % (1 << args.depth))
    steps_per_epoch = len(batches.shuffled(len(rows), args.batch, 0, 0))
    weight = {"none": 1.0, "balanced": min(100.0, max(0.01, train["snow_free"] / max(1, train["snow"])))}

    contract = {
        "bands": list(channels),
        "units": "8-bit" if data["train"].pictures else "dB",
        "backscatter": data["train"].common("backscatter"),
        "mean": train["mean"],
        "std": train["std"],
        "tile": size,
        "speckle": triplets.speckle_of(rows[0]),
        "reference": triplets.reference_of(rows[0]) if "ref" in planes_by_file(channels) else [],
    }

    training.use_huge_pages()
    training.keep_memory()
    torch.manual_seed(args.seed)
    net = UNet(len(channels), args.width, args.depth, args.norm)
    if args.init:
        taken = take_init(net, args.init, contract)
        runs.say(f"{taken} of {len(net.state_dict())} tensors start from {args.init}")
    steps = steps_per_epoch * args.epochs
    warm_up = max(1, round(args.warm_up * steps))
    learner = training.Learner(
        net, device, dtype, args.learning_rate, args.weight_decay, args.ema, steps, warm_up
    )
    task = {
        "channels": channels,
        "steps_per_epoch": steps_per_epoch,
        "val_pixels": figures["val"]["pixels"],
        "val_images": figures["val"]["images"],
        "val_batch": max(
            1, at_a_time * size**2 // max(largest_val, size) ** 2
        ),  # no more pixels than in training
        "forward": torch.compile(net) if args.compile else net,
        "snow_weight": weight.get(args.snow_weight) or float(args.snow_weight),
        **{name: torch.tensor(train[name], device=device, dtype=torch.float32) for name in ("mean", "std")},
    }
    runs.say(
        f"U-Net of {count_parameters(net) / 1e6:.2f} M parameters on {device.type}, "
        f"{dtype or torch.float32}; {len(rows)} triplets train, {len(data['val'].rows)} val; "
        f"{steps} steps of {args.batch} x {size} px"
    )
    for split, f in figures.items():
        if not f["snow"] or not f["snow_free"]:
            runs.say(
                f"{split} has {'no snow' if not f['snow'] else 'nothing but snow'}: scores of snow "
                f"{'are null' if split == 'val' else 'cannot be learned'}, this run is plumbing"
            )
    if args.dry_run:
        return runs.DONE
    run.begin("last.pt", "best.pt")
    outcome = None
    try:
        outcome = fit(args, run, learner, task, data, contract)
    except (RuntimeError, MemoryError) as error:
        if not training.is_out_of_memory(error):
            raise
    if outcome is None:  # outside the handler, whose traceback keeps the activations alive
        training.give_back_memory()
        raise SystemExit(out_of_memory(args, len(channels), size))
    return run.finish(
        **outcome,
        parameters=count_parameters(net),
        contract=contract,
        classes=figures,
        left_out=data["train"].bad + data["val"].bad,
        precision=str(dtype or torch.float32),
        device=str(device),
    )


if __name__ == "__main__":
    sys.exit(runs.start(main, get_parser()))
