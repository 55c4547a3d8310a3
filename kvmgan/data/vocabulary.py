"""The words that a model knows, and their indices."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kvmgan.data.tokens import tokenize
from kvmgan.errors import UserError
from kvmgan.files import read_json, write_text

# The released vocabularies name index 0 so; no token can collide with it, since tokens hold no angle brackets.
PADDING = "<end>"


class Vocabulary:
    """An ordered list of words; index 0 is padding.

    words: every word at its index, so ``words[0]`` is the padding and ``len(vocabulary) == len(words)``.
    """

    def __init__(self, words: Iterable[str]) -> None:
        """Take the words of indices 1, 2, ... Raises `UserError` when there is none or one comes twice."""
        self.words = [PADDING, *words]
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self.words) == 1:
            raise UserError("the vocabulary is empty: the captions hold no word")
        if len(self._index) != len(self.words):
            raise UserError("the vocabulary names a word twice")

    @classmethod
    def build(cls, captions: Iterable[str]) -> Vocabulary:
        """Collect the words of `captions` in the order in which they are first seen."""
        return cls(dict.fromkeys(word for caption in captions for word in tokenize(caption)))

    def __len__(self) -> int:
        """Return the number of indices, padding included."""
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        """Return whether a lower-case word is known."""
        return word in self._index

    def encode(self, text: str) -> list[int]:
        """Return the indices of the known words of `text`, at least one; unknown words are dropped.

        Raises `UserError` when `text` holds no word, or only unknown ones (which it names).
        """
        tokens = tokenize(text)
        if not tokens:
            raise UserError(f"the caption {text!r} holds no word: describe the image in a few words")
        indices = [self._index[token] for token in tokens if token in self._index]
        if not indices:
            raise UserError(f"the caption {text!r} holds only unknown words: {', '.join(self.unknown(text))}")
        return indices

    def unknown(self, text: str) -> list[str]:
        """Return the words of `text` that are not in the vocabulary, each once, in order."""
        return [word for word in dict.fromkeys(tokenize(text)) if word not in self._index]

    def save(self, path: str | Path) -> None:
        """Write the words as JSON, by a temporary name and a rename."""
        write_text(Path(path), json.dumps({"words": self.words[1:]}, indent=0) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote. Raises `UserError` when the file is missing or holds something else."""
        content = read_json(Path(path), "a vocabulary")
        words = content.get("words") if isinstance(content, dict) else None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f'{path} is no vocabulary: expected {{"words": [...]}}')
        try:
            return cls(words)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def select_words(indices: list[int], max_words: int, rng: np.random.Generator | None) -> list[int]:
    """Return at most `max_words` of `indices` in their order: a random subset with `rng`, the first ones without."""
    if len(indices) <= max_words:
        return list(indices)
    if rng is None:
        return indices[:max_words]
    kept = np.sort(rng.choice(len(indices), size=max_words, replace=False))
    return [indices[position] for position in kept]
