"""The field's data sets, in miniature, from a folder to a judged run; nothing but the folder is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from miniature_data import MINIATURES, TEST, TRAIN, WORDS

from kvmgan.config_file import load_options
from kvmgan.data.__main__ import main as data
from kvmgan.evaluate import main as evaluate
from kvmgan.pretrain import main as pretrain
from kvmgan.pretraining.encoders import find_encoders, load_encoders
from kvmgan.train import main as train

# Shards are those of AttnGAN's layout.
WITH_VOCABULARY = ("attngan", "dfgan", "shards")


@pytest.mark.parametrize("layout", [*MINIATURES, "shards"])
def test_from_a_folder_to_a_judged_run(
    layout: str, tiny_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The layout is found out; a vocabulary that the data brings along is kept; nothing is written into the folder."""
    root, runs = tmp_path / "data", tmp_path / "runs"
    if layout == "shards":
        (tmp_path / "source").mkdir()
        MINIATURES["attngan"](tmp_path / "source")
        assert data(["shard", str(tmp_path / "source"), str(root), "--samples", "5"]) == 0
    else:
        root.mkdir()
        MINIATURES[layout](root)
    before = sorted(root.rglob("*"))
    words = [*tiny_arguments, "--data.root", str(root)]
    assert pretrain(words) == 0
    capsys.readouterr()
    assert train([*words, "--training.steps", "1", "--runs-dir", str(runs)]) == 0
    name = "attngan" if layout == "dfgan" else layout
    output = capsys.readouterr().out
    assert f"({name}): {len(TRAIN)} train and {len(TEST)} test images" in output
    run = next(runs.iterdir())
    assert load_options(run / "config.yaml").data.name == name
    vocabulary = load_encoders(find_encoders(run)).vocabulary.words
    assert (vocabulary == WORDS) == (layout in WITH_VOCABULARY)
    assert set(vocabulary) - set(WORDS) == set()
    few = ["--images", "12", "--diversity-captions", "2", "--diversity-draws", "2"]
    assert evaluate([str(run), "--protocol", "damsm", *few, "--device", "cpu", *tiny_arguments[-2:]]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["metric"] for row in rows} == {"r_precision", "fd", "kd", "precision", "recall", "diversity"}
    assert sorted(root.rglob("*")) == before
