"""Words in other words' places."""

from __future__ import annotations

from kvmgan.data.function_words import content_first, says_something
from kvmgan.data.substitutions import substitutions

CAPTIONS = [
    *["a small red bird with blue wings"] * 3,
    *["a small green bird with white wings"] * 2,
    "a small black bird with a blue beak",
    "a small yellow bird with black wings",
    "a short red beak",
    "a long red beak",
    "this bird with the wings",
]
KNOWN = {word for caption in CAPTIONS for word in caption.split()}


def test_words_come_from_between_the_same_neighbours():
    """The most frequent first; "a ... red" has "short" and "long" before a beak alone, which isn't this place."""
    found = substitutions("a small red bird with blue wings", CAPTIONS, KNOWN)
    assert [(one.pattern, one.others) for one in found] == [
        ("a small ... bird with blue wings", ("green", "black", "yellow")),
        ("a small red bird with ... wings", ("white", "black")),
    ]
    assert found[1].captions() == {word: f"a small red bird with {word} wings" for word in ("blue", "white", "black")}


def test_where_few_captions_agree_one_neighbour_after_the_word_is_enough():
    found = substitutions("a small red bird sings", CAPTIONS, KNOWN)
    assert [(one.place, one.others) for one in found] == [(1, ("long", "short")), (2, ("green", "black", "yellow"))]


def test_only_known_words_are_put_in_and_few_of_them():
    found = substitutions("a small red bird", CAPTIONS, KNOWN - {"green"}, others=1)
    assert [one.others for one in found] == [("black",)]
    assert substitutions("a small red bird", CAPTIONS, {"green"}) == []
    assert substitutions("quux", CAPTIONS, KNOWN) == []
    assert len(substitutions("a small red bird with blue wings", CAPTIONS, KNOWN, places=1)) == 1


def test_the_order_of_captions_does_not_matter():
    words = "a small red bird with blue wings"
    assert substitutions(words, CAPTIONS, KNOWN) == substitutions(words, CAPTIONS[::-1], KNOWN)


def test_words_that_say_something_come_first():
    words = ["the", "small", "bird", "has", "a", "red", "beak", "and", "it", "is", "red"]
    assert [words[place] for place in content_first(words)][:5] == ["small", "bird", "red", "beak", "red"]
    assert [words[place] for place in content_first(words)][5:] == ["the", "has", "a", "and", "it", "is"]
    assert says_something("red") and not says_something("with")
