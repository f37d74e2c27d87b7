"""Settings of a run, and what they refuse."""

import math

import pytest

from minconv.training import Training


def test_the_learning_rate_rises_and_falls():
    settings = Training(lr=2e-3, warmup=0.2)
    assert [settings.rate(done) for done in (0, 0.1, 0.2, 1)] == pytest.approx([0, 1e-3, 2e-3, 0])
    assert settings.rate(0.6) == pytest.approx(1e-3)  # half of the cosine
    assert Training(lr=2e-3, warmup=0.0).rate(0) == 2e-3


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"context": 0}, ValueError, "context must be at least 1; got 0"),
        ({"horizon": -1}, ValueError, "horizon must be at least 0; got -1"),
        ({"horizon": 1.0}, TypeError, "horizon must be a whole number; got 1.0"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1; got 0"),
        ({"batch": "all"}, TypeError, "batch must be a whole number; got 'all'"),
        ({"lr": 0}, ValueError, "lr must be above 0 and finite; got 0"),
        ({"lr": None}, TypeError, "lr must be a number; got None"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be at least 0 and finite; got -0.1"),
        ({"noise": math.nan}, ValueError, "noise must be at least 0 and finite; got nan"),
        ({"clip": 0}, ValueError, "clip must be above 0 and finite; got 0"),
        ({"warmup": 1}, ValueError, "warmup must be below 1, a part of all steps; got 1"),
        ({"optimizer": "sgd"}, ValueError, "optimizer must be one of muon, adam; got 'sgd'"),
    ],
)
def test_settings_rejected(options, error, message):
    with pytest.raises(error, match=message):
        Training(**options)
