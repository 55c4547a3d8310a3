"""Convolutional extractors on a CPU: few pictures at a time, channels side by side: activations stay in the caches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Measured on two cores of Zen 4: EfficientNet-Lite0 93 pictures a second (4 at a time, channels_last) instead of 21
# (48 at a time, contiguous), Inception 15.6 instead of 10.1.
_PICTURES = 4

Look = Callable[[Tensor], dict[str, Tensor]]


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """The frozen network on its device, in evaluation mode."""
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return network.eval().requires_grad_(False).to(device, memory_format=layout)


def in_parts(look: Look) -> Look:
    """Look at a few pictures at a time on a CPU, at all of them elsewhere; what is seen is the same."""

    def by_parts(pictures: Tensor) -> dict[str, Tensor]:
        if pictures.device.type != "cpu":
            return look(pictures)
        seen = [look(part) for part in pictures.contiguous(memory_format=torch.channels_last).split(_PICTURES)]
        return {name: torch.cat([part[name] for part in seen]) for name in seen[0]}

    return by_parts
