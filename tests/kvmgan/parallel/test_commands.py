"""The commands under torchrun: two processes over gloo train, go on, are judged and fail as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniature_data import MINIATURES

from kvmgan.data.__main__ import main as shard
from kvmgan.errors import UserError
from kvmgan.evaluate import main as evaluate
from kvmgan.parallel.processes import check_shares, joined
from kvmgan.storage.tensor_file import load_tensors
from kvmgan.train import main as train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def start(subprocess_environment) -> Callable[..., subprocess.Popen]:
    """Starts a command of the package in two processes."""

    def begin(module: str, *words: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*TORCHRUN, "-m", module, *words],
            env=subprocess_environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begin


@pytest.fixture
def together(start) -> Callable[..., tuple[int, str]]:
    """Runs a command in two processes; returns its status and all that it printed."""

    def run(module: str, *words: str, **environment: str) -> tuple[int, str]:
        process = start(module, *words, **environment)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    return run


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def stats_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def test_a_run_of_two_processes_is_that_of_one(together, tiny_arguments, tmp_path):
    """From pretraining to the metrics, in a cache of its own each; what is printed and written once is there once."""
    words = [*tiny_arguments[:-2], "--training.steps", "5", "--training.log-interval", "1"]
    alone, pair = (["--cache-dir", str(tmp_path / f"{n}-cache"), "--runs-dir", str(tmp_path / n)] for n in "12")
    assert train([*words, *alone]) == 0
    status, output = together("kvmgan.train", *words, *pair)
    assert status == 0, output
    assert output.count("run folder: ") == output.count("attributes %") == 1 and "2 processes, cpu" in output
    (one,), (two,) = (list((tmp_path / n).iterdir()) for n in "12")
    for mine, theirs in zip(stats_of(two), stats_of(one), strict=True):
        for name in theirs.keys() - {"time", "images_per_second"}:
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-4), (name, mine["step"])
    for mine, theirs in zip(rows_of(two), rows_of(one), strict=True):
        assert (mine["metric"], mine["subject"]) == (theirs["metric"], theirs["subject"])
    found = load_tensors(two / "checkpoints" / "step-000005" / "generator.safetensors")
    for name, value in load_tensors(one / "checkpoints" / "step-000005" / "generator.safetensors").items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=2e-3, msg=name)


def test_shards_are_shared_by_two_processes(together, tiny_arguments, tmp_path):
    """Each streams its own, with a worker process; the losses are those of one process without."""
    (tmp_path / "source").mkdir()
    MINIATURES["cub"](tmp_path / "source")
    assert shard(["shard", str(tmp_path / "source"), str(tmp_path / "data"), "--samples", "3"]) == 0
    words = [*tiny_arguments, "--data.root", str(tmp_path / "data"), "--data.lanes", "2", "--data.shuffle-window", "3"]
    words += ["--training.steps", "5", "--training.log-interval", "1", "--damsm.epochs", "1"]
    assert train([*words, "--runs-dir", str(tmp_path / "1")]) == 0
    status, output = together("kvmgan.train", *words, "--data.workers", "1", "--runs-dir", str(tmp_path / "2"))
    assert status == 0, output
    one, two = (stats_of(next((tmp_path / n).iterdir())) for n in "12")
    for mine, theirs in zip(two, one, strict=True):
        for name in theirs.keys() - {"time", "images_per_second"}:
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-4), (name, mine["step"])


def test_metrics_of_two_processes_are_those_of_one(together, tiny_run, tiny_arguments, tmp_path):
    """13 pictures and 12 draws, shared by two: unequal shares, too."""
    few = ["--diversity-captions", "3", "--diversity-draws", "4", "--protocol", "damsm", "--device", "cpu"]
    before = len(rows_of(tiny_run))
    words = [str(tiny_run), *few, "--images", "13", *tiny_arguments[-2:]]
    assert evaluate(words) == 0
    one = rows_of(tiny_run)[before:]
    status, output = together("kvmgan.evaluate", *words)
    assert status == 0, output
    two = rows_of(tiny_run)[before + len(one) :]
    assert len(one) == len(two) > 6
    for mine, theirs in zip(two, one, strict=True):
        assert mine["value"] == pytest.approx(theirs["value"], rel=1e-4, abs=1e-6), theirs["metric"]
        assert mine["protocol"] == theirs["protocol"]


def test_another_number_of_processes_goes_on_where_one_was_stopped(start, tiny_arguments, tmp_path):
    """SIGTERM to the launcher: both stop after the same step with a checkpoint; one process goes on to the end."""
    runs = ["--runs-dir", str(tmp_path)]
    process = start("kvmgan.train", *tiny_arguments, *runs, "--training.steps", "100000")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/stats.jsonl")) or not stats_of(next(tmp_path.iterdir()))[-1].get("g"):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    (run,) = tmp_path.iterdir()
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert f"continue with --resume {run}" in output
    step = int(checkpoint.name.removeprefix("step-"))
    words = ["--resume", str(run), "--training.steps", str(step + 2), *tiny_arguments[-2:]]
    assert train([*words, "--runs-dir", str(tmp_path)]) == 0
    assert stats_of(run)[-1]["step"] == step + 2


FAILURES = {
    "error": ("raise UserError('the disk of rank 1 is on fire')", "error: the disk of rank 1 is on fire"),
    "bug": ("raise ZeroDivisionError('rank 1 divides by zero')", "ZeroDivisionError: rank 1 divides by zero"),
    "SIGKILL": ("os.kill(os.getpid(), 9)", "Signal 9 (SIGKILL)"),
    "NaN": ("next(self.encoders.image.parameters()).data.fill_(float('nan'))", "error: training diverged"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_process_that_fails_ends_all(together, tiny_arguments, tmp_path, kind):
    """Within a minute, with a status that isn't 0; the launcher's report ends in the cause, of the right process."""
    failure, message = FAILURES[kind]
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import os
if os.environ.get("RANK") == "1":
    import kvmgan.training.step as step
    from kvmgan.errors import UserError
    def fail(self, state, batch):
        if state.step == 2:
            {failure}
        return call(self, state, batch)
    call = step.TrainingStep.__call__
    step.TrainingStep.__call__ = fail
"""
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    began = time.monotonic()
    words = [*tiny_arguments, "--training.steps", "100000", "--training.skip-limit", "3"]
    status, output = together("kvmgan.train", *words, "--runs-dir", str(tmp_path / "runs"), PYTHONPATH=path)
    assert status != 0 and time.monotonic() - began < 60
    cause = output.split("Root Cause")[-1]
    # Steps with a NaN are skipped by all: so many in a row are everyone's failure.
    assert message in cause and ("(local_rank: 1)" in cause or kind == "NaN"), output


