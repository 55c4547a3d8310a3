"""Resizing for extractors against Pillow, which clean-fid resizes by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan.metrics.extractors.resizing import resized


@pytest.mark.parametrize(("before", "after"), [(64, 224), (256, 299), (64, 299), (400, 299), (300, 17)])
def test_every_channel_is_resized_as_pillow_resizes_floats(before, after):
    pictures = torch.randint(0, 256, (2, 3, before, before), dtype=torch.uint8)
    expected = np.stack(
        [
            [
                np.asarray(Image.fromarray(channel.numpy().astype(np.float32)).resize((after, after), Image.BICUBIC))
                for channel in picture
            ]
            for picture in pictures
        ]
    ).clip(0, 255)
    found = resized(pictures, after)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 0.01


def test_pictures_of_the_right_size_are_left_alone():
    pictures = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(resized(pictures, 8), pictures.float())
