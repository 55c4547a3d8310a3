"""Random calls of `memory_read`, as kvmem_problems.py has them of `kv_memory`: for the tests of every backend."""

from dataclasses import dataclass, replace

import torch
from kvmem_problems import in_one_type, make_mask
from torch import Tensor

import kvmem
from kvmem.reference import memory_read_reference

# Rows of the response gate of an image of so many channels.
GATES = {"none": lambda channels: 0, "scalar": lambda channels: 1, "vector": lambda channels: channels}


@dataclass(frozen=True)
class ReadProblem:
    """One call: image (B, C, H, W), keys and values (B, T, C), mask, weight and bias of a response gate, or neither."""

    image: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    gate: dict[str, Tensor]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Everything that can have a gradient, by name."""
        return {"image": self.image, "keys": self.keys, "values": self.values, **self.gate}

    @property
    def options(self) -> dict[str, str | bool]:
        """There are none, unlike of a Problem."""
        return {}

    @property
    def slots(self) -> int:
        return self.keys.shape[1]

    def with_inputs(self, inputs: list[Tensor]) -> "ReadProblem":
        image, keys, values, *gate = inputs
        return replace(self, image=image, keys=keys, values=values, gate=dict(zip(self.gate, gate, strict=True)))

    def to(self, dtype: torch.dtype) -> "ReadProblem":
        return self.with_inputs([tensor.to(dtype) for tensor in self.inputs.values()])

    def widened(self, slots: bool = True) -> "ReadProblem":
        """The same values with the gate, and keys and values, in float32: beside an image of 16 bits."""
        gate = {name: weight.float() for name, weight in self.gate.items()}
        if not slots:
            return replace(self, gate=gate)
        return replace(self, keys=self.keys.float(), values=self.values.float(), gate=gate)

    def with_image_in(self, dtype: torch.dtype, *, gate: bool = False) -> "ReadProblem":
        """The image in another type than keys and values, the response gate too if told so."""
        weights = [weight.to(dtype if gate else weight.dtype) for weight in self.gate.values()]
        return self.with_inputs([self.image.to(dtype), self.keys, self.values, *weights])

    def on(self, device: str) -> "ReadProblem":
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self.with_inputs([tensor.to(device) for tensor in self.inputs.values()]), mask=mask)

    def leaves(self) -> "ReadProblem":
        return self.with_inputs([tensor.detach().requires_grad_() for tensor in self.inputs.values()])

    def run(self, backend: str | None = None, return_attention: bool = False):
        """The call's outputs; "plain" is the reference in the image's type, the yardstick of accuracy."""
        if backend == "plain":
            outputs = memory_read_reference(*in_one_type(self.image, self.operator_arguments()[:-1]))
            return outputs if return_attention else outputs[0]
        inputs = (self.image, self.keys, self.values, self.mask)
        return kvmem.memory_read(*inputs, **self.gate, return_attention=return_attention, backend=backend)

    def operator_arguments(self, return_attention: bool = False) -> tuple:
        """What the registered operator `memory_read` takes for this call, in whatever namespace."""
        gate = self.gate.values() or (None, None)
        return (self.image, self.keys, self.values, self.mask, *gate, return_attention)


def make_read_problem(
    batch: int = 2,
    channels: int = 16,
    size: tuple[int, int] = (5, 7),
    slots: int = 6,
    *,
    gate: str = "scalar",
    mask: str = "none",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    seed: int = 0,
) -> ReadProblem:
    """A random problem; gate is one of GATES, mask as in make_problem."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    image = normal(batch, channels, *size)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    # Scores of order one, so that the softmax is neither flat nor one-hot.
    keys, values = normal(batch, slots, channels) * channels**-0.5, normal(batch, slots, channels)
    rows = GATES[gate](channels)
    weights = {}
    if rows:
        weights["response_gate_weight"] = normal(rows, 2 * channels) * (2 * channels) ** -0.5
        weights["response_gate_bias"] = normal(rows) * 0.1
    return ReadProblem(image, keys, values, make_mask(mask, batch, slots, generator), weights).to(dtype)
