"""Of training and inference: device, precision, normalising, schedule, EMA, checkpoints.

Needs torch; load_checkpoint models/contract_kinds.py.
"""

import contextlib
import copy
import ctypes
import datetime
import math
import os
import socket
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

FORMAT = 1  # of checkpoints
JOBS = {"unet": "train_unet.py", "sar-rgb": "train_sar_rgb.py"}  # that write a checkpoint of a model
CONTRACT = ("bands", "units", "backscatter", "mean", "std", "tile")
CONTRACTS = {"unet": CONTRACT, "sar-rgb": (*CONTRACT, "rgb_mean", "rgb_std", "sar_encoder", "rgb_encoder")}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


# ---- memory, device and precision --------------------------------------------------------------------------


def use_huge_pages() -> None:
    """Let torch ask Linux for pages of 2 MiB instead of 4 KiB. Call it before the first tensor is made."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first large allocation


def keep_memory() -> None:
    """Keep freed memory: glibc gives large blocks back, at a page fault for each page of their next use.

    Call it before the first tensor is made. Faster by a third on a CPU, but the heap grows by what falls
    between its blocks: not for jobs whose memory must stay bounded.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: which never shrinks


def give_back_memory() -> None:
    """Return what is free to the system once, before something else needs the room."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def choose_device(name: str = "auto") -> torch.device:
    """auto: CUDA, else Apple's MPS, else the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() > 1:  # or a node's processes would all sit on the first
        name = f"cuda:{own_cuda()}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: not usable here ({str(error).splitlines()[0]})") from None
    return device


def own_cuda() -> int:
    """The number of this process's CUDA device; ValueError if there are more processes than devices."""
    local, here = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if here > 1 and local >= here:
        raise ValueError(f"LOCAL_RANK {local}: there are {here} CUDA devices; start one process for each")
    return local if here > 1 else 0  # a cluster may show each process its own alone


def choose_precision(device: torch.device, amp: str = "auto") -> torch.dtype | None:
    """Type of autocast, None for float32. auto: bf16 where hardware multiplies it, fp16 on older CUDA."""
    if amp != "auto":
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        return torch.bfloat16
    return None


def shared_precision(device: torch.device, amp: str = "auto") -> torch.dtype | None:
    """choose_precision, of all processes: gradients of a scaled loss and of another must not be averaged.

    Raises ValueError, in all of them, where their hardware differs.
    """
    dtype = choose_precision(device, amp)
    if torch.distributed.is_initialized():
        every = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(every, str(dtype or torch.float32), group=waiting_room)
        if len(set(every)) > 1:
            raise ValueError(
                f"--amp {amp}: means {', '.join(sorted(set(every)))} in these processes; name one"
            )
    return dtype


def autocast(device: torch.device, dtype: torch.dtype | None):
    """The context in which a forward pass runs in `dtype`."""
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


