"""What the training jobs do alike around their nets: one voice of many processes, going on, an epoch's steps.

Standard library only, and torch where a checkpoint is written or processes have lost each other.
"""

import contextlib
import itertools
import math
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

from data_prep import runs
from data_prep.runs import BadInput

LEAVING = {BadInput: runs.BAD_INPUT, runs.Interrupted: runs.INTERRUPTED}  # exit codes of all processes


# ---- processes ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def first_speaks():
    """Of torchrun's processes the first one speaks; the others say what ended them alone, and that only.

    Interrupted and FloatingPointError (of a loss) come to all at once. Processes that lost each other exit 1.
    """
    job, first = Path(sys.argv[0]).name, os.environ.get("RANK", "0") == "0"
    with contextlib.ExitStack() as silence:
        if not first:
            nowhere = silence.enter_context(open(os.devnull, "w"))
            silence.enter_context(contextlib.redirect_stdout(nowhere))
            silence.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield
        except runs.Interrupted:
            if first:
                raise
            raise SystemExit(runs.INTERRUPTED) from None
        except FloatingPointError as error:
            raise SystemExit(f"{job}: {error}" if first else runs.FAILED) from None
        except RuntimeError as error:
            from torch.distributed import DistError

            if "gloo" not in str(error) and not isinstance(error, DistError):
                raise
            raise SystemExit(
                f"{job}: lost the other processes, of which one has ended or none came ("
                f"{str(error).splitlines()[0]}); last.pt is sound, the same command goes on."
            ) from None


def run_and_leave(main, parser) -> None:
    """Run a training job as a program, as runs.start does, and end it with its exit code.

    One of many processes leaves without the interpreter's own tidying up, in which threads of torch's gloo
    now and then abort it (3 of 24 ends with torch 2.14). Where it leaves alone it does not say goodbye
    either: NCCL's would wait for the others, who wait for it.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(runs.start(main, parser))
    code = runs.FAILED
    try:
        code = runs.start(main, parser)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        else:
            code = error.code or runs.DONE
    except BaseException:
        traceback.print_exc()
    leave(code)


def leave(code: int) -> None:
    """End one of many processes at once; all of them come here together if the job is done or interrupted."""
    together = code in (runs.DONE, runs.INTERRUPTED)
    if together and "torch" in sys.modules and sys.modules["torch"].distributed.is_initialized():
        sys.modules["torch"].distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def stop_if(stop: runs.StopSignal) -> None:
    """Raise Interrupted where a signal came, before there is anything to save."""
    if stop.requested:
        raise runs.Interrupted(f"Stopped by {stop.requested}.")


# ---- checkpoints on disk -----------------------------------------------------------------------------------


def last_checkpoint(args, load) -> dict | None:
    """load(path) of the last.pt in --out, or else of --resume; None where there is neither.

    best.pt and log.jsonl come along from another folder. load: raises ValueError; this is BadInput then.
    """
    path = next((path for path in (args.out / "last.pt", args.resume) if path and path.exists()), None)
    if path is None:
        return None
    try:
        saved = load(path)
    except ValueError as error:
        raise BadInput(f"{error}; pass --overwrite to start anew.") from None
    progress = saved["progress"]
    for name in ("best.pt", "log.jsonl"):
        source, own = path.parent / name, args.out / name
        if source.exists() and not own.exists():
            with runs.atomic(own) as temporary:
                shutil.copyfile(source, temporary)
        if name == "best.pt" and progress["best"]["epoch"] >= 0 and not own.exists():
            raise BadInput(f"{path}: no best.pt beside it; copy both, or pass --overwrite to start anew.")
    runs.say(f"going on from {path}: epoch {progress['epoch']}, step {progress['step']}")
    return saved


def write_checkpoint(path: Path, state: dict) -> None:
    import torch

    with runs.atomic(path) as temporary, runs.disk_errors(path, RuntimeError):
        torch.save(state, temporary)


# ---- an epoch ----------------------------------------------------------------------------------------------


def train_one_epoch(
    learner, progress: dict, epochs: int, steps: int, batches, stop, save_last, count, sums, optimise
) -> dict:
    """Go through the rest of an epoch of `steps`; returns its mean loss and times. Interrupted once saved.

    count(batch): numbers of this process's part; sums: adds numbers up over all processes;
    optimise(batch, counts of all, step): this process's share of the loss. The sums made before a step also
    hold the shares of the step before and whether anyone was told to stop: one small sum a step, which all
    processes see alike. Raises FloatingPointError in all of them for a loss that is not finite.
    """
    learner.net.train()
    began = mark = said = time.time()
    waited, first, share = 0.0, progress["step"], 0.0
    for batch in itertools.chain(itertools.islice(batches, steps - progress["batch"]), [None]):
        waited += time.time() - mark
        counts = [] if batch is None else count(batch)
        *counts, loss, stopping = sums(*counts, share, bool(stop.requested))
        step = progress["step"]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {step - 1}; stopped before it could spoil last.pt, which is sound. "
                "Lower --learning-rate or pass --amp off."
            )
        progress["loss_sum"] += loss
        mark = time.time()
        if step > first and mark - said > 15:
            said, pace = mark, (mark - began) / (step - first)
            runs.say(
                f"epoch {progress['epoch'] + 1}/{epochs} step {step}/{learner.steps} loss {loss:.4f}  "
                f"{pace:.2f} s a step, data {waited / (mark - began):.0%}, "
                f"about {pace * (learner.steps - step) / 60:.1f} min to go"
            )
        if stopping:
            save_last()
            at = f"{stop.requested or 'stopped'} at step {step} of {learner.steps}"
            raise runs.Interrupted(f"{at}, saved in last.pt.")
        if batch is not None:
            share = optimise(batch, counts, step)
            progress |= {"step": step + 1, "batch": progress["batch"] + 1}
            mark = time.time()
    seconds = time.time() - began
    return {
        "step": progress["step"], "train_loss": progress["loss_sum"] / steps,
        "learning_rate": learner.optimizer.param_groups[0]["lr"], "seconds": seconds,
        "data_share": waited / max(1e-9, seconds),
    }  # fmt: skip


def out_of_patience(args, progress: dict) -> bool:
    """Whether the last --patience epochs brought no better one."""
    return bool(args.patience) and progress["epoch"] - 1 - progress["best"]["epoch"] >= args.patience


def say_why_no_more(args, progress: dict) -> None:
    """After an epoch: say that patience is at its end; Interrupted for --stop-after."""
    if out_of_patience(args, progress):
        runs.say(f"no better epoch in {args.patience}: stopped early")
    elif progress["epoch"] < args.epochs and progress["epoch"] == args.stop_after:
        raise runs.Interrupted(f"{progress['epoch']} of {args.epochs} epochs done, saved in last.pt.")
