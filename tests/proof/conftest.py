"""What the proofs need: the prover, the library with PTX for sm_90, and a C++ compiler for its launch code."""

from pathlib import Path

import proofs
import pytest
import simt_build
import torch
from machine_code import find_tool
from ptx_entries import Entry

import kvmem


def missing() -> str | None:
    """Why nothing can be proven here."""
    if not Path(kvmem.__file__).with_name("_kernels.so").exists() or not kvmem.backends()["cpu"].available:
        return "kvmem is built without kernels"
    if proofs.ARCHITECTURE not in torch.ops.kvmem.cuda_architectures().split(","):
        return f"kvmem is built without {proofs.ARCHITECTURE}"
    if find_tool("cuobjdump") is None:
        return "no cuobjdump on the PATH, in /usr/local/cuda or in a triton package"
    if simt_build.compiler() is None:
        return "no C++ compiler: the launch code can't be built for the CPU"
    return None


@pytest.fixture(scope="session")
def entries() -> dict[str, Entry]:
    """Every kernel of the library by its name."""
    if reason := missing():
        pytest.skip(reason)
    found = proofs.entries()
    if not found:
        pytest.skip(f"the library holds no PTX for {proofs.ARCHITECTURE}: it isn't the last one it was built for")
    return found


@pytest.fixture(scope="session")
def prover(entries: dict[str, Entry]) -> None:
    pytest.importorskip("sentryward", reason="the prover isn't installed: pip install 'kvmem[proof]'")
