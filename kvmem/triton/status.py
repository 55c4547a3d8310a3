"""Whether the Triton kernels can run here, and why not. Answers without importing Triton."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil

import torch

CAPABILITY = (8, 0)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU: slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def triton_missing() -> str | None:
    """Why the kernels can't run in this process, on whatever device; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton isn't installed; torch brings it where it has one for the platform"
    if interpreted():
        return None
    if torch.cuda.device_count() == 0:
        return "torch finds no GPU (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
    # Triton compiles a launcher for every kernel.
    if not any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name):
        return "Triton needs a C compiler at run time: install gcc or clang, or set CC"
    return None


@functools.cache
def triton_refusal(index: int) -> str | None:
    """Why the kernels can't run on the GPU of this index; None where they can."""
    missing = triton_missing()
    if missing or torch.version.hip is not None:
        return missing
    capability = torch.cuda.get_device_capability(index)
    if capability < CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]}, Triton needs 8.0 or later"
    return None


def forget() -> None:
    """Asks again the next time, after the environment has changed."""
    triton_missing.cache_clear()
    triton_refusal.cache_clear()
