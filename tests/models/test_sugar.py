"""SUGAR: ReLU forward to the bit, and backward the derivatives of the specification's table."""

import math

import pytest
import torch
from helpers import random
from torch import nn
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minconv.models.sugar import SUGAR, SURROGATES, sugar

POINTS = [-8, -4, -2, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 2, 4, 8]
# in 40-digit arithmetic
TABLE = {
    "bsilu": """-0.001786704325422 -0.02316789551488 0.08455503883896 0.4006714166418 0.6524950120740 0.8665411956239
        0.9175 0.9663747786204 1.132417386679 1.256012440385 1.266123536409 1.082161334267 1.002906398146""",
    "nelu": """-0.0003786982248521 -0.002768166089965 -0.016 -0.05 -0.064 -0.01960592098814 0 1 1 1 1 1 1""",
    "gelu": """-3.979607261087e-14 -0.0005036496612264 -0.08523180107820 -0.08331547058769 0.1325048753438
        0.4204769079753 0.5 0.5795230920247 0.8674951246562 1.083315470588 1.085231801078 1.000503649661 1""",
    "silu": """-0.002346551235585 -0.05266461489107 -0.09078424878490 0.07232948812851 0.2600388126973 0.4500832085018
        0.5 0.5499167914982 0.7399611873027 0.9276705118715 1.090784248785 1.052664614891 1.002346551236""",
    "mish": """-0.002347394381605 -0.05377320979348 -0.1083550924204 0.05921675587739 0.2895106779135 0.5357028178730
        0.6 0.6633368207520 0.8864243753577 1.049036220100 1.069317934279 1.004432876904 1.000003372584""",
    "elu": """0.0003354626279025 0.01831563888873 0.1353352832366 0.3678794411714 0.6065306597126 0.9048374180360
        1 1 1 1 1 1 1""",
    "selu": """0.0005897766249943 0.03220071265748 0.2379328722517 0.6467686030348 1.066341153045 1.590794068223
        1.758099340847 1.050700987355 1.050700987355 1.050700987355 1.050700987355 1.050700987355 1.050700987355""",
    "leakyrelu": "0.01 0.01 0.01 0.01 0.01 0.01 0.01 1 1 1 1 1 1",
}
FUNCTIONS = {  # f, as PyTorch has it
    "bsilu": lambda x: (x + 1.67) * x.sigmoid() - 1.67 / 2,
    "nelu": lambda x: torch.where(x > 0, x, -0.1 / (1 + x * x)),
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "leakyrelu": F.leaky_relu,
}
ODD = [-math.inf, -300.0, -1.5, -0.0, 0.0, 1e-7, 2.5, 300.0, math.inf, math.nan]

each = pytest.mark.parametrize("name", SURROGATES)


