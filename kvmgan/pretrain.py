"""Pretrain the encoders alone: ``python -m kvmgan.pretrain`` fills the cache that ``kvmgan.train`` reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from kvmgan.command_line import default_cache_dir, parse, run_command, starting_options
from kvmgan.config import Options, validate
from kvmgan.config_file import to_yaml
from kvmgan.evaluation.evaluator import Evaluator
from kvmgan.metrics.metric_rows import format_metrics
from kvmgan.parallel import processes
from kvmgan.parallel.processes import joined
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.progress import Phases
from kvmgan.training.datasets import data_root, find_prepared, fit_to_data, load_splits
from kvmgan.training.device import resolve_device, set_threads
from kvmgan.training.encoder_cache import ensure_encoders
from kvmgan.training.preflight import prepare

PROG = "python -m kvmgan.pretrain"


@dataclass(frozen=True)
class PretrainCommand:
    """Pretrain the DAMSM encoders and, for procedural birds, the attribute classifier."""

    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    config: Path | None = None
    """Settings to start from instead of a preset's: a run's config.yaml, or what --dry-run printed."""
    dry_run: bool = False
    """Print the resolved options as YAML and stop."""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for drawn birds and pretrained encoders."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_pretrain, argv)


def _pretrain(argv: Sequence[str]) -> None:
    command = parse(PretrainCommand, argv, prog=PROG, default=PretrainCommand(starting_options(argv)))
    validate(command.options)
    if command.dry_run:
        print(to_yaml(command.options), end="")
        return
    device = resolve_device(command.options.training.device)
    set_threads(command.options.training.threads)
    with joined(device) as own:
        _pretrain_on(command, own)


def _pretrain_on(command: PretrainCommand, device: torch.device) -> None:
    phases = Phases()
    with SignalGuard("finished phases stay in the cache") as guard:
        options = prepare(command.options, {"--cache-dir": command.cache_dir}, device)
        root = data_root(options.data, command.cache_dir)
        phases.end("drawing")
        splits = load_splits(
            options.data, options.sizes, root, prepared=find_prepared(command.cache_dir, root, options.sizes)
        )
        options = fit_to_data(options, splits)
        processes.check_shares("--damsm.batch-size", options.damsm.batch_size)
        phases.end("loading")
        encoders = ensure_encoders(splits, options, command.cache_dir, device, phases, guard)
        # Real pictures alone: how well the encoders do on classes that they haven't seen.
        evaluator = Evaluator(encoders, splits.test, splits.truth, options.evaluation, device)
        print(format_metrics(evaluator.score({})))
        phases.end("evaluation")
    print(f"times: {phases.summary()}")


if __name__ == "__main__":
    sys.exit(main())
