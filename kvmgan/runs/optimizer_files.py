"""Optimisers in a checkpoint: the moments as tensors, the settings of the parameter groups as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def optimizer_parts(
    optimizers: Mapping[str, Optimizer],
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Tensor]]:
    """Group settings by optimiser, and all moments as tensors named ``optimizer.index.moment``."""
    groups, tensors = {}, {}
    for name, optimizer in optimizers.items():
        whole = optimizer.state_dict()
        groups[name] = whole["param_groups"]
        for index, moments in whole["state"].items():
            tensors |= {f"{name}.{index}.{moment}": tensor for moment, tensor in moments.items()}
    return groups, tensors


def restore_optimizers(
    optimizers: Mapping[str, Optimizer], groups: Mapping[str, list[dict[str, Any]]], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_parts` took out."""
    moments: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in optimizers}
    for key, tensor in tensors.items():
        owner, index, moment = key.split(".")
        moments[owner].setdefault(int(index), {})[moment] = tensor
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict({"state": moments[name], "param_groups": groups[name]})
        for parameter, state in optimizer.state.items():
            for moment, value in state.items():
                if value.shape == parameter.shape:
                    # The order in memory of a channels_last weight, which fused steps take for granted.
                    state[moment] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
