"""`memory_read` on the CPU, beside what others make of it: torch's attention, the layer itself, a loop, differences."""

from itertools import product

import pytest
import torch
from kvmem_accuracy import DTYPES, FORMATS, MASKS, assert_accurate
from kvmem_checks import poisoned_memory
from kvmem_framework import assert_reading_under_autocast_casts_nothing, recording_backend
from kvmem_problems import LAYOUTS, CalledOperators, SavedTensors, make_problem
from kvmem_read_problems import GATES, make_read_problem
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import linear, scaled_dot_product_attention

import kvmem

# batch, channels, (height, width), slots
SHAPES = {
    "odd N": (2, 16, (5, 7), 6),
    "N=1": (3, 16, (1, 1), 5),
    "T=1": (2, 16, (4, 6), 1),
    "T=128": (2, 32, (7, 9), 128),
    "C=13": (2, 13, (6, 5), 7),
    "C=200": (2, 200, (6, 7), 77),
    "two chunks": (1, 64, (36, 36), 18),
}
NAMES = ("kvmem::memory_read", "kvmem::memory_read_backward")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_accuracy_over_gates_masks_and_formats(extension, shape, dtype):
    variants = [
        {"gate": gate, "mask": mask, "channels_last": channels_last}
        for (gate, mask), channels_last in product(zip((*GATES, "none"), MASKS, strict=True), FORMATS)
    ]
    assert_accurate(make_read_problem, *shape, dtype=dtype, variants=variants, backend="cpu")


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype, gate):
    variants = [{"gate": gate, "mask": "one image masked", "channels_last": last} for last in FORMATS]
    for shape in ("odd N", "T=128", "C=13"):
        assert_accurate(make_read_problem, *SHAPES[shape], dtype=dtype, variants=variants, backend="cpu")


def torch_attention(image: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The reading without a gate by torch's own attention, scores not divided by √C."""
    queries = image.flatten(2).mT
    mask = None if mask is None else mask[:, None, :]
    return scaled_dot_product_attention(queries, keys, values, mask, scale=1.0).mT.unflatten(2, image.shape[2:])


@pytest.mark.parametrize("mask", ["none", "partial"])
def test_without_a_gate_it_is_torchs_attention(backend, mask):
    """Response and every gradient."""
    problem = make_read_problem(3, 8, (4, 5), 7, gate="none", mask=mask, dtype=torch.float64).leaves()
    found, expected = problem.run(backend), torch_attention(problem.image, problem.keys, problem.values, problem.mask)
    torch.testing.assert_close(found, expected)
    upstream, inputs = torch.randn_like(found), list(problem.inputs.values())
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("width", ["scalar", "vector"])
def test_the_memory_that_the_layer_writes(backend, width):
    """Read by itself, it gives the layer's response and attention."""
    problem = make_problem(mask="partial", response_gate_width=width, dtype=torch.float64)
    w = problem.weights
    mean = problem.image.flatten(2).mean(2)[:, None]
    gate = (linear(problem.words, w["gate_word"]) + linear(mean, w["gate_image"])).sigmoid()
    of_words = linear(problem.words, w["write_word_weight"], w["write_word_bias"]).relu()
    of_image = linear(mean, w["write_image_weight"], w["write_image_bias"]).relu()
    memory = gate * of_words + (1 - gate) * of_image
    keys, values = (linear(memory, w[f"{name}_weight"], w[f"{name}_bias"]).relu() for name in ("key", "value"))
    gate = {name: w[name] for name in ("response_gate_weight", "response_gate_bias")}
    found = kvmem.memory_read(problem.image, keys, values, problem.mask, **gate, return_attention=True, backend=backend)
    for mine, theirs in zip(found, problem.run(backend, return_attention=True), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("gate", GATES)
def test_a_loop_over_positions(backend, gate):
    problem = make_read_problem(2, 4, (2, 3), 5, gate=gate, mask="partial", dtype=torch.float64)
    out, attention = problem.run(backend, return_attention=True)
    for b, y, x in product(range(2), range(2), range(3)):
        h, held = problem.image[b, :, y, x], problem.mask[b]
        alpha = torch.zeros(5, dtype=torch.float64)
        alpha[held] = (problem.keys[b, held] @ h).softmax(0)
        o = alpha @ problem.values[b]
        if problem.gate:
            weight, bias = problem.gate.values()
            gamma = (weight @ torch.cat((h, o)) + bias).sigmoid()
            o = (1 - gamma) * h + gamma * o
        torch.testing.assert_close(out[b, :, y, x], o)
        torch.testing.assert_close(attention[b, :, y, x], alpha)


@pytest.mark.parametrize("gate", GATES)
def test_derivatives_equal_finite_differences(backend, gate):
    """First and second ones, of response and attention."""
    problem = make_read_problem(2, 3, (2, 2), 4, gate=gate, mask="one image masked", dtype=torch.float64).leaves()

    def call(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return problem.with_inputs(inputs).run(backend, return_attention=True)

    inputs = tuple(problem.inputs.values())
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


@pytest.mark.parametrize("gate", GATES)
def test_forward_mode_and_vmap(backend, gate):
    """jvp beside differences, vmap and vmap(grad) beside loops: by way of the eager form for the kernels."""
    problem = make_read_problem(2, 3, (2, 2), 4, gate=gate, mask="partial", dtype=torch.float64)
    inputs = tuple(problem.inputs.values())

    def call(*inputs: Tensor) -> Tensor:
        return problem.with_inputs(inputs).run(backend)

    tangents = tuple(torch.randn_like(one) for one in inputs)
    _, tangent = torch.func.jvp(call, inputs, tangents)
    step = 1e-6
    ahead, behind = (call(*(x + s * t for x, t in zip(inputs, tangents, strict=True))) for s in (step, -step))
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)

    images = torch.randn(3, *problem.image.shape, dtype=torch.float64)
    rest = inputs[1:]
    loss = lambda image: call(image, *rest).square().sum()  # noqa: E731
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(loss))(images), torch.stack([torch.func.grad(loss)(one) for one in images])
    )


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("attention", [False, True])
def test_the_kernels_run_once_each_way(extension, gate, attention):
    problem = make_read_problem(gate=gate).leaves()
    with CalledOperators() as called:
        outputs = problem.run(return_attention=attention)
        torch.autograd.grad((outputs[0] if attention else outputs).sum(), list(problem.inputs.values()))
    assert [name for name in called.names if name.startswith("kvmem")] == list(NAMES)


