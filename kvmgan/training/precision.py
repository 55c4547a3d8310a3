"""Which arithmetic the networks run in, and how float16's losses are scaled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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

        ``auto``: matrix units for 16-bit numbers want channels side by side, and so do a CPU's convolutions in
        float32 with AVX-512; with AVX2, and in float32 on a GPU, they are slower so.
        """
        if name == "auto":
            wanted = _wide_vectors(self.device) if self.name == "float32" else _fast_bfloat16(self.device)
            name = "channels_last" if wanted else "contiguous"
        return torch.channels_last if name == "channels_last" else torch.contiguous_format

    def autocast(self) -> AbstractContextManager:
        """Context in which convolutions and products run in this type."""
        return nullcontext() if self.name == "float32" else torch.autocast(self.device.type, _TYPES[self.name])


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _cpu_has("avx512_bf16") or _cpu_has("amx_bf16")


def _wide_vectors(device: torch.device) -> bool:
    return device.type == "cpu" and _cpu_has("avx512_f")


def _cpu_has(capability: str) -> bool:
    """By torch's name; False where this torch doesn't tell."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get(capability))


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
        # What unscale_ has found, and step goes by: a look of our own at every gradient would take longer than both.
        found = self.scaler._found_inf_per_device(optimizer).values()
        self.scaler.step(optimizer)
        return sum(found) == 0

    def update(self) -> None:
        """Adapt the scale after the steps of one batch."""
        self.scaler.update(None if self.adapts else 1.0)
