"""Writes the project as Hugging Face's kernel-builder takes it: `python tools/kernel_package.py FOLDER`.

The builder wants the Python package in torch-ext/, imported by relative names, and the operators in a namespace that it
draws for each build: `_ops`, which it writes beside the package, knows which. kvmem/ is that package but for these.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE = ("build.toml", "README.md", "LICENSE")
# In the place of kvmem/library.py: the builder's module has loaded the extension when it is imported.
LIBRARY = '''"""The extension that kernel-builder built: the namespaces that operators are registered in."""

from pathlib import Path

import torch

from ._ops import add_op_namespace_prefix, ops

LIBRARY = Path(__file__).parent
AVAILABLE = True
COMPILED = add_op_namespace_prefix("kv_memory").split("::")[0]
TRITON = f"{COMPILED}_triton"
compiled, triton = ops, getattr(torch.ops, TRITON)


def load() -> None:
    """Nothing is left to load."""
'''


def relative(source: str, package: tuple[str, ...]) -> str:
    """A module's source with imports of kvmem's modules by relative names; package: its folders below kvmem."""

    def replaced(found: re.Match[str]) -> str:
        indent, path = found[1], tuple(filter(None, (found[2] or "").split(".")))
        inside = path[: len(package)] == package
        up = 1 if inside else 1 + len(package)
        return f"{indent}from {'.' * up}{'.'.join(path[len(package) :] if inside else path)} import "

    return re.sub(r"(?m)^( *)from kvmem((?:\.\w+)*) import ", replaced, source)


def write_package(folder: Path) -> None:
    """kvmem/ as torch-ext/kvmem of a folder."""
    for module in sorted((ROOT / "kvmem").rglob("*.py")):
        below = module.relative_to(ROOT / "kvmem")
        target = folder / "torch-ext" / "kvmem" / below
        target.parent.mkdir(parents=True, exist_ok=True)
        source = LIBRARY if below == Path("library.py") else relative(module.read_text(), below.parent.parts)
        target.write_text(source)
    shutil.copy(ROOT / "kvmem" / "py.typed", folder / "torch-ext" / "kvmem")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="is made; must not be there")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"folder: got {folder}, which is there already, expected one to be made")
    folder.mkdir(parents=True)
    for name in BESIDE:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "csrc", folder / "csrc", ignore=shutil.ignore_patterns("host*"))
    write_package(folder)


if __name__ == "__main__":
    main()
