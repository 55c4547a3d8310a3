"""The machine code of the CUDA kernels, read from the built library: registers, memory accesses, matrix units.

A kernel that spills, or whose matrix products went to scalar units, is as right as before and several times slower: no
other test on a machine without a GPU would show it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import kvmem

ARCHITECTURES = ("sm_80", "sm_90")
# How the kernels' names begin.
TUNED = ("cluster_forward", "cluster_backward")
PIXEL_PASSES = (*TUNED, "general_forward", "general_backward")
TYPES = {"f": "float32", "13__nv_bfloat16": "bfloat16", "6__half": "float16"}
# What a warp may issue for 16 positions at up to 23 slots, where no attention is asked for: in both formats.
BUDGETS = {
    ("cluster_forward", "bfloat16"): 450,
    ("cluster_forward", "float16"): 450,
    ("cluster_forward", "float32"): 1250,
    ("cluster_backward", "bfloat16"): 950,
    ("cluster_backward", "float16"): 950,
    ("cluster_backward", "float32"): 3000,
}
# Bytes of a thread's stack, where a kernel doesn't do without: all 255 registers are taken, and a table of addresses of
# the attention's gradient is left over. Four loads and stores among 2,700 instructions.
SPILLS = {("cluster_backward", "float32", "contiguous, with attention"): 16}


@dataclass
class Kernel:
    """One kernel for one architecture: names, the type of its tensors, what it uses, its code.

    code: address, name and arguments of every instruction.
    """

    mangled: str
    name: str
    type: str
    stack: int
    local: int
    code: list[tuple[int, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}<{self.type}> ({self.mangled})"

    def has(self, pattern: str) -> bool:
        return any(re.match(pattern, name) for _, name, _ in self.code)

    @property
    def variant(self) -> str | None:
        """Of a cluster kernel for up to 23 slots: its format, and whether it has the attention; else None."""
        found = re.search(r"Li3ELb([01])ELb([01])E", self.mangled)
        if found is None:
            return None
        channels_last, attention = (flag == "1" for flag in found.groups())
        return ("channels_last" if channels_last else "contiguous") + (", with attention" if attention else "")

    def main_loop(self) -> int:
        """How many instructions the smallest loop has that holds most of the matrix products."""
        products = [address for address, name, _ in self.code if name.startswith("HMMA")]
        jumps = [
            (int(target[1], 16), address)
            for address, name, arguments in self.code
            if name.startswith("BRA")
            for target in [re.search(r"0x([0-9a-f]+)", arguments)]
            if target
        ]
        sizes = [
            sum(first <= address <= last for address, _, _ in self.code)
            for first, last in jumps
            if first < last and 2 * sum(first <= address <= last for address in products) > len(products)
        ]
        return min(sizes)


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on the PATH, beside nvcc, or in Triton's package."""
    spec = importlib.util.find_spec("triton")
    packages = (
        [str(Path(folder, "backends", "nvidia", "bin")) for folder in spec.submodule_search_locations] if spec else []
    )
    folders = ["/usr/local/cuda/bin", *packages]
    return shutil.which(name) or next(filter(None, (shutil.which(name, path=folder) for folder in folders)), None)


def identify(mangled: str) -> tuple[str, str]:
    """Name and tensor type of a kernel: `_ZN5kvmem4cuda15cluster_forwardI6__halfE...` is cluster_forward of float16."""
    parts = re.match(r"_ZN5kvmem4cuda(\d+)(.*)", mangled)
    if parts is None:
        return mangled, ""
    length, rest = parts.groups()
    name, arguments = rest[: int(length)], rest[int(length) :]
    found = re.match(f"I({'|'.join(TYPES)})", arguments)
    return name, TYPES[found[1]] if found else ""


