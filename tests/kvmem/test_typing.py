"""What type checkers say of a program that uses the layer, where it is installed from a clone by `pip install -e`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kvmem_packaging import copy_checkout, install_editable, new_environment

RIGHT = """# pyright: strict
from typing import assert_type
import torch
from torch import Tensor
import kvmem
from kvmem.clone import HERE

assert_type(HERE, bool)
layer = kvmem.KVMemoryLayer(64, 256, write_gate="linear", response_gate_width="vector", channel_dim=-1, backend="cpu")
image, words = torch.zeros(2, 9, 64), torch.zeros(2, 5, 256)
asked: bool = bool(words.sum())
assert_type(layer(image, words), Tensor)
assert_type(layer(image, words, return_attention=True), tuple[Tensor, Tensor])
assert_type(layer(image, words, None, return_attention=asked), Tensor | tuple[Tensor, Tensor])
assert_type(layer.key, torch.nn.Linear)
assert_type(kvmem.__version__, str)
assert_type(kvmem.backends()["cpu"].available, bool)
weights = {name: parameter for name, parameter in layer.named_parameters()}

def read(weight: Tensor) -> Tensor:
    out = kvmem.kv_memory(
        image, words, gate_word=weight, gate_image=weight, write_word_weight=weight, write_word_bias=weight,
        write_image_weight=weight, write_image_bias=weight, key_weight=weight, key_bias=weight, value_weight=weight,
        value_bias=weight, response_gate_weight=weight, response_gate_bias=weight, activation="identity",
    )
    assert_type(out, Tensor)
    return out

read_only = kvmem.memory_read(image, words, words, response_gate_weight=image, channel_dim=-1, return_attention=True)
assert_type(read_only, tuple[Tensor, Tensor])
"""
WRONG = {
    'kvmem.KVMemoryLayer(64, 256, write_gate="tanh")': "write_gate",
    'kvmem.KVMemoryLayer(64, 256, backend="gpu")': "backend",
    "kvmem.KVMemoryLayer(64, 256, channel_dim=2)": "channel_dim",
    "kvmem.KVMemoryLayer(64, 256)(words=torch.zeros(1))": "No overload",
    "kvmem.kv_memory(torch.zeros(1), torch.zeros(1))": "No overload",
    "kvmem.memory_read(torch.zeros(1), torch.zeros(1))": "No overload",
}


def mypy(program: Path, python: Path) -> dict[int, str]:
    """Line of the program -> mypy's errors there; 0 for all else that it says."""
    options = ["--strict", "--cache-dir", str(program.with_name("cache")), "--python-executable", str(python)]
    command = [sys.executable, "-m", "mypy", *options, program.name]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True)
    found: dict[int, str] = {}
    for line in (done.stdout + done.stderr).splitlines()[:-1]:  # the last one counts them
        place, severity, message = [*line.split(": ", 2), "", ""][:3]
        if severity != "note":
            number = int(place.split(":")[1]) if severity == "error" and place.startswith(program.name) else 0
            found[number] = found.get(number, "") + message
    return found


def run_pyright(python: Path, folder: Path, *options: str) -> dict[str, Any]:
    """Pyright's report in the environment of a Python: it asks the one that the PATH finds where packages are."""
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    command = [str(python), "-m", "pyright", "--outputjson", *options]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)


def pyright(program: Path, python: Path) -> dict[int, str]:
    """Line of the program -> pyright's errors and warnings there."""
    found: dict[int, str] = {}
    for message in run_pyright(python, program.parent, program.name)["generalDiagnostics"]:
        number = message["range"]["start"]["line"] + 1
        found[number] = found.get(number, "") + message["message"]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment into which a clone is installed by `pip install -e`; kvmem.clone is in that one."""
    folder = tmp_path_factory.mktemp("typed")
    python = new_environment(folder / "environment")
    clone = copy_checkout(folder / "clone")
    (clone / "kvmem" / "clone.py").write_text("HERE: bool = True\n")
    install_editable(clone, python, KVMEM_PURE_PYTHON="1")
    return python


@pytest.mark.parametrize("checker", [mypy, pyright], ids=["mypy", "pyright"])
def test_right_programs_pass_the_strict_checks_and_wrong_ones_do_not(
    checker: Callable[[Path, Path], dict[int, str]], python: Path, tmp_path: Path
) -> None:
    """Options by their values, outputs by return_attention; each wrong line is reported, for its argument."""
    pytest.importorskip(checker.__name__)
    program = tmp_path / "program.py"
    program.write_text(RIGHT + "\n".join(WRONG) + "\n")
    found = checker(program, python)
    before = RIGHT.count("\n")
    assert not {line: message for line, message in found.items() if line <= before}
    for number, (line, word) in enumerate(WRONG.items(), start=before + 1):
        assert word in found.get(number, ""), (line, found)


def test_every_public_name_has_a_type(python: Path, tmp_path: Path) -> None:
    """No checker has to infer the type of a parameter, a result or an attribute, which others infer otherwise."""
    pytest.importorskip("pyright")
    report = run_pyright(python, tmp_path, "--ignoreexternal", "--verifytypes", "kvmem")["typeCompleteness"]
    exported = {symbol["name"]: symbol for symbol in report["symbols"] if symbol["isExported"]}
    assert {"kvmem.clone.HERE", "kvmem.layer.KVMemoryLayer.key", "kvmem.functional.kv_memory"} <= set(exported)
    unsure = [name for name, symbol in exported.items() if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    assert not unsure and report["completenessScore"] == 1
