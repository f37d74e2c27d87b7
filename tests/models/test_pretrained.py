"""A model as one thing to keep: predicted in the units of its data, saved, loaded elsewhere."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import script_environment
from torch import nn

from minconv import Forecaster, MinConvGRU
from minconv.core.cells import CELLS
from minconv.models.pretrained import CONFIG, WEIGHTS, Pretrained

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {"channels": 2, "hidden": 4, "layers": 2, "size": (4, 6)}


def make(cell: str = "minconvlstm", **options) -> Forecaster:
    torch.manual_seed(0)
    return Forecaster(cell, **SHAPE | options)


def frames(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return (100 + 20 * torch.randn(*shape, 2, 4, 6, generator=torch.Generator().manual_seed(1))).to(dtype)


# Prediction


@pytest.mark.parametrize("cell", CELLS)
def test_predicts_the_next_frames_and_no_others(cell):
    model, x = make(cell), frames(3, 5)
    assert torch.equal(model.predict(x, 4), model(x, 3)[:, -4:])
    assert torch.equal(model.predict(x, 1), model(x)[:, -1:])


def test_normalises_by_channel_and_undoes_it():
    model, x = make().set_normalisation([100, -3], [20, 0.5]), frames(3, 5)
    mean, std = torch.tensor([100.0, -3])[:, None, None], torch.tensor([20.0, 0.5])[:, None, None]
    expected = model((x - mean) / std, 2)[:, -3:] * std + mean
    torch.testing.assert_close(model.predict(x, 3), expected, rtol=1e-5, atol=1e-4)


def test_a_large_mean_costs_no_digits():
    model, x = make(increment=True).set_normalisation([1e6, 0], [1, 1]), frames(2, 5).double()
    x[:, :, 0] += 1e6 - 100
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.bias.zero_()
    assert (model.predict(x, 1)[:, 0] - x[:, -1]).abs().max() < 1e-5  # nothing is added; float32 alone would lose 0.06


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.uint8, np.int32, np.dtype(">f4")])
def test_gives_back_what_came_in(kind):
    model = make().set_normalisation([100, 100], [20, 20])
    array = np.clip(frames(5).numpy(), 0, 255).astype(kind)
    found = model.predict(array, 2)
    assert isinstance(found, np.ndarray) and found.shape == (2, 2, 4, 6)
    assert found.dtype == (array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.float32)
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    assert torch.equal(torch.from_numpy(found), model.predict(tensor, 2))
    assert torch.equal(model.predict(tensor, 2), model.predict(tensor.unsqueeze(0), 2)[0])


def test_leaves_modes_and_gradients_alone():
    model = make()
    model.norms[0].eval()
    modes = [module.training for module in model.modules()]
    assert not model.predict(frames(1, 3).requires_grad_(), 2).requires_grad
    assert [module.training for module in model.modules()] == modes and not all(modes)


@pytest.mark.parametrize(
    ("given", "steps", "error", "words"),
    [
        (frames(1, 3), 0, ValueError, "steps must be at least 1"),
        (frames(), 1, ValueError, r"frames must be real numbers \[B, T, C, H, W\]"),
        (frames(1, 3).to(torch.complex64), 1, TypeError, "frames must be real"),
        ([[1.0]], 1, TypeError, "frames must be a tensor or an array of real numbers; got list"),
        (np.array(["a"]), 1, TypeError, "array of real numbers; got <U1"),
        (frames(1, 3)[..., :3], 1, ValueError, r"frames must be \[B, T >= 1, 2, 4, 6\]"),
        (frames(1, 3) * torch.tensor(torch.nan), 1, ValueError, "144 of 144 numbers are not"),
    ],
)
def test_refuses_what_it_cannot_use(given, steps, error, words):
    with pytest.raises(error, match=words):
        make().predict(given, steps)


def test_frames_far_from_those_of_the_training_are_refused(tmp_path):
    model = make().set_normalisation([100, 100], [20, 20])
    model.frames = {"quantity": "brightness", "units": "1", "range": [0, 200]}
    found = Forecaster.from_pretrained(model.save_pretrained(tmp_path))
    assert found.frames == model.frames and found.predict(1.3 * frames(2, 3), 1).isfinite().all()
    for far in (frames(2, 3) - 400, frames(2, 3) + 400):
        with pytest.raises(ValueError, match=r"frames must be brightness in 1, in training 0 to 200; got .* too far"):
            found.predict(far, 1)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0], [1], "each of the 2 channels; got 1 and 1"),
        ([0, 0], [1, 0], "std must be above 0"),
        ([0, torch.inf], [1, 1], "mean must be finite"),
    ],
)
def test_refuses_a_normalisation_that_is_none(mean, std, words):
    with pytest.raises(ValueError, match=words):
        make().set_normalisation(mean, std)


# Saving


@pytest.mark.parametrize("options", [{}, {"padding": "sphere", "dilation": (1, 2), "norm": "frame", "increment": True}])
@pytest.mark.parametrize("cell", CELLS)
def test_comes_back_as_it_was(cell, options, tmp_path):
    model, x = make(cell, **options).set_normalisation([100, 1 / 3], [20, 1e-9]), frames(2, 5)
    found = Forecaster.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert str(found) == str(model) and found.normalisation == model.normalisation and not found.training
    assert torch.equal(found.predict(x, 3), model.predict(x, 3))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.slow
def test_comes_back_in_another_process_in_double_precision(tmp_path):
    model, x = make().double(), frames(2, 5, dtype=torch.float64)
    model.save_pretrained(tmp_path)
    np.save(tmp_path / "x.npy", x.numpy())
    code = "import sys, numpy, torch; from minconv import Forecaster; torch.set_num_threads(1); folder = sys.argv[1]\n"
    code += "x = numpy.load(folder + '/x.npy')\n"
    code += "numpy.save(folder + '/y.npy', Forecaster.from_pretrained(folder).predict(x, 3))"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=script_environment())
    assert np.array_equal(np.load(tmp_path / "y.npy"), model.predict(x.numpy(), 3))


class Tied(Pretrained):
    """A weight with two names, and a buffer."""

    def __init__(self, channels: int):
        super().__init__()
        self.config = {"channels": channels}
        self.first, self.second = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.second.weight = self.first.weight
        self.register_buffer("field", torch.zeros(channels))


def test_buffers_and_tied_weights_are_kept(tmp_path):
    model = Tied(3)
    with torch.no_grad():
        model.field.fill_(7)
        model.second.bias.fill_(2)
    found = Tied.from_pretrained(model.save_pretrained(tmp_path))
    assert found.second.weight is found.first.weight
    assert all(torch.equal(found.state_dict()[name], value) for name, value in model.state_dict().items())


def test_a_cell_of_ones_own_is_refused_before_anything_is_written(tmp_path):
    class Mine(MinConvGRU):
        pass

    with pytest.raises(TypeError, match="options are numbers and words"):
        Forecaster(Mine, **SHAPE).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def change(**words):
    def edit(folder):
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | words))

    return edit


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), FileNotFoundError, f"has no {WEIGHTS}"),
        (lambda folder: (folder / CONFIG).write_text("{"), ValueError, "not a whole JSON file"),
        (lambda folder: (folder / CONFIG).write_text("[]"), ValueError, "must hold a Forecaster"),
        (change(**{"class": "Tied"}), ValueError, "must hold a Forecaster; it holds 'Tied'"),
        (change(options={"cell": "convlstm", **SHAPE}), ValueError, "holds no whole Forecaster"),
        (change(options={"cell": "minconvlstm", **SHAPE, "layers": 3}), ValueError, "its weights lack cells.2"),
        (change(options={"cell": "minconvlstm", **SHAPE, "layers": 1}), ValueError, "have besides cells.1"),
        (change(normalisation={"mean": [0], "std": [1]}), ValueError, "each of the 2 channels"),
        (change(options={"cell": "convgru", "unknown": 1}), ValueError, "unknown"),
        (cut, ValueError, "is damaged"),
    ],
)
def test_a_misfit_is_refused_by_name(harm, error, words, tmp_path):
    make().save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(error, match=words):
        Forecaster.from_pretrained(tmp_path)
