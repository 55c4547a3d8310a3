"""The layer of any backend under the framework's own machinery: opcheck, compile, export, autocast, checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from functorch.compile import make_boxed_func
from kvmem_problems import Problem
from kvmem_read_problems import ReadProblem, make_read_problem
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.profiler import ProfilerActivity, profile

import kvmem
from kvmem.checks import Activation

Inputs = tuple[Tensor, Tensor, Tensor]
WORD_CHANNELS = 12
CAST_ULPS = 2


@dataclass(frozen=True)
class Maker:
    """Makes layers and their inputs: of a backend, a number of channels, and a device."""

    backend: str
    channels: int = 8
    device: str = "cpu"

    def layer(self, dtype: torch.dtype = torch.float32, activation: Activation = "relu") -> kvmem.KVMemoryLayer:
        torch.manual_seed(0)
        settings = {"backend": self.backend, "device": self.device, "dtype": dtype, "activation": activation}
        return kvmem.KVMemoryLayer(self.channels, WORD_CHANNELS, **settings)

    def inputs(self, dtype: torch.dtype = torch.float32, channels_last: bool = False, seed: int = 1) -> Inputs:
        """Image, words and mask, of which the first two take gradients."""
        random = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
        image, words = random(3, self.channels, 4, 5), random(3, 5, WORD_CHANNELS)
        mask = (random(3, 5) < 0.5).to(self.device)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        image, words = (tensor.to(self.device, dtype).requires_grad_() for tensor in (image, words))
        return image, words, mask


def gradients(layer: torch.nn.Module, inputs: Inputs, loss: Tensor) -> tuple[Tensor, ...]:
    """Of image, words and parameters."""
    return torch.autograd.grad(loss, [*inputs[:2], *layer.parameters()])


def opcheck_backward(problem: Problem, namespace: str, needs: int) -> None:
    """needs: the bits of the gradients asked for. With a gradient of the attention and without."""
    operators = getattr(torch.ops, namespace)
    arguments = problem.operator_arguments(return_attention=True)
    out, attention, *kept = operators.kv_memory(*arguments)
    for grad_attention in (None, attention):
        torch.library.opcheck(
            operators.kv_memory_backward.default,
            (out, grad_attention, *arguments[:15], *kept, *arguments[15:18], needs),
        )


def assert_compiles_to_one_graph(maker: Maker, compiler: str, channels_last: bool) -> None:
    """With the same result, gradients and strides."""
    layer, inputs = maker.layer(), maker.inputs(channels_last=channels_last)
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    out, attention = compiled(*inputs, return_attention=True)
    expected, expected_attention = layer(*inputs, return_attention=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(attention, expected_attention)
    assert out.stride() == expected.stride()
    found = gradients(layer, inputs, out.square().sum() + attention.square().sum())
    reference = gradients(layer, inputs, expected.square().sum() + expected_attention.square().sum())
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)


def recording_backend() -> tuple[Callable, list[list[str]]]:
    """A backend of torch.compile, and what each graph that it gets calls, by name: forward first, then backward."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, example_inputs: list[Tensor]) -> Callable:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph)

    return aot_autograd(fw_compiler=keep, bw_compiler=keep), graphs


def assert_compiled_training_is_fused(maker: Maker, namespace: str) -> None:
    """The backward graph holds the fused backward, not the eager form that second derivatives take."""
    layer, inputs = maker.layer(), maker.inputs()
    backend, graphs = recording_backend()
    torch.compile(layer, fullgraph=True, backend=backend)(*inputs).sum().backward()
    forward, backward = graphs
    assert f"{namespace}.kv_memory.default" in forward
    assert f"{namespace}.kv_memory_backward.default" in backward
    assert not any("softmax" in target for target in forward + backward)


def assert_compiles_with_dynamic_shapes(maker: Maker) -> None:
    layer = maker.layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, height, width, slots in ((2, 3, 4, 5), (3, 6, 5, 7), (4, 2, 9, 11)):
        image = torch.randn(batch, maker.channels, height, width, device=maker.device)
        words = torch.randn(batch, slots, WORD_CHANNELS, device=maker.device)
        torch.testing.assert_close(compiled(image, words), layer(image, words))


def assert_exports_with_a_dynamic_batch(maker: Maker, strict: bool) -> list[str]:
    """Returns the names of what the exported graph calls."""
    layer, inputs = maker.layer(), maker.inputs()
    batch = torch.export.Dim("batch", min=2)
    dynamic = {"image": {0: batch}, "words": {0: batch}, "mask": {0: batch}}
    exported = torch.export.export(layer, inputs, dynamic_shapes=dynamic, strict=strict)
    others = tuple(tensor[:2].detach() for tensor in maker.inputs(seed=2))
    torch.testing.assert_close(exported.module()(*others), layer(*others))
    return [str(node.target) for node in exported.graph.nodes]


