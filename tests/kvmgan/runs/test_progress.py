"""What is shown while a phase runs."""

from __future__ import annotations

import pytest
import torch

from kvmgan.runs import progress as module
from kvmgan.runs.progress import Progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_speed_and_time_left_are_those_since_the_last_line(clock, capsys):
    """A slow start (compilation, a cold cache) and a resume's earlier steps don't count for ever."""
    with Progress("train", 110, start=10) as progress:
        for _ in range(10):
            progress.advance(4)
        clock[0] += 100
        assert progress.items_per_second == pytest.approx(0.4)
        progress.report({"loss": 1.23456})
        for _ in range(10):
            progress.advance(4)
        clock[0] += 5
        progress.report({})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["train 20/110  loss 1.23  0 img/s  15:00 left", "train 30/110    8 img/s  0:40 left"]


def test_pictures_and_judgements_between_steps_do_not_count(clock, capsys):
    """Ten steps in five seconds, and a minute in which nothing is stepped: as fast as without it."""
    with Progress("train", 110) as progress:
        for _ in range(5):
            progress.advance(4)
        clock[0] += 2.5
        with progress.paused():
            clock[0] += 60
        for _ in range(5):
            progress.advance(4)
        clock[0] += 2.5
        progress.report({})
    assert capsys.readouterr().out == "train 10/110    8 img/s  0:50 left\n"


def test_memory_of_the_gpu_is_shown_once_it_is_used(clock, monkeypatch, capsys):
    """The most that was taken; a GPU that is there and not used says nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**29)
    with Progress("train", 2) as progress:
        for used in (False, True):
            monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
            progress.advance(1)
            clock[0] += 1
            progress.report({})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["train 1/2    1 img/s  0:01 left", "train 2/2  memory 1.5 GiB  1 img/s  0:00 left"]
