"""The scan of a sequence whose time axis is split over processes: for sequences longer than one device's memory.

Each process of the group holds its part, in the order of ranks, and scans it with a backend of its own. Between the
state before a part and the state after it is an affine map, element by element,

    h_after = A h_before + l,      A = product of the part's a_t,      l = h_after for h_before = 0,

so one exchange of (A, l) tells every process the state that its part begins with. The gradient goes the same way back:
with G_r the gradient, by all later frames, of the state after part r,

    G_{r-1} = p_r + A_r G_r,       p = sum over the part of  a_1 .. a_t  grad h_t,

so one exchange of p tells every process its G, which it adds to the gradient of its last frame. In both together each
process sends each other one 3 numbers for an element of a state, however long the sequence is. A product of many a < 1
underflows to 0, which is then right to rounding; nothing is divided.

    gradients of weights    are each process's own: add them up, ``minconv.runtime.processes.sum_gradients``
    ``h0``                  counts on the first process; its gradient is there too, and 0 on the others
    all processes           call the scan, and the backward pass through it, as often and in the same order, and need
                            gradients alike; B, C, H, W are the same on all; the number of frames is not, and may be 0

``Forecaster(..., backend="distributed")``, or any minimal cell, runs so over the processes of ``torchrun``, each given
its part of the frames (at least one); the rest of a model sees frames one by one. With one process, or none started by
a launcher, this is the local scan.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from minconv.core import scan
from minconv.core.gates import GATINGS, logit_and_candidate
from minconv.runtime import processes
from minconv.runtime.checks import choice

LOCAL = tuple(name for name in ("auto", *scan.BACKENDS) if name != "distributed")


def available(kind: str = "cpu") -> bool:
    """Whether there are processes to share a sequence, whatever their kind of device."""
    return dist.is_available() and dist.is_initialized()


def linear_scan(
    a: Tensor, b: Tensor, h0: Tensor, backend: str = "auto", group: dist.ProcessGroup | None = None
) -> Tensor:
    """This process's part of h_t = a_t h_{t-1} + b_t.

    Args:
        a, b: this process's part of the coefficients [B, T, ...]; T may be 0.
        h0: state [B, ...] before the whole sequence.
        backend: of each process's own scan, see ``minconv.core.scan.linear_scan``.
        group: the processes that share the sequence; None is all.

    Returns:
        h [B, T, ...] of this part.

    Raises:
        TypeError, ValueError: as ``minconv.core.scan.linear_scan``.
        NotImplementedError: under ``torch.vmap`` or a transform of ``torch.func``.
    """
    choice("backend", backend, LOCAL)
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape != b.shape:
        raise ValueError(f"a must have b's shape {list(b.shape)} for backend distributed; got {list(a.shape)}")

    def local(h: Tensor) -> Tensor:
        return a * b if _empty(a) else scan.linear_scan(a, b, h, backend)

    return _scan(local, _same, a, h0, group)


def gated_scan(
    gates: Tensor, h0: Tensor, gating: str, backend: str = "auto", group: dist.ProcessGroup | None = None
) -> Tensor:
    """This process's part of the scan of a convolution's output.

    Args:
        gates: this process's part [B, T, kC, H, W]; T may be 0. See ``minconv.core.scan.gated_scan``.
        h0: state [B, C, H, W] before the whole sequence.
        gating: ``gru``, ``lstm`` or ``explstm``.
        backend, group: as in ``linear_scan``.

    Returns:
        h [B, T, C, H, W] of this part.

    Raises:
        TypeError, ValueError: as ``minconv.core.scan.gated_scan``.
        NotImplementedError: under ``torch.vmap`` or a transform of ``torch.func``.
    """
    choice("backend", backend, LOCAL)
    choice("gating", gating, GATINGS)

    def local(h: Tensor) -> Tensor:
        return gates[:, :, : h.shape[1]] if _empty(gates) else scan.gated_scan(gates, h, gating, backend)

    def decay(gates: Tensor) -> Tensor:
        return torch.sigmoid(-logit_and_candidate(gates, gating)[0])

    return _scan(local, decay, gates, h0, group)


def _same(a: Tensor) -> Tensor:
    return a


def _empty(part: Tensor) -> bool:
    return isinstance(part, Tensor) and part.dim() > 1 and part.shape[1] == 0


def _scan(
    local: Callable[[Tensor], Tensor],
    decay: Callable[[Tensor], Tensor],
    source: Tensor,
    h0: Tensor,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """``local(h)`` scans this part from the state h; ``decay(source)`` is its a."""
    if processes.size() == 1 or dist.get_world_size(group) == 1:
        return local(h0)
    if scan.transformed():
        raise NotImplementedError("a scan over several processes cannot run under torch.vmap or torch.func")
    rank, some = dist.get_rank(group), not _empty(source)
    wide = torch.promote_types(h0.dtype, torch.float32)
    product = after = state = torch.zeros_like(h0, dtype=wide)  # the last part's are of no use to anyone
    if rank == 0:
        h = local(h0)  # whatever is before: its product stays 0
        after = (h[:, -1] if some else h0).detach().to(wide)
    elif rank < dist.get_world_size(group) - 1:
        with torch.no_grad():
            after = local(torch.zeros_like(h0))[:, -1].to(wide) if some else state
            product = torch.ones_like(state)
            for piece in _pieces(source):
                product *= decay(piece.to(wide)).prod(1)
    maps = _all(torch.stack([product, after]), group)
    if rank:
        for product, after in maps[:rank]:
            state = torch.addcmul(after, product, state)
        h = local(state.to(h0.dtype))
    return _FromLater.apply(h, h0, source, decay, group, *(product for product, _ in maps[rank + 1 :]))


class _FromLater(torch.autograd.Function):
    """h as it is; in the backward pass the gradient that later parts have by its last frame comes in."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, h0: Tensor, source: Tensor, decay: Any, group: Any, *products: Tensor) -> Tensor:
        ctx.save_for_backward(h0, source, *products)
        ctx.decay, ctx.group = decay, group
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError("the gradient of a scan over several processes cannot be differentiated again")
        h0, source, *products = ctx.saved_tensors
        rank, some = dist.get_rank(ctx.group), not _empty(source)
        later = h0.new_zeros(h0.shape, dtype=torch.promote_types(h0.dtype, torch.float32))
        own = later
        if rank and some:  # of no use to anyone before the first
            for piece, back in zip(reversed(_pieces(source)), reversed(_pieces(grad)), strict=True):
                a = ctx.decay(piece.to(later.dtype)).conj()
                own = scan.walk(a, a * back, own, reverse=True)[:, 0]
        for product, part in zip(reversed(products), reversed(_all(own, ctx.group)), strict=False):
            later = torch.addcmul(part, product.conj(), later)
        if products and some:
            grad = grad.clone()
            grad[:, -1] += later
        first_is_empty = rank == 0 and not some  # then h0 is the state after it
        return grad, later.to(h0.dtype) if first_is_empty else torch.zeros_like(h0), *[None] * (3 + len(products))


def _pieces(part: Tensor) -> tuple[Tensor, ...]:
    """Some frames at a time: what lies between them in memory is bounded, and in the caches of a CPU."""
    return part.split(512 if part.is_cuda else 16, 1) if part.shape[1] else ()


def _all(x: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    """``x`` of every process of the group, in order."""
    x = x.contiguous()
    found = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, x, group=group)
    return found
