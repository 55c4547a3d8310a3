"""A training from its checks to the lines that say where all is."""

from __future__ import annotations

import re
import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kvmgan.config import Options, TrainingOptions, flatten
from kvmgan.config_file import to_yaml
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.files import exclusive, remove_leftovers, write_text
from kvmgan.parallel import processes
from kvmgan.parallel.processes import joined
from kvmgan.presets import preset_options
from kvmgan.reporting.curves import panels, save_curves
from kvmgan.reporting.run_record import read_run
from kvmgan.runs.checkpoint_folder import list_checkpoints, newest_whole
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.launch import remember_launch, run_of_launch, was_started_again
from kvmgan.runs.progress import Phases
from kvmgan.runs.run_folder import RunFolder
from kvmgan.runs.wandb_log import check_wandb
from kvmgan.training.checkpoint import Checkpoint, load_checkpoint
from kvmgan.training.datasets import Splits, data_root, find_prepared, fit_to_data, load_splits
from kvmgan.training.device import memory_backend, resolve_device, set_products, set_threads
from kvmgan.training.encoder_cache import ensure_encoders
from kvmgan.training.loop import Loop
from kvmgan.training.precision import Precision
from kvmgan.training.preflight import given_encoders, prepare
from kvmgan.training.state import TrainingState, initial_state

# Settings that may differ from those that a resumed run began with; a name ending in a dot is a whole group.
CHANGEABLE = (
    "evaluation.",
    "data.root",
    "data.workers",
    "model.memory.backend",
    "training.steps",
    "training.skip_limit",
    "training.log_interval",
    "training.sample_interval",
    "training.evaluate_interval",
    "training.checkpoint_interval",
    "training.keep_checkpoints",
    "training.keep_interval",
    "training.device",
    "training.threads",
)


@dataclass(frozen=True)
class Surroundings:
    """What a training is told beside its settings: where things go and come from, and who is told of them.

    encoders: those to take instead of pretraining some. profiled: steps to profile. wandb: project of Weights & Biases.
    """

    runs_dir: Path
    cache_dir: Path
    encoders: Path | None = None
    profiled: int = 0
    wandb: str | None = None


def find_resumed(path: Path) -> Checkpoint:
    """The checkpoint from which a run goes on: the newest whole one, or the one that is named, if none is newer.

    Raises:
        UserError: if there is none, it is damaged, or a newer one would be left behind.
    """
    checkpoint = load_checkpoint(path, pass_over_damaged=True)
    newest = list_checkpoints(checkpoint.folder.parent)[-1]
    # A torn one that was passed over is no reason to refuse the newest that is whole.
    if newest != checkpoint.folder and checkpoint.folder == path:
        raise UserError(f"{newest} is newer than {checkpoint.folder}: resume the run, or move the newer one away first")
    return checkpoint


