"""Which implementations of the layer can run here, why the others can't, and which one a call takes."""

import os
from dataclasses import dataclass

import torch

from kvmem import ops

NAMES = ("eager", "cpu", "cuda", "triton")


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run in this process, and why it can or can't."""

    available: bool
    reason: str

    def __repr__(self) -> str:
        return f"{'available' if self.available else 'not available'}: {self.reason}"


def backends() -> dict[str, BackendStatus]:
    """Name of every backend -> whether it can run in this process, and why it can or can't."""
    return {
        "eager": BackendStatus(True, "the equations in plain PyTorch, on any device"),
        "cpu": _cpu_status(),
        "cuda": BackendStatus(False, "this version of kvmem has no CUDA kernels"),
        "triton": BackendStatus(False, "this version of kvmem has no Triton kernels"),
    }


def check_backend(backend: str) -> None:
    """Raises ValueError where no backend has the name, RuntimeError where it can't run in this process."""
    if backend == "eager" or (backend == "cpu" and ops.AVAILABLE):
        return
    if backend not in NAMES:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(map(repr, NAMES))}, or None to pick")
    raise RuntimeError(f"backend {backend!r} can't run: {backends()[backend].reason}")


# torch.compile can't trace the environment: it takes the answer as a constant.
@torch.compiler.assume_constant_result
def pick_backend(backend: str | None, device_type: str) -> str:
    """The name of the backend that runs a call on tensors of a device ("cpu", "cuda", ...).

    backend: the caller's choice; where it is None, that of the environment variable KVMEM_BACKEND; where that is unset
    or empty, the fused kernels for the device if they are available, else "eager".
    Raises ValueError for an unknown name, RuntimeError for a backend that can't run here or not on this device.
    """
    chosen = backend or os.environ.get("KVMEM_BACKEND")
    if not chosen:
        return "cpu" if device_type == "cpu" and ops.AVAILABLE else "eager"
    if chosen != "eager":
        check_backend(chosen)
        if device_type != chosen:
            raise RuntimeError(f"backend {chosen!r} runs on {chosen} tensors: image is on device {device_type!r}")
    return chosen


def _cpu_status() -> BackendStatus:
    if not ops.AVAILABLE:
        return BackendStatus(
            False, f"kvmem was installed without its compiled extension ({ops.LIBRARY.name} is missing)"
        )
    in_use = torch.ops.kvmem.cpu_isa("")
    runnable = torch.ops.kvmem.cpu_isas().replace(",", ", ")
    return BackendStatus(True, f"fused C++, instruction set {in_use}, of: {runnable}")
