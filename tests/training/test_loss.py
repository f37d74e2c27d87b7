"""Losses besides the mean square error."""

import pytest
import torch

from minconv.training.loss import WeightedSquare, relative_l2


def test_the_square_error_by_weight():
    weights = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
    prediction, target = torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2)
    found = WeightedSquare(weights)(prediction, target)
    expected = ((prediction - target) ** 2 * weights).sum() / (weights.sum() * 6)
    torch.testing.assert_close(found.mean(), expected)
    assert WeightedSquare(weights).__qualname__ == WeightedSquare(2 * weights).__qualname__  # equal but for a factor
    assert WeightedSquare(weights).__qualname__ != WeightedSquare(weights + 1).__qualname__


@pytest.mark.parametrize(
    "weights", [torch.ones(2, 2), torch.zeros(1, 2, 2), -torch.ones(1, 2, 2), torch.full((1, 2, 2), float("nan"))]
)
def test_other_weights_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights must be \[C, H, W\]"):
        WeightedSquare(weights)


def test_relative_l2_is_of_every_frame():
    target = torch.randn(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([[1.0, 0.5, 3.0], [1.0, 1.0, 0.0]])
    found = relative_l2(scale[:, :, None, None, None] * target, target)
    torch.testing.assert_close(found, (scale - 1).abs())
    prediction = target.clone().requires_grad_()
    relative_l2(prediction, target).sum().backward()
    assert prediction.grad.isfinite().all()  # at no error as well
