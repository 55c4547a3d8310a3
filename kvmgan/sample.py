"""Draw pictures of captions: ``python -m kvmgan.sample MODEL "a small red bird with blue wings"``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kvmgan.bounds import Bound, Count, Seed, check_bounds
from kvmgan.command_line import parse, run_command
from kvmgan.data.tokens import tokenize
from kvmgan.errors import UserError
from kvmgan.files import read_lines

PROG = "python -m kvmgan.sample"


@dataclass(frozen=True)
class SampleCommand:
    """Draw pictures of captions, with their stages and the attention of every word."""

    source: tyro.conf.Positional[str]
    """Name of a model that ships with the package (birds), run folder (its newest checkpoint is taken), checkpoint, or
    folder that Pipeline.save_pretrained wrote."""
    captions: tyro.conf.Positional[tuple[str, ...]] = ()
    """Captions in quotation marks."""
    captions_file: Path | None = None
    """Text file with a caption a line, drawn after those on the command line."""
    count: Count = 1
    """Pictures a caption [pictures]."""
    seed: Seed = 0
    """Seed of noise and condition: a caption gives the same pictures again, whatever stands beside it."""
    truncation: Annotated[float, Bound(least=0, most=1)] = 1.0
    """Factor on the noise: less gives fewer odd pictures and less variety, 0 one picture whatever the seed."""
    tries: Count | None = None
    """Noises of which the one is taken around which the picture changes least [noises]: fewer birds that face both
    ways; None takes as many as the model's settings say."""
    batch_size: Count = 1
    """Pictures of a caption that are computed together [pictures]; more are faster, and then rounding may depend on
    --count."""
    out: Path = Path("samples")
    """Folder for the PNG files."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that the generator computes in: 16 bits change levels by less than one of 255 on average, and take half
    the time where the device multiplies them faster."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_sample, argv)


def _sample(argv: Sequence[str]) -> None:
    command = parse(SampleCommand, argv, prog=PROG)
    check_bounds(command)
    texts = _texts(command)
    # Imported here: torch takes seconds, and whoever mistypes an option needn't wait for them.
    from kvmgan.actions.sample import Drawing, sample

    asked = Drawing(command.count, command.seed, command.truncation, command.tries, command.batch_size)
    sample(command.source, texts, asked, command.out, command.device, command.dtype)


def _texts(command: SampleCommand) -> list[str]:
    """The captions that are asked for, each with a word in it."""
    texts = list(command.captions)
    if command.captions_file is not None:
        texts += read_lines(command.captions_file, "a caption a line")
    if not texts:
        raise UserError('no caption: add one in quotation marks, such as "a small red bird", or --captions-file FILE')
    for text in texts:
        if not tokenize(text):
            raise UserError(f"the caption {text!r} holds no word: describe the image in a few words")
    return texts


if __name__ == "__main__":
    sys.exit(main())
