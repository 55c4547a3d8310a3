"""Metrics of runs: printed, kept beside them, in tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kvmgan.config import Options
from kvmgan.errors import UserError
from kvmgan.evaluation.evaluator import Evaluator
from kvmgan.evaluation.panel import PROTOCOLS, Panel, build_panel, parse_metrics, settle_protocol
from kvmgan.evaluation.published import published_rows
from kvmgan.evaluation.tables import latex, markdown
from kvmgan.files import check_writable, write_text
from kvmgan.metrics.metric_rows import append_metrics, format_metrics
from kvmgan.models.inference import for_inference
from kvmgan.parallel import processes
from kvmgan.parallel.processes import joined
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.run_folder import metrics_path
from kvmgan.training.checkpoint import Checkpoint, load_checkpoint
from kvmgan.training.datasets import own_test_split
from kvmgan.training.device import resolve_device, set_products, set_threads


@dataclass(frozen=True)
class Judgement:
    """What is judged, by whom, where: as the options of ``python -m kvmgan.evaluate`` say."""

    metrics: str
    protocol: str
    diversity_captions: int
    diversity_draws: int
    tables: Path | None
    published: str
    device: str
    threads: int
    cache_dir: Path
    weights_dir: Path


def evaluate(sources: Sequence[Path], judgement: Judgement, resolve: Callable[[Options], Options]) -> None:
    """Score runs or checkpoints.

    Args:
        resolve: a run's own options with what the command line changes.

    Raises:
        UserError: for what the user can mend, most of it before the first picture.
        Interrupted: on a signal.
    """
    if judgement.protocol not in ("auto", *PROTOCOLS):
        raise UserError(f"--protocol is {judgement.protocol!r}: choose auto, {', '.join(PROTOCOLS)}")
    settled = settle_protocol(parse_metrics(judgement.metrics), judgement.protocol, judgement.weights_dir)
    device = resolve_device(judgement.device, "--device")
    set_threads(judgement.threads)
    # A figure that others compare with theirs: no product is rounded to TF32.
    set_products(tf32=False, benchmark=True)
    with joined(device) as own:
        _evaluate_on(sources, judgement, settled, resolve, own)


def _evaluate_on(
    sources: Sequence[Path],
    judgement: Judgement,
    settled: tuple[tuple[str, ...], str],
    resolve: Callable[[Options], Options],
    device: torch.device,
) -> None:
    with SignalGuard("the metrics of this run were not written"):
        # Every run is found whole, and every file that is written to, before the first picture is made.
        checkpoints = [load_checkpoint(source).runnable_on(device) for source in sources]
        options = [resolve(checkpoint.options) for checkpoint in checkpoints]
        for checkpoint in checkpoints if processes.leads() else ():
            append_metrics(metrics_path(checkpoint.folder), [], checkpoint.step)
        if judgement.tables is not None:
            check_writable(judgement.tables, "--tables")
        with processes.leader_first():
            # What is downloaded is downloaded once.
            panel = build_panel(
                *settled,
                judgement.weights_dir,
                device,
                captions=judgement.diversity_captions,
                draws=judgement.diversity_draws,
                lenient=judgement.metrics == "auto",
            )
        named = {}
        for checkpoint, own in zip(checkpoints, options, strict=True):
            named[_name(checkpoint, named)] = _score(checkpoint, own, judgement.cache_dir, panel, device)
    if judgement.tables is not None and processes.leads():
        _write_tables(judgement.tables, named, judgement.published, {own.preset for own in options})


def _score(
    checkpoint: Checkpoint, options: Options, cache_dir: Path, panel: Panel, device: torch.device
) -> list[dict[str, Any]]:
    """Score a checkpoint; prints the figures and adds them to the run's."""
    encoders = checkpoint.encoders().to(device)
    dataset, truth = own_test_split(options, cache_dir, encoders.vocabulary)
    evaluator = Evaluator(encoders, dataset, truth, options.evaluation, device, panel, cache_dir)
    generator = for_inference(checkpoint.generator().to(device))
    rows = evaluator.score_average(generator, options.model, options.training.seed)
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
