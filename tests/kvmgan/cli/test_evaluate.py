"""The evaluate command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kvmgan import evaluate

NO_RUN = "/nonexistent/run"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expensive step fails the test."""

    def fail(*arguments: object) -> None:
        raise AssertionError("scored, or loaded, what should have been refused before")

    monkeypatch.setattr(evaluate, "Evaluator", fail)


def _rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_numbers_of_the_run_come_again(run, tiny_arguments):
    """Same settings, same weights: the rows that training wrote are added once more."""
    before = _rows(run)
    assert evaluate.main([str(run), "--device", "cpu", "--threads", "1", *tiny_arguments[-2:]]) == 0
    assert _rows(run) == before + before


def test_settings_can_be_overridden(run, tiny_arguments):
    """What the command line changes counts, the run's own settings elsewhere; the figures follow."""
    before = len(_rows(run))
    words = ["--evaluation.images", "12", "--evaluation.folds", "2", "--evaluation.max-words", "3"]
    assert evaluate.main([str(run), *words, "--evaluation.seed", "5", *tiny_arguments[-2:]]) == 0
    protocol = _rows(run)[before]["protocol"]
    assert [protocol[name] for name in ("images", "folds", "max_words", "seed", "candidates")] == [12, 2, 3, 5, 8]


def test_the_protocol_has_the_candidates_that_were_there(run, tiny_arguments):
    """100 wanted, but of 24 captions six are of each class: the true one and 18 others are what there is."""
    before = len(_rows(run))
    assert evaluate.main([str(run), "--evaluation.candidates", "100", *tiny_arguments[-2:]]) == 0
    assert _rows(run)[before]["protocol"]["candidates"] == 19


def test_the_untrained_generator_is_judged_only_if_asked_for(run, tiny_arguments, capsys):
    subjects = {row["subject"] for row in _rows(run)}
    assert subjects == {"ema", "real"}
    before = len(_rows(run))
    assert evaluate.main([str(run), "--evaluation.untrained", *tiny_arguments[-2:]]) == 0
    assert {row["subject"] for row in _rows(run)[before:]} == {"ema", "untrained", "real"}
    assert "\nuntrained " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "/nonexistent/run doesn't exist"),
        (["--device", "tpu"], "--device is 'tpu'"),
        (["--device", "cuda:99"], "--device is 'cuda:99'"),
        (["--threads", "-1"], "--threads is -1"),
        (["--evaluation.seed", "-1"], "--evaluation.seed is -1"),
        (["--evaluation.seed", str(2**63)], f"--evaluation.seed is {2**63}"),
        (["--evaluation.images", "0"], "--evaluation.images is 0"),
        (["--data-root", "/nonexistent/data"], "--data-root /nonexistent/data is no folder"),
        (["--evaluation.image", "3"], "unknown option --evaluation.image"),
    ],
)
def test_bad_input_is_one_line_before_a_checkpoint_is_looked_for(no_scoring, capsys, words, complaint):
    """The run doesn't exist: what is wrong with the words is found first, and is blamed on this command's option."""
    assert evaluate.main([NO_RUN, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert complaint in error and "--training." not in error


def test_settings_that_do_not_fit_each_other_are_refused(run, no_scoring, tiny_arguments, capsys):
    assert evaluate.main([str(run), "--evaluation.images", "2", *tiny_arguments[-2:]]) == 2
    assert "--evaluation.folds is 3, more than --evaluation.images (2)" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_found_before_the_scoring(run, no_scoring, tiny_arguments, capsys):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    assert evaluate.main([str(run), *tiny_arguments[-2:]]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {run / 'metrics.jsonl'} cannot be written: Is a directory\n"
