"""A checkout of kvmem to build and install from, and an environment of Python to install it into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("csrc", "kvmem", "CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def copy_checkout(folder: Path) -> Path:
    """Puts the files that a build needs into a new folder, without anything built."""
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


def new_environment(folder: Path) -> Path:
    """A virtual environment with this one's packages, except kvmem and those installed by a path; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    # Links, and no .pth file: pyright would follow that to the .pth files there, and so to the kvmem installed here.
    for here in {sysconfig.get_path(name) for name in ("purelib", "platlib")}:
        for entry in Path(here).iterdir():
            if entry.suffix != ".pth" and not entry.name.startswith(("kvmem", "kvmgan")):
                (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def install_editable(checkout: Path, python: Path, **environment: str) -> None:
    """`pip install -e` of a checkout into an environment of `new_environment`."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    command += ["--no-build-isolation", "--force-reinstall", "-e", str(checkout)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
