"""The nearest training pictures are found, of either kind of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from miniature_data import MINIATURES

from kvmgan.config import DataOptions
from kvmgan.data.__main__ import main as data
from kvmgan.models.image_encoder import SmallImageEncoder
from kvmgan.training import nearest_pictures as module
from kvmgan.training.datasets import load_splits, with_layout

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(params=["folder", "shards"])
def images(request: pytest.FixtureRequest, tmp_path: Path):
    """Twelve training pictures of noise, at random access or streamed."""
    root = tmp_path / "data"
    root.mkdir()
    MINIATURES["cub"](root)
    if request.param == "shards":
        assert data(["shard", str(root), str(tmp_path / "shards"), "--samples", "5"]) == 0
        root = tmp_path / "shards"
    options = with_layout(DataOptions(root=root))
    return load_splits(options, (16, 32), root).train


def test_a_copied_training_picture_is_its_own_nearest(images, monkeypatch):
    """In one batch and in several, so that what was found before is kept: the copy first, with a cosine of 1."""
    encoder = SmallImageEncoder(feature_dim=8, width=4).eval()
    pixels = torch.cat(list(module._pictures(images)))
    assert len(pixels) == len(images)
    wanted = torch.stack([pixels[3], pixels[-1]])
    for batch in (64, 6):
        monkeypatch.setattr(module, "BATCH", batch)
        drawn = []
        monkeypatch.setattr(module, "captioned_rows", lambda *given, drawn=drawn, **named: drawn.append(given))
        module.nearest_figure(wanted, ["one", "two"], images, encoder, CPU)
        captions, rows, headings = drawn[0]
        assert [caption.split(" (cosines ")[1][:4] for caption in captions] == ["1.00", "1.00"]
        assert headings == ["generated", f"nearest of {len(images)}", "second", "third", "fourth"]
        for own, nearest, second, *_ in rows:
            assert np.array_equal(np.asarray(own), np.asarray(nearest))
            assert not np.array_equal(np.asarray(own), np.asarray(second))


def test_likeness_falls_from_left_to_right(images, monkeypatch):
    encoder = SmallImageEncoder(feature_dim=8, width=4).eval()
    drawn = []
    monkeypatch.setattr(module, "captioned_rows", lambda *given, **named: drawn.append(given))
    wanted = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    module.nearest_figure(wanted, ["one", "two"], images, encoder, CPU)
    for caption in drawn[0][0]:
        values = [float(value) for value in caption.split(" (cosines ")[1].rstrip(")").split(", ")]
        assert len(values) == 4 and values == sorted(values, reverse=True)
