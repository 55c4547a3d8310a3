"""Where and how the arithmetic runs."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from kvmgan.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The torch device of ``--training.device``.

    Raises:
        UserError: if the name is unknown or the GPU can't be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--training.device is {name!r}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"--training.device is {name!r} but torch sees {found} GPUs here: choose auto or cpu")
    return device


def set_threads(threads: int) -> int:
    """Give torch ``threads`` CPU threads (0: all cores this process may use); returns the number."""
    count = threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    torch.set_num_threads(count)
    return count


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bfloat16 autocast, or nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
