"""The layer under torch.func and forward-mode differentiation: right on every backend, fused where it can be."""

import itertools

import pytest
import torch
from kvmem_called import operators
from kvmem_problems import CalledOperators
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves

import kvmem

B, C, D, M, T = 3, 4, 5, 6, 7


def make_layer(backend: str, **options: str) -> kvmem.KVMemoryLayer:
    torch.manual_seed(1)
    return kvmem.KVMemoryLayer(C, D, M, backend=backend, dtype=torch.float64, **options)


def assert_same(found: object, expected: object) -> None:
    """The same tensors, to a few roundings of float64."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    for mine, theirs in pairs:
        assert mine.shape == theirs.shape and theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def loss(layer: kvmem.KVMemoryLayer, parameters: dict[str, Tensor] | None, *inputs: Tensor) -> Tensor:
    """A number for one image (C, H, W), words (T, D), mask (T,)."""
    given = tuple(one[None] for one in inputs)
    out = layer(*given) if parameters is None else functional_call(layer, parameters, given)
    return out.sin().sum()


@pytest.mark.parametrize("of", ["image", "words", "parameters"])
def test_jvp_is_the_finite_difference(backend, inputs, of):
    """The tangent by a central difference; by dual numbers, without a graph, the same."""
    layer, (image, words, mask) = make_layer(backend), inputs
    at = {"image": image, "words": words, "parameters": dict(layer.named_parameters())}[of]
    generator = torch.Generator().manual_seed(2)

    def direction(one: Tensor) -> Tensor:
        return torch.randn(one.shape, generator=generator, dtype=one.dtype)

    def run(at):
        return {
            "image": lambda: layer(at, words, mask),
            "words": lambda: layer(image, at, mask),
            "parameters": lambda: functional_call(layer, at, (image, words, mask)),
        }[of]()

    along = {k: direction(v) for k, v in at.items()} if isinstance(at, dict) else direction(at)
    _, tangent = jvp(run, (at,), (along,))

    def moved(by: float):
        return {k: v + by * along[k] for k, v in at.items()} if isinstance(at, dict) else at + by * along

    difference = (run(moved(1e-6)) - run(moved(-1e-6))) / 2e-6
    torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-7)
    if of == "image":
        with torch.no_grad(), forward_ad.dual_level():
            dual = forward_ad.unpack_dual(layer(forward_ad.make_dual(image, along), words, mask))
        assert_same(dual.tangent, tangent)


def test_vmap_is_a_loop(backend, inputs):
    """Over images with their words, over images alone, over words alone, and over ensembles of parameters."""
    layer, (image, words, mask) = make_layer(backend), inputs

    def single(*given: Tensor) -> Tensor:
        return layer(*(one[None] for one in given))[0]

    assert_same(vmap(single)(image, words, mask), layer(image, words, mask))
    images = torch.stack((image, image + 1, image * 2), dim=2)
    assert_same(
        vmap(lambda one: layer(one, words, mask), in_dims=2)(images),
        torch.stack([layer(one, words, mask) for one in images.unbind(2)]),
    )
    several = torch.stack((words, words - 1))
    assert_same(
        vmap(lambda one: layer(image, one, mask))(several), torch.stack([layer(image, one, mask) for one in several])
    )
    ensemble = [{name: value + n / 9 for name, value in layer.named_parameters()} for n in range(3)]
    stacked = {name: torch.stack([one[name] for one in ensemble]) for name in ensemble[0]}
    assert_same(
        vmap(lambda one: functional_call(layer, one, (image, words, mask)))(stacked),
        torch.stack([functional_call(layer, one, (image, words, mask)) for one in ensemble]),
    )
    assert_same(
        vmap(lambda one: layer(one, words, mask, return_attention=True))(images.movedim(2, 0)),
        [torch.stack(out) for out in zip(*(layer(one, words, mask, True) for one in images.unbind(2)), strict=True)],
    )


PARAMETERS = [name for name, _ in kvmem.KVMemoryLayer(C, D, M).named_parameters()]


@pytest.mark.parametrize("name", PARAMETERS)
def test_vmap_over_one_parameter_alone(backend, inputs, name):
    """The other parameters are all places': responses, and gradients of the image, which aren't the parameter's."""
    layer, (image, words, mask) = make_layer(backend), inputs
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    several = [parameters[name], parameters[name] + 1]

    def run(one: Tensor, image: Tensor) -> Tensor:
        return functional_call(layer, {**parameters, name: one}, (image, words, mask))

    def gradient(one: Tensor) -> Tensor:
        return grad(lambda x: run(one, x).sin().sum())(image)

    responses = torch.stack([run(one, image) for one in several])
    assert not torch.equal(*responses)
    last = torch.stack(several, -1)
    assert_same(vmap(lambda one: run(one, image), in_dims=-1)(last), responses)
    assert_same(vmap(gradient, in_dims=-1)(last), torch.stack([gradient(one) for one in several]))