@pytest.mark.parametrize("gate", GATES)
def test_only_needed_gradients(extension, gate):
    """A gradient that nobody asked for comes back empty; the others don't change by a bit."""
    problem = make_read_problem(gate=gate, mask="partial")
    *tensors, _ = problem.operator_arguments()
    out, attention, *kept = torch.ops.kvmem.memory_read(*tensors, True)
    count = len(problem.inputs)

    def gradients(needs: int) -> tuple[Tensor, ...]:
        return torch.ops.kvmem.memory_read_backward(out, attention, *tensors, *kept, needs)

    everything = gradients(2**count - 1)
    for needs in range(2**count):
        for i, (found, expected) in enumerate(zip(gradients(needs), everything, strict=True)):
            assert torch.equal(found, expected) if needs >> i & 1 else found.shape == (0,), (needs, i)


@pytest.mark.parametrize("gate", GATES)
def test_nothing_is_read_before_it_is_written(extension, gate):
    """New memory is NaN here, and so is what stands in slots that hold nothing."""
    for last in FORMATS:
        problem = make_read_problem(gate=gate, mask="one image masked", channels_last=last, dtype=torch.float64)
        expected = problem.run("plain")
        with torch.no_grad():
            problem.keys[~problem.mask] = problem.values[~problem.mask] = float("nan")
        problem = problem.leaves()
        with poisoned_memory():
            out, attention = problem.run("cpu", return_attention=True)
            gradients = torch.autograd.grad(out.sum() + attention.sum(), list(problem.inputs.values()))
        torch.testing.assert_close(out, expected)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert not gradients[1][~problem.mask].any() and not gradients[2][~problem.mask].any()


