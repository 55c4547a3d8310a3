"""How many numbers an image the kernels for GPUs keep for backward, which csrc/cuda/layout.h and
kvmem/triton/tables.py lay out alike."""

from torch import Tensor


def layer_memory(slots: int, channels: int, *weights: Tensor) -> int:
    """Of the layer, with the weights of `kvmem.checks.WEIGHT_NAMES`: the parts of m and g, k, v, W_g v."""
    write_gates, memory_channels, response_gates = (weights[i].shape[0] for i in (0, 2, 10))
    of_words, of_image = memory_channels + write_gates + 2 * channels + response_gates, memory_channels + write_gates
    return of_words * slots + of_image


def given_memory(slots: int, channels: int, gate_weight: Tensor | None) -> int:
    """Of a memory that is given: k, v and W_g v."""
    return (2 * channels + (0 if gate_weight is None else gate_weight.shape[0])) * slots
