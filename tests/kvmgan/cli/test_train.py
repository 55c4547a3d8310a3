"""The train command: its options, its run folder, its corrupt-image rule."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache

import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kvmgan.config import Options, flatten
from kvmgan.config_file import load_options
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
    for name, batch, weight, blocks in (("cub", 10, 5.0, 2), ("coco", 16, 50.0, 3)):
        printed = _dry_run(["--preset", name, "--data.root", "x"], capsys)
        training, model = printed["training"], printed["model"]
        assert (training["batch_size"], training["lambda_damsm"]) == (batch, weight)
        assert (training["lr_generator"], training["betas"]) == (2e-4, [0.5, 0.999])
        assert (model["base_size"], model["width"], model["residual_blocks"]) == (64, 64, blocks)
        limits = {"cub": (18, 18, 25), "coco": (12, 15, 20)}[name]
        assert tuple(printed[group]["max_words"] for group in ("data", "damsm", "evaluation")) == limits
        assert printed["damsm"]["encoder"] == "inception"
        assert printed["damsm"]["epochs"] == {"cub": 200, "coco": 100}[name]
        # As released; the draft's own reading lets the gradient through the mean.
        assert printed["model"]["memory"]["detach_mean"] is True


def test_help_names_every_setting_with_its_unit(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    missing = []
    for name, value in flatten(Options()).items():
        group, _, setting = name.replace("_", "-").rpartition(".")
        # What is on by default is named by the word that turns it off.
        word = f"--{group}.no-{setting}" if value is True else f"--{group}.{setting}".replace("--.", "--")
        if word not in text:
            missing.append(name)
    assert missing == []
    assert "[pixels]" in text and "[steps]" in text


def test_run_folder_is_complete(tiny_run):
    """Settings, statistics, events, pictures, metrics and checkpoints are all there, and nothing temporary."""
    names = {path.name for path in tiny_run.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    expected = {
        ".lock",
        "config.yaml",
        "stats.jsonl",
        "metrics.jsonl",
        "best.json",
        "samples",
        "stages",
        "attention",
        "seeds",
        "words",
        "history",
        "history.png",
        "nearest",
        "curves.png",
        "checkpoints",
    }
    assert len(events) == 1 and names - events == expected
    assert tiny_run.name == "00000-birds-tiny"
    steps = [f"step-{step:06d}.png" for step in (0, 3, 6)]
    for folder in ("samples", "stages", "attention", "seeds", "words", "history"):
        assert sorted(path.name for path in (tiny_run / folder).iterdir()) == steps
    assert [path.name for path in (tiny_run / "nearest").iterdir()] == ["step-000006.png"]
    assert sorted(path.name for path in (tiny_run / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    stats = [json.loads(line) for line in (tiny_run / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in stats if "g" in line] == [5, 6]
    watched = [line for line in stats if "write_gate_1" in line]
    assert [line["step"] for line in watched] == [0, 3, 6]
    assert all(0 < line["write_gate_1"] < 1 and 0 < line["response_gate_1"] < 1 for line in watched)
    assert [line["step"] for line in stats if "r_precision_ema" in line] == [6]
    assert load_options(tiny_run / "config.yaml").training.steps == 6


def test_tensorboard_has_figures_beside_the_scalars(tiny_run):
    """Each figure at every step at which it was drawn."""
    events = EventAccumulator(str(tiny_run), size_guidance={"images": 0}).Reload()
    assert {"g", "d32", "write_gate_1", "r_precision_ema"} <= set(events.Tags()["scalars"])
    expected = {name: [0, 3, 6] for name in ("samples", "stages", "attention", "seeds", "words", "history")}
    expected["nearest"] = [6]
    assert {name: [image.step for image in events.Images(name)] for name in events.Tags()["images"]} == expected


def test_metrics_name_their_protocol(tiny_run):
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    metrics = ("r_precision", "attribute_accuracy")
    assert [(r["metric"], r["subject"]) for r in rows] == [(m, s) for m in metrics for s in ("ema", "real")]
    for row in rows:
        assert row["step"] == 6 and 0 <= row["value"] <= 100
        wanted = {"extractor", "extractor_weights", "images", "seed", "split", "code_version"}
        if row["metric"] == "r_precision":
            wanted |= {"candidates", "folds", "condition", "max_words"}
            assert "std" in row
        assert wanted <= row["protocol"].keys()


def test_second_training_reuses_the_cache_and_takes_the_next_number(tiny_run, tiny_arguments, capsys):
    runs = tiny_run.parent
    assert main([*tiny_arguments, "--training.steps", "1", "--runs-dir", str(runs)]) == 0
    assert "damsm 6/6" not in capsys.readouterr().out
    assert (runs / "00001-birds-tiny").is_dir()
    shutil.rmtree(runs / "00001-birds-tiny")


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


@pytest.fixture
def shapes(tmp_path):
    """A folder of fifteen pictures of one's own, whose first test caption holds no word that is known."""
    folder = tmp_path / "my shapes"
    folder.mkdir()
    for number in range(15):
        Image.new("RGB", (40, 40), (8 * number, 90, 200)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"???\na shape with {number} corners\n")
    return folder


