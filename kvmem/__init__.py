"""The key-value memory layer of KVM-GAN and DM-GAN, fused for CPUs and GPUs.

`KVMemoryLayer` is the layer, `kv_memory` the same as a function of tensors, `memory_read` its reading half for memories
that are written elsewhere; `backends()` says what can run here, `decompositions()` takes the fused operators out of an
exported program.
"""

from kvmem.torch_version import require_torch

# Before anything that needs it: the extension can't be loaded into an older torch.
require_torch()

from kvmem.backends import backends  # noqa: E402
from kvmem.decompositions import decompositions  # noqa: E402
from kvmem.functional import kv_memory  # noqa: E402
from kvmem.layer import KVMemoryLayer  # noqa: E402
from kvmem.reading import memory_read  # noqa: E402

__version__ = "0.1.0"
__all__ = ["KVMemoryLayer", "__version__", "backends", "decompositions", "kv_memory", "memory_read"]
