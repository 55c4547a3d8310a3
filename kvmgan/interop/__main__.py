"""Released weights to a checkpoint of this package, and back: ``python -m kvmgan.interop convert|export ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from kvmgan.command_line import parse_one_of, run_command

PROG = "python -m kvmgan.interop"


@dataclass(frozen=True)
class ConvertCommand:
    """Make a run folder of AttnGAN's or DM-GAN's released files, to sample from, to judge, and to train on from."""

    out: tyro.conf.Positional[Path]
    """Run folder to write; it must not exist."""
    generator: Path
    """The released netG file."""
    text_encoder: Path
    """The released text_encoder file of the same data."""
    image_encoder: Path
    """The released image_encoder file of the same data."""
    captions: Path
    """The captions.pickle of the same data, whose vocabulary the weights know."""
    discriminators: tuple[Path, ...] = ()
    """DM-GAN's released netD files, smallest pictures first; without them discriminators begin anew."""
    preset: Literal["cub", "coco"] = "cub"
    """Recipe that training goes on by."""
    data_root: Path = Path("data")
    """Folder of the data that it is judged and trained on."""
    legacy_mask: bool = False
    """Mask words in the released order, by which a picture depends on its batch: for scoring weights as published."""


@dataclass(frozen=True)
class ExportCommand:
    """Write a checkpoint's networks under the released names: netG.pth, netD0.pth, ..., the encoders."""

    source: tyro.conf.Positional[Path]
    """Run folder (its newest checkpoint is taken) or checkpoint folder."""
    out: tyro.conf.Positional[Path]
    """Folder to write the files into."""


_COMMANDS = {"convert": ConvertCommand, "export": ExportCommand}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_dispatch, argv)


def _dispatch(argv: Sequence[str]) -> None:
    command = parse_one_of(_COMMANDS, argv, prog=PROG)
    from kvmgan.actions.interop import convert_released, export_released
    from kvmgan.interop.conversion import ReleasedFiles

    if isinstance(command, ExportCommand):
        export_released(command.source, command.out)
        return
    files = ReleasedFiles(
        command.generator, command.text_encoder, command.image_encoder, command.captions, command.discriminators
    )
    convert_released(
        files, command.out, preset=command.preset, data_root=command.data_root, legacy_mask=command.legacy_mask
    )


if __name__ == "__main__":
    sys.exit(main())
