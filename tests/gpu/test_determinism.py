"""The same bits run after run, on any stream, in a CUDA graph, and whatever the memory held before."""

import kvmem_checks
import pytest
import torch
from kvmem_cluster_shapes import CLUSTER_SHAPES
from kvmem_problems import bits

SIZES = {
    "cluster": CLUSTER_SHAPES["1,640 positions"],
    "cluster, the paper's": CLUSTER_SHAPES["the paper's second stage"],
    "general": (3, 40, (40, 41), 50, 32),
    "large": (3, 80, (40, 41), 70, 32),
}


@pytest.fixture(params=SIZES)
def sizes(request):
    return SIZES[request.param]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_a_hundred_runs_do_not_change_a_bit(make_problem, kernels, sizes, channels_last, dtype):
    problem = make_problem(*sizes, mask="partial", dtype=dtype, channels_last=channels_last)
    expected = bits(problem, kernels)
    for _ in range(100):
        for found, reference in zip(bits(problem, kernels), expected, strict=True):
            assert torch.equal(found, reference)


@pytest.fixture
def poisoned_memory():
    """New tensors are filled with NaN, and so is the memory that the allocator holds."""
    with kvmem_checks.poisoned_memory():
        yield


@pytest.mark.parametrize("mask", ["none", "one image masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_is_read_before_it_is_written(make_problem, kernels, sizes, poisoned_memory, mask, dtype):
    problem = make_problem(*sizes, mask=mask, dtype=dtype)
    assert torch.empty(3, device="cuda").isnan().all()
    poisoned = bits(problem, kernels)
    torch.utils.deterministic.fill_uninitialized_memory = False
    # Freed memory is handed out again: big and small blocks full of NaN, then of numbers.
    for value in (float("nan"), 1e30):
        blocks = [torch.full((size,), value, device="cuda") for size in (2**24, *(64 * [2**12]))]
        del blocks
        for found, reference in zip(bits(problem, kernels), poisoned, strict=True):
            assert torch.equal(found, reference)


def forward_and_gradients(problem, grad, kernels):
    out = problem.run(kernels)
    return [out, *torch.autograd.grad(out, list(problem.inputs.values()), grad)]


def test_work_goes_to_the_current_stream(make_problem, kernels, sizes):
    """The image is written late on a stream of its own: kernels on any other stream would not wait for it."""
    problem = make_problem(*sizes, mask="partial").leaves()
    grad = torch.randn_like(problem.image)
    expected = forward_and_gradients(problem, grad, kernels)
    late = problem.with_inputs([torch.zeros_like(problem.image), *list(problem.inputs.values())[1:]]).leaves()
    late_grad = torch.zeros_like(grad)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # Once before, so that nothing has to be allocated or loaded the second time.
        forward_and_gradients(late, late_grad, kernels)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            late.image.copy_(problem.image)
            late_grad.copy_(grad)
        found = forward_and_gradients(late, late_grad, kernels)
        # The host did not wait for the device.
        assert not stream.query()
    stream.synchronize()
    for result, reference in zip(found, expected, strict=True):
        assert torch.equal(result, reference)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are needed")
def test_any_device_while_another_is_current(make_problem, kernels, sizes):
    problem = make_problem(*sizes, mask="partial")
    assert torch.cuda.current_device() == 0
    for found, reference in zip(bits(problem.on("cuda:1"), kernels), bits(problem, kernels), strict=True):
        assert found.device == torch.device("cuda:1")
        assert torch.equal(found.to("cuda:0"), reference)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_cuda_graph_replays_to_the_same_bits(make_problem, kernels, sizes, dtype):
    """Captured on one image, replayed on others, forward and backward, against the direct call."""
    problem = make_problem(*sizes, mask="partial", dtype=dtype).leaves()
    grad = torch.randn_like(problem.image)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        forward_and_gradients(problem, grad, kernels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_gradients(problem, grad, kernels)
    for seed in (1, 2):
        generator = torch.Generator("cuda").manual_seed(seed)
        with torch.no_grad():
            problem.image.normal_(generator=generator)
            problem.words.normal_(generator=generator)
        graph.replay()
        for found, reference in zip(captured, forward_and_gradients(problem, grad, kernels), strict=True):
            assert torch.equal(found, reference)
