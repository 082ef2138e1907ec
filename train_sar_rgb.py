"""Train a CLIP-style model that brings radar and RGB of one place to nearby points.

    python train_sar_rgb.py --data runs/default/3_split --out runs/default/train_sar_rgb

In: a triplets folder with its splits (or the original's SAR/, RGB/ folders); masks are not needed. Out:
best.pt (highest mean reciprocal rank of validation), last.pt (to go on from), log.jsonl, curves.png,
result.json. An encoder is trained from scratch (unet, resnet18, vit), or is a frozen dinov2 or clip, whose
features are computed once and of which only a head is trained. Interrupted it saves and exits 75; the same
command goes on. Under torchrun all processes share each batch and see its every pair. train_unet.py --init
best.pt starts a U-Net from the radar encoder.
"""

import argparse
import functools
import math
from pathlib import Path

from data_prep import learning, runs
from data_prep.named_paths import named_paths
from data_prep.runs import BadInput

SCRATCH, FROZEN = ("unet", "resnet18", "vit"), ("dinov2", "clip")
KEPT_BYTES = 1 << 30  # of decoded pairs, up to which they are read once and stay in memory
SHOWN = 512  # training rows that retrieval is watched on where there is no validation


# ---- net ---------------------------------------------------------------------------------------------------


def encoders(args) -> dict[str, str]:
    return {"sar": args.sar_encoder, "rgb": args.rgb_encoder}


def load_frozen(args, given: dict, device) -> dict:
    """The frozen networks in use, by "sar" and "rgb"; given: {family: weights}."""
    if not given and not set(encoders(args).values()) & set(FROZEN):
        return {}
    from models import frozen

    try:
        return frozen.load(encoders(args), given, args.seed, device, runs.say)
    except ValueError as error:
        raise BadInput(f"{error}.") from None


def say_encoders(args, frozen: dict) -> dict:
    """What the contract holds of both encoders."""
    about = {f"{name}_encoder": {"name": kind} for name, kind in encoders(args).items()}
    if frozen:
        from models import frozen as frozen_models

        about |= {f"{name}_encoder": frozen_models.about(net) for name, net in frozen.items()}
    if "sar" in frozen:
        about["sar_encoder"]["compose"] = args.compose
    return about


def networks_of(frozen: dict, contract: dict, dtype) -> dict:
    """{name: (function of pictures, what its result depends on)} for data_prep.frozen_features."""
    found = {}
    for name, net in frozen.items():
        from models import frozen as frozen_models

        about = (contract[f"{name}_encoder"]["sha256"], net.size, str(dtype))
        found[name] = functools.partial(frozen_models.features, net, dtype=dtype), about
    return found


def build_net(args, bands: int, frozen: dict):
    """The net to train: of a frozen encoder, the head alone."""
    from models.sar_rgb import SarRgb

    inputs = {"sar": bands, "rgb": 3}
    if frozen:
        from models import frozen as frozen_models

        inputs |= {name: frozen_models.length(net) for name, net in frozen.items()}
    kinds = encoders(args) | dict.fromkeys(frozen, "features")
    return SarRgb(*inputs.values(), *kinds.values(), args.dimensions, args.width, args.depth, args.norm)


# ---- learning ----------------------------------------------------------------------------------------------


def better(record: dict, best: dict) -> bool:
    """Higher mean reciprocal rank, of both ways; lower loss where equal. Without validation: the last."""
    if best["epoch"] < 0 or record["judged_on"] == "train":
        return True
    return (record["mean_reciprocal_rank"], -record["loss"]) > (best["mean_reciprocal_rank"], -best["loss"])


