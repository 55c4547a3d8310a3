"""The Triton kernels with words and weights in float32 beside an image of 16 bits, run by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kvmem_accuracy import assert_accurate, results
from kvmem_framework import opcheck_backward
from kvmem_problems import CalledOperators, Problem, make_problem
from kvmem_read_problems import GATES, ReadProblem, make_read_problem
from torch import Tensor

pytestmark = pytest.mark.usefixtures("interpreter")

NEIGHBOURS = 7
# Batch, channels, (height, width), slots, word channels, memory channels: of which there are several blocks of rows.
BRANCHES = {"tuned": (2, 16, (4, 8), 6, 12, 70), "general": (2, 16, (4, 4), 33, 8, 40)}
CHANNELS = {"tuned": 16, "general": 72}
WIDTHS = ["scalar", "vector"]
READ_BRANCHES = {"tuned": (2, 16, (4, 8), 6), "general": (2, 16, (4, 4), 33)}


def widths(width: str) -> dict[str, str]:
    return {"write_gate_width": width, "response_gate_width": width}


def make_mixed(*shape: int, dtype: torch.dtype, words: bool = False, **settings: str | int) -> Problem:
    return make_problem(*shape, dtype=torch.float32, **settings).with_image_in(dtype, words=words)


def make_mixed_reading(
    *shape: int, dtype: torch.dtype, narrow_gate: bool = False, **settings: str | int
) -> ReadProblem:
    return make_read_problem(*shape, dtype=torch.float32, **settings).with_image_in(dtype, gate=narrow_gate)


@pytest.mark.parametrize("dtype, words", [(torch.bfloat16, False), (torch.float16, True)])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_accuracy(with_branch: Callable, branch: str, width: str, dtype: torch.dtype, words: bool) -> None:
    """Words in the image's type too; the yardstick has everything cast to that. Launches are those of one type."""
    variant = {"mask": "partial", "channels_last": words, "words": words, **widths(width)}
    settings = {"dtype": dtype, "variants": [variant], "draws": 1, "neighbours": NEIGHBOURS}
    assert_accurate(make_mixed, *BRANCHES[branch], **settings, backend=with_branch(branch))


@pytest.mark.parametrize(
    "branch, gate, narrow_gate", [*(("tuned", gate, False) for gate in GATES), ("general", "vector", True)]
)
def test_accuracy_of_reading(branch: str, gate: str, narrow_gate: bool) -> None:
    variant = {"gate": gate, "mask": "partial", "narrow_gate": narrow_gate}
    settings = {"dtype": torch.bfloat16, "variants": [variant], "draws": 1, "neighbours": NEIGHBOURS}
    assert_accurate(make_mixed_reading, *READ_BRANCHES[branch], **settings, backend="triton")


def assert_not_rounded(problem: Problem | ReadProblem, dtype: torch.dtype) -> None:
    """Its gradients in float32 have digits that dtype hasn't."""
    grads = [torch.randn_like(problem.image)]
    found = results(problem, "triton", False, grads)
    for name, gradient in found.items():
        if gradient.dtype == torch.float32:
            assert not torch.equal(gradient, gradient.to(dtype).float()), name
        else:
            assert gradient.dtype == dtype


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_gradients_in_float32_are_not_rounded(branch: str, width: str) -> None:
    assert_not_rounded(make_mixed(*BRANCHES[branch], dtype=torch.bfloat16, **widths(width)), torch.bfloat16)
    reading = make_mixed_reading(*READ_BRANCHES[branch], dtype=torch.bfloat16, gate=width)
    assert_not_rounded(reading, torch.bfloat16)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_the_memory_is_written_as_of_an_image_in_float32(branch: str, width: str) -> None:
    """What is kept of it: no product of words, weights and mean rounds to the image's type."""
    mixed = make_mixed(*BRANCHES[branch], dtype=torch.bfloat16, **widths(width))
    wide = mixed.with_image_in(torch.float32)
    (*_, mean, memory), (*_, expected_mean, expected) = (
        torch.ops.kvmem_triton.kv_memory(*problem.operator_arguments()) for problem in (mixed, wide)
    )
    torch.testing.assert_close(mean, expected_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(memory, expected, rtol=1e-5, atol=1e-5)


def product_gradients(problem: Problem) -> dict[str, tuple[Tensor, Tensor]]:
    """Of an image with one slot: gradients found, and what they are by the others that were found."""
    gradients = results(problem, "triton", False, [torch.randn_like(problem.image)])
    found = {name: gradients[f"gradient of {name}"] for name in problem.inputs if name != "image"}
    w, r = problem.words[0, 0], problem.image.float().mean((2, 3))[0]
    of_gate = found["gate_image"] @ r / r.square().sum()
    of_words, weights = found["write_word_bias"], problem.weights
    return {
        "write_word_weight": (found["write_word_weight"], of_words[:, None] * w),
        "write_image_weight": (found["write_image_weight"], found["write_image_bias"][:, None] * r),
        "gate_word": (found["gate_word"], of_gate[:, None] * w),
        "words": (found["words"][0, 0], of_words @ weights["write_word_weight"] + of_gate @ weights["gate_word"]),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_the_gradients_of_words_and_weights_are_products_of_float32(branch: str, width: str) -> None:
    problem = make_mixed(1, CHANNELS[branch], (3, 4), 1, 12, 40, dtype=torch.bfloat16, **widths(width))
    for name, (found, expected) in product_gradients(problem).items():
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item(), msg=name)


@pytest.mark.parametrize("width", WIDTHS)
def test_autocast_launches_no_more_and_casts_nothing(with_branch: Callable, width: str) -> None:
    """Two launches forward and three backward, and no other operator but the layer's."""
    problem = make_mixed(2, 8, (3, 4), 5, 8, 8, dtype=torch.bfloat16, mask="partial", **widths(width))
    grad = torch.randn_like(problem.image)
    with CalledOperators() as called, torch.autocast("cpu", torch.bfloat16):
        with_branch("tuned")(problem, False, [grad])
    assert {name for name in called.names if name.startswith("aten::")} == {"aten::detach"}
    for operator in ("kvmem_triton::kv_memory", "kvmem_triton::kv_memory_backward"):
        assert called.names.count(operator) == 1


def test_opcheck() -> None:
    problem = make_mixed(1, 8, (2, 3), 3, 8, 8, dtype=torch.bfloat16, words=True, mask="partial")
    torch.library.opcheck(torch.ops.kvmem_triton.kv_memory.default, problem.leaves().operator_arguments(True))
    opcheck_backward(problem, "kvmem_triton", 0b10000000000101)
