"""Time and peak memory of calls, and their ratios, all taken in one run. Knows no model but by calling it.

Other work on the machine scatters times, mostly upwards. So the cases take turns, round by round: what disturbs a round
disturbs all its cases, and a ratio within the round hardly at all. Medians and quartiles over the rounds count.
"""

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from minconv.runtime.checks import choice, whole
from minconv.runtime.device import pick_device
from minconv.runtime.progress import progress

Call = Callable[[], Any]
Device = str | torch.device

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write to stderr whenever it starts and stops


def measure(cases: Mapping[str, Call], repeats: int, warmup: int = 1, device: Device = "cpu") -> xr.DataArray:
    """Seconds of each call over (case, repeat), until the device has finished it.

    Args:
        cases: calls by name; each round runs all of them in this order.
        repeats: rounds that count.
        warmup: rounds before them, which do not.
        device: where the calls compute.
    """
    if not cases:
        raise ValueError("cases must hold at least one call; got none")
    whole("repeats", repeats, 1)
    whole("warmup", warmup, 0)
    device = pick_device(device)
    rounds = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # or one case would pay for the garbage of another
    try:
        for _ in range(warmup + repeats):
            rounds.append([_seconds(call, device) for call in cases.values()])
    finally:
        if collecting:
            gc.enable()
    return xr.DataArray(
        rounds[warmup:],
        {"case": list(cases)},
        ("repeat", "case"),
        "seconds",
        {"long_name": "time", "units": "s"},
    ).transpose("case", "repeat")


def peak_memory(call: Call, device: Device = "cpu") -> int:
    """Largest number of bytes that tensors take during a call, beyond those that were there before it.

    On a GPU by the allocator's own count; on the CPU from every allocation and release of PyTorch's allocator, those
    within an operator included. The process's size would tell what was ever kept, not what is needed.
    """
    device = pick_device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    events = sorted((e for e in _events(call) if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in events), initial=0))


def count(call: Call, operator: str) -> int:
    """How many times a call runs an operator, such as ``aten::convolution``."""
    return sum(e.name() == operator for e in _events(call))


def ratio(seconds: xr.DataArray, to: str, dim: str = "model") -> xr.Dataset:
    """How many times faster than the case ``to`` of ``dim`` each is: above 1 is faster.

    Args:
        seconds: over (dim, repeat) and any others.

    Returns:
        ``median``, and the quartiles ``low`` and ``high``, of the rounds' ratios.
    """
    choice("to", to, seconds[dim].values.tolist())
    speed = seconds.sel({dim: to}, drop=True) / seconds
    low, median, high = (speed.quantile(q, "repeat").drop_vars("quantile") for q in (0.25, 0.5, 0.75))
    return xr.Dataset({"median": median, "low": low, "high": high})


def forward_pass(model: nn.Module, frames: Tensor, horizon: int = 0) -> Call:
    """A call of ``model(frames, horizon)`` without gradients, on the frames that ``training_step`` is shown."""
    inputs, _ = _shown_and_predicted(frames, horizon)
    return torch.no_grad()(lambda: model(inputs, horizon))


def training_step(
    model: nn.Module, frames: Tensor, horizon: int = 0, optimizer: torch.optim.Optimizer | None = None
) -> Call:
    """A call that predicts, takes the gradients of the mean square error, and the optimizer's step if there is one.

    Args:
        model: called as ``model(frames, horizon)``; one that gives the new frames alone is asked for these.
        frames: [B, T + horizon + 1, C, H, W]: T are shown, all but the first are predicted.
        horizon: closed-loop steps.
    """
    inputs, targets = _shown_and_predicted(frames, horizon)

    def step() -> None:
        predicted = model(inputs, horizon)
        (predicted - targets[:, -predicted.shape[-4] :]).square().mean().backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()  # at the end: gradients are memory of the step

    return step


def sweep(models: Mapping[str, nn.Module], frames: Tensor, lengths: Sequence[int], repeats: int) -> xr.Dataset:
    """Time and memory of teacher forcing by sequence length.

    Args:
        models: by name, on the device of the frames.
        frames: [B, max(lengths) + 1, C, H, W].
        lengths: sequence lengths T.
        repeats: rounds; in each, all models and both passes take turns.

    Returns:
        ``forward`` and ``training`` (forward + backward), seconds over (model, T, repeat), and ``memory``, the peak
        of forward + backward beyond weights and frames, bytes over (model, T).
    """
    if not lengths or max(lengths) >= frames.shape[1]:
        raise ValueError(f"lengths must be below {frames.shape[1]}, the number of frames, and not none; got {lengths}")
    found = []
    with progress(desc="timing", total=sum(lengths), unit="frame") as bar:
        for length in lengths:
            found.append(_at_length(models, frames[:, : length + 1], repeats))
            bar.update(length)
    return xr.concat(found, xr.Variable("T", list(lengths), {"long_name": "sequence length", "units": "frames"}))


def _at_length(models: Mapping[str, nn.Module], frames: Tensor, repeats: int) -> xr.Dataset:
    passes = {"forward": forward_pass, "training": training_step}
    calls = {(kind, name): make(model, frames) for name, model in models.items() for kind, make in passes.items()}
    memory = [peak_memory(calls["training", name], frames.device) for name in models]  # is the warm-up, too
    seconds = measure({" ".join(key): call for key, call in calls.items()}, repeats, warmup=0, device=frames.device)
    data = {
        kind: (("model", "repeat"), seconds.sel(case=[f"{kind} {name}" for name in models]).values, seconds.attrs)
        for kind in passes
    }
    data["memory"] = ("model", memory, {"long_name": "peak memory", "units": "B"})
    return xr.Dataset(data, {"model": list(models)})


def _shown_and_predicted(frames: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    shown = frames.shape[1] - 1 - whole("horizon", horizon, 0)
    if shown < 1:
        raise ValueError(f"frames must be at least {horizon + 2} to predict {horizon + 1}; got {frames.shape[1]}")
    return frames[:, :shown], frames[:, 1:]


def _seconds(call: Call, device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    """Waits for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _events(call: Call) -> list[Any]:
    """What PyTorch's profiler sees of a call on the CPU: operators, and changes of memory as ``[memory]``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    return profiler.profiler.kineto_results.events()
