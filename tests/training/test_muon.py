"""Muon: against a decomposition, against torch's, and for models stacked."""

import pytest
import torch

from minconv.training.muon import COEFFICIENTS, ITERATIONS, MOMENTUM, Muon, orthogonalised

SHAPES = [(6, 2, 3, 3), (8, 16, 3, 3), (40, 3, 3, 3), (5, 5, 5, 5), (3, 4, 1, 2)]


def kernel(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def gradients(shape: tuple[int, ...], steps: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [kernel(shape, 100 + step, dtype).detach() for step in range(steps)]


def descend(optimizer: torch.optim.Optimizer, weight: torch.Tensor, grads: list[torch.Tensor]) -> torch.Tensor:
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(7, 4, 6), (7, 6, 4), (1, 5, 5), (2, 1, 9)])
def test_singular_values_go_through_the_quintic_and_vectors_stay(shape):
    matrices = kernel(shape).detach()
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.norm(dim=1, keepdim=True)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalised(matrices), u @ torch.diag_embed(s) @ v, rtol=1e-9, atol=1e-9)


def test_singular_values_come_near_one():
    u, _, v = torch.linalg.svd(kernel((4, 30, 50)).detach(), full_matrices=False)
    wide = u @ torch.diag_embed(torch.logspace(0, -2, 30, dtype=torch.float64).expand(4, 30)) @ v
    found = torch.linalg.svdvals(orthogonalised(wide))
    assert found.min() > 0.65 and found.max() < 1.25
    torch.testing.assert_close(orthogonalised(1e3 * wide), orthogonalised(wide))  # whatever the size of a gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_momentums_direction(shape):
    found, expected = kernel(shape), kernel(shape).detach()
    grads = gradients(shape, 3)
    momentum = torch.zeros(shape, dtype=torch.float64)
    for grad in grads:
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * grad
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * grad
        step = orthogonalised(ahead.flatten(1)[None])[0].view(shape)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * max(shape[0], shape[1] * shape[2] * shape[3]) ** 0.5 * step
    descend(Muon([found], 0.1, 0.5), found, grads)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_is_torchs_muon_to_its_half_precision(shape, weight_decay):
    weight, grads = kernel(shape, dtype=torch.float32), gradients(shape, 5, torch.float32)
    start, matrix = weight.detach().clone(), weight.detach().flatten(1).clone().requires_grad_()
    found = descend(Muon([weight], 3e-3, weight_decay), weight, grads)
    torchs = torch.optim.Muon([matrix], 3e-3, weight_decay, adjust_lr_fn="match_rms_adamw")
    expected = descend(torchs, matrix, [grad.flatten(1) for grad in grads]).view(shape)
    assert (found - expected).norm() < 0.03 * (expected - start).norm()


def test_models_stacked_are_models_alone():
    shape, grads = (4, 6, 3, 3), gradients((3, 4, 6, 3, 3), 4)
    stacked = kernel((3, *shape))
    alone = [weight.clone().requires_grad_() for weight in stacked.detach()]
    descend(Muon([stacked], 1e-2), stacked, grads)
    for s, weight in enumerate(alone):
        expected = descend(Muon([weight], 1e-2), weight, [grad[s] for grad in grads])
        torch.testing.assert_close(stacked.detach()[s], expected, rtol=1e-11, atol=1e-12)


def test_the_layout_in_memory_does_not_matter():
    shape, grads = (4, 6, 3, 3), gradients((4, 6, 3, 3), 3)
    one, other = kernel(shape), kernel(shape).detach().to(memory_format=torch.channels_last).requires_grad_()
    descend(Muon([one], 1e-2), one, grads)
    descend(Muon([other], 1e-2), other, [grad.to(memory_format=torch.channels_last) for grad in grads])
    assert other.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other.detach(), one.detach(), rtol=1e-12, atol=1e-12)


def test_without_a_gradient_nothing_moves():
    still, zero, moved = (kernel((4, 4, 3, 3), seed) for seed in range(3))
    before = [weight.detach().clone() for weight in (still, zero, moved)]
    optimizer = Muon([still, zero, moved], 1e-2)
    zero.grad, moved.grad = torch.zeros_like(zero), torch.ones_like(moved)
    optimizer.step()
    assert torch.equal(still, before[0]) and torch.equal(zero, before[1]) and not torch.equal(moved, before[2])


def test_a_closure_computes_the_gradients_and_its_loss_comes_back():
    weights = [kernel((4, 4, 3, 3)) for _ in range(2)]
    optimizers = [Muon([weight], 1e-2) for weight in weights]

    def closure() -> torch.Tensor:
        optimizers[0].zero_grad()
        loss = weights[0].square().sum()
        loss.backward()
        return loss

    expected = closure().item()
    weights[1].grad, weights[0].grad = weights[0].grad, None
    assert optimizers[0].step(closure).item() == expected and optimizers[1].step() is None
    assert torch.equal(*weights) and not torch.equal(weights[0], kernel((4, 4, 3, 3)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([kernel((3, 3))], 1e-3), ValueError, r"kernels must be \[out, in, kH, kW\] or .*; got \[3, 3\]"),
        (([], 1e-3), ValueError, "empty parameter list"),
        (([kernel((3, 3, 3, 3))], 0.0), ValueError, "lr must be above 0"),
        (([kernel((3, 3, 3, 3))], "1"), TypeError, "lr must be a number"),
        (([kernel((3, 3, 3, 3))], 1e-3, -1.0), ValueError, "weight_decay must be at least 0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Muon(*arguments)
