"""The maintainers' tools answer a mistyped word in one line."""

from __future__ import annotations

from importlib import import_module

import pytest

from kvmgan.command_line import run_command


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("picture_faults", []),
        ("picture_faults", ["/nonexistent"]),
        ("count_heads", ["nonexistent"]),
        ("ship_model", ["/nonexistent", "abc123"]),
    ],
)
def test_what_is_not_there_is_named(tool: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(import_module(tool).main, words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in words[:1])


def test_proofs_that_no_name_holds_are_refused() -> None:
    """Not an empty table, which reads as if all were proven."""
    named = import_module("prove_kernels").named
    assert all("forward" in proof.id and "bfloat16" in proof.id for proof in named(["forward", "bfloat16"]))
    with pytest.raises(SystemExit, match="'forwards'"):
        named(["forwards"])


def test_what_is_no_direction_is_refused() -> None:
    directions = import_module("remove_barriers").directions
    assert directions([]) == ["forward", "backward"] and directions(["backward"]) == ["backward"]
    with pytest.raises(SystemExit, match="'forwards' is no direction: expected forward or backward"):
        directions(["backward", "forwards"])
