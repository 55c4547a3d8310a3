"""Where and how the arithmetic runs."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from kvmem.backends import backends, pick_backend
from kvmgan.config import ModelOptions
from kvmgan.errors import UserError


def resolve_device(name: str, option: str = "--training.device") -> torch.device:
    """The torch device that ``option`` names.

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
        raise UserError(f"{option} is {name!r}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"{option} is {name!r} but torch sees {found} GPUs here: choose auto or cpu")
    return device


def with_runnable_backend(model: ModelOptions, device: torch.device) -> ModelOptions:
    """The settings of a trained generator with a memory backend for ``device``: its own, or, with a note, the fastest.

    A run that was trained on a GPU is sampled on a CPU too: backends differ in rounding alone.
    """
    backend = model.memory.backend
    if backend is None:
        return model
    try:
        pick_backend(backend, device)
    except (RuntimeError, ValueError) as error:  # can't run here, or a name that this version doesn't know
        print(f"note: the memory layers take the fastest backend on {device}, not the run's own: {error}")
        return replace(model, memory=replace(model.memory, backend=None))
    return model


def memory_backend(model: ModelOptions, device: torch.device) -> str:
    """Which kvmem backend computes a model's memory layers on ``device``, and why: for people to read.

    Raises:
        UserError: if the one that is asked for can't run there.
    """
    asked = model.memory.backend
    try:
        chosen = pick_backend(asked, device)
    except (RuntimeError, ValueError) as error:
        option = f"--model.memory.backend {asked}" if asked else "the environment variable KVMEM_BACKEND"
        raise UserError(f"{option}: the generator can't run on {device}: {error}") from None
    if asked is not None:
        why = "as --model.memory.backend says"
    elif os.environ.get("KVMEM_BACKEND"):
        why = "as the environment variable KVMEM_BACKEND says"
    else:
        why = f"the fastest that can run on {device}"
    status = backends()
    text = f"backend {chosen}, {why} ({status[chosen].reason})"
    if asked is None and chosen == "eager":
        # Nobody wants the slowest one: what keeps the others from running?
        text += "".join(f"; no {name}: {one.reason}" for name, one in status.items() if not one.available)
    return text


def set_threads(threads: int) -> int:
    """Give torch ``threads`` CPU threads; returns the number.

    0: all cores that this process may use, or its share of them where torchrun started several on this machine.
    """
    cores = len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    count = threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(count)
    return count


def set_products(*, tf32: bool, benchmark: bool) -> None:
    """Choose how NVIDIA GPUs multiply float32 numbers, and whether cuDNN tries its convolutions to take the fastest."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
