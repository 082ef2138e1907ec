"""One step of training a SAR-RGB model, and judging it. Needs torch; sar_rgb.py, pair_scores.py, training.py.

task: {"sar" and "rgb": [mean, std] of pictures, "forward": the net to call, "rank": of this process, "batch":
pairs a step, "seed", "alignment" and "uniformity": weights of these terms}.
"""

import math

import torch

from models import pair_scores, sar_rgb, training


def ready(learner, task, name: str, batch: torch.Tensor) -> torch.Tensor:
    """A batch of pictures normalised, or of features as they are, on the device."""
    batch = batch.to(learner.device, non_blocking=True)
    if batch.ndim == 2:
        return batch
    return training.normalise(batch, *task[name]).contiguous(memory_format=torch.channels_last)


def optimise(learner, task, sar, rgb, step: int, stopping: bool) -> tuple[float, bool]:
    """One step on this process's share of a batch; returns its loss, and whether any process is to stop.

    The net stays as it is if the loss is not finite.
    """
    with training.autocast(learner.device, learner.dtype):
        sar, rgb, scale = task["forward"](ready(learner, task, "sar", sar), ready(learner, task, "rgb", rgb))
    everything = training.rows_of_processes(sar), training.rows_of_processes(rgb)
    loss = sar_rgb.info_nce(sar, rgb, scale, task["rank"] * len(sar), everything)
    if task["alignment"]:
        loss = loss + task["alignment"] * sar_rgb.alignment(sar, rgb)
    if task["uniformity"]:
        loss = loss + task["uniformity"] * sum(map(sar_rgb.uniformity, everything)) / 2
    learner.scaler.scale(loss).backward()
    said = torch.stack([loss.detach(), torch.tensor(float(stopping), device=loss.device)])
    value, stopping = training.mean_of_processes(said).tolist()
    if math.isfinite(value):
        learner.step(step)
        learner.net.bound_scale()
        learner.average.net.bound_scale()
    return value, stopping > 0


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
