"""One kernel's launch in the prover `sentryward`: what it is given, and what it found.

For every schedule of the launch's threads: barriers match, and no two conflicting accesses of global or shared
memory are unordered. What that covers and what it doesn't is in docs/proofs.md.
"""

from __future__ import annotations

import json
import re
import resource
import struct
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ptx_entries import Entry, Field, fields

# Address of a tensor as tests/proof/launches.cpp makes them: a mark, the tensor's number, the place in it.
MARK = 0x5E7A
# What the prover would assume where it can't know: none of it is needed here.
ASSUMPTIONS = (
    "duplicate_tma_store_benign",
    "representative_election",
    "clc_always_fails",
    "representative_branches",
    "bounded_computation_loops",
)
MEMORY_LIMIT_MIB = 10_000


@dataclass(frozen=True)
class Launch:
    """One kernel's launch. parameters: the bytes of its struct; names: of the tensors that addresses in it are of.

    early: its blocks may begin before the launch before it is done, which the prover, seeing one launch, doesn't judge.
    """

    kernel: str
    blocks: int
    threads: int
    cluster: int
    shared_bytes: int
    early: bool
    parameters: bytes
    names: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """result: race_free, potential_race, not_wellsynced, unsupported, timeout ... reasons: the tool's own words."""

    result: str
    seconds: float
    reasons: tuple[str, ...]
    report: dict[str, Any]


def prove(entry: Entry, launch: Launch, seconds: float, exhaustive: bool = True) -> Verdict:
    """Runs the prover on the launch. seconds: after so long the result is "timeout"."""
    from sentryward.frontend.ptx_native import run_ptx

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ptx, given = Path(folder, "kernel.ptx"), Path(folder, "input.json")
        ptx.write_text(judged_text(entry, launch))
        given.write_text(json.dumps(described(entry, launch)))
        report = run_ptx(
            ptx,
            given,
            pipeline_timeout_seconds=seconds,
            wellsync_timeout_seconds=seconds,
            rss_limit_mib=MEMORY_LIMIT_MIB,
            sync_threads=2,
            exhaustive_memory_search=exhaustive,
        )
    return Verdict(report["result"], time.perf_counter() - began, tuple(_reasons(report)), report)


def processor_seconds() -> float:
    """What provers have used so far, which other programs don't lengthen much."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def described(entry: Entry, launch: Launch) -> dict[str, Any]:
    """The prover's input: the launch, and every field of the parameters that the kernel reads, by its own offset."""
    if len(launch.parameters) != entry.parameter_bytes:
        sizes = f"{len(launch.parameters)} bytes of parameters, its PTX has {entry.parameter_bytes}"
        raise ValueError(f"{entry.name}: {sizes}")
    given: dict[str, Any] = {
        "schema": "spverify.kernel-input/v1",
        "entry": entry.mangled,
        "launch": {
            "grid_dim": [launch.blocks, 1, 1],
            "block_dim": [launch.threads, 1, 1],
            "cluster_dim": [launch.cluster, 1, 1],
            "dynamic_shared_bytes": launch.shared_bytes,
        },
        "assumptions": dict.fromkeys(ASSUMPTIONS, False),
        "declarations": [],
        "arguments": [],
    }
    for field in _given_fields(entry):
        place = {"parameter": entry.parameter, "offset": field.offset}
        value = int.from_bytes(launch.parameters[field.offset : field.offset + field.bytes], "little")
        if field.bytes == 8 and value >> 48 == MARK:
            tensor, distance = value >> 40 & 0xFF, value & 0xFFFFFFFFFF
            name = launch.names[tensor] + (f" from byte {distance}" if distance else "")
            given["declarations"].append({**place, "type": "pointer", "space": "global", "object": name})
        else:
            number = number_of(field.type, launch.parameters[field.offset : field.offset + field.bytes])
            given["arguments"].append({**place, "type": field.type, "value": number})
    return given


@cache
def _given_fields(entry: Entry) -> list[Field]:
    return largest(fields(entry))


def number_of(kind: str, data: bytes) -> int | float:
    """A field's bytes as its type says: u32, s64, f32."""
    if kind == "f32":
        return struct.unpack("<f", data)[0]
    return int.from_bytes(data, "little", signed=kind.startswith("s"))


def largest(given: list[Field]) -> list[Field]:
    """One field for every byte: where some overlap, the longest, and of equal ones the first."""
    kept: list[Field] = []
    for field in sorted(given, key=lambda field: (-field.bytes, field.offset, field.type)):
        if all(field.end <= other.offset or other.end <= field.offset for other in kept):
            kept.append(field)
    return sorted(kept, key=lambda field: field.offset)


def judged_text(entry: Entry, launch: Launch) -> str:
    """The entry's PTX in instructions that the prover knows, the same otherwise."""
    return without_bfi(entry.text if launch.cluster > 1 else without_messages(entry.text))


def without_messages(ptx: str) -> str:
    """`st.async`, which the prover knows between blocks alone, as one block does it: a store, then its count."""
    pattern = re.compile(r"st\.async\.shared::cluster\.mbarrier::complete_tx::bytes\.b(32|64) (\S+), (\S+), (\S+);")

    def stored(found: re.Match[str]) -> str:
        bits, to, x, counter = found.groups()
        count = f"mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 {counter}, {int(bits) // 8};"
        return f"st.shared::cluster.b{bits} {to}, {x};\n{count}"

    return pattern.sub(stored, ptx)


def without_bfi(ptx: str) -> str:
    """`bfi.b32 d, a, b, start, length`, which the prover doesn't know, as shifts and masks: the same bits."""
    registers = "".join(f".reg .b32 %inserted{i};\n" for i in range(2))
    pattern = re.compile(r"^(\s*)bfi\.b32 (%r\d+), (%r\d+|-?\d+), (%r\d+|-?\d+), (\d+), (\d+);", re.MULTILINE)

    def shifted(found: re.Match[str]) -> str:
        _, to, inserted, base, start, length = found.groups()
        mask = ((1 << int(length)) - 1) << int(start) & 0xFFFFFFFF
        return (
            f"shl.b32 %inserted0, {inserted}, {start};\n"
            f"and.b32 %inserted0, %inserted0, {mask};\n"
            f"and.b32 %inserted1, {base}, {mask ^ 0xFFFFFFFF};\n"
            f"or.b32 {to}, %inserted0, %inserted1;"
        )

    rewritten, count = pattern.subn(shifted, ptx)
    if "bfi." in rewritten:
        raise ValueError("a bfi of another form than bfi.b32 by constants")
    return re.sub(r"^\{\n", "{\n" + registers, rewritten, count=1, flags=re.MULTILINE) if count else ptx


def _reasons(report: dict[str, Any]) -> list[str]:
    return [
        f"{found.get('code', '')}: {found.get('message', '')}".strip(": ")
        for found in report.get("diagnostics", [])
        if found.get("code")
    ]
