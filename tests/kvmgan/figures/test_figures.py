"""Figures hold what they say, where they say it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from kvmgan.errors import UserError
from kvmgan.figures import attention_maps as attention_maps_module
from kvmgan.figures.attention_maps import attention_maps
from kvmgan.figures.captioned_rows import TEXT_WIDTH, captioned_rows
from kvmgan.figures.pictures import MARGIN, line_height, save_png, to_picture, wrap
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.figures.stage_strip import stage_strip
from kvmgan.figures.tile_sheet import Section, spread, tile_sheet


def plain(colour: str | tuple[int, int, int], side: int) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (side, side), colour)


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


def test_a_word_that_is_too_long_is_cut():
    lines = wrap("x" * 40 + " end", 100, 13)
    assert "".join(lines).replace(" ", "") == "x" * 40 + "end" and len(lines) > 1
    assert max(ImageFont.load_default(13).getlength(line) for line in lines) <= 100


def test_grid_has_every_picture_and_its_caption():
    pictures = [plain("red", 16), plain("cyan", 16)]
    pixels = np.asarray(sample_grid(pictures, ["a red bird", ""], columns=2, side=32))
    assert pixels[MARGIN + 16, MARGIN + 16].tolist() == [255, 0, 0]
    assert pixels[MARGIN + 16, 2 * MARGIN + 48].tolist() == [0, 255, 255]
    below = pixels[MARGIN + 32 :]
    assert (below[:, MARGIN : MARGIN + 32].min() < 60) and below[:, 2 * MARGIN + 32 :].min() == 255
    with pytest.raises(ValueError, match="captions has 1"):
        sample_grid(pictures, ["one"])


def runs_of(colour: tuple[int, int, int], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the columns in which a colour stands."""
    found = (pixels == colour).all(axis=2)
    return np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))


def test_rows_have_their_caption_before_and_their_headings_above():
    """Three rows in two blocks: of each picture all pixels are there, to the right of the text of its own row."""
    colours = ["red", "lime", "blue"]
    rows = [[plain(colour, 8), plain("black", 8)] for colour in colours]
    picture = captioned_rows(["one bird", "two birds", "three birds"], rows, ["real", "generated"], blocks=2, side=32)
    pixels = np.asarray(picture)
    for colour, row in (((255, 0, 0), 0), ((0, 255, 0), 1), ((0, 0, 255), 0)):
        down, across = runs_of(colour, pixels)
        assert len(down) == len(across) == 32
        assert down[0] == runs_of((255, 0, 0), pixels)[0][0] + row * (32 + MARGIN)
        before = pixels[down[0] : down[-1] + 1, across[0] - TEXT_WIDTH - MARGIN : across[0] - 1]
        assert before.min() < 60 and before[:, -MARGIN:].min() == 255
    # Headings stand over the first row of each block, and nowhere else.
    top = runs_of((255, 0, 0), pixels)[0][0]
    heads = np.flatnonzero((pixels[:top] < 60).all(axis=2).any(axis=0))
    starts = [across[0] for across in (runs_of(colour, pixels)[1] for colour in ((255, 0, 0), (0, 0, 255)))]
    for start in starts:
        assert ((heads >= start) & (heads < start + 2 * 32 + MARGIN)).any()
    assert heads.min() >= starts[0]
    with pytest.raises(ValueError, match="a row has 2 pictures, expected one for each of 1 headings"):
        captioned_rows(["a", "b", "c"], rows, ["real"])
    with pytest.raises(ValueError, match="captions has 1 entries, expected one for each of 3 rows"):
        captioned_rows(["a"], rows, ["real", "generated"])


def test_a_long_caption_is_not_cut_off():
    """Its row is as high as its text: the picture of the next row begins below it, and the canvas holds all."""
    long = "a bird of which there is much more to say than its picture is high " * 4
    pixels = np.asarray(captioned_rows([long, ""], [[plain("red", 8)], [plain("blue", 8)]], ["x"], side=32))
    first, second = (runs_of(colour, pixels)[0][0] for colour in ((255, 0, 0), (0, 0, 255)))
    lines = len(wrap(long, TEXT_WIDTH, 14))
    assert second - first >= lines * line_height(14)
    assert pixels[second:, :TEXT_WIDTH].min() == 255


def test_strip_has_a_column_a_stage_a_row_an_image_and_the_real_one():
    stages = [[plain("black", 8), plain("red", 16)]] * 2
    pixels = np.asarray(stage_strip(["one", "two"], stages, [plain("blue", 16)] * 2))
    for colour in ((0, 0, 0), (255, 0, 0), (0, 0, 255)):
        down, across = runs_of(colour, pixels[MARGIN + line_height(13) :, TEXT_WIDTH + MARGIN :])
        assert (len(down), len(across)) == (2 * 192, 192)
    assert np.asarray(stage_strip(["one", "two"], stages)).shape[1] == pixels.shape[1] - 192 - MARGIN
    with pytest.raises(ValueError, match="real has 1 pictures"):
        stage_strip(["one", "two"], stages, [plain("blue", 16)])


