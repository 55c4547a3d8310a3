"""Writes captions that name some attributes of a bird and nothing else.

Every value is written as its own word ("red", "short", "striped"), and every noun belongs to one attribute:
crown or cap, wings, belly, breast, chest or body, tail, beak or bill. A colour in front of "bird" (or in "this bird
is red") is that of the belly, since the body wears it. No caption says where the bird faces, so that mirroring an
image keeps its captions true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

MAX_TOKENS = 18
_MIN_NAMED, _MAX_NAMED = 3, 5

_WEIGHTS = {
    "wing": 1.0,
    "belly": 1.0,
    "crown": 0.95,
    "beak": 0.95,
    "tail": 0.85,
    "beak_length": 0.5,
    "size": 0.5,
    "pattern": 0.45,
    "background": 0.3,
}
_NOUNS = {
    "crown": ("crown", "crown", "cap"),
    "wing": ("wings",),
    "belly": ("belly", "breast", "body", "chest"),
    "tail": ("tail", "tail", "tail feathers"),
    "beak": ("beak", "beak", "bill"),
}
_MODIFIERS = {"wing": "pattern", "beak": "beak_length"}
_PLURAL = ("wings", "tail feathers")
_PLACES = {
    "sky": ("in the sky", "against the sky", "in front of the sky"),
    "forest": ("in the forest", "near the forest", "in front of the forest"),
    "sand": ("on the sand", "above the sand", "over the sand", "in front of the sand"),
    "water": ("by the water", "above the water", "over the water", "beside the water"),
    "sunset": ("at sunset", "at sunset", "in front of the sunset"),
}
_POSTURES = ("", "", "", "sitting ", "perched ", "standing ", "resting ")


class _Chooser:
    """Quick uniform choices: one block of random numbers a caption instead of a call for each."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._numbers = iter(rng.random(48).tolist())

    def number(self) -> float:
        """Return the next number, uniform in [0, 1)."""
        return next(self._numbers)

    def one(self, options: Sequence[str]) -> str:
        """Return one of `options`."""
        return options[int(self.number() * len(options))]

    def shuffled(self, items: Sequence[str]) -> list[str]:
        """Return `items` in a random order."""
        return [item for _, item in sorted((self.number(), item) for item in items)]


def write_caption(attributes: Mapping[str, str], rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """Return a caption of at most 18 words and the names of the three to five attributes whose values it gives."""
    while True:
        choose = _Chooser(rng)
        named = _choose_names(choose)
        text = _compose(named, attributes, choose)
        # A few of the wordiest combinations are longer than a model reads: write another one.
        if len(text.split()) <= MAX_TOKENS:
            return text + choose.one(("", ".", ".")), named


def _compose(named: tuple[str, ...], attributes: Mapping[str, str], choose: _Chooser) -> str:
    """Return a sentence that gives the values of the `named` attributes."""
    values = {name: attributes[name] for name in named}
    in_subject = ["size"] if "size" in values else []
    if "belly" in values and choose.number() < 0.75:
        in_subject.append("belly")
    adjectives = [values[name] for name in in_subject]
    parts = [part for part in _NOUNS if part not in in_subject and (part in values or _MODIFIERS.get(part) in values)]
    text = _sentence(adjectives, choose.shuffled(parts), values, choose)
    if "background" in values:
        text += " " + _place(values["background"], MAX_TOKENS - len(text.split()), choose)
    return text


def _choose_names(choose: _Chooser) -> tuple[str, ...]:
    """Return three to five names in the order of the table, drawn by weight (Efraimidis and Spirakis, 2006)."""
    count = _MIN_NAMED + int(choose.number() * (_MAX_NAMED - _MIN_NAMED + 1))
    keys = {name: choose.number() ** (1.0 / weight) for name, weight in _WEIGHTS.items()}
    chosen = set(sorted(keys, key=keys.__getitem__, reverse=True)[:count])
    return tuple(name for name in _WEIGHTS if name in chosen)


def _sentence(adjectives: list[str], parts: list[str], values: Mapping[str, str], choose: _Chooser) -> str:
    """Return the sentence without its place: what adjectives the bird has, and what its parts look like."""
    described = _join(adjectives, "and")
    if not parts:
        return choose.one((_subject(("this", "a", "the"), adjectives, choose), f"this bird is {described}"))
    form = choose.number()
    if adjectives and form < 0.15:
        return f"this bird is {described} with {_listed(parts, values, choose)}"
    if adjectives and form < 0.25:
        return f"with {_listed(parts, values, choose)}, {choose.one(('this', 'the'))} bird is {described}"
    if form < 0.5:
        return f"{_subject(('a', 'a', 'the'), adjectives, choose)} with {_listed(parts, values, choose)}"
    if form < 0.75:
        return f"{_subject(('this', 'the'), adjectives, choose)} has {_listed(parts, values, choose)}"
    if form < 0.85 or len(parts) == 1:
        start = f"{_subject(('a',), adjectives, choose)} {choose.one(('that', 'which'))}"
        return f"{start} has {_listed(parts, values, choose)}"
    start = _subject(("this", "the"), adjectives, choose)
    return f"{start} has {_listed(parts[:-1], values, choose)}, and {_clause(parts[-1], values, choose)}"


def _subject(determiners: Sequence[str], adjectives: list[str], choose: _Chooser) -> str:
    """Return such as "a small red bird"."""
    return _with_article(choose.one(determiners), " ".join([*adjectives, "bird"]))


def _with_article(determiner: str, phrase: str) -> str:
    if determiner == "a" and phrase[0] in "aeiou":
        determiner = "an"
    return f"{determiner} {phrase}"


def _listed(parts: list[str], values: Mapping[str, str], choose: _Chooser) -> str:
    """Return such as "striped blue wings, a red tail and a short beak"."""
    roomy = len(parts) < 3
    return _join([_noun_phrase(part, values, choose, roomy) for part in parts], "and")


def _join(phrases: list[str], conjunction: str) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} {conjunction} {phrases[-1]}"


def _noun_phrase(part: str, values: Mapping[str, str], choose: _Chooser, roomy: bool) -> str:
    """Return the part with its modifier and colour, as far as they are named; `roomy` allows a filler word."""
    noun = choose.one(_NOUNS[part])
    words = [values[name] for name in (_MODIFIERS.get(part), part) if name in values]
    if roomy and part in values and choose.number() < 0.12:
        words.append("colored")
    phrase = " ".join([*words, noun])
    return phrase if noun in _PLURAL else _with_article("a", phrase)


def _clause(part: str, values: Mapping[str, str], choose: _Chooser) -> str:
    """Return such as "its wings are striped and blue" or "it has striped blue wings"."""
    if choose.number() < 0.3:
        return f"it has {_noun_phrase(part, values, choose, roomy=False)}"
    noun = choose.one(_NOUNS[part])
    words = [values[name] for name in (_MODIFIERS.get(part), part) if name in values]
    return f"{choose.one(('its', 'its', 'the'))} {noun} {'are' if noun in _PLURAL else 'is'} {_join(words, 'and')}"


def _place(background: str, room: int, choose: _Chooser) -> str:
    """Return where the bird is, in at most `room` words (the shortest place has three)."""
    place = choose.one(_PLACES[background])
    if len(place.split()) > room:
        place = _PLACES[background][0]
    posture = choose.one(_POSTURES)
    return posture + place if len((posture + place).split()) <= room else place
