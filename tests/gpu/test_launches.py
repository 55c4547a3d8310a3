"""Which kernels run, and how many: the choice of the backend, of its path, and the launches of a call."""

import pytest
import torch
from kvmem_cluster_shapes import CLUSTER_SHAPES
from kvmem_problems import NAMESPACES, WIDE, CalledOperators

import kvmem

STAGES = {"stage two": (10, 64, (64, 64), 18, 256, 128), "stage three": (4, 64, (128, 128), 18, 256, 128)}
MOST_BACKWARD_LAUNCHES = 4
TRITON_FORWARD = ["kv_memory_write", "kv_memory_read"]
TRITON_BACKWARD = ["kv_memory_read_backward", "kv_memory_write_backward", "kv_memory_parameters_backward"]


def directions(problem, backend="cuda"):
    """Functions that run forward and backward on the same problem."""
    problem = problem.leaves()
    out = problem.run(backend)
    grad = torch.randn_like(out)
    inputs = list(problem.inputs.values())

    def forward():
        with torch.no_grad():
            return problem.run(backend)

    return forward, lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_papers_shapes_take_one_launch_forward_and_at_most_four_backward(
    hopper, make_problem, launches, stage, channels_last, dtype
):
    problem = make_problem(*STAGES[stage], mask="partial", dtype=dtype, channels_last=channels_last)
    forward, backward = directions(problem)
    names = launches(forward)
    assert len(names) == 1 and "cluster_forward" in names[0], names
    names = launches(backward)
    assert 1 <= len(names) <= MOST_BACKWARD_LAUNCHES, names
    assert any("cluster_backward" in name for name in names), names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("words", WIDE.values(), ids=WIDE)
