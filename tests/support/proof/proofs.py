"""The library's PTX, and the launches of a call by the kernels' own launch code compiled for the host."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import simt_build
from prover import Launch, described
from ptx_entries import Entry, read_entries, short_name

import kvmem

ARCHITECTURE = "sm_90"


@lru_cache
def entries() -> dict[str, Entry]:
    """Every kernel of the built library for ARCHITECTURE by its name; the same one in two files counts once."""
    library = Path(kvmem.__file__).with_name("_kernels.so")
    return {entry.name: entry for entry in read_entries(library, ARCHITECTURE)}


@lru_cache
def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kvmem_launches", simt_build.build("kvmem_launches"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launches(call: dict[str, Any]) -> list[Launch]:
    """What the call launches on a device with its block_shared and largest_cluster, in order."""
    module = recorder()
    module.set_device(call["block_shared"], call["largest_cluster"])
    recorded, names = module.record(call["direction"], call)
    return [Launch(**{**launch, "kernel": short_name(launch["kernel"])}, names=tuple(names)) for launch in recorded]


def launches_of(kernel: str, call: dict[str, Any]) -> list[Launch]:
    """Those of a kernel template in a call: more than one where its steps are launches."""
    return [launch for launch in launches(call) if launch.kernel.startswith(f"{kernel}<")]


def launch_of(kernel: str, call: dict[str, Any]) -> Launch:
    """The one launch of a kernel template in a call."""
    (found,) = launches_of(kernel, call)
    return found


def objects(entry: Entry, launch: Launch, tensor: str) -> list[str]:
    """The pieces of a tensor that the launch is given, by the prover's names."""
    given = described(entry, launch)["declarations"]
    return sorted({found["object"] for found in given if found["object"].split(" from byte ")[0] == tensor})
