"""Builds the extension modules of tests/simt with g++ or clang, object by object, and keeps what hasn't changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
FOLDER = ROOT / "build" / "simt"
# Products and sums are rounded one by one on every machine; variables that a kernel forgot to set hold a huge number
# instead of what happens to be there.
FLAGS = ["-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
FLAGS += ["-ffp-contract=off", "-ftrivial-auto-var-init=pattern"]
# Optimized, sanitized code takes far longer to compile than the tests take to run it.
SANITIZE = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"]
ENGINE_PARTS = ("engine", "fiber", "launch", "matrix", "memory", "messages", "published")
ENGINE = [CSRC / "simt" / f"host_{name}.cpp" for name in ENGINE_PARTS]
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))
# Of the module whose launches are recorded, not run: its parameter structs are the device's, and nothing need be fast.
RECORD = ["-O0", "-g0", "-DKVMEM_RECORDED_LAUNCHES"]
MODULES = {
    "engine_kernels": [*ENGINE, ROOT / "tests" / "simt" / "engine_kernels.cpp"],
    "kvmem_simt": [*ENGINE, *(CSRC / "simt" / name for name in ("host_module.cpp", "host_plan.cpp")), *KERNELS],
    "kvmem_launches": [*ENGINE, ROOT / "tests" / "proof" / "launches.cpp", *KERNELS],
}


def compiler() -> str | None:
    """The C++ compiler's path, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def sanitizer_libraries() -> list[str]:
    """The runtime libraries that a sanitized module needs loaded before it; empty where the compiler has none."""
    found = [
        subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return found if all(Path(path).is_absolute() for path in found) else []


def build(module: str, sanitize: bool = False) -> Path:
    """The module's library, after compiling what isn't up to date. Raises RuntimeError with the compiler's words."""
    import pybind11

    recorded = module == "kvmem_launches"
    flags = [*FLAGS, *(SANITIZE if sanitize else []), *(RECORD if recorded else [])]
    includes = [f"-I{CSRC}", f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_paths()['include']}"]
    folder = FOLDER / ("recorded" if recorded else "sanitized" if sanitize else "plain")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        common = _digest(*flags, _output([compiler(), "--version"]), pybind11.__version__, *_headers())

        def compile_object(source: Path) -> tuple[Path, str]:
            target = folder / f"{source.stem}.o"
            key = _digest(common, source.read_text())
            _make(target, key, [compiler(), "-x", "c++", *flags, *includes, "-c", str(source), "-o"])
            return target, key

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_object, MODULES[module]))
        library = folder / f"{module}{sysconfig.get_config_var('EXT_SUFFIX')}"
        link = [compiler(), *flags, "-shared", *(str(target) for target, _ in objects), "-o"]
        _make(library, _digest(*(key for _, key in objects)), link)
    return library


def _headers() -> list[str]:
    return [path.read_text() for suffix in ("h", "cuh") for path in sorted(CSRC.glob(f"[cs]*/**/*.{suffix}"))] + [
        (CSRC / "kv_memory.h").read_text()
    ]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _make(target: Path, key: str, command: list[str]) -> None:
    """Runs command + [target] unless it was last made with the same key."""
    record = target.with_name(target.name + ".key")
    if target.exists() and record.exists() and record.read_text() == key:
        return
    unfinished = target.with_name(target.name + ".tmp")
    done = subprocess.run([*command, str(unfinished)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    unfinished.replace(target)
    record.write_text(key)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build in a folder at a time, also among processes."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
