"""A pipeline's folder: what comes back, what is refused, and that nothing is half-written."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kvmgan.pipeline.shipped as shipped
from kvmgan.errors import UserError
from kvmgan.pipeline import stored_model
from kvmgan.pipeline.pipeline import Pipeline
from kvmgan.storage.tensor_file import load_tensors, save_tensors
from kvmgan.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
CAPTION = "a red bird with blue wings"
FILES = {"pipeline.json", "vocabulary.json", "weights.safetensors"}


@pytest.fixture
def folder(pipeline, tmp_path) -> Path:
    return pipeline.save_pretrained(tmp_path / "bird")


def change(folder: Path, **changes: object) -> None:
    path = folder / "pipeline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", [str, Path])
def test_what_was_saved_draws_the_same(pipeline, folder, kind):
    before = torch.get_rng_state()
    loaded = Pipeline.from_pretrained(kind(folder))
    assert torch.equal(before, torch.get_rng_state())
    assert {path.name for path in folder.iterdir()} == FILES
    assert loaded.settings == pipeline.settings and loaded.vocabulary.words == pipeline.vocabulary.words
    for made, wanted in zip(loaded(CAPTION, count=2), pipeline(CAPTION, count=2), strict=True):
        assert made.picture.tobytes() == wanted.picture.tobytes()
    assert not any(network.training for network in (loaded.generator, loaded.text_encoder))
    assert not any(weight.requires_grad for weight in loaded.generator.parameters())


def test_half_the_bits(pipeline, folder, tmp_path):
    """Half the size, the pictures those of the weights rounded to float16, computed in float32."""
    half = pipeline.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(path / "weights.safetensors").stat().st_size for path in (folder, half)]
    assert sizes[1] < 0.65 * sizes[0]
    loaded = Pipeline.from_pretrained(half)
    assert loaded.dtype == torch.float32
    for name, weight in loaded.generator.state_dict().items():
        assert torch.equal(weight, pipeline.generator.state_dict()[name].half().to(weight.dtype)), name
    ours, theirs = (np.asarray(one(CAPTION)[0].picture).astype(int) for one in (pipeline, loaded))
    assert np.abs(ours - theirs).mean() < 1


def test_weights_too_large_for_half(pipeline, tmp_path):
    pipeline.generator.conditioning.fc.weight.data[0, 0] = 1e6
    with pytest.raises(UserError, match=r"conditioning.fc.weight has values up to 1e\+06, too large for torch.float16"):
        pipeline.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_rounded_networks_are_not_saved(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"dtype is torch.bfloat16, expected one of torch.float32, torch.float16"):
        pipeline.save_pretrained(tmp_path / "x", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"the pipeline is torch.bfloat16: save it before"):
        pipeline.to(dtype=torch.bfloat16).save_pretrained(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_pipeline_is_replaced_and_nothing_else_is(pipeline, folder, tmp_path):
    before = (folder / "weights.safetensors").read_bytes()
    pipeline.generator.conditioning.fc.weight.data += 1
    pipeline.save_pretrained(folder)
    assert (folder / "weights.safetensors").read_bytes() != before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"bird holds notes.txt, which is no file of a pipeline: name a new folder"):
        pipeline.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"notes.txt is a file: name a folder"):
        pipeline.save_pretrained(folder / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["bird"]


def test_a_disk_that_fills_up_leaves_the_earlier_one(pipeline, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvmgan.pipeline.folder.save_tensors", full)
    with pytest.raises(UserError, match=r"bird can't be written \(No space left on device\)"):
        pipeline.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["bird"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_missing_or_damaged_is_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{name} is (damaged|not valid JSON)"):
        Pipeline.from_pretrained(folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing" if name != "pipeline.json" else "holds no checkpoint"):
        Pipeline.from_pretrained(folder)


def digest_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_descriptions_of_something_else(folder):
    good = json.loads((folder / "pipeline.json").read_text())
    for changes, message in (
        ({"format": 99}, "pipeline.json has format 99: this version reads format 1"),
        ({"settings": {"word_dim": "x"}}, "word_dim is 'x': expected int"),
        ({"settings": {"colour": 1}}, "unknown setting colour"),
        ({"settings": None}, "must hold named settings"),
        ({"settings": good["settings"] | {"max_words": 0}}, "max-words is 0"),
        ({"sha256": None}, "weights.safetensors is damaged"),
    ):
        (folder / "pipeline.json").write_text(json.dumps(good))
        change(folder, **changes)
        with pytest.raises(UserError, match=message):
            Pipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("another shape", r"\(conditioning.fc.weight is \(1, 8\), expected \(12, 8\)\)"),
        ("missing", r"\(conditioning.fc.weight is missing\)"),
        (
            "another name",
            r"\(conditioning.fc.wait is none of the network's\): .* the version of kvmgan that wrote them",
        ),
        ("not finite", "conditioning.fc.weight has values that aren't finite"),
    ],
)
def test_weights_that_do_not_fit(folder, what, wanted):
    """The hashes are right, and yet it isn't drawn with."""
    path = folder / "weights.safetensors"
    weights, name = load_tensors(path), "generator.conditioning.fc.weight"
    changed = {
        "another shape": {name: weights[name][:1]},
        "missing": {},
        "another name": {"generator.conditioning.fc.wait": weights[name], name: weights[name]},
        "not finite": {name: weights[name] * float("nan")},
    }
    del weights[name]
    weights |= changed[what]
    save_tensors(path, weights)
    change(folder, sha256=json.loads((folder / "pipeline.json").read_text())["sha256"] | {path.name: digest_of(path)})
    with pytest.raises(UserError, match=f"weights.safetensors.*{wanted}"):
        Pipeline.from_pretrained(folder)


