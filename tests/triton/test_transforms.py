"""Triton's operators under torch.func and second derivatives: the eager form's results, by Triton's kernels."""

from __future__ import annotations

import pytest
import torch
from kvmem_called import operators
from kvmem_exported import Layout
from torch import Tensor
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves

import kvmem

pytestmark = pytest.mark.usefixtures("interpreter")
LAYOUT = Layout()
BATCH = 2


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    """Image, words and mask, of which every image has a word."""
    image, words, mask = LAYOUT.inputs(BATCH, 5, (3, 4))
    mask[:, 0] = True
    return image, words, mask


def samples(layer: kvmem.KVMemoryLayer, inputs: tuple[Tensor, ...], argnums: tuple[int, ...]) -> object:
    """Gradients of each image by parameters (0), itself (1), its words (2)."""

    def loss(parameters: dict[str, Tensor], *one: Tensor) -> Tensor:
        return functional_call(layer, parameters, tuple(tensor[None] for tensor in one)).sin().sum()

    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    return vmap(grad(loss, argnums=argnums), in_dims=(None, 0, 0, 0))(parameters, *inputs)


def twice(layer: kvmem.KVMemoryLayer, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Second derivatives by autograd."""
    image, words, mask = inputs
    image = image.clone().requires_grad_()
    first = torch.autograd.grad(layer(image, words, mask).sin().sum(), image, create_graph=True)[0]
    return first, *torch.autograd.grad(first.square().sum(), [image, *layer.parameters()])


def by_words(layer: kvmem.KVMemoryLayer, inputs: tuple[Tensor, ...], attention: bool) -> object:
    """What a cotangent of the response, or of the attention, becomes."""
    image, words, mask = inputs
    out, pull = vjp(lambda words: layer(image, words, mask, return_attention=True)[attention], words)
    return out, pull(out.cos())


# Name -> what it computes, and how often the fused operators run for it, forward and backward. Of second derivatives
# the part by way of the response, which is a first derivative of the layer, is fused.
TRANSFORMS = {
    "grad": (lambda layer, x: grad(lambda image: layer(image, *x[1:]).sin().sum())(x[0]), (1, 1)),
    "vjp": (lambda layer, x: by_words(layer, x, False), (1, 1)),
    "vjp of attention": (lambda layer, x: by_words(layer, x, True), (1, 1)),
    "vmap": (lambda layer, x: vmap(lambda *one: layer(*(t[None] for t in one)))(*x), (1, 0)),
    "vmap over words": (lambda layer, x: vmap(lambda w: layer(x[0], w, x[2]))(torch.stack((x[1], -x[1]), 0)), (1, 0)),
    "vmap(grad) by inputs": (lambda layer, x: samples(layer, x, (1, 2)), (1, 1)),
    "vmap(grad) by parameters": (lambda layer, x: samples(layer, x, (0,)), (1, BATCH)),
    "jvp": (lambda layer, x: jvp(lambda image: layer(image, *x[1:]), (x[0],), (x[0].cos(),)), (0, 0)),
    "create_graph": (twice, (1, 1)),
    "grad(grad)": (
        lambda layer, x: grad(lambda i: grad(lambda i: layer(i, *x[1:]).sin().sum())(i).square().sum())(x[0]),
        (1, 2),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformed(inputs, launches, name):
    """By as many calls of the operators as on the other backends, each of which launches Triton's kernels."""
    transform, expected_calls = TRANSFORMS[name]
    found: list[object] = []
    layer = LAYOUT.layer("triton")
    assert operators(lambda: found.append(transform(layer, inputs)), "kvmem_triton") == expected_calls
    launched = [launch.name for launch in launches]
    counted = [launched.count(kernel) for kernel in ("kv_memory_read", "kv_memory_read_backward")]
    assert counted == list(expected_calls)
    expected = transform(LAYOUT.layer("eager"), inputs)
    for mine, theirs in zip(tree_leaves(found[0]), tree_leaves(expected), strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()
