"""What the tests of kvmem share: random problems, the backends, and a record of the operators that a call reached."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kvmem
from kvmem.checks import WEIGHT_NAMES

ISAS = ("generic", "avx2", "avx512")


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

    def to(self, dtype: torch.dtype) -> "Problem":
        weights = {name: weight.to(dtype) for name, weight in self.weights.items()}
        return replace(self, image=self.image.to(dtype), words=self.words.to(dtype), weights=weights)

    def with_inputs(self, inputs: list[Tensor]) -> "Problem":
        image, words, *weights = inputs
        return replace(self, image=image, words=words, weights=dict(zip(WEIGHT_NAMES, weights, strict=True)))

    def leaves(self) -> "Problem":
        """The same values in fresh tensors that ask for gradients, with the same strides."""
        return self.with_inputs([tensor.detach().requires_grad_() for tensor in self.inputs.values()])

    def run(self, backend: str | None = None, return_attention: bool = False):
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
        """What the registered operator `kvmem::kv_memory` takes for this call."""
        linear_write_gate = self.options.get("write_gate") == "linear"
        relu = self.options.get("activation", "relu") == "relu"
        flags = (linear_write_gate, relu, self.options.get("detach_mean", False), return_attention)
        return (self.image, self.words, self.mask, *self.weights.values(), *flags)


def _make_mask(kind: str, batch: int, slots: int, generator: torch.Generator) -> Tensor | None:
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


def _make_problem(
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
    slot_mask = _make_mask(mask, batch, slots, generator)
    return Problem(image, words, slot_mask, weights, options).to(dtype)


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    return _make_problem


def _need_extension() -> None:
    """Without the compiled extension a test of it fails, unless the environment says that none is wanted."""
    if not kvmem.backends()["cpu"].available:
        if os.environ.get("KVMEM_PURE_PYTHON") == "1":
            pytest.skip("KVMEM_PURE_PYTHON=1: kvmem without its compiled extension")
        pytest.fail(f"cpu backend {kvmem.backends()['cpu']}")


@pytest.fixture
def extension() -> None:
    """The test needs the compiled extension."""
    _need_extension()


@pytest.fixture(params=["eager", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu":
        _need_extension()
    return request.param


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Forces one instruction set of the CPU kernels for the length of the test."""
    _need_extension()
    runnable = torch.ops.kvmem.cpu_isas().split(",")
    if request.param not in runnable:
        pytest.skip(f"this build and machine run {', '.join(runnable)}")
    before = torch.ops.kvmem.cpu_isa("")
    assert torch.ops.kvmem.cpu_isa(request.param) == request.param
    yield request.param
    torch.ops.kvmem.cpu_isa(before)


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


@pytest.fixture
def called_operators() -> Callable[[], CalledOperators]:
    return CalledOperators


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


@pytest.fixture
def saved_tensors() -> Callable[[list[Tensor]], SavedTensors]:
    return SavedTensors
