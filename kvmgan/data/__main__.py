"""Unpack data, look at it, keep it decoded or write it as shards: ``python -m kvmgan.data``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kvmgan.bounds import Bound, Count, Seed, check_bounds
from kvmgan.command_line import default_cache_dir, parse_one_of, run_command
from kvmgan.config import check_encoding
from kvmgan.data.archives import unpack
from kvmgan.errors import UserError
from kvmgan.runs.interruption import SignalGuard

PROG = "python -m kvmgan.data"


@dataclass(frozen=True)
class DataCommand:
    """What commands that look at pictures are told of the data."""

    folder: tyro.conf.Positional[Path]
    """Folder of the data, as --data.root names it; it is only read."""
    name: Literal["attngan", "cub", "coco", "folder", "shards"] | None = None
    """Its layout; None finds it out."""
    encoding: str | None = None
    """Encoding of caption files that have no byte order mark and aren't UTF-8."""
    size: Annotated[int, Bound(least=16)] = 64
    """Side of the pictures that are to be trained on [pixels]."""


@dataclass(frozen=True)
class PrepareCommand(DataCommand):
    """Decode, crop and resize all images once, into the cache folder; training finds them there."""

    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for decoded images."""


@dataclass(frozen=True)
class InspectCommand(DataCommand):
    """Count what a folder holds, draw pictures as training sees them, and list what is missing, broken or doubtful."""

    max_words: Count = 18
    """Words kept of a caption in training [words]."""
    sheet: Path = Path("inspection.png")
    """File for the pictures."""
    seed: Seed = 0
    """Seed of which pictures are drawn, with which crop, facing and caption."""


@dataclass(frozen=True)
class ShardCommand:
    """Write data of any layout as tar shards, which training reads from end to end: for slow or shared disks."""

    folder: tyro.conf.Positional[Path]
    """Folder of the data, as --data.root names it; it is only read."""
    into: tyro.conf.Positional[Path]
    """Folder for the shards, new or empty."""
    name: Literal["attngan", "cub", "coco", "folder", "shards"] | None = None
    """Its layout; None finds it out."""
    encoding: str | None = None
    """Encoding of caption files that have no byte order mark and aren't UTF-8."""
    samples: Count = 1000
    """Pictures of a shard [images]."""


@dataclass(frozen=True)
class UnpackCommand:
    """Unpack archives of data; one whose paths leave the folder, or that holds links, is refused."""

    archives: tyro.conf.Positional[tuple[Path, ...]]
    """Tar files, of any compression, and zip files."""
    into: Path = Path("data")
    """Folder that they are unpacked into; nothing in it is overwritten."""


_COMMANDS = {"inspect": InspectCommand, "prepare": PrepareCommand, "shard": ShardCommand, "unpack": UnpackCommand}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, 2 where ``inspect`` finds something missing or broken."""
    return run_command(_dispatch, argv)


def _dispatch(argv: Sequence[str]) -> None:
    command = parse_one_of(_COMMANDS, argv, prog=PROG)
    if isinstance(command, UnpackCommand):
        _unpack(command)
        return
    check_bounds(command)
    check_encoding(command.encoding, "--encoding")
    # Imported here: torch takes seconds, and whoever mistypes an option needn't wait for them.
    from kvmgan.actions.data import found_layout, inspect, prepare, shard

    data = found_layout(command.folder, command.name, command.encoding)
    if isinstance(command, PrepareCommand):
        prepare(data, command.size, command.cache_dir)
    elif isinstance(command, ShardCommand):
        shard(data, command.into, command.samples)
    else:
        inspect(data, size=command.size, max_words=command.max_words, seed=command.seed, sheet=command.sheet)


def _unpack(command: UnpackCommand) -> None:
    if not command.archives:
        raise UserError(f"no archive is named: {PROG} unpack ARCHIVE... --into FOLDER")
    with SignalGuard("archives that were finished stay"):
        for archive in command.archives:
            for path in unpack(archive, command.into):
                print(f"unpacked: {path}")


if __name__ == "__main__":
    sys.exit(main())