def test_what_stands_in_a_masked_slot_does_not_matter(backend):
    problem = make_read_problem(2, 4, mask="one image masked", dtype=torch.float64)
    expected = problem.run(backend, return_attention=True)
    problem.keys[~problem.mask], problem.values[~problem.mask] = float("nan"), float("inf")
    for mine, theirs in zip(problem.run(backend, return_attention=True), expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("gate", GATES)
def test_the_same_bits_for_any_number_of_threads(extension, gate):
    problem = make_read_problem(3, 24, (40, 40), 9, gate=gate, mask="partial").leaves()
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        out, attention = problem.run("cpu", return_attention=True)
        found.append([out, *torch.autograd.grad(out.sum() + attention.square().sum(), list(problem.inputs.values()))])
    torch.set_num_threads(before)
    assert all(torch.equal(mine, theirs) for one in found[1:] for mine, theirs in zip(one, found[0], strict=True))


def test_nothing_is_kept_for_backward(extension):
    problem = make_read_problem(2, 16, (16, 16), 12).leaves()
    with SavedTensors(list(problem.inputs.values())) as saved:
        problem.run("cpu", return_attention=True)
    assert saved.bytes == 0


@pytest.mark.parametrize("gate", GATES)
def test_shared_memory(backend, gate):
    """Keys, values and mask of all images: as if each image had them, and gradients are summed over the images."""
    problem = make_read_problem(3, 8, gate=gate, mask="partial", dtype=torch.float64)
    keys, values, mask = (one[0].clone() for one in (problem.keys, problem.values, problem.mask))
    shared = [one.requires_grad_() for one in (keys, values)]
    own = [one.detach().expand(3, -1, -1).clone().requires_grad_() for one in shared]
    found = kvmem.memory_read(problem.image, *shared, mask, **problem.gate, backend=backend)
    expected = kvmem.memory_read(problem.image, *own, mask.repeat(3, 1), **problem.gate, backend=backend)
    assert torch.equal(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), shared),
        torch.autograd.grad(expected.square().sum(), own),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs.sum(0))


@pytest.mark.parametrize("gate", GATES)
def test_no_entry_at_all(backend, gate):
    """No slot, or none that holds an entry: o is zero."""
    problem = make_read_problem(2, 4, gate=gate, mask="all masked", dtype=torch.float64).leaves()
    out, attention = problem.run(backend, return_attention=True)
    empty = (problem.keys[:, :0], problem.values[:, :0])
    none = kvmem.memory_read(problem.image, *empty, **problem.gate, backend=backend)
    assert not attention.any()
    torch.testing.assert_close(out, none)
    if gate == "none":
        assert not out.any()
    gradients = torch.autograd.grad(none.sum(), problem.image) + torch.autograd.grad(out.sum(), problem.image)
    torch.testing.assert_close(*gradients)


def test_no_image_at_all(backend):
    problem = make_read_problem(2, 4)
    problem = problem.with_inputs([problem.image[:0], problem.keys[:0], problem.values[:0], *problem.gate.values()])
    problem = problem.leaves()
    out = problem.run(backend)
    assert out.shape == problem.image.shape
    gradients = torch.autograd.grad(out.sum(), list(problem.inputs.values()))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_strides(extension, layout):
    problem = make_read_problem(2, 8, (4, 6), gate="vector", dtype=torch.float64)
    image = layout(problem.image)
    moved = problem.with_inputs([image, *list(problem.inputs.values())[1:]]).leaves()
    dense = problem.with_inputs([image.contiguous(), *list(problem.inputs.values())[1:]]).leaves()
    found, expected = moved.run("cpu"), dense.run("cpu")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), moved.image),
        torch.autograd.grad(expected.square().sum(), dense.image),
    )


