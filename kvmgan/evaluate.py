"""Compute metrics of runs: ``python -m kvmgan.evaluate RUN_OR_CHECKPOINT...``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kvmgan.bounds import Bound, Count, CountOrZero, check_bounds
from kvmgan.command_line import default_cache_dir, parse, run_command
from kvmgan.config import EvaluationOptions, Options, validate
from kvmgan.errors import UserError

PROG = "python -m kvmgan.evaluate"


@dataclass(frozen=True)
class EvaluateCommand:
    """Score checkpoints on test captions, beside real pictures and, if asked for, an untrained generator.

    The figures are printed and added to each run's metrics.jsonl. A run's own evaluation settings are the defaults.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders (the newest checkpoint is taken) or checkpoint folders."""
    metrics: str = "auto"
    """Metrics, separated by commas: fid, kid, is (Inception's), fd, kd (the same distances by other features), prc
    (precision and recall), diversity (of one caption's pictures), fd-dinov2, clip-score, r-precision, attributes.
    auto: all that need no download."""
    protocol: str = "auto"
    """Whose features distances are computed on: tf (torch-fidelity's Inception), clean (clean-fid's resizing),
    legacy-dmgan (as the papers' tables), efficientnet-lite0 or damsm (the run's image encoder). auto: tf where a metric
    is Inception's or its weights are at hand, else efficientnet-lite0."""
    images: CountOrZero = 0
    """Test captions that are drawn and judged [images]; 0 takes --evaluation.images."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    diversity_captions: Count = 50
    """Captions of the diversity, the first ones [captions]."""
    diversity_draws: Annotated[int, Bound(least=2)] = 8
    """Pictures of each of these [pictures]."""
    tables: Path | None = None
    """Folder for metrics.md and metrics.tex: a table of all runs, each figure with its protocol."""
    published: Literal["auto", "cub", "coco", "none"] = "auto"
    """Published figures beside one's own in the tables; auto: those of the runs' preset, if it is cub or coco."""
    data_root: Path | None = None
    """Folder of the data, if it has moved since training."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: CountOrZero = 0
    """CPU threads [threads]; 0 takes all cores."""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for drawn birds, and for what extractors see in real pictures."""
    weights_dir: Path | None = None
    """Folder in which weights of extractors are looked for, and into which they are downloaded; by default
    "weights" in --cache-dir."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_evaluate, argv)


def _evaluate(argv: Sequence[str]) -> None:
    first = parse(EvaluateCommand, argv, prog=PROG)
    check_bounds(first)
    if not first.sources:
        raise UserError(f"no run is named: {PROG} RUN_OR_CHECKPOINT...")
    if first.data_root is not None and not first.data_root.is_dir():
        raise UserError(f"--data-root {first.data_root} is no folder: name the one that holds the data")
    # Imported here: torch takes seconds, and whoever mistypes an option needn't wait for them.
    from kvmgan.actions.evaluate import Judgement, evaluate

    judgement = Judgement(
        metrics=first.metrics,
        protocol=first.protocol,
        diversity_captions=first.diversity_captions,
        diversity_draws=first.diversity_draws,
        tables=first.tables,
        published=first.published,
        device=first.device,
        threads=first.threads,
        cache_dir=first.cache_dir,
        weights_dir=first.weights_dir or first.cache_dir / "weights",
    )
    evaluate(first.sources, judgement, lambda own: _resolved(first, argv, own))


def _resolved(first: EvaluateCommand, argv: Sequence[str], own: Options) -> Options:
    """The run's own options with what the command line changes."""
    # Parsed again, now that the run's own settings are known as defaults.
    command = parse(EvaluateCommand, argv, prog=PROG, default=dataclasses.replace(first, evaluation=own.evaluation))
    evaluation = command.evaluation
    if command.images:
        evaluation = dataclasses.replace(evaluation, images=command.images)
    options = dataclasses.replace(own, evaluation=evaluation)
    if command.data_root is not None:
        options = dataclasses.replace(options, data=dataclasses.replace(options.data, root=command.data_root))
    validate(options)
    return options


if __name__ == "__main__":
    sys.exit(main())
