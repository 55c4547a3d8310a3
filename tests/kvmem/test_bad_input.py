"""Whatever doesn't fit is refused before any work, in one line: the argument's name, what came, what was expected."""

import pytest
import torch

import kvmem
from kvmem.checks import WEIGHT_NAMES

# argument, what to put there (a function of the right tensor), the error, what its message says besides the name
TENSORS = {
    "image of rank 2": ("image", lambda x: x.flatten(1), ValueError, "got shape .* expected at least 3 dimensions"),
    "image without positions": ("image", lambda x: x[:, :, :0], ValueError, "no position"),
    "image of integers": (
        "image",
        lambda x: x.long(),
        TypeError,
        "got dtype torch.int64, expected one of torch.float32",
    ),
    "image of complex numbers": ("image", lambda x: x.cfloat(), TypeError, "got dtype torch.complex64"),
    "image that is no tensor": ("image", lambda x: x.numpy(), TypeError, "got ndarray, expected a Tensor"),
    "words of rank 2": ("words", lambda x: x[0], ValueError, r"got shape \(6, 12\), expected 3 .*B, T, D"),
    "words of another batch": ("words", lambda x: x[:1], ValueError, "got batch size 1, expected 2"),
    "words of another dtype": (
        "words",
        lambda x: x.half(),
        TypeError,
        "got dtype torch.float16, expected torch.float32",
    ),
    "words elsewhere": ("words", lambda x: x.to("meta"), ValueError, "got device meta, expected cpu"),
    "words that are a list": ("words", lambda x: x.tolist(), TypeError, "got list, expected a Tensor"),
    "mask of integers": ("mask", lambda x: x.long(), TypeError, "got dtype torch.int64, expected torch.bool"),
    "mask of floats": ("mask", lambda x: x.float(), TypeError, "got dtype torch.float32, expected torch.bool"),
    "mask of another batch": ("mask", lambda x: x[:1], ValueError, r"got shape \(1, 6\), expected \(2, 6\)"),
    "mask of other slots": ("mask", lambda x: x[:, 1:], ValueError, r"got shape \(2, 5\), expected \(2, 6\)"),
    "mask of rank 3": ("mask", lambda x: x[:, None], ValueError, r"got shape \(2, 1, 6\), expected \(2, 6\)"),
    "mask elsewhere": ("mask", lambda x: x.to("meta"), ValueError, "got device meta, expected cpu"),
    "mask that is a list": ("mask", lambda x: x.tolist(), TypeError, "got list, expected a Tensor"),
    "scalar gate of two rows": ("gate_word", lambda x: x.repeat(2, 1), ValueError, "got 2 rows, expected 1 .* or 32"),
    "response gate of two rows": (
        "response_gate_weight",
        lambda x: x.repeat(2, 1),
        ValueError,
        "got 2 rows, .* 1 .* or 16",
    ),
}


def call(problem, **changes):
    arguments = {"image": problem.image, "words": problem.words, "mask": problem.mask, **problem.weights, **changes}
    return kvmem.kv_memory(**arguments)


def assert_refused(problem, name, value, error, message):
    with pytest.raises(error, match=f"^{name}: .*{message}") as caught:
        call(problem, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, change, error, message", TENSORS.values(), ids=TENSORS.keys())
def test_tensor(make_problem, name, change, error, message):
    problem = make_problem(mask="partial")
    value = problem.mask if name == "mask" else problem.inputs[name]
    assert_refused(problem, name, change(value), error, message)


@pytest.mark.parametrize("name", WEIGHT_NAMES)
def test_weight(make_problem, name):
    problem = make_problem(mask="partial")
    weight = problem.weights[name]
    assert_refused(problem, name, weight.double(), TypeError, "got dtype torch.float64, expected torch.float32")
    assert_refused(problem, name, weight.to("meta"), ValueError, "got device meta, expected cpu")
    assert_refused(problem, name, weight[None], ValueError, "got shape")
    assert_refused(problem, name, weight.tolist(), TypeError, "got list, expected a Tensor")
    assert_refused(problem, name, None, TypeError, "got NoneType, expected a Tensor")
    if weight.dim() == 2:
        assert_refused(problem, name, weight[:, 1:], ValueError, "got shape .*, expected")
    else:
        assert_refused(problem, name, weight.repeat(2), ValueError, "got shape .*, expected")


@pytest.mark.parametrize("word_channels, channels", [(11, 16), (12, 15)])
def test_features_of_other_widths_than_the_weights(make_problem, word_channels, channels):
    """The width of words and image is what the weights are checked against: the first that doesn't fit is named."""
    weights = make_problem().weights
    other = make_problem(channels=channels, word_channels=word_channels)
    name = "gate_word" if word_channels == 11 else "gate_image"
    with pytest.raises(ValueError, match=rf"^{name}: got shape .*, expected \(1, 1[15]\)"):
        call(other, **weights)


@pytest.mark.parametrize("name, value", [("write_gate", "tanh"), ("activation", "gelu"), ("write_gate", None)])
def test_option(make_problem, name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value!r}, expected '.*' or '.*'"):
        call(make_problem(), **{name: value})


@pytest.mark.parametrize("name", ["write_gate", "write_gate_width", "response_gate_width", "activation", "backend"])
def test_layer_option(name):
    with pytest.raises(ValueError, match=f"^{name}: got 'other', expected"):
        kvmem.KVMemoryLayer(8, 12, **{name: "other"})


@pytest.mark.parametrize("name", ["image_channels", "word_channels", "memory_channels"])
def test_layer_channels(name):
    channels = {"image_channels": 8, "word_channels": 12, name: 0}
    with pytest.raises(ValueError, match=f"^{name}: got 0, expected at least 1"):
        kvmem.KVMemoryLayer(**channels)


def test_autocast_keeps_the_names_of_bad_arguments(make_problem):
    problem = make_problem()
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(TypeError, match=r"^words: got NoneType, expected a Tensor"):
            call(problem, words=None)
        with pytest.raises(TypeError, match=r"^words: got dtype torch\.float64, expected torch\.bfloat16"):
            call(problem, words=problem.words.double())
