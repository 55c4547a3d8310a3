"""A caption as a model reads it."""

from __future__ import annotations

from dataclasses import dataclass

from kvmgan.data.vocabulary import Vocabulary, select_words


@dataclass(frozen=True)
class Caption:
    """A caption and what a model sees of it.

    words: those that are read, in order; indices: their places in the vocabulary.
    notes: what isn't read, a line each: unknown words, words past the model's limit.
    """

    text: str
    words: tuple[str, ...]
    indices: tuple[int, ...]
    notes: tuple[str, ...]


def read_caption(text: str, vocabulary: Vocabulary, max_words: int) -> Caption:
    """Read a caption: its known words, at most the first ``max_words`` of them.

    Raises:
        UserError: if it holds no word, or only unknown ones, which are then named.
    """
    every = vocabulary.encode(text)
    notes = []
    unknown = vocabulary.unknown(text)
    if unknown:
        notes.append(f"{text!r}: unknown words are left out: {', '.join(unknown)}")
    if len(every) > max_words:
        notes.append(f"{text!r}: only its first {max_words} words are used")
    indices = select_words(every, max_words, None)
    return Caption(text, tuple(vocabulary.words[index] for index in indices), tuple(indices), tuple(notes))
