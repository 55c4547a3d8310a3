"""Train a text-to-image model: ``python -m kvmgan.train`` draws its data, trains, evaluates, says where all is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from kvmgan.command_line import default_cache_dir, parse, peek, run_command
from kvmgan.config import Options, flatten, to_yaml, validate
from kvmgan.data.files import write_text
from kvmgan.errors import UserError
from kvmgan.presets import preset_options
from kvmgan.training.builders import build_generator
from kvmgan.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from kvmgan.training.datasets import Splits, data_root, load_splits
from kvmgan.training.device import resolve_device, set_threads
from kvmgan.training.encoders import Encoders
from kvmgan.training.evaluation import append_metrics, check_candidates, evaluate, format_metrics
from kvmgan.training.interruption import SignalGuard
from kvmgan.training.loop import Loop
from kvmgan.training.pretraining import ensure_encoders
from kvmgan.training.progress import Phases
from kvmgan.training.run_folder import RunFolder
from kvmgan.training.state import TrainingState, initial_state

PROG = "python -m kvmgan.train"
# Settings that may differ from those that a resumed run began with; a name ending in a dot is a whole group.
CHANGEABLE = (
    "evaluation.",
    "data.root",
    "data.workers",
    "training.steps",
    "training.log_interval",
    "training.sample_interval",
    "training.checkpoint_interval",
    "training.keep_checkpoints",
    "training.device",
    "training.threads",
)


@dataclass(frozen=True)
class TrainCommand:
    """Train a text-to-image model. Without an argument: procedural birds, preset birds-tiny, all on this machine."""

    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    resume: Path | None = None
    """Run folder (or its newest checkpoint) to continue; its own settings are used."""
    dry_run: bool = False
    """Print the resolved options as YAML and stop."""
    runs_dir: Path = Path("runs")
    """Folder in which run folders are made."""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for drawn birds and pretrained encoders."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_train, argv)


def _train(argv: Sequence[str]) -> None:
    command, checkpoint = _parse(argv)
    options = command.options
    validate(options)
    if command.dry_run:
        print(to_yaml(options), end="")
        return
    device = resolve_device(options.training.device)
    threads = set_threads(options.training.threads)
    print(f"device {device}, {threads} CPU threads, torch {torch.__version__}")
    phases = Phases()
    with SignalGuard("training had not begun, there is nothing to resume; finished phases stay in the cache") as guard:
        splits = _load(options, command.cache_dir, checkpoint, phases)
        if checkpoint is None:
            encoders = ensure_encoders(splits, options, command.cache_dir, device, phases)
            state = initial_state(options, device)
            run = RunFolder.create(command.runs_dir, options)
        else:
            encoders, state = checkpoint.encoders().to(device), checkpoint.restore(device)
            run = _resumed_folder(checkpoint, options)
        print(f"run folder: {run.path}")
        Loop(run, options, state, splits, encoders, device).run(guard)
        phases.end("training")
        guard.message = f"training is done; for the metrics: python -m kvmgan.evaluate {run.path}"
        _evaluate(run, state, encoders, splits, options, device)
        phases.end("evaluation")
    print(f"times: {phases.summary()}")
    _say_where(run, state)


def _parse(argv: Sequence[str]) -> tuple[TrainCommand, Checkpoint | None]:
    """The command with its options resolved, and the checkpoint that it resumes."""
    resumed, preset = peek(argv, "--resume"), peek(argv, "--preset")
    if resumed is None:
        return parse(TrainCommand, argv, prog=PROG, default=TrainCommand(preset_options(preset or "birds-tiny"))), None
    if preset is not None:
        raise UserError("--preset can't be given with --resume: the run keeps its own settings")
    checkpoint = load_checkpoint(Path(resumed))
    newest = list_checkpoints(checkpoint.folder.parent)[-1]
    if newest != checkpoint.folder:
        raise UserError(f"{newest} is newer than {checkpoint.folder}: resume the run, or move the newer one away first")
    command = parse(TrainCommand, argv, prog=PROG, default=TrainCommand(checkpoint.options))
    before = flatten(checkpoint.options)
    for name, value in flatten(command.options).items():
        if value != before[name] and not name.startswith(CHANGEABLE):
            option = name.replace("_", "-")
            raise UserError(f"--{option} can't change on --resume (it is {before[name]}): start a new run for {value}")
    checkpoint.options = command.options
    return command, checkpoint


def _load(options: Options, cache_dir: Path, checkpoint: Checkpoint | None, phases: Phases) -> Splits:
    """The data of the run, checked against the settings."""
    root = data_root(options, cache_dir)
    phases.end("drawing")
    splits = load_splits(options, root, checkpoint.vocabulary() if checkpoint else None)
    check_candidates(splits.test, options.evaluation)
    print(f"data: {root}: {len(splits.train)} train and {len(splits.test)} test images")
    phases.end("loading")
    return splits


def _resumed_folder(checkpoint: Checkpoint, options: Options) -> RunFolder:
    run = RunFolder(checkpoint.folder.parent.parent)
    write_text(run.config, to_yaml(options))
    print(f"resumed at step {checkpoint.step}")
    return run


def _evaluate(
    run: RunFolder, state: TrainingState, encoders: Encoders, splits: Splits, options: Options, device: torch.device
) -> None:
    generators = {"ema": state.average.model, "untrained": build_generator(options).to(device)}
    rows = evaluate(generators, encoders, splits.test, splits.truth, options.evaluation, device)
    append_metrics(run.metrics, rows, state.step)
    print(format_metrics(rows))


def _say_where(run: RunFolder, state: TrainingState) -> None:
    name = f"step-{state.step:06d}"
    print(f"pictures:   {run.samples / name}.png, stages {run.stages / name}.png")
    print(f"metrics:    {run.metrics}")
    print(f"checkpoint: {run.checkpoints / name}")
    print(f'try:        python -m kvmgan.sample {run.path} "a small red bird with blue wings and a short yellow beak"')


if __name__ == "__main__":
    sys.exit(main())
