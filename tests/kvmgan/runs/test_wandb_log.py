"""What Weights & Biases is told, by a stand-in for its package."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from kvmgan.errors import UserError
from kvmgan.runs.run_folder import RunFolder
from kvmgan.runs.run_log import run_log
from kvmgan.train import main


class Refused(Exception):
    """What the service raises."""


class Service:
    """Stands for the package: remembers what it is told."""

    __spec__ = ModuleSpec("wandb", None)
    errors = SimpleNamespace(Error=Refused)
    Image = staticmethod(lambda picture: ("picture", picture.size))

    def __init__(self) -> None:
        self.begun, self.told, self.finished, self.refusal = [], [], 0, None

    def init(self, **settings: object) -> SimpleNamespace:
        if self.refusal is not None:
            raise self.refusal
        self.begun.append(settings)
        return SimpleNamespace(
            id=settings["id"] or "abc123", log=self.told.append, define_metric=lambda *a, **o: None, finish=self.finish
        )

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    return service


def test_a_training_tells_figures_and_pictures_and_a_resumed_one_goes_on(
    service: Service, tiny_arguments: list[str], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    words = [*tiny_arguments, "--training.steps", "2", "--training.log-interval", "1", "--wandb", "birds"]
    assert main([*words, "--runs-dir", str(runs)]) == 0
    (first,) = service.begun
    assert (first["project"], first["name"], first["id"]) == ("birds", "00000-birds-tiny", None)
    assert first["config"]["training.steps"] == 2
    figures = {name for line in service.told for name in line}
    assert {"g", "d32", "r_precision_ema", "samples", "attention", "seeds", "words", "nearest", "history"} <= figures
    assert [line["training_step"] for line in service.told if "g" in line] == [1, 2]
    assert all(line["samples"][0] == "picture" for line in service.told if "samples" in line)
    assert service.finished == 1
    resume = ["--resume", str(runs / "00000-birds-tiny"), "--training.steps", "3", *tiny_arguments[-2:]]
    assert main([*resume, "--wandb", "birds"]) == 0
    assert service.begun[1]["id"] == "abc123" and service.finished == 2


def test_without_being_asked_nobody_is_told(service: Service, tmp_path: Path) -> None:
    with run_log(RunFolder(tmp_path), 0) as log:
        log.write(1, {"g": 1.0})
        log.show(1, "samples", Image.new("RGB", (8, 8)))
    assert service.begun == [] and service.told == []


def test_a_package_that_is_missing_is_named_before_anything_is_drawn(
    tiny_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else original(name))
    words = [*tiny_arguments[:-1], str(tmp_path / "cache"), "--runs-dir", str(tmp_path / "runs"), "--wandb", "birds"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --wandb needs the package wandb, which isn't installed: pip install wandb")
    assert error.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_service_that_refuses_is_one_line(service: Service, tmp_path: Path) -> None:
    service.refusal = Refused("no key")
    with pytest.raises(UserError, match=r"--wandb birds: Weights & Biases .* refuses: no key"):
        run_log(RunFolder(tmp_path), 0, "birds")
