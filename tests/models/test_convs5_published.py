"""The published ConvS5: numbers of its program where they are at hand, and what is known of it without them."""

import numpy as np
import pytest
import torch
from helpers import assert_all_near, beside, within
from torch.nn import functional as F

from minconv import ConvLSTM
from minconv.models import count_parameters
from minconv.models.convs5 import Block, ConvS5Network, ConvSSM, Stack, from_published
from minconv.models.convs5_cell import hippo

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = {
    "block_official": {},
    "block_official_noclip": {"clip_eigs": False},
    "block_standard_prenorm_swish_se": {"prenorm": True, "activation": "swish"},
    "block_half_glu": {},
    "block_resnet_se_elu_nonorm": {"activation": "elu"},
    "block_resnet_relu_noskip": {"activation": "relu", "per_layer_skip": False},
}


@pytest.fixture(scope="module")
def numbers() -> dict[str, torch.Tensor]:
    return beside("convs5", "convs5_dev.npz")


def frames(x: torch.Tensor) -> torch.Tensor:
    """[T, B, H, W, C] -> [B, T, C, H, W]."""
    return x.permute(1, 0, 4, 2, 3)


def video(x: torch.Tensor) -> torch.Tensor:
    """[B, T, H, W, C] -> [B, T, C, H, W]."""
    return x.movedim(-1, 2)


def state(x: torch.Tensor) -> torch.Tensor:
    """Complex [..., H, W, P] -> real [..., 2P, H, W]."""
    return torch.cat([x.real, x.imag], -1).movedim(-1, -3)


