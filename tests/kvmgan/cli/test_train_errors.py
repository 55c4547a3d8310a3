"""Bad input to kvmgan.train: one line on standard error, status 2, no run folder."""

from __future__ import annotations

import pytest

from kvmgan.train import main

CASES = {
    "unknown preset": (["--preset", "birds-tinny"], ["birds-tinny", "did you mean birds-tiny", "cub", "coco"]),
    "unknown option": (["--training.stepz", "4"], ["--training.stepz", "--training.steps"]),
    "shortened option": (["--training.lr", "1"], ["--training.lr-generator", "--training.lr-discriminator"]),
    "unknown group": (["--optimiser", "sgd"], ["--optimiser", "--training.*"]),
    "stray word": (["steps"], ["'steps'"]),
    "wrong type": (["--training.steps", "many"], ["--training.steps", "many"]),
    "missing value": (["--training.steps"], ["--training.steps"]),
    "wrong choice": (["--model.refinement", "magic"], ["magic", "memory", "attention"]),
    "too small": (["--training.steps", "0"], ["--training.steps is 0", "1 or more"]),
    "too large": (["--training.ema-decay", "1.0"], ["--training.ema-decay is 1.0", "below one"]),
    "not a number": (["--training.lr-generator", "nan"], ["--training.lr-generator is nan", "above zero"]),
    "batch of one": (["--training.batch-size", "1"], ["--training.batch-size is 1", "2 or more"]),
    "odd base": (["--model.base-size", "24"], ["--model.base-size is 24", "power of two"]),
    "too small a picture": (["--model.stages", "1"], ["16 pixels", "32 or more"]),
    "odd features": (["--damsm.word-dim", "7"], ["--damsm.word-dim is 7", "even"]),
    "no data root": (["--preset", "cub"], ["--data.root is missing"]),
    "missing data": (["--preset", "cub", "--data.root", "/nonexistent"], ["/nonexistent"]),
    "impossible birds": (["--data.birds.test-classes", "200"], ["test_classes=200"]),
    "unknown device": (["--training.device", "tpu"], ["tpu", "auto, cpu, cuda"]),
    "missing run": (["--resume", "/nonexistent/run"], ["/nonexistent/run"]),
    "preset on resume": (["--resume", "x", "--preset", "cub"], ["--preset can't be given with --resume"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_status_2(case, tmp_path, capsys):
    arguments, wanted = CASES[case]
    runs, cache = tmp_path / "runs", tmp_path / "cache"
    assert main([*arguments, "--runs-dir", str(runs), "--cache-dir", str(cache)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert [part for part in wanted if part not in error] == []
    assert not runs.exists() and not cache.exists()


@pytest.mark.parametrize("group", ["training", "damsm", "classifier"])
def test_batch_larger_than_the_data(group, tiny_arguments, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert main([*tiny_arguments, f"--{group}.batch-size", "1000", "--runs-dir", str(runs)]) == 2
    error = capsys.readouterr().err
    assert error == f"error: --{group}.batch-size is 1000, but there are 48 training images: lower it\n"
    assert not runs.exists()


def test_too_many_candidates_are_found_before_training(tiny_arguments, tmp_path, capsys):
    assert main([*tiny_arguments, "--evaluation.candidates", "100", "--runs-dir", str(tmp_path / "runs")]) == 2
    assert "--evaluation.candidates is 100" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_unwritable_runs_folder(tiny_arguments, tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    assert main([*tiny_arguments, "--runs-dir", str(tmp_path / "runs")]) == 2
    assert "--runs-dir" in capsys.readouterr().err