def fit(args, run, learner, task, sets, contract, stop) -> dict:
    """The epochs, going on from last.pt if there is one; returns the figures of the result."""
    from data_prep import batches, sar_rgb_curves, sar_rgb_pairs
    from models import sar_rgb_steps, training

    rank, ranks = task["rank"], task["ranks"]
    plan = {"batch": args.batch, "epochs": args.epochs, "seed": args.seed}
    progress = {"epoch": 0, "batch": 0, "step": 0, "loss_sum": 0.0, "best": {"epoch": -1}}

    def load(path):
        old = {"seen": contract["seen"]}
        return training.load_last(learner, path, contract, plan, "sar-rgb", old)

    saved = training.done_by_first(lambda: learning.last_checkpoint(args, load), learning.LEAVING)
    if saved:
        if rank:
            learner.load(saved)
        learner.net.bound_scale()
        progress = saved["progress"]
    records = run.cut_log(lambda record: record["epoch"] < progress["epoch"]) if rank == 0 else []

    def save(name, **more):
        more |= {"seed": args.seed, "plan": plan, "best": progress["best"]}
        more |= {"epoch": progress["epoch"], "step": progress["step"]}
        state = training.checkpoint(learner.net, contract, model="sar-rgb", **more)
        learning.write_checkpoint(args.out / name, state)

    def save_last():
        if rank == 0:
            save("last.pt", **learner.state(), progress=progress)
        training.wait_for_processes()  # who leaves before it is written would end all

    train, judged = sets["train"], sets["judged"]
    begun = progress["epoch"], args.epochs, progress["batch"]
    order = sar_rgb_pairs.epochs(train.rows, args.batch, args.seed, *begun, rank, ranks)
    train_batches = iter(batches.loader(train, order, args.workers))
    judged_order = batches.by_size(judged.rows, task["judged_batch"])
    judged_batches = batches.loader(judged, judged_order, args.workers, persistent=True)
    job = {
        "save_last": save_last,
        "count": lambda batch: [len(batch[0]) * (place == rank) for place in range(ranks)],
        "sums": functools.partial(training.sums_of_processes, device=learner.device),
        "optimise": functools.partial(sar_rgb_steps.optimise, learner, task),
    }  # fmt: skip

    while progress["epoch"] < args.epochs and not learning.out_of_patience(args, progress):
        epoch = progress["epoch"]
        record = learning.train_one_epoch(
            learner, progress, args.epochs, task["steps_per_epoch"], train_batches, stop, **job
        )
        progress |= {"epoch": epoch + 1, "batch": 0, "loss_sum": 0.0}
        if rank == 0:
            try:
                found = sar_rgb_steps.evaluate(learner, task, judged_batches)
            except ValueError as error:
                raise SystemExit(
                    f"train_sar_rgb.py: {error}; lower --learning-rate or pass --amp off."
                ) from None
            record |= {"judged_on": task["judged_on"], **found}
            improved = better(record, progress["best"])
            if improved:
                progress["best"] = {"epoch": epoch, **record}
                save("best.pt", weights=learner.average.net.state_dict())
            records.append({"epoch": epoch, **record, "peak_memory_mib": runs.peak_memory_mib()})
            run.log(**records[-1])  # before last.pt, or a kill between them would lose the record
            say_epoch(args, records[-1], improved)
        save_last()
        progress["best"] = training.said_by_first(progress["best"])
        learning.say_why_no_more(args, progress)
    if records:
        sar, rgb = encoders(args).values()
        title = f"SAR ({', '.join(contract['bands'])}; {sar}) against RGB ({rgb}){contract['origin']}"
        if any(contract[f"{name}_encoder"].get("random") for name in ("sar", "rgb")):
            title += ", random frozen weights"
        sar_rgb_curves.training_curves(args.out / "curves.png", records, title)
    return {"best": progress["best"], "epochs": progress["epoch"], "steps": progress["step"]}


