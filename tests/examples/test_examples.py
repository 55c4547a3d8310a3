"""The examples are complete: each trains, or moves weights, and its layer takes part in it."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# How much of the first loss may be left at the end of a short training.
TRAINED = {"unet_block": 0.5, "memory_transformer": 0.5, "low_light": 0.6}


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield
    for path in (ROOT / "examples").glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("name", TRAINED)
def test_it_trains(name, one_thread):
    losses = import_module(name).train(steps=100)
    assert sum(losses[-10:]) / 10 < TRAINED[name] * losses[0]


@pytest.mark.parametrize("name", TRAINED)
def test_no_example_is_long(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) < 100


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_memory_computes_what_the_release_does(prefix):
    """By 1x1 convolutions and concatenation, written out as the release has them."""
    torch.manual_seed(0)
    c, d, m = 8, 6, 16
    shapes = {
        "A": (1, d), "B": (1, c), "M_w.0": (m, d, 1), "M_r.0": (m, c, 1), "key.0": (c, m, 1), "value.0": (c, m, 1),
        "response_gate.0": (1, 2 * c, 1, 1),
    }  # fmt: skip
    released = {f"{prefix}h_net2.{name}.weight": torch.randn(shape) / 4 for name, shape in shapes.items()}
    biases = {f"{prefix}h_net2.{name}.bias": torch.randn(shape[0]) / 4 for name, shape in shapes.items() if "." in name}
    layer = import_module("released_dm_gan").memory_of(released | biases, "h_net2")
    image, words = torch.randn(2, c, 4, 4), torch.randn(2, 5, d)

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = (released | biases)[f"{prefix}h_net2.{name}.weight"], biases[f"{prefix}h_net2.{name}.bias"]
        return torch.nn.functional.conv1d(x, weight.flatten(2), bias)

    mean, w = image.mean((2, 3))[..., None], words.transpose(1, 2)
    a, b = (released[f"{prefix}h_net2.{name}.weight"] for name in "AB")
    gate = torch.sigmoid(a @ w + b @ mean)
    memory = conv("M_w.0", w).relu() * gate + conv("M_r.0", mean).relu() * (1 - gate)
    key, value = conv("key.0", memory).relu(), conv("value.0", memory).relu()
    features = image.flatten(2)
    read = value @ (key.transpose(1, 2) @ features).softmax(1)
    response = conv("response_gate.0", torch.cat((features, read), 1)).sigmoid()
    expected = (features * (1 - response) + read * response).unflatten(2, (4, 4))
    torch.testing.assert_close(layer(image, words), expected, rtol=1e-4, atol=1e-5)
    assert layer.detach_mean


def test_a_file_without_a_memory_is_refused():
    with pytest.raises(KeyError, match=r"h_net2\.A\.weight"):
        import_module("released_dm_gan").memory_of({}, "h_net2")