@pytest.mark.parametrize("options", [{}, {"write_gate": "linear", "write_gate_width": "vector"}], ids=["plain", "wide"])
def test_gradients_of_each_sample_are_a_loops(backend, inputs, options):
    """vmap(grad): by the parameters that all samples share, by image and words; no mask, too."""
    layer = make_layer(backend, **options)
    parameters = dict(layer.named_parameters())
    for given in (inputs, inputs[:2]):
        by_vmap = vmap(
            grad(lambda p, *given: loss(layer, p, *given), argnums=(0, 1, 2)), in_dims=(None, *(0 for _ in given))
        )(parameters, *given)
        for place in range(B):
            leaves = [one[place].clone().requires_grad_() for one in given[:2]]
            value = loss(layer, None, *leaves, *(one[place] for one in given[2:]))
            expected = torch.autograd.grad(value, [*parameters.values(), *leaves])
            mine = [one[place] for one in tree_leaves(by_vmap)]
            assert_same(mine, list(expected))


@pytest.mark.parametrize("name", PARAMETERS)
def test_gradients_of_each_sample_by_one_parameter_alone(extension, inputs, name):
    """Whichever it is, no sum over the samples."""
    layer = make_layer("cpu")
    parameters = {key: value.detach() for key, value in layer.named_parameters()}

    def gradient(*one: Tensor) -> Tensor:
        return grad(lambda value: loss(layer, {**parameters, name: value}, *one))(parameters[name])

    expected = torch.stack([gradient(*one) for one in zip(*inputs, strict=True)])
    assert_same(vmap(gradient)(*inputs), expected)


