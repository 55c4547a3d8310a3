"""The released AttnGAN and DM-GAN networks as networks of this package; sizes come from the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from kvmgan.config import MemoryOptions, ModelOptions
from kvmgan.data.readers.attngan import read_vocabulary
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.interop.names import released_discriminator_names, released_generator_names
from kvmgan.interop.weights import load_state, read_state
from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.models.text_encoder import TextEncoder
from kvmgan.training.builders import build_generator


def load_generator(path: Path | str, legacy_mask: bool = False) -> Generator:
    """A released ``netG`` file as a generator in evaluation mode, on the CPU.

    DM-GAN's lets no gradient through the image mean, as released.

    Args:
        legacy_mask: whether it masks words as the released code does, by which a picture depends on its batch.

    Raises:
        UserError: the file is missing, damaged, or of another network; the message lists the names that differ.
    """
    return read_generator(Path(path), legacy_mask)[0]


def read_generator(path: Path, legacy_mask: bool) -> tuple[Generator, ModelOptions, int]:
    """What :func:`load_generator` returns, the settings that build such a generator, and its words' length."""
    state = read_state(path)
    model, word_dim = _generator_options(state, path)
    model = replace(model, legacy_mask=legacy_mask)
    generator = build_generator(model, word_dim, seed=0)
    load_state(generator, state, released_generator_names(generator.state_dict()), path)
    return generator.eval(), model, word_dim


def _generator_options(state: Mapping[str, Tensor], path: Path) -> tuple[ModelOptions, int]:
    """The settings of a released generator and the length of its word features, from the shapes of its weights.

    Raises:
        UserError: if the names that tell them aren't there, or no such generator has these shapes.
    """

    def shape(name: str, dims: int) -> Sequence[int]:
        if name not in state or state[name].ndim < dims:
            raise UserError(f"{path} isn't a released generator: {name} is missing or of less than {dims} dimensions")
        return state[name].shape

    conditions, sentence_dim = shape("ca_net.fc.weight", 2)[:2]
    width, first, inputs = shape("img_net1.img.0.weight", 2)[1], *shape("h_net1.fc.0.weight", 2)[:2]
    refinement = _refinement(state)
    words = {"memory": "h_net2.A.weight", "attention": "h_net2.att.conv_context.weight"}.get(refinement)
    word_dim = shape(words, 2)[1] if words else sentence_dim
    if word_dim != sentence_dim:
        raise UserError(f"{path} has words of {word_dim} and sentences of {sentence_dim} numbers: expected one length")
    model = ModelOptions(
        stages=_count(state, r"img_net(\d+)\.", first=1),
        # The first linear layer gives 4x4 positions of width * base_size / 4 channels, and as many gates.
        base_size=first // (2 * 16) * 4 // width,
        width=width,
        noise_dim=inputs - conditions // 4,
        condition_dim=conditions // 4,
        refinement=refinement,
        residual_blocks=_count(state, r"h_net2\.residual\.(\d+)\.", first=0),
        memory=MemoryOptions(detach_mean=refinement == "memory"),
    )
    return model, word_dim


def load_text_encoder(path: Path | str, captions_pickle: Path | str) -> tuple[TextEncoder, Vocabulary]:
    """A released DAMSM text encoder in evaluation mode, on the CPU, and the words that it knows.

    Args:
        captions_pickle: ``captions.pickle`` of the release, whose vocabulary the weights were trained on.

    Raises:
        UserError: a file is missing, damaged, of another network, or the two know different numbers of words.
    """
    path = Path(path)
    state, vocabulary = read_state(path), read_vocabulary(Path(captions_pickle))
    embedding, recurrent = state.get("encoder.weight"), state.get("rnn.weight_hh_l0")
    if embedding is None or recurrent is None or embedding.ndim != 2 or recurrent.ndim != 2:
        raise UserError(f"{path} isn't a released text encoder: encoder.weight or rnn.weight_hh_l0 is missing")
    if len(embedding) != len(vocabulary):
        raise UserError(f"{path} knows {len(embedding)} words and {captions_pickle} has {len(vocabulary)}")
    encoder = TextEncoder(
        len(vocabulary), embedding_dim=embedding.shape[1], word_dim=2 * recurrent.shape[1], dropout=0.0
    )
    load_state(encoder, state, {name: name for name in encoder.state_dict()}, path)
    return encoder.eval(), vocabulary


def load_image_encoder(path: Path | str) -> nn.Module:
    """A released DAMSM image encoder (Inception-v3 and two projections) in evaluation mode, on the CPU.

    Raises:
        UserError: the file is missing, damaged or of another network, or torchvision isn't installed.
    """
    # Imported here: only this encoder needs torchvision.
    from kvmgan.models.inception_encoder import InceptionImageEncoder

    path = Path(path)
    state = read_state(path)
    projection = state.get("emb_features.weight")
    if projection is None or projection.ndim != 4:
        raise UserError(f"{path} isn't a released image encoder: emb_features.weight is missing")
    encoder = InceptionImageEncoder(feature_dim=len(projection))
    load_state(encoder, state, {name: name for name in encoder.state_dict()}, path)
    return encoder.eval()


def load_discriminator(path: Path | str, size: int) -> Discriminator:
    """DM-GAN's released ``netD`` file for images of ``size`` pixels as a discriminator in evaluation mode, on the CPU.

    Raises:
        UserError: the file is missing, damaged or of another network, as AttnGAN's are, which have no spectral norms.
    """
    path = Path(path)
    state = read_state(path)
    head, joint = state.get("UNCOND_DNET.outlogits.0.weight"), state.get("COND_DNET.jointConv.0.module.weight_bar")
    if head is None or joint is None or head.ndim != 4 or joint.ndim != 4:
        raise UserError(f"{path} isn't a discriminator of DM-GAN's: its heads or spectral norms are missing")
    channels = head.shape[1]
    discriminator = Discriminator(size, width=channels // 8, sentence_dim=joint.shape[1] - channels)
    load_state(discriminator, state, released_discriminator_names(discriminator.state_dict()), path)
    return discriminator.eval()


def release_generator(generator: Generator) -> dict[str, Tensor]:
    """The state of a generator by its released names and in the released shapes, for ``torch.save``."""
    state = generator.state_dict()
    return {
        released: _convolution_of(released, state[name]).clone()
        for name, released in released_generator_names(state).items()
    }


def release_discriminator(discriminator: Discriminator) -> dict[str, Tensor]:
    """The state of a discriminator by DM-GAN's names, for ``torch.save``."""
    state = discriminator.state_dict()
    return {released: state[name].clone() for name, released in released_discriminator_names(state).items()}


def _convolution_of(released: str, tensor: Tensor) -> Tensor:
    """Linear layers of the memory with the kernel's dimensions that they have in the release."""
    dims = {"M_w.0": 1, "M_r.0": 1, "key.0": 1, "value.0": 1, "response_gate.0": 2}
    for layer, ones in dims.items():
        if released.endswith(f".{layer}.weight"):
            return tensor.reshape(*tensor.shape[:2], *[1] * ones)
    return tensor


def _refinement(state: Mapping[str, Tensor]) -> str:
    if "h_net2.A.weight" in state:
        return "memory"
    return "attention" if "h_net2.att.conv_context.weight" in state else "none"


def _count(state: Mapping[str, Tensor], pattern: str, *, first: int) -> int:
    """How many numbers there are in the names that begin so, from the first one on without a gap."""
    numbers = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    count = 0
    while first + count in numbers:
        count += 1
    return count
