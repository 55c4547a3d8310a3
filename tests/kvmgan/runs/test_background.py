"""Writing that work doesn't wait for."""

from __future__ import annotations

import threading

import pytest

from kvmgan.runs.background import BackgroundWriter


def test_one_thing_at_a_time_in_the_order_of_the_calls():
    """The caller goes on while the first is written, and waits for it before the second."""
    writer, may_end, done = BackgroundWriter(), threading.Event(), []

    def first() -> None:
        assert may_end.wait(10)
        done.append("first")

    writer.start(first)
    assert done == []
    may_end.set()
    writer.start(lambda: done.append("second"))
    writer.finish()
    assert done == ["first", "second"]


@pytest.mark.parametrize("call", [lambda writer: writer.finish(), lambda writer: writer.start(lambda: None)])
def test_what_went_wrong_is_raised_by_the_next_call_and_once(call):
    writer = BackgroundWriter()

    def fail() -> None:
        raise OSError("no room")

    writer.start(fail)
    with pytest.raises(OSError, match="no room"):
        call(writer)
    call(writer)
    writer.finish()
