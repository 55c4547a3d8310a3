"""The pictures that are drawn again and again during a run: of which captions, from which noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from kvmgan.config import ModelOptions
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.pretraining.encoders import Encoders, EncoderShape, build_image_encoder, build_text_encoder
from kvmgan.random_streams import normal_noise
from kvmgan.training.builders import build_generator
from kvmgan.training.fixed_samples import FixedSamples, fixed_samples

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["a", "red", "bird", "with", *(f"number{place}" for place in range(10))]
SHAPE = EncoderShape("small", width=4, embedding_dim=8, word_dim=8)
MODEL = ModelOptions(stages=2, base_size=16, width=4, noise_dim=5, condition_dim=3, residual_blocks=0)


@pytest.fixture
def dataset(tmp_path: Path) -> TextImageDataset:
    """Ten records with two captions; the first one of every odd record holds no known word. Training's limit is 2."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "picture.png")
    records = []
    for place in range(10):
        captions = (f"number{place} a red bird with a red bird", f"number{place} a bird")
        if place % 2:
            captions = ("quux", *captions[1:])
        records.append(Record(str(place), tmp_path / "picture.png", place, captions))
    return TextImageDataset(records, Vocabulary(WORDS), sizes=(16, 32), max_words=2)


@pytest.fixture
def made(dataset: TextImageDataset) -> Callable[..., FixedSamples]:
    """Fixed samples of the records, captions limited to five words."""
    encoders = Encoders(
        Vocabulary(WORDS),
        SHAPE,
        build_text_encoder(SHAPE, len(WORDS) + 1).eval(),
        build_image_encoder(SHAPE).eval(),
        None,
    )

    def make(count: int = 4, seed: int = 7) -> FixedSamples:
        return fixed_samples(dataset.limited(5), encoders, (5, 3), count=count, seed=seed)

    return make


def test_captions_are_spread_evenly_and_each_has_a_known_word(made):
    """Of ten records the places 0, 2, 5 and 7: the odd ones' first caption is passed over."""
    whole = " a red bird with a red bird"
    assert made().captions == [f"number0{whole}", f"number2{whole}", "number5 a bird", "number7 a bird"]
    assert len(made(count=99).captions) == 10


def test_captions_keep_the_words_of_evaluation(made):
    samples = made()
    assert samples.mask.shape == (4, 5)
    assert samples.mask.sum(dim=1).tolist() == [5, 5, 3, 3]


def test_noise_and_condition_are_drawn_from_the_seed(made):
    samples, expected = made(), normal_noise((4, 8), 7, "fixed samples")
    assert torch.equal(samples.noise, expected[:, :5])
    assert torch.equal(samples.condition_noise, expected[:, 5:])
    drawn = [made(seed=seed).noise for seed in (0, 1, 12345, 2**32, 2**63 - 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_pictures_are_of_the_drawn_condition_and_always_the_same(made):
    """The condition's noise matters, and nothing is drawn when a picture is: torch's generator stays as it was."""
    samples, generator = made(), build_generator(MODEL, SHAPE.word_dim, 0).eval()
    before = torch.get_rng_state()
    first, second = (samples.draw(generator).images[-1] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    samples.condition_noise = torch.zeros_like(samples.condition_noise)
    assert not torch.equal(first, samples.draw(generator).images[-1])
