"""What is timed on a GPU: the paper's shapes, the contenders, and the copies that bound them."""

from collections.abc import Callable
from itertools import product

import torch
from attention_composition import AttentionComposition
from cases import Case, check_agreement, make_layer

import kvmem

GPU_DIRECTIONS = ("forward", "backward", "forward + backward")
KERNELS = ("cuda", "triton")  # kvmem's backends of fused kernels
GPU_CONTENDERS = (*KERNELS, "eager", "compiled", "attention")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def case_name(batch: int, size: int, dtype: str) -> str:
    return f"B={batch}, {size}², {dtype}"


GPU_CASES = tuple(
    Case(case_name(batch, size, dtype), batch, 64, size, 18, 256, DTYPES[dtype], device="cuda")
    for dtype, size, batch in product(("bfloat16", "float16", "float32"), (128, 64), (1, 10, 32, 64))
)
# The shapes of the bars. max-autotune takes most of a minute to compile one: the others are measured without it.
MAIN, MAIN_FLOAT32, STAGE_TWO = (
    case_name(32, 128, "bfloat16"),
    case_name(32, 128, "float32"),
    case_name(10, 64, "bfloat16"),
)
COMPILED_CASES = (MAIN, MAIN_FLOAT32, STAGE_TWO)


def make_gpu_contenders(
    case: Case, direction: str, compiled: bool, kernels: tuple[str, ...] = KERNELS
) -> dict[str, Callable[[], object]]:
    """Name -> a function that runs the layer once on the same values.

    kernels are missing where their backend can't run, compiled where it isn't asked for or the direction is backward
    alone (its backward may overwrite what its forward kept). All have run once, and have compiled what they run, when
    this returns. Raises AssertionError where the contenders disagree.
    """
    torch.manual_seed(0)
    torch.compiler.reset()
    image, words = case.make_image(), case.make_words()
    grad_out = torch.randn_like(image)
    layers: dict[str, torch.nn.Module] = {"eager": make_layer(case, "eager")}
    layers["attention"] = AttentionComposition(make_layer(case, "eager"))
    if compiled and direction != "backward":
        # Without its own CUDA graphs: those are measured for every contender alike (gpu_graphs.py).
        layers["compiled"] = torch.compile(
            make_layer(case, "eager"), fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs"
        )
    statuses = kvmem.backends()
    running = [name for name in kernels if case.device == "cuda" and statuses[name].available]
    layers = {**{name: make_layer(case, name) for name in running}, **layers}
    inputs = [image.requires_grad_(direction != "forward"), words.requires_grad_(direction != "forward")]
    contenders = {name: _runner(layer, inputs, grad_out, direction) for name, layer in layers.items()}
    check_agreement(contenders, case.dtype)
    return contenders


def _runner(
    layer: torch.nn.Module, inputs: list[torch.Tensor], grad_out: torch.Tensor, direction: str
) -> Callable[[], object]:
    wanted = [*inputs, *layer.parameters()]

    def forward():
        with torch.no_grad():
            return (layer(*inputs),)

    def forward_and_backward():
        return torch.autograd.grad(layer(*inputs), wanted, grad_out)

    if direction == "backward":
        out = layer(*inputs)
        return lambda: torch.autograd.grad(out, wanted, grad_out, retain_graph=True)
    return forward if direction == "forward" else forward_and_backward


def make_bounds(case: Case) -> dict[str, Callable[[], object]]:
    """The least traffic, by direction: reading and writing an image; reading two and writing one; both."""
    image, other = case.make_image(), case.make_image()
    target = torch.empty_like(image)

    def copy():
        target.copy_(image)

    def add():
        torch.add(image, other, out=target)

    return {"forward": copy, "backward": add, "forward + backward": lambda: (copy(), add())}
