"""Which device to compute on, by name."""

import torch

from minconv.runtime.checks import choice

DEVICES = ("auto", "cpu", "cuda")


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` is the GPU if there is one, else the CPU. Raises ValueError on an unknown or absent device."""
    kind = choice("device", device.type if isinstance(device, torch.device) else device, DEVICES)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be auto or cpu where there is no CUDA GPU; got {device}")
    if isinstance(device, torch.device):
        return device
    return torch.device("cuda" if kind != "cpu" and torch.cuda.is_available() else "cpu")
