"""Interrupting and resuming: nothing is lost, and the numbers are those of an uninterrupted run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kvmgan.files import exclusive
from kvmgan.train import main
from kvmgan.training.step import TrainingStep


def _tensors(checkpoint: Path) -> dict[str, bytes]:
    """Every tensor of a checkpoint as bytes, by file and name."""
    return {
        f"{path.name}:{name}": tensor.numpy().tobytes()
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def _losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    kept = [line for line in lines if "g" in line]
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second")} for line in kept]


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch):
    """Send this process a signal during a given training step."""

    def arm(step: int, signum: int) -> None:
        original = TrainingStep.__call__

        def interrupted(self, state, batch):
            if state.step == step - 1:
                signal.raise_signal(signum)
            return original(self, state, batch)

        monkeypatch.setattr(TrainingStep, "__call__", interrupted)

    return arm


@pytest.mark.parametrize(("precision", "threads"), [("float32", "2"), ("bfloat16", "2"), ("float16", "1")])
def test_resume_is_bit_identical(tiny_arguments, tmp_path, signal_at, monkeypatch, capsys, precision, threads):
    """50 straight steps equal 25, SIGTERM, --resume, 25: weights, average, moments, losses."""
    changed = ["--training.precision", precision, "--training.threads", threads]
    arguments = [*tiny_arguments, *changed, "--training.steps", "50"]
    assert main([*arguments, "--runs-dir", str(tmp_path / "straight")]) == 0
    signal_at(25, signal.SIGTERM)
    assert main([*arguments, "--runs-dir", str(tmp_path / "broken")]) == 128 + signal.SIGTERM
    monkeypatch.undo()
    straight, broken = (next((tmp_path / name).iterdir()) for name in ("straight", "broken"))
    assert [p.name for p in (broken / "checkpoints").iterdir()] == ["step-000025"]
    assert f"--resume {broken}" in capsys.readouterr().err

    cache = tiny_arguments[-2:]
    assert main(["--resume", str(broken), *cache]) == 0
    torch.set_num_threads(1)
    expected = _tensors(straight / "checkpoints" / "step-000050")
    resumed = _tensors(broken / "checkpoints" / "step-000050")
    assert {name.split(":")[0] for name in expected} >= {"generator.safetensors", "optimizers.safetensors"}
    assert [name for name in expected if expected[name] != resumed.get(name)] == []
    assert _losses(straight) == _losses(broken)


def test_a_signal_during_the_last_step_is_obeyed(tiny_arguments, tmp_path, signal_at, capsys):
    """Training ends, its checkpoint is there, and the process stops instead of evaluating."""
    signal_at(5, signal.SIGTERM)
    assert main([*tiny_arguments, "--training.steps", "5", "--runs-dir", str(tmp_path)]) == 128 + signal.SIGTERM
    assert "training is done; for the metrics: python -m kvmgan.evaluate" in capsys.readouterr().err
    assert [p.name for p in tmp_path.glob("*/checkpoints/*")] == ["step-000005"]
    assert not list(tmp_path.glob("*/metrics.jsonl"))


def test_ctrl_c_exits_130_after_a_checkpoint(tiny_arguments, tmp_path, signal_at):
    signal_at(3, signal.SIGINT)
    assert main([*tiny_arguments, "--training.steps", "9", "--runs-dir", str(tmp_path)]) == 130
    assert [p.name for p in tmp_path.glob("*/checkpoints/*")] == ["step-000003"]


def test_sigterm_to_a_process_writes_a_checkpoint(tiny_arguments, tmp_path, python, subprocess_environment):
    """A real process, stopped in the middle of training, ends with 143 and says how to resume."""
    command = [python, "-m", "kvmgan.train", *tiny_arguments, "--training.steps", "100000", "--runs-dir", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=subprocess_environment
    )
    try:
        next(line for line in process.stdout if line.startswith("train "))
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "Traceback" not in errors
    run = next(tmp_path.iterdir())
    assert f"--resume {run}" in errors
    assert [re.fullmatch(r"step-\d{6}", p.name) is not None for p in (run / "checkpoints").iterdir()] == [True]


def test_resume_keeps_settings(tiny_run, tiny_arguments, capsys):
    """Settings that would change the result can't be changed on resume: all of them are named, and no others."""
    words = ["--model.width", "8", "--training.seed", "3", "--training.steps", "9"]
    assert main(["--resume", str(tiny_run), *words, *tiny_arguments[-2:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --model.width 4 -> 8, --training.seed 0 -> 3: can't change on --resume")


def test_fewer_steps_than_have_been_trained_are_refused(tiny_run, tiny_arguments, capsys):
    words = ["--resume", str(tiny_run), *tiny_arguments[-2:], "--training.steps"]
    assert main([*words, "5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --training.steps 5: ") and "trained for 6 already" in error


@pytest.mark.parametrize(("start", "said"), [("0.5", True), ("1", False)], ids=["falling", "constant"])
def test_more_steps_than_rates_were_falling_for_are_said(tiny_arguments, tmp_path, capsys, start, said):
    """Rates fall in the second half of four steps: the last was at a half. Of eight it is none of the second half."""
    words = [*tiny_arguments, "--training.lr-decay-start", start, "--runs-dir", str(tmp_path)]
    assert main([*words, "--training.steps", "4"]) == 0
    again = ["--resume", str(next(tmp_path.iterdir())), *tiny_arguments[-2:]]
    assert main(again) == 0
    assert "learning rates" not in capsys.readouterr().out
    assert main([*again, "--training.steps", "8"]) == 0
    assert ("learning rates rise from 0.5 to 1 of those set" in capsys.readouterr().out) == said


def test_resume_from_an_older_checkpoint_is_refused(tiny_run, capsys):
    assert main(["--resume", str(tiny_run / "checkpoints" / "step-000003")]) == 2
    assert "step-000006 is newer" in capsys.readouterr().err


def test_a_line_that_a_crash_cut_is_dropped(tiny_run, tiny_arguments, tmp_path):
    """A blank one and one of another thing, too."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    with (run / "stats.jsonl").open("a") as file:
        file.write('\n[1]\n{"loss": 3}\n{"step": 6, "g": 1.')
    assert main(["--resume", str(run), "--training.steps", "10", *tiny_arguments[-2:]]) == 0
    assert [line["step"] for line in _losses(run)] == [5, 6, 10]


def test_a_torn_checkpoint_is_passed_over(tiny_run, tiny_arguments, tmp_path, capsys):
    """The newest whole one is taken, and said; the steps after it come again, and the torn one is replaced."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    torn = run / "checkpoints" / "step-000006"
    whole = _tensors(torn)
    (torn / "generator.safetensors").write_bytes(b"")
    assert main(["--resume", str(run), *tiny_arguments[-2:]]) == 0
    output = capsys.readouterr().out
    assert f"note: {torn} is damaged and passed over" in output and "resumed at step 3" in output
    assert _tensors(torn) == whole
    for folder in (run / "checkpoints").iterdir():
        (folder / "average.safetensors").unlink()
    assert main(["--resume", str(run), *tiny_arguments[-2:]]) == 2
    assert "step-000006 is corrupt: average.safetensors" in capsys.readouterr().err


def test_a_run_in_use_is_refused_by_name(tiny_run, tiny_arguments, tmp_path, capsys):
    """Before anything of it is written; once the other process is gone, it goes on."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    words = ["--resume", str(run), "--training.steps", "7", *tiny_arguments[-2:]]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with exclusive(run):
        assert main(words) == 2
    assert f"another process is working in {run}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(words) == 0


@pytest.mark.parametrize("full", ["checkpoint", "statistics"])
def test_a_full_disk_stops_a_run_with_one_line_and_leaves_what_was_whole(
    tiny_run, tiny_arguments, tmp_path, monkeypatch, capsys, full
):
    """Nothing temporary stays, and the run goes on once there is room."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    words = ["--resume", str(run), "--training.steps", "8", *tiny_arguments[-2:]]

    def no_room(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    if full == "checkpoint":
        monkeypatch.setattr("kvmgan.training.checkpoint.write_tensors", no_room)
    else:
        monkeypatch.setattr(Path, "open", no_room)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and error.count("\n") == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    assert not [path for path in run.rglob("*") if path.name.startswith(".tmp")]
    monkeypatch.undo()
    assert main(words) == 0


def test_statistics_past_the_checkpoint_are_dropped(tiny_run, tiny_arguments, tmp_path):
    """A run killed after its last checkpoint: resuming writes every step's line once."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    with (run / "stats.jsonl").open("a") as file:
        file.write('{"step": 10, "g": 1.0}\n')
    assert main(["--resume", str(run), "--training.steps", "10", *tiny_arguments[-2:]]) == 0
    assert [line["step"] for line in _losses(run)] == [5, 6, 10]
    assert _losses(run)[-1]["g"] != 1.0
