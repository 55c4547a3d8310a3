"""A GPU that is only pretended: Triton's own launch path compiles for it, and what would run is recorded instead.

`python triton_machine.py TARGET` compiles the layer's kernels for one of TARGETS and prints what that gave, as JSON;
`python triton_machine.py TARGET tune` tunes a forward pass twice, and prints what was timed and what was launched.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from unittest import mock

import torch
import triton
from kvmem_problems import Problem, make_problem
from kvmem_read_problems import make_read_problem
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from kvmem.triton import launch, read_launch

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
}
MULTIPROCESSORS = {"cuda:80": 108, "cuda:90": 132, "hip:gfx942": 304}
VECTOR_GATES = {"write_gate_width": "vector", "response_gate_width": "vector"}
# Batch, channels, size, slots, word channels, memory channels; settings.
CASES = {
    "the paper's": ((32, 64, (128, 128), 18, 256, 128), {}),
    "general": ((32, 100, (128, 128), 40, 256, 128), {}),
    "vector gates": ((32, 64, (128, 128), 18, 256, 128), VECTOR_GATES),
    "large": ((8, 320, (64, 64), 77, 256, 128), VECTOR_GATES),
}
# Batch, channels, size, slots; the gate that no case above has.
READ_CASES = {"reading": ((32, 64, (128, 128), 18), "none")}
MIXED = "bfloat16 beside float32"  # words and weights in float32


def types_of(case: str, target: str) -> tuple[str, ...]:
    """What a case is compiled in. Compiling takes seconds a kernel: one of the 16-bit types and one target do for the
    others, one case for what is mixed, and vector gates by the general branch are those of the large case."""
    on_hopper = target == "cuda:90"
    if case == "the paper's":
        return ("float32", "bfloat16", MIXED, *(["float16"] if on_hopper else []))
    if case == "vector gates":
        return ("bfloat16",) if on_hopper else ()
    return "float32", "bfloat16"


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel's name, what it was compiled to, its programs."""

    name: str
    kernel: triton.compiler.CompiledKernel
    programs: int

    @property
    def shared_memory(self) -> int:
        return self.kernel.metadata.shared

    @property
    def spills(self) -> int:
        """Bytes of a thread's stack and local memory (NVIDIA), or its registers that were spilled to memory (AMD)."""
        if self._is_amd:
            # Spilled scalar registers stay on the chip, in lanes of vector registers.
            return int(re.search(r"\.vgpr_spill_count:\s+(\d+)", self.instructions)[1])
        return sum(int(re.search(rf"{what}:(\d+)", self._usage)[1]) for what in ("STACK", "LOCAL"))

    @property
    def registers(self) -> int:
        if self._is_amd:
            return int(re.search(r"\.vgpr_count:\s+(\d+)", self.instructions)[1])
        return int(re.search(r"REG:(\d+)", self._usage)[1])

    @property
    def matrix_instructions(self) -> int:
        return len(re.findall(r"\bv_mfma_|\bHMMA\.|\bHGMMA\.", self.instructions))

    @cached_property
    def instructions(self) -> str:
        """The machine code as text."""
        return self.kernel.asm["amdgcn"] if self._is_amd else self._dump("-sass")

    @cached_property
    def _usage(self) -> str:
        return self._dump("--dump-resource-usage")

    @property
    def _is_amd(self) -> bool:
        return "cubin" not in self.kernel.asm

    def _dump(self, option: str) -> str:
        folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
        if not (folder / "cuobjdump").exists():
            raise FileNotFoundError(f"no cuobjdump in {folder}, where triton {triton.__version__} should bring it")
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.kernel.asm["cubin"])
            file.flush()
            command = [folder / "cuobjdump", option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": str(folder)}).stdout


class PretendedDriver:
    """What Triton asks a driver for, of a GPU of a target."""

    def __init__(self, name: str) -> None:
        self.name, self.target = name, TARGETS[name]
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        # More than any: a kernel that asks for too much is to be reported with the others, not refused.
        return {"max_shared_mem": 1 << 30}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        return 0, 0, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        pass

    def launcher_cls(self, source: object, metadata: object):
        def run(programs: int, *rest: object) -> None:
            pass

        return run


@contextmanager
def pretended_gpu(name: str) -> Iterator[list[Launch]]:
    """The layer's operators take CPU tensors for a GPU's of a target; what they launch is appended to the list."""
    launches = []
    run = JITFunction.run

    def recorded(function: JITFunction, *arguments: object, grid: tuple[int, ...], **settings: object):
        kernel = run(function, *arguments, grid=grid, **settings)
        launches.append(Launch(function.fn.__name__, kernel, grid[0]))
        return kernel

    triton.runtime.driver.set_active(PretendedDriver(name))
    with (
        mock.patch.object(torch.version, "hip", "7.0" if name.startswith("hip") else None),
        mock.patch.object(JITFunction, "run", recorded),
        mock.patch.object(launch, "interpreted", lambda: True),
        mock.patch.object(launch, "multiprocessors", lambda device: MULTIPROCESSORS[name]),
    ):
        yield launches


def unwritten(problem: Problem, batch: int) -> Problem:
    """A problem of a larger batch, whose image and words are never touched."""
    image, words = (tensor.new_empty(batch, *tensor.shape[1:]) for tensor in (problem.image, problem.words))
    return problem.with_inputs([image, words, *problem.weights.values()])


def run_case(shape: tuple, settings: dict[str, str], dtype: str) -> None:
    """Forward and backward, all gradients."""
    batch, *others = shape
    mixed = dtype == MIXED
    problem = make_problem(1, *others, dtype=torch.float32 if mixed else getattr(torch, dtype), **settings)
    problem = unwritten(problem.with_image_in(torch.bfloat16) if mixed else problem, batch)
    arguments = problem.operator_arguments()
    out, _, *kept = launch.forward(*arguments)
    launch.backward(out, None, *arguments[:15], *kept, *arguments[15:18], 2**14 - 1)


def run_read_case(shape: tuple, gate: str, dtype: str) -> None:
    """Forward and backward, all gradients, of an image, keys and values that are never touched."""
    batch, *others = shape
    problem = make_read_problem(1, *others, gate=gate, dtype=getattr(torch, dtype))
    tensors = [one.new_empty(batch, *one.shape[1:]) for one in (problem.image, problem.keys, problem.values)]
    *tensors, attention = problem.with_inputs([*tensors, *problem.gate.values()]).operator_arguments()
    out, _, *kept = read_launch.forward(*tensors, attention)
    read_launch.backward(out, None, *tensors, *kept, 2 ** len(problem.inputs) - 1)


def report(name: str) -> list[dict[str, str | int]]:
    """Every launch of every case, in order, as the target's compiler left it."""
    found = []
    runs = {case: partial(run_case, *arguments) for case, arguments in CASES.items()}
    runs.update((case, partial(run_read_case, *arguments)) for case, arguments in READ_CASES.items())
    for case, run in runs.items():
        for dtype in types_of(case, name):
            with pretended_gpu(name) as launches:
                run(dtype)
            for one in launches:
                numbers = ("programs", "spills", "registers", "shared_memory", "matrix_instructions")
                values = {number: getattr(one, number) for number in numbers}
                found.append({"case": case, "dtype": dtype, "name": one.name, **values})
    return found


def tune(name: str) -> dict[str, list]:
    """Of two forward passes with KVMEM_TRITON_AUTOTUNE=1: the tiles that were timed, and those that were launched.

    The time is made up: the smallest tile wins.
    """
    timed, launched = [], []

    def bench(tuner: Autotuner, *arguments: object, config: triton.Config, **settings: object) -> list[float]:
        timed.append(config.kwargs["BLOCK_N"])
        return [float(config.kwargs["BLOCK_N"] * config.num_warps)]

    def recorded(kernel: JITFunction, *arguments: object, grid: tuple[int, ...], **settings: object) -> None:
        if kernel.fn.__name__ == "kv_memory_read":
            launched.append((settings["BLOCK_N"], settings["num_warps"]))

    arguments = make_problem(2, 16, (16, 16), 5, 8, 8, dtype=torch.float16).operator_arguments()
    with (
        pretended_gpu(name),
        mock.patch.dict(os.environ, KVMEM_TRITON_AUTOTUNE="1"),
        mock.patch.object(Autotuner, "_bench", bench),
        mock.patch.object(JITFunction, "run", recorded),
    ):
        for _ in range(2):
            launch.forward(*arguments)
    return {"timed": timed, "launched": launched}


if __name__ == "__main__":
    print(json.dumps((tune if sys.argv[2:] == ["tune"] else report)(sys.argv[1])))
