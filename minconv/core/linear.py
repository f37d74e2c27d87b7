"""The scan in the linear domain, eagerly: as 0 < a < 1, the recurrence is stable by itself and needs no logarithms.

On the CPU one multiply-add per step, which runs at the speed of memory. Where a kernel launch costs more than its work
(on a GPU), in chunks: all chunks step together, then the carries between them, then a correction. The gradient is the
same recurrence backwards in time:

    grad b_t = grad h_t + a_{t+1} grad b_{t+1},    grad a_t = grad b_t h_{t-1},    grad h_0 = a_1 grad b_1
"""

from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from minconv.core.gates import coefficients
from minconv.kernels.autograd import in_one_batch


def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, ...] of h_t = a_t h_{t-1} + b_t."""
    if a.shape[1] == 1:  # a step: nothing to scan
        return torch.addcmul(b, a, h0.unsqueeze(1))
    return _LinearScan.apply(a, b, h0)


def gated_scan(gates: Tensor, h0: Tensor, gating: str) -> Tensor:
    """h [B, T, C, H, W] from gates [B, T, kC, H, W]."""
    return linear_scan(*coefficients(gates, gating), h0)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        return _scan(a, b, h0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        a, _, h0 = inputs
        ctx.save_for_backward(a, h0, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, h0, h = ctx.saved_tensors
        a = a.conj()  # a view; nothing but a flag for real numbers
        last = grad[:, -1]
        if torch.is_grad_enabled():  # derivatives of this gradient are wanted, too: nothing in place
            rest = linear_scan(a[:, 1:].flip(1), grad[:, :-1].flip(1), last).flip(1)
            grad_b = torch.cat([rest, last.unsqueeze(1)], dim=1)
            before = torch.cat([h0.unsqueeze(1), h[:, :-1]], dim=1)
            return grad_b * before.conj(), grad_b, a[:, 0] * grad_b[:, 0]
        grad_b = torch.empty_like(grad)
        grad_b[:, -1] = last
        # time backwards: step t of this scan is frame T - 1 - t
        _scan(a[:, 1:], grad[:, :-1], last, out=grad_b[:, :-1], reverse=True)
        grad_a = None
        if ctx.needs_input_grad[0]:
            grad_a = torch.empty_like(grad_b)
            torch.mul(grad_b[:, 0], h0.conj(), out=grad_a[:, 0])
            torch.mul(grad_b[:, 1:], h[:, :-1].conj(), out=grad_a[:, 1:])
        return grad_a, grad_b, a[:, 0] * grad_b[:, 0]

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, int]:
        return in_one_batch(_LinearScan.apply, info.batch_size, dims, (a, b, h0)), 0  # elementwise but for time


def _scan(a: Tensor, b: Tensor, h0: Tensor, out: Tensor | None = None, reverse: bool = False) -> Tensor:
    out = torch.empty_like(b, memory_format=torch.contiguous_format) if out is None else out
    steps = b.shape[1]
    if b.is_cuda and steps >= 32:
        return _chunked(a, b, h0, out, reverse, isqrt(steps))
    order = range(steps - 1, -1, -1) if reverse else range(steps)
    return _loop(a, b, h0, out, order)


def _loop(a: Tensor, b: Tensor, h: Tensor, out: Tensor, order: range) -> Tensor:
    for a_t, b_t, out_t in ((a.select(1, t), b.select(1, t), out.select(1, t)) for t in order):
        h = torch.addcmul(b_t, a_t, h, out=out_t)
    return out


def _chunked(a: Tensor, b: Tensor, h0: Tensor, out: Tensor, reverse: bool, chunk: int) -> Tensor:
    """T / chunk chunks at once, about 3 sqrt(T) kernels instead of T: the chunks' own scans from zero and the running
    products of a, then the carries from chunk to chunk, then h += product * carry for all."""
    whole = b.shape[1] // chunk * chunk
    rest = b.shape[1] - whole
    # steps that fill no chunk come last in the order of the scan
    part = slice(rest, None) if reverse else slice(0, whole)
    tail = range(rest - 1, -1, -1) if reverse else range(whole, whole + rest)
    split = (whole // chunk, chunk)
    a_, b_, out_ = (x[:, part].unflatten(1, split) for x in (a, b, out))
    products = torch.empty_like(a_, memory_format=torch.contiguous_format)
    inner = range(chunk - 1, -1, -1) if reverse else range(chunk)
    outer = range(split[0] - 1, -1, -1) if reverse else range(split[0])
    first, last = inner[0], inner[-1]
    out_[:, :, first] = b_[:, :, first]
    products[:, :, first] = a_[:, :, first]
    for before, t in pairwise(inner):
        torch.addcmul(b_[:, :, t], a_[:, :, t], out_[:, :, before], out=out_[:, :, t])
        torch.mul(products[:, :, before], a_[:, :, t], out=products[:, :, t])
    carries = torch.empty_like(out_[:, :, 0], memory_format=torch.contiguous_format)
    carry = h0
    for c in outer:
        carries[:, c] = carry
        carry = torch.addcmul(out_[:, c, last], products[:, c, last], carry)
    out_.addcmul_(products, carries.unsqueeze(2))
    _loop(a, b, carry, out, tail)
    return out
