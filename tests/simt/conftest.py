"""The CUDA kernels' own source on this machine's CPU: the extension modules, built once and kept under build/simt."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import simt_build
from simt_layer import DEVICES, SimtLayer


def _need_compiler() -> None:
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler: the kernels' source can't be built for the CPU")


def _load(module: str) -> ModuleType:
    _need_compiler()
    library = simt_build.build(module)
    spec = importlib.util.spec_from_file_location(module, library)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    """Small kernels that test the machine itself."""
    return _load("engine_kernels")


@pytest.fixture(scope="session")
def kvmem_simt() -> ModuleType:
    """The layer's kernels."""
    return _load("kvmem_simt")


@pytest.fixture
def layer(kvmem_simt: ModuleType) -> SimtLayer:
    return SimtLayer(kvmem_simt)


@pytest.fixture
def device(kvmem_simt: ModuleType) -> Iterator[Callable[..., None]]:
    """Call it with a name of DEVICES and the largest cluster: while the test runs, kernels run as on that chip."""
    yield lambda name, largest_cluster=16: kvmem_simt.set_device(*DEVICES[name], largest_cluster)
    kvmem_simt.set_device()


@pytest.fixture
def general_path(kvmem_simt: ModuleType) -> Iterator[None]:
    """For the length of the test, no problem takes the cluster path."""
    kvmem_simt.use_general_path(True)
    yield
    kvmem_simt.use_general_path(False)


@pytest.fixture(scope="session")
def sanitized() -> Path:
    """The library of the layer's kernels with AddressSanitizer and UndefinedBehaviorSanitizer."""
    _need_compiler()
    if not simt_build.sanitizer_libraries():
        pytest.skip("the C++ compiler has no AddressSanitizer")
    return simt_build.build("kvmem_simt", sanitize=True)
