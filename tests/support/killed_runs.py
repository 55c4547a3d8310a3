"""Kills a training by SIGKILL at random moments and resumes it until it is done: ``killed_runs.py KILLS SEED WORD...``.

The words resume a run. The package is imported once; every training is a fork of this process, which computes nothing.
Prints a line of JSON: for each kill the newest whole checkpoint's step after it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path

from kvmgan.runs.checkpoint_folder import newest_whole
from kvmgan.train import main

# With so many more saved a training is killed at once, so that it can't end before.
STEPS_A_LIFE = 15


def start(words: list[str]) -> int:
    """A training in a process of its own, silent; returns its number."""
    process = os.fork()
    if process == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os._exit(main(words))
    return process


def newest_step(folder: Path) -> int:
    """The step of the newest whole checkpoint."""
    with contextlib.redirect_stdout(io.StringIO()):
        return int(newest_whole(folder)[0].name.removeprefix("step-"))


def kill(process: int) -> None:
    """End a training that hasn't ended by itself."""
    ended, status = os.waitpid(process, os.WNOHANG)
    if ended:
        raise RuntimeError(f"a resume ended with {os.waitstatus_to_exitcode(status)} before it was killed")
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def live(folder: Path, seconds: float, most: int) -> None:
    """Wait so long, or until ``most`` steps are saved: a machine that was slow when timed may be fast now."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and newest_step(folder) < most:
        time.sleep(0.01)


def time_to_a_checkpoint(folder: Path, words: list[str]) -> float:
    """Let a training live until it has written a checkpoint, and kill it; returns how long that took [seconds]."""
    before, began, process = newest_step(folder), time.monotonic(), start(words)
    live(folder, math.inf, most=before + 1)
    kill(process)
    return time.monotonic() - began


def run(kills: int, seed: int, words: list[str]) -> list[int]:
    """Kill so many trainings, then let one come to its end; raises if a resume fails or ends before it is killed.

    How long they live goes by how long this machine takes to a checkpoint: some are killed before they begin to train.
    """
    rng, folder = random.Random(seed), Path(words[words.index("--resume") + 1])
    usual, steps = time_to_a_checkpoint(folder, words), [newest_step(folder)]
    while len(steps) < kills:
        process = start(words)
        live(folder, rng.uniform(0, 1.7 * usual), most=steps[-1] + STEPS_A_LIFE)
        kill(process)
        steps.append(newest_step(folder))
    _, status = os.waitpid(start(words), 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"the last resume ended with {os.waitstatus_to_exitcode(status)}")
    return steps


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
