"""Released files as a checkpoint of this package, and a checkpoint's networks by the released names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kvmgan.config import DiscriminatorOptions, Options
from kvmgan.config_file import to_yaml
from kvmgan.errors import UserError
from kvmgan.files import write_text
from kvmgan.interop.released import (
    load_discriminator,
    load_image_encoder,
    load_text_encoder,
    read_generator,
    release_discriminator,
    release_generator,
)
from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.models.text_encoder import TextEncoder
from kvmgan.pretraining.encoders import Encoders, EncoderShape
from kvmgan.runs.run_folder import RunFolder
from kvmgan.training.checkpoint import Checkpoint, save_checkpoint, snapshot
from kvmgan.training.precision import Precision
from kvmgan.training.state import TrainingState, initial_state


@dataclass(frozen=True)
class ReleasedFiles:
    """What a released model consists of; ``discriminators`` from the smallest pictures on, or none."""

    generator: Path
    text_encoder: Path
    image_encoder: Path
    captions: Path
    discriminators: tuple[Path, ...] = ()


def convert(files: ReleasedFiles, options: Options, out: Path, *, legacy_mask: bool = False) -> Path:
    """Write a run folder with one checkpoint, of step 0, and return the checkpoint's path.

    The released generator, which is an average of weights, is both the generator that trains and its average; the
    optimisers are new.

    Args:
        options: settings of training; those of the networks are replaced by what the files hold.
        legacy_mask: whether words are masked in the released order.

    Raises:
        UserError: a file is missing, damaged, of another network, or doesn't fit the others. Nothing is written then.
    """
    generator, model, word_dim = read_generator(files.generator, legacy_mask)
    text, vocabulary = load_text_encoder(files.text_encoder, files.captions)
    image = load_image_encoder(files.image_encoder)
    _check_words(word_dim, text, image, files)
    discriminators = _load_discriminators(files.discriminators, generator.sizes, word_dim)
    judges = options.discriminator
    if discriminators:
        judges = DiscriminatorOptions(width=discriminators[0].channels // 8)
    shape = EncoderShape("inception", options.damsm.width, text.encoder.embedding_dim, word_dim)
    options = replace(
        options,
        model=model,
        discriminator=judges,
        damsm=shape.put_into(options.damsm),
    )
    state = _initial(options, generator, discriminators)
    encoders = Encoders(vocabulary, shape, text, image, None)
    run = RunFolder(out)
    checkpoint = save_checkpoint(run.checkpoints, snapshot(state), encoders, options)
    write_text(run.config, to_yaml(options))
    return checkpoint


def export(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """The averaged generator, the discriminators and both encoders by file name, each by its released names.

    Discriminators that see fine details have no released form and are left out, with a line about it.
    """
    encoders = checkpoint.encoders()
    files = {"netG.pth": release_generator(checkpoint.generator())}
    if checkpoint.options.discriminator.detail_gain > 0:
        print("note: discriminators that see details (--discriminator.detail-gain) have no released form: left out")
    else:
        nets = checkpoint.restore(Precision("float32", torch.device("cpu"))).discriminators
        files |= {f"netD{number}.pth": release_discriminator(net) for number, net in enumerate(nets)}
    return files | {
        "text_encoder.pth": dict(encoders.text.state_dict()),
        "image_encoder.pth": dict(encoders.image.state_dict()),
    }


def _check_words(word_dim: int, text: TextEncoder, image: nn.Module, files: ReleasedFiles) -> None:
    """Features of words and regions have one length."""
    found = {files.text_encoder: 2 * text.rnn.hidden_size, files.image_encoder: len(image.emb_features.weight)}
    for path, length in found.items():
        if length != word_dim:
            raise UserError(f"{path} gives features of {length} numbers, {files.generator} takes {word_dim}")


def _load_discriminators(paths: tuple[Path, ...], sizes: list[int], word_dim: int) -> list[Discriminator]:
    if paths and len(paths) != len(sizes):
        raise UserError(f"--discriminators has {len(paths)} files for pictures of {len(sizes)} sizes")
    networks = [load_discriminator(path, size) for path, size in zip(paths, sizes, strict=False)]
    for path, network in zip(paths, networks, strict=True):
        found = network.joint.in_channels - network.channels
        if found != word_dim or network.channels != networks[0].channels:
            raise UserError(
                f"{path} has {network.channels} channels and takes sentences of {found} numbers, expected "
                f"{networks[0].channels} and {word_dim}"
            )
    return networks


def _initial(options: Options, generator: Generator, discriminators: list[Discriminator]) -> TrainingState:
    """The state before the first step, with the released weights."""
    precision = Precision("float32", torch.device("cpu"))
    state = initial_state(options.model, options.discriminator, options.training, options.damsm.word_dim, precision)
    state.generator.load_state_dict(generator.state_dict())
    state.average.model.load_state_dict(generator.state_dict())
    for mine, theirs in zip(state.discriminators, discriminators, strict=False):
        mine.load_state_dict(theirs.state_dict())
    return state
