"""Words and weights in float32 beside an image of 16 bits, as under autocast: nothing is cast, nothing is rounded."""

import pytest
import torch
from kvmem_accuracy import SHAPES, assert_accurate, results
from kvmem_problems import WIDE, CalledOperators, make_problem, widening
from kvmem_read_problems import make_read_problem

import kvmem

HALVES = [torch.bfloat16, torch.float16]


def gradients(problem, outputs):
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outputs]
    found = torch.autograd.grad(outputs, list(problem.inputs.values()), grads)
    return dict(zip(problem.inputs, found, strict=True))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("wide", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("shape", ["odd N", "C=13"])
def test_accuracy(isa, shape, wide, dtype):
    variants = [
        {"mask": "one image masked", "channels_last": channels_last, "write_gate_width": width, **options}
        for channels_last, width, options in (
            (False, "scalar", {"response_gate_width": "vector"}),
            (True, "vector", {"response_gate_width": "scalar"}),
        )
    ]
    assert_accurate(widening(make_problem, wide), *SHAPES[shape], dtype=dtype, variants=variants, backend="cpu")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("wide", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("gate", ["none", "scalar", "vector"])
def test_accuracy_of_reading(isa, gate, wide, dtype):
    variants = [{"mask": "one image masked", "gate": gate, "channels_last": last} for last in (False, True)]
    assert_accurate(widening(make_read_problem, wide), dtype=dtype, variants=variants, backend="cpu")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("make", [make_problem, make_read_problem])
def test_the_same_values_in_either_type_give_the_same_bits(extension, make, dtype):
    """The kernels compute in float32 anyway: only what is stored in 16 bits is rounded to them."""
    problem = make(mask="one image masked", dtype=dtype).leaves()
    expected = problem.run("cpu", return_attention=True)
    narrow = gradients(problem, expected)
    for wide in WIDE.values():
        other = problem.widened(wide).leaves()
        found = other.run("cpu", return_attention=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
        for name, gradient in gradients(other, found).items():
            assert gradient.dtype == other.inputs[name].dtype
            assert torch.equal(gradient.to(dtype), narrow[name])
            # Each of the many numbers has digits that 16 bits don't hold, if it is stored in float32.
            if gradient.dtype == torch.float32 and gradient.numel() > 20:
                assert not torch.equal(gradient.to(dtype).float(), gradient)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("make", [make_problem, make_read_problem])
def test_parameters_are_read_as_they_are(isa, make, dtype):
    """A form that rounds words and weights first errs by more than the kernels do, where these multiply in float32."""
    if isa == "avx512_bf16" and dtype == torch.bfloat16:
        pytest.skip("rounds the factors of its products: test_accuracy says by how much")
    problem = make(2, 16, (9, 9), 6, dtype=torch.float32).with_image_in(dtype)
    shape = (2, problem.slots, 9, 9)
    grads = [torch.ones_like(problem.image), torch.ones(shape, dtype=dtype)]
    exact = results(problem.to(torch.float64), "eager", True, grads)
    mine, rounding = results(problem, "cpu", True, grads), results(problem.to(dtype), "eager", True, grads)

    def error(found, name):
        return (found[name].double() - exact[name]).square().mean().sqrt()

    # Outputs and the image's gradient are rounded to 16 bits by both.
    for name in set(exact) - {"out", "attention", "gradient of image"}:
        assert error(mine, name) < error(rounding, name) / 3, name


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("make", [make_problem, make_read_problem])
def test_nothing_is_copied(extension, make, dtype):
    """The operator reads the caller's tensors: no other operator runs but those that make the outputs."""
    problem = make(dtype=torch.float32).with_image_in(dtype).leaves()
    with CalledOperators() as called:
        out = problem.run("cpu")
        torch.autograd.grad(out, list(problem.inputs.values()), torch.ones_like(out))
    copies = {"aten::_to_copy", "aten::copy_", "aten::to", "aten::clone"}
    assert not copies & set(called.names), called.names


@pytest.mark.parametrize("make", [make_problem, make_read_problem])
def test_second_derivatives(backend, make):
    """Of either form, in float32 arithmetic: those of the same values in float32."""
    problem = make(mask="partial", dtype=torch.bfloat16).widened().leaves()

    def second(problem):
        inputs = list(problem.inputs.values())
        out = problem.run(backend).float()
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(gradient.float().square().sum() for gradient in first[1:]), inputs)

    for found, exact in zip(second(problem), second(problem.to(torch.float32).leaves()), strict=True):
        torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("make", [make_problem, make_read_problem])
def test_compiled(extension, make, fresh_compiler):
    problem = make(mask="partial", dtype=torch.bfloat16).widened().leaves()

    def call(*inputs):
        return problem.with_inputs(list(inputs)).run("cpu")

    inputs = list(problem.inputs.values())
    out = torch.compile(call, backend="aot_eager", fullgraph=True)(*inputs)
    found = torch.autograd.grad(out.float().sum(), inputs)
    expected = torch.autograd.grad(call(*inputs).float().sum(), inputs)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("make", [make_problem, make_read_problem])
def test_opcheck(extension, make):
    problem = make(mask="partial", dtype=torch.bfloat16).widened().leaves()
    operator = torch.ops.kvmem.kv_memory if make is make_problem else torch.ops.kvmem.memory_read
    torch.library.opcheck(operator.default, problem.operator_arguments())


def test_under_torch_func(extension):
    problem = make_problem(dtype=torch.bfloat16).widened()
    image, *others = problem.inputs.values()

    def loss(image, *others):
        return problem.with_inputs([image, *others]).run("cpu").float().square().sum()

    found = torch.func.grad(loss, argnums=tuple(range(len(others) + 1)))(image, *others)
    leaves = problem.leaves()
    expected = torch.autograd.grad(loss(*leaves.inputs.values()), list(leaves.inputs.values()))
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)
    images = torch.stack((image, -image))
    batched = torch.vmap(loss, in_dims=(0, *(None for _ in others)))(images, *others)
    torch.testing.assert_close(batched, torch.stack([loss(one, *others) for one in images]))


REFUSED = {
    "float32 words beside weights of 16 bits": (
        lambda p: [p.image, p.words.float(), *p.weights.values()],
        "words: got dtype torch.float32, expected torch.bfloat16 as in image$",
    ),
    "weights of two types": (
        lambda p: [p.image, p.words, *(w.float() if w.dim() == 2 else w for w in p.weights.values())],
        "write_word_bias: got dtype torch.bfloat16, expected torch.float32 as in gate_word",
    ),
    "the other type of 16 bits": (
        lambda p: [p.image, p.words, *(w.half() for w in p.weights.values())],
        "gate_word: got dtype torch.float16, expected torch.bfloat16 as in image, or torch.float32",
    ),
    "weights of 16 bits beside a float32 image": (
        lambda p: [p.image.float(), p.words.float(), *p.weights.values()],
        "gate_word: got dtype torch.bfloat16, expected torch.float32 as in image$",
    ),
    "float32 weights beside a float64 image": (
        lambda p: [p.image.double(), p.words.double(), *(w.float() for w in p.weights.values())],
        "gate_word: got dtype torch.float32, expected torch.float64 as in image$",
    ),
}


@pytest.mark.parametrize("make_inputs, message", REFUSED.values(), ids=REFUSED)
def test_other_mixtures_are_refused(backend, make_inputs, message):
    problem = make_problem(dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=message):
        problem.with_inputs(make_inputs(problem)).run(backend)


@pytest.mark.parametrize("name", ["values", "response_gate_bias"])
def test_other_mixtures_of_reading_are_refused(backend, name):
    problem = make_read_problem(dtype=torch.bfloat16).widened()
    inputs = [tensor.bfloat16() if key == name else tensor for key, tensor in problem.inputs.items()]
    with pytest.raises(TypeError, match=f"{name}: got dtype torch.bfloat16, expected torch.float32 as in"):
        problem.with_inputs(inputs).run(backend)


@pytest.mark.parametrize("case", ["float32 words beside weights of 16 bits", "weights of two types"])
def test_the_operator_refuses_what_it_would_misread(extension, case):
    """Called from elsewhere, without the checks of kvmem.kv_memory."""
    problem = make_problem(dtype=torch.bfloat16)
    torch.ops.kvmem.kv_memory(*problem.operator_arguments())
    arguments = problem.with_inputs(REFUSED[case][0](problem)).operator_arguments()
    with pytest.raises(RuntimeError, match="wrong shape, type or device"):
        torch.ops.kvmem.kv_memory(*arguments)


@pytest.mark.parametrize("words", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_in_float32_under_autocast(backend, words):
    """Words as an encoder gives them under autocast or outside: both are read as they are."""
    layer = kvmem.KVMemoryLayer(16, 12, backend=backend)
    problem = make_problem(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(problem.image, problem.words.to(words))
    expected = layer(problem.image, problem.words.to(words))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
