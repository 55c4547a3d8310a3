"""Compute metrics of runs: ``python -m kvmgan.evaluate RUN_OR_CHECKPOINT...``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from kvmgan.bounds import Bound, Count, CountOrZero, check_bounds
from kvmgan.command_line import default_cache_dir, parse, run_command
from kvmgan.config import EvaluationOptions, Options, validate
from kvmgan.errors import UserError
from kvmgan.evaluation.evaluator import Evaluator
from kvmgan.evaluation.panel import PROTOCOLS, Panel, build_panel, parse_metrics, settle_protocol
from kvmgan.evaluation.published import published_rows
from kvmgan.evaluation.tables import latex, markdown
from kvmgan.files import check_writable, write_text
from kvmgan.metrics.metric_rows import append_metrics, format_metrics
from kvmgan.parallel import processes
from kvmgan.parallel.processes import joined
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.run_folder import metrics_path
from kvmgan.training.checkpoint import Checkpoint, load_checkpoint
from kvmgan.training.datasets import data_root, find_prepared, load_test_split
from kvmgan.training.device import resolve_device, set_products, set_threads

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
    if first.protocol not in ("auto", *PROTOCOLS):
        raise UserError(f"--protocol is {first.protocol!r}: choose auto, {', '.join(PROTOCOLS)}")
    weights = first.weights_dir or first.cache_dir / "weights"
    settled = settle_protocol(parse_metrics(first.metrics), first.protocol, weights)
    device = resolve_device(first.device, "--device")
    set_threads(first.threads)
    # A figure that others compare with theirs: no product is rounded to TF32.
    set_products(tf32=False, benchmark=True)
    with joined(device) as own:
        _evaluate_on(first, argv, settled, weights, own)


def _evaluate_on(
    first: EvaluateCommand,
    argv: Sequence[str],
    settled: tuple[tuple[str, ...], str],
    weights: Path,
    device: torch.device,
) -> None:
    with SignalGuard("the metrics of this run were not written"):
        # Every run is found whole, and every file that is written to, before the first picture is made.
        checkpoints = [load_checkpoint(source).runnable_on(device) for source in first.sources]
        options = [_resolved(first, argv, checkpoint.options) for checkpoint in checkpoints]
        for checkpoint in checkpoints if processes.leads() else ():
            append_metrics(metrics_path(checkpoint.folder), [], checkpoint.step)
        if first.tables is not None:
            check_writable(first.tables, "--tables")
        with processes.leader_first():
            # What is downloaded is downloaded once.
            panel = build_panel(
                *settled,
                weights,
                device,
                captions=first.diversity_captions,
                draws=first.diversity_draws,
                lenient=first.metrics == "auto",
            )
        named = {}
        for checkpoint, own in zip(checkpoints, options, strict=True):
            named[_name(checkpoint, named)] = _score(checkpoint, own, first.cache_dir, panel, device)
    if first.tables is not None and processes.leads():
        _write_tables(first.tables, named, first.published, {own.preset for own in options})


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


def _score(
    checkpoint: Checkpoint, options: Options, cache_dir: Path, panel: Panel, device: torch.device
) -> list[dict[str, Any]]:
    """Score a checkpoint; prints the figures and adds them to the run's."""
    encoders = checkpoint.encoders().to(device)
    root = data_root(options.data, cache_dir)
    prepared = find_prepared(cache_dir, root, options.sizes)
    dataset, truth = load_test_split(options.data, options.sizes, root, encoders.vocabulary, prepared)
    evaluator = Evaluator(encoders, dataset, truth, options.evaluation, device, panel, cache_dir)
    rows = evaluator.score_average(checkpoint.generator().to(device), options.model, options.training.seed)
    print(format_metrics(rows))
    metrics = metrics_path(checkpoint.folder)
    if processes.leads():
        append_metrics(metrics, rows, checkpoint.step)
    print(f"metrics: {metrics}")
    return rows


def _name(checkpoint: Checkpoint, taken: Mapping[str, object]) -> str:
    """What a checkpoint is called in tables: its run and step, or its whole path where that is taken."""
    run = checkpoint.folder.parent.parent.name
    name = f"{run}, step {checkpoint.step}"
    return name if name not in taken else str(checkpoint.folder)


def _write_tables(folder: Path, named: Mapping[str, list[dict[str, Any]]], published: str, presets: set[str]) -> None:
    if published == "auto":
        published = presets.pop() if len(presets) == 1 else "none"
    rows = {"": published_rows(published)} if published in ("cub", "coco") else {}
    for name, text in (("metrics.md", markdown(rows | named)), ("metrics.tex", latex(rows | named))):
        write_text(folder / name, text)
        print(f"table: {folder / name}")


if __name__ == "__main__":
    sys.exit(main())
