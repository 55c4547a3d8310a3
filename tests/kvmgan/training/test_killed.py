"""A run that is killed at random moments ends as one that wasn't."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kvmgan.train import main

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("KVMGAN_KILLS", "6"))
# More than so many trainings can do before they are killed.
STEPS = 20 * KILLS + 50
INTERVAL = 3


def _tensors(checkpoint: Path) -> dict[str, bytes]:
    return {
        f"{path.name}:{name}": tensor.numpy().tobytes()
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.fixture
def runs(tiny_run: Path, tmp_path: Path) -> list[Path]:
    """Two copies of a run of six steps."""
    return [Path(shutil.copytree(tiny_run, tmp_path / name)) for name in ("straight", "killed")]


def test_nothing_but_steps_since_the_last_checkpoint_is_lost(runs, tiny_arguments, python, subprocess_environment):
    """By SIGKILL; KVMGAN_KILLS sets how often. Every resume succeeds, and the last weights are the same bit for bit."""
    straight, killed = runs
    often = ["--training.checkpoint-interval", str(INTERVAL), "--training.sample-interval", "25", *tiny_arguments[-2:]]
    words = ["--training.steps", str(STEPS), "--training.log-interval", "2", *often]
    assert main(["--resume", str(straight), *words]) == 0
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    support = ROOT / "tests" / "support" / "killed_runs.py"
    done = subprocess.run(
        [python, str(support), str(KILLS), str(seed), "--resume", str(killed), *words],
        env=subprocess_environment,
        capture_output=True,
        text=True,
        timeout=60 + 20 * KILLS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads(done.stdout)
    assert len(steps) == KILLS and steps == sorted(steps) and steps[-1] > 6, steps
    last = Path("checkpoints", f"step-{STEPS:06d}")
    expected = _tensors(straight / last)
    assert expected and _tensors(killed / last) == expected
    lines = [json.loads(line) for line in (killed / "stats.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in lines if "g" in line and line["step"] > 6]
    assert logged == list(range(8, STEPS + 1, 2))
    assert not [path for path in killed.rglob("*") if path.name.startswith(".tmp")]
