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
    "too large": (["--training.ema-decay", "1.0"], ["--training.ema-decay is 1.0", "below 1"]),
    "not a number": (["--training.lr-generator", "nan"], ["--training.lr-generator is nan", "above 0"]),
    "negative seed": (["--training.seed", "-1"], ["--training.seed is -1", "0 or more"]),
    "seed too large": (["--training.seed", str(2**63)], [f"--training.seed is {2**63}", f"below {2**63}"]),
    "evaluation's seed": (["--evaluation.seed", str(2**63)], [f"--evaluation.seed is {2**63}"]),
    "birds' seed": (["--data.birds.seed", str(2**63)], [f"{2**63}"]),
    "negative profile": (["--profile", "-1"], ["--profile is -1"]),
    "slash in the name": (["--name", "a/b"], ["--name is 'a/b'"]),
    "config and preset": (["--config", "x.yaml", "--preset", "cub"], ["--preset can't be given with --config"]),
    "missing config": (["--config", "/nonexistent.yaml"], ["/nonexistent.yaml is missing", "--dry-run"]),
    "missing encoders": (["--encoders", "/nonexistent"], ["/nonexistent holds no encoders"]),
    "encoders on resume": (["--resume", "x", "--encoders", "y"], ["--encoders can't be given with --resume"]),
    "unknown layout": (["--data.root", "/proc/self/fd"], ["/proc/self/fd is no data set that is known"]),
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


def test_unwritable_folders_are_found_before_anything_is_drawn(tiny_arguments, tmp_path, capsys):
    """The runs folder and the cache folder, each a file: one line, and no bird was drawn for nothing."""
    (tmp_path / "file").write_text("a file")
    file, free = str(tmp_path / "file"), str(tmp_path / "free")
    assert main([*tiny_arguments[:-1], free, "--runs-dir", file]) == 2
    assert f"--runs-dir {file} can't be written" in capsys.readouterr().err
    assert not (tmp_path / "free" / "data").exists()
    assert main([*tiny_arguments[:-1], f"{file}/cache", "--runs-dir", free]) == 2
    assert f"--cache-dir {file}/cache can't be written" in capsys.readouterr().err


def test_a_backend_that_cannot_run_is_found_before_anything_is_drawn(tiny_arguments, tmp_path, capsys):
    words = ["--model.memory.backend", "cuda", "--runs-dir", str(tmp_path / "runs")]
    assert main([*tiny_arguments[:-1], str(tmp_path / "cache"), *words]) == 2
    error = capsys.readouterr().err
    assert "--model.memory.backend cuda" in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()
