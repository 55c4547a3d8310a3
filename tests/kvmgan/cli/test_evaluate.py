"""The evaluate command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kvmgan import evaluate

NO_RUN = "/nonexistent/run"
# What a training computes at its end.
OWN = ["--metrics", "r-precision,attributes"]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The expensive step fails the test."""

    def fail(*arguments: object) -> None:
        raise AssertionError("scored, or loaded, what should have been refused before")

    monkeypatch.setattr("kvmgan.actions.evaluate.Evaluator", fail)


def _rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_numbers_of_the_run_come_again(run, tiny_arguments):
    """Same settings, same weights: the rows that training wrote are added once more."""
    before = _rows(run)
    assert evaluate.main([str(run), *OWN, "--device", "cpu", "--threads", "1", *tiny_arguments[-2:]]) == 0
    assert _rows(run) == before + before


def test_settings_can_be_overridden(run, tiny_arguments):
    """What the command line changes counts, the run's own settings elsewhere; the figures follow."""
    before = len(_rows(run))
    words = ["--evaluation.images", "12", "--evaluation.folds", "2", "--evaluation.max-words", "3"]
    assert evaluate.main([str(run), *OWN, *words, "--evaluation.seed", "5", *tiny_arguments[-2:]]) == 0
    protocol = _rows(run)[before]["protocol"]
    assert [protocol[name] for name in ("images", "folds", "max_words", "seed", "candidates")] == [12, 2, 3, 5, 8]


def test_the_protocol_has_the_candidates_that_were_there(run, tiny_arguments):
    """100 wanted, but of 24 captions six are of each class: the true one and 18 others are what there is."""
    before = len(_rows(run))
    assert evaluate.main([str(run), *OWN, "--evaluation.candidates", "100", *tiny_arguments[-2:]]) == 0
    assert _rows(run)[before]["protocol"]["candidates"] == 19


def test_the_untrained_generator_is_judged_only_if_asked_for(run, tiny_arguments, capsys):
    subjects = {row["subject"] for row in _rows(run)}
    assert subjects == {"ema", "real"}
    before = len(_rows(run))
    assert evaluate.main([str(run), *OWN, "--evaluation.untrained", *tiny_arguments[-2:]]) == 0
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
        (["--images", "-3"], "--images is -3"),
        (["--metrics", "fid,sid"], "--metrics is 'fid,sid': choose auto, or several of fid, kid, is, fd"),
        (["--metrics", ","], "--metrics is ','"),
        (["--protocol", "tensorflow"], "--protocol is 'tensorflow': choose auto, tf, clean, legacy-dmgan"),
        (["--metrics", "fid", "--protocol", "damsm"], "--metrics fid is Inception's, --protocol is damsm"),
        (["--diversity-draws", "1"], "--diversity-draws is 1"),
        (["--published", "imagenet"], "--published"),
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


def test_all_metrics_that_need_no_download(run, tiny_arguments, capsys):
    """In one go, by the extractor that a package ships; every row says by which protocol."""
    pytest.importorskip("torch_fidelity")
    before = len(_rows(run))
    words = ["--images", "16", "--diversity-captions", "2", "--diversity-draws", "3", *tiny_arguments[-2:]]
    assert evaluate.main([str(run), *words]) == 0
    rows = {(row["metric"], row["subject"]): row for row in _rows(run)[before:]}
    of_ema = {metric for metric, subject in rows if subject == "ema"}
    assert of_ema == {"fd", "kd", "precision", "recall", "diversity", "r_precision", "attribute_accuracy"}
    assert {metric for metric, subject in rows if subject == "real"} == {
        *("diversity", "r_precision", "attribute_accuracy")
    }
    protocol = rows["fd", "ema"]["protocol"]
    assert (protocol["name"], protocol["images"], protocol["real_images"]) == ("efficientnet-lite0", 16, 24)
    assert rows["diversity", "ema"]["protocol"]["images"] == 6
    assert "note: fd of 16 pictures, fewer than the 1280 features, is biased upwards" in capsys.readouterr().out


def test_what_is_seen_in_real_pictures_is_looked_at_once(run, tiny_arguments, monkeypatch):
    """The second evaluation has the same figures, and its extractor sees generated pictures alone."""
    pytest.importorskip("torch_fidelity")
    words = [str(run), "--metrics", "fd,prc", "--images", "16", *tiny_arguments[-2:]]
    assert evaluate.main(words) == 0
    first = _rows(run)
    from kvmgan.metrics.extractors import efficientnet_lite0 as module

    looked, original = [], module.resized
    monkeypatch.setattr(
        module, "resized", lambda pictures, side: looked.append(len(pictures)) or original(pictures, side)
    )
    assert evaluate.main(words) == 0
    assert sum(looked) == 16
    assert _rows(run)[len(first) :] == first[-3:]


def test_tables_of_several_runs_beside_published_figures(run, tiny_run, tmp_path, tiny_arguments):
    """The second source is the same run's earlier checkpoint; each figure has its protocol below the table."""
    earlier = run / "checkpoints" / "step-000003"
    tables = tmp_path / "tables"
    words = [*OWN, "--tables", str(tables), "--published", "cub", *tiny_arguments[-2:]]
    assert evaluate.main([str(run), str(earlier), *words]) == 0
    text = (tables / "metrics.md").read_text()
    assert "| run, step 6, ema | –" in text and "| run, step 3, real | –" in text
    assert "| DM-GAN, released weights | 4.71 <sup>1</sup> | 15.34 <sup>2</sup> | 76.6 <sup>3</sup> | – |" in text
    assert "</sup> split test, images 24, pixels 8 bits, rounded, max words 25, condition drawn, seed 0" in text
    latex = (tables / "metrics.tex").read_text()
    assert latex.count(r" \\" + "\n") == 1 + 6 + 4 and r"R-precision \%" in latex
    assert [row["step"] for row in _rows(run)[-8:]] == [6, 6, 6, 6, 3, 3, 3, 3]


def test_a_run_that_is_not_there_is_found_before_the_first_is_scored(run, no_scoring, tiny_arguments, capsys):
    before = _rows(run)
    assert evaluate.main([str(run), NO_RUN, *OWN, *tiny_arguments[-2:]]) == 2
    assert "/nonexistent/run doesn't exist" in capsys.readouterr().err
    assert _rows(run) == before


def test_weights_that_cannot_be_had_are_one_line_with_their_place(run, no_scoring, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch_fidelity")

    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    assert evaluate.main([str(run), "--metrics", "fid", "--cache-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    place = tmp_path / "weights" / "weights-inception-2015-12-05-6726825d.pth"
    assert error.startswith(f"error: {place} is missing and can't be downloaded (no network): put https://")
    assert error.count("\n") == 1


def test_too_few_pictures_for_a_metric_are_one_line(run, tiny_arguments, capsys):
    pytest.importorskip("torch_fidelity")
    words = ["--metrics", "prc", "--images", "3", "--evaluation.folds", "1", *tiny_arguments[-2:]]
    assert evaluate.main([str(run), *words]) == 2
    assert "error: --metrics prc needs 4 pictures or more, generated and real: there are 3" in capsys.readouterr().err


def test_no_run_named_is_one_line(capsys):
    assert evaluate.main([]) == 2
    assert "no run is named" in capsys.readouterr().err
