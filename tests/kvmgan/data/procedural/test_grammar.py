"""Captions name what the record says they name, nothing else, in few enough words."""

import itertools
from collections import Counter

import numpy as np
import pytest

from kvmgan.data.procedural.attributes import ATTRIBUTES
from kvmgan.data.procedural.grammar import MAX_TOKENS, write_caption
from kvmgan.data.tokens import tokenize
from kvmgan.data.vocabulary import Vocabulary

VALUES = {value for values in ATTRIBUTES.values() for value in values}
NOUNS = {
    "crown": {"crown", "cap"},
    "wing": {"wings"},
    "belly": {"belly", "breast", "chest", "body", "bird"},
    "tail": {"tail"},
    "beak": {"beak", "bill"},
}


@pytest.fixture(scope="module")
def written() -> list[tuple[dict[str, str], str, tuple[str, ...]]]:
    """Some thousand captions of random birds with their truth."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(4000):
        attributes = {name: str(rng.choice(values)) for name, values in ATTRIBUTES.items()}
        result.append((attributes, *write_caption(attributes, rng)))
    return result


def test_named_values_and_no_others_stand_in_the_text(written: list) -> None:
    """The value words of a caption are exactly the values of the attributes it is said to name."""
    for attributes, text, named in written:
        assert 3 <= len(set(named)) == len(named) <= 5
        found = Counter(word for word in tokenize(text) if word in VALUES)
        assert found == Counter(attributes[name] for name in named), text


def test_every_colour_belongs_to_its_part(written: list) -> None:
    """Each part that a caption names has its noun, and a part is never mentioned without a named attribute."""
    describes = {"beak": {"beak", "beak_length"}, "wing": {"wing", "pattern"}}
    for _, text, named in written:
        words = set(tokenize(text))
        for part, nouns in NOUNS.items():
            mentioned = bool(words & nouns - {"bird"})
            if part in named:
                assert words & nouns, text
            if mentioned:
                assert describes.get(part, {part}) & set(named), text


def test_the_colour_stands_by_its_noun(written: list) -> None:
    """Read by an independent rule: a colour belongs to the next part noun, or in "wings are blue" to the last one."""
    part_of = {noun: part for part, nouns in NOUNS.items() for noun in nouns}
    for attributes, text, named in written:
        read: dict[str, str] = {}
        for clause in text.replace(".", "").replace(" and it has ", ", ").replace(", and its ", ", its ").split(","):
            words, pending, subject = tokenize(clause), None, None
            copula = False
            for word in words:
                if word in ("is", "are"):
                    copula = True
                elif word in ("with", "has", "a", "an"):
                    copula = False
                if word in part_of:
                    subject = part_of[word]
                    if pending is not None:
                        read[subject], pending = pending, None
                if word in ATTRIBUTES["crown"]:
                    if copula and subject is not None:
                        read[subject] = word
                    else:
                        pending = word
        assert read == {part: attributes[part] for part in NOUNS if part in named}, text


def test_captions_are_short(written: list) -> None:
    """At most 18 words, at least a handful."""
    lengths = [len(tokenize(text)) for _, text, _ in written]
    assert max(lengths) <= MAX_TOKENS == 18
    assert min(lengths) >= 5


def test_vocabulary_is_small_and_knows_the_example(written: list) -> None:
    """The sentence of the documentation and common small words are known."""
    vocabulary = Vocabulary.build(text for _, text, _ in written)
    assert 55 <= len(vocabulary) <= 120
    assert vocabulary.unknown("a small red bird with blue wings and a short yellow beak") == []
    assert vocabulary.unknown("this the that its is are has which it bill belly crown tail") == []
    assert set(vocabulary.words) >= VALUES


def test_no_caption_tells_the_facing(written: list) -> None:
    """Mirroring an image must keep its captions true."""
    words = {word for _, text, _ in written for word in tokenize(text)}
    assert not words & {"left", "right", "facing", "east", "west"}


def test_wording_varies(written: list) -> None:
    """One bird gets many different sentences, and many sentences differ in more than their values."""
    attributes = written[0][0]
    rng = np.random.default_rng(1)
    texts = [write_caption(attributes, rng)[0] for _ in range(50)]
    assert len(set(texts)) >= 48
    skeletons = {" ".join("*" if word in VALUES else word for word in tokenize(text)) for _, text, _ in written}
    assert len(skeletons) > 800


def test_articles_fit() -> None:
    """It is "an orange bird" and "a red bird"."""
    rng = np.random.default_rng(0)
    attributes = {name: values[0] for name, values in ATTRIBUTES.items()}
    attributes |= {"crown": "orange", "belly": "orange", "wing": "orange", "tail": "orange"}
    for _ in range(300):
        words = tokenize(write_caption(attributes, rng)[0])
        for first, second in itertools.pairwise(words):
            assert (first == "an") == (first in ("a", "an") and second[0] in "aeiou")


def test_captions_are_a_function_of_the_generator() -> None:
    """The same random state writes the same caption."""
    attributes = {name: values[-1] for name, values in ATTRIBUTES.items()}
    first, second = (write_caption(attributes, np.random.default_rng(7)) for _ in range(2))
    assert first == second
