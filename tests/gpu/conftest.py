"""The fused kernels on a GPU, CUDA's and Triton's. What can't run here is skipped and says why.

KVMEM_REQUIRE_CUDA=1 is for machines where a GPU is promised: there, it fails. Where tests name sizes, "cluster" is what
the CUDA kernels for clusters of blocks and the tuned Triton kernels take, "general" what of these only the latter do,
and "large" what both leave to the kernels for any shape.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from kvmem_problems import NAMESPACES, Problem
from kvmem_problems import make_problem as make_cpu_problem
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import kvmem

DEVICE = "cuda:0"
BACKENDS = ("cuda", "triton")
KERNELS = {"cuda": ("cuda", "auto"), "cuda, general path": ("cuda", "general"), "triton": ("triton", None)}
REQUIRED = os.environ.get("KVMEM_REQUIRE_CUDA") == "1"


def missing(backend: str) -> str | None:
    """Why a backend can't run on a GPU here; None where it can."""
    status = kvmem.backends()[backend]
    if not status.available:
        return f"the {backend} backend can't run: {status.reason}"
    # Triton's interpreter makes its backend available without a GPU.
    return None if torch.cuda.is_available() else "torch finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reasons = [missing(backend) for backend in BACKENDS] if here else []
    if reasons and all(reasons):
        # Where a GPU is promised, a build without its kernels must not look like success.
        if REQUIRED:
            raise pytest.UsageError("; ".join(reasons))
        for item in here:
            item.add_marker(pytest.mark.skip(reason="; ".join(reasons)))


def need(backend: str) -> None:
    """The test needs a backend."""
    reason = missing(backend)
    if reason:
        (pytest.fail if REQUIRED else pytest.skip)(reason)


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """As for the other backends, on the GPU: the values are the same, they are drawn on the CPU."""
    return lambda *shape, **settings: make_cpu_problem(*shape, **settings).on(DEVICE)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend of GPUs, by name."""
    need(request.param)
    return request.param


@pytest.fixture
def namespace(backend: str) -> str:
    """That of the backend's registered operators."""
    return NAMESPACES[backend]


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend's name; the CUDA kernels also with those for any shape forced on all shapes."""
    backend, path = KERNELS[request.param]
    need(backend)
    if path is None:
        yield backend
    else:
        with forced(path):
            yield backend


@contextmanager
def forced(path: str) -> Iterator[None]:
    """The CUDA kernels that the shape asks for ("auto"), or always those for any shape ("general")."""
    before = torch.ops.kvmem.cuda_path("")
    assert torch.ops.kvmem.cuda_path(path) == path
    yield
    torch.ops.kvmem.cuda_path(before)


@pytest.fixture
def cuda_kernels() -> None:
    """The test needs the CUDA kernels."""
    need("cuda")


@pytest.fixture(params=["auto", "general"])
def path(request: pytest.FixtureRequest, cuda_kernels: None) -> Iterator[str]:
    """For tests of the CUDA kernels alone: both of their paths."""
    with forced(request.param):
        yield request.param


@pytest.fixture
def triton_kernels() -> None:
    """The test needs the Triton kernels."""
    need("triton")


@pytest.fixture
def launches() -> Callable[[Callable[[], object]], list[str]]:
    """A function that runs another one, warm, and returns the names of the kernels that it launched, in order."""

    def run(function: Callable[[], object]) -> list[str]:
        function()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
            function()
            torch.cuda.synchronize()
        events = [e for e in profiler.profiler.kineto_results.events() if e.device_type() == DeviceType.CUDA]
        ordered = sorted(events, key=lambda event: event.start_ns())
        return [event.name() for event in ordered if not event.name().startswith(("Memcpy", "Memset"))]

    return run


@pytest.fixture
def hopper(cuda_kernels: None) -> None:
    """The test needs a GPU of the architecture that the CUDA kernels are tuned for."""
    if torch.cuda.get_device_capability(DEVICE)[0] != 9:
        pytest.skip("a GPU of compute capability 9.x is needed")
