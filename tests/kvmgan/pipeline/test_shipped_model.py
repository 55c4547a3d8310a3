"""The model that ships with the package is what lies beside it says, and draws what the documentation shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan import Pipeline
from kvmgan.config_file import load_options
from kvmgan.data.procedural.palette import COLOURS
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.files import file_digest
from kvmgan.models.noise_choice import change_rate
from kvmgan.pipeline.shipped import NAMES, shipped_folder, shipped_names
from kvmgan.random_streams import normal_noise
from kvmgan.sample import main

GALLERY = Path(__file__).parents[3] / "docs" / "gallery"
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_pretrained("birds")


@pytest.fixture(scope="module")
def story() -> dict:
    return json.loads((shipped_folder("birds") / "metrics.json").read_text())


def test_every_name_has_its_weights():
    assert shipped_names() == list(NAMES)


def test_the_weights_are_those_of_its_story(story):
    """The hash in metrics.json, which was written when they were, and their size."""
    weights = shipped_folder("birds") / "weights.safetensors"
    assert story["weights_sha256"] == file_digest(weights)
    assert weights.stat().st_size <= 6 * MEBIBYTE


def test_the_networks_are_those_of_its_configuration(pipeline, story):
    """Sizes, word limit and step of config.yaml, which trains it again."""
    options = load_options(shipped_folder("birds") / "config.yaml")
    assert pipeline.settings.model == options.model
    assert (pipeline.settings.word_dim, pipeline.settings.embedding_dim) == (
        options.damsm.word_dim,
        options.damsm.embedding_dim,
    )
    assert pipeline.settings.max_words == options.evaluation.max_words
    assert story["step"] == options.training.steps
    assert {row["step"] for row in story["metrics"]} == {story["step"]}


def test_it_draws_the_sheet_of_the_documentation(pipeline):
    """docs/gallery/birds-sheet.png, each picture with the seed of its number, to half a level on average.

    Other instruction sets round otherwise.
    """
    captions = (GALLERY / "birds-sheet.txt").read_text().splitlines()
    assert len(captions) == len(set(captions)) == 64
    pictures = [pipeline(caption, seed=seed)[0].picture for seed, caption in enumerate(captions)]
    drawn = np.asarray(sample_grid(pictures, captions, columns=8, side=128), dtype=np.int16)
    with Image.open(GALLERY / "birds-sheet.png") as picture:
        shown = np.asarray(picture.convert("RGB"), dtype=np.int16)
    assert drawn.shape == shown.shape
    # All that isn't picture is the same: the mean is that over the pictures alone.
    assert np.abs(drawn - shown).sum() / (64 * 3 * 128**2) < 0.5


@torch.no_grad()
def test_birds_that_fall_apart_are_where_pictures_change_fastest(pipeline):
    """Those of the sheet that docs/pipeline.md names, of one noise each: the 2nd, the 16th and the 59th of 64."""
    rates = []
    for seed, caption in enumerate((GALLERY / "birds-sheet.txt").read_text().splitlines()):
        tokens = torch.tensor([pipeline.read(caption).indices])
        sentence = pipeline.text_encoder(tokens, torch.tensor([tokens.shape[1]]))[1]
        noise, condition = normal_noise((1, 64), seed, "sample", 0).split(32, dim=1)
        given = sentence, condition
        rates.append(change_rate(lambda z, given=given: pipeline.generator.first_image(z, *given), noise).item())
    fastest = np.argsort(rates)[::-1][:20] + 1
    assert {2, 16, 59} <= set(fastest.tolist())
    assert pipeline.settings.tries == 4


def _share_near(picture: Image.Image, colour: str) -> float:
    """Share of a picture's pixels that are nearer to this colour of the palette than to any other, and near to it."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64).reshape(-1, 3)
    distances = {name: np.linalg.norm(pixels - np.asarray(value), axis=1) for name, value in COLOURS.items()}
    others = np.minimum.reduce([value for name, value in distances.items() if name != colour])
    return float(((distances[colour] < others) & (distances[colour] < 60)).mean())


@pytest.mark.parametrize("colour", ["red", "blue", "yellow", "green", "purple", "orange"])
def test_a_word_of_colour_colours_the_bird(pipeline, colour):
    """By the pixels alone: of sixteen birds said to be of a colour, many more are than of birds of another colour."""

    def share(named: str) -> float:
        # The crown too: one that isn't named may be of any colour.
        caption = f"a {named} bird with {named} wings, a {named} crown and a {named} tail"
        pictures = [made.picture for made in pipeline(caption, count=16)]
        return float(np.mean([_share_near(picture, colour) for picture in pictures]))

    other = "blue" if colour != "blue" else "red"
    assert share(colour) > 5 * share(other)
    assert share(colour) > 0.05


def test_drawing_loads_no_compiler():
    """torch's, with sympy and all, takes two seconds to import, about what all the rest of such a command takes."""
    script = """
import sys, kvmgan.actions.sample
kvmgan.Pipeline.from_pretrained("birds")("a small red bird")
print([name for name in ("torch._dynamo", "sympy", "triton", "torch.distributed.fsdp") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_the_command_draws_right_after_installation(tmp_path, capsys):
    out = tmp_path / "drawn"
    assert main(["birds", "a small red bird with blue wings", "--out", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    with Image.open(out / "001-a-small-red-bird-with-blue-wings.png") as picture:
        assert picture.size == (64, 64)
