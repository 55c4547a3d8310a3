"""tools/gpu_check.sh, with programs in place of Python, nvidia-smi and so on that write down how they are called."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_check.sh"
# Fails where it is to import kvmem and `broken` is there: a library that can't run.
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case "$*" in *"import kvmem"*) [ ! -e broken ] ;; *run.py*json*) eval "touch \\"\\${$#}\\"" ;; esac
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Runs steps in a tree with no more than what the script looks at; gives the exit codes and the calls."""
    root, programs, calls = tmp_path / "tree", tmp_path / "programs", tmp_path / "calls"
    for folder in ("tools", "kvmem", "csrc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(SCRIPT, root / "tools")
    for source in ("csrc/a.cu", "CMakeLists.txt", "setup.py"):
        (root / source).touch()
    programs.mkdir()
    for name in ("python", "nvidia-smi", "nvcc", "compute-sanitizer"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("KVMEM_CHECK_PYTHON", "python")

    def run(*arguments):
        calls.write_text("")
        subprocess.run(["bash", root / "tools" / "gpu_check.sh", tmp_path / "out", *arguments], timeout=60)
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        return {step["step"]: step["exit"] for step in summary["steps"]}, calls.read_text()

    run.root = root
    return run


def test_the_benchmarks_come_right_after_the_build(check):
    steps, calls = check()
    assert list(steps)[:2] == ["build", "benchmarks"] and set(steps.values()) == {0}
    lines = calls.splitlines()
    measured = next(i for i, line in enumerate(lines) if "benchmarks/run.py" in line)
    assert "tools/gpu_model.py --beside" in lines[measured + 1]


def test_a_library_is_built_where_it_is_missing_or_stale_or_cannot_run(check):
    library = check.root / "kvmem" / "_kernels.so"
    assert "pip install" in check("build")[1]
    library.touch()
    assert "pip install" not in check("build")[1]
    os.utime(library, (0, 0))
    assert "pip install" in check("build")[1]
    library.touch()
    (check.root / "broken").touch()
    steps, calls = check("build")
    assert "pip install" in calls and steps == {"build": 1}


def test_a_library_from_elsewhere_is_put_in_its_place(check, tmp_path):
    (tmp_path / "built.so").write_text("library")
    os.utime(tmp_path / "built.so", (0, 0))
    steps, calls = check("--library", tmp_path / "built.so", "build")
    assert (check.root / "kvmem" / "_kernels.so").read_text() == "library"
    assert steps == {"build": 0} and "pip install" not in calls


def test_the_sanitizer_runs_one_kind_of_kernels_at_a_time(check):
    steps, calls = check("memcheck", "racecheck_triton")
    assert set(steps) == {"memcheck", "racecheck_triton"}
    lines = [line for line in calls.splitlines() if line.startswith("compute-sanitizer")]
    tools, kinds = zip(*((line.split()[2], line.split()[-1]) for line in lines), strict=True)
    assert (tools, kinds) == (("memcheck", "racecheck"), ("cuda", "triton"))
