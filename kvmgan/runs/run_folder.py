"""A run's folder: ``runs/00007-birds-tiny/`` with settings, statistics, pictures, metrics and checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

from kvmgan.config import Options
from kvmgan.config_file import to_yaml
from kvmgan.errors import UserError
from kvmgan.files import write_text


class RunFolder:
    """Paths of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.stats = path / "stats.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.stages = path / "stages"
        self.attention = path / "attention"
        self.seeds = path / "seeds"
        self.words = path / "words"
        self.history = path / "history"
        self.history_strip = path / "history.png"
        self.nearest = path / "nearest"
        self.curves = path / "curves.png"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, runs_dir: Path, name: str, options: Options) -> RunFolder:
        """Make the next numbered folder below ``runs_dir``, ``00007-<name>``, and write the options into it.

        Raises:
            UserError: if the folder can't be made.
        """
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            while True:
                taken = [int(m[1]) for p in runs_dir.iterdir() if (m := re.match(r"(\d{5,})-", p.name))]
                run = cls(runs_dir / f"{max(taken, default=-1) + 1:05d}-{name}")
                try:
                    run.path.mkdir()
                    break
                except FileExistsError:
                    # Another run took this number between the look and the mkdir.
                    continue
        except OSError as error:
            raise UserError(
                f"--runs-dir {runs_dir} can't be written ({error.strerror}): choose another folder"
            ) from None
        write_text(run.config, to_yaml(options))
        return run


def metrics_path(checkpoint: Path) -> Path:
    """Where a checkpoint's metrics go: its run's ``metrics.jsonl``, or one beside a checkpoint that stands alone."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return RunFolder(run).metrics
