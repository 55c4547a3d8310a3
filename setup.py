"""Builds the kernels: everything else about the package stands in pyproject.toml.

``pip install -e .`` calls CMake and ninja. Without a C++ compiler the install still succeeds, pure Python, and says so.

Environment: ``KVMEM_PURE_PYTHON=1`` builds no kernels; ``CXX`` names the compiler.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 11)


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
    ext_modules=[Extension("kvmem._kernels", sources=[], optional=False)],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
