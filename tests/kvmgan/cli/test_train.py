"""The train command: its options, its run folder, its corrupt-image rule."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from PIL import Image

from kvmgan.config import Options, flatten, load_options, to_yaml
from kvmgan.presets import PRESETS
from kvmgan.train import main


def _dry_run(arguments: list[str], capsys) -> dict:
    assert main([*arguments, "--dry-run"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("preset", PRESETS)
def test_dry_run_prints_the_resolved_options(preset, capsys, tmp_path):
    overrides = ["--data.root", str(tmp_path), "--training.steps", "7", "--training.betas", "0.1", "0.9"]
    printed = _dry_run(["--preset", preset, *overrides], capsys)
    assert (printed["preset"], printed["training"]["steps"], printed["training"]["betas"]) == (preset, 7, [0.1, 0.9])
    assert printed["model"]["stages"] == 3


def test_recipes_of_the_paper(capsys):
    """CUB and COCO by DM-GAN's published settings."""
    for name, batch, weight, words, blocks in (("cub", 10, 5.0, 18, 2), ("coco", 16, 50.0, 12, 3)):
        printed = _dry_run(["--preset", name, "--data.root", "x"], capsys)
        training, model = printed["training"], printed["model"]
        assert (training["batch_size"], training["lambda_damsm"]) == (batch, weight)
        assert (training["lr_generator"], training["betas"]) == (2e-4, [0.5, 0.999])
        assert (model["base_size"], model["width"], model["residual_blocks"]) == (64, 64, blocks)
        assert printed["data"]["max_words"] == words
        assert printed["damsm"]["encoder"] == "inception"


def test_help_names_every_setting_with_its_unit(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    missing = [name for name in flatten(Options()) if "--" + name.replace("_", "-") not in text]
    assert missing == []
    assert "[pixels]" in text and "[steps]" in text


def test_options_survive_yaml(tmp_path):
    """Every preset, and paths, tuples and None."""
    path = tmp_path / "config.yaml"
    for make in PRESETS.values():
        options = make()
        path.write_text(to_yaml(options).replace("root: null", f"root: {tmp_path}"))
        loaded = load_options(path)
        assert loaded.data.root == tmp_path
        assert {**flatten(loaded), "data.root": None} == flatten(options)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("training: {stepz: 3}", "unknown setting training.stepz"),
        ("training: {steps: many}", "training.steps is 'many': expected int"),
        ("training: 3", "training must hold named settings"),
        ("- 1", "must hold named settings"),
        (": :", "not readable as YAML"),
        ("model: {base_size: 20}", "power of two"),
    ],
)
def test_bad_yaml_is_refused(tmp_path, text, complaint):
    from kvmgan.errors import UserError

    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_options(path)


def test_run_folder_is_complete(tiny_run):
    """Settings, statistics, events, pictures, metrics and checkpoints are all there, and nothing temporary."""
    names = {path.name for path in tiny_run.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    expected = {"config.yaml", "stats.jsonl", "metrics.jsonl", "samples", "stages", "checkpoints"}
    assert len(events) == 1 and names - events == expected
    assert tiny_run.name == "00000-birds-tiny"
    steps = [f"step-{step:06d}.png" for step in (0, 3, 6)]
    for folder in ("samples", "stages"):
        assert sorted(path.name for path in (tiny_run / folder).iterdir()) == steps
    assert sorted(path.name for path in (tiny_run / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    assert [json.loads(line)["step"] for line in (tiny_run / "stats.jsonl").read_text().splitlines()] == [5, 6]
    assert load_options(tiny_run / "config.yaml").training.steps == 6


def test_metrics_name_their_protocol(tiny_run):
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    metrics = ("r_precision", "attribute_accuracy")
    assert [(r["metric"], r["subject"]) for r in rows] == [
        (m, s) for m in metrics for s in ("ema", "untrained", "real")
    ]
    for row in rows:
        assert row["step"] == 6 and 0 <= row["value"] <= 100
        wanted = {"extractor", "extractor_weights", "images", "seed", "split", "code_version"}
        if row["metric"] == "r_precision":
            wanted |= {"candidates", "folds"}
            assert "std" in row
        assert wanted <= row["protocol"].keys()


def test_second_training_reuses_the_cache_and_takes_the_next_number(tiny_run, tiny_arguments, capsys):
    runs = tiny_run.parent
    assert main([*tiny_arguments, "--training.steps", "1", "--runs-dir", str(runs)]) == 0
    assert "damsm 2/2" not in capsys.readouterr().out
    assert (runs / "00001-birds-tiny").is_dir()
    shutil.rmtree(runs / "00001-birds-tiny")


def test_changed_settings_do_not_reuse_weights(tiny_arguments, tmp_path, capsys):
    words = [*tiny_arguments, "--damsm.gamma3", "9", "--training.steps", "1", "--runs-dir", str(tmp_path)]
    assert main(words) == 0
    assert "damsm 2/2" in capsys.readouterr().out


def test_corrupt_image_is_skipped_and_counted(tiny_arguments, tmp_path, capsys):
    """A folder of a user's own pictures, one of them damaged: it is named, the others train."""
    for number in range(30):
        Image.new("RGB", (40, 40), (8 * number, 90, 200)).save(tmp_path / f"{number:02d}.png")
        (tmp_path / f"{number:02d}.txt").write_text(f"bird number {number}\n")
    damaged = tmp_path / "07.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    words = ["--data.name", "folder", "--data.root", str(tmp_path), "--evaluation.candidates", "2"]
    runs = tmp_path / "runs"
    assert main([*tiny_arguments, *words, "--training.steps", "1", "--runs-dir", str(runs)]) == 0
    output = capsys.readouterr().out
    assert f"skipped {damaged}" in output
    assert "26 train and 3 test images" in output or "27 train and 2 test images" in output
    assert {json.loads(line)["metric"] for line in next(runs.glob("*/metrics.jsonl")).open()} == {"r_precision"}
