"""One step of training a SAR-RGB model, and judging it. Needs torch; sar_rgb.py, pair_scores.py, training.py.

task: {"sar" and "rgb": [mean, std] of pictures, "forward": the net to call, "rank": of this process, "batch":
pairs a step, "seed", "alignment" and "uniformity": weights of these terms}.
"""

import torch

from models import pair_scores, sar_rgb, training


def ready(learner, task, name: str, batch: torch.Tensor) -> torch.Tensor:
    """A batch of pictures normalised, or of features as they are, on the device."""
    batch = batch.to(learner.device, non_blocking=True)
    if batch.ndim == 2:
        return batch
    return training.normalise(batch, *task[name]).contiguous(memory_format=torch.channels_last)


def optimise(learner, task, batch, sizes: list, step: int) -> float:
    """One step on this process's part of a batch; returns its share of the loss.

    sizes: pairs that each process has of the batch.
    """
    sizes = [int(size) for size in sizes]
    rank, own = task["rank"], sizes[task["rank"]] / sum(sizes)
    with training.autocast(learner.device, learner.dtype):
        sar, rgb = (ready(learner, task, name, x) for name, x in zip(("sar", "rgb"), batch, strict=False))
        sar, rgb, scale = task["forward"](sar, rgb)
    everything = training.rows_of_processes(sar, sizes), training.rows_of_processes(rgb, sizes)
    loss = sar_rgb.info_nce(sar, rgb, scale, sum(sizes[:rank]), everything)
    if task["alignment"]:
        loss = loss + task["alignment"] * sar_rgb.alignment(sar, rgb)
    if task["uniformity"]:
        loss = loss + task["uniformity"] * sum(map(sar_rgb.uniformity, everything)) / 2
    learner.scaler.scale(loss * (own * len(sizes))).backward()  # of which the mean over processes is taken
    share = loss.item() * own
    learner.step(step)
    learner.net.bound_scale()
    learner.average.net.bound_scale()
    return share


def evaluate(learner, task, batches) -> dict:
    """pair_scores of the averaged net on the judged pairs; ValueError for NaN or rows of zeros."""
    net, sars, rgbs = learner.average.net, [], []
    with torch.inference_mode():
        for sar, rgb, _ in batches:
            with training.autocast(learner.device, learner.dtype):
                sar, rgb, scale = net(ready(learner, task, "sar", sar), ready(learner, task, "rgb", rgb))
            sars.append(sar.cpu())
            rgbs.append(rgb.cpu())
    return pair_scores.scores(torch.cat(sars), torch.cat(rgbs), scale.item(), task["batch"], task["seed"])
