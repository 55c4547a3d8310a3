"""The CUDA kernels on a GPU. Where there is none, or kvmem is built without CUDA, every test is skipped and says so."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from kvmem_problems import CalledOperators, Problem, SavedTensors
from kvmem_problems import make_problem as make_cpu_problem
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import kvmem

DEVICE = "cuda:0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    status = kvmem.backends()["cuda"] if here else None
    if status and not status.available:
        reason = f"the cuda backend can't run: {status.reason}"
        # Where a GPU is promised, a build without its kernels must not look like success.
        if os.environ.get("KVMEM_REQUIRE_CUDA") == "1":
            raise pytest.UsageError(reason)
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """As for the other backends, on the GPU: the values are the same, they are drawn on the CPU."""
    return lambda *shape, **settings: make_cpu_problem(*shape, **settings).on(DEVICE)


@pytest.fixture(params=["auto", "general"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernels that the shape asks for, or always those for any shape."""
    before = torch.ops.kvmem.cuda_path("")
    assert torch.ops.kvmem.cuda_path(request.param) == request.param
    yield request.param
    torch.ops.kvmem.cuda_path(before)


@pytest.fixture
def called_operators() -> Callable[[], CalledOperators]:
    return CalledOperators


@pytest.fixture
def saved_tensors() -> Callable[[list[torch.Tensor]], SavedTensors]:
    return SavedTensors


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
def hopper() -> None:
    """The test needs a GPU of the architecture that the kernels are tuned for."""
    if torch.cuda.get_device_capability(DEVICE)[0] != 9:
        pytest.skip("a GPU of compute capability 9.x is needed")