def say_epoch(args, record: dict, improved: bool) -> None:
    found = " ".join(f"{record[way]['r_at_1']:.3f}" for way in ("sar_to_rgb", "rgb_to_sar"))
    runs.say(
        f"epoch {record['epoch'] + 1}/{args.epochs}  loss {record['train_loss']:.4f}, of the averaged net on "
        f"{record['judged_on']} pairs {record['loss']:.4f}  R@1 of {record['gallery']} {found}  "
        f"MRR {record['mean_reciprocal_rank']:.3f}{' *' if improved else '  '}  "
        f"temperature {record['temperature']:.3f}  gap {record['gap']:.3f}  "
        f"{record['seconds']:.1f} s, data {record['data_share']:.0%}, {record['peak_memory_mib']:.0f} MiB"
    )


# ---- the job -----------------------------------------------------------------------------------------------


def get_parser():
    parser = runs.get_parser(__doc__, *runs.COMMON, data="triplets folder with splits, or the original's")
    add, number, share = parser.add_argument, {"type": int, "metavar": "N"}, {"type": float, "metavar": "X"}
    add("--bands", metavar="A,B", help="radar channels (default vv,vh; grey for PNGs)")
    kinds = "from scratch: unet, resnet18, vit; frozen: dinov2, clip"
    add("--sar-encoder", choices=SCRATCH + FROZEN, default="unet", help=kinds)
    add("--rgb-encoder", choices=SCRATCH + FROZEN, default="unet", help=kinds)
    weights = "folder or hub name of a frozen encoder's weights, or random (default: the hub's)"
    add("--weights", nargs="+", metavar="NAME=PATH", help=weights)
    add(
        "--compose",
        choices=("vv", "vh", "vv,vh,ratio"),
        default="vv",
        help="radar as a frozen encoder sees it",
    )
    add("--dimensions", **number, default=128, help="of the space both are brought to")
    add("--width", **number, default=16, help="of a unet encoder: channels at full resolution")
    add("--depth", **number, default=4, help="of a unet encoder: halvings of the resolution")
    add("--norm", choices=("batch", "group"), default="batch", help="of a unet encoder")
    add("--sync-norm", action="store_true", help="on CUDA: batch norms see the pairs of all processes")
    add("--resume", type=Path, metavar="PT", help="go on from this last.pt if --out holds none")
    add("--epochs", **number, default=40, help="times that each pair is seen")
    add(
        "--batch", **number, default=64, help="pairs a step, over all processes; each is told from the others"
    )
    crop = "side of the training crop (default: the largest tile, at most 256)"
    add("--crop", type=int, metavar="PX", help=crop)
    add("--learning-rate", **share, default=1e-3, help="of AdamW at its height; then a cosine")
    add("--weight-decay", **share, default=1e-2, help="of AdamW; norms and biases have none")
    add("--warm-up", type=float, default=0.05, metavar="S", help="share of the steps")
    add("--ema", **share, default=0.99, help="decay of the weight average that is kept")
    add("--alignment", **share, default=0.0, help="weight of the mean squared distance of pairs in the loss")
    add("--uniformity", **share, default=0.0, help="weight of both clouds' uniformity in the loss")
    add("--patience", **number, default=0, help="stop after N epochs without a better one; 0 = never")
    switch = argparse.BooleanOptionalAction
    add("--augment", action=switch, default=True, help="random quarter turns and mirrors, gain")
    add("--gain-db", type=float, default=0.5, metavar="DB", help="random radiometric gain, plus or minus")
    add("--stop-after", type=int, metavar="EPOCH", help="save and exit 75 after this epoch, to go on later")
    add("--cache", type=Path, metavar="DIR", help="of frozen features (default: features/ in --out)")
    add("--compile", action="store_true", help="torch.compile the net")
    add("--skip-bad", action="store_true", help="leave damaged triplets out, by name, instead of stopping")
    return parser


