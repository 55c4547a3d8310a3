"""Files of released weights that aren't what they should be: one line that says what differs; no code is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kvmgan.errors import UserError
from kvmgan.interop import load_discriminator, load_generator, load_image_encoder, load_text_encoder
from kvmgan.interop.released import release_generator
from kvmgan.models.generator import Generator


class _Calls:
    def __reduce__(self):
        return os.system, ("touch called",)


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A small generator by the released names."""
    torch.manual_seed(0)
    generator = Generator(stages=2, base_size=16, width=4, noise_dim=6, condition_dim=5, sentence_dim=8, word_dim=8)
    return release_generator(generator)


def test_files_as_they_come(state, tmp_path):
    """Written by DataParallel, as safetensors, in half precision, without counters: the same generator."""
    expected = {name: tensor.clone() for name, tensor in state.items()}
    torch.save(state, tmp_path / "a.pth")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "b.pth")
    save_file(state, tmp_path / "c.safetensors")
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    torch.save({name: tensor for name, tensor in state.items() if name not in counters}, tmp_path / "d.pth")
    for file in ("a.pth", "b.pth", "c.safetensors", "d.pth"):
        generator = load_generator(tmp_path / file)
        assert generator.sizes == [16, 32] and (generator.noise_dim, generator.condition_dim) == (6, 5)
        found = release_generator(generator)
        assert all(torch.equal(found[name], expected[name]) for name in expected), file
    torch.save({name: tensor.half() if tensor.ndim else tensor for name, tensor in state.items()}, tmp_path / "e.pth")
    assert {tensor.dtype for tensor in load_generator(tmp_path / "e.pth").parameters()} == {torch.float32}


def _without(name: str) -> Callable[[dict], dict]:
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("h_net2.key.0.bias"), r"h_net2\.key\.0\.bias is missing"),
        (_without("ca_net.fc.weight"), r"isn't a released generator: ca_net\.fc\.weight is missing"),
        (lambda state: state | {"more.weight": torch.ones(1)}, r"more\.weight is left over"),
        (lambda state: state | {"h_net2.A.weight": torch.ones(1, 9)}, "words of 9 and sentences of 8"),
        (
            lambda state: state | {"h_net2.key.0.bias": torch.ones(9)},
            r"h_net2\.key\.0\.bias is \(9,\), expected \(4,\)",
        ),
        (
            lambda state: state | {"h_net2.B.weight": torch.full((1, 4), torch.nan)},
            r"h_net2\.B\.weight has values that",
        ),
        (lambda state: {"epoch": 3, "state": state}, "holds no state dict"),
        (lambda state: {}, "holds no state dict"),
        (lambda state: [1], "holds no state dict"),
        (lambda state: _Calls(), "asks for more than tensors"),
        (lambda state: state | {"a": _Calls()}, "asks for more than tensors"),
    ],
)
def test_what_does_not_fit_is_listed(state, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    torch.save(change(state), tmp_path / "netG.pth")
    with pytest.raises(UserError, match=message) as caught:
        load_generator(tmp_path / "netG.pth")
    assert str(tmp_path / "netG.pth") in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut", b"\x80\x02."])
@pytest.mark.parametrize(
    "load",
    [
        load_generator,
        load_image_encoder,
        lambda path: load_discriminator(path, 64),
        lambda path: load_text_encoder(path, Path(__file__).with_name("none.pickle")),
    ],
    ids=["generator", "image encoder", "discriminator", "text encoder"],
)
def test_damaged_and_missing_files(tmp_path, load, content):
    """The message names the file that is wrong."""
    with pytest.raises(UserError, match="is missing"):
        load(tmp_path / "none.pth")
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth|none\.pickle is missing"):
        load(tmp_path / "a.pth")


def test_another_network_is_named_as_such(state, tmp_path):
    """A generator where an encoder or discriminator is expected, and AttnGAN's discriminator, which has no norms."""
    path = tmp_path / "netG.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"netG\.pth isn't a released image encoder"):
        load_image_encoder(path)
    with pytest.raises(UserError, match=r"netG\.pth isn't a discriminator of DM-GAN's"):
        load_discriminator(path, 64)
