"""A forecaster that sees channels which are known in the future."""

import pytest
import torch

from minconv import Forecaster
from minconv.data.windows import Windows
from minconv.training import Run, Training, fit, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {"hidden": 4, "layers": 2, "size": (4, 4), "known": 2}


def model(seed: int = 0, **options) -> Forecaster:
    torch.manual_seed(seed)
    return Forecaster("minconvlstm", **SHAPE | options)


@pytest.mark.parametrize("increment", [False, True])
def test_the_closed_loop_sees_what_is_known_and_nothing_else(increment):
    found = model(increment=increment).double()
    torch.nn.init.normal_(found.decoder.weight)  # it starts at zero where increments are predicted
    frames = torch.randn(2, 9, 3, 4, 4, dtype=torch.float64)
    whole = found(frames, horizon=4)
    assert whole.shape == (2, 9, 1, 4, 4)
    hidden = frames.clone()
    hidden[:, 5:, :1] = torch.nan  # what is to be predicted
    torch.testing.assert_close(found(hidden, horizon=4), whole)
    other = frames.clone()
    other[:, 7:, 1:] += 1  # known of frame 7, which output 7 is made from
    changed = (found(other, horizon=4) - whole).abs().amax((0, 2, 3, 4))
    assert (changed[:7] == 0).all() and (changed[7:] > 0).all()
    # by hand, frame by frame
    prediction, states = found.advance(frames[:, :5])
    steps = [prediction]
    for t in range(5, 9):
        prediction, states = found.advance(torch.cat([prediction[:, -1:], frames[:, t : t + 1, 1:]], 2), states)
        steps.append(prediction)
    torch.testing.assert_close(torch.cat(steps, 1), whole)


def test_predict_normalises_what_is_predicted_alone(tmp_path):
    found = model().set_normalisation([10], [2])
    frames = torch.randn(1, 7, 3, 4, 4)
    frames[:, :, :1] = 10 + 2 * frames[:, :, :1]
    ahead = found.predict(frames, 3)
    normal = torch.cat([(frames[:, :, :1] - 10) / 2, frames[:, :, 1:]], 2)
    torch.testing.assert_close(ahead, 10 + 2 * found(normal, 2)[:, -3:].detach())
    again = Forecaster.from_pretrained(found.save_pretrained(tmp_path))
    torch.testing.assert_close(again.predict(frames, 3), ahead)
    with pytest.raises(ValueError, match=r"frames must be \[B, T \+ 6, C \+ 2, H, W\], .*; got \[1, 6, 3, 4, 4\]"):
        found.predict(frames[:, :6], 7)


def forced(samples: int, seed: int) -> torch.Tensor:
    """x_{t+1} = 0.5 x_t + k_t with a random k that is known, and another known channel that says nothing."""
    draw = torch.Generator().manual_seed(seed)
    known = torch.randn(samples, 14, 2, 4, 4, generator=draw)
    x = [torch.randn(samples, 4, 4, generator=draw)]
    for t in range(13):
        x.append(0.5 * x[-1] + known[:, t, 0])
    return torch.cat([torch.stack(x, 1).unsqueeze(2), known], 2)


@pytest.mark.parametrize("seeds", [(1,), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_learns_what_drives(seeds, tmp_path):
    """Without the known channel no error is below 1, the variance of what drives."""
    settings = Training(context=6, horizon=3, epochs=8, batch=8, optimizer="adam", lr=0.02, noise=0.0)
    run = Run(lambda seed: model(seed, layers=1, hidden=16, increment=True), seeds, tmp_path, settings)
    fit(run, forced(64, 0), forced(8, 1), device="cpu", quiet=True)
    for seed, weights in load_weights(tmp_path).items():
        found = model(seed, layers=1, hidden=16, increment=True)
        found.load_state_dict(weights)
        test = forced(8, 2)
        error = (found(test[:, :-1], horizon=4) - test[:, 1:, :1]).square().mean()
        assert error < 0.3


def test_a_model_and_arrays_with_known_channels(tmp_path):
    data = forced(24, 0)
    data[:, :, 0] = 100 + 5 * data[:, :, 0]
    found = model()
    fit(found, data, data[:4], folder=tmp_path, settings=Training(context=4, horizon=2, epochs=1, batch=8), quiet=True)
    assert found.normalisation[0] == pytest.approx([100], abs=1) and len(found.normalisation[1]) == 1
    with pytest.raises(ValueError, match="train must have 3 channels, as the model has; got 1"):
        fit(model(), data[:, :, :1], data[:4, :, :1], folder=tmp_path / "other", settings=Training(4, 2))


def test_known_channels_have_no_noise():
    data = forced(4, 0)
    windows = Windows(data, 5, 4, 0.5, [0], known=2)
    windows.start_epoch(0)
    inputs, _ = windows.cut(0)
    exact = data[windows.order[0][:, None], windows.offset[0][:, None] + torch.arange(5)]
    assert torch.equal(inputs[0, :, :, 1:], exact[:, :, 1:]) and not torch.equal(inputs[0, :, :, :1], exact[:, :, :1])
