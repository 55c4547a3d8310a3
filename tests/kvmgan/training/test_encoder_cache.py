"""Which encoders a run takes: those that its data and settings decide, or those that it is given."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from kvmgan import code_version, pretrain
from kvmgan.errors import UserError
from kvmgan.files import exclusive
from kvmgan.pretraining.encoders import find_encoders, load_encoders
from kvmgan.train import main
from kvmgan.training import encoder_cache


def _cached(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.name != "data"}


def _train(tiny_arguments: list[str], runs: Path, *words: str) -> int:
    return main([*tiny_arguments, "--training.steps", "1", "--runs-dir", str(runs), *words])


def test_code_that_decides_nothing_keeps_the_encoders(tiny_run, tiny_arguments, tmp_path, monkeypatch):
    """A comment anywhere in the package, the training's settings and the word limits elsewhere: the same folders."""
    cache = Path(tiny_arguments[-1])
    before = _cached(cache)
    monkeypatch.setattr(code_version, "source_digest", lambda *_: "another")
    words = ["--training.batch-size", "6", "--model.width", "8", "--data.max-words", "9", "--evaluation.max-words", "7"]
    assert _train(tiny_arguments, tmp_path, *words) == 0
    assert _cached(cache) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--damsm.gamma3", "9"],
        ["--damsm.max-words", "3"],
        ["--damsm.epochs", "2"],
        ["--training.seed", str(2**32)],
        ["--data.birds.seed", "1"],
    ],
)
def test_what_decides_the_weights_makes_new_ones(tiny_run, tiny_arguments, tmp_path, words):
    # A cache of its own, but for the drawn birds: other tests may have made the same encoders.
    cache = tmp_path / "cache"
    shutil.copytree(Path(tiny_arguments[-1]) / "data", cache / "data")
    assert pretrain.main([*tiny_arguments[:-1], str(cache)]) == 0
    before = _cached(cache)
    assert pretrain.main([*tiny_arguments[:-1], str(cache), *words]) == 0
    new = _cached(cache) - before
    assert [name.split("-")[0] for name in new if name.startswith("damsm")] == ["damsm"]


def test_another_way_of_decoding_makes_new_ones(tiny_run, tiny_arguments, tmp_path, monkeypatch):
    """The files are the same and what pretraining sees of them isn't."""
    cache = tmp_path / "cache"
    shutil.copytree(Path(tiny_arguments[-1]), cache)
    before = _cached(cache)
    monkeypatch.setattr(encoder_cache, "DECODING_VERSION", 99)
    assert pretrain.main([*tiny_arguments[:-1], str(cache)]) == 0
    assert sorted(name.split("-")[0] for name in _cached(cache) - before) == ["classifier", "damsm"]


def test_a_pretraining_is_a_run(tiny_run, tiny_arguments):
    """Its folder in the cache holds settings, statistics, events, checkpoints, the best encoders."""
    folder = next(Path(tiny_arguments[-1]).glob("damsm-*"))
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "stats.jsonl", "checkpoints", "best", "finished.json"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert json.loads((folder / "best" / "validation.json").read_text())["epoch"] == 1


@pytest.mark.parametrize("source", ["run", "checkpoint", "encoders of a checkpoint", "pretraining", "its best"])
def test_given_encoders_are_taken(tiny_run, tiny_arguments, tmp_path, source):
    """From a run, a checkpoint or a cache folder: the weights and words are theirs, nothing is pretrained."""
    pretraining = next(Path(tiny_arguments[-1]).glob("damsm-*"))
    checkpoint = tiny_run / "checkpoints" / "step-000006"
    path = {
        "run": tiny_run,
        "checkpoint": checkpoint,
        "encoders of a checkpoint": checkpoint / "encoders",
        "pretraining": pretraining,
        "its best": pretraining / "best",
    }[source]
    # An empty cache but for the drawn birds, and settings that would give others.
    cache = tmp_path / "cache"
    shutil.copytree(Path(tiny_arguments[-1]) / "data", cache / "data")
    words = [*tiny_arguments[:-1], str(cache), "--damsm.word-dim", "12", "--encoders", str(path)]
    assert _train(words, tmp_path / "runs") == 0
    assert not list(cache.glob("damsm-*"))
    taken = load_encoders(find_encoders(next((tmp_path / "runs").iterdir())))
    given = load_encoders(find_encoders(path))
    assert taken.shape == given.shape and taken.vocabulary.words == given.vocabulary.words
    mine, theirs = taken.text.state_dict(), given.text.state_dict()
    assert all(bool((mine[name] == theirs[name]).all()) for name in theirs)


def test_a_folder_without_encoders_is_refused(tiny_arguments, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert _train(tiny_arguments, tmp_path / "runs", "--encoders", str(tmp_path / "empty")) == 2
    assert "empty holds no encoders: name a run" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_two_processes_never_pretrain_in_one_folder(tmp_path):
    with (
        exclusive(tmp_path / "damsm-1"),
        pytest.raises(UserError, match="another process is working"),
        exclusive(tmp_path / "damsm-1"),
    ):
        pass
    with exclusive(tmp_path / "damsm-1"):
        pass


def test_a_run_that_needs_encoders_that_another_trains_waits_and_finds_them(tiny_arguments, tmp_path, capsys):
    """The other one is a thread that holds the folder, and then leaves encoders in it; they aren't trained again."""
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    words = [*tiny_arguments[:-2], "--cache-dir", str(cache), "--training.steps", "1", "--runs-dir", str(runs)]
    assert main(words) == 0
    (folder,) = cache.glob("damsm-*")
    finished = (folder / "finished.json").read_text()
    (folder / "finished.json").unlink()
    held, waited = threading.Event(), threading.Event()

    def other() -> None:
        with exclusive(folder):
            held.set()
            while "waiting for another process" not in printed.getvalue():
                time.sleep(0.01)
            waited.set()
            (folder / "finished.json").write_text(finished)

    printed = io.StringIO()
    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(10)
    with contextlib.redirect_stdout(printed):
        assert main(words) == 0
    thread.join()
    output = printed.getvalue()
    assert waited.is_set() and f"waiting for another process that is working in {folder}" in output
    assert f"encoders: {folder}" in output and "damsm validation" not in output
