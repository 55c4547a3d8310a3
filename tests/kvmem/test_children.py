"""The layer's linear maps reparametrised, hooked or replaced: as if every one of them were called, or refused."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrizations, prune

import kvmem
from kvmem.children import NAMES

B, C, D, M, T = 3, 4, 5, 6, 7


class Adapter(nn.Module):
    """A map with two of low rank beside it."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Scaled(nn.Linear):
    """A Linear that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Called(nn.Module):
    """The layer's equations written once more, every map a call: what a layer of calls would be."""

    def __init__(self, layer: kvmem.KVMemoryLayer):
        super().__init__()
        self.layer = layer

    def forward(self, image: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        layer, features = self.layer, image.flatten(2).transpose(1, 2)
        mean = features.mean(1, keepdim=True)
        gate = (layer.gate_word(words) + layer.gate_image(mean)).sigmoid()
        memory = gate * layer.write_word(words).relu() + (1 - gate) * layer.write_image(mean).relu()
        logits = features @ layer.key(memory).relu().transpose(1, 2)
        attention = logits.masked_fill(~mask[:, None], -torch.inf).softmax(2)
        read = attention @ layer.value(memory).relu()
        response = layer.response_gate(torch.cat((features, read), 2)).sigmoid()
        out = (1 - response) * features + response * read
        return out.transpose(1, 2).unflatten(2, image.shape[2:])


def _old(function: Callable[[nn.Module], object]) -> Callable[[nn.Module], None]:
    """Old functions of torch.nn.utils warn that they are old."""

    def change(layer: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(layer)

    return change


def _twice(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: 2 * module(x)


FUSED: dict[str, Callable[[nn.Module], None]] = {
    "plain": lambda layer: None,
    "spectral_norm": _old(lambda layer: nn.utils.spectral_norm(layer.key)),
    "weight_norm": _old(lambda layer: nn.utils.weight_norm(layer.value)),
    "prune": lambda layer: prune.l1_unstructured(layer.write_word, "weight", 0.5),
    "prune twice": lambda layer: (
        prune.l1_unstructured(layer.key, "weight", 0.5),
        prune.random_unstructured(layer.key, "bias", 1),
    ),
    "prune a bias": lambda layer: prune.random_unstructured(layer.response_gate, "bias", 1),
    "parametrizations.spectral_norm": lambda layer: parametrizations.spectral_norm(layer.key),
    "parametrizations.weight_norm": lambda layer: parametrizations.weight_norm(layer.gate_image),
}
CALLED: dict[str, Callable[[nn.Module], None]] = {
    **{f"adapter of {name}": lambda layer, name=name: _replace(layer, name, Adapter) for name in NAMES},
    "subclass": lambda layer: setattr(layer, "key", Scaled(M, C, dtype=torch.float64)),
    "forward hook": lambda layer: layer.value.register_forward_hook(lambda module, given, out: 2 * out),
    "pre-hook": lambda layer: layer.gate_word.register_forward_pre_hook(lambda module, given: (given[0] / 2,)),
    "backward hook": lambda layer: layer.key.register_full_backward_hook(lambda m, g, out: (g[0] * 3,)),
    "backward pre-hook": lambda layer: layer.value.register_full_backward_pre_hook(lambda m, out: (out[0] * 3,)),
    "norm and pre-hook": _old(
        lambda layer: nn.utils.weight_norm(layer.key).register_forward_pre_hook(lambda module, given: (given[0] / 2,))
    ),
    "forward of its own": lambda layer: setattr(layer.key, "forward", _twice(copy.copy(layer.key))),
}


def _replace(layer: nn.Module, name: str, by: type[nn.Module]) -> None:
    setattr(layer, name, by(getattr(layer, name)).double())


def make_layer(change: Callable[[nn.Module], None], backend: str | None = None) -> kvmem.KVMemoryLayer:
    torch.manual_seed(1)
    layer = kvmem.KVMemoryLayer(C, D, M, backend=backend, dtype=torch.float64)
    change(layer)
    return layer


def losses(model: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> list[float]:
    """Four steps of training: what a map that isn't trained, or keeps a stale weight, would not follow."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(*inputs).square().mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("change", [*FUSED, *CALLED])
def test_training_is_that_of_a_layer_of_calls(inputs, change):
    """Every backend that is picked: fused for what only changes weights, by the modules for all else."""
    make = (FUSED | CALLED)[change]
    expected = losses(Called(make_layer(make)), inputs)
    assert losses(make_layer(make), inputs) == pytest.approx(expected, rel=1e-9)
    assert max(expected) > min(expected)


@pytest.mark.parametrize("change", FUSED)
def test_what_only_changes_weights_is_fused(extension, inputs, change):
    """By name: else the call would be refused."""
    make = FUSED[change]
    assert losses(make_layer(make, "cpu"), inputs) == pytest.approx(losses(Called(make_layer(make)), inputs), rel=1e-9)


@pytest.mark.parametrize("change", CALLED)
def test_a_backend_that_cannot_call_modules_says_so(extension, inputs, change):
    """Naming the map and what it is."""
    layer = make_layer(CALLED[change], "cpu")
    name = change.split()[-1] if "adapter" in change else r"\w+"
    with pytest.raises(RuntimeError, match=rf"backend 'cpu' can't run this layer: {name} (is|has) .*; backend=None"):
        layer(*inputs)


def test_hooks_run_once_a_call_and_attention_is_returned(inputs):
    """What they see is what a layer of calls gives them."""
    seen: list[torch.Size] = []
    layer = make_layer(lambda layer: layer.key.register_forward_hook(lambda m, given, out: seen.append(out.shape)))
    out, attention = layer(*inputs, return_attention=True)
    assert seen == [(B, T, C)] and out.shape == inputs[0].shape and attention.shape == (B, T, 3, 2)


def test_hooks_of_every_module_see_the_layer_alone(backend, inputs):
    """Its maps are read, not called: counters and profilers that hook all modules don't change what runs."""
    layer = make_layer(lambda layer: None, backend)
    seen: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, given, out: seen.append(module))
    try:
        out = layer(*inputs)
    finally:
        hook.remove()
    assert seen == [layer] and torch.equal(out, layer(*inputs))


@pytest.mark.parametrize(
    "options",
    [
        {"write_gate": "linear"},
        {"activation": "identity"},
        {"detach_mean": True},
        {"write_gate_width": "vector", "response_gate_width": "vector"},
        {"channel_dim": -1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_a_layer_whose_maps_are_called(inputs, options):
    """Its outputs and gradients are those of the layer whose maps are read."""
    image, words, mask = inputs
    image = image.flatten(2).transpose(1, 2) if "channel_dim" in options else image
    torch.manual_seed(1)
    read = kvmem.KVMemoryLayer(C, D, M, dtype=torch.float64, **options)
    called = copy.deepcopy(read)
    calls: list[nn.Module] = []
    called.key.register_forward_hook(lambda module, given, out: calls.append(module))
    found = []
    for layer in (read, called):
        given = image.clone().requires_grad_()
        outputs = layer(given, words, mask, return_attention=True)
        loss = sum(one.sin().square().sum() for one in outputs)
        found.append([*outputs, layer(given, words, mask), *torch.autograd.grad(loss, [given, *layer.parameters()])])
    assert len(calls) == 2
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_dynamically_quantised(inputs):
    """Its maps have no weight to read: they are called, and near the layer's."""
    image, words, mask = (one.float() if one.is_floating_point() else one for one in inputs)
    layer = make_layer(lambda layer: None).float().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear})
    expected, found = layer(image, words, mask), quantised(image, words, mask)
    assert 0 < (found - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("children", [False, True], ids=["the layer", "each child"])
def test_fully_sharded(one_process, inputs, children):
    """FSDP2: whole, its weights are gathered before the call; child by child each is called."""
    expected = losses(make_layer(lambda layer: None), inputs)
    layer = make_layer(lambda layer: None)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for module in [getattr(layer, name) for name in NAMES] if children else [layer]:
        fully_shard(module, mesh=mesh)
    assert losses(layer, inputs) == pytest.approx(expected, rel=1e-9)
    assert all(isinstance(parameter, DTensor) for parameter in layer.parameters())


def test_a_distributed_parameter_is_refused(one_process, inputs):
    """Not gathered by anyone: one line that says how."""
    layer = make_layer(lambda layer: None)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    layer.key.weight = nn.Parameter(DTensor.from_local(layer.key.weight.detach(), mesh))
    with pytest.raises(TypeError, match="key_weight: got a DTensor, expected a plain Tensor: gather it"):
        layer(*inputs)


@pytest.mark.parametrize(
    ("image", "words", "message"),
    [
        ((2, 3, 4, 4), (2, T, D), "image: got 3 channels, the layer was made for 4"),
        ((2, C, 4, 4), (2, T, 9), "words: got 9 channels, the layer was made for 5"),
        ((2, C, 4, 4), (3, T, D), "words: got batch size 3, expected 2 as in image"),
        ((2, C), (2, T, D), r"image: got shape \(2, 4\), expected at least 3 dimensions"),
    ],
)
@pytest.mark.parametrize("change", ["plain", "forward hook"])
def test_inputs_that_do_not_fit(image, words, message, change):
    """The input is blamed, not a weight."""
    layer = make_layer((FUSED | CALLED)[change])
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(image, dtype=torch.float64), torch.zeros(words, dtype=torch.float64))


def test_adapters_under_autocast(inputs):
    """As mixed-precision training has them: the types of a plain layer, near its values, with every gradient."""
    image, words, mask = (one.float() if one.is_floating_point() else one for one in inputs)
    plain, adapted = (make_layer(change).float() for change in (FUSED["plain"], CALLED["adapter of key"]))
    nn.init.zeros_(adapted.key.up.weight)
    nn.init.zeros_(adapted.key.up.bias)
    adapted.key.base.load_state_dict(plain.key.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (layer(image, words, mask, return_attention=True) for layer in (plain, adapted))
        sum(one.float().sum() for one in found).backward()
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype == torch.bfloat16
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.03)
    assert all(parameter.grad is not None for parameter in adapted.parameters())
