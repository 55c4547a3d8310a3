"""The figures of a run over its steps: a line each in ``stats.jsonl``, and TensorBoard's events."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from kvmgan.errors import UserError
from kvmgan.files import write_text
from kvmgan.parallel import processes
from kvmgan.runs.json_lines import read_steps
from kvmgan.runs.run_folder import RunFolder


def run_log(run: RunFolder, step: int) -> RunLog | SilentLog:
    """The log of a run; that of a process that doesn't lead writes nothing."""
    return RunLog(run, step) if processes.leads() else SilentLog()


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

    def __init__(self, run: RunFolder, step: int):
        self._stats = run.stats
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

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step; one that isn't finite becomes null in ``stats.jsonl``."""
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n"
        with self._writing(self._stats):
            with self._stats.open("a", encoding="utf-8") as file:
                file.write(line)
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        """Put a picture into TensorBoard's events."""
        with self._writing("TensorBoard's events"):
            self._events.add_image(name, np.asarray(picture), step, dataformats="HWC")

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
