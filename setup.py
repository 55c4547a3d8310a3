"""Builds the kernels: everything else about the package stands in pyproject.toml.

``pip install -e .`` calls CMake and ninja. Without a C++ compiler the install still succeeds, pure Python, and says so;
without nvcc, or where torch is built without CUDA, it has the CPU kernels alone.

Environment: ``KVMEM_PURE_PYTHON=1`` builds no kernels; ``CXX`` names the compiler. ``KVMEM_CUDA=0`` builds no CUDA
kernels, ``KVMEM_CUDA=1`` insists on them; ``KVMEM_CUDA_ARCHS`` lists their compute capabilities (default "80;90");
``CUDACXX`` names nvcc, which is otherwise looked for in ``CUDA_HOME``, on the ``PATH`` and in ``/usr/local/cuda``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 11)
OLDEST_NVCC = (12, 1)  # the first with st.async, by which blocks of a cluster send each other numbers
DEFAULT_CUDA_ARCHS = "80;90"
# What the library is built from: an sdist takes these along, and nothing else outside the packages.
SOURCES = ["CMakeLists.txt", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*") if path.is_file())]


def say(message: str) -> None:
    """Print to the build's log, which pip shows with -v; `kvmem.backends()` says the same afterwards."""
    print(f"kvmem: {message}", file=sys.stderr, flush=True)


def compiler() -> str | None:
    """The C++ compiler that CMake would find, or None."""
    named = os.environ.get("CXX")
    if named:
        return shutil.which(named.split()[0])
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def torch_folders() -> tuple[list[str], list[str]]:
    """Include and library folders of the torch to build against.

    Raises:
        RuntimeError: torch is older than the stable ABI that the kernels use.
    """
    import torch
    from torch.utils import cpp_extension

    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if found < OLDEST_TORCH:
        raise RuntimeError(
            f"kvmem needs torch {'.'.join(map(str, OLDEST_TORCH))} or later to build, found {torch.__version__}: "
            "upgrade torch, or install with build isolation (without --no-build-isolation)"
        )
    return cpp_extension.include_paths(), cpp_extension.library_paths()