def test_fused_operators_serve_grad_and_vmap(extension, inputs):
    """One call for a batch, one a sample where each has its own gradients; forward mode and second order have none."""
    layer, (image, words, mask) = make_layer("cpu"), inputs
    parameters = dict(layer.named_parameters())

    def single(image: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        return loss(layer, None, image, words, mask)

    def of_weights(image: Tensor, words: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return grad(lambda p: loss(layer, p, image, words, mask))(parameters)

    assert operators(lambda: grad(lambda x: layer(x, words, mask).sum())(image)) == (1, 1)
    assert operators(lambda: vmap(single)(image, words, mask)) == (1, 0)
    assert operators(lambda: vmap(grad(single, argnums=(0, 1)))(image, words, mask)) == (1, 1)
    assert operators(lambda: vmap(of_weights)(image, words, mask)) == (1, B)
    assert operators(lambda: jvp(lambda x: layer(x, words, mask), (image,), (image,))) == (0, 0)


def test_attention_is_made_where_it_is_asked_for(extension, inputs):
    """And not at all elsewhere: it is of the size that fused layers avoid."""
    image, words, mask = inputs
    layer = make_layer("cpu")
    runs = {
        False: lambda x: layer(x, words, mask).sum(),
        True: lambda x: torch.cat(layer(x, words, mask, return_attention=True), 1).sum(),
    }
    for asked, run in runs.items():
        with CalledOperators() as called:
            grad(run)(image)
        assert called.arguments["kvmem::kv_memory"][-1] is asked


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(
    "transform",
    {
        "grad": lambda run, x: grad(lambda x: run(x).sin().sum())(x),
        "vjp": lambda run, x: vjp(run, x)[1](torch.ones_like(run(x)))[0],
        "jacrev": lambda run, x: jacrev(run)(x),
        "jacfwd": lambda run, x: jacfwd(run)(x),
        "hessian": lambda run, x: hessian(lambda x: run(x).sin().sum())(x),
        "grad of grad": lambda run, x: grad(lambda x: grad(lambda x: run(x).sin().sum())(x).square().sum())(x),
        "jacrev of jacrev": lambda run, x: jacrev(jacrev(lambda x: run(x).sin().sum()))(x),
        "vmap of jacrev": lambda run, x: vmap(jacrev(run))(torch.stack((x, x + 1))),
        "vmap of vmap": lambda run, x: vmap(vmap(run))(torch.stack((x, x + 1)).repeat(2, 1, 1, 1, 1, 1)),
        "jvp of grad": lambda run, x: jvp(grad(lambda x: run(x).sin().sum()), (x,), (x.cos(),)),
    }.items(),
    ids=lambda item: item[0],
)
def test_transforms_within_each_other(extension, inputs, transform, attention):
    """The fused layer's are those of the equations in plain PyTorch, which torch transforms by itself."""
    image, words, mask = inputs

    def run_with(backend: str):
        layer = make_layer(backend)
        if attention:
            return lambda image: torch.cat(layer(image, words, mask, return_attention=True), 1)
        return lambda image: layer(image, words, mask)

    assert_same(transform[1](run_with("cpu"), image), transform[1](run_with("eager"), image))


@pytest.mark.parametrize(
    "options",
    [{"detach_mean": True}, {"write_gate": "linear"}, {"activation": "identity"}, {"response_gate_width": "vector"}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("attention", [False, True])
def test_options_reach_every_derivative(extension, inputs, options, attention):
    """First ones and second ones, each of an image with a mask of its own: those of the eager form."""

    def found(backend: str) -> list[object]:
        layer = make_layer(backend, **options)

        def first(image: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            def value(image: Tensor, words: Tensor) -> Tensor:
                out = layer(image[None], words[None], mask[None], return_attention=True)
                return out[0].sin().sum() + (out[1].sin().square().sum() if attention else 0)

            return grad(value, argnums=(0, 1))(image, words)

        def second(*one: Tensor) -> tuple[Tensor, ...]:
            return grad(lambda *one: sum(x.square().sum() for x in first(*one)), argnums=(0, 1))(*one)

        return [vmap(first)(*inputs), vmap(second)(*inputs)]

    assert_same(found("cpu"), found("eager"))


def test_a_gradient_of_attention_alone(extension, inputs):
    """The response has none: what comes of it must not be lost with it."""
    image, words, mask = inputs

    def gradient(backend: str) -> Tensor:
        layer = make_layer(backend)
        return grad(lambda x: layer(x, words, mask, return_attention=True)[1].sin().square().sum())(image)

    assert_same(gradient("cpu"), gradient("eager"))
    assert operators(lambda: gradient("cpu")) == (1, 1)


@pytest.mark.parametrize(
    "transform",
    [
        functionalize,
        lambda run: functionalize(grad(lambda x: run(x).sin().sum())),
        lambda run: grad(functionalize(lambda x: run(x).sin().sum())),
    ],
    ids=["functionalize", "of grad", "in grad"],
)
def test_a_transform_that_nobody_planned_for(extension, inputs, transform):
    """Among ones that are known too: the eager form's."""
    image, words, mask = inputs

    def run(image: Tensor) -> Tensor:
        return make_layer("cpu")(image, words, mask)

    assert operators(lambda: transform(run)(image)) == (0, 0)
    assert_same(transform(run)(image), transform(lambda image: make_layer("eager")(image, words, mask))(image))


COMPILED = {
    "jvp": lambda run, x: jvp(run, (x,), (x.cos(),)),
    "grad": lambda run, x: grad(lambda x: run(x).sin().sum())(x),
    "vmap": lambda run, x: vmap(run)(torch.stack((x, x + 1))),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("inside", [True, False], ids=["transform inside", "compiled inside"])
def test_transforms_and_compile(extension, fresh_compiler, inputs, name, inside):
    """The compiler takes the tangent of an operator for zero: it must not see the operator there."""
    image, words, mask = inputs
    layer = make_layer("cpu")

    def run(image: Tensor) -> Tensor:
        return layer(image, words, mask)

    expected = COMPILED[name](run, image)
    if inside:
        found = torch.compile(lambda x: COMPILED[name](run, x), backend="aot_eager", fullgraph=True)(image)
    else:
        found = COMPILED[name](torch.compile(run, backend="aot_eager"), image)
    assert_same(found, expected)


def test_a_call_between_transforms_is_the_operators(extension, inputs):
    """After a transform, even one that raised, calls are as before."""
    image, words, mask = inputs
    layer = make_layer("cpu")

    def fail(x: Tensor) -> Tensor:
        layer(x, words, mask)
        raise ZeroDivisionError

    for transformed, given in ((grad(fail), image), (vmap(fail), image[None])):
        with pytest.raises(ZeroDivisionError):
            transformed(given)
    assert operators(lambda: layer(image, words, mask).sum().backward()) == (1, 1)


def test_an_empty_batch_and_one_of_nothing(backend):
    """vmap over one place, and over images of which there are none."""
    layer = make_layer(backend)
    image, words = torch.randn(1, 2, C, 3, 2).double(), torch.randn(1, 2, T, D).double()
    assert_same(vmap(layer)(image, words), layer(image[0], words[0])[None])
    assert vmap(layer)(image[:, :0], words[:, :0]).shape == (1, 0, C, 3, 2)


def test_a_batch_of_masks(backend, inputs):
    """A mask alone may be what is batched."""
    image, words, _ = inputs
    masks = torch.tensor(list(itertools.product([True, False], repeat=T))[:5]).unsqueeze(1).expand(5, B, T)
    layer = make_layer(backend)
    assert_same(
        vmap(lambda mask: layer(image, words, mask))(masks), torch.stack([layer(image, words, m) for m in masks])
    )
