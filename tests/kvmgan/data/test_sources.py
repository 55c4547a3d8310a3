"""Data sets are found by name."""

from pathlib import Path

import pytest

from kvmgan.data.cub import read_cub
from kvmgan.data.sources import load_records
from kvmgan.errors import UserError


def test_birds_are_read_as_cub(birds_root: Path) -> None:
    """The procedural birds go through the CUB reader."""
    assert load_records("birds", birds_root, "test") == read_cub(birds_root, "test")


def test_unknown_name_and_missing_root(birds_root: Path, tmp_path: Path) -> None:
    """Both are refused with a clear line."""
    with pytest.raises(UserError, match="unknown data set 'cats': choose one of birds, cub, coco, folder"):
        load_records("cats", birds_root, "train")
    with pytest.raises(UserError, match="gone is missing"):
        load_records("cub", tmp_path / "gone", "train")
