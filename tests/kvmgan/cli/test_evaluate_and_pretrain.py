"""The evaluate and pretrain commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from kvmgan import evaluate, pretrain


def test_evaluate_repeats_the_numbers_of_the_run(tiny_run, tiny_arguments, tmp_path):
    """Same settings, same weights: the rows that training wrote come again."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    before = (run / "metrics.jsonl").read_text().splitlines()
    assert evaluate.main([str(run), "--device", "cpu", "--threads", "1", *tiny_arguments[-2:]]) == 0
    after = (run / "metrics.jsonl").read_text().splitlines()
    assert after == before + before


def test_evaluation_settings_can_be_overridden(tiny_run, tiny_arguments, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    words = ["--evaluation.images", "12", "--evaluation.folds", "2", "--evaluation.candidates", "4"]
    assert evaluate.main([str(run), *words, *tiny_arguments[-2:]]) == 0
    protocol = json.loads((run / "metrics.jsonl").read_text().splitlines()[6])["protocol"]
    assert (protocol["images"], protocol["folds"], protocol["candidates"]) == (12, 2, 4)


def test_evaluate_of_nothing(tmp_path, capsys):
    assert evaluate.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_pretrain_fills_the_cache_that_training_reads(tiny_run, tiny_arguments, capsys):
    cache = Path(tiny_arguments[-1])
    before = sorted(cache.iterdir())
    assert pretrain.main(tiny_arguments) == 0
    output = capsys.readouterr().out
    assert sorted(cache.iterdir()) == before
    assert "real" in output and "r_precision" in output