def test_autocast_launches_nothing_more(hopper, make_problem, launches, words, dtype):
    """Words and weights in float32 beside an image of 16 bits: no cast, one launch forward, and backward as without."""
    narrow = make_problem(*STAGES["stage two"], dtype=dtype)
    wide = narrow.widened(words)

    def under_autocast(function):
        with torch.autocast("cuda", dtype):
            return function()

    for backend, forward_launches in (("cuda", 1), ("triton", 2)):
        forward, backward = directions(wide, backend)
        assert len(launches(lambda forward=forward: under_autocast(forward))) == forward_launches
        assert len(launches(backward)) == len(launches(directions(narrow, backend)[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", CLUSTER_SHAPES)
def test_shapes_that_are_meant_for_clusters_take_them(hopper, make_problem, launches, shape, channels_last, dtype):
    """Few positions too, for which a cluster is one block."""
    forward, backward = directions(make_problem(*CLUSTER_SHAPES[shape], dtype=dtype, channels_last=channels_last))
    for names in (launches(forward), launches(backward)):
        assert any("cluster_" in name for name in names) and not any("general_" in name for name in names), names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_papers_shapes_take_two_launches_of_triton_forward_and_three_backward(
    triton_kernels, make_problem, launches, stage, channels_last, dtype
):
    problem = make_problem(*STAGES[stage], mask="partial", dtype=dtype, channels_last=channels_last)
    forward, backward = directions(problem, "triton")
    assert launches(forward) == TRITON_FORWARD
    assert launches(backward) == TRITON_BACKWARD


@pytest.mark.parametrize(
    "channels, slots, response_gate_width, dtype, tuned",
    [
        (64, 32, "scalar", torch.float32, True),
        (64, 33, "scalar", torch.bfloat16, False),
        (13, 18, "scalar", torch.bfloat16, True),
        (65, 18, "scalar", torch.float32, False),
        (64, 32, "vector", torch.bfloat16, True),
        (64, 32, "vector", torch.float32, False),
        (65, 18, "vector", torch.bfloat16, False),
    ],
)
def test_triton_takes_its_tuned_kernels_up_to_64_channels_and_32_slots(
    triton_kernels, make_problem, launches, channels, slots, response_gate_width, dtype, tuned
):
    """Of vector gates only those of 16 bits, on compute capability 9.x."""
    if response_gate_width == "vector":
        tuned = tuned and torch.cuda.get_device_capability()[0] == 9
    problem = make_problem(2, channels, (16, 16), slots, response_gate_width=response_gate_width, dtype=dtype)
    forward, backward = directions(problem, "triton")
    names = launches(forward)
    assert (names == TRITON_FORWARD) == tuned, names
    assert ("kv_memory_tables" in names) != tuned, names
    names = launches(backward)
    assert (names == TRITON_BACKWARD) == tuned, names
    assert ("kv_memory_sums_backward" in names) != tuned, names


def test_the_general_path_can_be_forced(make_problem, path, launches):
    forward, backward = directions(make_problem(2, 64, (16, 16), 18))
    names = launches(forward) + launches(backward)
    general = [name for name in names if "general_" in name]
    cluster = [name for name in names if "cluster_" in name]
    if path == "general" or torch.cuda.get_device_capability()[0] < 9:
        assert general and not cluster, names
    else:
        assert cluster and not general, names


@pytest.mark.parametrize(
    "settings",
    [{"channels": 63}, {"channels": 64, "slots": 32}, {"channels": 64, "response_gate_width": "vector"}],
    ids=str,
)
def test_other_shapes_take_the_general_path(cuda_kernels, make_problem, launches, settings):
    forward, backward = directions(make_problem(**settings))
    assert any("general_forward" in name for name in launches(forward))
    assert any("general_backward" in name for name in launches(backward))


def test_an_unknown_path_is_refused(cuda_kernels):
    with pytest.raises(RuntimeError, match="path 'fast' doesn't exist; expected auto or general"):
        torch.ops.kvmem.cuda_path("fast")


def assert_layer_reaches(backend):
    """A layer that isn't told its backend runs the operators of this one, and nothing in their place."""
    layer = kvmem.KVMemoryLayer(64, 256).cuda()
    image, words = torch.randn(2, 64, 8, 8, device="cuda", requires_grad=True), torch.randn(2, 18, 256, device="cuda")
    with CalledOperators() as called:
        layer(image, words).sum().backward()
    operators = [f"{NAMESPACES[backend]}::kv_memory", f"{NAMESPACES[backend]}::kv_memory_backward"]
    assert [name for name in called.names if name.startswith("kvmem")] == operators
    assert not any(name.startswith(("aten::bmm", "aten::_softmax", "aten::addmm")) for name in called.names)


def test_the_layer_picks_the_kernels_by_itself(monkeypatch):
    """CUDA's where they can run, Triton's elsewhere."""
    monkeypatch.delenv("KVMEM_BACKEND", raising=False)
    statuses = kvmem.backends()
    assert_layer_reaches("cuda" if statuses["cuda"].available else "triton")


def test_the_environment_picks_the_kernels(backend, monkeypatch):
    monkeypatch.setenv("KVMEM_BACKEND", backend)
    assert_layer_reaches(backend)


def test_the_status_names_the_gpu(backend):
    status = kvmem.backends()[backend]
    assert status.available and torch.cuda.get_device_name() in status.reason
    assert backend != "cuda" or "sm_" in status.reason


@pytest.mark.parametrize("settings", [{"slots": 129}, {"channels": 513}, {"dtype": torch.float64}], ids=str)
def test_calls_beyond_the_kernels_run_eager_unless_they_were_asked_for(make_problem, backend, namespace, settings):
    problem = make_problem(memory_channels=8, **settings)
    with CalledOperators() as called:
        out = problem.run()
    assert not any(name.startswith("kvmem") for name in called.names)
    assert torch.equal(out, problem.run("eager"))
    with pytest.raises(RuntimeError, match=f"backend '{backend}' can't run this call: its kernels don't take"):
        problem.run(backend)
    if backend == "cuda":
        with pytest.raises(RuntimeError, match="kvmem: the CUDA kernels take"):
            torch.ops.kvmem.kv_memory(*problem.operator_arguments())


def test_tensors_of_the_cpu_are_refused(make_problem, backend):
    problem = make_problem()
    with pytest.raises(RuntimeError, match=f"backend '{backend}' runs on cuda tensors: image is on device 'cpu'"):
        problem.on("cpu").run(backend)
    with pytest.raises(ValueError, match="words: got device cpu, expected cuda:0 as in image"):
        problem.with_inputs([problem.image, problem.words.cpu(), *problem.weights.values()]).run()
