"""The figures that a run writes of itself, and what they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan.config import ModelOptions
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.pretraining.encoders import Encoders, EncoderShape, build_image_encoder, build_text_encoder
from kvmgan.runs.run_folder import RunFolder
from kvmgan.training import run_pictures as module
from kvmgan.training.builders import build_generator
from kvmgan.training.run_pictures import RunPictures

pytestmark = pytest.mark.usefixtures("one_thread")
COLOURS = ["red", "green", "blue", "yellow", "black"]
WORDS = ["a", "bird", "with", "wings", *COLOURS]
SHAPE = EncoderShape("small", width=4, embedding_dim=8, word_dim=8)
MODEL = ModelOptions(stages=2, base_size=16, width=4, noise_dim=5, condition_dim=3, residual_blocks=0)


@pytest.fixture
def dataset(tmp_path: Path) -> TextImageDataset:
    """Five records, each a plain colour."""
    records = []
    for place, colour in enumerate(COLOURS):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{colour}.png")
        records.append(Record(colour, tmp_path / f"{colour}.png", place, (f"a {colour} bird with {colour} wings",)))
    return TextImageDataset(records, Vocabulary(WORDS), sizes=(16, 32), max_words=6)


@pytest.fixture
def pictures(dataset: TextImageDataset) -> RunPictures:
    torch.manual_seed(0)
    text, image = build_text_encoder(SHAPE, len(WORDS) + 1), build_image_encoder(SHAPE)
    return RunPictures(
        dataset, Encoders(dataset.vocabulary, SHAPE, text.eval(), image.eval(), None), (5, 3), count=3, seed=7
    )


@pytest.fixture
def generator():
    return build_generator(MODEL, SHAPE.word_dim, 0).eval()


def test_every_figure_of_a_step_is_written(pictures, generator, tmp_path):
    run = RunFolder(tmp_path / "run")
    returned = pictures.save(generator, run, 12)
    assert set(returned) == {"samples", "stages", "attention", "seeds", "words", "history"}
    for name in set(returned) - {"history"}:
        with Image.open(run.path / name / "step-000012.png") as written:
            assert written.tobytes() == returned[name].tobytes()
    with Image.open(run.history_strip) as strip:
        assert strip.tobytes() == returned["history"].tobytes()


def test_the_real_picture_is_that_of_the_caption(pictures):
    """Of five records the places 0, 1 and 3."""
    assert pictures.samples.captions[1] == "a green bird with green wings"
    expected = [(255, 0, 0), (0, 128, 0), (255, 255, 0)]
    assert [picture.getpixel((16, 16)) for picture in pictures.real] == expected
    assert {picture.size for picture in pictures.real} == {(32, 32)}


def test_eight_noises_of_one_caption(pictures):
    assert pictures.seeds.captions == ["a red bird with red wings"] * 8
    assert len({tuple(row) for row in pictures.seeds.noise.tolist()}) == 8
    assert not torch.equal(pictures.seeds.noise[0], pictures.samples.noise[0])


def test_a_changed_word_keeps_the_noise_and_begins_with_the_grids_picture(pictures, generator):
    """Colours stand in both places; the first picture of every row is that of the caption itself."""
    assert [change.pattern for change in pictures.changes] == ["a ... bird with red wings", "a red bird with ... wings"]
    changed = pictures.changed
    assert changed.captions[0] == changed.captions[5 + 0] == "a red bird with red wings"
    assert (changed.noise == pictures.samples.noise[0]).all()
    assert (changed.condition_noise == pictures.samples.condition_noise[0]).all()
    first = changed.draw(generator).images[-1]
    grid = pictures.samples.draw(generator).images[-1]
    assert torch.allclose(first[0], grid[0], atol=1e-5) and not torch.allclose(first[1], grid[0], atol=1e-5)


def test_the_strip_goes_from_the_first_step_to_this_one(pictures, generator, tmp_path, monkeypatch):
    """Evenly chosen; of a run that went back to an earlier step the later pictures aren't shown."""
    shown = []
    original = module.tile_sheet
    monkeypatch.setattr(
        module, "tile_sheet", lambda sections, **named: shown.append(sections) or original(sections, **named)
    )
    run = RunFolder(tmp_path / "run")
    for step in range(0, 1300, 100):
        pictures.save(generator, run, step)
    labels = [label for label, _ in shown[-1][0].tiles]
    assert (labels[0], labels[-2:], len(labels)) == ("step 0", ["step 1200", "real"], 11)
    pictures.save(generator, run, 150)
    assert [label for label, _ in shown[-1][0].tiles] == ["step 0", "step 100", "step 150", "real"]
    drawn = shown[-1][0].tiles[-2][1]
    made = pictures.samples.draw(generator).images[-1][0]
    expected = ((made.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(drawn).astype(int) - expected).max() <= 1


def test_data_in_which_nothing_can_be_changed_has_no_such_figure(tmp_path, generator):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    records = [Record("a", tmp_path / "a.png", 0, ("a red bird",))]
    dataset = TextImageDataset(records, Vocabulary(WORDS), sizes=(16, 32), max_words=6)
    text, image = build_text_encoder(SHAPE, len(WORDS) + 1), build_image_encoder(SHAPE)
    encoders = Encoders(dataset.vocabulary, SHAPE, text.eval(), image.eval(), None)
    made = RunPictures(dataset, encoders, (5, 3), count=3, seed=7).save(generator, RunFolder(tmp_path / "run"), 1)
    assert "words" not in made and not (tmp_path / "run" / "words").exists()
