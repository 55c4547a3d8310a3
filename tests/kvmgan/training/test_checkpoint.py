"""Checkpoints appear whole or not at all, and damage is found before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from kvmgan.errors import UserError
from kvmgan.training import checkpoint as module
from kvmgan.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that a test may damage."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_save_and_restore_give_the_same_state(run, tmp_path):
    saved = load_checkpoint(run)
    state = saved.restore(torch.device("cpu"))
    again = load_checkpoint(save_checkpoint(tmp_path / "copy", state, saved.encoders(), saved.options))
    assert (again.step, again.options) == (saved.step, saved.options)
    for name in ("generator", "average", "discriminators", "optimizers"):
        file = f"{name}.safetensors"
        assert (saved.folder / file).read_bytes() == (again.folder / file).read_bytes(), name


def test_failed_save_leaves_the_earlier_checkpoint(run, monkeypatch):
    """A disk that fills up halfway: the old checkpoints are whole, nothing half-written is left."""
    saved = load_checkpoint(run)
    state = saved.restore(torch.device("cpu"))
    state.step += 1
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    original = module.save_tensors

    def full_disk(path, tensors):
        if path.name == "discriminators.safetensors":
            raise OSError(28, "No space left on device")
        original(path, tensors)

    monkeypatch.setattr(module, "save_tensors", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(run / "checkpoints", state, saved.encoders(), saved.options)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    assert load_checkpoint(run).step == saved.step


def test_only_the_newest_are_kept(run):
    saved = load_checkpoint(run)
    state, encoders = saved.restore(torch.device("cpu")), saved.encoders()
    keep = saved.options.training.keep_checkpoints
    leftover = run / "checkpoints" / ".tmp-1-step-000001"
    leftover.mkdir()
    for step in range(7, 12):
        state.step = step
        save_checkpoint(run / "checkpoints", state, encoders, saved.options)
    assert [p.name for p in list_checkpoints(run / "checkpoints")] == [f"step-{s:06d}" for s in range(7, 12)][-keep:]
    assert not leftover.exists()


@pytest.mark.parametrize("file", ["average.safetensors", "encoders/vocabulary.json", "config.yaml"])
def test_a_damaged_or_missing_file_is_named(run, file):
    path = run / "checkpoints" / "step-000006" / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"corrupt: {file}.*step-000003"):
        load_checkpoint(run)
    path.unlink()
    with pytest.raises(UserError, match=rf"corrupt: {file}"):
        load_checkpoint(run)


def test_damaged_header(run):
    (run / "checkpoints" / "step-000006" / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match=r"checkpoint\.json"):
        load_checkpoint(run)


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(UserError, match="doesn't exist"):
        load_checkpoint(tmp_path / "nothing")


def test_divergence_stops_and_leaves_the_last_good_checkpoint(run, tiny_arguments, monkeypatch, capsys):
    """A loss that becomes NaN: one line, status 2, no picture or checkpoint of that step."""
    from kvmgan.train import main
    from kvmgan.training import loop

    original = loop.training_step

    def diverging(*arguments):
        losses = original(*arguments)
        return losses | {"kl": losses["kl"] * float("nan")}

    monkeypatch.setattr(loop, "training_step", diverging)
    assert main(["--resume", str(run), "--training.steps", "8", *tiny_arguments[-2:]]) == 2
    error = capsys.readouterr().err
    assert "training diverged at step 8: loss kl is nan" in error and "step-000006" in error
    assert load_checkpoint(run).step == 6
    assert not (run / "samples" / "step-000008.png").exists()
