"""What a type checker says of a program that uses the layer, installed from a clone."""

import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """
from typing import assert_type
import torch
from torch import Tensor
import kvmem

layer = kvmem.KVMemoryLayer(64, 256, write_gate="linear", response_gate_width="vector", channel_dim=-1, backend="cpu")
image, words = torch.zeros(2, 9, 64), torch.zeros(2, 5, 256)
asked: bool = bool(words.sum())
assert_type(layer(image, words), Tensor)
assert_type(layer(image, words, return_attention=True), tuple[Tensor, Tensor])
assert_type(layer(image, words, None, return_attention=asked), Tensor | tuple[Tensor, Tensor])
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
"""
WRONG = {
    'kvmem.KVMemoryLayer(64, 256, write_gate="tanh")': "write_gate",
    'kvmem.KVMemoryLayer(64, 256, backend="gpu")': "backend",
    "kvmem.KVMemoryLayer(64, 256, channel_dim=2)": "channel_dim",
    "kvmem.KVMemoryLayer(64, 256)(words=torch.zeros(1))": "No overload variant",
    "kvmem.kv_memory(torch.zeros(1), torch.zeros(1))": "No overload variant",
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """mypy's report of both programs, and the line after which the wrong one begins."""
    pytest.importorskip("mypy", reason="mypy isn't installed")
    folder: Path = tmp_path_factory.mktemp("typed")
    program = folder / "program.py"
    program.write_text(RIGHT + "\n".join(WRONG) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), str(program)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, RIGHT.count("\n")


def test_a_right_program_passes_the_strict_checks(checked):
    """Options by their values, outputs by return_attention."""
    report, before = checked
    lines = [line for line in report.splitlines() if line.startswith("program.py:")]
    wrong = [line for line in lines if int(line.split(":")[1]) <= before]
    assert not wrong, "\n".join(wrong)
    assert "py.typed" not in report and "missing library stubs" not in report


def test_wrong_programs_do_not(checked):
    """Each line is reported, for its argument."""
    report, before = checked
    for number, (line, word) in enumerate(WRONG.items(), start=before + 1):
        found = [message for message in report.splitlines() if message.startswith(f"program.py:{number}: error")]
        assert found and any(word in message for message in found), (line, report)
