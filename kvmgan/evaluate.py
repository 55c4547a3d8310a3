"""Recompute a run's metrics: ``python -m kvmgan.evaluate RUN_OR_CHECKPOINT``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from kvmgan.bounds import CountOrZero, check_bounds
from kvmgan.command_line import default_cache_dir, parse, run_command
from kvmgan.config import EvaluationOptions, Options, validate
from kvmgan.errors import UserError
from kvmgan.metrics.metric_rows import append_metrics, format_metrics
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.run_folder import metrics_path
from kvmgan.training.checkpoint import load_checkpoint
from kvmgan.training.datasets import data_root, find_prepared, load_test_split
from kvmgan.training.device import resolve_device, set_threads
from kvmgan.training.evaluation import Evaluator

PROG = "python -m kvmgan.evaluate"


@dataclass(frozen=True)
class EvaluateCommand:
    """Score a checkpoint on test captions, beside real pictures and, if asked for, an untrained generator.

    The run's own evaluation settings are the defaults.
    """

    source: tyro.conf.Positional[Path]
    """Run folder (its newest checkpoint is taken) or checkpoint folder."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    data_root: Path | None = None
    """Folder of the data, if it has moved since training."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: CountOrZero = 0
    """CPU threads [threads]; 0 takes all cores."""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for drawn birds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_evaluate, argv)


def _evaluate(argv: Sequence[str]) -> None:
    first = parse(EvaluateCommand, argv, prog=PROG)
    check_bounds(first)
    if first.data_root is not None and not first.data_root.is_dir():
        raise UserError(f"--data-root {first.data_root} is no folder: name the one that holds the data")
    device = resolve_device(first.device, "--device")
    set_threads(first.threads)
    with SignalGuard("no metrics were written"):
        checkpoint = load_checkpoint(first.source).runnable_on(device)
        options = _resolved(first, argv, checkpoint.options)
        encoders = checkpoint.encoders().to(device)
        root = data_root(options.data, first.cache_dir)
        prepared = find_prepared(first.cache_dir, root, options.sizes)
        dataset, truth = load_test_split(options.data, options.sizes, root, encoders.vocabulary, prepared)
        metrics = metrics_path(checkpoint.folder)
        # Nothing is added yet: a file that can't be written is found before the scoring.
        append_metrics(metrics, [], checkpoint.step)
        evaluator = Evaluator(encoders, dataset, truth, options.evaluation, device)
        rows = evaluator.score_average(checkpoint.generator().to(device), options.model, options.training.seed)
    print(format_metrics(rows))
    append_metrics(metrics, rows, checkpoint.step)
    print(f"metrics: {metrics}")


def _resolved(first: EvaluateCommand, argv: Sequence[str], own: Options) -> Options:
    """The run's own options with what the command line changes."""
    # Parsed again, now that the run's own settings are known as defaults.
    command = parse(EvaluateCommand, argv, prog=PROG, default=dataclasses.replace(first, evaluation=own.evaluation))
    options = dataclasses.replace(own, evaluation=command.evaluation)
    if command.data_root is not None:
        options = dataclasses.replace(options, data=dataclasses.replace(options.data, root=command.data_root))
    validate(options)
    return options


if __name__ == "__main__":
    sys.exit(main())
