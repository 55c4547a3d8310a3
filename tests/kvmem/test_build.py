"""The build: the wheel, and installs without a compiler, against an old torch, and on request without kernels."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SOURCES = ("csrc", "kvmem", "CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that a build needs, without anything built."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "kvmgan").mkdir()
    (folder / "kvmgan" / "__init__.py").touch()
    return folder


def build(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds a wheel into checkout/dist with what is installed here."""
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command, cwd=checkout, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True
    )


def wheel(checkout: Path) -> Path:
    return next((checkout / "dist").glob("*.whl"))


def test_one_wheel_serves_every_python_3(checkout: Path) -> None:
    """The wheel is tagged for any Python 3 of this platform; the library links no Python and knows no folder."""
    done = build(checkout)
    assert done.returncode == 0, done.stderr
    name = wheel(checkout).name
    assert "-py3-none-" in name and not name.endswith("-any.whl")
    with zipfile.ZipFile(wheel(checkout)) as archive:
        assert "kvmem/_kernels.so" in archive.namelist()
        library = archive.read("kvmem/_kernels.so")
    assert str(Path(torch.__file__).parent).encode() not in library
    assert b"libtorch_cpu.so" in library and b"libpython" not in library and b"libtorch_python" not in library


@pytest.mark.parametrize("environment", [{"CXX": "no-such-compiler"}, {"KVMEM_PURE_PYTHON": "1"}])
def test_without_kernels_the_install_succeeds_and_says_so(checkout: Path, environment: dict[str, str]) -> None:
    """No compiler, or none wanted: a pure-Python wheel, the reason in the build's output, and a layer that runs."""
    done = build(checkout, **environment)
    assert done.returncode == 0, done.stderr
    assert "no kernels are built" in done.stdout + done.stderr
    with zipfile.ZipFile(wheel(checkout)) as archive:
        assert "kvmem/_kernels.so" not in archive.namelist()
        archive.extractall(checkout / "installed")
    program = (
        "import kvmem, torch; print(kvmem.backends()['cpu']); "
        "kvmem.KVMemoryLayer(4, 3)(torch.ones(1, 4, 2, 2), torch.ones(1, 2, 3))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(checkout / "installed")},
        cwd=checkout / "installed",
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "not available" in ran.stdout and "_kernels.so is missing" in ran.stdout


def test_an_old_torch_is_refused_by_the_build(checkout: Path, tmp_path: Path) -> None:
    """Building against a torch before the stable ABI stops with a line that names both versions."""
    old = tmp_path / "old" / "torch"
    (old / "utils").mkdir(parents=True)
    (old / "__init__.py").write_text('__version__ = "2.10.1+cpu"\n')
    (old / "utils" / "__init__.py").touch()
    (old / "utils" / "cpp_extension.py").touch()
    done = build(checkout, PYTHONPATH=str(old.parent))
    assert done.returncode != 0
    assert "kvmem needs torch 2.11 or later to build, found 2.10.1+cpu" in done.stdout + done.stderr