def casts(run: Callable[[], object]) -> list[list[int]]:
    """The shape of everything that is cast while it runs, by whatever code: Python's, autograd's, an operator's."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        run()
    return [event.input_shapes[0] for event in seen.events() if event.name == "aten::_to_copy"]


def assert_casts_nothing(run: Callable[[], object], backend: str, inputs: list[Tensor]) -> None:
    """Where a backend is eager, whose arithmetic is float32, it may cast what has another shape than the inputs."""
    shapes = [list(one.shape) for one in inputs]
    found = casts(run)
    assert not [shape for shape in found if backend != "eager" or shape in shapes], found


def assert_near(found: Tensor, reference: Tensor, tolerance: float) -> None:
    """By the root mean square, to a part of it, or of 1 where that is less: what should be 0 is but rounding errors."""
    found, reference = found.double(), reference.double()
    error, size = ((x.square().mean()).sqrt().item() for x in (found - reference, reference))
    assert error <= tolerance * (1 + size)


def assert_autocast_casts_nothing(maker: Maker, dtype: torch.dtype) -> None:
    """A layer and words in float32 beside an image of 16 bits: what the call gives without autocast, bit for bit.

    Cast by hand, layer and words give the same but for the rounding that this is.
    """
    # A number on the other side of a relu is no rounding error.
    layer, by_hand = maker.layer(activation="identity"), maker.layer(dtype, "identity")
    by_hand.load_state_dict(layer.state_dict())
    wide, words, mask = maker.inputs()
    image = wide.detach().to(dtype).requires_grad_()
    grads = [torch.randn_like(one) for one in layer(image, words, mask, return_attention=True)]

    def results(layer: kvmem.KVMemoryLayer, words: Tensor, *, autocast: bool = False) -> list[Tensor]:
        """Response, attention and all gradients."""
        with torch.autocast(image.device.type, dtype, enabled=autocast):
            outputs = layer(image, words, mask, return_attention=True)
        return [*outputs, *torch.autograd.grad(outputs, [image, words, *layer.parameters()], grads)]

    assert_casts_nothing(lambda: results(layer, words, autocast=True), maker.backend, [words, *layer.parameters()])
    found, cast = results(layer, words, autocast=True), results(by_hand, words.detach().to(dtype).requires_grad_())
    assert [one.dtype for one in found] == 3 * [dtype] + (len(found) - 3) * [torch.float32]
    for mine, same, near in zip(found, results(layer, words), cast, strict=True):
        assert torch.equal(mine, same)
        assert_near(mine, near, CAST_ULPS * torch.finfo(dtype).eps)
    with torch.autocast(image.device.type, dtype):
        assert torch.equal(layer(wide, words, mask), found[0])


def assert_reading_under_autocast_casts_nothing(backend: str, dtype: torch.dtype) -> None:
    """Keys, values and response gate in float32 beside an image of 16 bits, as `assert_autocast_casts_nothing`."""
    torch.manual_seed(0)
    problem = make_read_problem(gate="vector", mask="partial").with_image_in(dtype).leaves()
    grads = [torch.randn_like(one) for one in problem.run(backend, return_attention=True)]

    def results(problem: ReadProblem, *, autocast: bool = False) -> list[Tensor]:
        with torch.autocast(problem.image.device.type, dtype, enabled=autocast):
            outputs = problem.run(backend, return_attention=True)
        return [*outputs, *torch.autograd.grad(outputs, list(problem.inputs.values()), grads)]

    wide = list(problem.inputs.values())[1:]
    assert_casts_nothing(lambda: results(problem, autocast=True), backend, wide)
    found, cast = results(problem, autocast=True), results(problem.to(dtype).leaves())
    assert [one.dtype for one in found] == 3 * [dtype] + 4 * [torch.float32]
    for mine, same, near in zip(found, results(problem), cast, strict=True):
        assert torch.equal(mine, same)
        assert_near(mine, near, CAST_ULPS * torch.finfo(dtype).eps)


def assert_checkpointing_recomputes_the_same(maker: Maker) -> None:
    layer, inputs = maker.layer(), maker.inputs()
    out = torch.utils.checkpoint.checkpoint(layer, *inputs, use_reentrant=False)
    expected = gradients(layer, inputs, layer(*inputs).sum())
    for result, reference in zip(gradients(layer, inputs, out.sum()), expected, strict=True):
        assert torch.equal(result, reference)