def slope(function, x: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(weight * function(x).sum(), x)[0]


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def numbers(*shape: int) -> torch.Tensor:
    return 3 * random(*shape, seed=0)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_forward_is_relu_to_the_bit(name, dtype):
    x = torch.tensor(ODD, dtype=dtype).requires_grad_()
    y = sugar(x, name)
    assert y.dtype == dtype and torch.equal(bits(y.detach()), bits(F.relu(x).detach()))


@each
def test_gradient_is_that_of_the_table(name):
    x = torch.tensor(POINTS, dtype=torch.float64)
    wanted = torch.tensor([float(value) for value in TABLE[name].split()], dtype=torch.float64)
    torch.testing.assert_close(slope(SUGAR(name), x, 3.0), 3 * wanted, rtol=1e-10, atol=1e-13)


@each
def test_gradient_is_that_of_the_surrogate_and_not_of_relu(name):
    x = numbers(200)
    torch.testing.assert_close(slope(SUGAR(name), x), slope(FUNCTIONS[name], x), rtol=1e-10, atol=1e-13)
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(SUGAR(name), x[:4].clone().requires_grad_())


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradient_far_away(name, dtype):
    x = torch.tensor([-math.inf, -3e4, -50, 50, 3e4, math.inf], dtype=dtype)
    below, above = {"leakyrelu": 0.01, "nelu": 0}.get(name, 0), {"selu": 1.0507009873554805}.get(name, 1)
    wanted = torch.tensor([below] * 3 + [above] * 3, dtype=dtype)
    torch.testing.assert_close(slope(SUGAR(name), x), wanted, rtol=1e-3, atol=2e-6)


def test_gradient_in_half_precision_is_rounded_once():
    x = numbers(500).half()
    assert torch.equal(slope(SUGAR(), x), slope(SUGAR(), x.float()).half())


def test_bsilu_where_its_slope_is_special():
    x = torch.tensor([-2.7349004665498, 1.4915089740895, -3.7648799784496], dtype=torch.float64)
    wanted = torch.tensor([0, 1.2903772435224, -0.023719994612399], dtype=torch.float64)
    torch.testing.assert_close(slope(SUGAR(), x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "wanted"), [(SUGAR("bsilu"), 0.40067141664179), (SUGAR("nelu"), -0.05), (nn.ReLU(), 0.0)]
)
def test_a_dead_unit(layer, wanted):
    unit = nn.Linear(1, 1).double()
    nn.init.zeros_(unit.weight)
    nn.init.constant_(unit.bias, -1.0)
    y = layer(unit(torch.ones(4, 1, dtype=torch.float64)))
    (2 * y).sum().backward()
    assert not y.any() and unit.bias.grad.item() == pytest.approx(2 * 4 * wanted, rel=1e-12, abs=0)


def test_constants_are_their_surrogates_own():
    x = -numbers(50).abs()
    torch.testing.assert_close(slope(SUGAR("nelu", 0.01), x), slope(SUGAR("nelu"), x) / 10)
    torch.testing.assert_close(slope(SUGAR("bsilu", 0.5), x), slope(lambda x: (x + 0.5) * x.sigmoid(), x))
    assert (slope(SUGAR("nelu"), x) < 0).all() and slope(SUGAR("nelu"), x).min() >= -0.0649519053


def test_second_derivative_is_that_of_the_surrogate():
    x = numbers(20).requires_grad_()
    found, wanted = (torch.autograd.grad(f(x).sum(), x, create_graph=True)[0] for f in (SUGAR(), FUNCTIONS["bsilu"]))
    found, wanted = (torch.autograd.grad(first.square().sum(), x)[0] for first in (found, wanted))
    torch.testing.assert_close(found, wanted)


@each
def test_vmap_and_checkpoint(name):
    x, layer = numbers(5, 7), SUGAR(name)
    wanted = slope(layer, x)
    torch.testing.assert_close(slope(torch.vmap(layer), x), wanted)
    torch.testing.assert_close(torch.vmap(torch.func.grad(lambda row: layer(row).sum()))(x), wanted)
    torch.testing.assert_close(slope(lambda x: checkpoint(layer, x, use_reentrant=False), x), wanted)


no_space = pytest.mark.skipif(" " in torch.__file__, reason="Inductor's compiler commands end at a space in a path")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.robustness, no_space])])
@pytest.mark.slow
def test_compiled(backend):
    x, layers = numbers(64), [SUGAR(name) for name in SURROGATES]
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: torch.stack([layer(x) for layer in layers]), fullgraph=True, backend=backend)
    assert torch.equal(compiled(x), F.relu(x).expand(len(layers), -1))
    for row, layer in enumerate(layers):
        torch.testing.assert_close(slope(lambda x, row=row: compiled(x)[row], x), slope(layer, x))


def test_input_is_left_and_no_grad_keeps_nothing():
    x = numbers(3, 4).requires_grad_()
    before = x.detach().clone()
    with torch.no_grad():
        y = SUGAR()(x)
    assert not y.requires_grad and torch.equal(x, before) and (before < 0).any()
    assert not SUGAR()(x.detach()).requires_grad


def test_a_layer_without_parameters_in_the_place_of_relu():
    plain, sweet = (nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Flatten()) for layer in (nn.ReLU(), SUGAR("gelu")))
    assert not [*SUGAR().parameters()] and plain.state_dict().keys() == sweet.state_dict().keys()
    sweet.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 5, 5)
    assert torch.equal(plain(x), sweet(x))
    assert str(SUGAR("nelu", 0.05)) == "SUGAR(nelu, a=0.05)" and str(SUGAR()) == "SUGAR(bsilu)"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("relu",), ValueError, "surrogate must be one of bsilu, nelu"),
        ((None,), TypeError, "surrogate must be a string"),
        (("gelu", 1.0), ValueError, "a must be None with gelu"),
        (("nelu", -0.1), ValueError, "a must be above 0"),
        (("bsilu", "1"), TypeError, "a must be a number"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        SUGAR(*arguments)
