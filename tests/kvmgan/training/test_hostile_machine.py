"""A machine that fails a run: disks and shared memory that are full, workers, terminals and pipes that go, clocks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmgan.data.batches import BatchStream
from kvmgan.errors import UserError
from kvmgan.report import main as report
from kvmgan.train import main

OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture
def on_small_disk(tmp_path: Path, subprocess_environment: dict[str, str]) -> Callable[[str], str]:
    """Runs a shell script where $DISK is a disk of 8 MiB and /dev/shm has 64 KiB; returns all that it printed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts = f"mount -t tmpfs -o size=8m tmpfs {disk} && mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*OWN_MOUNTS, "sh", "-c", mounts]).returncode:
        pytest.skip("this system lets no process have mounts of its own")

    def run(script: str) -> str:
        environment = subprocess_environment | {"DISK": str(disk), "TRAIN": f"{sys.executable} -m kvmgan.train"}
        command = [*OWN_MOUNTS, "sh", "-c", f"{mounts}\n{script}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        process = subprocess.Popen(command, env=environment, **pipes)
        try:
            output, error = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            # What waits for ever is not the shell but what it has started.
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return output + error

    return run


def test_a_disk_that_is_really_full(on_small_disk, tiny_arguments, tmp_path):
    """Whatever is written first says so in one line; nothing temporary stays; with room again the run goes on."""
    words = " ".join([*tiny_arguments, "--training.steps", "6", "--training.checkpoint-interval", "3"])
    output = on_small_disk(
        f"""
        $TRAIN {words} --runs-dir $DISK/runs > /dev/null; echo "first: $?"
        run=$(echo $DISK/runs/*)
        resume="$TRAIN --resume $run --training.steps 9 {" ".join(tiny_arguments[-2:])}"
        for left in 4 300; do
            head -c $(( ($(df --output=avail -k $DISK | tail -1) - left) * 1024 )) /dev/zero > $DISK/filler
            $resume > /dev/null 2> {tmp_path}/error; echo "full: $? $(wc -l < {tmp_path}/error) $(cat {tmp_path}/error)"
            rm $DISK/filler
            echo "temporary: $(find $DISK -name '.tmp-*' | wc -l)"
            echo "checkpoints: $(ls $run/checkpoints | tr '\\n' ' ')"
        done
        $resume > /dev/null; echo "last: $? $(ls $run/checkpoints | tail -1)"
        """
    )
    lines = output.splitlines()
    assert lines[0] == "first: 0" and lines[-1] == "last: 0 step-000009", output
    full = [line for line in lines if line.startswith("full: ")]
    assert len(full) == 2 and all(line.startswith("full: 2 1 error: ") and "No space left" in line for line in full)
    assert [line for line in lines if line.startswith("temporary")] == ["temporary: 0"] * 2
    kept = [line for line in lines if line.startswith("checkpoints")]
    assert all("step-000003 step-000006" in line for line in kept), output


def test_a_disk_that_is_full_from_the_start(on_small_disk, tiny_arguments, tmp_path):
    """Drawing, pretraining and the classifier fill it at one place or another: one line each, nothing temporary."""
    words = " ".join([*tiny_arguments[:-2], "--training.steps", "1"])
    output = on_small_disk(
        f"""
        for left in 690 880; do
            head -c $(( (8192 - left) * 1024 )) /dev/zero > $DISK/filler
            $TRAIN {words} --cache-dir $DISK/cache --runs-dir $DISK/runs > /dev/null 2> {tmp_path}/error
            echo "full: $? $(wc -l < {tmp_path}/error) $(cat {tmp_path}/error)"
            echo "temporary: $(find $DISK -name '.tmp-*' | wc -l)"
            rm -r $DISK/*
        done
        """
    )
    full = [line for line in output.splitlines() if line.startswith("full: ")]
    assert len(full) == 2 and all(line.startswith("full: 2 1 error: ") and "No space left" in line for line in full)
    assert output.count("temporary: 0") == 2, output


def test_no_shared_memory_for_workers(on_small_disk, tiny_arguments, tmp_path):
    """Batches that are handed over need more than there is: one line that names the setting."""
    large = "--data.workers 1 --training.batch-size 48 --model.base-size 64 --data.birds.image-size 152"
    words = " ".join([*tiny_arguments[:-2], "--damsm.epochs", "0", "--training.steps", "2"])
    output = on_small_disk(f"$TRAIN {words} {large} --cache-dir {tmp_path}/cache --runs-dir $DISK/runs; echo rc $?")
    assert output.splitlines()[-1].startswith("error: a process that loads data was lost ("), output
    assert "of shared memory in /dev/shm; fewer --data.workers" in output and "rc 2" in output


def test_a_worker_that_is_killed(tiny_arguments, tmp_path, subprocess_environment):
    """One line, and the run goes on from its checkpoint."""
    (tmp_path / "sitecustomize.py").write_text(
        """
import os
import kvmgan.data.batches as batches
sample = batches.BatchStream._sample
def fail(self, place):
    if self.purpose == "training" and place[0] == 3:
        os.kill(os.getpid(), 9)
    return sample(self, place)
batches.BatchStream._sample = fail
"""
    )
    words = [*tiny_arguments, "--data.workers", "2", "--training.checkpoint-interval", "4", "--training.steps", "60"]
    path = os.pathsep.join([str(tmp_path), subprocess_environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "kvmgan.train", *words, "--runs-dir", str(tmp_path / "runs")]
    environment = subprocess_environment | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: a process that loads data was lost (DataLoader worker (pid")
    (run,) = (tmp_path / "runs").iterdir()
    step = max(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())
    again = ["--resume", str(run), "--training.steps", str(step + 1), "--data.workers", "0", *tiny_arguments[-2:]]
    assert step >= 4 and main(again) == 0


def test_what_a_worker_raises_is_one_line(make_stream_that_fails):
    with pytest.raises(UserError) as raised:
        next(make_stream_that_fails.iterate(0))
    assert str(raised.value) == "no picture at all:\nnone"


@pytest.fixture
def make_stream_that_fails(monkeypatch) -> BatchStream:
    def fail(self: BatchStream, place: object) -> None:
        raise UserError("no picture at all:\nnone")

    monkeypatch.setattr(BatchStream, "_sample", fail)
    return BatchStream(range(4), 2, seed=0, purpose="test", workers=1)


@pytest.mark.parametrize(("ignored", "status"), [(False, 128 + signal.SIGHUP), (True, 0)])
def test_a_terminal_that_is_closed(tiny_arguments, tmp_path, subprocess_environment, ignored, status):
    """SIGHUP: a checkpoint, and the line that says how to go on; under nohup the run doesn't mind."""
    words = [*tiny_arguments, "--training.steps", "40", "--training.log-interval", "1", "--runs-dir", str(tmp_path)]
    process = subprocess.Popen(
        [*["nohup"][:ignored], sys.executable, "-m", "kvmgan.train", *words],
        env=subprocess_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while '"g": ' not in "".join(path.read_text() for path in tmp_path.glob("*/stats.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    output, error = process.communicate(timeout=120)
    assert process.returncode == status, error
    (run,) = tmp_path.iterdir()
    (newest, *_) = sorted((path.name for path in (run / "checkpoints").iterdir()), reverse=True)
    if ignored:
        assert newest == "step-000040" and "training" in output
    else:
        assert f"stopped by SIGHUP: continue with --resume {run}" in error and newest < "step-000040"


def test_output_that_nobody_reads(tiny_arguments, subprocess_environment):
    """As when a pager is left: no traceback, and the status of a closed pipe."""
    command = f"{sys.executable} -m kvmgan.train --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=subprocess_environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str(128 + signal.SIGPIPE)
    assert done.stderr == "stopped: nothing reads the output any longer\n"


def test_a_clock_that_is_set_back(tiny_arguments, tmp_path, monkeypatch, capsys):
    """By an hour at every look, and files that are older than those before them: steps alone put things in order."""
    now = [2e9]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    often = ["--training.checkpoint-interval", "2", "--training.log-interval", "1"]
    words = [*tiny_arguments, *often, "--runs-dir", str(tmp_path / "runs")]
    assert main([*words, "--training.steps", "5"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    for age, path in enumerate(sorted((run / "checkpoints").rglob("*"))):
        os.utime(path, (1e9 - age * 3600,) * 2)
    assert main(["--resume", str(run), "--training.steps", "7", *tiny_arguments[-2:]]) == 0
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "g" in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["time"] for line in losses] == sorted((line["time"] for line in losses), reverse=True)
    assert all(line["images_per_second"] > 0 for line in losses)
    assert "-" not in capsys.readouterr().out.split("train 7/7")[-1].split(" left")[0].split("img/s")[-1]
    assert report([str(run), "--out", str(tmp_path / "report.html")]) == 0
