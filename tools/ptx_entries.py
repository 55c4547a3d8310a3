"""The PTX that the built library holds, kernel by kernel, and what a kernel reads of its parameters."""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from machine_code import find_tool

# The names of 16-bit types, as nvcc has them and as csrc/simt has them.
TYPES = {"__nv_bfloat16": "Bfloat16", "__half": "Float16"}


@dataclass(frozen=True)
class Entry:
    """One kernel. text: a whole PTX file with this entry alone. parameter_bytes: of its one struct."""

    mangled: str
    name: str  # cluster_forward_kernel<Bfloat16, 3, true, false>
    text: str
    parameter_bytes: int

    @property
    def parameter(self) -> str:
        return f"{self.mangled}_param_0"


@dataclass(frozen=True)
class Field:
    """What a kernel reads of its parameters in one piece: a byte offset and a type as u32."""

    offset: int
    type: str

    @property
    def bytes(self) -> int:
        return int(self.type[1:]) // 8

    @property
    def end(self) -> int:
        return self.offset + self.bytes


def read_entries(library: Path, architecture: str) -> list[Entry]:
    """Every kernel that the library holds PTX of, for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        command = [find_tool("cuobjdump"), "-xptx", "all", str(library)]
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        files = sorted(Path(folder).glob(f"*.{architecture}.ptx"))
        return [entry for file in files for entry in split(file.read_text())]


def split(ptx: str) -> list[Entry]:
    """The entries of one PTX file."""
    header, *bodies = re.split(r"^(?=\.visible \.entry )", ptx, flags=re.MULTILINE)
    header = "\n".join(line for line in header.splitlines() if line.strip())
    return [_entry(header, body.rstrip() + "\n") for body in bodies]


def _entry(header: str, body: str) -> Entry:
    mangled = re.match(r"\.visible \.entry (\w+)\(", body)[1]
    size = re.search(rf"\.b8 {mangled}_param_0\[(\d+)\]", body)
    return Entry(mangled, readable(mangled), f"{header}\n{body}", int(size[1]) if size else 0)


def readable(mangled: str) -> str:
    """Name and template arguments, as the host machine spells them too, or the name itself if it isn't mangled."""
    library = ctypes.CDLL("libstdc++.so.6")
    library.__cxa_demangle.restype = ctypes.c_void_p
    status = ctypes.c_int()
    text = library.__cxa_demangle(mangled.encode(), None, None, ctypes.byref(status))
    if not text:
        return mangled
    demangled = ctypes.string_at(text).decode()
    ctypes.CDLL(None).free(ctypes.c_void_p(text))
    return short_name(re.match(r"(?:void )?(.*?)\((?:kvmem|$)", demangled)[1])


def short_name(name: str) -> str:
    """Without namespaces, 16-bit types by one name on the host and on the device."""
    name = re.sub(r"\b(kvmem::)?(cuda|simt)::", "", name)
    return re.sub(r"\b(__nv_bfloat16|__half)\b", lambda found: TYPES[found[0]], name)


@cache
def fields(entry: Entry) -> list[Field]:
    """All that the kernel may read of its parameters, by following the struct's addresses through the text."""
    places = _places(entry)
    found = set()
    for line in entry.text.splitlines():
        if read := re.match(r"\s*(?:@!?%p\d+ )?ld\.param\.(?:v(\d)\.)?(\w+) .*\[(%rd\d+|\w+)(?:\+(-?\d+))?\];", line):
            count, kind, base, distance = read.groups()
            size = int(kind[1:]) // 8
            reached = (
                Field(place + int(distance or 0) + i * size, kind)
                for place in places[base]
                for i in range(int(count or 1))
            )
            found |= {field for field in reached if 0 <= field.offset <= entry.parameter_bytes - size}
        elif "ld.param" in line:
            raise ValueError(f"{entry.name}: {line.strip()}: a read of ld.param in another form")
    return sorted(found, key=lambda field: (field.offset, field.type))


def _places(entry: Entry) -> dict[str, set[int]]:
    """The offsets in the struct that a register may hold the address of; of an array's element, those of all."""
    steps = []
    strides: dict[str, int] = {}
    for line in entry.text.splitlines():
        if found := re.match(r"\s*mov\.[bu]64 (%rd\d+), (%rd\d+|\w+);", line):
            steps.append((found[1], [found[2]], [0]))
        elif found := re.match(r"\s*mul\.(?:wide\.[su]32|lo\.s64) (%rd\d+), %rd?\d+, (\d+);", line):
            strides[found[1]] = int(found[2])
        elif found := re.match(r"\s*add\.s64 (%rd\d+), (%rd\d+), (%rd\d+);", line):
            if stride := strides.get(found[3]):
                steps.append((found[1], [found[2]], range(0, entry.parameter_bytes, stride)))
        elif found := re.match(r"\s*add\.s64 (%rd\d+), (%rd\d+), (-?\d+);", line):
            steps.append((found[1], [found[2]], [int(found[3])]))
        elif found := re.match(r"\s*selp\.b64 (%rd\d+), (%rd\d+), (%rd\d+), %p\d+;", line):
            steps.append((found[1], [found[2], found[3]], [0]))
    places: dict[str, set[int]] = {entry.parameter: {0}}
    grown = True
    while grown:
        grown = False
        for to, sources, distances in steps:
            reached = {
                place + distance for source in sources for place in places.get(source, ()) for distance in distances
            }
            if not reached <= places.get(to, set()):
                places.setdefault(to, set()).update(reached)
                grown = True
    return places