def test_two_machines_are_started_again_and_go_on(subprocess_environment, tiny_arguments, tmp_path):
    """Two launchers, joined by torchrun's rendezvous; after a SIGKILL the same command resumes its own run."""
    (tmp_path / "sitecustomize.py").write_text(
        """
import os
if os.environ.get("RANK") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    import kvmgan.training.step as step
    def fail(self, state, batch):
        if state.step == 7:
            os.kill(os.getpid(), 9)
        return call(self, state, batch)
    call = step.TrainingStep.__call__
    step.TrainingStep.__call__ = fail
"""
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    launcher = [*TORCHRUN[:3], "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "1"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--rdzv-id", "job-7"]
    words = [*tiny_arguments, "--training.steps", "9", "--training.checkpoint-interval", "4", "--preset", "birds-tiny"]
    words += ["--training.log-interval", "1", "--runs-dir", str(tmp_path / "runs")]
    path = os.pathsep.join([str(tmp_path), subprocess_environment["PYTHONPATH"]])
    machines = [
        subprocess.Popen(
            [*launcher, "-m", "kvmgan.train", *words],
            env=subprocess_environment | {"PYTHONPATH": path, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(outputs)
    (run,) = (tmp_path / "runs").iterdir()
    output = "".join(outputs)
    assert f"started again: {run} goes on with its settings" in output and "resumed at step 4" in output
    assert [line["step"] for line in stats_of(run) if "g" in line] == list(range(1, 10))


def test_restarts_that_could_not_join_are_refused(monkeypatch):
    """Before the first start: they would come up against the addresses of lost processes, or wait for ever."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with (
        pytest.raises(UserError, match=r"--max-restarts 3 .* set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
        joined(torch.device("cpu")),
    ):
        pass


def test_a_batch_that_cannot_be_shared_is_refused_before_pretraining(together, tiny_arguments, tmp_path):
    words = ["--training.batch-size", "5", "--runs-dir", str(tmp_path)]
    status, output = together("kvmgan.train", *tiny_arguments, *words)
    assert status != 0 and "damsm 1/" not in output
    assert "error: --training.batch-size is 5, which 2 processes can't share equally: take a multiple of 2" in output


@pytest.mark.parametrize(("batch", "parts", "refused"), [(8, 1, False), (8, 4, False), (6, 1, False), (6, 2, True)])
def test_every_part_of_a_batch_must_be_shared(monkeypatch, batch, parts, refused):
    monkeypatch.setenv("WORLD_SIZE", "2")
    if refused:
        with pytest.raises(UserError, match="--x is 6, which 2 processes of 2 parts each can't share equally"):
            check_shares("--x", batch, parts)
    else:
        check_shares("--x", batch, parts)
