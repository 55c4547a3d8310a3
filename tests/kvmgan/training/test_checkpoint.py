"""Checkpoints appear whole or not at all, and damage is found before anything is loaded."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kvmgan.errors import UserError
from kvmgan.evaluate import main as evaluate
from kvmgan.files import file_digest
from kvmgan.runs.checkpoint_folder import list_checkpoints, prune
from kvmgan.sample import main as sample
from kvmgan.storage.tensor_file import load_tensors, save_tensors
from kvmgan.train import main
from kvmgan.training import checkpoint as module
from kvmgan.training import loop
from kvmgan.training.checkpoint import load_checkpoint, save_checkpoint, snapshot
from kvmgan.training.precision import Precision
from kvmgan.training.step import TrainingStep

CPU = Precision.choose("float32", torch.device("cpu"))


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that a test may damage."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_save_and_restore_give_the_same_state(run, tmp_path):
    saved = load_checkpoint(run)
    state = saved.restore(CPU)
    again = load_checkpoint(save_checkpoint(tmp_path / "copy", snapshot(state), saved.encoders(), saved.options))
    assert (again.step, again.options) == (saved.step, saved.options)
    for name in ("generator", "average", "discriminators", "optimizers"):
        file = f"{name}.safetensors"
        assert (saved.folder / file).read_bytes() == (again.folder / file).read_bytes(), name


def _with_backend(run: Path, backend: str) -> Path:
    """The run, its newest checkpoint written again as if its memory layers had that backend."""
    saved = load_checkpoint(run)
    state, encoders = saved.restore(CPU), saved.encoders()
    model = saved.options.model
    model = replace(model, memory=replace(model.memory, backend=backend))
    shutil.rmtree(saved.folder)
    save_checkpoint(saved.folder.parent, snapshot(state), encoders, replace(saved.options, model=model))
    return run


def test_a_run_of_a_gpu_is_sampled_judged_and_goes_on_on_a_cpu(run, tmp_path, tiny_arguments, capsys):
    """The fastest backend stands in, with a note, and makes the same picture; resuming asks for the one to take."""
    sampled = [str(run), "a red bird", "--device", "cpu", "--out"]
    assert sample([*sampled, str(tmp_path / "before")]) == 0
    _with_backend(run, "cuda")
    capsys.readouterr()
    assert sample([*sampled, str(tmp_path / "after")]) == 0
    note = "note: the memory layers take the fastest backend on cpu, not the run's own: "
    assert capsys.readouterr().out.count(note) == 1
    first, second = ((tmp_path / name / "001-a-red-bird.png").read_bytes() for name in ("before", "after"))
    assert first == second
    assert (
        evaluate(
            [str(run), "--metrics", "r-precision", "--device", "cpu", "--evaluation.untrained", *tiny_arguments[-2:]]
        )
        == 0
    )
    resumed = ["--resume", str(run), "--training.steps", "7", *tiny_arguments[-2:]]
    assert main(resumed) == 2
    assert "--model.memory.backend cuda: the generator can't run on cpu" in capsys.readouterr().err
    assert main([*resumed, "--model.memory.backend", "eager"]) == 0


def test_a_backend_of_another_version_is_not_missed(run, capsys):
    checkpoint = load_checkpoint(_with_backend(run, "of tomorrow")).runnable_on(torch.device("cpu"))
    assert checkpoint.options.model.memory.backend is None
    assert "note: the memory layers take the fastest backend on cpu" in capsys.readouterr().out


def test_a_backend_that_can_run_stays(run, capsys):
    checkpoint = load_checkpoint(_with_backend(run, "eager")).runnable_on(torch.device("cpu"))
    assert [stage.memory.backend for stage in checkpoint.generator().refinements] == ["eager"]
    assert capsys.readouterr().out == ""


def test_failed_save_leaves_the_earlier_checkpoint(run, monkeypatch):
    """A disk that fills up halfway: the old checkpoints are whole, nothing half-written is left."""
    saved = load_checkpoint(run)
    state = saved.restore(CPU)
    state.step += 1
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    original = module.write_tensors

    def full_disk(path, tensors):
        if path.name == "discriminators.safetensors":
            raise OSError(28, "No space left on device")
        original(path, tensors)

    monkeypatch.setattr(module, "write_tensors", full_disk)
    with pytest.raises(UserError, match=r"checkpoint .*step-000007 can't be written \(No space left on device\)"):
        save_checkpoint(run / "checkpoints", snapshot(state), saved.encoders(), saved.options)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    assert load_checkpoint(run).step == saved.step


def test_steps_that_follow_change_nothing_of_what_is_being_written(tiny_arguments, tmp_path, monkeypatch):
    """The first checkpoint is written only when training has gone on: it still holds the state of its own step."""
    started, original, digests = threading.Event(), loop.save_checkpoint, []

    def digest(parts: dict) -> list[bytes]:
        return [tensor.numpy().tobytes() for own in parts.values() for tensor in own.values()]

    def slowly(folder, taken, *rest):
        if taken.step == 2:
            digests.append(digest(taken.tensors))
            assert started.wait(30)
            digests.append(digest(taken.tensors))
        return original(folder, taken, *rest)

    training = TrainingStep.__call__

    def step(self, state, batch):
        losses = training(self, state, batch)
        if state.step == 4:
            started.set()
        return losses

    monkeypatch.setattr(loop, "save_checkpoint", slowly)
    monkeypatch.setattr(TrainingStep, "__call__", step)
    straight, late = tmp_path / "straight", tmp_path / "late"
    words = [*tiny_arguments, "--training.checkpoint-interval", "2", "--training.keep-checkpoints", "3"]
    assert main([*words, "--training.steps", "5", "--runs-dir", str(late)]) == 0
    monkeypatch.undo()
    assert main([*words, "--training.steps", "2", "--runs-dir", str(straight)]) == 0
    assert digests[0] == digests[1]
    for name in ("generator", "average", "discriminators", "optimizers"):
        files = [next(runs.glob(f"*/checkpoints/step-000002/{name}.safetensors")) for runs in (late, straight)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    """Three newest, the spared one, and nothing that a killed process left half-written."""
    for step in range(7, 13):
        (tmp_path / f"step-{step:06d}").mkdir()
    (tmp_path / ".tmp-1-step-000001").mkdir()
    prune(tmp_path, 3, spared=tmp_path / "step-000008")
    assert [p.name for p in list_checkpoints(tmp_path)] == [f"step-{s:06d}" for s in (8, 10, 11, 12)]
    assert not (tmp_path / ".tmp-1-step-000001").exists()
    prune(tmp_path, 3)
    assert [p.name for p in list_checkpoints(tmp_path)] == [f"step-{s:06d}" for s in (10, 11, 12)]


def test_checkpoints_of_every_so_many_steps_are_kept_for_good(tiny_arguments, tmp_path):
    """Written though they aren't due, and left when newer ones come; a resume may ask for others."""
    words = ["--training.keep-checkpoints", "1", "--training.checkpoint-interval", "2", "--training.keep-interval", "3"]
    assert main([*tiny_arguments, *words, "--training.steps", "7", "--runs-dir", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    assert [p.name for p in list_checkpoints(run / "checkpoints")] == [f"step-{s:06d}" for s in (3, 6, 7)]
    again = ["--resume", str(run), "--training.steps", "8", "--training.keep-interval", "0", *tiny_arguments[-2:]]
    assert main(again) == 0
    # The last one of the first command was its best.
    assert [p.name for p in list_checkpoints(run / "checkpoints")] == ["step-000007", "step-000008"]


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


def _sealed(folder: Path) -> None:
    """As a checkpoint whose files were changed and hashed again: what others made, not what was damaged on its way."""
    path = folder / "checkpoint.json"
    header = json.loads(path.read_text())
    header["sha256"] = {name: file_digest(folder / name) for name in header["sha256"]}
    path.write_text(json.dumps(header))


def _with_nan(folder: Path) -> None:
    path = folder / "average.safetensors"
    tensors = load_tensors(path)
    tensors["heads.0.conv.weight"].view(-1)[3] = float("nan")
    save_tensors(path, tensors)


def _of_another_width(folder: Path) -> None:
    path = folder / "config.yaml"
    text = path.read_text()
    assert text.count("\n  width: 4\n") > 1
    path.write_text(text.replace("\n  width: 4\n", "\n  width: 6\n"))


def _with_words(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "encoders" / "vocabulary.json"
        path.write_text(json.dumps({"words": change(json.loads(path.read_text())["words"])}))

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with_nan, "average.safetensors: heads.0.conv.weight has values that aren't finite"),
        (_of_another_width, "average.safetensors doesn't fit the settings beside it"),
        (_with_words(lambda words: words[:-1]), "text_encoder.safetensors doesn't fit the settings beside it"),
        (_with_words(lambda words: [*words, "more"]), "text_encoder.safetensors doesn't fit the settings beside it"),
        (_with_words(lambda words: []), "vocabulary.json: the vocabulary is empty"),
    ],
)
def test_a_checkpoint_that_does_not_fit_itself_is_one_line(run, change, message, tmp_path, capsys):
    folder = run / "checkpoints" / "step-000006"
    change(folder)
    _sealed(folder)
    assert sample([str(run), "a bird", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_damaged_header(run):
    (run / "checkpoints" / "step-000006" / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match=r"checkpoint\.json"):
        load_checkpoint(run)


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(UserError, match="doesn't exist"):
        load_checkpoint(tmp_path / "nothing")


class _Diverging:
    """The training step, but from step 7 on a loss is NaN and the step counts as skipped."""

    def __init__(self, *arguments):
        self.original = TrainingStep(*arguments)

    def __call__(self, state, batch):
        row = state.skipped_in_row.clone()
        losses = self.original(state, batch)
        if state.step < 7:
            return losses
        state.skipped += 1
        state.skipped_in_row.copy_(row + 1)
        return losses | {"kl": losses["kl"] * float("nan")}


def test_divergence_stops_and_leaves_the_last_good_checkpoint(run, tiny_arguments, monkeypatch, capsys):
    """Too many skipped steps in a row: one line that names the loss, status 2, no checkpoint of them."""
    monkeypatch.setattr(loop, "TrainingStep", _Diverging)
    words = ["--resume", str(run), "--training.steps", "20", "--training.skip-limit", "3", *tiny_arguments[-2:]]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "training diverged at step 9: loss kl is nan (3 steps in a row were skipped)" in error
    assert "step-000006" in error
    assert load_checkpoint(run).step == 6


def test_a_few_skipped_steps_are_counted_and_survived(run, tiny_arguments, monkeypatch):
    """Fewer in a row than the limit: training goes on, the statistics say how many, a NaN loss is null there."""
    monkeypatch.setattr(loop, "TrainingStep", _Diverging)
    assert main(["--resume", str(run), "--training.steps", "10", *tiny_arguments[-2:]]) == 0
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    last = [line for line in lines if "skipped" in line][-1]
    assert (last["step"], last["skipped"], last["kl"]) == (10, 4, None)
    assert load_checkpoint(run).header["skipped"] == 4


def test_the_best_checkpoint_is_kept_beside_the_newest(tiny_arguments, tmp_path, monkeypatch):
    """R-precision 10, 40, 30, 20 at steps 2, 4, 6 and 8, one newest kept: steps 4 and 8 stay, best.json names 4."""
    values = iter([10.0, 40.0, 30.0, 20.0])

    def judged(*arguments):
        return [{"metric": "r_precision", "subject": "ema", "value": next(values), "protocol": {}}]

    monkeypatch.setattr(loop.Evaluator, "score_average", judged)
    words = ["--training.steps", "8", "--training.evaluate-interval", "2", "--training.keep-checkpoints", "1"]
    assert main([*tiny_arguments, *words, "--runs-dir", str(tmp_path)]) == 0
    run = next(tmp_path.iterdir())
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-000004", "step-000008"]
    assert json.loads((run / "best.json").read_text()) == {"metric": "r_precision", "value": 40.0, "step": 4}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["value"]) for row in rows] == [(2, 10.0), (4, 40.0), (6, 30.0), (8, 20.0)]
    stats = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line["r_precision_ema"] for line in stats if "r_precision_ema" in line] == [10.0, 40.0, 30.0, 20.0]
