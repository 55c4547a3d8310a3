"""Pretrain the encoders alone: ``python -m kvmgan.pretrain`` fills the cache that ``kvmgan.train`` reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kvmgan.command_line import default_cache_dir, parse, peek, run_command
from kvmgan.config import Options, to_yaml, validate
from kvmgan.presets import preset_options
from kvmgan.training.datasets import data_root, load_splits
from kvmgan.training.device import resolve_device, set_threads
from kvmgan.training.evaluation import check_candidates, evaluate, format_metrics
from kvmgan.training.interruption import SignalGuard
from kvmgan.training.pretraining import ensure_encoders
from kvmgan.training.progress import Phases

PROG = "python -m kvmgan.pretrain"


@dataclass(frozen=True)
class PretrainCommand:
    """Pretrain the DAMSM encoders and, for procedural birds, the attribute classifier."""

    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    dry_run: bool = False
    """Print the resolved options as YAML and stop."""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for drawn birds and pretrained encoders."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_pretrain, argv)


def _pretrain(argv: Sequence[str]) -> None:
    default = PretrainCommand(preset_options(peek(argv, "--preset") or "birds-tiny"))
    command = parse(PretrainCommand, argv, prog=PROG, default=default)
    options = command.options
    validate(options)
    if command.dry_run:
        print(to_yaml(options), end="")
        return
    device = resolve_device(options.training.device)
    set_threads(options.training.threads)
    phases = Phases()
    with SignalGuard("finished phases stay in the cache"):
        root = data_root(options, command.cache_dir)
        phases.end("drawing")
        splits = load_splits(options, root)
        check_candidates(splits.test, options.evaluation)
        phases.end("loading")
        encoders = ensure_encoders(splits, options, command.cache_dir, device, phases)
        # Real pictures alone: how well the encoders do on classes that they haven't seen.
        print(format_metrics(evaluate({}, encoders, splits.test, splits.truth, options.evaluation, device)))
        phases.end("evaluation")
    print(f"times: {phases.summary()}")


if __name__ == "__main__":
    sys.exit(main())
