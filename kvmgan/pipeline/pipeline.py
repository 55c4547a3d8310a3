"""Captions in, pictures out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import kvmem
from kvmgan.bounds import SEED_LIMIT
from kvmgan.data.pixels import to_bytes
from kvmgan.data.samples import pad
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.models.generator import Generator, GeneratorOutput
from kvmgan.models.noise_choice import steadiest
from kvmgan.models.text_encoder import TextEncoder, word_mask
from kvmgan.pipeline.caption import Caption, read_caption
from kvmgan.pipeline.folder import STORED_DTYPES, write_pipeline
from kvmgan.pipeline.generated_image import GeneratedImage
from kvmgan.pipeline.interpolation import between_noises, joined_words, stretched_places
from kvmgan.pipeline.prepared_generator import PreparedGenerator
from kvmgan.pipeline.settings import PipelineSettings
from kvmgan.pipeline.stored_model import StoredModel, find_model
from kvmgan.random_streams import normal_noise
from kvmgan.training.device import resolve_device, with_runnable_backend

BATCH_SIZE = 32
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class _Order:
    """One picture to draw: features of T words (T, D) and of the sentence (D,), all on the CPU.

    noises: (N, Z + C) to choose from.
    """

    caption: str
    words: tuple[str, ...]
    features: Tensor
    sentence: Tensor
    noises: Tensor


class Pipeline:
    """A trained model that draws pictures of captions.

    ::

        pipeline = kvmgan.Pipeline.from_pretrained("birds")
        first, second = pipeline("a small red bird with blue wings", count=2)
        first.picture.save("bird.png")
        first.attention_of("blue")  # (32, 32): where the last refinement looked at the word

    A picture is a function of the model, the caption, the seed, its number among those of its caption, the truncation
    and how many noises are tried. What is drawn in one batch with it changes it by rounding alone, unless that decides
    between two noises, and in batches of one not at all.

    Attributes:
        settings: sizes of the networks; ``settings.model.sizes`` are the sides of the stages [pixels].
        vocabulary: the words that the model knows.
        generator, text_encoder: the networks, frozen, in evaluation mode.
    """

    def __init__(
        self, settings: PipelineSettings, vocabulary: Vocabulary, generator: Generator, text_encoder: TextEncoder
    ) -> None:
        self.settings, self.vocabulary = settings, vocabulary
        self.generator, self.text_encoder = generator, text_encoder
        self._prepared: PreparedGenerator | None = None

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | torch.device = "cpu") -> Pipeline:
        """Read a model: by the name of one that ships with the package, or from a path.

        Args:
            source: a name such as ``"birds"``; a folder that :meth:`save_pretrained` wrote; a run folder, whose newest
                checkpoint is taken; or a checkpoint. Nothing in it is run: weights are safetensors, settings JSON or
                YAML without tags.
            device: where it draws: cpu, cuda, cuda:N, or auto (a GPU where there is one).

        Raises:
            kvmgan.errors.UserError: nothing is there, or a file is missing, damaged or of another version; the message
                names it. Or the device is unknown or isn't there.
        """
        return cls.of_model(find_model(source), device=device)

    @classmethod
    def of_model(cls, model: StoredModel, *, device: str | torch.device = "cpu") -> Pipeline:
        """Read the networks of a model that `kvmgan.pipeline.stored_model.find_model` found; raises as
        :meth:`from_pretrained` does.
        """
        place = resolve_device(str(device), "device")
        # The random weights that are written over leave torch's own generator alone.
        with torch.random.fork_rng(devices=[]):
            generator, text_encoder = model.load(place)
        return cls(model.settings, model.vocabulary, generator.to(place), text_encoder.to(place))

    @property
    def device(self) -> torch.device:
        """Where pictures are computed."""
        return self.text_encoder.encoder.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision the generator computes; the text encoder's is float32."""
        return self.generator.conditioning.fc.weight.dtype

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Pipeline:
        """Move the networks, in place, and return the pipeline.

        Args:
            device: as in :meth:`from_pretrained`; None leaves them where they are.
            dtype: float32, bfloat16, float16 or float64 for the generator; None leaves it as it is.

        Raises:
            kvmgan.errors.UserError: the device is unknown or isn't there.
            ValueError: another dtype.
        """
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"dtype is {dtype}, expected one of {', '.join(map(str, _DTYPES))}")
        if device is not None:
            place = resolve_device(str(device), "device")
            backend = with_runnable_backend(self.settings.model, place).memory.backend
            for module in self.generator.modules():
                if isinstance(module, kvmem.KVMemoryLayer):
                    module.backend = backend
            self.text_encoder.to(place)
            self.generator.to(place)
        if dtype is not None:
            self.generator.to(dtype)
        self._prepared = None
        return self

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write all that drawing needs into ``folder``, whole or not at all; returns its path.

        Args:
            folder: new, empty, or an earlier pipeline's, which is replaced.
            dtype: float32, or float16 for half the size: weights are rounded to 11 bits and read back as float32.

        Raises:
            kvmgan.errors.UserError: the folder holds other files or can't be written, or a weight is too large for the
                dtype.
            ValueError: another dtype, or the generator was moved to one that has lost bits.
        """
        if dtype not in STORED_DTYPES:
            raise ValueError(f"dtype is {dtype}, expected one of {', '.join(map(str, STORED_DTYPES))}")
        if self.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(f"the pipeline is {self.dtype}: save it before .to(dtype=...) rounds its weights")
        networks = {"generator": self.generator, "text_encoder": self.text_encoder}
        write_pipeline(Path(folder), self.settings, self.vocabulary, networks, dtype)
        return Path(folder)

    def read(self, text: str) -> Caption:
        """How the model reads a caption: its words, and what it doesn't read of it.

        Raises:
            kvmgan.errors.UserError: it holds no word, or only unknown ones.
        """
        return read_caption(text, self.vocabulary, self.settings.max_words)

    def __call__(
        self,
        captions: str | Caption | Sequence[str | Caption],
        *,
        seed: int = 0,
        count: int = 1,
        truncation: float = 1.0,
        tries: int | None = None,
        batch_size: int = BATCH_SIZE,
        attention: bool = True,
    ) -> list[GeneratedImage]:
        """Draw ``count`` pictures of each caption: those of the first caption first.

        Args:
            captions: one or several; words that the model doesn't know are left out, with a warning.
            seed: of noise and condition, 0 to 2**63 - 1. Picture n of every caption has the same noises to choose from.
            count: pictures a caption.
            truncation: factor on the noise, 0 to 1: less of it gives fewer odd pictures and less variety, 0 the same
                picture whatever the seed.
            tries: noises of which the one is taken around which the picture changes least: fewer birds that face both
                ways, see :mod:`kvmgan.models.noise_choice`. 1 takes the first, the same for every caption; None as
                many as the model's settings say.
            batch_size: pictures that are computed together; 1 makes each independent of the others to the last bit.
            attention: whether to keep where each word was looked at.

        Raises:
            kvmgan.errors.UserError: a caption holds no word that the model knows.
            ValueError: a number out of its range, or no caption.
        """
        single = isinstance(captions, str | Caption)
        read = [self._read_aloud(caption) for caption in ([captions] if single else captions)]
        if not read:
            raise ValueError("captions is empty, expected one or more")
        tries = self.settings.tries if tries is None else tries
        self._check(seed, truncation, count=count, tries=tries, batch_size=batch_size)
        noises = [self._noises(seed, number, truncation, tries) for number in range(count)]
        orders = (
            _Order(caption.text, caption.words, features, sentence, own)
            for caption, features, sentence in self._encoded(read, batch_size)
            for own in noises
        )
        return list(self._draw(orders, batch_size, attention))

    def interpolate(
        self,
        first: str,
        last: str | None = None,
        *,
        steps: int = 8,
        seed: int = 0,
        last_seed: int | None = None,
        truncation: float = 1.0,
        batch_size: int = BATCH_SIZE,
        attention: bool = True,
    ) -> list[GeneratedImage]:
        """Draw the way from one caption to another, from one noise to another, or both at once.

        The first and the last picture are those that calling the pipeline with ``tries=1`` gives. Between them the
        sentence's and the words' features are mixed in proportion, word by word (of the shorter caption some stand
        twice), and the noise goes along the arc between both.

        Args:
            first, last: captions; None for ``last`` stays with the first.
            steps: pictures in all, 2 or more.
            seed, last_seed: seeds of the noise; None for ``last_seed`` stays with the first.
            truncation, batch_size, attention: as when calling the pipeline.

        Raises:
            kvmgan.errors.UserError: a caption holds no word that the model knows.
            ValueError: a number out of its range, or neither ``last`` nor ``last_seed``.
        """
        if last is None and last_seed is None:
            raise ValueError("last and last_seed are None, expected a caption, a seed or both to go to")
        if steps < 2:
            raise ValueError(f"steps is {steps}, expected 2 or more")
        last_seed = seed if last_seed is None else last_seed
        for end in (seed, last_seed):
            self._check(end, truncation, batch_size=batch_size)
        read = [self._read_aloud(caption) for caption in (first, first if last is None else last)]
        ends = [
            _Order(caption.text, caption.words, features, sentence, self._noises(own, 0, truncation, 1))
            for (caption, features, sentence), own in zip(self._encoded(read, 1), (seed, last_seed), strict=True)
        ]
        orders = (_between(*ends, number / (steps - 1)) for number in range(steps))
        return list(self._draw(orders, batch_size, attention))

    def _read_aloud(self, caption: str | Caption) -> Caption:
        """Read a caption, with a warning for what is left out; one that was read before is taken as it is."""
        if isinstance(caption, Caption):
            return caption
        read = self.read(caption)
        for note in read.notes:
            warnings.warn(note, stacklevel=3)
        return read

    @staticmethod
    def _check(seed: int, truncation: float, **numbers: int) -> None:
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"seed is {seed}, expected 0 to 2**63 - 1")
        if not (math.isfinite(truncation) and 0 <= truncation <= 1):
            raise ValueError(f"truncation is {truncation}, expected 0 to 1")
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} is {number}, expected 1 or more")

    def _noises(self, seed: int, number: int, truncation: float, tries: int) -> Tensor:
        """Noise and the condition's noise (tries, Z + C) of picture ``number`` of every caption."""
        return truncation * normal_noise((tries, sum(self.settings.noise_dims)), seed, "sample", number)

    @torch.no_grad()
    def _encoded(self, captions: Sequence[Caption], batch_size: int) -> Iterator[tuple[Caption, Tensor, Tensor]]:
        """Each caption with its words' features (T, D) and its sentence's (D,), on the CPU."""
        for start in range(0, len(captions), batch_size):
            batch = captions[start : start + batch_size]
            padded = [pad(list(caption.indices), self.settings.max_words) for caption in batch]
            tokens = torch.stack([tokens for tokens, _ in padded]).to(self.device)
            words, sentences = self.text_encoder(tokens, torch.tensor([length for _, length in padded]))
            for caption, own, sentence in zip(batch, words.cpu(), sentences.cpu(), strict=True):
                yield caption, own[: len(caption.words)], sentence

    def _draw(self, orders: Iterator[_Order], batch_size: int, attention: bool) -> Iterator[GeneratedImage]:
        """The pictures, batch by batch."""
        batch: list[_Order] = []
        for order in orders:
            batch.append(order)
            if len(batch) == batch_size:
                yield from self._draw_batch(batch, attention)
                batch = []
        if batch:
            yield from self._draw_batch(batch, attention)

    @torch.no_grad()
    def _draw_batch(self, batch: Sequence[_Order], attention: bool) -> list[GeneratedImage]:
        words = torch.zeros(len(batch), self.settings.max_words, self.settings.word_dim)
        for row, order in zip(words, batch, strict=True):
            row[: len(order.words)] = order.features
        lengths = torch.tensor([len(order.words) for order in batch])
        sentence = torch.stack([order.sentence for order in batch])
        ready = self._ready()
        noise, condition = self._placed(self._chosen(ready, batch, sentence)).split(self.settings.noise_dims, dim=1)
        made = ready.drawing(
            noise,
            self._placed(sentence),
            self._placed(words),
            word_mask(lengths, words.shape[1]).to(self.device),
            condition_noise=condition,
            return_attention=attention,
        )
        return _generated(batch, made)

    def _chosen(self, ready: PreparedGenerator, batch: Sequence[_Order], sentence: Tensor) -> Tensor:
        """Noise and the condition's noise (B, Z + C) that each picture is drawn from."""
        noises = torch.stack([order.noises for order in batch])
        if noises.shape[1] == 1:
            return noises[:, 0]
        noise, condition = noises.split(self.settings.noise_dims, dim=2)
        given = [tensor.to(ready.wide.conditioning.fc.weight) for tensor in (noise, sentence, condition[:, 0])]
        return torch.cat((steadiest(ready.wide, *given), given[-1]), dim=1)

    def _ready(self) -> PreparedGenerator:
        """The generator ready to draw with, made anew where its weights have been written to."""
        if self._prepared is None or not self._prepared.is_of(self.generator):
            self._prepared = PreparedGenerator(self.generator)
        return self._prepared

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)


