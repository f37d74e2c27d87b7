"""The processes that ``torchrun`` starts: which one this is, its share of the work, and what the others have.

    rank(), size()         this process's number and how many there are
    share(items)           those of a sequence that are this process's
    gather(value)          the values of all
    each(function, items)  a list comprehension whose work is shared
    barrier()              waits for all
    connected()            tells clearly that one of them has ended
    without_main()         for processes of one's own: they do not import the script

The first call joins the processes: on the CPU they speak gloo, GPUs speak NCCL. Without ``torchrun`` the one process is
rank 0 of 1, whose share is everything.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _joined() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _joined() else 1


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's items: every ``size()``-th, from ``rank()`` on."""
    return items[rank() :: size()]


def gather(value: T, to: int | None = None) -> list[T]:
    """The values of all processes by rank: on process ``to`` (an empty list on the others) or by default on every one.

    Every process must call it. Values travel pickled, so they can be anything; only this program's processes speak.
    """
    if size() == 1:
        return [value]
    found = [None] * size() if to in (None, rank()) else []
    with connected():
        if to is None:
            dist.all_gather_object(found, value)
        else:
            dist.gather_object(value, found or None, dst=to)
    return found


def each(function: Callable[[T], Any], items: Sequence[T]) -> list[Any]:
    """``[function(item) for item in items]`` on every process, of which each has done its share."""
    parts = gather([function(item) for item in share(items)])
    return [parts[number % size()][number // size()] for number in range(len(items))]


def barrier() -> None:
    """Returns when every process has called it."""
    gather(None)


@contextmanager
def connected() -> Iterator[None]:
    """Around what processes do together: raises ConnectionError where another one has ended, died or hangs."""
    try:
        yield
    except RuntimeError as error:
        if size() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):  # gloo's have no class
            raise
        raise ConnectionError(
            f"process {rank()} of {size()} lost the connection to another one, which has ended; its own error, or its "
            "launcher's, tells why"
        ) from error


@contextmanager
def without_main() -> Iterator[None]:
    """Within, processes that are begun see no script to import, which one without a guard does not survive."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def sum_gradients(model: nn.Module) -> None:
    """Adds up the gradients of a model's weights over the processes, in one message."""
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    if size() == 1 or not grads:
        return
    total = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(total)
    for grad, part in zip(grads, total.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def _joined() -> bool:
    """Whether there are other processes; joins them where a launcher has told of them."""
    if not dist.is_available():
        return False
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()
        if gpus:  # one each, the current device from now on
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        atexit.register(_leave)  # NCCL warns of a group that is left to the end of the process
    return dist.is_initialized()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