@pytest.mark.parametrize("spatial", [(35,), (5, 7), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("channel_dim", [1, -1])
def test_layouts(backend, channel_dim, spatial):
    """Tokens, images, video, channels first or last: the results of an image of one row."""
    tokens = torch.randn(2, *spatial, 8, generator=torch.Generator().manual_seed(0))
    problem = make_read_problem(2, 8, (1, 1), gate="scalar", mask="partial")
    arguments = {**problem.gate, "return_attention": True, "backend": backend}
    slots = (problem.keys, problem.values, problem.mask)
    out, attention = kvmem.memory_read(tokens.flatten(1, -2).mT.unsqueeze(2).contiguous(), *slots, **arguments)
    features = tokens if channel_dim == -1 else tokens.movedim(-1, 1).contiguous()
    found, maps = kvmem.memory_read(features, *slots, **arguments, channel_dim=channel_dim)
    found = found.movedim(1, -1) if channel_dim == 1 else found
    torch.testing.assert_close(found.flatten(1, -2), out.squeeze(2).mT)
    assert found.shape == tokens.shape and maps.shape == (2, 6, *spatial)
    torch.testing.assert_close(maps.flatten(2), attention.squeeze(2))


@pytest.mark.parametrize("gate", GATES)
def test_opcheck(extension, gate):
    """Schemas, fake kernels and autograd of both operators."""
    for dtype, last in product((torch.float32, torch.bfloat16), FORMATS):
        problem = make_read_problem(gate=gate, mask="partial", dtype=dtype, channels_last=last).leaves()
        torch.library.opcheck(torch.ops.kvmem.memory_read.default, problem.operator_arguments(True))
        *tensors, _ = (one.detach() if isinstance(one, Tensor) else one for one in problem.operator_arguments())
        out, attention, *kept = torch.ops.kvmem.memory_read(*tensors, True)
        for needs in (2 ** len(problem.inputs) - 1, 0b100):
            torch.library.opcheck(
                torch.ops.kvmem.memory_read_backward.default, (out, attention, *tensors, *kept, needs)
            )


@pytest.mark.parametrize("gate", GATES)
def test_compile_is_one_graph_and_fused(backend, gate, fresh_compiler):
    problem = make_read_problem(gate=gate, mask="partial").leaves()

    def call(*inputs: Tensor) -> Tensor:
        return problem.with_inputs(inputs).run(backend)

    recording, graphs = recording_backend()
    compiled, inputs = torch.compile(call, backend=recording, fullgraph=True), list(problem.inputs.values())
    expected = torch.autograd.grad(call(*inputs).square().sum(), inputs)
    found = torch.autograd.grad(compiled(*inputs).square().sum(), inputs)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    for graph, name in zip(graphs, ("kvmem.memory_read.default", "kvmem.memory_read_backward.default"), strict=True):
        assert (name in graph) == (backend == "cpu")
        assert any("softmax" in target for target in graph) == (backend == "eager")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(backend, dtype):
    assert_reading_under_autocast_casts_nothing(backend, dtype)


BAD = {
    "image of rank 2": ({"image": lambda p: p.image[0, 0]}, ValueError, "image: got shape .* at least 3 dimensions"),
    "keys of other channels": (
        {"keys": lambda p: p.keys[..., :9]},
        ValueError,
        r"keys: got shape \(2, 6, 9\), expected \(2, 6, 16\)",
    ),
    "values of other slots": (
        {"values": lambda p: p.values[:, 1:]},
        ValueError,
        r"values: got shape \(2, 5, 16\), expected \(2, 6, 16\)",
    ),
    "keys of another batch": (
        {"keys": lambda p: p.keys[:1]},
        ValueError,
        r"keys: got shape \(1, 6, 16\), expected \(2, 6, 16\)",
    ),
    "keys of rank 4": ({"keys": lambda p: p.keys[None]}, ValueError, r"keys: got shape .*, expected \(B, T, C\), or"),
    "values of rank 1": ({"values": lambda p: p.values[0, 0]}, ValueError, r"values: got shape \(16,\), expected"),
    "keys of another dtype": ({"keys": lambda p: p.keys.half()}, TypeError, "keys: got dtype torch.float16"),
    "values elsewhere": ({"values": lambda p: p.values.to("meta")}, ValueError, "values: got device meta"),
    "keys that are a list": ({"keys": lambda p: p.keys.tolist()}, TypeError, "keys: got list, expected a Tensor"),
    "mask of integers": ({"mask": lambda p: p.mask.long()}, TypeError, "mask: got dtype torch.int64"),
    "mask of other slots": ({"mask": lambda p: p.mask[:, 1:]}, ValueError, r"mask: got shape \(2, 5\)"),
    "mask of rank 3": ({"mask": lambda p: p.mask[None]}, ValueError, r"mask: got shape .*, expected \(B, T\), or"),
    "mask that is a list": ({"mask": lambda p: p.mask.tolist()}, TypeError, "mask: got list"),
    "a weight without a bias": (
        {"response_gate_bias": lambda p: None},
        ValueError,
        "response_gate_bias: got None, expected a Tensor",
    ),
    "a bias without a weight": (
        {"response_gate_weight": lambda p: None},
        ValueError,
        "response_gate_weight: got None, expected a Tensor",
    ),
    "a gate of two rows": (
        {"response_gate_weight": lambda p: p.gate["response_gate_weight"].repeat(2, 1)},
        ValueError,
        "response_gate_weight: got 2 rows, expected 1 .* or 16",
    ),
    "another channel_dim": ({"channel_dim": lambda p: 2}, ValueError, "channel_dim: got 2, expected 1"),
    "an unknown backend": ({"backend": lambda p: "tpu"}, ValueError, "backend: got 'tpu'"),
}


@pytest.mark.parametrize("changes, error, message", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_one_line(changes, error, message):
    problem = make_read_problem(mask="partial")
    arguments = {"image": problem.image, "keys": problem.keys, "values": problem.values, "mask": problem.mask}
    arguments.update(problem.gate, **{name: change(problem) for name, change in changes.items()})
    with pytest.raises(error, match=f"^{message}") as caught:
        kvmem.memory_read(**arguments)
    assert "\n" not in str(caught.value)
