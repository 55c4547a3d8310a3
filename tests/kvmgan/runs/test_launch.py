"""Which run a command goes on with that its launcher starts again."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmgan.runs.launch import remember_launch, run_of_launch, was_started_again


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither torchrun's nor Slurm's."""
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def begin(runs: Path, name: str, *, checkpoint: bool = True) -> Path:
    """A run of the launch that the environment has."""
    run = runs / name
    (run / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (run / "checkpoints" / "step-000004").mkdir()
    remember_launch(run)
    return run


@pytest.mark.parametrize("who", ["TORCHELASTIC", "SLURM"])
def test_who_starts_again(environment, who):
    assert not was_started_again()
    environment.setenv(f"{who}_RESTART_COUNT", "0")
    assert not was_started_again()
    environment.setenv(f"{who}_RESTART_COUNT", "2")
    assert was_started_again()


def test_its_newest_run_with_a_checkpoint(environment, tmp_path):
    environment.setenv("TORCHELASTIC_RUN_ID", "job-7")
    begin(tmp_path, "00000-birds")
    own = begin(tmp_path, "00001-birds")
    begin(tmp_path, "00002-birds", checkpoint=False)
    environment.setenv("TORCHELASTIC_RUN_ID", "job-8")
    begin(tmp_path, "00003-birds")
    environment.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert run_of_launch(tmp_path) == own
    assert run_of_launch(tmp_path / "none") is None


def test_a_launch_without_a_name_has_no_run(environment, tmp_path):
    """Torchrun calls every such launch "none": the newest of them may be another's."""
    for name in (None, "none"):
        if name:
            environment.setenv("TORCHELASTIC_RUN_ID", name)
        run = begin(tmp_path, f"00000-{name}")
        assert not (run / "launch.json").exists()
    assert run_of_launch(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": 3}'])
def test_a_file_of_another_thing(environment, tmp_path, text):
    environment.setenv("TORCHELASTIC_RUN_ID", "job-7")
    (begin(tmp_path, "00000-birds") / "launch.json").write_text(text)
    assert run_of_launch(tmp_path) is None
