"""Random calls of `kv_memory`, and records of what they reach and keep: for the tests of every backend."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kvmem
from kvmem.checks import WEIGHT_NAMES
from kvmem.reference import kv_memory_reference

# Of the operators `kv_memory` and `kv_memory_backward` that a fused backend is registered as, with one schema.
NAMESPACES = {"cpu": "kvmem", "cuda": "kvmem", "triton": "kvmem_triton"}


@dataclass(frozen=True)
class Problem:
    """One call of `kv_memory`: image (B, C, H, W), words (B, T, D), mask, the twelve weights by name, the options."""

    image: Tensor
    words: Tensor
    mask: Tensor | None
    weights: dict[str, Tensor]
    options: dict[str, str | bool]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Everything that can have a gradient, by name: image, words, weights."""
        return {"image": self.image, "words": self.words, **self.weights}

    @property
    def slots(self) -> int:
        return self.words.shape[1]

    def to(self, dtype: torch.dtype) -> "Problem":
        weights = {name: weight.to(dtype) for name, weight in self.weights.items()}
        return replace(self, image=self.image.to(dtype), words=self.words.to(dtype), weights=weights)

    def widened(self, words: bool = True) -> "Problem":
        """The same values with weights, and words, in float32: beside an image of 16 bits."""
        weights = {name: weight.float() for name, weight in self.weights.items()}
        return replace(self, words=self.words.float() if words else self.words, weights=weights)

    def with_image_in(self, dtype: torch.dtype, *, words: bool = False) -> "Problem":
        """The image in another type than the rest, the words too if told so."""
        narrow = [self.image.to(dtype), self.words.to(dtype if words else self.words.dtype)]
        return self.with_inputs([*narrow, *self.weights.values()])

    def on(self, device: str) -> "Problem":
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self.with_inputs([tensor.to(device) for tensor in self.inputs.values()]), mask=mask)

    def with_inputs(self, inputs: list[Tensor]) -> "Problem":
        image, words, *weights = inputs
        return replace(self, image=image, words=words, weights=dict(zip(WEIGHT_NAMES, weights, strict=True)))

    def leaves(self) -> "Problem":
        """The same values in fresh tensors that ask for gradients, with the same strides."""
        return self.with_inputs([tensor.detach().requires_grad_() for tensor in self.inputs.values()])

    def run(self, backend: str | None = None, return_attention: bool = False):
        """The call's outputs; "plain" is the reference in the image's type, the yardstick of accuracy."""
        if backend == "plain":
            outputs = kv_memory_reference(*in_one_type(self.image, self.operator_arguments()[:-1]))
            return outputs if return_attention else outputs[0]
        return kvmem.kv_memory(
            self.image,
            self.words,
            self.mask,
            **self.weights,
            **self.options,
            return_attention=return_attention,
            backend=backend,
        )

    def operator_arguments(self, return_attention: bool = False) -> tuple:
        """What the registered operator `kv_memory` takes for this call, in whatever namespace."""
        linear_write_gate = self.options.get("write_gate") == "linear"
        relu = self.options.get("activation", "relu") == "relu"
        flags = (linear_write_gate, relu, self.options.get("detach_mean", False), return_attention)
        return (self.image, self.words, self.mask, *self.weights.values(), *flags)


def in_one_type(image: Tensor, arguments: tuple) -> list:
    """Arguments of a call, all tensors but masks in the image's type."""
    return [x.to(image.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments]


def make_mask(kind: str, batch: int, slots: int, generator: torch.Generator) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "full":
        return torch.ones(batch, slots, dtype=torch.bool)
    if kind == "all masked":
        return torch.zeros(batch, slots, dtype=torch.bool)
    mask = torch.rand(batch, slots, generator=generator) < 0.6
    mask[:, -1] = True
    if kind == "one image masked":
        mask[0] = False
    return mask


def make_problem(
    batch: int = 2,
    channels: int = 16,
    size: tuple[int, int] = (5, 7),
    slots: int = 6,
    word_channels: int = 12,
    memory_channels: int | None = None,
    *,
    mask: str = "none",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    write_gate_width: str = "scalar",
    response_gate_width: str = "scalar",
    seed: int = 0,
    **options: str | bool,
) -> Problem:
    """A random problem; mask is "none", "full", "partial", "one image masked" or "all masked"."""
    generator = torch.Generator().manual_seed(seed)
    memory_channels = memory_channels or 2 * channels
    gates = memory_channels if write_gate_width == "vector" else 1
    response_gates = channels if response_gate_width == "vector" else 1
    shapes = (
        (gates, word_channels),
        (gates, channels),
        (memory_channels, word_channels),
        (memory_channels,),
        (memory_channels, channels),
        (memory_channels,),
        (channels, memory_channels),
        (channels,),
        (channels, memory_channels),
        (channels,),
        (response_gates, 2 * channels),
        (response_gates,),
    )

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # Scaled so that every unit sees inputs of order one, biases a tenth, and the softmax is neither flat nor one-hot.
    weights = {
        name: normal(*shape) * (0.1 if len(shape) == 1 else shape[1] ** -0.5)
        for name, shape in zip(WEIGHT_NAMES, shapes, strict=True)
    }
    weights["key_weight"] *= 4 * channels**-0.5
    image = normal(batch, channels, *size)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    words = normal(batch, slots, word_channels)
    slot_mask = make_mask(mask, batch, slots, generator)
    return Problem(image, words, slot_mask, weights, options).to(dtype)


# What is in float32 beside an image of 16 bits, as `widened` is told; of memory_read keys and values, or the gate.
WIDE = {"words and weights": True, "weights alone": False}


def widening(make: Callable, words: bool) -> Callable:
    """A maker of problems, of either kind, whose values have 16 bits and are stored in float32 where they are wide."""

    def make_widened(*sizes, **settings):
        return make(*sizes, **settings).widened(words)

    return make_widened


# Images that are not dense, or not where vectors are loaded from.
LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "every second column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "some of the channels": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "expanded over the batch": lambda x: x[:1].expand_as(x),
    "channels outermost": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "not aligned to 16 bytes": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view_as(x),
}


class CalledOperators(TorchDispatchMode):
    """Records the operators that run inside it, forward and backward, by qualified name, and their last arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.arguments: dict[str, tuple] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        self.arguments[func.name()] = args
        return func(*args, **(kwargs or {}))


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of what is kept for backward, each storage once, those of the given inputs left out."""

    def __init__(self, inputs: list[Tensor]) -> None:
        self.known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self.bytes = 0
        super().__init__(self._count, lambda tensor: tensor)

    def __enter__(self) -> "SavedTensors":
        super().__enter__()
        return self

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in self.known:
            self.known.add(storage)
            self.bytes += prod(tensor.shape) * tensor.element_size()
        return tensor


def bits(problem: Problem, backend: str) -> list[Tensor]:
    """The outputs and all gradients, as raw bytes."""
    problem = problem.leaves()
    out, attention = problem.run(backend, return_attention=True)
    gradients = torch.autograd.grad(out.square().sum() + attention.square().sum(), list(problem.inputs.values()))
    return [tensor.detach().contiguous().view(torch.uint8) for tensor in (out, attention, *gradients)]
