"""The vocabulary: indices, unknown words, storage, and the choice of words from a long caption."""

from pathlib import Path

import numpy as np
import pytest

from kvmgan.data.vocabulary import Vocabulary, select_words
from kvmgan.errors import UserError


def test_indices_follow_first_sight_after_padding() -> None:
    """Index 0 is padding and the words count from 1 in the order in which they come."""
    vocabulary = Vocabulary.build(["a red bird", "A blue bird"])
    assert len(vocabulary) == 5 == len(vocabulary.words)
    assert vocabulary.words[1:] == ["a", "red", "bird", "blue"]
    assert vocabulary.encode("Blue bird, a bird!") == [4, 3, 1, 3]


def test_unknown_words_are_dropped_and_named() -> None:
    """`encode` skips what it doesn't know; `unknown` lists it once, in order."""
    vocabulary = Vocabulary.build(["a red bird"])
    assert vocabulary.encode("a shiny red shiny bird") == [1, 2, 3]
    assert vocabulary.unknown("a shiny red shiny bird flies") == ["shiny", "flies"]


@pytest.mark.parametrize(("text", "message"), [("", "no word"), (" ?! ", "no word"), ("two cats", "two, cats")])
def test_unusable_caption_raises(text: str, message: str) -> None:
    """An empty caption and one of unknown words only are errors, the latter with the words' names."""
    with pytest.raises(UserError, match=message):
        Vocabulary.build(["a red bird"]).encode(text)


def test_no_caption_raises() -> None:
    """A vocabulary without a word would train on nothing."""
    with pytest.raises(UserError, match="no word"):
        Vocabulary.build(["", "..."])


def test_save_and_load(tmp_path: Path) -> None:
    """What is loaded encodes as what was saved did, and no temporary file stays."""
    vocabulary = Vocabulary.build(["a red bird with blue wings"])
    vocabulary.save(tmp_path / "deep" / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "deep" / "vocabulary.json")
    assert loaded.words == vocabulary.words
    assert loaded.encode("blue wings") == vocabulary.encode("blue wings")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["vocabulary.json"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"words": "a b"}', '{"words": [1]}', '{"words": ["a", "a"]}', '{"words": []}']
)
def test_load_refuses_other_files(tmp_path: Path, content: str) -> None:
    """A damaged file, a file of another kind and one without a word raise a `UserError` that names the file."""
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(UserError, match=str(path)):
        Vocabulary.load(path)


def test_load_names_a_missing_file(tmp_path: Path) -> None:
    """The message holds the path."""
    with pytest.raises(UserError, match=r"gone\.json is missing"):
        Vocabulary.load(tmp_path / "gone.json")


def test_select_words() -> None:
    """Short captions stay whole; long ones keep the first words, or with a generator a random subset in order."""
    words = list(range(10, 30))
    assert select_words(words[:5], 5, np.random.default_rng(0)) == words[:5]
    assert select_words(words, 5, None) == words[:5]
    chosen = [select_words(words, 5, np.random.default_rng(seed)) for seed in range(20)]
    assert all(len(set(subset)) == 5 and subset == sorted(subset) and set(subset) <= set(words) for subset in chosen)
    assert {word for subset in chosen for word in subset} == set(words)
    assert chosen[3] == select_words(words, 5, np.random.default_rng(3))
