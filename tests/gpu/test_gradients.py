"""Which gradients are computed, on the GPU: subsets, either output alone, second derivatives."""

import pytest
import torch
from kvmem_checks import assert_only_needed_gradients
from kvmem_cluster_shapes import CLUSTER_SHAPES
from kvmem_problems import NAMESPACES, CalledOperators

SIZES = {
    "cluster": CLUSTER_SHAPES["odd height"],
    "general": (2, 24, (9, 7), 40, 12),
    "large": (2, 72, (9, 7), 70, 12),
}


@pytest.fixture(params=SIZES)
def sizes(request):
    return SIZES[request.param]


def test_a_gradient_that_is_not_needed_comes_back_empty_and_the_others_do_not_change(make_problem, sizes, kernels):
    assert_only_needed_gradients(make_problem(*sizes, mask="partial"), True, NAMESPACES[kernels])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("used", ["out", "attention", "both"])
def test_either_output_alone_has_the_gradients_of_the_specification(make_problem, sizes, kernels, used, dtype):
    gradients = {}
    base = make_problem(*sizes, mask="partial", dtype=dtype)
    # The reference in float64 on the values as rounded.
    for backend, kind in (("eager", torch.float64), (kernels, dtype)):
        problem = base.to(kind).leaves()
        out, attention = problem.run(backend, return_attention=True)
        weighted = torch.linspace(-1, 1, attention[0].numel(), dtype=dtype, device=out.device).view_as(attention[0])
        terms = {"out": (out * base.image).sum(), "attention": (attention * weighted).sum()}
        loss = sum(terms.values()) if used == "both" else terms[used]
        inputs = list(problem.inputs.values())
        gradients[backend] = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for name, expected, found in zip(base.inputs, gradients["eager"], gradients[kernels], strict=True):
        assert (found.double() - expected).norm() <= tolerance * expected.norm() + 1e-6, name


def test_the_operator_is_asked_only_for_the_gradients_that_are_needed(make_problem, backend, namespace):
    problem = make_problem()
    for i, wanted in enumerate(problem.inputs):
        one = problem.leaves()
        for name, tensor in one.inputs.items():
            tensor.requires_grad_(name == wanted)
        loss = one.run(backend).sum()
        with CalledOperators() as called:
            loss.backward()
        *_, needs = called.arguments[f"{namespace}::kv_memory_backward"]
        assert needs == 1 << i
        assert all((tensor.grad is not None) == (name == wanted) for name, tensor in one.inputs.items())


def test_second_derivatives_are_those_of_the_eager_form(make_problem, backend, sizes):
    found = {}
    for form in ("eager", backend):
        problem = make_problem(*sizes, mask="partial").leaves()
        inputs = list(problem.inputs.values())
        first = torch.autograd.grad(problem.run(form).square().sum(), inputs, create_graph=True)
        found[form] = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
    for name, expected, result in zip(problem.inputs, found["eager"], found[backend], strict=True):
        assert (result - expected).norm() <= 1e-3 * expected.norm() + 1e-6, name


def test_detach_mean_stops_the_gradient_through_the_mean_alone(make_problem, sizes, kernels):
    attached = make_problem(*sizes, mask="partial").leaves()
    detached = make_problem(*sizes, mask="partial", detach_mean=True).leaves()
    out = attached.run(kernels)
    assert torch.equal(detached.run(kernels), out)
    (with_mean,) = torch.autograd.grad(out, attached.image, torch.ones_like(out))
    (without_mean,) = torch.autograd.grad(detached.run(kernels), detached.image, torch.ones_like(out))
    # The mean spreads evenly over the positions: so the difference is the same at all of them, and not zero.
    difference = (with_mean - without_mean).flatten(2)
    torch.testing.assert_close(difference, difference[..., :1].expand_as(difference), rtol=1e-3, atol=1e-5)
    assert difference.abs().max() > 1e-4
