"""The project as tools/kernel_package.py writes it for kernel-builder, whose own part is put beside it by hand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvmem.library import LIBRARY

ROOT = Path(__file__).parents[2]
tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
# As the builder writes it: loads the extension, and says which namespace the operators are in.
OPS = f"""
import torch

torch.ops.load_library({str(LIBRARY)!r})
ops = torch.ops.kvmem


def add_op_namespace_prefix(name):
    return f"kvmem::{{name}}"
"""
PROGRAM = """
import sys
import torch
import built_kernel as kernel
from built_kernel import library, ops

assert "kvmem" not in sys.modules and kernel.backends()["cpu"].available
torch.manual_seed(0)
layer = kernel.KVMemoryLayer(8, 5)
image, words = torch.randn(2, 8, 4, 5, requires_grad=True), torch.randn(2, 3, 5)
found = []
for layer.backend in ("cpu", "eager"):
    out, attention = layer(image, words, return_attention=True)
    loss = out.sum() + attention.square().sum()
    found.append([out, attention, *torch.autograd.grad(loss, [image, *layer.parameters()])])
for mine, theirs in zip(*found, strict=True):
    torch.testing.assert_close(mine, theirs)
keys = torch.randn(3, 8)
torch.testing.assert_close(
    kernel.memory_read(image, keys, keys, backend="cpu"), kernel.memory_read(image, keys, keys, backend="eager")
)
compiled = torch.compile(kernel.KVMemoryLayer(8, 5, backend="cpu"), backend="aot_eager", fullgraph=True)
assert compiled(image, words).shape == image.shape
import built_kernel.triton.launch, built_kernel.triton.read_launch
assert not any(name == "kvmem" or name.startswith("kvmem.") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kernel") / "project"
    subprocess.run([sys.executable, ROOT / "tools" / "kernel_package.py", folder], check=True)
    return folder


def test_the_builder_finds_what_it_looks_for(package):
    """All files that build.toml names, and a package without any import by kvmem's own name."""
    described = tomllib.loads((package / "build.toml").read_text())
    for part in (described["torch"], *described["kernel"].values()):
        assert all((package / name).is_file() for name in part["src"])
    modules = sorted((package / "torch-ext" / "kvmem").rglob("*.py"))
    assert {module.name for module in modules} >= {"__init__.py", "layer.py", "launch.py"}
    for module in modules:
        assert not re.search(r"(?m)^\s*(from|import) kvmem|torch\.ops\.kvmem", module.read_text()), module


def test_the_package_runs_beside_no_other(package, extension, tmp_path):
    """Under another name, in a process without kvmem: forward, backward, compiled, and Triton's modules."""
    shutil.copytree(package / "torch-ext" / "kvmem", tmp_path / "built_kernel")
    (tmp_path / "built_kernel" / "_ops.py").write_text(OPS)
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    command = [sys.executable, ROOT / "tools" / "kernel_package.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "expected one to be made" in done.stderr and not list(tmp_path.iterdir())