def check(args) -> None:
    positive = ("dimensions", "width", "depth", "epochs", "learning_rate")
    wrong = next((name for name in positive if not 0 < getattr(args, name) < math.inf), None)
    zero = ("weight_decay", "alignment", "uniformity", "patience", "gain_db")
    wrong = wrong or next((name for name in zero if not 0 <= getattr(args, name) < math.inf), None)
    wrong = wrong or next((name for name in ("ema", "warm_up") if not 0 <= getattr(args, name) < 1), None)
    if wrong:
        flag = f"--{wrong.replace('_', '-')} {getattr(args, wrong)}"
        raise BadInput(
            f"{flag}: out of range (counts and rates are positive, "
            "weights zero or more, --ema and --warm-up lie in 0..1)."
        )
    if args.batch < 2:
        raise BadInput(
            f"--batch {args.batch}: must be at least 2, a pair is told from the others of its batch."
        )
    if args.crop is not None and args.crop < 1 << args.depth:
        raise BadInput(f"--crop {args.crop}: must be at least {1 << args.depth} for --depth {args.depth}.")
    if args.bands and args.sar_encoder in FROZEN:
        raise BadInput(f"--bands {args.bands}: a frozen {args.sar_encoder} sees a picture; choose --compose.")
    if args.cache and args.cache.exists() and not args.cache.is_dir():
        raise BadInput(f"--cache {args.cache}: is a file, expected a folder.")
    if args.resume and not args.resume.is_file():
        raise BadInput(f"{args.resume}: no such checkpoint.")


def main(args) -> int:
    given = named_paths(args.weights, FROZEN, "--weights")
    files = [Path(path) for path in given.values() if Path(path).exists()]
    run = runs.Run(args, [*runs.triplets_inputs(args.data), *files])
    with learning.first_speaks():
        if run.finished():
            return runs.DONE
        check(args)
        return train(args, run, given, runs.StopSignal())


