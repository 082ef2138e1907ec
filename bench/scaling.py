"""Samples a second of training by one and two processes here, and by 8 and 64 GPUs on paper.

    python bench/scaling.py

Measured, alternately in one run and at an equal batch over all: one process of one thread, two of one thread,
one of two threads, each making the steps of train_unet.py on random images. Two processes make every other
step without sharing gradients: the difference is what sharing costs. On paper: the time of a GPU's step is
the net's FLOPs (torch's counter, three times the forward pass) over a stated rate; a ring of n GPUs moves
2 (n - 1) / n times the gradients' bytes over the slowest link between them; both one after the other, or at
once. Writes bench/results/scaling.json, with every assumption, and scaling.md.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_prep import runs  # noqa: E402

BANDS = 2
WAYS = {"1 process": (1, 1), "2 processes": (2, 1), "1 process of 2 threads": (1, 2)}  # (processes, threads)
GPUS = (1, 8, 64)
ASSUMED = {
    "gpu": "H100 SXM",
    "achieved_teraflops": 100,  # a tenth of its 989 dense bf16 (NVIDIA's data sheet): small convolutions
    "gpus_per_node": 8,
    "bytes_per_second_in_node": 300e9,  # of NVLink's 450e9 each way (NVIDIA's data sheet)
    "bytes_per_second_between_nodes": 20e9,  # of one 200 Gbit/s port for a whole node
    "small_sum_seconds": 100e-6,  # the sum of counts, loss and stop flag before each step
    "dollars_per_gpu_hour": 2.5,
    "images_per_gpu_and_step": 32,
    "images_trained": 100_000 * 40,  # tiles times epochs
}


# ---- one process of a measurement --------------------------------------------------------------------------


def worker(args) -> None:
    """Make steps as the job does; the first process prints what it took as JSON."""
    from models import training

    training.use_huge_pages()
    training.keep_memory()
    import torch

    import train_unet
    from models import losses
    from models.unet import UNet

    rank, ranks, device = training.join_processes(torch.device("cpu"))
    dtype = training.choose_precision(device, args.amp)
    torch.manual_seed(0)
    net = UNet(BANDS, args.width)
    learner = training.Learner(net, device, dtype, 1e-3, 0.01, 0.99, 1000, 10)
    forward = training.share_gradients(net, torch.zeros(1, BANDS, args.side, args.side))
    one, zero = torch.ones(BANDS), torch.zeros(BANDS)
    task = {"forward": forward, "mean": zero, "std": one, "snow_weight": 1.0, "ranks": ranks}
    job = argparse.Namespace(accumulate=1, loss="bce-dice")
    own = args.batch // ranks
    images = torch.randn(own, BANDS, args.side, args.side)
    masks = torch.randint(0, 2, (own, args.side, args.side), dtype=torch.uint8)

    def step() -> None:
        *counts, _, _ = training.sums_of_processes(*losses.count_valid(masks), 0.0, False, device=device)
        train_unet.optimise(learner, task, job, (images, masks), counts, 0)

    def alone() -> None:
        with forward.no_sync():
            step()

    gradients = torch.zeros(sum(p.numel() for p in net.parameters() if p.requires_grad))
    what = {"step": step}
    if ranks > 1:
        what |= {
            "step_without_sharing": alone,
            "all_reduce_alone": lambda: torch.distributed.all_reduce(gradients),
            "small_sum_alone": lambda: training.sums_of_processes(1, 2, 0.0, False, device=device),
        }
    net.train()
    times = {name: [] for name in what}
    for number in range(args.warm_up + args.steps):
        for name, function in what.items():
            training.wait_for_processes()
            began = time.perf_counter()
            function()
            if number >= args.warm_up:
                times[name].append(time.perf_counter() - began)
    if rank == 0:
        print(json.dumps({"times": times, "gradient_bytes": gradients.nbytes, "precision": str(dtype)}))


def measure(args, processes: int, threads: int) -> dict:
    """One way's steps in processes of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("width", "batch", "side", "steps", "warm_up", "amp")
    words = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in flags]
    where = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", *words], stdout=subprocess.PIPE, text=True,
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank),
                 "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
        for rank in range(processes)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"scaling.py: {processes} processes of {threads} threads failed.")
    return json.loads(said[0].strip().splitlines()[-1])


