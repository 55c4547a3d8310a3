"""The wheel and the sdist carry what lies in ``kvmgan/pretrained``, whatever that is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODEL = {"pipeline.json", "weights.safetensors", "vocabulary.json", "metrics.json"}


def test_wheel_and_sdist_hold_the_shipped_model(tmp_path):
    """Of a copy of the project with a model of a few bytes in it."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "CMakeLists.txt"):
        shutil.copy(ROOT / name, project)
    for name in ("kvmem", "kvmgan"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "pretrained"))
    model = project / "kvmgan" / "pretrained" / "birds"
    model.mkdir(parents=True)
    for name in MODEL:
        (model / name).write_text(name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(project)]
    environment = {**os.environ, "KVMEM_PURE_PYTHON": "1"}
    done = subprocess.run(build, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        points = next(wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {f"kvmgan/pretrained/birds/{name}" for name in MODEL} <= names
    assert "kvmgan = kvmgan.__main__:main" in points
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as sdist:
        kept = {name.partition("/")[2] for name in sdist.getnames()}
    assert {f"kvmgan/pretrained/birds/{name}" for name in MODEL} <= kept
