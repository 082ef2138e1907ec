"""Speed of the U-Net as the jobs run it against the same net in plain float32 NCHW, alternating in one run.

    python bench/unet.py --out bench/results/unet_cpu.json

Prints the ratio of training and inference, and the share of the machine's bf16 matmul rate (4096 x 4096,
same run) that the convolutions reach: FLOPs of the forward pass by torch's counter, three times that for a
training step.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_prep import runs  # noqa: E402
from models import training  # noqa: E402

training.use_huge_pages()
training.keep_memory()

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from models import losses  # noqa: E402
from models.unet import UNet  # noqa: E402

BANDS = 2


def as_trained(args, images, masks, device, dtype, plain: bool):
    """A function that makes one training step: the job's own, or plain float32 NCHW with torch's defaults."""
    torch.manual_seed(0)
    net = UNet(BANDS, args.width)
    if plain:
        net = net.to(device)
        optimizer = torch.optim.AdamW(net.parameters())
    else:
        learner = training.Learner(net, device, dtype, 1e-3, 0.01, 0.99, 1000, 10)
    counts = losses.count_valid(masks)

    def step():
        x = images if plain else images.contiguous(memory_format=torch.channels_last)
        with contextlib.nullcontext() if plain else training.autocast(device, dtype):
            logits = net(x)
        loss = losses.segmentation_loss(logits, masks, *counts)
        if plain:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        else:
            learner.scaler.scale(loss).backward()
            learner.step(0)

    net.train()
    return step


def as_inferred(args, images, device, dtype, plain: bool):
    """A function that predicts the batch: the job's Predictor, or plain float32 NCHW."""
    torch.manual_seed(0)
    net = UNet(BANDS, args.width).eval()
    if not plain:
        predictor = training.Predictor(net, {"mean": [0.0] * BANDS, "std": [1.0] * BANDS}, device, dtype)
        return lambda: predictor(images)
    net = net.to(device)

    def predict():
        with torch.inference_mode():
            return torch.sigmoid(net(images).float())

    return predict


def seconds(function, device) -> float:
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, default in (
        ("--width", 64),
        ("--batch", 4),
        ("--side", 256),
        ("--rounds", 7),
        ("--warm-up", 4),
    ):
        parser.add_argument(flag, type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    device = training.choose_device(args.device)
    dtype = training.choose_precision(device)
    if dtype is None:
        print("this machine multiplies no bf16 or fp16: nothing to compare", file=sys.stderr)
        return runs.BAD_INPUT
    images = torch.randn(args.batch, BANDS, args.side, args.side, device=device)
    masks = torch.randint(0, 2, (args.batch, args.side, args.side), dtype=torch.uint8, device=device)
    square = torch.randn(4096, 4096, device=device).to(dtype)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        UNet(BANDS, args.width).to(device).eval()(images)
    flops = counter.get_total_flops()
    variants = {
        "matmul": (lambda: square @ square, 2 * 4096**3),
        "train": (as_trained(args, images, masks, device, dtype, plain=False), 3 * flops),
        "train_plain": (as_trained(args, images, masks, device, dtype, plain=True), 3 * flops),
        "infer": (as_inferred(args, images, device, dtype, plain=False), flops),
        "infer_plain": (as_inferred(args, images, device, dtype, plain=True), flops),
    }
    for function, _ in variants.values():
        for _ in range(args.warm_up):
            seconds(function, device)
    times = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, (function, _) in variants.items():
            times[name].append(seconds(function, device))
    median = {name: statistics.median(values) for name, values in times.items()}
    rate = {name: variants[name][1] / median[name] / 1e12 for name in variants}
    command = subprocess.list2cmdline(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    report = {
        "command": f"python bench/{command.split(' ', 1)[1]}",
        "git_commit": runs.git_commit(),
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "precision": str(dtype),
        "width": args.width,
        "batch": args.batch,
        "side": args.side,
        "median_seconds": median,
        "spread_seconds": {name: [min(values), max(values)] for name, values in times.items()},
        "teraflops": rate,
        "train_times_faster": median["train_plain"] / median["train"],
        "infer_times_faster": median["infer_plain"] / median["infer"],
        "train_share_of_matmul": rate["train"] / rate["matmul"],
        "infer_share_of_matmul": rate["infer"] / rate["matmul"],
        "versions": runs.versions(),
    }
    if args.out:
        runs.write_json(args.out, report)
    for name in (
        "train_times_faster",
        "infer_times_faster",
        "train_share_of_matmul",
        "infer_share_of_matmul",
    ):
        print(f"{name:24s}{report[name]:.2f}")
    return runs.DONE


if __name__ == "__main__":
    sys.exit(main())