def measured(args) -> dict:
    """Median seconds of what each way does, over all rounds, and what follows from them."""
    times, about = {name: {} for name in WAYS}, {}
    for number in range(args.rounds):
        for name, way in WAYS.items():
            about = measure(args, *way)
            for what, seconds in about.pop("times").items():
                times[name].setdefault(what, []).extend(seconds)
            median = statistics.median(times[name]["step"])
            runs.say(f"round {number + 1}/{args.rounds} {name}: {median:.3f} s a step")
    ways = {}
    for name, (processes, threads) in WAYS.items():
        median = {f"{what}_seconds": statistics.median(took) for what, took in times[name].items()}
        ways[name] = {"processes": processes, "threads_each": threads, **median}
        ways[name]["samples_per_second"] = args.batch / median["step_seconds"]
        quartiles = statistics.quantiles(times[name]["step"], n=4)
        ways[name]["step_seconds_quartiles"] = [quartiles[0], quartiles[2]]
    two, base = ways["2 processes"], ways["1 process"]
    two["share_of_sharing"] = 1 - two["step_without_sharing_seconds"] / two["step_seconds"]
    two["share_of_sharing_were_nothing_hidden"] = (
        two["all_reduce_alone_seconds"] + two["small_sum_alone_seconds"]
    ) / two["step_seconds"]
    for way in ways.values():
        way["times_one"] = way["samples_per_second"] / base["samples_per_second"]
    return {"ways": ways, **about}


# ---- on paper ----------------------------------------------------------------------------------------------


