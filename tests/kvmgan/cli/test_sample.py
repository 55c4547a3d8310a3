"""The sample command, from a checkpoint folder alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from kvmgan.sample import main

CAPTION = "a small red bird with blue wings"


@pytest.fixture
def checkpoint(tiny_run: Path, tmp_path: Path) -> Path:
    """A checkpoint moved away from its run and from the cache."""
    return Path(shutil.copytree(tiny_run / "checkpoints" / "step-000006", tmp_path / "moved"))


def test_picture_stages_and_attention_are_written(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), CAPTION, "a blue bird", "--count", "2", "--out", str(out)]) == 0
    stems = [f"{n}-{v}" for n in ("001-a-small-red-bird-with-blue-wings", "002-a-blue-bird") for v in (1, 2)]
    expected = {f"{stem}{kind}.png" for stem in stems for kind in ("", "-stages", "-attention")}
    assert {path.name for path in out.iterdir()} == expected
    assert set(capsys.readouterr().out.split()) == {str(out / name) for name in expected}
    assert Image.open(out / f"{stems[0]}.png").size == (32, 32)
    assert len({(out / f"{stem}.png").read_bytes() for stem in stems}) == 4


def test_seed_decides_the_picture_whatever_stands_beside_it(tiny_run, tmp_path):
    for name, words in {
        "a": [CAPTION],
        "b": [CAPTION, "a blue bird"],
        "c": [CAPTION, "--seed", "1"],
    }.items():
        assert main([str(tiny_run), *words, "--out", str(tmp_path / name)]) == 0
    first, second, third = (next((tmp_path / n).glob("001-*wings.png")).read_bytes() for n in "abc")
    assert first == second != third


def test_captions_from_a_file(tiny_run, tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text(f"{CAPTION}\n\na blue bird\n")
    assert main([str(tiny_run), "--captions-file", str(file), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*-stages.png"))) == 2


def test_unknown_words_are_left_out_with_a_warning(tiny_run, tmp_path, capsys):
    assert main([str(tiny_run), "a red zeppelin bird", "--out", str(tmp_path / "out")]) == 0
    assert "unknown words are left out: zeppelin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "no caption"),
        ([""], "holds no word"),
        ([CAPTION, "  "], "holds no word"),
        (["zeppelin quux"], "only unknown words: zeppelin, quux"),
        ([CAPTION, "--count", "0"], "--count is 0"),
        ([CAPTION, "--seed", "-1"], "--seed is -1"),
        ([CAPTION, "--device", "tpu"], "tpu"),
        (["--captions-file", "/nonexistent.txt"], "/nonexistent.txt"),
        ([CAPTION, "--sed", "1"], "unknown option --sed"),
    ],
)
def test_bad_input_is_one_line(tiny_run, tmp_path, capsys, words, complaint):
    out = tmp_path / "out"
    assert main([str(tiny_run), *words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and complaint in error
    assert not out.exists()


def test_missing_and_corrupt_checkpoints(checkpoint, tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), CAPTION]) == 2
    assert "doesn't exist" in capsys.readouterr().err
    weights = checkpoint / "average.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert main([str(checkpoint), CAPTION, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "is corrupt: average.safetensors" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
