"""Runs that torchrun or Slurm start again: they go on where they were, whatever the command says."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kvmgan.errors import UserError
from kvmgan.files import read_json, write_text
from kvmgan.runs.checkpoint_folder import list_checkpoints

_FILE = "launch.json"
# What torchrun calls a launch that wasn't given a name: any other may be called so, too.
_NAMELESS = "none"


def remember_launch(run: Path) -> None:
    """Write into a new run's folder by which launch it was begun, if torchrun has a name for it."""
    name = _launch()
    if name is not None:
        write_text(run / _FILE, json.dumps({"id": name}) + "\n")


def was_started_again() -> bool:
    """Whether torchrun, by ``--max-restarts``, or Slurm, which requeues jobs, has started this process again.

    With several launchers, those whose own processes had not failed don't count: one of all processes knows, at least.
    """
    return any(int(os.environ.get(f"{who}_RESTART_COUNT", "0")) for who in ("TORCHELASTIC", "SLURM"))


def run_of_launch(runs_dir: Path) -> Path | None:
    """The newest run that this launch, by its ``--rdzv-id``, has begun, if it has a checkpoint."""
    name = _launch()
    if name is None:
        return None
    for run in sorted(runs_dir.glob("*/"), reverse=True):
        if _begun_by(run) == name and list_checkpoints(run / "checkpoints"):
            return run
    return None


def _launch() -> str | None:
    name = os.environ.get("TORCHELASTIC_RUN_ID", _NAMELESS)
    return None if name == _NAMELESS else name


def _begun_by(run: Path) -> str | None:
    try:
        content = read_json(run / _FILE, "the launch of a run")
    except UserError:
        return None
    return content.get("id") if isinstance(content, dict) else None
