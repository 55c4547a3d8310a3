"""Figures hold what they say, where they say it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from kvmgan.errors import UserError
from kvmgan.figures.attention_maps import attention_maps
from kvmgan.figures.pictures import MARGIN, save_png, to_picture, wrap
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.figures.stage_strip import stage_strip

RED = torch.tensor([1.0, -1.0, -1.0])[:, None, None]


def test_levels_and_enlargement():
    image = torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(1, 2, 2).expand(3, 2, 2)
    assert np.asarray(to_picture(image))[..., 0].tolist() == [[0, 0], [128, 255]]
    enlarged = np.asarray(to_picture(image, 4))[..., 0]
    assert (enlarged == np.kron([[0, 0], [128, 255]], np.ones((2, 2)))).all()


def test_wrapped_lines_fit_and_keep_every_word():
    text = "a small red bird with blue wings and a short yellow beak"
    lines = wrap(text, 100, 13)
    assert " ".join(lines) == text
    assert max(ImageFont.load_default(13).getlength(line) for line in lines) <= 100
    assert wrap("", 100, 13) == []


def test_grid_has_every_picture_and_its_caption():
    images = torch.cat((RED.expand(3, 16, 16)[None], -RED.expand(3, 16, 16)[None]))
    pixels = np.asarray(sample_grid(images, ["a red bird", ""], columns=2, side=32))
    assert pixels[MARGIN + 16, MARGIN + 16].tolist() == [255, 0, 0]
    assert pixels[MARGIN + 16, 2 * MARGIN + 48].tolist() == [0, 255, 255]
    below = pixels[MARGIN + 32 :]
    assert (below[:, MARGIN : MARGIN + 32].min() < 60) and below[:, 2 * MARGIN + 32 :].min() == 255
    with pytest.raises(ValueError, match="captions has 1"):
        sample_grid(images, ["one"])


def test_strip_has_a_column_a_stage_and_a_row_an_image():
    stages = [torch.zeros(2, 3, 8, 8) - 1, torch.zeros(2, 3, 16, 16) + 1]
    picture = stage_strip(stages, side=32)
    pixels = np.asarray(picture)
    assert picture.width == 2 * (32 + MARGIN) + MARGIN
    assert pixels[-MARGIN - 1, MARGIN + 16].tolist() == [0, 0, 0]
    assert pixels[-MARGIN - 1, 2 * MARGIN + 48].tolist() == [255, 255, 255]


def test_attention_glows_where_a_word_has_more_than_its_share():
    """Word one has the left half, word two the right half."""
    attention = torch.zeros(3, 4, 4)
    attention[0, :, :2] = attention[1, :, 2:] = 1
    image = torch.ones(3, 32, 32)
    pixels = np.asarray(attention_maps(image, attention, ["left", "right"], side=32)).astype(int)
    first, second = (pixels[MARGIN : MARGIN + 32, n * (32 + MARGIN) + MARGIN :][:, :32] for n in (1, 2))
    assert first[16, 2, 0] > 200 > 100 > first[16, 29, 0]
    assert second[16, 29, 0] > 200 > 100 > second[16, 2, 0]
    with pytest.raises(ValueError, match="words has 4"):
        attention_maps(image, attention, list("abcd"))


def test_even_attention_is_dark():
    even = torch.full((2, 4, 4), 0.5) + 1e-6 * torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels = np.asarray(attention_maps(torch.ones(3, 32, 32), even, ["a", "b"], side=32))
    assert pixels[MARGIN : MARGIN + 32, 2 * MARGIN + 32 : 2 * MARGIN + 64].max() < 100


def test_png_replaces_whole(tmp_path):
    path = tmp_path / "new" / "picture.png"
    save_png(to_picture(torch.zeros(3, 8, 8)), path)
    assert Image.open(path).size == (8, 8)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_png_that_cannot_be_written_is_one_line(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/picture\.png cannot be written: (File exists|Not a directory)$"):
        save_png(to_picture(torch.zeros(3, 8, 8)), tmp_path / "file" / "picture.png")