def test_sections_have_headings_and_labels():
    """Five tiles in rows of two: three rows, a label below each tile, the next section below all of it."""
    tiles = [(f"label {number}", plain("red", 8)) for number in range(5)]
    picture = tile_sheet([Section("heading", tiles), Section("", [("", plain("blue", 8))])], columns=2, side=32)
    pixels = np.asarray(picture)
    assert picture.width == 2 * (32 + MARGIN) + MARGIN
    down, across = runs_of((255, 0, 0), pixels)
    assert (len(down), len(across)) == (3 * 32, 2 * 32)
    starts = [row for row in down if row - 1 not in down]
    assert pixels[: starts[0]].min() < 60
    # Two lines of label in so narrow a tile, and no picture over them.
    assert np.diff(starts).tolist() == [32 + MARGIN + 2 * line_height(13)] * 2
    for start in starts:
        label = pixels[start + 32 : start + 32 + MARGIN + line_height(13)]
        assert label[:, MARGIN : MARGIN + 32].min() < 60
        assert (label[:, 2 * MARGIN + 32 :].min() < 60) == (start != starts[-1])
    assert runs_of((0, 0, 255), pixels)[0][0] > down[-1] + line_height(13)
    for sections in ([], [Section("none", [])]):
        with pytest.raises(ValueError, match="sections is empty or has an empty one"):
            tile_sheet(sections)


def test_places_are_spread_evenly_with_both_ends():
    assert spread(21, 6) == [0, 4, 8, 12, 16, 20]
    assert spread(3, 6) == [0, 1, 2] and spread(1, 6) == [0] and spread(0, 6) == []


def tiles_of(picture: Image.Image, sections: int, tiles: int, side: int) -> list[list[np.ndarray]]:
    """The tiles of a sheet with one row a section, found by the first one's colour."""
    pixels = np.asarray(picture).astype(int)
    down = runs_of((255, 255, 255), pixels[:, MARGIN + side // 2 : MARGIN + side // 2 + 1])[0]
    rows = [row for row in range(1, len(pixels) - side) if (np.diff(np.searchsorted(down, [row, row + side])) == 0)]
    starts = [row for row in rows if row - 1 not in rows][:sections]
    return [
        [pixels[row : row + side, MARGIN + n * (side + MARGIN) :][:, :side] for n in range(tiles)] for row in starts
    ]


def test_attention_glows_where_a_word_has_most_of_its_own():
    """Word one has a strong left half, word two a weak right half of its own: both glow fully, each by itself; in the
    second refinement it is the other way round. "the" comes last.
    """
    strong, weak = np.full((2, 4, 4), 0.3, np.float32), np.full((2, 4, 4), 0.3, np.float32)
    strong[0, :, :2], weak[1, :, 2:] = 0.9, 0.35
    first = np.stack([np.full((4, 4), 0.1, np.float32), strong[0], weak[1]])
    second = np.stack([first[0], weak[1], strong[0]])
    grey = plain((200, 200, 200), 32)
    picture = attention_maps(grey, [first, second], ["the", "left", "right"], "the left right", side=32)
    (own, left, right, the), (_, right_too, left_too, _) = tiles_of(picture, 2, 4, 32)
    assert (own == 200).all()
    for tile in (left, left_too):
        assert tile[16, 2, 0] > 200 > 60 > tile[16, 29, 0]
    for tile in (right, right_too):
        assert tile[16, 29, 0] > 200 > 60 > tile[16, 2, 0]
    assert the.max() < 60
    # The colour bar below goes from dark to glowing.
    bar = np.asarray(picture).astype(int)[-3 * MARGIN - 3 * line_height(13) - 14 :, MARGIN : MARGIN + 100]
    brightness = bar.sum(axis=2)
    row = brightness[np.argmin(brightness[:, 0])]
    assert (np.diff(row) >= 0).all() and row[-1] > 2 * row[0]
    with pytest.raises(ValueError, match=r"words has 4 entries, expected 3 \(the maps of a refinement\)"):
        attention_maps(grey, [first], list("abcd"), "a b c d")


def test_shares_stand_below_the_tiles(monkeypatch):
    """In percent and never in powers of ten."""
    shares = np.array([[[1e-11, 0.0994]], [[0.25, 1.0]]], np.float32)
    drawn = []
    original = attention_maps_module.tile_sheet
    monkeypatch.setattr(
        attention_maps_module, "tile_sheet", lambda given, **named: drawn.extend(given) or original(given, **named)
    )
    attention_maps(plain("grey", 32), [shares], ["red", "bird"], "red bird", side=32)
    assert [label for label, _ in drawn[0].tiles] == ["picture", "red 0.0 to 9.9 %", "bird 25 to 100 %"]


def test_even_attention_is_dark():
    noise = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    even = np.full((2, 4, 4), 0.5, np.float32) + 1e-3 * noise
    picture = attention_maps(plain((200, 200, 200), 32), [even], ["a", "b"], "a b", side=32)
    for tile in tiles_of(picture, 1, 3, 32)[0][1:]:
        assert tile.max() < 60


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