def find_nvcc() -> str | None:
    """The CUDA compiler to use, or None."""
    named = os.environ.get("CUDACXX")
    if named:
        return shutil.which(named)
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [*(str(Path(home, "bin", "nvcc")) for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def output_of(*command: str) -> str:
    """What a program prints, which must succeed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cuda_archs(nvcc: str) -> list[str]:
    """The compute capabilities to build for, as "80", smallest first: those asked for that nvcc can compile for.

    Raises:
        RuntimeError: nvcc is too old, can't work with the C++ compiler, or knows none of the capabilities.
    """
    version = ".".join(re.search(r"release (\d+)\.(\d+)", output_of(nvcc, "--version")).groups())
    if tuple(map(int, version.split("."))) < OLDEST_NVCC:
        oldest = ".".join(map(str, OLDEST_NVCC))
        raise RuntimeError(f"{nvcc} is of CUDA {version}, the kernels need CUDA {oldest} or later")
    asked = os.environ.get("KVMEM_CUDA_ARCHS") or DEFAULT_CUDA_ARCHS
    archs = re.split(r"[;,\s]+", asked.strip())
    if not all(arch.isdigit() and int(arch) >= 80 for arch in archs):
        raise RuntimeError(f"KVMEM_CUDA_ARCHS: got {asked!r}, expected compute capabilities from 80 on, as in '80;90'")
    listed = output_of(nvcc, "--list-gpu-arch").split()
    known = sorted({arch for arch in archs if f"compute_{arch}" in listed}, key=int)
    for arch in set(archs) - set(known):
        say(f"{nvcc} of CUDA {version} can't compile for sm_{arch}, which is left out")
    if not known:
        raise RuntimeError(f"{nvcc} of CUDA {version} can compile for none of {asked!r}")
    try_nvcc(nvcc, known[-1])
    return known


def try_nvcc(nvcc: str, arch: str) -> None:
    """Compile an empty kernel: nvcc refuses C++ compilers that are newer than it knows.

    Raises:
        RuntimeError: it doesn't compile; the message ends in nvcc's own.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "probe.cu"), Path(folder, "probe.o")
        source.write_text("#include <cuda_runtime.h>\n__global__ void probe() {}\n")
        options = ["-std=c++20", f"-arch=sm_{arch}", "-ccbin", compiler(), "-c", source, "-o", target]
        done = subprocess.run([nvcc, *options], capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise RuntimeError(f"{nvcc} can't compile for sm_{arch} with {compiler()}: {' '.join(lines[:3])}")


def cuda_options() -> list[str]:
    """CMake's options for the CUDA kernels: for none where they aren't wanted, or can't be and weren't insisted on.

    Raises:
        RuntimeError: KVMEM_CUDA=1, and they can't be built; or KVMEM_CUDA has another value than 0 and 1.
    """
    import torch

    wanted = os.environ.get("KVMEM_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise RuntimeError(f"KVMEM_CUDA: got {wanted!r}, expected 0 (no CUDA kernels) or 1 (insist on them)")
    try:
        if wanted == "0":
            raise RuntimeError("KVMEM_CUDA=0")
        if wanted != "1" and torch.version.cuda is None:
            raise RuntimeError(f"torch {torch.__version__} is built without CUDA; KVMEM_CUDA=1 builds them nonetheless")
        nvcc = find_nvcc()
        if nvcc is None:
            raise RuntimeError("no nvcc found by CUDACXX, in CUDA_HOME, on the PATH and in /usr/local/cuda")
        archs = cuda_archs(nvcc)
    except RuntimeError as reason:
        if wanted == "1":
            raise RuntimeError(f"KVMEM_CUDA=1, but the CUDA kernels can't be built: {reason}") from reason
        say(f"no CUDA kernels are built: {reason}")
        # Said, not left out: CMake would remember an earlier answer.
        return ["-DKVMEM_CUDA_ARCHS="]
    say(f"CUDA kernels for {', '.join(archs)} by {nvcc}")
    return [
        f"-DKVMEM_CUDA_ARCHS={';'.join(archs)}",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DCMAKE_CUDA_HOST_COMPILER={compiler()}",
    ]


class CMakeBuild(build_ext):
    """Builds kvmem/_kernels.so by CMake."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's plain name: it isn't a Python module, so it carries no Python version."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, extension: Extension) -> None:
        """Configure and build, then put the library beside the package's Python files."""
        if os.environ.get("KVMEM_PURE_PYTHON") == "1":
            say("KVMEM_PURE_PYTHON=1: no kernels are built, the layer runs as plain PyTorch (backend 'eager')")
            return
        if compiler() is None:
            say("no C++ compiler found: no kernels are built, the layer runs as plain PyTorch (backend 'eager')")
            return
        include, libraries = torch_folders()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DKVMEM_TORCH_INCLUDE={';'.join(include)}",
            f"-DKVMEM_TORCH_LIBRARIES={';'.join(libraries)}",
            *cuda_options(),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A process that has the old library mapped keeps its own copy: replace the file, never write into it.
        temporary = target.with_suffix(".tmp")
        shutil.copyfile(build / target.name, temporary)
        temporary.replace(target)

    def get_outputs(self) -> list[str]:
        """Only what was built: a pure-Python install has no library."""
        return [path for path in super().get_outputs() if Path(path).exists()]


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel for every Python 3 of the platform: the library links against torch, not against Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """``py3-none-<platform>``."""
        return "py3", "none", super().get_tag()[2]


setup(
    # Optional: an editable install would else copy a library that wasn't built. What fails to build still fails.
    ext_modules=[Extension("kvmem._kernels", sources=[], depends=SOURCES, optional=True)],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
