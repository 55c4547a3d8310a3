"""DAMSM pretraining as a run: resumed bit for bit, validated, the best encoders kept, the text encoder clipped."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kvmgan_training import CPU
from safetensors.torch import load_file

from kvmgan.config import DamsmOptions
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.procedural.archive import BirdsSettings, ensure_birds
from kvmgan.data.readers.cub import read_cub
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.pretraining import damsm_pretraining as module
from kvmgan.pretraining.damsm_pretraining import DAMSM_VERSION, DamsmPretraining, damsm_step, finished, learning_rate
from kvmgan.pretraining.damsm_validation import DamsmScore
from kvmgan.runs.interruption import Interrupted, SignalGuard
from kvmgan.runs.run_folder import RunFolder

DAMSM = DamsmOptions(
    encoder="small", width=4, embedding_dim=8, word_dim=8, max_words=6, dropout=0.3, epochs=3, batch_size=6
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[TextImageDataset, TextImageDataset]:
    """24 training and 8 held-out birds of 32 pixels."""
    settings = BirdsSettings(classes=8, test_classes=2, images_per_class=4, captions_per_image=3, image_size=48)
    root = ensure_birds(tmp_path_factory.mktemp("birds"), settings)
    train, test = read_cub(root, "train"), read_cub(root, "test")
    vocabulary = Vocabulary.build(caption for record in train + test for caption in record.captions)
    return tuple(TextImageDataset(part, vocabulary, sizes=(16, 32), max_words=18) for part in (train, test))


@pytest.fixture
def pretraining(datasets):
    """A pretraining in a folder, of four steps an epoch."""

    def make(path: Path, seed: int = 0, **settings) -> DamsmPretraining:
        damsm = replace(DAMSM, **settings)
        path.mkdir(exist_ok=True)
        return DamsmPretraining(RunFolder(path), *datasets, damsm, size=32, seed=seed, workers=0, device=CPU)

    return make


def _run(job: DamsmPretraining) -> None:
    with SignalGuard("") as guard:
        job.run(guard)


def _files(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            found[f"{path.relative_to(folder)}:{name}"] = tensor.numpy().tobytes()
    return found


def _stats(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second")} for line in lines]


@pytest.mark.parametrize("threads", [1, 2])
def test_resume_is_bit_identical(pretraining, tmp_path, monkeypatch, threads):
    """Twelve straight steps equal seven, SIGTERM in the middle of an epoch, and five: weights, moments, figures."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    monkeypatch.setattr(module, "LOG_INTERVAL", 2)
    _run(pretraining(tmp_path / "straight"))
    original = module.damsm_step

    def interrupted(state, *rest):
        if state.step == 6:
            signal.raise_signal(signal.SIGTERM)
        return original(state, *rest)

    with monkeypatch.context() as context:
        context.setattr(module, "damsm_step", interrupted)
        with pytest.raises(Interrupted, match="goes on with pretraining"):
            _run(pretraining(tmp_path / "broken"))
    assert not finished(tmp_path / "broken")
    job = pretraining(tmp_path / "broken")
    assert job.state.step == 7
    _run(job)
    torch.set_num_threads(before)
    straight, broken = (tmp_path / name for name in ("straight", "broken"))
    assert finished(straight) and finished(broken)
    wanted, found = _files(straight / "best"), _files(broken / "best")
    assert wanted == found
    last = "checkpoints/step-000012"
    assert _files(straight / last) == _files(broken / last) and len(_files(straight / last)) > 20
    assert _stats(straight) == _stats(broken)
    assert [line["step"] for line in _stats(straight) if "word" in line] == [2, 4, 6, 8, 10, 12]


def test_another_seed_gives_other_weights(pretraining, tmp_path):
    """Seeds that agree in their low 32 bits, too."""
    found = []
    for name, seed in (("a", 1), ("b", 1 + 2**32)):
        _run(pretraining(tmp_path / name, seed=seed, epochs=1))
        found.append(_files(tmp_path / name / "best"))
    assert all(found[0][name] != found[1][name] for name in found[0] if name.endswith("rnn.weight_hh_l0"))


def test_the_best_of_all_validations_is_kept(pretraining, tmp_path, monkeypatch):
    """Scores 20, 60, 40 after the epochs: best/ holds the encoders after the second; the figures are in stats.jsonl."""
    scores = iter([20.0, 60.0, 40.0])
    kept: list[dict[str, bytes]] = []

    def scored(text, image, *rest, **gammas):
        kept.append({name: tensor.numpy().tobytes() for name, tensor in text.state_dict().items()})
        value = next(scores)
        return DamsmScore(value + 5, value - 5)

    monkeypatch.setattr(module, "score_damsm", scored)
    _run(pretraining(tmp_path))
    best = load_file(tmp_path / "best" / "text_encoder.safetensors")
    assert {name: tensor.numpy().tobytes() for name, tensor in best.items()} == kept[1] != kept[2]
    described = json.loads((tmp_path / "best" / "validation.json").read_text())
    assert (described["step"], described["epoch"], described["r_precision"]) == (8, 2, 60.0)
    values = [line["validation_word_r_precision"] for line in _stats(tmp_path) if "validation_r_precision" in line]
    assert values == [25.0, 65.0, 45.0]
    assert json.loads((tmp_path / "finished.json").read_text())["best"] == described