def train(args, run, given: dict, stop) -> int:
    """Check the input, build the net, train it, write the result."""
    import torch

    from data_prep import compose, frozen_features, sar_rgb_input, sar_rgb_pairs, triplets
    from models import training
    from models.unet import count_parameters

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
    frozen = load_frozen(args, given, device)
    look = functools.partial(learning.stop_if, stop)

    def read():
        bands = args.bands
        if args.sar_encoder in FROZEN and not triplets.read_manifest(args.data).pictures:
            bands = ",".join(compose.COMPOSE[args.compose])
        found = sar_rgb_input.load(args.data, bands, args.limit, args.skip_bad, look)
        return *found, sar_rgb_pairs.check_batches(found[0]["train"].rows, args.batch, ranks)

    data, contract, everything, steps_per_epoch = training.done_by_first(read, learning.LEAVING)
    rows = data["train"].rows
    judged = sar_rgb_pairs.one_per_ground(data["val"].rows, args.seed)
    judged_on = "val" if len(judged) > 1 else "train"
    if judged_on == "train":
        judged = sar_rgb_pairs.one_per_ground(rows, args.seed)[:SHOWN]
        runs.say("no validation pairs: best.pt is the last epoch, and retrieval is watched on training pairs")
    largest, largest_judged = (
        max(max(triplets.picture_size(row)) for row in part) for part in (rows, judged)
    )
    size = args.crop or min(256, largest)
    contract |= {"tile": size, **say_encoders(args, frozen)}
    channels = contract["bands"]
    torch.manual_seed(args.seed)
    net = build_net(args, len(channels), frozen)
    if args.sync_norm:
        net = training.norms_over_processes(net)
    elif ranks > 1 and training.has_batch_norm(net):
        runs.say(
            f"batch norms see the pairs of one process, {args.batch // ranks} of {args.batch}; --norm group "
            "of unet encoders needs no sharing"
        )
    steps = steps_per_epoch * args.epochs
    warm_up = max(1, round(args.warm_up * steps))
    learner = training.Learner(
        net, device, dtype, args.learning_rate, args.weight_decay, args.ema, steps, warm_up
    )
    pictures = {"sar": (len(channels), size, size), "rgb": (3, size, size)}
    shapes = [(net.arguments[f"{name}_bands"],) if name in frozen else pictures[name] for name in pictures]
    forward = training.share_gradients(net, *(torch.zeros(1, *shape, device=device) for shape in shapes))
    task = {
        "rank": rank, "ranks": ranks, "steps_per_epoch": steps_per_epoch,
        "forward": torch.compile(forward) if args.compile else forward, "judged_on": judged_on,
        "batch": args.batch, "seed": args.seed, "alignment": args.alignment, "uniformity": args.uniformity,
        # no more pixels than in training
        "judged_batch": max(1, args.batch // ranks * size**2 // max(largest_judged, size) ** 2),
    }  # fmt: skip
    for name, prefix in (("sar", ""), ("rgb", "rgb_")):
        task[name] = [torch.tensor(contract[f"{prefix}{what}"], device=device) for what in ("mean", "std")]
    runs.say(
        f"SAR ({args.sar_encoder}) and RGB ({args.rgb_encoder}), {count_parameters(net) / 1e6:.2f} M "
        f"parameters to train on {device.type}, {dtype or torch.float32}; {len(rows)} pairs train, "
        f"{len(judged)} grounds of {judged_on} judged; {steps} steps of {len(rows) // steps_per_epoch} x "
        f"{size} px" + (f", {ranks} processes" if ranks > 1 else "")
    )
    if args.dry_run:
        return runs.DONE
    if rank == 0:
        run.begin("last.pt", "best.pt")
    training.wait_for_processes()

    together = runs.Interrupted("Stopped before training.")

    def meet():  # all of them, or all leave
        training.wait_for_processes()
        if any(training.sums_of_processes(bool(stop.requested), device=device)):
            raise together

    outcome = None
    try:
        turns = sar_rgb_pairs.TURNS if args.augment else 1
        networks = networks_of(frozen, contract, dtype)
        kept = args.cache or args.out / "features"
        among = {"rank": rank, "ranks": ranks, "wait": meet}
        try:
            vectors = [
                frozen_features.of_both(
                    part, everything, networks, args.compose, args.skip_bad, turned, kept, look, **among
                )
                for part, turned in ((rows, turns), (judged, 1))
            ]
            meet()
        except runs.Interrupted as error:
            if error is not together:  # the others are still on their way to where this is told
                meet()
            raise
        keep = sar_rgb_pairs.which_fit([rows, judged], channels, KEPT_BYTES // max(1, args.workers))
        change = (size, args.seed, args.augment, args.gain_db)
        sets = {
            "train": sar_rgb_pairs.SarRgbPairs(rows, channels, *change, vectors[0], keep[0]),
            "judged": sar_rgb_pairs.SarRgbPairs(judged, channels, features=vectors[1], keep=keep[1]),
        }
        outcome = fit(args, run, learner, task, sets, contract, stop)
    except (RuntimeError, MemoryError) as error:
        if not training.is_out_of_memory(error):
            raise
    if outcome is None:  # outside the handler, whose traceback keeps the activations alive
        raise SystemExit(
            f"train_sar_rgb.py: out of memory with {args.batch} pairs of {size} px; lower --batch (a pair is "
            "then told from fewer others), --crop or --width."
        )
    if rank:
        return runs.DONE
    counts = {
        split: {"pairs": len(part.rows), "grounds": len({sar_rgb_pairs.ground(row) for row in part.rows})}
        for split, part in data.items()
    }
    said = {name: value for name, value in contract.items() if name != "seen"}  # a line for each site
    return run.finish(
        **outcome, parameters=count_parameters(net), contract=said, data=counts, processes=ranks,
        batch=len(rows) // steps_per_epoch, left_out=data["train"].bad + data["val"].bad,
        precision=str(dtype or torch.float32), device=str(device),
    )  # fmt: skip


if __name__ == "__main__":
    learning.run_and_leave(main, get_parser())
