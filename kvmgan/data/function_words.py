"""English words that join others and describe nothing themselves."""

from __future__ import annotations

from collections.abc import Sequence

_LIST = """
a an the this that these those with without and or but of in on at to by for from into over above under near beside
against is are was were be been being has have had having it its their his her which who whose there as while very some
all both
"""
FUNCTION_WORDS = frozenset(_LIST.split())


def says_something(word: str) -> bool:
    """Whether a lower-case word describes something: none of :data:`FUNCTION_WORDS`."""
    return word not in FUNCTION_WORDS


def content_first(words: Sequence[str]) -> list[int]:
    """The places of words: first of those that say something, then of the others, both in their order."""
    return sorted(range(len(words)), key=lambda place: not says_something(words[place]))
