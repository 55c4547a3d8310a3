"""Where and how the arithmetic runs."""

from __future__ import annotations

import pytest
import torch

from kvmem.backends import backends, pick_backend
from kvmgan.config import MemoryOptions, ModelOptions
from kvmgan.errors import UserError
from kvmgan.train import main as train
from kvmgan.training.device import memory_backend, resolve_device, set_products


@pytest.mark.parametrize("wanted", [True, False])
def test_products_on_gpus_follow_the_settings(wanted):
    """TF32 in matrix products and convolutions alike, cuDNN's search by itself."""
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )
    try:
        set_products(tf32=wanted, benchmark=not wanted)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is wanted
        assert torch.backends.cudnn.benchmark is not wanted
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[:2]
        torch.backends.cudnn.benchmark = before[2]


def test_the_option_that_was_given_is_blamed():
    for option in ("--training.device", "--device"):
        with pytest.raises(UserError, match=f"^{option} is 'tpu'"):
            resolve_device("tpu", option)


def test_the_memory_layers_backend_is_said_with_its_reason(monkeypatch):
    """Picked, asked for by a setting, asked for by the environment; and what keeps faster ones away."""
    cpu, asked = torch.device("cpu"), ModelOptions(memory=MemoryOptions(backend="eager"))
    monkeypatch.delenv("KVMEM_BACKEND", raising=False)
    best = pick_backend(None, cpu)
    text = memory_backend(ModelOptions(), cpu)
    assert text.startswith(f"backend {best}, the fastest that can run on cpu ({backends()[best].reason})")
    assert memory_backend(asked, cpu).startswith("backend eager, as --model.memory.backend says (the equations")
    monkeypatch.setenv("KVMEM_BACKEND", "eager")
    text = memory_backend(ModelOptions(), cpu)
    assert text.startswith("backend eager, as the environment variable KVMEM_BACKEND says")
    monkeypatch.setenv("KVMEM_BACKEND", "cuda")
    with pytest.raises(
        UserError, match=r"^the environment variable KVMEM_BACKEND: the generator can't run on cpu: .*cuda"
    ):
        memory_backend(ModelOptions(), cpu)
    monkeypatch.delenv("KVMEM_BACKEND")
    monkeypatch.setattr("kvmgan.training.device.pick_backend", lambda name, device: "eager")
    assert f"; no cuda: {backends()['cuda'].reason}" in memory_backend(ModelOptions(), cpu)


def test_a_training_says_which_backend_runs(tiny_arguments, tmp_path, capsys):
    words = [*tiny_arguments, "--training.steps", "1", "--runs-dir", str(tmp_path)]
    assert train([*words, "--model.memory.backend", "eager"]) == 0
    assert "memory layers: backend eager, as --model.memory.backend says (" in capsys.readouterr().out
