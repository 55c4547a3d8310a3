"""The pairs that are judged: every record in turn, captions that can be read, one draw a seed."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from PIL import Image

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.metrics.evaluation_pairs import EvaluationPairs, draw_pairs

SEEDS = (0, 1, 12345, 2**32, 2**63 - 1)
# Record -> its captions; "quux" is unknown to the vocabulary.
CAPTIONS = [("quux", "a red bird", "a blue bird"), ("a bird", "quux"), *(("red", "blue", "a", "bird"),) * 6]
USABLE = [{1, 2}, {0}, *({0, 1, 2, 3},) * 6]


@pytest.fixture
def dataset(tmp_path: Path) -> TextImageDataset:
    """Eight records of one picture; class 10 times the record's place."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "picture.png")
    records = [
        Record(str(place), tmp_path / "picture.png", 10 * place, captions) for place, captions in enumerate(CAPTIONS)
    ]
    return TextImageDataset(records, Vocabulary(["a", "red", "blue", "bird"]), sizes=(32,), max_words=2)


def _drawn(pairs: EvaluationPairs) -> list[tuple[int, int]]:
    return list(zip(pairs.records.tolist(), pairs.captions.tolist(), strict=True))


def test_every_record_comes_once_before_one_comes_again(dataset):
    records = draw_pairs(dataset, 20, seed=0).records.tolist()
    rounds = [records[:8], records[8:16], records[16:]]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(8))
    assert len(set(rounds[2])) == 4
    assert len({tuple(order[:4]) for order in rounds}) == 3


def test_all_captions_with_a_known_word_are_drawn_and_no_other(dataset):
    drawn = _drawn(draw_pairs(dataset, 800, seed=0))
    assert [{caption for record, caption in drawn if record == place} for place in range(8)] == USABLE
    # Each of a record's four captions about 25 times in 100 rounds.
    times = [drawn.count((5, caption)) for caption in range(4)]
    assert all(10 < number < 45 for number in times)


def test_a_pair_holds_its_own_caption_and_class(dataset):
    """Tokens, lengths and classes are those of the record and the caption, cut at the data set's word limit."""
    pairs = draw_pairs(dataset, 40, seed=0)
    for place, (record, caption) in enumerate(_drawn(pairs)):
        tokens, length = dataset.encode_caption(record, caption)
        assert pairs.tokens[place].tolist() == tokens.tolist()
        assert pairs.lengths[place] == length
        assert pairs.class_ids[place] == 10 * record
    assert len(pairs) == 40 and pairs.tokens.shape == (40, 2)


def test_a_pair_does_not_depend_on_how_many_are_drawn(dataset):
    assert _drawn(draw_pairs(dataset, 11, seed=4)) == _drawn(draw_pairs(dataset, 300, seed=4))[:11]


def test_a_seed_decides_and_large_seeds_differ(dataset):
    drawn = {seed: _drawn(draw_pairs(dataset, 8, seed)) for seed in SEEDS}
    assert all(drawn[a] != drawn[b] for a, b in itertools.combinations(SEEDS, 2))
    assert _drawn(draw_pairs(dataset, 8, SEEDS[-1])) == drawn[SEEDS[-1]]
