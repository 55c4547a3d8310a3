"""Recompute a run's metrics: ``python -m kvmgan.evaluate RUN_OR_CHECKPOINT``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from kvmgan.command_line import default_cache_dir, parse, run_command
from kvmgan.config import EvaluationOptions, validate
from kvmgan.training.builders import build_generator
from kvmgan.training.checkpoint import load_checkpoint
from kvmgan.training.datasets import data_root, load_test_split
from kvmgan.training.device import resolve_device, set_threads
from kvmgan.training.evaluation import append_metrics, check_candidates, evaluate, format_metrics
from kvmgan.training.interruption import SignalGuard
from kvmgan.training.run_folder import metrics_path

PROG = "python -m kvmgan.evaluate"


@dataclass(frozen=True)
class EvaluateCommand:
    """Score a checkpoint on test captions, beside the untrained generator and real pictures.

    The run's own evaluation settings are the defaults.
    """

    source: tyro.conf.Positional[Path]
    """Run folder (its newest checkpoint is taken) or checkpoint folder."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    data_root: Path | None = None
    """Folder of the data, if it has moved since training."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads [threads]; 0 takes all cores."""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for drawn birds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_evaluate, argv)


def _evaluate(argv: Sequence[str]) -> None:
    first = parse(EvaluateCommand, argv, prog=PROG)
    device = resolve_device(first.device)
    set_threads(first.threads)
    with SignalGuard("no metrics were written"):
        checkpoint = load_checkpoint(first.source)
        # Parsed again, now that the run's own settings are known as defaults.
        own = dataclasses.replace(first, evaluation=checkpoint.options.evaluation)
        command = parse(EvaluateCommand, argv, prog=PROG, default=own)
        options = dataclasses.replace(checkpoint.options, evaluation=command.evaluation)
        if command.data_root is not None:
            options = dataclasses.replace(options, data=dataclasses.replace(options.data, root=command.data_root))
        validate(options)
        encoders = checkpoint.encoders().to(device)
        dataset, truth = load_test_split(options, data_root(options, command.cache_dir), encoders.vocabulary)
        check_candidates(dataset, options.evaluation)
        generators = {"ema": checkpoint.generator().to(device), "untrained": build_generator(options).to(device)}
        rows = evaluate(generators, encoders, dataset, truth, options.evaluation, device)
    metrics = metrics_path(checkpoint.folder)
    append_metrics(metrics, rows, checkpoint.step)
    print(format_metrics(rows))
    print(f"metrics: {metrics}")


if __name__ == "__main__":
    sys.exit(main())
