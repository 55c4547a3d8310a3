"""Which implementations of the layer can run here, why the others can't, and which one a call takes."""

import ctypes
import functools
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from kvmem import ops

NAMES = ("eager", "cpu", "cuda", "triton")
CUDA_CHANNELS, CUDA_SLOTS, CUDA_CAPABILITY = 512, 128, (8, 0)


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
        "triton": BackendStatus(False, "this version of kvmem has no Triton kernels"),
    }


def check_backend(backend: str) -> None:
    """Raises ValueError where no backend has the name, RuntimeError where it can't run in this process."""
    if backend == "eager" or (backend == "cpu" and ops.AVAILABLE):
        return
    if backend not in NAMES:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(map(repr, NAMES))}, or None to pick")
    status = backends()[backend]
    if not status.available:
        raise RuntimeError(f"backend {backend!r} can't run: {status.reason}")


# torch.compile can't trace the environment: it takes the answer as a constant.
@torch.compiler.assume_constant_result
def pick_backend(backend: str | None, device: torch.device) -> str:
    """The name of the backend that runs a call on tensors of a device.

    backend: the caller's choice; where it is None, that of the environment variable KVMEM_BACKEND; where that is unset
    or empty, the fused kernels for the device if they are available, else "eager".
    Raises ValueError for an unknown name, RuntimeError for a backend that can't run here or not on this device.
    """
    chosen = backend or os.environ.get("KVMEM_BACKEND")
    if not chosen or chosen == "eager":
        return chosen or _best_backend(device)
    if chosen == device.type and chosen == _best_backend(device):
        return chosen
    check_backend(chosen)
    if device.type != chosen:
        raise RuntimeError(f"backend {chosen!r} runs on {chosen} tensors: image is on device {str(device)!r}")
    raise RuntimeError(f"backend {chosen!r} can't run on {device}: {_cuda_refusal(device.index)}")


def cuda_limit(image: Tensor, words: Tensor) -> str | None:
    """What about a call the CUDA kernels don't take, None where they take it: images (B, C, H, W), words (B, T, D)."""
    if image.dtype == torch.float64:
        return "float64"
    if image.shape[1] > CUDA_CHANNELS:
        return f"more than {CUDA_CHANNELS} image channels"
    if words.shape[1] > CUDA_SLOTS:
        return f"more than {CUDA_SLOTS} slots"
    return None


@torch.compiler.assume_constant_result
def pick_instead_of_cuda(backend: str | None, limit: str) -> str:
    """The name of the backend that runs a call on a CUDA device which the CUDA kernels don't take.

    Raises RuntimeError where the caller, or KVMEM_BACKEND, has chosen them.
    """
    if backend or os.environ.get("KVMEM_BACKEND"):
        raise RuntimeError(f"backend 'cuda' can't run this call: its kernels don't take {limit}")
    return "eager"


def _best_backend(device: torch.device) -> str:
    if device.type == "cpu" and ops.AVAILABLE:
        return "cpu"
    if device.type == "cuda" and _cuda_refusal(device.index) is None:
        return "cuda"
    return "eager"


def _cpu_status() -> BackendStatus:
    if not ops.AVAILABLE:
        return BackendStatus(
            False, f"kvmem was installed without its compiled extension ({ops.LIBRARY.name} is missing)"
        )
    in_use = torch.ops.kvmem.cpu_isa("")
    runnable = torch.ops.kvmem.cpu_isas().replace(",", ", ")
    return BackendStatus(True, f"fused C++, instruction set {in_use}, of: {runnable}")


def _cuda_status() -> BackendStatus:
    missing = _cuda_missing()
    if missing:
        return BackendStatus(False, missing)
    usable, unusable = [], []
    for index in range(torch.cuda.device_count()):
        refusal = _cuda_refusal(index)
        name = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        (unusable if refusal else usable).append(f"not on {name}: {refusal}" if refusal else name)
    on = [f"on {', '.join(usable)}"] if usable else []
    return BackendStatus(bool(usable), "; ".join([f"fused CUDA C++ for {_cuda_architectures()}", *on, *unusable]))


def _cuda_architectures() -> str:
    return ", ".join(name for name in ops.cuda_architectures() if name.startswith("sm_"))


@functools.cache
def _cuda_missing() -> str | None:
    """Why the CUDA kernels can't run in this process, on whatever device; None where they can."""
    if not ops.AVAILABLE:
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
