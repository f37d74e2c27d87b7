"""The published SimVP and the ConvLSTM of its tables: their program's numbers where they are at hand, counts, names."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from helpers import assert_near, beside, within
from torch import Tensor, nn
from torch.nn import functional as F

from minconv.models import convlstm, count_parameters
from minconv.models.convlstm import PatchedConvLSTM, patches, sampling_mask, unpatched
from minconv.models.simvp import PUBLISHED, SimVP, from_published, ours

pytestmark = pytest.mark.usefixtures("one_thread")

GSTA, INCEPU = (
    ("gsta_c1_4to4", "gsta_c2_4to6", "gsta_c1_4to3"),
    ("incepu_c1_4to4", "incepu_c2_4to6", "incepu_c1_4to4_b"),
)
WHOLE = GSTA[:2] + INCEPU[:2]  # with what is in between


def vectors(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Configuration, weights by published name and other arrays of a reference file."""
    of = beside("simvp", f"dev_{name}.npz")
    return json.loads(of["config"]), within(of, "param/"), of


# SimVP


@pytest.mark.parametrize("name", GSTA + INCEPU)
def test_outputs_and_gradients(name):
    config, weights, of = vectors(name)
    model, x = from_published(config, weights).eval(), of["x"].requires_grad_()
    y = model(x, config["T_out"] - 1)
    assert_near(y, of["y"])
    (gradient,) = torch.autograd.grad((y * of["cot"]).sum(), x)
    assert_near(gradient, of["gx"])


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_in_between(name):
    config, weights, of = vectors(name)
    model, seen = from_published(config, weights).eval(), {}
    for part, layer in {"latent": model.encoder[-1], "skip": model.encoder[0], "translated": model.translator}.items():
        layer.register_forward_hook(lambda _, __, output, part=part: seen.update({part: output}))
    model.following(of["x"])
    assert_near(seen["latent"], of["mid_latent"])
    assert_near(seen["skip"], of["mid_skip"])
    assert_near(seen["translated"].view_as(of["mid_translated"]), of["mid_translated"])


@pytest.mark.parametrize("name", GSTA[:2])
def test_a_pass_in_training(name):
    config, weights, of = vectors(name)
    model = from_published(config | {"drop_path": None}, weights).train()
    assert_near(model.following(of["x"]), of["train_y"])
    found = model.state_dict()
    after = within(of, "train_after/")
    assert len(after) == 4 * config["N_T"]
    for key, expected in after.items():
        assert_near(found[ours(key)], expected)
    depths = from_published(config, weights).train()  # as published, not off
    assert not torch.equal(depths.following(of["x"].repeat(50, 1, 1, 1, 1))[:2], of["train_y"])


