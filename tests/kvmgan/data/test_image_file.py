"""Image files of every mode, depth and orientation, as a viewer shows them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from kvmgan.data.image_file import shown_size, to_rgb
from kvmgan.data.pixels import decode, read_kept_shape

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
# Where the stored top left corner is shown, by orientation (EXIF 2.3, section 4.6.4): row, column of the corners.
SHOWN_CORNER = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}


def _quarters(path: Path, orientation: int | None) -> Path:
    """A blue JPEG of 64 x 32 pixels, stored so, whose stored top left quarter is red."""
    pixels = np.full((32, 64, 3), BLUE, dtype=np.uint8)
    pixels[:16, :32] = RED
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)
    return path


@pytest.mark.parametrize("orientation", SHOWN_CORNER)
def test_an_image_is_turned_as_its_orientation_says(tmp_path: Path, orientation: int) -> None:
    """The red quarter comes where the standard puts it, and the shape is that of the header."""
    path = _quarters(tmp_path / "a.jpg", orientation)
    pixels = decode(path, None, 16)
    assert pixels.shape == ((32, 16, 3) if orientation > 4 else (16, 32, 3))
    assert read_kept_shape(path, None, 16) == pixels.shape[:2]
    row, column = SHOWN_CORNER[orientation]
    height, width = pixels.shape[:2]
    centres = {(i, j): pixels[height * (1 + 2 * i) // 4, width * (1 + 2 * j) // 4] for i in (0, 1) for j in (0, 1)}
    assert [corner for corner, colour in centres.items() if colour[0] > 200] == [(row, column)]
    with Image.open(path) as image:
        assert np.array_equal(to_rgb(image, upright=True), ImageOps.exif_transpose(image).convert("RGB"))


def test_boxes_are_in_stored_pixels(tmp_path: Path) -> None:
    """An image with a box stays as it is stored."""
    path = _quarters(tmp_path / "a.jpg", 6)
    assert decode(path, (0.0, 0.0, 64.0, 32.0), 16).shape == (16, 32, 3)
    assert read_kept_shape(path, (0.0, 0.0, 64.0, 32.0), 16) == (16, 32)


@pytest.mark.parametrize("orientation", [None, 0, 9, 65535])
def test_no_orientation_or_none_that_exists_leaves_an_image(tmp_path: Path, orientation: int | None) -> None:
    assert decode(_quarters(tmp_path / "a.jpg", orientation), None, 16).shape == (16, 32, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_leaves_an_image(tmp_path: Path) -> None:
    """Every prefix of a block of EXIF data, one whose first entry is far away, and one in no order of bytes."""
    whole = _quarters(tmp_path / "a.jpg", 6).read_bytes()
    start = whole.index(b"Exif\0\0")
    length = struct.unpack(">H", whole[start - 2 : start])[0]
    block = whole[start : start + length - 2]
    cut = [block[:end] for end in range(6, len(block))]
    for damaged in (*cut, block[:10] + b"\xff\xff\xff\xff" + block[14:], block[:6] + b"XXXX" + block[10:]):
        header = struct.pack(">H", len(damaged) + 2)
        content = whole[: start - 2] + header + damaged + whole[start + length - 2 :]
        with Image.open(io.BytesIO(content)) as image:
            assert shown_size(image, upright=True) in ((64, 32), (32, 64))
            assert to_rgb(image, upright=True).size == shown_size(image, upright=True)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_damaged_exif_data_of_other_formats(tmp_path: Path, suffix: str) -> None:
    """In no order of bytes: Pillow raises a SyntaxError where a JPEG has nothing to say."""
    Image.new("RGB", (64, 32), RED).save(tmp_path / f"a{suffix}", exif=b"Exif\0\0XXXX\0\0\0\x08\0\0")
    assert decode(tmp_path / f"a{suffix}", None, 16).shape == (16, 32, 3)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_orientation_of_other_formats(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), RED).save(tmp_path / f"a{suffix}", exif=exif)
    assert decode(tmp_path / f"a{suffix}", None, 16).shape == (32, 16, 3)


def _png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by the standard's own structure, for depths that Pillow can't write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _ramp_rows(channels: int) -> bytes:
    """256 rows of 256 pixels; every sample of row i is 257 i in 16 bits."""
    return b"".join(b"\0" + struct.pack(">H", 257 * row) * 256 * channels for row in range(256))


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)], ids=["grey", "RGB"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, colour: int, channels: int) -> None:
    """A ramp over the whole range stays one: its mean is 127.5, not the 254 of values cut off at 255."""
    (tmp_path / "a.png").write_bytes(_png(256, 256, 16, colour, _ramp_rows(channels)))
    pixels = decode(tmp_path / "a.png", None, 256)
    assert np.array_equal(pixels[:, 0, 0], np.arange(256))
    assert pixels.mean() == 127.5


@pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)], ids=["grey and alpha", "RGB and alpha"])
def test_sixteen_bits_with_transparency(tmp_path: Path, colour: int, channels: int) -> None:
    """Grey level and opacity i / 255 in row i, on white: 255 - i (255 - i) / 255."""
    (tmp_path / "a.png").write_bytes(_png(256, 256, 16, colour, _ramp_rows(channels)))
    level = np.arange(256.0)
    shown = decode(tmp_path / "a.png", None, 256)[:, 0, 1]
    assert np.abs(shown - (255 - level * (255 - level) / 255)).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey_fill_the_range(tmp_path: Path, depth: int) -> None:
    """The largest value is white, the smallest black."""
    rows = b"\0" + b"\xff" * depth + b"\0" + b"\0" * depth
    (tmp_path / "a.png").write_bytes(_png(8, 2, depth, 0, rows))
    pixels = decode(tmp_path / "a.png", None, 2)
    assert pixels[0].min() == 255
    assert pixels[1].max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    """A clear black left half, an opaque black right half."""
    if mode == "P":
        image = Image.new("P", (20, 10), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (10, 0, 20, 10))
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image = Image.new(mode, (20, 10))
        image.putalpha(Image.fromarray(np.repeat([[0, 255]], 10, axis=1).repeat(10, axis=0).astype(np.uint8)))
        image.save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png", None, 10)
    assert tuple(pixels[5, 2]) == WHITE
    assert tuple(pixels[5, 17]) == (0, 0, 0)


def test_grey_values_of_no_known_range_are_refused(tmp_path: Path) -> None:
    """Floats, and whole numbers beyond 16 bits: an error that the data set counts, not a white picture."""
    for values in (np.linspace(0, 1, 64, dtype=np.float32), np.arange(64, dtype=np.int32) * 100_000):
        Image.fromarray(values.reshape(8, 8)).save(tmp_path / "a.tif")
        (tmp_path / "a.tif").rename(tmp_path / "a.png")
        with pytest.raises(ValueError, match="of no known range"):
            decode(tmp_path / "a.png", None, 8)
