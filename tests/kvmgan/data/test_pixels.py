"""Crops, resizes and scales of images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan.data.pixels import DECODING_ERRORS, crop, crop_limits, decode, stored_side, to_bytes, to_scales


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


def random_pixels(count: int, side: int) -> torch.Tensor:
    """Return `count` images (count, 3, side, side) uint8 that hold 0 and 255."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8))
    pixels[:, :, 0, 0], pixels[:, :, 0, 1] = 0, 255
    return pixels


def test_scales_are_area_averages_in_minus_one_to_one() -> None:
    """0 maps to -1, 255 to 1, each smaller scale is the mean over its pixels, and all are contiguous float32."""
    pixels = random_pixels(2, 16)
    before = pixels.clone()
    small, middle, large = to_scales(pixels, (4, 8, 16))
    expected = pixels.double() / 127.5 - 1.0
    torch.testing.assert_close(large.double(), expected, rtol=0, atol=1e-6)
    assert float(large.min()) == -1.0
    assert float(large.max()) == 1.0
    for scale, size in ((small, 4), (middle, 8)):
        step = 16 // size
        blocks = expected.reshape(2, 3, size, step, size, step).mean(dim=(3, 5))
        torch.testing.assert_close(scale.double(), blocks, rtol=0, atol=1e-6)
    assert [tuple(image.shape) for image in (small, middle, large)] == [(2, 3, 4, 4), (2, 3, 8, 8), (2, 3, 16, 16)]
    assert all(image.is_contiguous() and image.dtype == torch.float32 for image in (small, middle, large))
    assert torch.equal(pixels, before)


def test_scales_have_the_values_of_single_images_to_the_bit() -> None:
    """A batch, of any strides, scales as each image did on the host: x * (2 / 255) - 1 in float32, then averages."""
    pixels = random_pixels(3, 32)
    for batch in (pixels, pixels.to(memory_format=torch.channels_last)):
        small, middle, large = to_scales(batch, (8, 16, 32))
        assert all(images.is_contiguous() for images in (small, middle, large))
        for number, image in enumerate(pixels.numpy()):
            whole = torch.from_numpy(image.astype(np.float32) * np.float32(2.0 / 255.0) - np.float32(1.0))
            half = torch.nn.functional.avg_pool2d(whole, 2)
            assert torch.equal(large[number], whole)
            assert torch.equal(middle[number], half)
            assert torch.equal(small[number], torch.nn.functional.avg_pool2d(half, 2))


def test_scales_of_no_whole_ratio_keep_the_mean() -> None:
    """An antialiased resize serves for other ratios."""
    small, large = to_scales(random_pixels(1, 48), (20, 48))
    assert small.shape == (1, 3, 20, 20)
    assert abs(float(small.mean() - large.mean())) < 0.02
    assert float(small.std()) < float(large.std()) * 0.7


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 3, 16, 16), random_pixels(2, 8), random_pixels(1, 16)[0], random_pixels(2, 16)[:, :1]]
)
def test_scales_of_other_tensors_raise(pixels: torch.Tensor) -> None:
    """Floats, another side, an image alone and other channels than three are named by their shape and type."""
    with pytest.raises(ValueError, match=r"pixels is \(.*, expected \(B, 3, 16, 16\) torch.uint8"):
        to_scales(pixels, (8, 16))


def test_levels_go_to_signed_values_and_back() -> None:
    """All 256; rounding finds each again, and so does truncation of what lies a little above."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    (images,) = to_scales(pixels, (16,))
    assert torch.equal(to_bytes(images), pixels)
    assert torch.equal(to_bytes(images + 1e-3, truncate=True), pixels)
    between = (images + 0.6 * 2 / 255).clamp(max=1)
    assert torch.equal(to_bytes(between, truncate=True), pixels)
    assert torch.equal(to_bytes(between), (pixels.int() + 1).clamp(max=255).to(torch.uint8))
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_stored_side_is_that_of_attngan() -> None:
    """76/64 of the target: 76 for 64, 304 for 256."""
    assert (stored_side(64), stored_side(256)) == (76, 304)