def count_flops(width: int, side: int) -> tuple[int, int]:
    """(FLOPs of one image's training step, bytes of the gradients) of the job's net."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from models.unet import UNet, count_parameters

    net = UNet(BANDS, width).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.zeros(1, BANDS, side, side))
    return 3 * counter.get_total_flops(), 4 * count_parameters(net)


def derive(gpus: int, flops: int, gradient_bytes: int, assumed: dict) -> dict:
    """Step, throughput and cost of `gpus` GPUs of which each has its own images, sharing hidden or not."""
    compute = assumed["images_per_gpu_and_step"] * flops / (assumed["achieved_teraflops"] * 1e12)
    place = "in_node" if gpus <= assumed["gpus_per_node"] else "between_nodes"
    moved = 2 * (gpus - 1) / gpus * gradient_bytes
    sharing = moved / assumed[f"bytes_per_second_{place}"]
    small = assumed["small_sum_seconds"] if gpus > 1 else 0.0
    found = {"gpus": gpus, "compute_seconds": compute, "ring_bytes": moved, "ring_seconds": sharing}
    for overlap, step in (("none", compute + sharing + small), ("full", max(compute, sharing) + small)):
        rate = gpus * assumed["images_per_gpu_and_step"] / step
        hours = assumed["images_trained"] / rate / 3600
        found[f"overlap_{overlap}"] = {
            "step_seconds": step, "samples_per_second": rate, "efficiency": compute / step, "hours": hours,
            "dollars": hours * gpus * assumed["dollars_per_gpu_hour"],
        }  # fmt: skip
    return found


def on_paper(widths, side: int, assumed: dict) -> dict:
    nets = {}
    for width in widths:
        flops, gradient_bytes = count_flops(width, side)
        rows = [derive(gpus, flops, gradient_bytes, assumed) for gpus in GPUS]
        nets[str(width)] = {"flops_per_image": flops, "gradient_bytes": gradient_bytes, "rows": rows}
    return {"side": side, "assumed": assumed, "widths": nets}


def page(report: dict) -> str:
    """The note: both tables, and what they rest on."""
    measured, paper, settings = report["measured"], report["paper"], report["settings"]
    two, assumed = measured["ways"]["2 processes"], paper["assumed"]
    lines = [
        "# Training by many processes", "", f"`{report['command']}` writes this page and scaling.json.", "",
        f"## Measured: {report['cores']} cores, load {report['load_before']:.1f} before", "",
        f"U-Net of width {settings['width']}, {settings['batch']} images of {settings['side']} px a step "
        f"over all processes, {measured['precision']}, {settings['rounds']} rounds of {settings['steps']} "
        "steps; medians, quartiles in brackets.", "",
        "| | s a step | images/s | times one process |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, way in measured["ways"].items():
        low, high = way["step_seconds_quartiles"]
        lines.append(
            f"| {name} | {way['step_seconds']:.3f} ({low:.3f}, {high:.3f}) | "
            f"{way['samples_per_second']:.2f} | {way['times_one']:.2f} |"
        )
    lines += [
        "",
        f"Gradients are {measured['gradient_bytes'] / 1e6:.2f} MB. A step of two processes takes "
        f"{two['step_seconds']:.3f} s, without sharing {two['step_without_sharing_seconds']:.3f} s: sharing "
        f"takes {two['share_of_sharing']:.1%} of a step. Alone, the all-reduce takes "
        f"{1e3 * two['all_reduce_alone_seconds']:.2f} ms and the small sum "
        f"{1e3 * two['small_sum_alone_seconds']:.2f} ms, together "
        f"{two['share_of_sharing_were_nothing_hidden']:.1%} of a step.", "",
        "## On paper", "",
        f"Not measured. {assumed['gpu']} at {assumed['achieved_teraflops']} TFLOP/s achieved, "
        f"{assumed['images_per_gpu_and_step']} images of {paper['side']} px for each GPU and step, "
        f"{assumed['gpus_per_node']} GPUs a node, rings at "
        f"{assumed['bytes_per_second_in_node'] / 1e9:.0f} GB/s in a node and "
        f"{assumed['bytes_per_second_between_nodes'] / 1e9:.0f} GB/s between nodes, "
        f"{1e6 * assumed['small_sum_seconds']:.0f} us for the small sum, "
        f"{assumed['dollars_per_gpu_hour']} $ a GPU hour; hours and cost of "
        f"{assumed['images_trained'] / 1e6:.0f} million images. Reading is not counted: at these rates "
        "it needs `--workers`, and may be what limits. A narrow net is bound by memory and computes slower: "
        "sharing is then a smaller part of a step than here.",
    ]  # fmt: skip
    for width, net in paper["widths"].items():
        lines += [
            "",
            f"Width {width}: {net['flops_per_image'] / 1e9:.1f} GFLOP an image, gradients of "
            f"{net['gradient_bytes'] / 1e6:.1f} MB. Sharing after the backward pass, or hidden behind it:",
            "",
            "| GPUs | compute ms | ring ms | images/s | efficiency | hours | $ |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in net["rows"]:
            both = [row["overlap_none"], row["overlap_full"]]
            cells = [
                " to ".join(dict.fromkeys(form(each[name]) for each in both))
                for name, form in (
                    ("samples_per_second", "{:,.0f}".format), ("efficiency", "{:.0%}".format),
                    ("hours", "{:.3g}".format), ("dollars", "{:.3g}".format),
                )
            ]  # fmt: skip
            times = f"{1e3 * row['compute_seconds']:.2f} | {1e3 * row['ring_seconds']:.2f}"
            lines.append(f"| {row['gpus']} | {times} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, default in (
        ("--width", 16), ("--batch", 8), ("--side", 256), ("--steps", 12), ("--warm-up", 3), ("--rounds", 5),
    ):  # fmt: skip
        parser.add_argument(flag, type=int, default=default)
    parser.add_argument("--amp", default="auto", choices=["auto", "off", "bf16", "fp16"])
    for name, value in ASSUMED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder to write into")
    parser.add_argument("--worker", action="store_true", help="be one process of a measurement")
    args = parser.parse_args(argv)
    if args.worker:
        worker(args)
        return runs.DONE
    if args.batch % 2:
        parser.error("--batch must be even: two processes share it")
    assumed = {name: getattr(args, name) for name in ASSUMED}
    load = os.getloadavg()[0]
    words = subprocess.list2cmdline(sys.argv[1:])
    report = {
        "command": f"python bench/scaling.py {words}".strip(), "git_commit": runs.git_commit(),
        "cores": runs.core_count(), "load_before": load,
        "settings": {name: getattr(args, name) for name in ("width", "batch", "side", "steps", "rounds")},
        "measured": measured(args), "paper": on_paper(sorted({args.width, 64}), args.side, assumed),
        "versions": runs.versions(),
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    runs.write_json(args.out / "scaling.json", report)
    runs.write_text(args.out / "scaling.md", page(report))
    runs.say(page(report))
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
