"""The compiled extension: where it lies, whether it is there, and the namespaces that operators are registered in."""

from pathlib import Path

import torch
from torch._ops import _OpNamespace

LIBRARY = Path(__file__).with_name("_kernels.so")
AVAILABLE = LIBRARY.exists()
# Of the extension, for CPUs and CUDA, and of the Triton kernels.
COMPILED, TRITON = "kvmem", "kvmem_triton"


def load() -> None:
    """Registers the extension's operators. Raises ImportError, saying what to do, where the library can't be loaded."""
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        remedy = f"reinstall kvmem to build it anew, or delete {LIBRARY} to run without it"
        raise ImportError(f"kvmem's compiled extension can't be loaded: {remedy} ({error})") from error


# Names that torch.compile can follow, which it can't where they are looked up by a string.
compiled: _OpNamespace = getattr(torch.ops, COMPILED)
triton: _OpNamespace = getattr(torch.ops, TRITON)
