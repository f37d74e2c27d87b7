"""Calls of kernels, taken down once and played at one go: what costs Python some 20 us a call costs it nothing.

A program is made for tensors of given shapes: ``build`` calls kernels with placeholders, whose addresses are found
among the arguments and are those of other tensors whenever it is played. What it makes on the way, by ``memory``, lies
in one tensor, the *arena*, which is new every time, so that what it holds can be kept for a gradient.
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from minconv.kernels.compiled import Kernel, call, integers, load, recording, run, threads, together

COMPILED = "cc757e55"  # the digest of compiled.py, see there
Memory = Callable[..., Tensor]  # of a shape

ALIGNED = 16  # numbers: a line of the cache


@Kernel
def play(like):
    """A number of kernels one after the other, all threads at each: their count, then address and place of the
    arguments of each."""
    args = integers(like)
    for k in range(load(args, 0)):
        call(load(args, 2 * k + 1), like, load(args, 2 * k + 2))
        together()


def empty(size: int) -> Tensor:
    """An arena."""
    return torch.empty(size)


class Program:
    """Calls of kernels on float32 tensors.

    Args:
        build: ``build(memory, *inputs)`` calls kernels with these, all dense, and with what ``memory(*shape)`` gives.
            Returns what of it is to be found again: tensors by name.
        shapes: of the inputs.
    """

    def __init__(self, build: Callable[..., dict[str, Tensor]], shapes: Sequence[Sequence[int]]):
        self.size, self._made, self._calls, self._shared = 0, [], [], {}
        self.threads = torch.get_num_threads()
        inputs = [torch.empty(tuple(shape)) for shape in shapes]
        recording.program = self
        try:
            named = build(self.memory, *inputs)
        finally:
            recording.program = None
        starts = {x.data_ptr(): start for x, start in self._made}
        self.places = {name: (x.shape, x.stride(), starts[x.data_ptr()]) for name, x in named.items()}
        self._lay_out(inputs)

    def named(self, arena: Tensor) -> dict[str, Tensor]:
        """What ``build`` named, in an arena."""
        return {name: arena.as_strided(*place) for name, place in self.places.items()}

    def add(self, address: int, size: int, numbers: list[int]) -> None:
        self._calls.append((address, size, numbers))

    def memory(self, *shape: int) -> Tensor:
        """A part of the arena."""
        self._made.append((torch.empty(shape), self.size))
        self.size += -(-prod(shape) // ALIGNED) * ALIGNED
        return self._made[-1][0]

    def shared(self, *shape: int) -> Tensor:
        """The same, and the same whenever this shape is asked for: for what one call leaves to none but the next."""
        if shape not in self._shared:
            self._shared[shape] = self.memory(*shape)
        return self._shared[shape]

    def _lay_out(self, inputs: list[Tensor]) -> None:
        """Numbers relative to what they point into, of which the last is nothing, at address 0."""
        spans = [(x.data_ptr(), 4 * x.numel(), number, 0) for number, x in enumerate(inputs)]
        spans += [(x.data_ptr(), 4 * x.numel(), len(inputs), 4 * start) for x, start in self._made]
        begins, sizes, bases, offsets = (np.array(column) for column in zip(*sorted(spans), strict=True))
        head, numbers = [len(self._calls)], []
        for address, _, arguments in self._calls:
            head += [address, 8 * (1 + 2 * len(self._calls) + len(numbers)) // 4]  # in numbers of four bytes
            numbers += arguments
        numbers = np.array(head + numbers, dtype=np.int64)
        span = np.maximum(np.searchsorted(begins, numbers, "right") - 1, 0)
        inside = (numbers >= begins[span]) & (numbers < begins[span] + sizes[span])
        self.base = np.where(inside, bases[span], len(inputs) + 1)
        self.numbers = np.where(inside, numbers - begins[span] + offsets[span], numbers)
        self.work = max(size for _, size, _ in self._calls)
        self._made, self._calls, self._shared = [], [], {}
        self.kernel = play.compiled(torch.float32)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The arena after it was played."""
        arena = empty(self.size)
        bases = np.array([*(x.data_ptr() for x in inputs), arena.data_ptr(), 0], dtype=np.int64)
        packed = self.numbers + bases[self.base]
        run(self.kernel, packed.ctypes.data, min(threads(self.work), self.threads))
        return arena