def read_kernels(library: Path, architecture: str) -> list[Kernel]:
    """Every kernel that the library holds machine code of, for one architecture."""

    def run(*options: str) -> str:
        command = [find_tool("cuobjdump"), *options, "-arch", architecture, str(library)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    kernels = {}
    for mangled, usage in re.findall(r"Function (\S+):\s*\n(.*)", run("-res-usage")):
        stack, local = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("STACK", "LOCAL"))
        kernels[mangled] = Kernel(mangled, *identify(mangled), stack, local)
    current = None
    for line in run("-sass").splitlines():
        if header := re.match(r"\s*Function : (\S+)", line):
            current = kernels[header[1]]
        elif found := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", line):
            current.code.append((int(found[1], 16), found[2], found[3]))
    return list(kernels.values())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kernels(request: pytest.FixtureRequest) -> list[Kernel]:
    if not kvmem.backends()["cpu"].available or not torch.ops.kvmem.cuda_architectures():
        pytest.skip("kvmem is built without CUDA")
    if request.param not in torch.ops.kvmem.cuda_architectures().split(","):
        pytest.skip(f"kvmem is built without {request.param}")
    for tool in ("cuobjdump", "nvdisasm"):
        if find_tool(tool) is None:
            pytest.skip(f"no {tool} on the PATH, in /usr/local/cuda or in a triton package")
    found = read_kernels(Path(kvmem.__file__).with_name("_kernels.so"), request.param)
    # Where there are no clusters of blocks, the kernels for them are never run.
    return found if request.param != "sm_80" else [kernel for kernel in found if not kernel.name.startswith(TUNED)]


def named(
    kernels: list[Kernel], names: tuple[str, ...], types: tuple[str, ...] = tuple(TYPES.values())
) -> list[Kernel]:
    found = [kernel for kernel in kernels if kernel.name.startswith(names) and kernel.type in types]
    assert found
    return found


def test_every_pixel_pass_is_there_for_every_type(kernels: list[Kernel], request: pytest.FixtureRequest) -> None:
    passes = PIXEL_PASSES if "sm_90" in request.node.name else tuple(set(PIXEL_PASSES) - set(TUNED))
    for name in passes:
        assert {kernel.type for kernel in named(kernels, (name,))} == set(TYPES.values()), name


def test_nothing_lies_in_local_memory(kernels: list[Kernel]) -> None:
    """No stack frame, no spilled register, no array that is indexed at run time: in any kernel but SPILLS."""
    assert kernels

    def allowed(k: Kernel) -> int:
        return SPILLS.get((k.name.removesuffix("_kernel"), k.type, k.variant), 0)

    bad = [
        f"{k}: stack {k.stack}, local {k.local}"
        for k in kernels
        if k.stack > allowed(k) or k.local or (k.has(r"LDL|STL") and not allowed(k))
    ]
    assert not bad, "\n".join(bad)


def test_budgets_of_instructions(kernels: list[Kernel], request: pytest.FixtureRequest) -> None:
    """The loops over positions are bound by the instructions that they issue."""
    if "sm_90" not in request.node.name:
        pytest.skip("the cluster kernels are for sm_90")
    found = {}
    for kernel in named(kernels, TUNED):
        if kernel.variant in ("contiguous", "channels_last"):
            found[kernel.name.removesuffix("_kernel"), kernel.type, kernel.variant] = kernel.main_loop()
    assert len(found) == 2 * len(BUDGETS)
    over = {key: (count, BUDGETS[key[:2]]) for key, count in found.items() if not 100 < count <= BUDGETS[key[:2]]}
    assert not over, over


def test_the_products_run_on_the_matrix_units_in_16_bit_types(kernels: list[Kernel]) -> None:
    slow = [str(k) for k in named(kernels, PIXEL_PASSES, ("bfloat16", "float16")) if not k.has(r"HMMA|HGMMA")]
    assert not slow, slow


def test_the_pixel_passes_read_and_write_128_bits_at_a_time(kernels: list[Kernel]) -> None:
    """Straight into shared memory (LDGSTS) or through registers (LDG); the image goes out by STG."""
    reads, writes = r"(LDG|LDGSTS)\.E.*\.128", r"STG\.E.*\.128"
    narrow = [str(k) for k in named(kernels, PIXEL_PASSES) if not (k.has(reads) and k.has(writes))]
    assert not narrow, narrow


@pytest.mark.parametrize(
    "mangled, expected",
    [
        (
            "_ZN5kvmem4cuda15cluster_forwardI13__nv_bfloat16EEvNS0_17ForwardParametersIT_EE",
            ("cluster_forward", "bfloat16"),
        ),
        ("_ZN5kvmem4cuda16general_backwardI6__halfLi2EEEvNS0_1PE", ("general_backward", "float16")),
        ("_ZN5kvmem4cuda14memory_forwardIfEEvNS0_1PE", ("memory_forward", "float32")),
        ("_ZN5kvmem4cuda8mean_sumIfLb1EEEvNS0_1PE", ("mean_sum", "float32")),
        ("_ZN5kvmem4cuda4stepENS0_1PE", ("step", "")),
    ],
)
def test_kernels_are_told_apart_by_their_mangled_names(mangled: str, expected: tuple[str, str]) -> None:
    assert identify(mangled) == expected