def resumed(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """The checkpoint with the settings that it goes on with.

    Raises:
        UserError: names every setting that would give other results, which may not change; or fewer steps are wanted
            than have been trained.
    """
    _check_unchanged(flatten(checkpoint.options), flatten(options))
    if options.training.steps < checkpoint.step:
        raise UserError(
            f"--training.steps {options.training.steps}: {checkpoint.folder} has been trained for {checkpoint.step} "
            "already, expected as many or more"
        )
    return replace(checkpoint, options=options)


def train(options: Options, checkpoint: Checkpoint | None, around: Surroundings) -> None:
    """Train, judge and draw; ``checkpoint``: the one to go on from, its settings being the options.

    Raises:
        UserError: for what the user can mend, most of it before the first step.
        Interrupted: on a signal.
    """
    if around.wandb is not None:
        check_wandb()
    settings = options.training
    device = resolve_device(settings.device)
    threads = set_threads(settings.threads)
    set_products(tf32=settings.tf32, benchmark=settings.cudnn_benchmark)
    with joined(device) as own:
        options, checkpoint, around = _agreed(options, checkpoint, around)
        precision = Precision.choose(settings.precision, own)
        together = f"{processes.count()} processes, {own.type}" if processes.count() > 1 else f"device {own}"
        print(f"{together}, {threads} CPU threads, {precision.name}, torch {torch.__version__}")
        if options.model.refinement == "memory":
            print(f"memory layers: {memory_backend(options.model, own)}")
        _train_on(options, checkpoint, around, precision)


def _train_on(options: Options, checkpoint: Checkpoint | None, around: Surroundings, precision: Precision) -> None:
    phases = Phases()
    with (
        SignalGuard("training had not begun, there is nothing to resume; finished phases stay in the cache") as guard,
        # A run in use is found before anything of it is read or written again; a new one has a folder of its own.
        _held(checkpoint.folder.parent.parent if checkpoint else None),
        _begin(options, checkpoint, around, precision, phases, guard) as loop,
        _held(None if checkpoint else loop.run_folder.path),
    ):
        print(f"run folder: {loop.run_folder.path}")
        loop.run(guard)
        phases.end("training")
        loop.judge()
        phases.end("evaluation")
        loop.draw_nearest()
        if processes.leads():
            save_curves(panels([read_run(loop.run_folder.path)]), loop.run_folder.curves)
        phases.end("figures")
    print(f"times: {phases.summary()}")
    _say_where(loop.run_folder, loop.state, loop.pictures.samples.captions[0])


def _held(run: Path | None) -> AbstractContextManager:
    """The run's folder for this training alone, by the process that leads."""
    return exclusive(run) if run is not None and processes.leads() else nullcontext()


def _agreed(
    options: Options, checkpoint: Checkpoint | None, around: Surroundings
) -> tuple[Options, Checkpoint | None, Surroundings]:
    """The command as all processes understand it: which checkpoint is resumed, and, of a command that its launcher has
    started again, the run that it had begun.
    """
    if checkpoint is not None:
        newest = processes.of_leader(checkpoint.folder)
        # One of another machine may have looked before the last checkpoint was whole.
        if newest != checkpoint.folder:
            checkpoint = replace(load_checkpoint(newest), options=options)
        return options, checkpoint, around
    again = processes.agreed(int(was_started_again()))
    run = processes.of_leader(run_of_launch(around.runs_dir)) if again else None
    if run is None:
        return options, None, around
    checkpoint = load_checkpoint(processes.of_leader(newest_whole(run)[0]))
    print(f"started again: {run} goes on with its settings")
    return checkpoint.options, checkpoint, replace(around, encoders=None)


def _check_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Find out whether a resume asks for other results; names every setting that it may not change."""
    changed = [
        f"--{name.replace('_', '-')} {before[name]} -> {value}"
        for name, value in after.items()
        if value != before[name] and not name.startswith(CHANGEABLE)
    ]
    if changed:
        raise UserError(f"{', '.join(changed)}: can't change on --resume; start a new run with --config for that")


def _begin(
    options: Options,
    checkpoint: Checkpoint | None,
    around: Surroundings,
    precision: Precision,
    phases: Phases,
    guard: SignalGuard,
) -> Loop:
    """All that comes before the first step: checks, data, encoders, networks, the run's folder."""
    given, options = given_encoders(around.encoders, options)
    options = prepare(options, {"--runs-dir": around.runs_dir, "--cache-dir": around.cache_dir}, precision.device)
    if checkpoint is not None:
        encoders = checkpoint.encoders().to(precision.device)
        splits = _load(options, around.cache_dir, encoders.vocabulary, phases)
        _check_shares(options)
        state, run = checkpoint.restore(precision), RunFolder(checkpoint.folder.parent.parent)
        if processes.leads():
            remove_leftovers(run.path)
            write_text(run.config, to_yaml(options))
        print(f"resumed at step {checkpoint.step}")
        _say_risen_rates(state, options.training)
    else:
        splits = _load(options, around.cache_dir, given.vocabulary if given else None, phases)
        options = fit_to_data(options, splits)
        _check_shares(options)
        encoders = ensure_encoders(splits, options, around.cache_dir, precision.device, phases, guard, given)
        state = initial_state(options.model, options.discriminator, options.training, options.damsm.word_dim, precision)
        run = None
        if processes.leads():
            run = RunFolder.create(around.runs_dir, _run_name(options), options)
            remember_launch(run.path)
        run = processes.of_leader(run)
    return Loop(run, options, state, splits, encoders, precision, around.profiled, around.wandb)


def _say_risen_rates(state: TrainingState, training: TrainingOptions) -> None:
    """Of a run that goes on with more steps than its learning rates were falling for: nothing else would show it."""
    before = state.generator_optimizer.param_groups[0]["lr"] / training.lr_generator
    now = state.rate_factor(training)
    if now > before:
        print(
            f"learning rates rise from {before:.2g} to {now:.2g} of those set: they fall towards the end of more steps"
        )


def _load(options: Options, cache_dir: Path, vocabulary: Vocabulary | None, phases: Phases) -> Splits:
    root = data_root(options.data, cache_dir)
    phases.end("drawing")
    prepared = find_prepared(cache_dir, root, options.sizes)
    splits = load_splits(options.data, options.sizes, root, vocabulary, prepared)
    print(f"data: {root} ({options.data.name}): {len(splits.train)} train and {len(splits.test)} test images")
    phases.end("loading")
    return splits


def _check_shares(options: Options) -> None:
    """Find out before pretraining whether the processes can share every batch."""
    processes.check_shares("--damsm.batch-size", options.damsm.batch_size)
    processes.check_shares("--training.batch-size", options.training.batch_size, options.training.accumulation)


def _run_name(options: Options) -> str:
    """The name of a run: its own, its preset's, or its data folder's where the data isn't the preset's."""
    if options.name is not None:
        return options.name
    if options.data.root is None or options.data.name == preset_options(options.preset).data.name:
        return options.preset
    return re.sub(r"[^\w.-]+", "-", options.data.root.resolve().name).strip("-") or options.data.name


def _say_where(run: RunFolder, state: TrainingState, caption: str) -> None:
    name = f"step-{state.step:06d}"
    print(f"pictures:   {run.samples / name}.png, over the training {run.history_strip}")
    print(f"metrics:    {run.metrics}, curves {run.curves}")
    print(f"checkpoint: {run.checkpoints / name}")
    print(f"try:        python -m kvmgan.sample {shlex.quote(str(run.path))} {shlex.quote(caption)}")
