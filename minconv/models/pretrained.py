"""What every model has beside its layers: forecasts in the units of its data, and a folder that keeps all of it.

model.predict(frames, steps)                     the next frames, whatever came in
model.save_pretrained(folder)                    config.json and model.safetensors
model = Forecaster.from_pretrained(folder)       in another process, on another day
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from minconv.runtime.checks import familiar, positive, whole
from minconv.runtime.files import atomic, read_json, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Frames = TypeVar("Frames", Tensor, np.ndarray)


class Pretrained(nn.Module):
    """A model of frames, called as ``model(frames, horizon)`` with frames as it was trained on: normalised ones.

    Attributes:
        config: the arguments that make this model again, numbers and words.
        normalisation: mean and standard deviation of each channel, None where frames are used as they are. A model sees
            (frames - mean) / std.
        frames: of a model that comes with the package, what its frames are: ``quantity``, ``units``, ``step`` and
            ``cells`` in words, and ``range``, the least and the greatest number of the training; see ``minconv.load``.
    """

    config: dict[str, Any]
    normalisation: tuple[list[float], list[float]] | None = None
    frames: dict[str, Any] | None = None

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Keeps what the training frames were normalised with; one number for each channel. Returns the model.

        Raises:
            TypeError, ValueError: not as many numbers, not finite, or a standard deviation that is not above 0.
        """
        mean, std = ([float(value) for value in values] for values in (mean, std))
        channels = getattr(self, "channels", len(mean))
        if not len(mean) == len(std) == channels:
            raise ValueError(
                f"mean and std must have one number for each of the {channels} channels; got {len(mean)} and {len(std)}"
            )
        if not np.isfinite(mean).all():
            raise ValueError(f"mean must be finite; got {mean}")
        for value in std:
            positive("std", value)
        self.normalisation = mean, std
        return self

    @torch.no_grad()
    def predict(self, frames: Frames, steps: int) -> Frames:
        """The next ``steps`` frames, in the units of ``frames``; the model in evaluation mode.

        Args:
            frames: what was seen, [B, T, C, H, W] or [T, C, H, W] of one sequence; a tensor on any device, or an array,
                of any real numbers. With known channels [..., T + steps - 1, C + K, H, W], see ``Forecaster.forward``.
            steps: how many frames to forecast.

        Returns:
            [B, steps, C, H, W] or [steps, C, H, W], as what came in, on its device; whole numbers give float32.

        Raises:
            TypeError, ValueError: not such frames, of another shape than the model's, not all finite, or far from those
                that it was trained on.
        """
        whole("steps", steps, 1)
        given = frames if isinstance(frames, Tensor) else torch.from_numpy(np.ascontiguousarray(_array(frames)))
        if given.is_complex() or given.dim() not in (4, 5):
            raise (TypeError if given.is_complex() else ValueError)(
                f"frames must be real numbers [B, T, C, H, W] or [T, C, H, W]; got {given.dtype} {list(given.shape)}"
            )
        weight = next(self.parameters())
        seen = (given if given.dim() == 5 else given.unsqueeze(0)).to(weight.device)
        if not seen.isfinite().all():
            missing = (~seen.isfinite()).sum().item()
            raise ValueError(f"frames must all be finite; {missing} of {seen.numel()} numbers are not")
        familiar(seen.min().item(), seen.max().item(), self.frames)
        mean, std = _scale(self.normalisation, seen.device)
        modes = [(module, module.training) for module in self.modules()]
        try:
            seen, known = seen.tensor_split([seen.shape[2] - getattr(self, "known", 0)], dim=2)
            seen = torch.cat([(seen - mean) / std, known], dim=2).to(weight.dtype)
            predicted = self.eval()(seen, steps - 1)[:, -steps:]
        finally:
            for module, mode in modes:
                module.training = mode
        kind = given.dtype if given.is_floating_point() else torch.float32
        found = (predicted * std + mean).to(given.device, kind)
        found = found if given.dim() == 5 else found.squeeze(0)
        return found if isinstance(frames, Tensor) else found.numpy()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Keeps configuration, normalisation, weights and buffers in ``folder``, as JSON and safetensors.

        Raises:
            TypeError: the configuration holds something that JSON cannot, such as a cell's class.
            OSError: the disk is full or the folder read-only.
        """
        from safetensors.torch import save  # here, as few who import minconv save a model

        folder, named = Path(folder), self._named()
        names = {id(tensor): name for name, tensor in reversed(named.items())}  # one name of tied weights
        weights = save({name: named[name].detach().cpu().contiguous() for name in sorted(names.values())})
        config = {"class": type(self).__name__, "options": self.config, "sha256": sha256(weights).hexdigest()}
        if self.normalisation:
            config["normalisation"] = dict(zip(("mean", "std"), self.normalisation, strict=True))
        if self.frames:
            config["frames"] = self.frames
        try:
            json.dumps(config)
        except TypeError as error:
            raise TypeError(f"a model can be saved whose options are numbers and words: {error}") from error
        with atomic(folder / WEIGHTS) as temporary:
            temporary.write_bytes(weights)
        write_json(folder / CONFIG, config)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model that ``save_pretrained`` kept in ``folder``, in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds another kind of model, or weights of another one; the message names what differs.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = Path(folder)
        if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
            raise FileNotFoundError(f"folder {folder} holds no model: it has no {' and no '.join(missing)}")
        config = read_json(folder / CONFIG)
        if not isinstance(config, dict) or config.get("class") != cls.__name__:
            found = config.get("class") if isinstance(config, dict) else config
            raise ValueError(f"folder {folder} must hold a {cls.__name__}; it holds {found!r}")
        content = (folder / WEIGHTS).read_bytes()
        if sha256(content).hexdigest() != config.get("sha256"):
            raise ValueError(f"{folder / WEIGHTS} is damaged, or of another model than {folder / CONFIG}")
        try:
            weights = load(content)
            model = cls(**config["options"])
            dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
            model.to(dtypes.pop() if len(dtypes) == 1 else torch.get_default_dtype())
            model._load(weights)
            if "normalisation" in config:
                model.set_normalisation(**config["normalisation"])
            model.frames = config.get("frames")
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"folder {folder} holds no whole {cls.__name__}: {error}") from error
        return model.eval()

    def _load(self, weights: dict[str, Tensor]) -> None:
        named = self._named()
        kept = {id(named[name]) for name in weights if name in named}
        tied = [name for name, tensor in named.items() if name not in weights and id(tensor) in kept]
        found = self.load_state_dict(weights, strict=False)
        for what, names in (("lack", set(found.missing_keys) - set(tied)), ("have besides", found.unexpected_keys)):
            if names:
                raise ValueError(f"its weights {what} {', '.join(sorted(names))}")

    def _named(self) -> dict[str, Tensor]:
        """Weights and buffers by name; tied ones are the same object."""
        return self.state_dict(keep_vars=True)


def _array(frames: Any) -> np.ndarray:
    if not isinstance(frames, np.ndarray) or frames.dtype.kind not in "fiub":
        found = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
        raise TypeError(f"frames must be a tensor or an array of real numbers; got {found}")
    return frames.astype(frames.dtype.newbyteorder("="), copy=False)


def _scale(normalisation: tuple[list[float], list[float]] | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each [C, 1, 1], in double precision: a mean may be large beside it."""
    mean, std = normalisation or ([0.0], [1.0])
    return tuple(torch.tensor(values, dtype=torch.float64, device=device)[:, None, None] for values in (mean, std))