def _between(first: _Order, last: _Order, weight: float) -> _Order:
    """What is drawn at ``weight`` from 0 to 1 on the way; at its ends exactly those."""
    if weight in (0, 1):
        return last if weight else first
    onto = max(len(first.words), len(last.words))
    places = [stretched_places(len(order.words), onto) for order in (first, last)]
    stretched = [[order.words[place] for place in own] for order, own in zip((first, last), places, strict=True)]
    same = first.caption == last.caption
    return _Order(
        first.caption if same else f"{first.caption} > {last.caption} ({weight:.2f})",
        joined_words(*stretched),
        torch.lerp(first.features[places[0]], last.features[places[1]], weight),
        torch.lerp(first.sentence, last.sentence, weight),
        between_noises(first.noises[0], last.noises[0], weight)[None],
    )


def _generated(batch: Sequence[_Order], made: GeneratorOutput) -> list[GeneratedImage]:
    """A batch of the generator's output as pictures, and its attention without the padding."""
    stages = [to_bytes(images.float()).permute(0, 2, 3, 1).cpu().numpy() for images in made.images]
    attention = [maps.float().cpu().numpy() for maps in made.attention]
    return [
        GeneratedImage(
            order.caption,
            order.words,
            tuple(Image.fromarray(images[row]) for images in stages),
            # A copy: what is kept of one picture doesn't hold on to its whole batch.
            tuple(maps[row, : len(order.words)].copy() for maps in attention),
        )
        for row, order in enumerate(batch)
    ]
