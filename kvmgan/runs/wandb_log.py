"""A run's figures and pictures in Weights & Biases, by its own package."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from kvmgan.errors import UserError
from kvmgan.files import read_json, write_text
from kvmgan.runs.run_folder import RunFolder

_FILE = "wandb.json"


def check_wandb() -> None:
    """Find out whether the package is installed.

    Raises:
        UserError: if it isn't.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError("--wandb needs the package wandb, which isn't installed: pip install wandb, or leave it out")


class WandbLog:
    """A run there that goes on when this one is resumed; figures carry their own step."""

    def __init__(self, run: RunFolder, project: str, settings: Mapping[str, Any]):
        """Begin a run of the ``project``, or go on with the one that this run's folder names.

        Raises:
            UserError: the package isn't installed, or the service refuses, with its reason.
        """
        check_wandb()
        import wandb

        path = run.path / _FILE
        known = read_json(path, "the run's name in Weights & Biases")["id"] if path.exists() else None
        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=project,
                name=run.path.name,
                id=known,
                resume="allow",
                dir=str(run.path),
                config=dict(settings),
            )
        except wandb.errors.Error as error:
            raise UserError(f"--wandb {project}: Weights & Biases can't be reached or refuses: {error}") from None
        # Steps of several calls may come in any order after a resume: the service's own counter would drop them.
        self._run.define_metric("*", step_metric="training_step")
        write_text(path, json.dumps({"id": self._run.id}) + "\n")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Send the figures of a step."""
        self._run.log({"training_step": step, **figures})

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        """Send a picture."""
        self._run.log({"training_step": step, name: self._wandb.Image(picture)})

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()
