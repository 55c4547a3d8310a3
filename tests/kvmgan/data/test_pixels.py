"""Crops, resizes and scales of images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan.data.pixels import DECODING_ERRORS, crop, crop_limits, decode, stored_side, to_scales


def test_crop_limits_are_those_of_attngan() -> None:
    """A square of half side int(0.75 * longer side) around the centre, clipped to the image."""
    assert crop_limits((60.0, 27.0, 325.0, 304.0), 500, 335) == (0, 0, 465, 335)
    assert crop_limits((40.0, 50.0, 21.0, 10.0), 200, 200) == (35, 40, 65, 70)
    with pytest.raises(ValueError, match="outside the image"):
        crop_limits((300.0, 300.0, 10.0, 10.0), 100, 100)


def test_decode_crops_to_the_box_and_scales_the_shorter_side(tmp_path: Path) -> None:
    """A red square on blue fills two thirds of its crop."""
    pixels = np.zeros((90, 120, 3), dtype=np.uint8)
    pixels[..., 2] = 255
    pixels[40:60, 70:90] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    kept = decode(tmp_path / "a.png", (70.0, 40.0, 20.0, 20.0), 60)
    assert kept.shape == (60, 60, 3)
    assert kept.dtype == np.uint8
    assert tuple(kept[30, 30]) == (255, 0, 0)
    assert tuple(kept[5, 30]) == tuple(kept[30, 55]) == (0, 0, 255)
    assert decode(tmp_path / "a.png", None, 45).shape == (45, 60, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_decode_makes_rgb_of_every_mode(tmp_path: Path, mode: str) -> None:
    """Grey, palette, transparent and CMYK files all become three channels."""
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (20, 30)).save(path)
    assert decode(path, None, 10).shape == (15, 10, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_decode_of_damaged_files(tmp_path: Path, make_image: Callable[..., Path], suffix: str) -> None:
    """Cut short, empty, of another kind, or missing: always one of the errors that the dataset expects."""
    path = make_image(tmp_path / f"a{suffix}", 64, 64)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image at all"):
        path.write_bytes(content)
        with pytest.raises(DECODING_ERRORS):
            decode(path, None, 16)
    path.unlink()
    with pytest.raises(DECODING_ERRORS):
        decode(path, None, 16)


def test_crop_reaches_every_edge() -> None:
    """0 and 1 are the outermost positions, 0.5 the middle."""
    pixels = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    assert np.array_equal(crop(pixels, 4, 0.0, 0.0), pixels[:4, :4])
    assert np.array_equal(crop(pixels, 4, 1.0, 1.0), pixels[2:, 6:])
    assert np.array_equal(crop(pixels, 4, 0.5, 0.5), pixels[1:5, 3:7])


@pytest.mark.parametrize("mirrored", [False, True])
def test_scales_are_area_averages_in_minus_one_to_one(mirrored: bool) -> None:
    """0 maps to -1, 255 to 1, each smaller scale is the mean over its pixels, and all are contiguous."""
    square = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    square[0, 0], square[0, 1] = 0, 255
    square = square[:, ::-1] if mirrored else square
    small, middle, large = to_scales(square, (4, 8, 16))
    expected = torch.from_numpy(square.astype(np.float64)).permute(2, 0, 1) / 127.5 - 1.0
    assert large.dtype == torch.float32
    torch.testing.assert_close(large.double(), expected, rtol=0, atol=1e-6)
    assert float(large.min()) == -1.0
    assert float(large.max()) == 1.0
    blocks = expected.reshape(3, 4, 4, 4, 4).mean(dim=(2, 4))
    torch.testing.assert_close(small.double(), blocks, rtol=0, atol=1e-6)
    assert [tuple(image.shape) for image in (small, middle, large)] == [(3, 4, 4), (3, 8, 8), (3, 16, 16)]
    assert all(image.is_contiguous() for image in (small, middle, large))


def test_scales_of_no_whole_ratio_keep_the_mean() -> None:
    """An antialiased resize serves for other ratios."""
    square = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    small, large = to_scales(square, (20, 48))
    assert small.shape == (3, 20, 20)
    assert abs(float(small.mean() - large.mean())) < 0.02
    assert float(small.std()) < float(large.std()) * 0.7


def test_stored_side_is_that_of_attngan() -> None:
    """76/64 of the target: 76 for 64, 304 for 256."""
    assert (stored_side(64), stored_side(256)) == (76, 304)