class Transposed(nn.Module):
    """A translator that is given channels s T + t."""

    def __init__(self, inner: nn.Module, frames: int):
        super().__init__()
        self.inner, self.frames = inner, frames

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x.unflatten(1, (self.frames, -1)).transpose(1, 2).flatten(1, 2))
        return x.unflatten(1, (-1, self.frames)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("name", GSTA + INCEPU)
def test_time_is_the_slow_index_of_the_channels(name):
    config, weights, of = vectors(name)
    model = from_published(config, weights).eval()
    model.translator = Transposed(model.translator, config["T_in"])
    assert (model(of["x"], config["T_out"] - 1) - of["y"]).abs().max() > 0.1


COUNTS = {  # parameters, and billions of multiplications in convolutions (the tables' "FLOPs")
    ("moving mnist", "gsta"): (46_769_665, 16.468),
    ("moving mnist", "incepu"): (57_946_113, 19.335),
    ("moving mnist, large", "gsta"): (524_004_353, None),
    ("taxibj", "gsta"): (9_961_058, 2.609),
    ("taxibj", "incepu"): (13_794_914, 3.592),
    ("temperature", "gsta"): (12_758_305, 6.988),
    ("temperature", "incepu"): (14_666_017, 7.971),
}


def multiplications(model: nn.Module, *arguments: Any) -> float:
    """Billions of them in a model's convolutions."""
    found = []

    def count(conv: nn.Module, _, output: Tensor) -> None:
        found.append(output.numel() * conv.weight[0].numel())

    for module in model.modules():
        if hasattr(module, "weight") and getattr(module.weight, "ndim", 0) == 4:
            module.register_forward_hook(count)
    model(*arguments)
    return sum(found) / 1e9


@pytest.mark.parametrize("task, translator", COUNTS)
def test_published_sizes(task, translator):
    parameters, billions = COUNTS[task, translator]
    with torch.device("meta"):
        model = SimVP(**PUBLISHED[task], translator=translator)
        assert count_parameters(model) == parameters
        if billions:
            x = torch.zeros(1, model.context, model.channels, *model.size)
            assert multiplications(model, x, model.context - 1) == pytest.approx(billions, abs=5e-4)
    assert model.config["mlp_ratio"] == 8 and model.config["hid_t"] == 8 * model.config["hid_s"]


def test_published_sizes_by_part():
    with torch.device("meta"):
        model = SimVP(**PUBLISHED["moving mnist"])
    first, second, *_, last = model.translator
    assert count_parameters(model.encoder) == 111_936
    assert count_parameters(model.decoder) + count_parameters(model.readout) == 369_857
    assert first.widen.out_channels == 5120  # the first block is as wide as what comes in, and 8 times that
    reduced = 640 * 512 + 512
    assert count_parameters(first) == 20 * 640**2 + 175 * 640 + reduced
    assert count_parameters(second) == 20 * 512**2 + 175 * 512
    assert count_parameters(last) == count_parameters(second) + 512 * 640 + 640


def published_names(translator: str, n_s: int, n_t: int) -> Iterator[str]:
    """As the program calls its weights."""
    both = ("weight", "bias")
    for n, (kind, part) in product(range(n_s), product(("conv", "norm"), both)):
        yield f"enc.enc.{n}.conv.{kind}.{part}"
        yield f"dec.dec.{n}.conv.{'conv.0' if kind == 'conv' and n % 2 == 0 else kind}.{part}"
    yield from (f"dec.readout.{part}" for part in both)
    if translator == "gsta":
        inside = [f"attn.proj_{n}" for n in (1, 2)] + [f"mlp.{name}" for name in ("fc1", "fc2", "dwconv.dwconv")]
        inside += [f"attn.spatial_gating_unit.{name}" for name in ("conv0", "conv_spatial", "conv1")]
        for n, norm in product(range(n_t), ("norm1", "norm2")):
            kept = "running_mean", "running_var", "num_batches_tracked"
            yield from (f"hid.enc.{n}.block.{norm}.{part}" for part in both + kept)
            yield f"hid.enc.{n}.block.layer_scale_{norm[-1]}"
        yield from (f"hid.enc.{n}.block.{name}.{part}" for n, name, part in product(range(n_t), inside, both))
        yield from (f"hid.enc.{n}.reduction.{part}" for n, part in product((0, n_t - 1), both))
    else:
        layers = ["conv1"] + [f"layers.{q}.{kind}" for q, kind in product(range(4), ("conv", "norm"))]
        sides = product(("enc", "dec"), range(n_t), layers, both)
        yield from (f"hid.{side}.{n}.{name}.{part}" for side, n, name, part in sides)


@pytest.mark.parametrize("translator", ["gsta", "incepu"])
def test_every_published_name_is_one_of_ours(translator):
    torch.manual_seed(0)
    model = SimVP(1, 4, (16, 16), translator, hid_s=4, hid_t=24, n_t=3).double()
    names = list(published_names(translator, 4, 3))
    state = model.state_dict()
    found = {name: ours(name) for name in names}
    assert sorted(found.values()) == sorted(state) and len(names) == len(state)
    config = {"in_shape": [4, 1, 16, 16], "model_type": translator, "hid_S": 4, "hid_T": 24, "N_S": 4, "N_T": 3}
    again = from_published(config, {name: state[ours(name)] for name in names})
    x = torch.randn(2, 4, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(again.eval()(x, 5), model.eval()(x, 5))
    for changed in (names[1:], [*names, "hid.norm.weight"]):
        with pytest.raises(ValueError, match="state_dict does not hold the weights of a published SimVP"):
            from_published(config, {name: state.get(ours(name), torch.zeros(1)) for name in changed})
    with pytest.raises(ValueError, match="does not hold the weights"):
        from_published({}, {})


# ConvLSTM


@pytest.mark.parametrize("name", ["convlstm_c1_4to4", "convlstm_c2_4to6"])
def test_convlstm(name):
    config, weights, of = vectors(name)
    model, ahead = convlstm.from_published(config, weights), config["T_out"]
    assert_near(model(of["x"], ahead - 1)[:, -ahead:], of["y"])
    frames, p = torch.cat([of["x"], of["target"]], 1), config["patch_size"]
    cut = of["ims_patched"].movedim(-1, 2)
    assert torch.equal(patches(frames, p), cut) and torch.equal(unpatched(cut, p), frames)
    trained = model(frames[:, :-1], ahead - 1, of["mask"])
    assert_near(patches(trained, p), of["train_frames"].movedim(-1, 2))
    assert_near((trained - frames[:, 1:]).square().mean(), of["train_loss"].squeeze())
    registered = sum(weight.numel() for weight in weights.values())
    assert registered - count_parameters(model) == sum(52 * n * n for n in config["num_hidden"])


@pytest.mark.parametrize(
    "channels, hidden, patch, size, used, registered, billions",
    [
        (1, 128, 4, (10, 64, 64), 11_675_648, 15_083_520, 56.790),
        (1, 192, 4, (10, 64, 64), 26_115_072, 33_782_784, 127.024),
        (2, 128, 2, (4, 32, 32), 11_572_224, 14_980_096, 20.737),
        (1, 128, 2, (12, 32, 64), 11_520_512, 14_928_384, 135.666),  # 14.98 M in the table
    ],
)
def test_sizes_of_convlstm(channels, hidden, patch, size, used, registered, billions):
    frames, *size = size
    with torch.device("meta"):
        model = PatchedConvLSTM(channels, [hidden] * 4, patch)
        assert count_parameters(model) == used and used + 4 * 52 * hidden**2 == registered
        assert not any(name.endswith("bias") for name, _ in model.named_parameters())
        kernels = sum(cell.conv.weight.numel() for cell in model.cells) + model.readout.weight.numel()
    cells = size[0] * size[1] // patch**2
    assert kernels * cells * (2 * frames - 1) / 1e9 == pytest.approx(billions, abs=6e-4)


def small(**options: Any) -> PatchedConvLSTM:
    torch.manual_seed(0)
    return PatchedConvLSTM(**{"channels": 2, "hidden": [3, 4], "patch": 2, "kernel_size": 3} | options).double()


def test_convlstm_by_hand():
    """One layer, a step at a time, from the equations, with the program's gates i, f, g, o; states begin at 0, and
    nothing is added to a forget gate."""
    of_x, of_h, last, x = (
        torch.randn(*shape, dtype=torch.float64)
        for shape in ((12, 8, 3, 3), (12, 3, 3, 3), (8, 3, 1, 1), (2, 4, 2, 4, 6))
    )
    names = "cell_list.0.conv_x.0.weight", "cell_list.0.conv_h.0.weight", "conv_last.weight"
    unused = {"cell_list.0.conv_o.0.weight": last, "cell_list.0.conv_last.weight": last}
    weights = dict(zip(names, (of_x, of_h, last), strict=True)) | unused
    model = convlstm.from_published({"C": 2, "num_hidden": [3], "patch_size": 2}, weights)
    h = c = torch.zeros(2, 3, 2, 3, dtype=torch.float64)
    expected, seen = [], x[:, 0]
    for t in range(6):
        seen = x[:, t] if t < 4 else expected[-1]
        rows = [F.pixel_unshuffle(seen[:, k : k + 1], 2) for k in range(2)]
        cut = torch.stack(rows, 2).flatten(1, 2)  # (dy p + dx) C + c
        i, f, g, o = (F.conv2d(cut, of_x, padding=1) + F.conv2d(h, of_h, padding=1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out = F.conv2d(h, last).unflatten(1, (4, 2))
        expected.append(torch.cat([F.pixel_shuffle(out[:, :, k], 2) for k in range(2)], 1))
    assert_near(model(x, 2), torch.stack(expected, 1), 1e-12)


def test_a_mask_chooses_between_truth_and_prediction():
    model, x = small(), torch.randn(2, 7, 2, 4, 6, dtype=torch.float64)
    closed, open_ = model(x[:, :3], 4), model(x)
    assert_near(model(x, 4, torch.zeros(2, 4)), closed, 1e-12)
    assert_near(model(x, 4, torch.ones(2, 4)), open_, 1e-12)
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    mixed, states = model.advance(x[:, :3])
    expected = [mixed]
    for step in range(4):
        seen = torch.stack([x[b, 3 + step] if mask[b, step] else expected[-1][b, -1] for b in range(2)])
        found, states = model.advance(seen.unsqueeze(1), states)
        expected.append(found)
    assert_near(model(x, 4, mask), torch.cat(expected, 1), 1e-12)
    for wrong, frames in ((torch.zeros(2, 3), x), (torch.zeros(4), x), (torch.zeros(2, 4), x[:, :4])):
        with pytest.raises(ValueError, match=r"mask must be \[B, 4\] for frames \[B, T \+ 4, C, H, W\]; got"):
            model(frames, 4, wrong)


def test_true_frames_become_rarer():
    draw = torch.Generator().manual_seed(0)
    for step, expected in ((0, 1 - 2e-5), (24_999, 0.5), (40_000, 0.2), (49_999, 0), (50_000, 0), (10**6, 0)):
        mask = sampling_mask(step, 200, 100, draw)
        assert mask.shape == (200, 100) and set(mask.unique().tolist()) <= {0.0, 1.0}
        assert mask.mean().item() == pytest.approx(expected, abs=0.02 if 0 < expected < 0.9 else 2e-4)
    again = torch.Generator().manual_seed(3)
    assert torch.equal(sampling_mask(25_000, 2, 9, again), sampling_mask(25_000, 2, 9, again.manual_seed(3)))


def test_convlstm_is_a_model_like_the_others(tmp_path):
    model, x = small().set_normalisation([1, 2], [3, 4]), torch.randn(2, 5, 2, 4, 6, dtype=torch.float64)
    found = model.predict(x, 3)
    again = PatchedConvLSTM.from_pretrained(model.save_pretrained(tmp_path))
    assert found.shape == (2, 3, 2, 4, 6) and torch.equal(again.predict(x, 3), found)
    for wrong in (x[..., :5], x[:, :, :1], x[:, :0], x[0]):
        with pytest.raises(ValueError, match=r"frames must be \[B, T >= 1, 2, H, W\], H and W multiples of 2; got"):
            model(wrong)
    with pytest.raises(ValueError, match="states must be 2, one a layer; got 1"):
        model.advance(x, [None])
    with pytest.raises(TypeError, match="hidden must be the channels of each layer; got 3"):
        small(hidden=3)
    with pytest.raises(ValueError, match="state_dict does not hold the weights of a published ConvLSTM"):
        convlstm.from_published({"C": 1, "num_hidden": [3], "patch_size": 2}, {})
