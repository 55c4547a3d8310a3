"""One kernel's outputs against a function of PyTorch in real arithmetic, for one launch."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prover import MEMORY_LIMIT_MIB, Launch, described, judged_text
from ptx_entries import Entry

REFERENCES = Path(__file__).parents[2] / "proof" / "references"
ITEMS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Tensor:
    """What a launch reads or writes: the tensor as the prover's input names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def identity(self) -> str:
        return f"6:global{len(self.name)}:{self.name}"

    @property
    def item(self) -> int:
        return ITEMS[self.dtype]

    @property
    def strides(self) -> list[int]:
        """In bytes."""
        found = [self.item]
        for size in self.shape[:0:-1]:
            found.insert(0, found[0] * size)
        return found

    @property
    def layout(self) -> dict[str, Any]:
        strides = {"source_strides_bytes": self.strides, "target_strides_bytes": self.strides}
        place = {"source_offset": 0, "target_offset": 0, "element_bytes": self.item, "shape": list(self.shape)}
        return {**place, **strides}


@dataclass(frozen=True)
class Argument:
    """One of the reference's: a tensor, or part of one from a number on."""

    name: str
    tensor: Tensor
    first: int = 0
    count: int = 0  # 0: all of it

    @property
    def binding(self) -> dict[str, Any]:
        found = {"name": self.name, "allocation": self.tensor.identity, "dtype": self.tensor.dtype}
        if self.count:
            found.update(shape=[self.count], offset=self.first * self.tensor.item)
        return found


@dataclass(frozen=True)
class Part:
    """Numbers [first, first + count) of a tensor, which a launch writes."""

    tensor: Tensor
    first: int
    count: int


def compare(
    entry: Entry,
    launch: Launch,
    reference: str,
    arguments: list[Argument],
    outputs: list[Tensor | Part],
    seconds: float,
) -> dict[str, Any]:
    """The prover's report; reference: a file of REFERENCES."""
    from sentryward import verify

    tensors = {argument.tensor.identity: argument.tensor for argument in arguments}
    side = {
        "allocations": {identity: tensor.name for identity, tensor in tensors.items()},
        "parameters": {},
        "layouts": {identity: tensor.layout for identity, tensor in tensors.items()},
    }
    binding = {
        "schema": "spverify.equivalence-mapping.v1",
        "left_inputs": side,
        "right_inputs": side,
        "outputs": {"kind": "dense_tensors", "tensors": [_output(written) for written in outputs]},
        "output_value_semantics": "ideal_real",
        "reference": {"arguments": [argument.binding for argument in arguments]},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.ptx").write_text(judged_text(entry, launch))
        (folder / "input.json").write_text(json.dumps(described(entry, launch)))
        (folder / "binding.json").write_text(json.dumps(binding))
        return verify(
            folder / "kernel.ptx",
            input=folder / "input.json",
            reference=REFERENCES / f"{reference}.py",
            reference_binding=folder / "binding.json",
            timeout_seconds=seconds,
            memory_limit_mib=MEMORY_LIMIT_MIB,
        )


def _output(written: Tensor | Part) -> dict[str, Any]:
    tensor, shape, offset = written, None, 0
    if isinstance(written, Part):
        tensor, shape, offset = written.tensor, (written.count,), written.first * written.tensor.item
    tensor = tensor if shape is None else replace(tensor, shape=shape)
    sides = {
        f"{side}_{what}": value
        for side in ("left", "right")
        for what, value in (("allocation", tensor.identity), ("offset", offset), ("strides_bytes", tensor.strides))
    }
    return {**sides, "element_bytes": tensor.item, "shape": list(tensor.shape)}
