"""The layer as any module: copied, sent, given other parameters, compiled, checkpointed, in several processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from kvmem_called import operators
from kvmem_framework import Maker, gradients
from kvmem_processes import trained, trained_in_parallel
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import kvmem

MAKER = Maker("cpu")
pytestmark = pytest.mark.usefixtures("extension")


def drawn_anew(layer: nn.Module) -> nn.Module:
    """A layer with other parameters."""
    other = copy.deepcopy(layer)
    other.reset_parameters()
    return other


def assigned(layer: nn.Module, other: nn.Module) -> nn.Module:
    layer.load_state_dict(other.state_dict(), assign=True)
    return layer


def swapped(layer: nn.Module, other: nn.Module) -> nn.Module:
    for mine, theirs in zip(layer.parameters(), copy.deepcopy(other).parameters(), strict=True):
        torch.utils.swap_tensors(mine, theirs)
    return layer


def loaded_by_swapping(layer: nn.Module, other: nn.Module) -> nn.Module:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.load_state_dict(other.state_dict())
        return layer.double().float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def from_a_vector(layer: nn.Module, other: nn.Module) -> nn.Module:
    vector_to_parameters(parameters_to_vector(other.parameters()), layer.parameters())
    return layer


def averaged(layer: nn.Module, other: nn.Module) -> nn.Module:
    average = torch.optim.swa_utils.AveragedModel(layer)
    average.update_parameters(other)
    return average


def made_without_values(layer: nn.Module, other: nn.Module) -> nn.Module:
    made = nn.utils.skip_init(type(layer), layer.image_channels, layer.word_channels, backend=layer.backend)
    made.load_state_dict(other.state_dict())
    return made


def compiled_then_assigned(layer: nn.Module, other: nn.Module) -> nn.Module:
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(*MAKER.inputs())
    assigned(layer, other)
    return compiled


def copied_after_compiling(layer: nn.Module, other: nn.Module) -> nn.Module:
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(*MAKER.inputs())
    return from_a_vector(copy.deepcopy(compiled), other)


def sent(layer: nn.Module, other: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(other))


def shared(layer: nn.Module, other: nn.Module) -> nn.Module:
    return copy.deepcopy(other).share_memory()


@pytest.mark.parametrize(
    "change",
    [
        assigned,
        swapped,
        loaded_by_swapping,
        from_a_vector,
        averaged,
        made_without_values,
        compiled_then_assigned,
        copied_after_compiling,
        sent,
        shared,
    ],
)
def test_the_parameters_are_those_of_another_layer(fresh_compiler, change: Callable[[nn.Module, nn.Module], nn.Module]):
    """However they came: response and gradients are the other's, and the layer that it was copied from stays itself."""
    layer, inputs = MAKER.layer(), MAKER.inputs()
    untouched, other = copy.deepcopy(layer), drawn_anew(layer)
    changed = change(layer, other)
    out, expected = changed(*inputs), other(*inputs)
    assert operators(lambda: changed(*inputs)) == (1, 0)
    assert torch.equal(out, expected) and not torch.equal(out, untouched(*inputs))
    pairs = zip(gradients(changed, inputs, out.sum()), gradients(other, inputs, expected.sum()), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("name, dtype", [("bfloat16", torch.bfloat16), ("double", torch.float64)])
def test_converted(name, dtype):
    """By the module's own method: a layer made in that type."""
    layer, inputs = getattr(MAKER.layer(), name)(), MAKER.inputs(dtype)
    made = MAKER.layer(dtype)
    made.load_state_dict(MAKER.layer().state_dict())
    out = layer(*inputs)
    assert out.dtype == dtype and torch.equal(out, made(*inputs))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_runs_forward_again(use_reentrant):
    """Of either kind: the same gradients, by one more fused call."""
    layer, plain = MAKER.layer(), MAKER.layer()
    inputs, others = MAKER.inputs(), MAKER.inputs()
    assert operators(lambda: checkpoint(layer, *inputs, use_reentrant=use_reentrant).sum().backward()) == (2, 1)
    plain(*others).sum().backward()
    for mine, theirs in zip((*inputs[:2], *layer.parameters()), (*others[:2], *plain.parameters()), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.fixture
def no_recompiling() -> Iterator[None]:
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def test_reduce_overhead(fresh_compiler, no_recompiling):
    """There are no CUDA graphs on a CPU: call after call the layer's response and gradients."""
    layer = MAKER.layer()
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for seed in (1, 2, 3):
        inputs = MAKER.inputs(seed=seed)
        out, expected = compiled(*inputs), layer(*inputs)
        assert torch.equal(out, expected)
        found = gradients(layer, inputs, out.square().sum())
        torch.testing.assert_close(found, gradients(layer, inputs, expected.square().sum()))
    assert operators(lambda: compiled(*inputs).square().sum().backward()) == (1, 1)


def test_dynamic_shapes_compile_once(fresh_compiler, no_recompiling):
    """One graph for all sizes, with the layer's gradients at each."""
    layer, counter = MAKER.layer(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    generator = torch.Generator().manual_seed(0)
    for batch, height, width, slots in ((2, 3, 4, 5), (3, 6, 5, 7), (4, 2, 9, 11), (5, 4, 4, 2)):
        image = torch.randn(batch, MAKER.channels, height, width, generator=generator)
        words = torch.randn(batch, slots, 12, generator=generator)
        mask = torch.rand(batch, slots, generator=generator) < 0.6
        out, expected = compiled(image, words, mask), layer(image, words, mask)
        assert torch.equal(out, expected)
        weights = list(layer.parameters())
        pairs = zip(torch.autograd.grad(out.sum(), weights), torch.autograd.grad(expected.sum(), weights), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    assert counter.frame_count == 1


def test_processes_in_parallel(tmp_path):
    """DistributedDataParallel in two processes that the layer is sent to: the steps of the eager form."""
    layer = MAKER.layer(torch.float64)
    inputs: tuple[Tensor, ...] = tuple(tensor.detach() for tensor in MAKER.inputs(torch.float64))
    inputs = tuple(torch.cat((tensor, tensor.flip(1)))[:4] for tensor in inputs)
    torch.multiprocessing.spawn(trained_in_parallel, (layer, inputs, str(tmp_path)), nprocs=2)
    expected = trained(Maker("eager").layer(torch.float64), inputs)
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=1e-9, atol=1e-12)


def test_flops_are_those_of_the_eager_form_alone(extension):
    """torch knows no formula of a fused operator, and counts it as nothing: the documentation says so."""
    layer, image, words = kvmem.KVMemoryLayer(8, 4), torch.randn(2, 8, 4, 4), torch.randn(2, 3, 4)
    counted = {}
    for layer.backend in ("cpu", "eager"):
        with FlopCounterMode(display=False) as counter:
            layer(image, words)
        counted[layer.backend] = counter.get_total_flops()
    assert counted["cpu"] == 0
    # Words, mean, keys and values by their maps, scores, values read, and W_g's halves; B, C, D, M, T, N in this order.
    b, c, d, m, t, n = 2, 8, 4, 16, 3, 16
    products = b * t * d * (1 + m) + b * c * (1 + m) + 2 * b * t * m * c + 2 * b * t * c * n + 2 * b * c * n
    assert counted["eager"] == 2 * products
