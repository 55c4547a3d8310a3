"""Words that may stand in a word's place: those that other captions have between the same neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from kvmgan.data.function_words import says_something
from kvmgan.data.tokens import tokenize

# Neighbours that are looked at after a word: two tell "a small red bird" from "a short red beak"; one, where no word of
# the caption has others between three.
_FOLLOWING = (2, 1)
_Around = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Substitution:
    """A caption's words, one of them changed in turn.

    words: of the caption, as :func:`tokenize` finds them. place: of the word that is changed.
    others: what stands there instead, the most frequent first.
    """

    words: tuple[str, ...]
    place: int
    others: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """The caption with a gap, such as ``a small ... bird``."""
        return self._with("...")

    def captions(self) -> dict[str, str]:
        """By the word that stands in the gap, its own first: the caption."""
        return {word: self._with(word) for word in (self.words[self.place], *self.others)}

    def _with(self, word: str) -> str:
        return " ".join([*self.words[: self.place], word, *self.words[self.place + 1 :]])


def substitutions(
    caption: str, captions: Iterable[str], known: Container[str], *, places: int = 3, others: int = 5
) -> list[Substitution]:
    """The words of a caption that can be changed, in their order.

    Args:
        captions: where the other words come from, such as all of a data set.
        known: words that may stand in another's place.
        places: words that are changed at most, those with the most others.
        others: words that take the place of each at most; a word without at least two isn't changed.
    """
    words = tuple(tokenize(caption))
    counts = _counted(words, captions)
    for following in _FOLLOWING:
        found = []
        for place, word in enumerate(words):
            # Ties in the order of the alphabet: the same captions in another order give the same words.
            ranked = sorted(counts[_around(words, place, following)].items(), key=lambda item: (-item[1], item[0]))
            names = [other for other, _ in ranked if other != word and other in known]
            if says_something(word) and len(names) >= 2:
                found.append(Substitution(words, place, tuple(names[:others])))
        if found:
            richest = sorted(found, key=lambda one: -len(one.others))[:places]
            return sorted(richest, key=lambda one: one.place)
    return []


def _counted(words: Sequence[str], captions: Iterable[str]) -> dict[_Around, Counter[str]]:
    """How often which word stands between the neighbours of each of ``words``."""
    counts: dict[_Around, Counter[str]] = {
        _around(words, place, following): Counter() for place in range(len(words)) for following in _FOLLOWING
    }
    for caption in captions:
        tokens = tokenize(caption)
        for place, token in enumerate(tokens):
            for following in _FOLLOWING if says_something(token) else ():
                counter = counts.get(_around(tokens, place, following))
                if counter is not None:
                    counter[token] += 1
    return counts


def _around(words: Sequence[str], place: int, following: int) -> _Around:
    """The word before a place, if there is one, and so many after it."""
    return tuple(words[max(place - 1, 0) : place]), tuple(words[place + 1 : place + 1 + following])