def assert_near(*pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert_all_near(*zip(*pairs, strict=True), 1e-10)


def operator(part: dict[str, torch.Tensor], **options) -> ConvSSM:
    """The operator with Lambda, log_step, B [P, U k k, 2] and C [k, k, P, U, 2] of a section."""
    into, out = part["B"], part["C"]
    cell = ConvSSM(out.shape[3], out.shape[3], state_size=2 * len(into), **options).double()
    with torch.no_grad():
        cell.Lambda_re.copy_(part["Lambda_re"])
        cell.Lambda_im.copy_(part["Lambda_im"])
        cell.log_step.copy_(part["log_step"].flatten())
        cell.B.copy_(torch.cat([into[..., 0], into[..., 1]]).view(cell.B.shape))
        cell.C.copy_(torch.cat([out[..., 0], out[..., 1]], 2).permute(3, 2, 0, 1))
    return cell


# The operator


@pytest.mark.parametrize("clip", [True, False])
def test_discretisation(numbers, clip):
    part = within(numbers, "discretise/")
    cell = operator(part | {"C": torch.zeros(3, 3, 6, 4, 2)}, clip_eigs=clip)
    a, b = cell.discretised()
    found = b[:, None, None, None] * torch.complex(*cell.B.chunk(2))
    expected = within(part, "clip/" if clip else "noclip/")
    torch.testing.assert_close(a, expected["A_bar"], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.permute(2, 3, 1, 0), expected["B_bar"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size, blocks", [(8, 1), (16, 1), (16, 2)])
def test_hippo(numbers, size, blocks):
    part, (lam, v) = within(numbers, f"hippo/s{size}b{blocks}/"), hippo(size, blocks)
    assert_near((lam, torch.complex(part["Lambda_re"], part["Lambda_im"])))
    phases = (part["V"].conj() * v).sum(0)  # one a column
    assert_near(
        (phases.abs(), torch.ones(size // 2).double()),
        (v, part["V"] * phases),
        (v.mH, part["Vinv"] * phases.conj()[:, None]),
    )


def test_initialisation_by_its_impulse_response(numbers):
    part = within(numbers, "init/")
    _, v = hippo(12)
    into = v.mH @ part["B_real"].to(v)  # as ConvSSM does with its draws
    out = (part["C_real"].to(v) @ v).view(4, 3, 3, 6).permute(1, 2, 3, 0)
    layouts = {"B": torch.view_as_real(into), "C": torch.view_as_real(out), "log_step": part["step"].log()}
    assert_near((operator(part | layouts)(frames(part["impulse"]))[0], frames(part["impulse_y"])))
    theirs = part | {"log_step": part["step"].log()}
    assert_near((operator(theirs)(frames(part["impulse"]))[0], frames(part["impulse_y"])))


class Raw(ConvSSM):
    """With a given a, and nothing that B is multiplied by."""

    def discretised(self):
        return torch.complex(self.a_re, self.a_im), torch.ones_like(self.a_re).to(torch.complex128)


def test_operator_and_all_gradients(numbers):
    part = within(numbers, "raw/")
    cell = Raw(4, 4, state_size=12).double()
    cell.a_re, cell.a_im = (torch.nn.Parameter(x.clone()) for x in (part["A"].real, part["A"].imag))
    with torch.no_grad():
        cell.B.copy_(torch.cat([part["B"].real, part["B"].imag], -1).permute(3, 2, 0, 1))
        cell.C.copy_(torch.cat([part["C"].real, part["C"].imag], 2).permute(3, 2, 0, 1))
    x, x0 = frames(part["us"]).requires_grad_(), state(part["x0"]).requires_grad_()
    y, after = cell(x, x0)
    for form in ("parallel", "sequential"):
        assert_near((y, frames(part[f"y_{form}"])), (after, state(part[f"x_last_{form}"])))
    zero, after_zero = cell(x)
    assert_near((zero, frames(part["y_parallel_zero_x0"])), (after_zero, state(part["x_last_parallel_zero_x0"])))
    check_steps(cell, part, x0)
    for cut in range(1, 7):
        first, between = cell(x[:, :cut], x0)
        second, _ = cell(x[:, cut:], between)
        assert_near((torch.cat([first, second], 1), y))
    loss = (frames(part["loss_weight_y"]) * y).sum() + (state(part["loss_weight_x"]) * after).sum()
    leaves = (x, x0, cell.a_re, cell.a_im, cell.B, cell.C)
    of_x, of_x0, of_re, of_im, of_b, of_c = torch.autograd.grad(loss, leaves)
    expected = {name: (part[f"grad_{name}_re"], part[f"grad_{name}_im"]) for name in ("A", "B", "C", "x0")}
    assert_near(
        (of_x, frames(part["grad_us"])),
        (of_x0, state(torch.complex(*expected["x0"]))),
        (of_re, expected["A"][0]),
        (of_im, expected["A"][1]),
        (of_b, torch.cat(expected["B"], -1).permute(3, 2, 0, 1)),
        (of_c, torch.cat(expected["C"], 2).permute(3, 2, 0, 1)),
    )


def check_steps(model, part: dict, now) -> None:
    """Frame by frame, with the state carried."""
    for frame, y_t, x_t in zip(frames(part["us"]).unbind(1), part["y_steps"], part["x_steps"], strict=True):
        y, now = model(frame.unsqueeze(1), now)
        assert_near((y.squeeze(1), y_t.movedim(-1, 1)), (now, state(x_t)))


# The block and the stack


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(numbers, name):
    part = within(numbers, f"{name}/")
    block = from_published(within(part, "params/"), num_groups=2, **BLOCKS[name])
    assert isinstance(block, Block)
    x, x0 = frames(part["us"]), state(part["x0"])
    y, after = block(x, x0)
    assert_near((y, frames(part["y_parallel"])), (after, state(part["x_last_parallel"])))
    if "y_parallel_zero_x0" in part:
        assert_near((block(x)[0], frames(part["y_parallel_zero_x0"])))
    check_steps(block, part, x0)


def test_gradients_of_the_published_block(numbers):
    part = within(numbers, "block_official/")
    block = from_published(within(part, "params/"), num_groups=2)
    x, x0 = frames(part["us"]).requires_grad_(), state(part["x0"]).requires_grad_()
    y, after = block(x, x0)
    loss = (frames(part["loss_weight_y"]) * y).sum() + (state(part["loss_weight_x"]) * after).sum()
    of_x, of_x0, *found = torch.autograd.grad(loss, (x, x0, *block.parameters()))
    assert_near((of_x, frames(part["grad_us"])), (of_x0, state(torch.complex(part["grad_x0_re"], part["grad_x0_im"]))))
    expected = from_published(within(part, "grad_params/"), num_groups=2)  # in the layout of the weights
    assert_near(*zip(found, expected.parameters(), strict=True))
    of_lambda = dict(zip(dict(block.named_parameters()), found, strict=True))["cell.ssm.Lambda_re"]
    assert of_lambda[0] == 0 and (of_lambda[1:] != 0).all()  # the first is above the clip


def test_stack(numbers):
    part = within(numbers, "stack/")
    stack = from_published(within(part, "params/"), num_groups=2)
    assert isinstance(stack, Stack)
    x, now = frames(part["us"]), [state(part["x0_0"]), state(part["x0_1"])]
    y, after = stack(x, now)
    assert_near((y, frames(part["y_parallel"])), *((after[n], state(part[f"x_last_parallel_{n}"])) for n in (0, 1)))
    y, after = stack(x)
    assert_near((y, frames(part["y_parallel_zero_x0"])), *((after[n], state(part[f"x_last_zero_{n}"])) for n in (0, 1)))
    for t, frame in enumerate(x.unbind(1)):
        y, now = stack(frame.unsqueeze(1), now)
        assert_near((y.squeeze(1), part["y_steps"][t].movedim(-1, 1)))
        assert_near(*((now[n], state(part[f"x_steps_{n}"][t])) for n in (0, 1)))


def test_its_convlstm_is_ours_without_bias(numbers):
    """Whose blocks are g, i, f, o, and theirs i, f, o, g."""
    part = within(numbers, "convlstm_layer/")
    cell = ConvLSTM(4, 4).double()
    i, f, o, g = part["params/seq/A"].permute(3, 2, 0, 1).chunk(4)
    with torch.no_grad():
        cell.conv.weight.copy_(torch.cat([g, i, f, o]))
        cell.conv.bias.zero_()
    x = frames(part["us"])
    h, (h_last, c_last) = cell(x, tuple(part[name].movedim(-1, 1) for name in ("h0", "c0")))
    y = F.layer_norm((x + h).movedim(2, -1), (4,), part["params/norm/scale"], part["params/norm/bias"], 1e-6)
    assert_near(
        (y.movedim(-1, 2), frames(part["y"])),
        (h_last, part["h_last"].movedim(-1, 1)),
        (c_last, part["c_last"].movedim(-1, 1)),
    )


# The network


def published_loss(found: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Loss, squares and absolute values: sums over channels and width, means over the rest."""
    error = found - target
    mse, l1 = (part.sum((2, 4)).mean() for part in (error.square(), error.abs()))
    return [0.5 * mse + 0.5 * l1, mse, l1]


def test_network(numbers):
    part = within(numbers, "model/")
    model, clip = from_published(within(part, "params/")), video(part["video"])
    assert isinstance(model, ConvS5Network)
    assert_near((model.encoder(clip.flatten(0, 1)).unflatten(0, (2, 5)), video(part["encoded"])))
    assert_near((model.features(clip[:, :-1])[0], video(part["deter"])))
    found, states = model.advance(clip[:, :-1])
    assert_near((found, video(part["recon"])), *((states[n], state(part[f"last_state_{n}"])) for n in (0, 1)))
    losses = published_loss(found, clip[:, 1:])
    assert_near(*zip(losses, (part["loss"], part["mse_loss"], part["l1_loss"]), strict=True))
    losses[0].backward()
    # a norm does not depend on the layout: weights that hold it everywhere lead to the right one
    norms = {name: value.expand_as(part[f"params/{name}"]) for name, value in within(part, "grad_norm/").items()}
    for (name, weight), expected in zip(model.named_parameters(), from_published(norms).parameters(), strict=True):
        torch.testing.assert_close(weight.grad.norm(), expected.flatten()[0], rtol=1e-9, atol=1e-12, msg=name)


def test_rollout(numbers):
    """From the last frame and the states before it, and as the closed loop of a forecast."""
    part = within(numbers, "model/")
    model, clip = from_published(within(part, "params/")), video(part["video"])
    made, frame = [], clip[:, -1:]
    now = [state(part["last_state_0"]), state(part["last_state_1"])]
    with torch.no_grad():
        for _ in range(3):
            frame, now = model.advance(frame, now)
            made.append(frame)
        assert_near((torch.cat(made, 1), video(part["rollout"])), (model(clip, 2)[:, -3:], video(part["rollout"])))
    assert_near(*((now[n], state(part[f"rollout_state_{n}"])) for n in (0, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("hidden, whole, decoder", [(256, 21_681_411, 1_497_985), (128, 7_409_155, 1_424_257)])
def test_published_counts(hidden, whole, decoder):
    with torch.device("meta"):
        model = ConvS5Network(hidden=hidden)
    assert count_parameters(model) == whole
    assert (count_parameters(model.encoder), count_parameters(model.decoder)) == (1_223_552, decoder)
    assert count_parameters(model.stack) == 8 * {256: 2_361_728, 128: 591_040}[hidden]


SMALL = {"hidden": 8, "layers": 2, "depths": (4, 4, 8), "num_groups": 4}


def test_network_forecasts_and_is_saved(tmp_path):
    torch.manual_seed(0)
    model = ConvS5Network(**SMALL, state_size=4)
    clip = torch.rand(2, 5, 1, 8, 12) * 2 - 1
    found = model(clip, 3)
    assert found.shape == (2, 8, 1, 8, 12) and found.abs().max() <= 1
    torch.testing.assert_close(model(torch.cat([clip, found[:, 4:-1]], 1)), found, rtol=0, atol=1e-5)
    again = ConvS5Network.from_pretrained(model.save_pretrained(tmp_path))
    torch.testing.assert_close(again.predict(clip, 3), found[:, -4:-1].detach(), rtol=0, atol=1e-6)
    one, other = model(clip), model(torch.cat([clip[:, :3], -clip[:, 3:]], 1))
    torch.testing.assert_close(one[:, :3], other[:, :3], rtol=0, atol=1e-6)


def test_the_constant_plane_is_the_last_channel_and_the_first_embedding():
    model, found = ConvS5Network(**SMALL), []
    with torch.no_grad():
        model.enter.weight.zero_()[:, -1] = 1
        model.action.copy_(torch.tensor([[3.0], [5.0]]))
    model.enter.register_forward_hook(lambda module, inputs, output: found.append(output))
    model(torch.rand(1, 2, 1, 8, 8))
    assert found[0].shape == (2, 8, 2, 2) and (found[0] == 3).all()


@pytest.mark.parametrize("shape", [(2, 5, 1, 8), (2, 0, 1, 8, 8), (2, 5, 2, 8, 8), (2, 5, 1, 8, 10), (2, 5, 1, 6, 8)])
def test_network_refuses_frames(shape):
    with pytest.raises(ValueError, match=r"frames must be \[B, T >= 1, 1, H, W\], H and W multiples of 4; got"):
        ConvS5Network(**SMALL)(torch.zeros(shape))


# Published weights


def published(hidden: int = 4, states: int = 3, of_b: int = 5, of_c: int = 3, after: int = 1) -> dict[str, np.ndarray]:
    """A block's arrays by the program's names, zero where they are nothing else."""
    seq = {
        "Lambda_re": np.full(states, -0.5),
        "Lambda_im": -np.arange(1.0, states + 1),
        "log_step": np.zeros((states, 1)),
        "B": np.zeros((states, hidden * of_b**2, 2)),
        "C": np.zeros((of_c, of_c, states, hidden, 2)),
    }
    for n in range(2):
        seq[f"C_D_conv/Conv_{n}/kernel"] = np.zeros((after, after, hidden, hidden))
        seq |= {f"C_D_conv/{name}_{n}/bias": np.zeros(hidden) for name in ("Conv", "GroupNorm")}
        seq[f"C_D_conv/GroupNorm_{n}/scale"] = np.ones(hidden)
    return {"norm/scale": np.ones(hidden), "norm/bias": np.zeros(hidden)} | {
        f"seq/{name}": x for name, x in seq.items()
    }


def test_where_an_entry_goes():
    """B's flat axis is (u, kh, kw); C's kernel is [kh, kw, P, U]; those of convolutions are [kh, kw, in, out]."""
    arrays = published()
    arrays["seq/B"][1, 3 * 25 + 0 * 5 + 2] = 7, 8  # state 1, channel 3, row 0, column 2
    arrays["seq/C"][0, 2, 2, 3] = 5, 6  # row 0, column 2, state 2, channel 3
    arrays["seq/C_D_conv/Conv_1/kernel"][0, 0, 1, 2] = 4
    cell = from_published(arrays, num_groups=2).cell
    assert cell.ssm.B.shape == (6, 4, 5, 5) and cell.ssm.C.shape == (4, 6, 3, 3)
    for weight, entries in (
        (cell.ssm.B, {(1, 3, 0, 2): 7, (3 + 1, 3, 0, 2): 8}),
        (cell.ssm.C, {(3, 2, 0, 2): 5, (3, 3 + 2, 0, 2): 6}),
        (cell.nonlinear.convs[1].weight, {(2, 1, 0, 0): 4}),
    ):
        assert {tuple(place): weight[tuple(place)].item() for place in weight.nonzero().tolist()} == entries


def test_weights_that_are_not_those_of_a_model():
    arrays = published()
    for wrong in ({}, {"encoder.weight": np.zeros(3)}, {name: x for name, x in arrays.items() if "Conv_1" not in name}):
        with pytest.raises(ValueError, match="parameters do not hold the weights of a published ConvS5"):
            from_published(wrong, num_groups=2)
    with pytest.raises(ValueError, match="parameters do not hold"):
        from_published(arrays | {"seq/D": np.zeros(3)}, num_groups=2)
    with pytest.raises(ValueError, match="channels must be a multiple of num_groups, 32; got 4"):
        from_published(arrays, num_groups=32)