def test_a_small_folder_of_ones_own_just_trains(tiny_arguments, shapes, tmp_path, capsys):
    """No --data.name, batches and candidates larger than the data: it trains, is named after its folder, and nothing
    is written into it; the last line to try is one of its own captions."""
    before = sorted(path.name for path in shapes.iterdir())
    runs = tmp_path / "runs"
    words = ["--data.root", str(shapes), "--training.steps", "1", "--runs-dir", str(runs)]
    sizes = ["--training.batch-size", "16", "--damsm.batch-size", "32", "--evaluation.candidates", "100"]
    assert main([*tiny_arguments, *words, *sizes]) == 0
    output = capsys.readouterr().out
    assert "(folder): 14 train and 1 test images" in output
    assert "note: --training.batch-size 16 is lowered to the 14 training images" in output
    assert "classifier" not in output and "R-precision is left out" in output
    assert "try:" in output and "corners" in output.splitlines()[-1] and "???" not in output.splitlines()[-1]
    assert sorted(path.name for path in shapes.iterdir()) == before
    run = next(runs.iterdir())
    assert run.name == "00000-my-shapes"
    resolved = load_options(run / "config.yaml")
    assert (resolved.data.name, resolved.training.batch_size, resolved.damsm.batch_size) == ("folder", 14, 14)


def test_a_run_can_be_named_and_started_from_a_config(tiny_run, tiny_arguments, tmp_path, capsys):
    """--config takes a run's config.yaml or what --dry-run printed, other words override it, --name names the run."""
    config = tiny_run / "config.yaml"
    words = ["--config", str(config), "--name", "again", "--training.steps", "2", *tiny_arguments[-2:]]
    assert main([*words, "--dry-run"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert main(["--config", str(printed), *tiny_arguments[-2:], "--runs-dir", str(tmp_path / "runs")]) == 0
    run = next((tmp_path / "runs").iterdir())
    assert run.name == "00000-again"
    changed = {"name": "again", "training.steps": 2}
    assert flatten(load_options(run / "config.yaml")) == flatten(load_options(config)) | changed


def test_profile_writes_a_trace_and_names_the_stretches(tiny_run, tiny_arguments, tmp_path, capsys):
    """Three of six steps: a trace with the named stretches of a step, and a table on the screen."""
    words = ["--training.steps", "6", "--profile", "3", "--runs-dir", str(tmp_path)]
    assert main([*tiny_arguments, *words]) == 0
    trace = json.loads((next(tmp_path.iterdir()) / "trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    spans = ["data", "scales", "text encoder", "generator", "discriminator 16", "discriminator 32", "damsm"]
    spans += ["discriminators' optimiser", "generator's loss 32", "generator's optimiser", "moving average"]
    assert {span: names.count(span) for span in spans} == dict.fromkeys(spans, 3)
    assert "Self CPU" in capsys.readouterr().out


@pytest.fixture(scope="module")
def average_after_three_steps(tiny_arguments, tmp_path_factory) -> Callable[..., bytes]:
    """The file of a new training's averaged generator; words are added to the command. Each is trained once."""

    @cache
    def train(*words: str) -> bytes:
        runs = tmp_path_factory.mktemp("runs")
        assert main([*tiny_arguments, "--training.steps", "3", *words, "--runs-dir", str(runs)]) == 0
        return (next(runs.iterdir()) / "checkpoints" / "step-000003" / "average.safetensors").read_bytes()

    return train


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training.seed", "12345"),
        ("training.seed", str(2**32)),
        ("training.seed", str(2**63 - 1)),
        ("training.lambda_damsm", "3.5"),
        ("training.kl_weight", "2"),
        ("training.ema_decay", "0.05"),
        ("training.lr_generator", "0.01"),
        ("training.lr_discriminator", "0.01"),
        ("training.betas", "0.9 0.99"),
        ("training.precision", "bfloat16"),
        ("model.memory.detach_mean", ""),
    ],
)
def test_a_setting_changes_what_training_makes(average_after_three_steps, name, value):
    """The averaged generator differs from the one with the defaults."""
    changed = average_after_three_steps(f"--{name.replace('_', '-')}", *value.split())
    assert changed != average_after_three_steps()
