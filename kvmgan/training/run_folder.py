"""A run's folder: ``runs/00007-birds-tiny/`` with settings, statistics, pictures, metrics and checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from kvmgan.config import Options, to_yaml
from kvmgan.data.files import write_text
from kvmgan.errors import UserError


class RunFolder:
    """Paths and line files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.stats = path / "stats.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.stages = path / "stages"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, runs_dir: Path, options: Options) -> RunFolder:
        """Make the next numbered folder below ``runs_dir`` and write the options into it.

        Raises:
            UserError: if the folder can't be made.
        """
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            while True:
                taken = [int(m[1]) for p in runs_dir.iterdir() if (m := re.match(r"(\d{5,})-", p.name))]
                run = cls(runs_dir / f"{max(taken, default=-1) + 1:05d}-{options.preset}")
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

    def append_stats(self, values: Mapping[str, float]) -> None:
        """Add a line to ``stats.jsonl``."""
        with self.stats.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def drop_stats_after(self, step: int) -> None:
        """Forget the lines of steps after ``step``: a resumed run writes them again."""
        if self.stats.exists():
            lines = self.stats.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.stats, "".join(line for line in lines if json.loads(line)["step"] <= step))


def metrics_path(checkpoint: Path) -> Path:
    """Where a checkpoint's metrics go: its run's ``metrics.jsonl``, or one beside a checkpoint that stands alone."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return RunFolder(run).metrics
