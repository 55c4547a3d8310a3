"""Numbered folders of runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kvmgan.config import Options
from kvmgan.errors import UserError
from kvmgan.runs.run_folder import RunFolder


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path, monkeypatch):
    """All look before any of them makes its folder."""
    count, looked = 8, threading.Barrier(8)
    listing = Path.iterdir
    waited = threading.local()

    def look(folder: Path) -> list[Path]:
        found = list(listing(folder))
        if not getattr(waited, "once", False):
            waited.once = True
            looked.wait(timeout=30)
        return found

    monkeypatch.setattr(Path, "iterdir", look)
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(RunFolder.create(tmp_path, "birds", Options()).path))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert sorted(path.name for path in made) == [f"{number:05d}-birds" for number in range(count)]
    assert all((path / "config.yaml").is_file() for path in made)


def test_the_next_number_is_beyond_the_largest(tmp_path):
    """A run that was removed doesn't give its number away; other folders don't count."""
    for name in ("00003-x", "123456-y", "notes", "12-z"):
        (tmp_path / name).mkdir()
    assert RunFolder.create(tmp_path, "birds", Options()).path.name == "123457-birds"


def test_a_folder_that_can_not_be_written():
    with pytest.raises(UserError, match="--runs-dir /proc/runs can't be written"):
        RunFolder.create(Path("/proc/runs"), "birds", Options())
