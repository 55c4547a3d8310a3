"""Which implementations of the layer can run here, why the others can't, and which one a call takes."""

import ctypes
import functools
import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from kvmem import library, ops
from kvmem.tracing import traced_as_constant
from kvmem.triton.status import interpreted, triton_missing, triton_refusal

Backend = Literal["eager", "cpu", "cuda", "triton"]
NAMES: tuple[Backend, ...] = get_args(Backend)
CUDA_CAPABILITY = (8, 0)


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
        "cuda": _cuda_status(),
        "triton": _triton_status(),
    }


def check_backend(backend: str) -> None:
    """Raises ValueError where no backend has the name, RuntimeError where it can't run in this process."""
    if backend == "eager" or (backend == "cpu" and library.AVAILABLE):
        return
    if backend not in NAMES:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(map(repr, NAMES))}, or None to pick")
    status = backends()[backend]
    if not status.available:
        raise RuntimeError(f"backend {backend!r} can't run: {status.reason}")


# torch.compile can't trace the environment: it takes the answer as a constant.
@traced_as_constant
def pick_backend(backend: str | None, device: torch.device) -> str:
    """The name of the backend that runs a call on tensors of a device.

    backend: the caller's choice; where it is None, that of the environment variable KVMEM_BACKEND; where that is unset
    or empty, the fused kernels for the device if they are available, else "eager".
    Raises ValueError for an unknown name, RuntimeError for a backend that can't run here or not on this device.
    """
    chosen = backend or os.environ.get("KVMEM_BACKEND")
    if not chosen or chosen == "eager":
        return chosen or _best_backend(device)
    if chosen == device.type == "cpu" and library.AVAILABLE:
        return chosen
    if device.type == "cuda" and chosen in REFUSALS and REFUSALS[chosen](device.index) is None:
        return chosen
    check_backend(chosen)
    if device.type == "cpu" and chosen == "triton" and interpreted():
        return chosen
    kind = "cpu" if chosen == "cpu" else "cuda"
    if device.type != kind:
        raise RuntimeError(f"backend {chosen!r} runs on {kind} tensors: image is on device {str(device)!r}")
    raise RuntimeError(f"backend {chosen!r} can't run on {device}: {REFUSALS[chosen](device.index)}")


@traced_as_constant
def pick_instead(name: str, backend: str | None, limit: str) -> str:
    """The name of the backend that runs a call which the kernels of the backend `name` don't take.

    Raises RuntimeError where the caller, or KVMEM_BACKEND, has chosen them.
    """
    if backend or os.environ.get("KVMEM_BACKEND"):
        raise RuntimeError(f"backend {name!r} can't run this call: its kernels don't take {limit}")
    return "eager"


def _best_backend(device: torch.device) -> str:
    if device.type == "cpu" and library.AVAILABLE:
        return "cpu"
    if device.type == "cuda":
        return next((name for name, refusal in REFUSALS.items() if refusal(device.index) is None), "eager")
    return "eager"


def _cpu_status() -> BackendStatus:
    if not library.AVAILABLE:
        return BackendStatus(
            False, f"kvmem was installed without its compiled extension ({library.LIBRARY.name} is missing)"
        )
    in_use = library.compiled.cpu_isa("")
    runnable = library.compiled.cpu_isas().replace(",", ", ")
    return BackendStatus(True, f"fused C++, instruction set {in_use}, of: {runnable}")


def _cuda_status() -> BackendStatus:
    missing = _cuda_missing()
    return BackendStatus(False, missing) if missing else _gpu_status("cuda", f"CUDA C++ for {_cuda_architectures()}")


def _triton_status() -> BackendStatus:
    missing = triton_missing()
    if missing:
        return BackendStatus(False, missing)
    if interpreted():
        return BackendStatus(True, "fused Triton, run by its interpreter on the CPU (TRITON_INTERPRET=1): for tests")
    return _gpu_status("triton", "Triton, compiled at the first call")


def _gpu_status(backend: str, kernels: str) -> BackendStatus:
    """On which of the GPUs a backend's kernels run, and why not on the others."""
    usable: list[str] = []
    unusable: list[str] = []
    for index in range(torch.cuda.device_count()):
        refusal = REFUSALS[backend](index)
        name = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        (unusable if refusal else usable).append(f"not on {name}: {refusal}" if refusal else name)
    on = [f"on {', '.join(usable)}"] if usable else []
    return BackendStatus(bool(usable), "; ".join([f"fused {kernels}", *on, *unusable]))


def _cuda_architectures() -> str:
    return ", ".join(name for name in ops.cuda_architectures() if name.startswith("sm_"))


@functools.cache
def _cuda_missing() -> str | None:
    """Why the CUDA kernels can't run in this process, on whatever device; None where they can."""
    if not library.AVAILABLE:
        return _cpu_status().reason
    if not ops.cuda_architectures():
        return "kvmem was built without CUDA: no nvcc or no CUDA build of torch was found, or KVMEM_CUDA was 0"
    built = f"built for {_cuda_architectures()}"
    if torch.version.cuda is None:
        return f"{built}, but torch {torch.__version__} is built without CUDA"
    if torch.cuda.device_count() == 0:
        return f"{built}, but torch finds no CUDA GPU"
    version, driver = ops.cuda_version(), _driver_version()
    if driver // 1000 < version // 1000:
        return (
            f"built with CUDA {version // 1000}, but the driver runs CUDA {driver // 1000} at most: update the driver"
        )
    return None


@functools.cache
def _cuda_refusal(index: int) -> str | None:
    """Why the CUDA kernels can't run on the device of this index; None where they can."""
    missing = _cuda_missing()
    if missing:
        return missing
    capability = torch.cuda.get_device_capability(index)
    if capability < CUDA_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]}, the kernels need 8.0 or later"
    if not any(_runs_on(name, capability) for name in ops.cuda_architectures()):
        return f"compute capability {capability[0]}.{capability[1]}, kvmem was built for {_cuda_architectures()}"
    return None


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Machine code ("sm_80") runs on the same and later minor versions, portable code ("compute_90") on all later."""
    kind, number = architecture.split("_")
    built = divmod(int(number), 10)
    return built <= capability and (kind == "compute" or built[0] == capability[0])


def _driver_version() -> int:
    """The newest CUDA that the driver runs, as 13000 for 13.0."""
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


# Backends of GPUs, the one to be taken first in front -> why it can't run on the GPU of an index, None where it can.
REFUSALS = {"cuda": _cuda_refusal, "triton": triton_refusal}
