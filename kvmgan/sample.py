"""Draw pictures of captions: ``python -m kvmgan.sample RUN_OR_CHECKPOINT "a small red bird with blue wings"``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from kvmgan.bounds import Count, Seed, check_bounds
from kvmgan.command_line import parse, run_command
from kvmgan.data.tokens import tokenize
from kvmgan.data.vocabulary import Vocabulary, select_words
from kvmgan.errors import UserError
from kvmgan.figures.attention_maps import attention_maps
from kvmgan.figures.pictures import save_png, to_picture
from kvmgan.figures.stage_strip import stage_strip
from kvmgan.files import check_writable, read_lines
from kvmgan.models.generator import GeneratorOutput
from kvmgan.random_streams import normal_noise
from kvmgan.runs.interruption import SignalGuard
from kvmgan.training.checkpoint import Checkpoint, load_checkpoint
from kvmgan.training.device import resolve_device

PROG = "python -m kvmgan.sample"


@dataclass(frozen=True)
class SampleCommand:
    """Draw pictures of captions, with their stages and the attention of every word."""

    source: tyro.conf.Positional[Path]
    """Run folder (its newest checkpoint is taken) or checkpoint folder."""
    captions: tyro.conf.Positional[tuple[str, ...]] = ()
    """Captions in quotation marks."""
    captions_file: Path | None = None
    """Text file with a caption a line, drawn after those on the command line."""
    count: Count = 1
    """Pictures a caption [pictures]."""
    seed: Seed = 0
    """Seed of noise and condition: a caption gives the same pictures again, whatever stands beside it."""
    out: Path = Path("samples")
    """Folder for the PNG files."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""


@dataclass
class EncodedCaption:
    """A caption as the model reads it."""

    text: str
    indices: list[int]
    words: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_sample, argv)


def _sample(argv: Sequence[str]) -> None:
    command = parse(SampleCommand, argv, prog=PROG)
    check_bounds(command)
    texts = _texts(command)
    device = resolve_device(command.device, "--device")
    with SignalGuard("pictures finished so far stay"):
        checkpoint = load_checkpoint(command.source).runnable_on(device)
        vocabulary, max_words = checkpoint.vocabulary(), checkpoint.options.evaluation.max_words
        # Every caption is checked before the first picture is drawn, and the folder, which is then made, last.
        captions = [_encode(text, vocabulary, max_words) for text in texts]
        check_writable(command.out, "--out")
        _draw_all(checkpoint, captions, command, device)


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


def _encode(text: str, vocabulary: Vocabulary, max_words: int) -> EncodedCaption:
    """Indices and words of a caption; unknown words and words past ``max_words`` are dropped with a warning."""
    every = vocabulary.encode(text)
    unknown = vocabulary.unknown(text)
    if unknown:
        print(f"warning: {text!r}: unknown words are left out: {', '.join(unknown)}", file=sys.stderr)
    if len(every) > max_words:
        print(f"warning: {text!r}: only its first {max_words} words are used", file=sys.stderr)
    indices = select_words(every, max_words, None)
    return EncodedCaption(text, indices, [vocabulary.words[index] for index in indices])


@torch.no_grad()
def _draw_all(
    checkpoint: Checkpoint, captions: Sequence[EncodedCaption], command: SampleCommand, device: torch.device
) -> None:
    encoders, generator = checkpoint.encoders().to(device), checkpoint.generator().to(device)
    options = checkpoint.options
    dims = options.model.noise_dim, options.model.condition_dim
    for number, caption in enumerate(captions, start=1):
        length = len(caption.indices)
        tokens = torch.tensor([caption.indices + [0] * (options.evaluation.max_words - length)])
        words, sentence, mask = encoders.encode(tokens, torch.tensor([length]))
        for variant in range(command.count):
            # A function of seed and variant alone: a caption's picture doesn't depend on the captions beside it.
            drawn = normal_noise((1, sum(dims)), command.seed, "sample", variant).to(device)
            noise, condition = drawn.split(dims, dim=1)
            made = generator(noise, sentence, words, mask, condition_noise=condition, return_attention=True)
            suffix = f"-{variant + 1}" if command.count > 1 else ""
            _save(made, caption, command.out / f"{number:03d}-{_slug(caption.text)}{suffix}")


def _save(made: GeneratorOutput, caption: EncodedCaption, stem: Path) -> None:
    """Write the picture, its stages and, if the model has them, its attention maps; print their paths."""
    pictures = {"": to_picture(made.images[-1][0]), "-stages": stage_strip(made.images)}
    if made.attention:
        pictures["-attention"] = attention_maps(made.images[-1][0], made.attention[-1][0], caption.words)
    for kind, picture in pictures.items():
        path = stem.with_name(f"{stem.name}{kind}.png")
        save_png(picture, path)
        print(path)


def _slug(text: str) -> str:
    """Letters and digits of a caption, for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-")


if __name__ == "__main__":
    sys.exit(main())
