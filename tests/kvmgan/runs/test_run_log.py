"""A log that can't be written."""

from __future__ import annotations

import threading

import pytest

from kvmgan.errors import UserError
from kvmgan.runs.run_folder import RunFolder
from kvmgan.runs.run_log import RunLog


@pytest.fixture
def log(tmp_path) -> RunLog:
    return RunLog(RunFolder(tmp_path), 0)


def fail_in_a_thread(error: Exception) -> None:
    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def test_a_full_disk_under_tensorboard_is_one_line(log, monkeypatch):
    """Its thread dies, and its next call raises the same: no traceback beside the line, whatever came last."""
    no_room, shown = OSError(28, "No space left on device"), []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def refuse(*arguments: object, **options: object) -> None:
        raise no_room

    for name in ("add_scalar", "add_image", "close"):
        monkeypatch.setattr(log._events, name, refuse)
    with pytest.raises(UserError, match=r"stats.jsonl can't be written \(No space left on device\)"), log:
        fail_in_a_thread(no_room)
        log.write(1, {"loss": 1.0})
    with pytest.raises(UserError, match=r"TensorBoard's events can't be written \(No space left"), log:
        pass
    with pytest.raises(ZeroDivisionError), log:
        raise ZeroDivisionError
    assert shown == []


def test_other_errors_of_threads_are_shown(log, monkeypatch):
    """In the log's context as before and after it."""
    shown = []

    def show(failure: threading.ExceptHookArgs) -> None:
        shown.append(str(failure.exc_value))

    monkeypatch.setattr(threading, "excepthook", show)
    with log:
        fail_in_a_thread(ValueError("a mistake"))
        fail_in_a_thread(OSError(28, "No space left on device"))
    assert shown == ["a mistake"] and threading.excepthook is show
