"""Files of weights as others made them: read without running code, fitted to a network, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kvmgan.errors import UserError
from kvmgan.storage.pth_file import load_pth
from kvmgan.storage.tensor_file import load_tensors

_SHOWN = 6


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file (``torch.save`` of a state dict) or a ``.safetensors`` file, on the CPU.

    What ``DataParallel`` puts before every name is taken off.

    Raises:
        UserError: the file is missing, damaged, holds more than tensors, or a weight that isn't finite.
    """
    state = load_tensors(path) if path.suffix == ".safetensors" else _load_pth(path)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict: expected tensors by the names of a network's parameters")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path}: {name} has values that aren't finite")
    return state


def _load_pth(path: Path) -> dict[str, Tensor]:
    found = load_pth(path, "released weights")
    return dict(found) if isinstance(found, Mapping) else {}


def load_state(network: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> None:
    """Load a released state into ``network``, whose names stand for the released ones by ``names``.

    1x1 convolutions become linear layers and the other way round. Counters of batches may be missing: they are zero.

    Raises:
        UserError: lists the names that are missing, left over, or of another shape.
    """
    wanted = network.state_dict()
    wrong = _differences(wanted, state, names)
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(f"{path} isn't of this network: {'; '.join(wrong[:_SHOWN])}{more}")
    network.load_state_dict({name: _fitted(state.get(names[name]), old) for name, old in wanted.items()})


def _fitted(released: Tensor | None, mine: Tensor) -> Tensor:
    return torch.zeros_like(mine) if released is None else released.reshape(mine.shape).to(mine.dtype)


def _differences(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    found = [
        f"{names[name]} is missing"
        for name in wanted
        if names[name] not in state and not name.endswith("num_batches_tracked")
    ]
    found += [f"{name} is left over" for name in sorted(state.keys() - set(names.values()))]
    for name, old in wanted.items():
        new = state.get(names[name])
        if new is not None and _without_ones(new) != _without_ones(old):
            found.append(f"{names[name]} is {tuple(new.shape)}, expected {tuple(old.shape)}")
    return found


def _without_ones(tensor: Tensor) -> list[int]:
    """The shape without the kernel's dimensions that tell a 1x1 convolution from a linear layer."""
    shape = list(tensor.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return shape
