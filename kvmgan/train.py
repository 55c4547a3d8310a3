"""Train a text-to-image model: ``python -m kvmgan.train`` draws its data, trains, evaluates, says where all is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kvmgan.command_line import default_cache_dir, parse, peek, run_command, starting_options
from kvmgan.config import Options, validate
from kvmgan.config_file import to_yaml
from kvmgan.errors import UserError

PROG = "python -m kvmgan.train"


@dataclass(frozen=True)
class TrainCommand:
    """Train a text-to-image model. Without an argument: procedural birds, preset birds-tiny, all on this machine."""

    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    config: Path | None = None
    """Settings to start from instead of a preset's: a run's config.yaml, or what --dry-run printed."""
    resume: Path | None = None
    """Run folder (or its newest checkpoint) to continue; its own settings are used."""
    encoders: Path | None = None
    """Encoders to take instead of pretraining some: a run, a checkpoint or a folder that kvmgan.pretrain filled."""
    dry_run: bool = False
    """Print the resolved options as YAML and stop."""
    profile: int = 0
    """Steps to profile [steps]: writes trace.json into the run folder, prints the ten most expensive things."""
    wandb: str | None = None
    """Project of Weights & Biases that figures and pictures are sent to as well, by its own package and login."""
    runs_dir: Path = Path("runs")
    """Folder in which run folders are made."""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for drawn birds and pretrained encoders."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_train, argv)


def _train(argv: Sequence[str]) -> None:
    path = peek(argv, "--resume")
    default = TrainCommand(starting_options(argv)) if path is None else _unresumed(argv)
    command, checkpoint = parse(TrainCommand, argv, prog=PROG, default=default), None
    if path is not None:
        # Imported here and below: torch takes seconds, and whoever mistypes an option needn't wait for them.
        from kvmgan.actions.train import find_resumed, resumed

        checkpoint = find_resumed(Path(path))
        # Parsed again, now that the run's own settings are known as defaults.
        command = parse(TrainCommand, argv, prog=PROG, default=TrainCommand(checkpoint.options))
        checkpoint = resumed(checkpoint, command.options)
    validate(command.options)
    if command.profile < 0:
        raise UserError(f"--profile is {command.profile}: it must be 0 or more")
    if command.dry_run:
        print(to_yaml(command.options), end="")
        return
    from kvmgan.actions.train import Surroundings, train

    around = Surroundings(command.runs_dir, command.cache_dir, command.encoders, command.profile, command.wandb)
    train(command.options, checkpoint, around)


def _unresumed(argv: Sequence[str]) -> TrainCommand:
    """The defaults of a command that resumes a run, as long as the run's own settings aren't known."""
    for option in ("--preset", "--config", "--encoders"):
        if peek(argv, option) is not None:
            raise UserError(f"{option} can't be given with --resume: the run keeps its own settings and encoders")
    return TrainCommand()


if __name__ == "__main__":
    sys.exit(main())
