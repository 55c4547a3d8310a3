"""``kvmgan COMMAND`` is ``python -m kvmgan.COMMAND``; what is mistyped is answered before torch is imported."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kvmgan.__main__ import COMMANDS, main
from kvmgan.config_file import load_options
from kvmgan.pipeline.pipeline import Pipeline

ROOT = Path(__file__).parents[3]
MISTYPED = [
    ("train --training.stepz 4", "unknown option --training.stepz"),
    ("train --training.steps many", "--training.steps"),
    ("train --resume /nonexistent --training.stepz 4", "unknown option --training.stepz"),
    ("sample birds --sed 1", "unknown option --sed"),
    ("sample birds", "no caption"),
    ("evaluate x --metric fid", "unknown option --metric"),
    ("pretrain --damsm.epoch 1", "unknown option --damsm.epoch"),
    ("data inspect x --seeed 1", "unknown option --seeed"),
    ("data look", "got look"),
    ("report x --outt y", "unknown option --outt"),
    ("interop export x y --outt z", "unknown option --outt"),
    ("trian", "unknown command 'trian' (did you mean train?)"),
    ("--verison", "unknown command '--verison'"),
]


@pytest.mark.parametrize(("words", "complaint"), MISTYPED)
def test_what_is_mistyped_is_answered_without_torch(words, complaint, python, subprocess_environment):
    """One line and status 2, and nothing that takes seconds to import was imported for it."""
    code = "import sys; from kvmgan.__main__ import main; status = main(sys.argv[1:]); "
    code += "print(status, [name for name in ('torch', 'matplotlib', 'torchvision') if name in sys.modules])"
    done = subprocess.run(
        [python, "-c", code, *words.split()], env=subprocess_environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "2 []\n"
    assert done.stderr.startswith("error: ") and complaint in done.stderr and done.stderr.count("\n") == 1


def test_help_lists_every_command_and_the_version_names_the_code(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in COMMANDS)
    assert main([]) == 0 and capsys.readouterr().out == text
    assert main(["--version"]) == 0
    assert re.fullmatch(r"kvmgan \d+\.\d+\.\d+\+[0-9a-f]{12}\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(name, capsys):
    words = {"data": ["inspect"], "interop": ["export"]}.get(name, [])
    with pytest.raises(SystemExit) as stop:
        main([name, *words, "--help"])
    assert stop.value.code == 0
    assert f"kvmgan.{name}" in capsys.readouterr().out


def test_the_console_script_and_the_package_are_the_same_program(python, subprocess_environment):
    """The script's entry point exists and is what ``python -m kvmgan`` runs."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"kvmgan": "kvmgan.__main__:main"}
    done = subprocess.run(
        [python, "-m", "kvmgan", "trian"], env=subprocess_environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "did you mean train?" in done.stderr


def test_commands_do_what_they_do_by_their_own_names(tiny_run, tmp_path, capsys):
    """A dry run's settings, and pictures."""
    assert main(["train", "--config", str(tiny_run / "config.yaml"), "--dry-run"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_options(printed) == load_options(tiny_run / "config.yaml")
    assert main(["sample", str(tiny_run), "a small red bird", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "001-a-small-red-bird.png").is_file()


def test_a_shipped_model_is_named_first_and_the_caption_second(tmp_path, tiny_run, monkeypatch, capsys):
    """Where this build ships none, one line says so; nothing is written."""
    monkeypatch.setattr("kvmgan.pipeline.shipped.PRETRAINED", tmp_path / "pretrained")
    words = ["sample", "birds", "a small red bird with blue wings", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "this build of kvmgan ships no model 'birds'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    Pipeline.from_pretrained(tiny_run).save_pretrained(tmp_path / "pretrained" / "birds")
    assert main(words) == 0
    assert (tmp_path / "out" / "001-a-small-red-bird-with-blue-wings.png").is_file()
