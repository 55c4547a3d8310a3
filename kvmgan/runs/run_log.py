"""The figures and pictures of a run over its steps: in ``stats.jsonl``, TensorBoard, W&B if asked for."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from kvmgan.errors import UserError
from kvmgan.files import write_text
from kvmgan.parallel import processes
from kvmgan.runs.json_lines import read_steps
from kvmgan.runs.run_folder import RunFolder
from kvmgan.runs.wandb_log import WandbLog


def run_log(
    run: RunFolder, step: int, wandb: str | None = None, settings: Mapping[str, Any] | None = None
) -> RunLog | SilentLog:
    """The log of a run; that of a process that doesn't lead writes nothing.

    Args:
        step: after which an earlier process's figures are forgotten.
        wandb: project of Weights & Biases that is told as well.
        settings: of the run, for it.

    Raises:
        UserError: Weights & Biases is asked for and isn't installed or refuses.
    """
    if not processes.leads():
        return SilentLog()
    return RunLog(run, step, WandbLog(run, wandb, settings or {}) if wandb is not None else None)


class SilentLog:
    """Stands where a log is expected, and writes nothing."""

    def __enter__(self) -> SilentLog:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        """Nothing."""


class RunLog:
    """Context in which figures are written; those after ``step`` are forgotten: a resumed run writes them again."""

    def __init__(self, run: RunFolder, step: int, wandb: WandbLog | None = None):
        self._stats, self._wandb = run.stats, wandb
        if self._stats.exists():
            kept = [line for line in read_steps(self._stats) if line["step"] <= step]
            write_text(self._stats, "".join(json.dumps(line) + "\n" for line in kept))
        self._events = SummaryWriter(run.path, purge_step=step + 1)

    def __enter__(self) -> RunLog:
        self._hook = threading.excepthook
        threading.excepthook = self._note
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            with self._writing("TensorBoard's events"):
                self._events.close()
        except UserError:
            # What came before says more.
            if kind is None:
                raise
        finally:
            threading.excepthook = self._hook
            if self._wandb is not None:
                self._wandb.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step; one that isn't finite becomes null in ``stats.jsonl``."""
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n"
        with self._writing(self._stats):
            with self._stats.open("a", encoding="utf-8") as file:
                file.write(line)
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)
            if self._wandb is not None:
                self._wandb.write(step, figures)

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        """Put a picture beside the figures of a step."""
        with self._writing("TensorBoard's events"):
            self._events.add_image(name, np.asarray(picture), step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.show(step, name, picture)

    @contextmanager
    def _writing(self, what: object) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{what} can't be written ({error.strerror}): checkpoints so far are kept") from None

    def _note(self, failure: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread: a full disk there is raised again by the next figure, without a traceback."""
        if not issubclass(failure.exc_type, OSError):
            self._hook(failure)
