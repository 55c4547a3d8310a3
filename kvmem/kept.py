"""How many numbers an image the kernels keep for backward: those for GPUs as csrc/cuda/layout.h and
kvmem/triton/tables.py lay them out alike, those for CPUs as csrc/cpu/kept.h does."""

from torch import Tensor


def layer_memory(slots: int, channels: int, *weights: Tensor) -> int:
    """Of the layer, with the weights of `kvmem.checks.WEIGHT_NAMES`: the parts of m and g, k, v, W_g v."""
    write_gates, memory_channels, response_gates = (weights[i].shape[0] for i in (0, 2, 10))
    of_words, of_image = memory_channels + write_gates + 2 * channels + response_gates, memory_channels + write_gates
    return of_words * slots + of_image


def layer_memory_on_cpu(slots: int, channels: int, *weights: Tensor) -> int:
    """Of the layer on CPUs, where the gate is whole: the parts of m, g, k, v, W_g v."""
    return layer_memory(slots, channels, *weights) - weights[0].shape[0]


def given_memory(slots: int, channels: int, gate_weight: Tensor | None) -> int:
    """Of a memory that is given: k, v and W_g v."""
    return (2 * channels + (0 if gate_weight is None else gate_weight.shape[0])) * slots
