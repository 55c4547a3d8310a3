"""The machine code of the CUDA kernels, read from the built library with cuobjdump: registers, instructions, loops."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

TYPES = {"f": "float32", "13__nv_bfloat16": "bfloat16", "6__half": "float16"}
# A function's header; an instruction's address, name and arguments; the 64 bits of a line that has no instruction.
_LINE_OF_CODE = re.compile(
    r"^[ \t]*(?:Function : (\S+)"
    r"|/\*([0-9a-f]{4,})\*/[ \t]+(?:@!?U?P\w+[ \t]+)?([A-Z][\w.]*)(.*);"
    r"|/\* 0x([0-9a-f]{16}) \*/)",
    re.MULTILINE,
)


class Instruction(NamedTuple):
    """One instruction. control: the bits by which the compiler schedules it, see `gpu_issue.py`."""

    address: int
    name: str
    arguments: str
    control: int


@dataclass(eq=False)
class Kernel:
    """One kernel for one architecture: names, the type of its tensors, what a thread uses, its code.

    stack and local are bytes of a thread.
    """

    mangled: str
    name: str
    type: str
    registers: int
    stack: int
    local: int
    code: list[Instruction] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}<{self.type}> ({self.mangled})"

    def has(self, pattern: str) -> bool:
        return any(re.match(pattern, instruction.name) for instruction in self.code)

    @property
    def wide(self) -> bool:
        """Whether it is compiled for weights in float32 beside numbers of 16 bits."""
        return re.search(r"kernelI(13__nv_bfloat16|6__half)f", self.mangled) is not None

    @property
    def flags(self) -> list[str]:
        """The numbers and truth values that the kernel is a template of, in order: ["3", "0", "1"]."""
        return re.findall(r"L[ib](\d+)E", self.mangled)

    @property
    def variant(self) -> str | None:
        """Of a cluster kernel for up to 23 slots: its format, has it the attention, is it wide; else None."""
        if len(self.flags) != 3 or self.flags[0] != "3":
            return None
        _, channels_last, attention = (flag == "1" for flag in self.flags)
        rest = (", with attention" if attention else "") + (", float32 weights" if self.wide else "")
        return ("channels_last" if channels_last else "contiguous") + rest

    def loops(self) -> list[list[Instruction]]:
        """The bodies of all loops, inner ones and the outer ones that hold them, each with its jump back."""
        jumps = [
            (int(target[1], 16), instruction.address)
            for instruction in self.code
            if instruction.name.startswith("BRA")
            for target in [re.search(r"0x([0-9a-f]+)", instruction.arguments)]
            if target
        ]
        return [
            [instruction for instruction in self.code if first <= instruction.address <= last]
            for first, last in jumps
            if first < last
        ]

    def main_loop(self) -> list[Instruction]:
        """The smallest loop that holds most of the matrix products."""
        products = count_products(self.code)
        return min((loop for loop in self.loops() if 2 * count_products(loop) > products), key=len)


def count_products(code: list[Instruction]) -> int:
    return sum(instruction.name.startswith("HMMA") for instruction in code)


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


def architectures(library: Path) -> list[str]:
    """Those that the library holds machine code for, as sm_90; empty where it was built without CUDA."""
    listed = subprocess.run([find_tool("cuobjdump"), "-lelf", str(library)], capture_output=True, text=True)
    return sorted(set(re.findall(r"\.(sm_\d+a?)\.cubin", listed.stdout)))


def read_kernels(library: Path, architecture: str) -> list[Kernel]:
    """Every kernel that the library holds machine code of, for one architecture."""

    def run(*options: str) -> str:
        command = [find_tool("cuobjdump"), *options, "-arch", architecture, str(library)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    kernels = {}
    for mangled, usage in re.findall(r"Function (\S+):\s*\n(.*)", run("-res-usage")):
        used = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK", "LOCAL"))
        kernels[mangled] = Kernel(mangled, *identify(mangled), *used)
    current = None
    waiting = None  # an instruction whose second line of 64 bits, with the control bits, follows
    # Millions of lines: one pattern goes through them all.
    for found in _LINE_OF_CODE.finditer(run("-sass")):
        function, address, name, arguments, bits = found.groups()
        if function:
            current = kernels[function]
        elif address:
            waiting = (int(address, 16), name, arguments)
        elif waiting:
            current.code.append(Instruction(*waiting, int(bits, 16) >> 41))
            waiting = None
    return list(kernels.values())