def test_a_pickle_in_the_weights_place_is_not_run(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = folder / "weights.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    change(folder, sha256=json.loads((folder / "pipeline.json").read_text())["sha256"] | {path.name: digest_of(path)})
    with pytest.raises(UserError, match=r"weights.safetensors is corrupt"):
        Pipeline.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_its_files_are_as_readable_as_any_other(folder, tmp_path):
    """safetensors leaves its own to their owner alone, and a model that one user installs is for all of them."""
    other = tmp_path / "other"
    other.touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {other.stat().st_mode}


def test_a_run_and_a_checkpoint_are_pipelines_too(tiny_run, tmp_path):
    """And what is saved of them is all that is needed: the run may go."""
    run = Pipeline.from_pretrained(tiny_run)
    checkpoint = Pipeline.from_pretrained(tiny_run / "checkpoints" / "step-000006")
    saved = Pipeline.from_pretrained(run.save_pretrained(tmp_path / "saved"))
    pictures = {one("a small red bird")[0].picture.tobytes() for one in (run, checkpoint, saved)}
    assert len(pictures) == 1
    earlier = Pipeline.from_pretrained(tiny_run / "checkpoints" / "step-000003")
    assert earlier("a small red bird")[0].picture.tobytes() not in pictures


def test_how_many_noises_a_run_is_judged_by_is_kept(tiny_run, tmp_path, monkeypatch):
    """In its pipelines, and in what is saved of them."""
    checkpoint = load_checkpoint(tiny_run)
    judged = replace(checkpoint.options.evaluation, tries=3)
    asked = replace(checkpoint, options=replace(checkpoint.options, evaluation=judged))
    monkeypatch.setattr(stored_model, "load_checkpoint", lambda path: asked)
    run = Pipeline.from_pretrained(tiny_run)
    saved = Pipeline.from_pretrained(run.save_pretrained(tmp_path / "saved"))
    assert run.settings.tries == saved.settings.tries == 3
    assert json.loads((tmp_path / "saved" / "pipeline.json").read_text())["settings"]["tries"] == 3


@pytest.fixture
def package(monkeypatch, tmp_path) -> Path:
    """The folder of shipped models, empty."""
    monkeypatch.setattr(shipped, "PRETRAINED", tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_a_shipped_model_has_a_name(pipeline, folder, package, tmp_path, monkeypatch):
    """A string that is its name means it, whatever lies in the working folder; a Path is always a path."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"ships no model 'birds' \(.*pretrained/birds is missing\): name a run"):
        Pipeline.from_pretrained("birds")
    shutil.copytree(folder, package / "birds")
    # Settings, metrics and a licence may lie beside the weights.
    (package / "birds" / "metrics.json").write_text("{}")
    assert Pipeline.from_pretrained("birds")(CAPTION)[0].picture.tobytes() == pipeline(CAPTION)[0].picture.tobytes()
    with pytest.raises(UserError, match=r"brids doesn't exist, and is no model that .* ships \(birds\)"):
        Pipeline.from_pretrained("brids")
    with pytest.raises(UserError, match="birds doesn't exist: name a run folder"):
        Pipeline.from_pretrained(Path("birds"))
    (tmp_path / "birds").mkdir()
    Pipeline.from_pretrained("birds")
    with pytest.raises(UserError, match="birds holds no checkpoint"):
        Pipeline.from_pretrained("./birds")


def test_the_default_runs_weights_are_small(tmp_path):
    """At most six megabytes, with the words of the whole default data set."""
    from kvmgan.data.vocabulary import Vocabulary
    from kvmgan.models.text_encoder import TextEncoder
    from kvmgan.pipeline.settings import PipelineSettings
    from kvmgan.presets import preset_options
    from kvmgan.training.builders import build_generator

    options = preset_options("birds-tiny")
    vocabulary = Vocabulary(f"word{number}" for number in range(100))
    damsm = options.damsm
    settings = PipelineSettings(options.model, damsm.embedding_dim, damsm.word_dim, options.evaluation.max_words)
    generator = build_generator(options.model, damsm.word_dim, 0)
    text = TextEncoder(len(vocabulary), embedding_dim=damsm.embedding_dim, word_dim=damsm.word_dim)
    folder = Pipeline(settings, vocabulary, generator.eval(), text.eval()).save_pretrained(tmp_path / "whole")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6_000_000
