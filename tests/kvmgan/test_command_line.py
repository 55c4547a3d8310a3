"""How every command ends: what a terminal can't show, and a mistake of the package."""

from __future__ import annotations

import json
import subprocess

import pytest

from kvmgan.command_line import run_command
from kvmgan.errors import UserError


def test_a_mistake_of_the_package_says_how_to_report_it(capsys):
    """With its traceback, and the status of software errors."""

    def fail(argv: object) -> None:
        raise ZeroDivisionError("of all things")

    assert run_command(fail, []) == 70
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and "ZeroDivisionError: of all things" in error
    assert error.splitlines()[-1].startswith("this is a mistake in kvmgan and not yours: please report it")


@pytest.mark.parametrize("error", [UserError("of the user's"), ZeroDivisionError("of the package")])
def test_the_launcher_is_told(error, tmp_path, monkeypatch, capsys):
    """torchrun reads the message where it asks for it."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    def fail(argv: object) -> None:
        raise error

    assert run_command(fail, []) != 0
    told = json.loads((tmp_path / "error.json").read_text())
    assert str(error) in told["message"] and told["timestamp"] > 1.7e9


def test_captions_that_the_terminal_cannot_show_end_nothing(python, subprocess_environment, tiny_run, tmp_path):
    """In ASCII: the words come escaped, the pictures as ever; a path that can't be shown in a message, too."""
    environment = subprocess_environment | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    folder = tmp_path / "vögel"
    words = ["-m", "kvmgan.sample", str(tiny_run), "a grün bird", "--out", str(folder)]
    done = subprocess.run([python, *words], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"gr\\xfcn" in done.stderr and b"v\\xf6gel" in done.stdout
    assert list(folder.glob("*.png"))
    done = subprocess.run(
        [python, "-m", "kvmgan.sample", str(folder), "a bird"], env=environment, capture_output=True, timeout=120
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"v\\xf6gel holds no checkpoint" in done.stderr
