"""The module: its parameters, their names and shapes, and that it is the function with parameters."""

import copy
import warnings

import pytest
import torch

import kvmem

SCALAR = {
    "gate_word.weight": (1, 12),
    "gate_image.weight": (1, 8),
    "write_word.weight": (16, 12),
    "write_word.bias": (16,),
    "write_image.weight": (16, 8),
    "write_image.bias": (16,),
    "key.weight": (8, 16),
    "key.bias": (8,),
    "value.weight": (8, 16),
    "value.bias": (8,),
    "response_gate.weight": (1, 16),
    "response_gate.bias": (1,),
}
VECTOR = SCALAR | {
    "gate_word.weight": (16, 12),
    "gate_image.weight": (16, 8),
    "response_gate.weight": (8, 16),
    "response_gate.bias": (8,),
}


@pytest.mark.parametrize("width, shapes", [("scalar", SCALAR), ("vector", VECTOR)])
def test_state_dict_names_and_shapes(width, shapes):
    layer = kvmem.KVMemoryLayer(8, 12, write_gate_width=width, response_gate_width=width)
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == shapes
    assert all(isinstance(child, torch.nn.Linear) for child in layer.children())


def test_memory_channels_are_twice_the_image_channels_unless_given():
    assert kvmem.KVMemoryLayer(8, 12).key.in_features == 16
    assert kvmem.KVMemoryLayer(8, 12, 5).key.in_features == 5


def test_device_and_dtype_reach_every_parameter():
    layer = kvmem.KVMemoryLayer(8, 12, device="meta", dtype=torch.float64)
    assert all(p.device.type == "meta" and p.dtype == torch.float64 for p in layer.parameters())
    image, words = (torch.empty(shape, device="meta", dtype=torch.float64) for shape in ((2, 8, 3, 3), (2, 5, 12)))
    assert layer(image, words).shape == image.shape


def test_repr_names_the_options():
    text = repr(kvmem.KVMemoryLayer(8, 12, write_gate="linear", response_gate_width="vector", detach_mean=True))
    for part in (
        "8, 12, 16",
        "write_gate='linear'",
        "response_gate_width='vector'",
        "detach_mean=True",
        "activation='relu'",
    ):
        assert part in text


@pytest.mark.parametrize(
    "options",
    [{}, {"write_gate": "linear", "activation": "identity", "detach_mean": True}],
    ids=["default", "as the draft prints it"],
)
def test_the_layer_is_the_function_of_its_parameters(make_problem, backend, options):
    problem = make_problem(2, 8, slots=5, word_channels=12, mask="partial", **options).leaves()
    layer = kvmem.KVMemoryLayer(8, 12, backend=backend, **options)
    layer.load_state_dict(dict(zip(SCALAR, problem.weights.values(), strict=True)))
    out, attention = layer(problem.image, problem.words, problem.mask, return_attention=True)
    expected_out, expected_attention = problem.run(backend, return_attention=True)
    assert torch.equal(out, expected_out)
    assert torch.equal(attention, expected_attention)
    assert torch.equal(layer(problem.image, problem.words, problem.mask), expected_out)


def test_copies_and_saves_as_any_module(tmp_path):
    layer = kvmem.KVMemoryLayer(8, 12)
    image, words = torch.randn(2, 8, 3, 3), torch.randn(2, 5, 12)
    expected = layer(image, words)
    assert torch.equal(copy.deepcopy(layer)(image, words), expected)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = kvmem.KVMemoryLayer(8, 12)
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(image, words), expected)


def test_made_on_meta_then_drawn(make_problem):
    """Memory first, values later: those of a layer that is made with the same random numbers."""
    with torch.device("meta"):
        layer = kvmem.KVMemoryLayer(4, 5, response_gate_width="vector")
    assert all(parameter.is_meta for parameter in layer.parameters())
    layer.to_empty(device="cpu")
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    expected = kvmem.KVMemoryLayer(4, 5, response_gate_width="vector").state_dict()
    found = layer.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_another_type_and_functional_calls():
    """`half`, `functional_call` and its old name: the layer of the parameters that it is given."""
    layer, other = kvmem.KVMemoryLayer(4, 5), kvmem.KVMemoryLayer(4, 5)
    image, words = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 5)
    expected = other(image, words)
    for call in (torch.func.functional_call, torch.nn.utils.stateless.functional_call):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(call(layer, dict(other.named_parameters()), (image, words)), expected)
    half = other.half()
    out = half(image.half(), words.half())
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.02)
