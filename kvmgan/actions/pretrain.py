"""A pretraining of the encoders alone."""

from __future__ import annotations

from pathlib import Path

import torch

from kvmgan.config import Options
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


def pretrain(options: Options, cache_dir: Path) -> None:
    """Pretrain the encoders and, for procedural birds, the classifier, into ``cache_dir``; what is there stays.

    Raises:
        UserError: for what the user can mend, most of it before the first step.
        Interrupted: on a signal.
    """
    device = resolve_device(options.training.device)
    set_threads(options.training.threads)
    with joined(device) as own:
        _pretrain_on(options, cache_dir, own)


def _pretrain_on(options: Options, cache_dir: Path, device: torch.device) -> None:
    phases = Phases()
    with SignalGuard("finished phases stay in the cache") as guard:
        options = prepare(options, {"--cache-dir": cache_dir}, device)
        root = data_root(options.data, cache_dir)
        phases.end("drawing")
        splits = load_splits(options.data, options.sizes, root, prepared=find_prepared(cache_dir, root, options.sizes))
        options = fit_to_data(options, splits)
        processes.check_shares("--damsm.batch-size", options.damsm.batch_size)
        phases.end("loading")
        encoders = ensure_encoders(splits, options, cache_dir, device, phases, guard)
        # Real pictures alone: how well the encoders do on classes that they haven't seen.
        evaluator = Evaluator(encoders, splits.test, splits.truth, options.evaluation, device)
        print(format_metrics(evaluator.score({})))
        phases.end("evaluation")
    print(f"times: {phases.summary()}")
