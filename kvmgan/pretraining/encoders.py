"""The frozen networks beside the generator: DAMSM encoders, vocabulary and attribute classifier, as one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kvmgan.config import DamsmOptions
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.files import read_json, write_text
from kvmgan.models.attribute_classifier import AttributeClassifier
from kvmgan.models.image_encoder import SmallImageEncoder
from kvmgan.models.text_encoder import TextEncoder, word_mask
from kvmgan.runs.checkpoint_folder import find_checkpoint
from kvmgan.storage.tensor_file import load_tensors, save_tensors

_SHAPE = "damsm.json"


@dataclass(frozen=True)
class EncoderShape:
    """The settings of :class:`kvmgan.config.DamsmOptions` that decide the networks and not how they are trained."""

    encoder: Literal["small", "inception"]
    width: int
    embedding_dim: int
    word_dim: int

    @classmethod
    def of(cls, damsm: DamsmOptions) -> EncoderShape:
        """The shape that the settings ask for."""
        return cls(damsm.encoder, damsm.width, damsm.embedding_dim, damsm.word_dim)

    def put_into(self, damsm: DamsmOptions) -> DamsmOptions:
        """The settings with this shape."""
        return replace(damsm, **asdict(self))


@dataclass
class Encoders:
    """Frozen networks in evaluation mode; ``classifier`` is None where no attributes are known."""

    vocabulary: Vocabulary
    shape: EncoderShape
    text: TextEncoder
    image: nn.Module
    classifier: AttributeClassifier | None

    def to(self, device: torch.device) -> Encoders:
        """Move all networks, in place."""
        for module in (self.text, self.image, self.classifier):
            if module is not None:
                module.to(device)
        return self

    @torch.no_grad()
    def encode(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words (B, T, D), sentence (B, D) and mask (B, T), True = word, on the encoders' device.

        Args:
            tokens: (B, T) int64, on any device.
            lengths: (B,) int64, on the host, so that nothing waits for the device.
        """
        device = self.text.encoder.weight.device
        words, sentence = self.text(tokens.to(device, non_blocking=True), lengths)
        return words, sentence, word_mask(lengths, tokens.shape[1]).to(device, non_blocking=True)

    def save(self, folder: Path) -> None:
        """Write everything into ``folder``."""
        save_damsm(folder, self.vocabulary, self.shape, self.text, self.image)
        if self.classifier is not None:
            save_classifier(folder, self.classifier)


def find_encoders(path: Path) -> Path:
    """The folder of encoders that ``path`` is or holds: a run, a checkpoint or a finished folder of pretraining.

    Raises:
        UserError: if there is none.
    """
    for folder in (path, path / "best", path / "encoders"):
        if (folder / _SHAPE).is_file():
            return folder
    try:
        folder = find_checkpoint(path) / "encoders"
    except UserError:
        folder = path
    if not (folder / _SHAPE).is_file():
        raise UserError(f"{path} holds no encoders: name a run, a checkpoint or a folder that kvmgan.pretrain filled")
    return folder


def load_encoders(folder: Path) -> Encoders:
    """Read what :meth:`Encoders.save` wrote, onto the CPU.

    Raises:
        UserError: if a file is missing, damaged or doesn't fit the others.
    """
    vocabulary, shape, text = load_text_encoder(folder)
    image = build_image_encoder(shape)
    load_weights(image, folder / "image_encoder.safetensors")
    return Encoders(vocabulary, shape, text, _frozen(image), load_classifier(folder))


def load_text_encoder(folder: Path) -> tuple[Vocabulary, EncoderShape, TextEncoder]:
    """The words, the sizes and the frozen text encoder of a folder of encoders: all that drawing needs of it.

    Raises:
        UserError: as :func:`load_encoders` does.
    """
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    shape = load_shape(folder)
    text = build_text_encoder(shape, len(vocabulary))
    load_weights(text, folder / "text_encoder.safetensors")
    return vocabulary, shape, _frozen(text)


def save_damsm(folder: Path, vocabulary: Vocabulary, shape: EncoderShape, text: TextEncoder, image: nn.Module) -> None:
    """Write both DAMSM encoders, their shape and their words into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save(folder / "vocabulary.json")
    write_text(folder / _SHAPE, json.dumps(asdict(shape)))
    save_tensors(folder / "text_encoder.safetensors", text.state_dict())
    save_tensors(folder / "image_encoder.safetensors", image.state_dict())


def save_classifier(folder: Path, classifier: AttributeClassifier) -> None:
    """Write the attribute classifier and the attributes it knows into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {"width": classifier.width, "cardinalities": classifier.cardinalities}
    write_text(folder / "classifier.json", json.dumps(description))
    save_tensors(folder / "classifier.safetensors", classifier.state_dict())


def load_classifier(folder: Path) -> AttributeClassifier | None:
    """Read the attribute classifier of ``folder``, frozen; None if there is none."""
    path = folder / "classifier.json"
    if not path.exists():
        return None
    description = read_json(path, "the attributes that the classifier knows")
    try:
        classifier = AttributeClassifier(description["cardinalities"], width=description["width"])
    except (KeyError, TypeError):
        raise UserError(f"{path} doesn't describe an attribute classifier: restore it") from None
    load_weights(classifier, folder / "classifier.safetensors")
    return _frozen(classifier)


def build_text_encoder(shape: EncoderShape, vocabulary_size: int, dropout: float = 0.0) -> TextEncoder:
    """The text encoder for a vocabulary of that many words, padding included, with random weights."""
    return TextEncoder(vocabulary_size, embedding_dim=shape.embedding_dim, word_dim=shape.word_dim, dropout=dropout)


def build_image_encoder(shape: EncoderShape, weights: Path | Literal["imagenet"] | None = None) -> nn.Module:
    """The image encoder with random weights; ``weights``: where those of Inception come from."""
    if shape.encoder == "inception":
        # Imported here: only this encoder needs torchvision.
        from kvmgan.models.inception_encoder import InceptionImageEncoder

        return InceptionImageEncoder(feature_dim=shape.word_dim, weights=weights)
    return SmallImageEncoder(feature_dim=shape.word_dim, width=shape.width)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a module's weights from a safetensors file.

    Raises:
        UserError: if the file is missing or damaged, and as :func:`put_weights` does.
    """
    put_weights(module, load_tensors(path), path)


def put_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a module the weights that were read from the file ``path``.

    Raises:
        UserError: if they have other names or shapes than the module's, or one isn't finite.
    """
    wanted = module.state_dict()
    wrong = _misfit(tensors, wanted)
    if wrong is not None:
        raise UserError(
            f"{path} doesn't fit the settings beside it ({wrong}): restore the two together, or read them with the "
            "version of kvmgan that wrote them, whose networks may have had another form"
        )
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} has values that aren't finite: restore an earlier checkpoint")
    module.load_state_dict(tensors)


def _misfit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """The first thing by which weights differ from those that a module has; None if they fit."""
    for name in sorted(tensors.keys() ^ wanted.keys()):
        return f"{name} is missing" if name in wanted else f"{name} is none of the network's"
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            return f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
    return None


def load_shape(folder: Path) -> EncoderShape:
    """The sizes of the encoders in ``folder``.

    Raises:
        UserError: if their file is missing or holds something else.
    """
    path = folder / _SHAPE
    content = read_json(path, "the sizes of the encoders")
    try:
        return EncoderShape(**content)
    except TypeError:
        raise UserError(f"{path} doesn't describe encoders: restore it") from None


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)
