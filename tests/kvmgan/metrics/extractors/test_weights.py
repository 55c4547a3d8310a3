"""Files of published weights: where they are looked for, and what is said when they can't be had."""

from __future__ import annotations

import hashlib

import pytest
import torch

from kvmgan.errors import UserError
from kvmgan.metrics.extractors.weights import at_hand, weights_file


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_the_folder_comes_before_torchs_own_cache(tmp_path):
    url = "https://nowhere.invalid/net-12345678.pth"
    assert at_hand(url, tmp_path) is None
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "net-12345678.pth"
    cached.parent.mkdir(parents=True)
    torch.save({}, cached)
    assert at_hand(url, tmp_path) == weights_file(url, tmp_path) == cached
    torch.save({}, tmp_path / "net-12345678.pth")
    assert at_hand(url, tmp_path) == weights_file(url, tmp_path) == tmp_path / "net-12345678.pth"


def test_what_cannot_be_had_names_the_file_and_its_place(tmp_path):
    url = "https://nowhere.invalid/net-12345678.pth"
    with pytest.raises(UserError) as error:
        weights_file(url, tmp_path / "weights")
    place = tmp_path / "weights" / "net-12345678.pth"
    assert str(error.value).startswith(f"{place} is missing and can't be downloaded (")
    assert str(error.value).endswith(f": put {url} there")
    assert not list((tmp_path / "weights").iterdir())


def test_a_download_is_checked_by_the_hash_in_its_name(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "source.pth")
    digest = hashlib.sha256((tmp_path / "source.pth").read_bytes()).hexdigest()
    for name, right in ((f"net-{digest[:8]}.pth", True), ("net-00000000.pth", False)):
        (tmp_path / name).write_bytes((tmp_path / "source.pth").read_bytes())
        url = (tmp_path / name).as_uri()
        if right:
            assert weights_file(url, tmp_path / "weights") == tmp_path / "weights" / name
        else:
            with pytest.raises(UserError, match="invalid hash value"):
                weights_file(url, tmp_path / "weights")
            assert not (tmp_path / "weights" / name).exists()
