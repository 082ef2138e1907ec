"""Segment Anything beside the U-Net, by every source of prompts, on radar and on RGB; and what it costs.

    python bench/sam.py --weights runs/weights/mobile-sam.safetensors --work runs/sam --out bench/results/sam

At most --chips seeded chips (--sample of the jobs) of the held-out sites of --data, and as many of the real
scenes beside the repository (../shared/data/scenes), curated into the work folder. The radar is stretched by
its whole scene. All methods are judged by score_masks.py in one run per set, on the pixels valid in all of
them. Finished jobs are kept, so it can be stopped and run again. Out: <out>.json with every figure, <out>.md
with the tables.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from data_prep import compose, reporting, runs, triplets  # noqa: E402
from models import prompts  # noqa: E402

os.environ["OMP_NUM_THREADS"] = str(runs.core_count())  # of this process and of the jobs

SHOWN = ("iou", "balanced_accuracy", "f1", "mcc", "auprc", "snow_area_bias")
IMAGES = {"sar": "radar (VV)", "rgb": "RGB"}
KEEPS = ("score", "single", "oracle")
GRID = ("--grid-points", 8)


def job(*words) -> dict:
    """Run a job of this project; returns its result."""
    command = [sys.executable, *map(str, words)]
    runs.say(f"> {shlex.join(command[1:])}")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"sam.py: {shlex.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- what is judged ----------------------------------------------------------------------------------------


def chosen(args, split: str) -> tuple:
    """Words by which jobs take the same chips."""
    return "--split", split, "--sample", args.chips, "--seed", args.seed


def two_bands(args) -> Path:
    """A net that sees VV and VH alone: the one given, or one trained on the training sites of --data."""
    if args.two_bands:
        return args.two_bands
    out = args.work / "two_bands"
    words = ("--epochs", 12, "--batch", 16, "--crop", 128)  # as the U-Net of all bands, of runbook.sh
    job("train_unet.py", "--data", args.data, "--bands", "vv,vh", *words, "--out", out)
    return out / "best.pt"


def sets(args) -> dict:
    """name -> the triplets, split, U-Nets to judge (the first gives prompts), truth for the strata."""
    both = {"unet-vv-vh": two_bands(args)}
    truth = ("--truth", args.truth) if args.truth and args.truth.is_dir() else ()
    found = {
        "held-out simulated sites": {
            "folder": "simulated", "data": args.data, "split": "test",
            "nets": {"unet": args.checkpoint, **both}, "truth": truth,
        },
    }  # fmt: skip
    if args.scenes.is_dir():
        job("-m", "data_prep.curate", "--data", args.scenes, "--out", args.work / "real_triplets")
        data = args.work / "real_triplets"
        found["real scenes"] = {"folder": "real", "data": data, "split": "all", "nets": both, "truth": ()}
    return found


def compare(args, one: dict) -> dict:
    """Map a set by the nets and by SAM on both images, judge all at once; returns the figures."""
    base, some = args.work / one["folder"], chosen(args, one["split"])
    masks = []
    for name, checkpoint in one["nets"].items():
        words = ("--data", one["data"], "--split", one["split"], "--weights", checkpoint)
        job("infer_unet.py", *words, "--out", base / name)
        masks.append(f"{name}={base / name}")
    first = base / next(iter(one["nets"]))
    sam = ("--data", one["data"], *some, "--unet", first, "--weights", args.weights)
    sam += ("--cache", args.work / "embeddings", *GRID)
    mapped = {}
    for image in IMAGES:
        mapped[image] = job("run_sam.py", *sam, "--image", image, "--out", base / image)
        masks += [f"sam-{image}-{source}={base / image / source}" for source in prompts.SOURCES]
    words = ("--data", one["data"], *some, *one["truth"], "--masks", *masks, "--out", base / "judged")
    judged = job("score_masks.py", *words)
    return {"mapped": mapped, "judged": judged, "keeps": keeps(args, base, sam, mapped)}


def keeps(args, base: Path, sam: tuple, mapped: dict) -> dict:
    """IoU by source, image and the rule by which one of SAM's masks is kept; run_sam.py's own table."""
    asked = [source for source in prompts.SOURCES if source != "grid"]
    table = {}
    for image in IMAGES:
        for keep in KEEPS:
            found = mapped[image]
            if keep != "score":
                words = ("--image", image, "--keep", keep, "--prompts", *asked)
                found = job("run_sam.py", *sam, *words, "--out", base / f"{image}_{keep}")
            for source in asked:
                name = prompts.label(source, keep, str(args.weights) == "random")
                scores = found["methods"][name]["scores"]
                table.setdefault(f"{source}, {IMAGES[image]}", {})[keep] = scores["iou"]
    return table


# ---- what it costs -----------------------------------------------------------------------------------------


def costs(args, count: int) -> dict:
    """Seconds of SAM an image without and with cached embeddings, and peak memory by number of images.

    count: chips there are. The encoder's seconds are those of images that were encoded, also where the run
    without cache was interrupted.
    """
    few, many, at = max(1, min(4, count // 4)), min(16, count), args.work / "costs"
    words = ("--data", args.data, *chosen(args, "test"), "--weights", args.weights)
    words += ("--batch", 1, "--overlays", 1)
    names = ("encoder_seconds_per_image", "decoder_seconds_per_image", "peak_memory_mib")
    names += ("encoded", "cache_hits")
    result = {"images": many, "few_images": few, "sources": {}}
    for source in ("otsu-points", "otsu-box"):
        own = (*words, "--prompts", source, "--limit", many, "--cache", at / f"{source}_cache")
        runs_of = [job("run_sam.py", *own, "--out", at / f"{source}_{name}") for name in ("cold", "cached")]
        seconds = [sum(found[name] or 0 for name in names[:2]) for found in runs_of]
        cold, cached = ({name: found[name] for name in names} for found in runs_of)
        result["sources"][source] = {
            "without_cache": cold,
            "with_cache": cached,
            "prompts_an_image": runs_of[0]["prompts"][source] / many,
            "times_faster": seconds[0] / seconds[1],
        }
    own = (*words, "--prompts", "otsu-points", "--limit", few, "--cache", at / "few_cache")
    result["peak_memory_mib_few_images"] = job("run_sam.py", *own, "--out", at / "few")["peak_memory_mib"]
    result["peak_memory_mib"] = result["sources"]["otsu-points"]["without_cache"]["peak_memory_mib"]
    result["peak_memory_ratio"] = result["peak_memory_mib"] / result["peak_memory_mib_few_images"]
    return result


def prompts_at_once(args, rows: list[dict], repeats: int = 7) -> dict:
    """Median seconds of one and of ten boxes on one image, with the encoder and without it."""
    import torch

    from models import sam, training

    net = sam.load(args.weights)
    dtype = training.choose_precision(training.choose_device("cpu"))
    picture, _ = compose.sar_picture(rows[0], "vv", compose.scene_limits(rows[:1], ("vv",)))
    height, width = picture.shape[:2]
    boxes = [
        sam.Prompt(box=np.array([5 * k, 5 * k, width - 40 + 3 * k, height - 40 + 3 * k])) for k in range(10)
    ]
    for _ in range(2):  # the first is slower
        began = time.perf_counter()
        embedding = sam.encode(net, sam.frame(picture)[None], dtype)[0]
        encoder = time.perf_counter() - began
    seconds = {1: [], 10: []}
    for _ in range(repeats):
        for number, some in seconds.items():
            began = time.perf_counter()
            sam.decode(net, embedding, boxes[:number], (height, width))
            some.append(time.perf_counter() - began)
    one, ten = (statistics.median(seconds[number]) for number in (1, 10))
    return {
        "image": [height, width], "threads": torch.get_num_threads(), "encoder_seconds": encoder,
        "one_prompt_seconds": one, "ten_prompts_seconds": ten, "decoder_ratio": ten / one,
        "image_ratio": (encoder + ten) / (encoder + one),
    }  # fmt: skip


# ---- the tables --------------------------------------------------------------------------------------------


def cell(value, low=None, high=None) -> str:
    if value is None:
        return "none"
    return f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def shown_name(method: str) -> str:
    """What a reader needs to know of a method: the image, the source, and whether it has seen the truth."""
    if not method.startswith("sam-"):
        return {"unet": "U-Net, all its bands", "unet-vv-vh": "U-Net, VV and VH"}[method]
    _, image, source = method.split("-", 2)
    label = prompts.label(source).removeprefix("sam-")
    return f"SAM on {IMAGES[image]}: {label}"


def tables(name: str, found: dict) -> list[str]:
    """Markdown of one set."""
    judged, mapped = found["judged"], found["mapped"]
    methods, first = judged["methods"], next(iter(judged["methods"]))
    scores = methods[first]["scores"]
    sizes, share = methods[first]["interval_95"], scores["prevalence"]
    order = sorted(methods, key=lambda method: prompts.ORACLE in shown_name(method))
    pair = {row["other"]: row for row in judged["paired"] if row["score"] == "iou"}
    floor = f"Everything marked as snow: IoU {share:.3f}, F1 {2 * share / (1 + share):.3f}." if share else ""
    lines = [
        f"## {name[0].upper()}{name[1:]}", "",
        f"{judged['judged']} of {judged['triplets']} chips judged, {sizes['sites']} sites "
        f"({sizes['sites_with_snow']} with snow), "
        f"{sizes['scenes']} scenes, {scores['pixels']} pixels valid in all methods and in the label, of "
        f"which {cell(share)} are snow. {floor} In brackets: 95 % intervals over sites. Last column: IoU of "
        f"{shown_name(first)} minus this method's, paired over sites.", "",
        f"| method | {' | '.join(s.replace('_', ' ') for s in SHOWN)} | share marked | without prompt "
        "| difference |",
        "|---" * (len(SHOWN) + 4) + "|",
    ]  # fmt: skip
    for method in order:
        own, limits = methods[method]["scores"], methods[method]["interval_95"]
        values = [cell(own[s], *(limits.get(s) or ())) for s in SHOWN] + [cell(reporting.share_marked(own))]
        without = "" if not method.startswith("sam-") else said_without(method, mapped)
        row = pair.get(method)
        verdict = {True: "", False: ", holds 0", None: ", too few sites to tell"}
        difference = (
            cell(row["difference"], row["low"], row["high"]) + verdict[row["excludes_0"]] if row else ""
        )
        lines.append(f"| {shown_name(method)} | {' | '.join(values)} | {without} | {difference} |")
    lines += ["", "Which of SAM's masks is kept (IoU; pixels valid in these and in the U-Net):", ""]
    heads = ("SAM's score (default)", "its single mask", prompts.ORACLE)
    lines += [f"| source | {' | '.join(heads)} |", "|---" * (len(KEEPS) + 1) + "|"]
    for source, row in found["keeps"].items():
        lines.append(f"| {source} | {' | '.join(cell(row[keep]) for keep in KEEPS)} |")
    return [*lines, ""]


def said_without(method: str, mapped: dict) -> str:
    _, image, source = method.split("-", 2)
    return f"{mapped[image]['without_prompt'][source]} of {mapped[image]['triplets']}"


def seconds_of(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def cost_lines(result: dict) -> list[str]:
    found, more = result["costs"], result["prompts_at_once"]
    lines = [
        "## What it costs", "",
        f"Seconds of SAM an image ({found['images']} images, one at a time); asked: 10 times less with the "
        "embeddings cached.", "",
        "| source | prompts an image | encoder | decoder | encoder, cached | decoder, cached | times less |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for source, row in found["sources"].items():
        seconds = [
            seconds_of(row[kind][f"{part}_seconds_per_image"])
            for kind in ("without_cache", "with_cache")
            for part in ("encoder", "decoder")
        ]
        times = f"{row['times_faster']:.1f}"
        lines.append(f"| {source} | {row['prompts_an_image']:.1f} | {' | '.join(seconds)} | {times} |")
    return [
        *lines, "",
        f"Peak memory {found['peak_memory_mib_few_images']:.0f} MiB for {found['few_images']} images, "
        f"{found['peak_memory_mib']:.0f} MiB for {found['images']}: {found['peak_memory_ratio']:.2f} times.",
        "",
        f"Ten boxes on one image instead of one: decoder {more['one_prompt_seconds']:.3f} s to "
        f"{more['ten_prompts_seconds']:.3f} s ({more['decoder_ratio']:.2f} times), with the encoder "
        f"({more['encoder_seconds']:.2f} s) {more['image_ratio']:.2f} times (asked: under 1.3).", "",
    ]  # fmt: skip


def write(args, result: dict) -> None:
    text = json.dumps(runs.plain(result)).replace(f"{ROOT}/", "")  # it holds the arguments of other jobs
    runs.write_json(args.out.with_suffix(".json"), json.loads(text))
    lines = [
        "# Segment Anything beside the U-Net", "",
        f"`{result['command']}`, commit {result['commit']}, {result['seconds']:.0f} s, {result['machine']}. "
        f"Weights: {result['provenance']}. Judged by `score_masks.py` against the optical label.", "",
        "A prompt from the truth (oracle) tells how far SAM can be led: an upper bound, no result. Otsu's "
        "cut calls the darker side of the radar and the brighter side of RGB snow, in every image. The label "
        "is itself made from optical bands of about the same time, so RGB sees more of what is asked than "
        "radar does.", "",
    ]  # fmt: skip
    for name, found in result["sets"].items():
        lines += tables(name, found)
        if name.startswith("real"):
            lines += ["The U-Net here was trained on simulated scenes alone and never saw a real pixel.", ""]
    runs.write_text(args.out.with_suffix(".md"), "\n".join(lines + cost_lines(result)))


def get_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / "runs/default/3_split", help="simulated triplets, split")
    add("--checkpoint", type=Path, default=ROOT / "runs/default/4_train/best.pt", help="U-Net of --data")
    add("--two-bands", type=Path, help="U-Net of VV and VH (default: trained here, minutes)")
    add("--truth", type=Path, default=ROOT / "runs/default/1_simulate/scenes", help="truth, for the strata")
    add("--scenes", type=Path, default=ROOT.parent / "shared/data/scenes", help="real scenes")
    add("--weights", type=Path, required=True, help="SAM's")
    add("--work", type=Path, required=True, help="folder for what is computed")
    add("--out", type=Path, default=ROOT / "bench/results/sam")
    add("--chips", type=int, default=48)
    add("--seed", type=int, default=0)
    return parser


def main(args) -> None:
    began = time.time()
    for name in ("data", "checkpoint", "two_bands", "truth", "scenes", "weights", "work", "out"):
        path = getattr(args, name)
        setattr(args, name, path and path.resolve())
    rows = compose.sample(triplets.read_manifest(args.data).of("test").rows, args.chips, args.seed)
    found = {name: compare(args, one) for name, one in sets(args).items()}
    mapped = next(iter(found.values()))["mapped"]["sar"]
    result = {
        "command": shlex.join(["python", "bench/sam.py", *sys.argv[1:]]),
        "commit": runs.git_commit(),
        "machine": f"{runs.core_count()} cores of {platform.machine()}, {mapped['device']}, "
        f"{mapped['precision']}",
        "provenance": mapped["provenance"],
        "sets": found,
        "costs": costs(args, len(rows)),
        "prompts_at_once": prompts_at_once(args, rows),
    }
    result["seconds"] = time.time() - began
    write(args, result)


if __name__ == "__main__":
    main(get_parser().parse_args())
