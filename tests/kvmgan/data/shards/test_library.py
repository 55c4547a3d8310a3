"""Where webdataset isn't installed."""

import sys
from pathlib import Path

import pytest

from kvmgan.config import DataOptions
from kvmgan.errors import UserError
from kvmgan.training.datasets import load_splits


def test_it_is_asked_for_before_anything_is_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"need the package webdataset: pip install -e '.\[shards\]'"):
        load_splits(DataOptions(name="shards", root=shards), (16, 32), shards)