def test_of_equal_scores_the_later_one_is_kept(pretraining, tmp_path, monkeypatch):
    """It was trained longer."""
    scores = iter([40.0, 50.0, 50.0])
    monkeypatch.setattr(module, "score_damsm", lambda *rest, **gammas: DamsmScore(value := next(scores), value))
    _run(pretraining(tmp_path))
    assert json.loads((tmp_path / "best" / "validation.json").read_text())["epoch"] == 3


def test_validation_follows_its_interval(pretraining, tmp_path):
    """Every second epoch, and at the end."""
    _run(pretraining(tmp_path, epochs=3, validation_interval=2))
    assert [line["step"] for line in _stats(tmp_path) if "validation_r_precision" in line] == [8, 12]


def test_validation_keeps_the_word_limit_of_pretraining(pretraining, tmp_path):
    """The captions are longer than its six words."""
    job = pretraining(tmp_path)
    assert {batch.tokens.shape[1] for batch in job.held_out} == {6}
    assert {batch.tokens.shape[1] for batch in pretraining(tmp_path, max_words=7).held_out} == {7}


def test_the_learning_rate_follows_the_epochs_and_two_checkpoints_are_kept(pretraining, tmp_path, monkeypatch):
    """Four steps an epoch, the rate halved after each."""
    monkeypatch.setattr(module, "LOG_INTERVAL", 2)
    _run(pretraining(tmp_path, lr=0.008, lr_decay=0.5))
    rates = [line["lr"] for line in _stats(tmp_path) if "lr" in line]
    assert rates == pytest.approx([0.008, 0.008, 0.004, 0.004, 0.002, 0.002])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000008", "step-000012"]


def test_the_gradient_of_the_whole_text_encoder_is_clipped(pretraining, tmp_path):
    """The embedding's too, as released: the norm over all of its parameters is the bound."""
    job = pretraining(tmp_path, clip=1e-3)
    batch = next(job.stream.iterate(0))
    damsm_step(job.state, batch, job.damsm, 32, 0)
    gradients = [parameter.grad for parameter in job.state.text.parameters()]
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(1e-3, rel=1e-3)
    image = torch.stack([p.grad.norm() for p in job.state.image.parameters()]).norm()
    assert image > 1e-2


def test_learning_rate_decays_by_the_epoch_down_to_a_tenth():
    """2e-3 x 0.98 an epoch."""
    damsm = DamsmOptions()
    assert learning_rate(damsm, 0) == 2e-3
    assert learning_rate(damsm, 3) == pytest.approx(2e-3 * 0.98**3)
    assert learning_rate(damsm, 1000) == pytest.approx(2e-4)


def test_no_epoch_keeps_random_encoders(pretraining, tmp_path):
    """Zero epochs: the encoders of the seed, at once."""
    _run(pretraining(tmp_path, epochs=0))
    assert finished(tmp_path) and _files(tmp_path / "best")


def test_divergence_is_one_line_and_leaves_the_last_good_checkpoint(pretraining, tmp_path, monkeypatch):
    """A loss that becomes NaN in the second epoch."""
    original = module.damsm_step

    def diverging(state, *rest):
        losses = original(state, *rest)
        return {n: v * (math.nan if state.step == 8 else 1) for n, v in losses.items()}

    monkeypatch.setattr(module, "damsm_step", diverging)
    with pytest.raises(UserError, match=r"DAMSM word loss is nan at step 8: lower --damsm\.lr"):
        _run(pretraining(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000004"]
    assert not finished(tmp_path)


def test_a_weight_that_is_not_finite_is_never_written(pretraining, tmp_path, monkeypatch):
    """The losses are finite still: the running variance of a layer alone overflowed."""
    original = module.damsm_step

    def overflowing(state, *rest):
        losses = original(state, *rest)
        if state.step == 8:
            state.image.deep[1].running_var.fill_(math.inf)
        return losses

    monkeypatch.setattr(module, "damsm_step", overflowing)
    with pytest.raises(UserError, match=r"a DAMSM weight is no longer finite at step 8: lower --damsm\.lr"):
        _run(pretraining(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000004"]


def test_the_version_stands_for_what_the_code_computes(pretraining, tmp_path):
    """Losses and weights of three steps as pinned: who changes them must raise DAMSM_VERSION, so that caches go."""
    job = pretraining(tmp_path)
    for _, batch in zip(range(3), job.stream.iterate(0), strict=False):
        losses = damsm_step(job.state, batch, job.damsm, 32, 0)
    found = [losses["word"].item(), losses["sentence"].item(), job.state.text.rnn.weight_hh_l0.norm().item()]
    pinned = {2: [19.8069, 4.39419, 2.30021]}
    assert found == pytest.approx(pinned[DAMSM_VERSION], rel=1e-3)
