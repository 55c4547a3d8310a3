"""A tiny model on a few procedural birds, commands in this process, how Triton's kernels run here, a fresh compiler."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Where several processes run the tests (pytest -n), threads that wait for one another on a core that isn't theirs make
# everything several times slower: they are to sleep meanwhile, which OpenMP is told before torch loads it, and each
# process has its share of the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

# Triton reads it when a kernel is defined, which is before any fixture. Without a GPU its interpreter runs the kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What was started in the background or by nohup ignores these, and so would the trainings that tests interrupt.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the proofs that ran, of all processes."""
    reports = [report for group in ("passed", "failed") for report in terminalreporter.getreports(group)]
    properties = [found for report in reports for found in report.user_properties]
    if not properties:
        return
    from prove_kernels import HEADER, PROOF_ROW

    rows = sorted(row for name, row in properties if name == PROOF_ROW)
    terminalreporter.write_line("\n".join([HEADER, *rows]))


TINY = """
--data.birds.classes 12 --data.birds.test-classes 4 --data.birds.images-per-class 6 --data.birds.captions-per-image 2
--data.birds.image-size 40 --model.base-size 16 --model.stages 2 --model.width 4 --model.noise-dim 8
--model.condition-dim 8 --discriminator.width 4 --damsm.width 4 --damsm.word-dim 8 --damsm.embedding-dim 8
--damsm.epochs 1 --damsm.batch-size 8 --classifier.steps 2 --classifier.width 4 --classifier.batch-size 8
--training.batch-size 4 --training.sample-count 4 --training.log-interval 5 --training.device cpu
--training.threads 1 --training.precision float32 --evaluation.images 24 --evaluation.candidates 8 --evaluation.folds 3
"""


@pytest.fixture(scope="session")
def tiny_arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Command-line words of a training that takes seconds; all tests share its cache folder."""
    return [*TINY.split(), "--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="session")
def tiny_run(tiny_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps with two checkpoints; tests must not change it."""
    from kvmgan.train import main

    runs = tmp_path_factory.mktemp("tiny") / "runs"
    steps = ["--training.steps", "6", "--training.checkpoint-interval", "3", "--training.sample-interval", "3"]
    assert main([*tiny_arguments, *steps, "--runs-dir", str(runs)]) == 0
    return next(runs.iterdir())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are slowed down by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def subprocess_environment() -> dict[str, str]:
    """Environment in which ``python -m kvmgan.train`` finds this package, on one thread."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def python() -> str:
    """The interpreter that runs the tests."""
    return sys.executable


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled before, in this process or on disk, where an operator of an earlier schema may be cached."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    yield
    torch.compiler.reset()
