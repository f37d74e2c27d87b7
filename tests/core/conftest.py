import pytest
import torch


@pytest.fixture
def poisoned(monkeypatch):
    """Uninitialised memory holds NaN, so that an element never written is seen."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        make = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
