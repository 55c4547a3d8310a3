"""Which arithmetic the networks run in, and how float16's losses are scaled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """Autocast's type on a device; float32 needs none."""

    name: Literal["float32", "bfloat16", "float16"]
    device: torch.device

    @classmethod
    def choose(cls, name: str, device: torch.device) -> Precision:
        """The arithmetic of ``--training.precision``; ``auto`` is bfloat16 where the device multiplies it fast."""
        if name == "auto":
            name = "bfloat16" if _fast_bfloat16(device) else "float32"
        return cls(name, device)

    def memory_format(self, name: str) -> torch.memory_format:
        """The order in memory of ``--training.memory-format``.

        ``auto``: matrix units for 16-bit numbers want channels side by side; float32 is slower so on CPUs.
        """
        if name == "auto":
            name = "channels_last" if self.name != "float32" and _fast_bfloat16(self.device) else "contiguous"
        return torch.channels_last if name == "channels_last" else torch.contiguous_format

    def autocast(self) -> AbstractContextManager:
        """Context in which convolutions and products run in this type."""
        return nullcontext() if self.name == "float32" else torch.autocast(self.device.type, _TYPES[self.name])


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class GuardedOptimizer:
    """Takes optimiser steps whose loss and gradients are finite, and no others, without waiting for the device.

    torch's GradScaler carries the loss scale: in float16 it adapts (Micikevicius et al., 2018), else it stays 1.
    One object serves several optimisers: each its own :meth:`step`, then :meth:`update` once.
    """

    def __init__(self, precision: Precision):
        self.adapts = precision.name == "float16"
        initial = 2.0**16 if self.adapts else 1.0
        self.scaler = torch.amp.GradScaler(precision.device.type, init_scale=initial)

    def seed(self, loss: Tensor) -> Tensor:
        """Where backward begins: the gradient of the scaled loss by the loss; NaN, and so no step, if it isn't finite.

        ``loss``: (), float32.
        """
        return self.scaler.scale(torch.ones_like(loss)).masked_fill(~loss.detach().isfinite(), float("nan"))

    def step(self, optimizer: torch.optim.Adam) -> Tensor:
        """Step if all gradients are finite; returns whether they were, (), bool, on the device."""
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        finite = nn.utils.get_total_norm(gradients, float("inf")).isfinite()
        self.scaler.step(optimizer)
        return finite

    def update(self) -> None:
        """Adapt the scale after the steps of one batch."""
        self.scaler.update(None if self.adapts else 1.0)
