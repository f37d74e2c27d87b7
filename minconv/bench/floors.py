"""What a computation cannot be faster than: a copy of the bytes it must move, and its convolutions alone."""

from collections import Counter
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minconv.bench.measure import Call, Device

FORWARD = torch.ops.aten.convolution.default
BACKWARD = torch.ops.aten.convolution_backward.default


def scan_bytes(states: int, blocks: int, backward: bool = False, size: int = 4) -> int:
    """Bytes that a gated scan must move, each number read or written once.

    Forward reads the gates and writes the state; backward reads gates, state and the state's gradient and writes the
    gates' gradients.

    Args:
        states: numbers B T C H W.
        blocks: of the gating, see ``minconv.core.gates``.
        backward: forward and backward together.
        size: bytes of a number.
    """
    forward = blocks + 1
    return size * states * (forward + (blocks + 2) + blocks if backward else forward)


def copy(size: int, device: Device = "cpu") -> Call:
    """A call that moves ``size`` bytes: it reads one half and writes the other."""
    source = torch.rand(size // 8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


class Like(NamedTuple):
    """What of a tensor decides the time of a convolution."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def record(call: Call) -> Counter[tuple]:
    """The convolutions of a call and of its backward passes: (operator, *arguments), tensors as :class:`Like`."""
    recorder = _Recorder()
    with recorder:
        call()
    return recorder.found


def replay(convolutions: Counter[tuple], device: Device = "cpu") -> Call:
    """A call that runs recorded convolutions and nothing else, on tensors of its own laid out like the recorded."""
    calls = [
        partial(operator, *(_fresh(argument, device) for argument in arguments))
        for (operator, *arguments), count in convolutions.items()
        for _ in range(count)
    ]

    def run() -> None:
        for call in calls:
            call()

    return run


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found: Counter[tuple] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (FORWARD, BACKWARD):
            self.found[func, *map(_described, args)] += 1
        return func(*args, **(kwargs or {}))


def _described(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return Like(tuple(argument.shape), argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


def _fresh(argument: Any, device: Device) -> Any:
    if isinstance(argument, Like):
        shape, stride, dtype = argument
        span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        return torch.randn(span, dtype=dtype, device=device).as_strided(shape, stride)
    return list(argument) if isinstance(argument, tuple) else argument


def channels_last(convolutions: Counter[tuple]) -> bool:
    """Whether the input of the largest of the recorded convolutions has its channels side by side."""
    inputs = [arguments[0] for operator, *arguments in convolutions if operator is FORWARD]
    largest = max(inputs, key=lambda like: prod(like.shape))
    return largest.stride[1] == 1 < largest.shape[1]
