"""The frozen networks beside the generator: DAMSM encoders, vocabulary and attribute classifier, as one folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kvmgan.config import Options
from kvmgan.data.files import read_json, write_text
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.files import load_tensors, save_tensors
from kvmgan.models.attribute_classifier import AttributeClassifier
from kvmgan.models.text_encoder import TextEncoder, word_mask
from kvmgan.training.builders import build_image_encoder, build_text_encoder


@dataclass
class Encoders:
    """Frozen networks in evaluation mode; ``classifier`` is None where no attributes are known."""

    vocabulary: Vocabulary
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
        """Words (B, T, D), sentence (B, D) and mask (B, T), True = word, of tokens (B, T) with lengths (B,)."""
        words, sentence = self.text(tokens, lengths)
        return words, sentence, word_mask(lengths, tokens.shape[1])

    def save(self, folder: Path) -> None:
        """Write everything into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(folder / "vocabulary.json")
        save_damsm(folder, self.text, self.image)
        if self.classifier is not None:
            save_classifier(folder, self.classifier)


def load_encoders(folder: Path, options: Options) -> Encoders:
    """Read what :meth:`Encoders.save` wrote.

    Raises:
        UserError: if a file is missing, damaged or of another size than the options say.
    """
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    return Encoders(vocabulary, *load_damsm(folder, options, len(vocabulary)), load_classifier(folder, options))


def save_damsm(folder: Path, text: TextEncoder, image: nn.Module) -> None:
    """Write the weights of both DAMSM encoders into ``folder``."""
    save_tensors(folder / "text_encoder.safetensors", text.state_dict())
    save_tensors(folder / "image_encoder.safetensors", image.state_dict())


def load_damsm(folder: Path, options: Options, vocabulary_size: int) -> tuple[TextEncoder, nn.Module]:
    """Read both DAMSM encoders of ``folder``, frozen."""
    text, image = build_text_encoder(options, vocabulary_size), build_image_encoder(options)
    load_weights(text, folder / "text_encoder.safetensors")
    load_weights(image, folder / "image_encoder.safetensors")
    return _frozen(text), _frozen(image)


def save_classifier(folder: Path, classifier: AttributeClassifier) -> None:
    """Write the attribute classifier and the attributes it knows into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "classifier.json", json.dumps(classifier.cardinalities))
    save_tensors(folder / "classifier.safetensors", classifier.state_dict())


def load_classifier(folder: Path, options: Options) -> AttributeClassifier | None:
    """Read the attribute classifier of ``folder``; None if there is none."""
    if not (folder / "classifier.json").exists():
        return None
    cardinalities = read_json(folder / "classifier.json", "the attributes that the classifier knows")
    classifier = AttributeClassifier(cardinalities, width=options.classifier.width)
    load_weights(classifier, folder / "classifier.safetensors")
    return _frozen(classifier)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a module's weights from a safetensors file.

    Raises:
        UserError: if the file is missing, damaged or holds other names or shapes than the module.
    """
    tensors, wanted = load_tensors(path), module.state_dict()
    wrong = sorted(tensors.keys() ^ wanted.keys()) or [n for n in wanted if tensors[n].shape != wanted[n].shape]
    if wrong:
        raise UserError(
            f"{path} doesn't fit the settings of its config.yaml ({wrong[0]} differs): restore the two together"
        )
    module.load_state_dict(tensors)


def weights_digest(module: nn.Module) -> str:
    """Hash of a module's weights and buffers, short form, independent of the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)
