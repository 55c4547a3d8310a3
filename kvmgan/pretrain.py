"""Pretrain the encoders alone: ``python -m kvmgan.pretrain`` fills the cache that ``kvmgan.train`` reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kvmgan.command_line import default_cache_dir, parse, run_command, starting_options
from kvmgan.config import Options, validate
from kvmgan.config_file import to_yaml

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
    # Imported here: torch takes seconds, and whoever mistypes an option needn't wait for them.
    from kvmgan.actions.pretrain import pretrain

    pretrain(command.options, command.cache_dir)


if __name__ == "__main__":
    sys.exit(main())