def normalise(image: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(image - mean) / std per channel of (B, C, H, W); no data (NaN) becomes 0, the mean."""
    return torch.nan_to_num((image - mean.view(-1, 1, 1)) / std.view(-1, 1, 1), nan=0.0)


# ---- processes ---------------------------------------------------------------------------------------------


STEP = datetime.timedelta(minutes=30)  # for a process to come to a step, or it is lost
PATIENCE = datetime.timedelta(days=1)  # while the first process reads, judges or writes
waiting_room = None  # the group in which the others wait for the first so long


def join_processes(device: torch.device, share_norms: bool = False) -> tuple[int, int, torch.device]:
    """(rank, ranks, this process's device) after joining the others of torchrun; (0, 1, device) without.

    share_norms: norms_over_processes is to be used. Raises ValueError where the device cannot do it, or where
    several processes have one device.
    """
    global waiting_room
    on_cuda, ranks = device.type == "cuda", int(os.environ.get("WORLD_SIZE", 1))
    if share_norms and not on_cuda:
        raise ValueError(
            f"--sync-norm: torch shares batch norms on cuda, not {device.type}; --norm group does"
        )
    if ranks == 1:
        return 0, 1, device
    if on_cuda:
        device = torch.device("cuda", own_cuda())
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if on_cuda else "gloo", timeout=STEP)
    waiting_room = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    if on_cuda:
        taken = [None] * ranks
        mine = socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)
        torch.distributed.all_gather_object(taken, mine, group=waiting_room)
        if (devices := len(set(taken))) < ranks:
            raise ValueError(f"{ranks} processes on {devices} CUDA devices; start one process for each")
    return torch.distributed.get_rank(), ranks, device


def sums_of_processes(*values, device: torch.device) -> list[float]:
    """Numbers added up over all processes, the same in each; as they are where there is one."""
    values = [float(value) for value in values]
    if not torch.distributed.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def share_gradients(net: nn.Module, *example: torch.Tensor) -> nn.Module:
    """What to call in training: gradients become the mean over all processes; the net itself where it is one.

    Statistics of batch norms stay each process's own: take_from_first before they are used. example: input of
    one row for a pass whose gradients are dropped. After its first pass torch orders the gradients anew, and
    more than two summands differ by their order: so a resumed run would differ from a straight one.
    """
    if not torch.distributed.is_initialized():
        return net
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # newer torch has another name
        forward = nn.parallel.DistributedDataParallel(net, broadcast_buffers=False)
    net.eval()
    found = forward(*example)
    sum(x.sum() for x in (found if isinstance(found, tuple) else (found,))).backward()
    net.zero_grad(set_to_none=True)
    return forward


def sharing(forward: nn.Module, now: bool):
    """The context of a forward and backward pass, after which gradients are shared, or not yet."""
    return contextlib.nullcontext() if now or not hasattr(forward, "no_sync") else forward.no_sync()


@torch.no_grad()
def take_from_first(net: nn.Module) -> None:
    """Give every process the first one's weights and statistics."""
    if torch.distributed.is_initialized():
        for value in net.state_dict().values():
            torch.distributed.broadcast(value, src=0)


def rows_of_processes(x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """(B, D) of each process, by rank, as (N, D) in all; gradients flow back to where rows are from.

    sizes: B of every process.
    """
    if not torch.distributed.is_initialized():
        return x
    from torch.distributed.nn.functional import all_gather

    padded = nn.functional.pad(x, (0, 0, 0, max(sizes) - len(x)))
    return torch.cat([rows[:size] for rows, size in zip(all_gather(padded), sizes, strict=True)])


def norms_over_processes(net: nn.Module) -> nn.Module:
    """The net with batch norms that see the rows of all processes in training; works on CUDA alone."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)


def has_batch_norm(net: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in net.modules())


def wait_for_processes() -> None:
    """Until all processes have come here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier(waiting_room)


def said_by_first(value):
    """The first process's value, any plain object, in every process."""
    if not torch.distributed.is_initialized():
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held, src=0, group=waiting_room)
    return held[0]


def done_by_first(work, leaving: dict[type[Exception], int]):
    """What work() returns in the first process, any plain object, in every process.

    leaving: exceptions that work() may raise, {kind: exit code}: the first process raises it, to be said
    once, and the others exit with its code.
    """
    if not torch.distributed.is_initialized():
        return work()
    value, error = None, None
    if torch.distributed.get_rank() == 0:
        try:
            value = work()
        except tuple(leaving) as caught:
            error = caught
    value, code = said_by_first((value, leaving[type(error)] if error else None))
    if error:
        raise error
    if code is not None:
        raise SystemExit(code)
    return value


# ---- schedule and averaging --------------------------------------------------------------------------------


def warm_up_cosine(step: int, steps: int, warm_up: int, floor: float = 0.01) -> float:
    """Factor on the learning rate: linear over `warm_up` steps, then a half cosine down to `floor`."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class Average:
    """Exponential moving average of a net's weights and statistics, in a copy that is used for evaluation."""

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay, self.steps = copy.deepcopy(net).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards `net`; early on faster than `decay`, so that the start is forgotten."""
        self.steps += 1
        rate = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine, theirs = self.net.state_dict(), net.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], rate)
        for name, value in mine.items():
            if not value.is_floating_point():
                value.copy_(theirs[name])


def leave_statistics_to_average(net: nn.Module) -> None:
    """Let batch norms keep the statistics of the last batch alone: Average is then the only average of them.

    torch's own starts from mean 0 and variance 1, of which 20 steps of momentum 0.1 leave 12 %. Deep layers
    vary by less: the averaged net of a short run then takes all pictures for one.
    """
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0


# ---- learning ----------------------------------------------------------------------------------------------

GRADIENT_NORM = 5.0  # to which a step is clipped


class Learner:
    """A net and all that changes as it learns; state() and load() make a resumed run equal a straight one."""

    def __init__(
        self,
        net: nn.Module,
        device: torch.device,
        dtype: torch.dtype | None,
        learning_rate: float,
        weight_decay: float,
        ema: float,
        steps: int,
        warm_up: int,
    ):
        self.net = net.to(device, memory_format=torch.channels_last)
        leave_statistics_to_average(self.net)
        self.average = Average(self.net, ema)
        matrices = [p for p in net.parameters() if p.ndim > 1]  # norms and biases do not decay
        vectors = [p for p in net.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=learning_rate,
            fused=device.type in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.device, self.dtype, self.learning_rate, self.steps, self.warm_up = (
            device,
            dtype,
            learning_rate,
            steps,
            warm_up,
        )

    def step(self, number: int) -> None:
        """Apply the gradients of step `number`; the scaler skips a step with overflown fp16 gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * warm_up_cosine(number, self.steps, self.warm_up)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.net.parameters(), GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.net)

    def state(self) -> dict:
        return {
            "weights": self.net.state_dict(),
            "average": self.average.net.state_dict(),
            "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict) -> None:
        self.net.load_state_dict(state["weights"])
        self.average.net.load_state_dict(state["average"])
        self.average.steps = state["average_steps"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # it may have begun, or go on, without float16
            self.scaler.load_state_dict(state["scaler"])


def take_weights(net: nn.Module, state: dict) -> int:
    """Copy a checkpoint's weights whose name and shape fit (an encoder alone will do); returns how many."""
    given, own = state.get("average") or state["weights"], net.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    net.load_state_dict({**own, **fitting})
    return len(fitting)


# ---- checkpoints -------------------------------------------------------------------------------------------


def checkpoint(
    net: nn.Module, contract: dict, target: str = "", threshold: float = 0.5, model: str = "unet", **state
) -> dict:
    """Nested dicts and lists of tensors, numbers and strings, readable with weights_only=True."""
    return {
        "format": FORMAT,
        "model": model,
        "arguments": net.arguments,
        "contract": contract,
        "target": target,
        "threshold": threshold,
        **state,
    }


def load_checkpoint(path: Path, map_location="cpu", model: str | None = "unet") -> dict:
    """Read a checkpoint without executing anything in it; CheckpointError says what is wrong with it.

    model: a key of JOBS it must be of; None for any.
    """
    job = JOBS.get(model, "a training job")
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch raises a dozen kinds on foreign, cut or hostile files; none is run
        kind = (
            "holds more than tensors and numbers, it may be hostile"
            if "weights_only" in str(error).lower() or "Unsupported" in str(error)
            else "is no readable checkpoint"
        )
        raise CheckpointError(f"{path}: {kind} ({type(error).__name__}); use one written by {job}") from None
    required = {"format", "model", "arguments", "weights", "contract", "target", "threshold"}
    foreign = f"{path}: is no checkpoint of this project; use one written by {job}"
    if not isinstance(state, dict) or not required <= state.keys():
        raise CheckpointError(foreign)
    wanted = [model] if model else list(JOBS)
    if state["format"] != FORMAT or state["model"] not in wanted:
        raise CheckpointError(
            f"{path}: model {state['model']!r} of format {state['format']!r}; this code reads "
            f"{' or '.join(map(repr, wanted))} of format {FORMAT}"
        )
    if not all(isinstance(state[name], dict) for name in ("arguments", "weights", "contract")):
        raise CheckpointError(foreign)
    tensors = [state["weights"], state.get("average") or {}]
    if not all(
        isinstance(x, torch.Tensor) for part in tensors for x in getattr(part, "values", lambda: [0])()
    ):
        raise CheckpointError(foreign)
    contract, arguments = state["contract"], state["arguments"]
    missing = [name for name in CONTRACTS[state["model"]] if name not in contract]
    if missing:
        raise CheckpointError(f"{path}: its input contract lacks {', '.join(missing)}")
    from models import contract_kinds  # here: all but checkpoints can be copied without it

    wrong = contract_kinds.wrong_entry(contract)
    if wrong:
        said = repr(contract[wrong])
        said = said if len(said) <= 60 else f"{said[:57]}..."
        raise CheckpointError(f"{path}: {wrong} of its input contract is {said}, nothing that {job} writes")
    lengths = {len(contract[name]) for name in ("bands", "mean", "std")}
    bands = arguments.get("bands" if state["model"] == "unet" else "sar_bands")
    if arguments.get("sar") == "features":  # a frozen network reads the bands, not this net
        bands = len(contract["bands"])
    for name in ("sar", "rgb") if state["model"] == "sar-rgb" else ():
        if (arguments.get(name) == "features") != ("sha256" in contract[f"{name}_encoder"]):
            raise CheckpointError(f"{path}: its net and its input contract differ in the {name} encoder")
    if lengths != {bands}:
        raise CheckpointError(f"{path}: its net and its input contract differ in the number of bands")
    return state


def load_last(
    learner: Learner, path: Path, contract: dict, plan: dict, model: str = "unet", old: dict | None = None
) -> dict:
    """Load a last.pt of this contract and plan into the learner; returns its state. Raises CheckpointError.

    old: entries of the contract that old checkpoints may lack.
    """
    saved = load_checkpoint(path, model=model)
    if (old or {}) | saved["contract"] != contract or "progress" not in saved:
        raise CheckpointError(f"{path}: was trained on other data, bands or encoders")
    check_plan(saved, plan, path)
    try:
        learner.load(saved)
    except (KeyError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: does not fit these arguments ({why})") from None
    return saved


def check_plan(saved: dict, plan: dict, path: Path) -> None:
    """Refuse to go on from a checkpoint of another plan, {flag: value}; one without any, of old, will do.

    The order of rows, the learning rate and the place in them are functions of it. Raises CheckpointError.
    """
    before = saved.get("plan", plan)
    if not isinstance(before, dict):
        raise CheckpointError(f"{path}: its plan is {type(before).__name__}")
    changed = [f"--{name} {before.get(name)}, not {value}" for name, value in plan.items()
               if before.get(name) != value]  # fmt: skip
    if changed:
        raise CheckpointError(f"{path}: was trained with {' and '.join(changed)}")


def build_net(state: dict, path: Path) -> nn.Module:
    """The U-Net of a checkpoint with its weights (the averaged ones where there are such), in eval mode."""
    from models.unet import UNet

    try:
        net = UNet(**state["arguments"])
        net.load_state_dict(state.get("average") or state["weights"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: weights and arguments do not fit ({str(error).splitlines()[0]})"
        ) from None
    return net.eval()


# ---- inference ---------------------------------------------------------------------------------------------


class SignReLU(nn.Module):
    """In-place bfloat16 ReLU by sign bit: several times faster on CPU than torch's; NaN must not occur."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.view(torch.int16).clamp_(min=0)
        return x


def fold_norms(net: nn.Module, fast_relu: bool = False) -> nn.Module:
    """A copy with batch norms folded into the convolutions before: same function, fewer memory passes."""
    net = copy.deepcopy(net).eval()
    for block in (module for module in net.modules() if isinstance(module, nn.Sequential)):
        for place, layer in enumerate(block):
            if isinstance(layer, nn.BatchNorm2d):
                block[place - 1] = nn.utils.fuse_conv_bn_eval(block[place - 1], layer)
                block[place] = nn.Identity()
            elif isinstance(layer, nn.ReLU) and fast_relu:
                block[place] = SignReLU()
    return net


class Predictor:
    """A net made ready to predict: norms folded, weights in the precision of inference, channels last."""

    def __init__(self, net: nn.Module, contract: dict, device: torch.device, dtype: torch.dtype | None):
        self.device, self.dtype = device, dtype or torch.float32
        on_cpu_in_bf16 = device.type == "cpu" and self.dtype == torch.bfloat16
        self.net = fold_norms(net, fast_relu=on_cpu_in_bf16).to(
            device, self.dtype, memory_format=torch.channels_last
        )
        self.mean, self.std = (torch.tensor(contract[name], device=device) for name in ("mean", "std"))

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """float32 snow probability (B, H, W) of images (B, C, H, W) in contract units; NaN where any is."""
        image = image.to(self.device, non_blocking=True)
        missing = torch.isnan(image).any(dim=1)
        x = normalise(image, self.mean, self.std).to(self.dtype, memory_format=torch.channels_last)
        probability = torch.sigmoid(self.net(x)[:, 0].float())
        return probability.masked_fill_(missing, float("nan"))


# ---- memory ------------------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Also for the words of torch's and oneDNN's CPU allocators, which have no exception of their own."""
    words = ("can't allocate memory", "could not create a primitive", "could not create a memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(w in str(error) for w in words)
