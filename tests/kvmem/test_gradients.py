"""First and second derivatives in float64 against finite differences, over the options; which of them are computed."""

from itertools import product

import pytest
import torch
from kvmem_checks import assert_only_needed_gradients
from kvmem_problems import CalledOperators
from torch.autograd import gradcheck, gradgradcheck

OPTIONS = [
    dict(
        zip(
            ("write_gate", "write_gate_width", "response_gate_width", "activation", "detach_mean"),
            values,
            strict=True,
        )
    )
    for values in product(
        ("sigmoid", "linear"), ("scalar", "vector"), ("scalar", "vector"), ("relu", "identity"), (False,)
    )
] + [{"detach_mean": True}]


def small(make_problem, **options):
    """A problem small enough for finite differences, with a seed that leaves most of its rectified units alive."""
    return make_problem(2, 4, (1, 3), 4, 3, 6, mask="partial", dtype=torch.float64, seed=28, **options).leaves()


def as_function(problem, backend, return_attention):
    """The call as a function of its tensors.

    With detach_mean finite differences would see the path through the mean: there the image is left out.
    """
    inputs = list(problem.inputs.values())
    if not problem.options.get("detach_mean"):
        return lambda *tensors: problem.with_inputs(list(tensors)).run(backend, return_attention), inputs
    image = problem.image.detach()
    return lambda *tensors: problem.with_inputs([image, *tensors]).run(backend, return_attention), inputs[1:]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_first_derivatives(make_problem, backend, options):
    problem = small(make_problem, **options)
    function, inputs = as_function(problem, backend, return_attention=True)
    assert gradcheck(function, inputs)
    gradients = torch.autograd.grad(problem.run(backend).square().sum(), list(problem.inputs.values()))
    assert all(gradient.count_nonzero() >= gradient.numel() / 2 for gradient in gradients), "says little: dead units"


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_second_derivatives(make_problem, backend, options):
    function, inputs = as_function(small(make_problem, **options), backend, return_attention=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


def test_second_derivatives_of_the_response_alone(make_problem, backend):
    function, inputs = as_function(small(make_problem), backend, return_attention=False)
    assert gradgradcheck(function, inputs)


def test_third_derivatives(make_problem, backend):
    problem = small(make_problem)

    def gradient(image, words):
        out = problem.with_inputs([image, words, *problem.weights.values()]).run(backend)
        return torch.autograd.grad(out.square().sum(), (image, words), create_graph=True)

    assert gradgradcheck(gradient, (problem.image, problem.words), fast_mode=True)


def test_second_derivatives_where_one_input_is_computed_from_another(make_problem, backend):
    """The gradient of the image must not count the path through words that were computed from it twice."""
    problem = small(make_problem)

    def function(image, key_weight):
        words = (image.flatten(1)[:, None, :3] * torch.arange(1.0, 5.0, dtype=image.dtype)[:, None]).sin()
        weights = {**problem.weights, "key_weight": key_weight, "value_weight": key_weight * 2}
        return problem.with_inputs([image, words, *weights.values()]).run(backend)

    inputs = (problem.image, problem.weights["key_weight"])
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)
    loss = function(*inputs).square().sum()
    for found, expected in zip(
        torch.autograd.grad(loss, inputs, create_graph=True), torch.autograd.grad(loss, inputs), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("used", ["out", "attention", "both"])
def test_either_output_alone_has_the_gradients_of_the_specification(make_problem, used, extension):
    gradients = {}
    for backend in ("eager", "cpu"):
        problem = make_problem(mask="partial", dtype=torch.float64).leaves()
        out, attention = problem.run(backend, return_attention=True)
        weighted = torch.linspace(-1, 1, attention[0].numel(), dtype=torch.float64).view_as(attention[0])
        terms = {"out": out.square().sum(), "attention": (attention * weighted).sum()}
        loss = sum(terms.values()) if used == "both" else terms[used]
        inputs = list(problem.inputs.values())
        gradients[backend] = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    for name, expected, found in zip(problem.inputs, gradients["eager"], gradients["cpu"], strict=True):
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_come_for_the_inputs_that_ask_and_no_others(make_problem, backend, create_graph):
    """Each input alone gets the gradient that it gets among all; the others get none."""
    problem = make_problem(mask="partial", dtype=torch.float64)
    everything = problem.leaves()
    everything.run(backend).square().sum().backward()
    for wanted, expected in everything.inputs.items():
        one = problem.leaves()
        for name, tensor in one.inputs.items():
            tensor.requires_grad_(name == wanted)
        loss = one.run(backend).square().sum()
        (found,) = torch.autograd.grad(loss, one.inputs[wanted], create_graph=create_graph, retain_graph=True)
        torch.testing.assert_close(found, expected.grad, msg=lambda text, name=wanted: f"{name}: {text}")
        loss.backward()
        assert all(tensor.grad is None for name, tensor in one.inputs.items() if name != wanted)


def test_the_operator_computes_only_the_gradients_that_are_needed(make_problem, extension):
    assert_only_needed_gradients(make_problem(mask="partial"), attention=False)


def test_the_operator_is_asked_only_for_the_gradients_that_are_needed(make_problem, extension):
    problem = make_problem()
    for i, wanted in enumerate(problem.inputs):
        one = problem.leaves()
        for name, tensor in one.inputs.items():
            tensor.requires_grad_(name == wanted)
        loss = one.run("cpu").sum()
        with CalledOperators() as called:
            loss.backward()
        *_, needs = called.arguments["kvmem::kv_memory_backward"]
        assert needs == 1 << i


def test_no_graph_is_built_where_nothing_asks_for_a_gradient(make_problem, backend):
    assert not make_problem().run(backend).requires_grad
    with torch.no_grad():
        assert not make_problem().leaves().run(backend).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(make_problem().run(backend), make_problem().run("eager"))
