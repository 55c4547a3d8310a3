"""What is seen in real pictures, and what of it is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.evaluation.real_pictures import see_real
from kvmgan.metrics.seen import Watcher

CPU = torch.device("cpu")


@pytest.fixture
def looked() -> list[int]:
    return []


@pytest.fixture
def watcher(looked) -> Watcher:
    def look(pictures: Tensor) -> dict[str, Tensor]:
        assert pictures.dtype == torch.uint8
        looked.append(len(pictures))
        return {"mean": pictures.float().mean(dim=(1, 2, 3))}

    return Watcher("mean", "1", look)


def dataset(folder: Path, sizes: tuple[int, ...] = (16,), levels: tuple[int, ...] = (10, 200, 90)) -> TextImageDataset:
    records = []
    for level in levels:
        path = folder / f"{len(records)}.png"
        Image.new("L", (40, 40), level).save(path)
        records.append(Record(path.name, path, 0, ("a bird",)))
    return TextImageDataset(records, Vocabulary(["a", "bird"]), sizes=sizes, max_words=2)


def seen_in(data: TextImageDataset, watcher: Watcher, cache: Path | None, kept: bool = True) -> list[float]:
    kept_watchers = [watcher] if kept else []
    found = see_real(data, [watcher], kept_watchers, batch_size=2, device=CPU, cache=cache)
    assert list(found) == [f"{watcher.name}.mean"]
    return found[f"{watcher.name}.mean"].tolist()


def test_every_picture_is_seen_once_in_its_order_and_read_from_the_cache_afterwards(tmp_path, watcher, looked):
    data = dataset(tmp_path)
    for _ in range(2):
        assert seen_in(data, watcher, tmp_path / "cache") == [10, 200, 90]
    assert looked == [2, 1]


@pytest.mark.parametrize(("rank", "share"), [(0, [10, 200]), (1, [90])])
def test_processes_share_the_pictures_out(tmp_path, watcher, monkeypatch, rank, share):
    """Each looks at its own; that they are put together is tested with two processes."""
    monkeypatch.setattr("kvmgan.parallel.processes.count", lambda: 2)
    monkeypatch.setattr("kvmgan.parallel.processes.rank", lambda: rank)
    monkeypatch.setattr("kvmgan.parallel.processes.agreed", int)
    monkeypatch.setattr("kvmgan.evaluation.real_pictures.together", dict)
    assert seen_in(dataset(tmp_path), watcher, None) == share


def test_what_another_process_lacks_is_looked_at_again(tmp_path, watcher, looked, monkeypatch):
    """On a machine of its own, say: else it would wait for the others' shares."""
    data = dataset(tmp_path)
    seen_in(data, watcher, tmp_path / "cache")
    monkeypatch.setattr("kvmgan.parallel.processes.agreed", lambda mine: 1)
    assert seen_in(data, watcher, tmp_path / "cache") == [10, 200, 90]
    assert looked == [2, 1, 2, 1]


def test_the_cache_goes_by_content_size_and_network(tmp_path, watcher, looked):
    """Another picture under the same name, of the same length, is looked at; so is another size or network."""
    cache = tmp_path / "cache"
    seen_in(dataset(tmp_path), watcher, cache)
    assert seen_in(dataset(tmp_path, levels=(10, 201, 90)), watcher, cache) == [10, 201, 90]
    # The smaller scales aren't looked at.
    assert seen_in(dataset(tmp_path, sizes=(8, 16)), watcher, cache) == [10, 200, 90]
    assert len(looked) == 4
    assert seen_in(dataset(tmp_path, sizes=(8,)), watcher, cache) == [10, 200, 90]
    assert len(looked) == 6
    assert seen_in(dataset(tmp_path), Watcher("mean", "2", watcher.look), cache) == [10, 200, 90]
    assert len(looked) == 8


def test_the_cache_goes_by_the_crop(tmp_path, watcher, looked):
    """The same files around other boxes are other pictures."""
    data = dataset(tmp_path)
    seen_in(data, watcher, tmp_path / "cache")
    data.records = [replace(record, box=(0.0, 0.0, 20.0, 20.0)) for record in data.records]
    seen_in(data, watcher, tmp_path / "cache")
    assert len(looked) == 4


def test_nothing_is_kept_of_watchers_that_do_not_ask_for_it(tmp_path, watcher, looked):
    for cache, kept in ((None, True), (tmp_path / "cache", False)):
        seen_in(dataset(tmp_path), watcher, cache, kept)
    assert len(looked) == 4 and not (tmp_path / "cache").exists()


def test_a_damaged_cache_is_looked_up_again_with_a_note(tmp_path, watcher, looked, capsys):
    data, cache = dataset(tmp_path), tmp_path / "cache"
    seen_in(data, watcher, cache)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert seen_in(data, watcher, cache) == [10, 200, 90]
    assert "looked at again" in capsys.readouterr().out
    assert seen_in(data, watcher, cache) == [10, 200, 90]
    assert len(looked) == 4
