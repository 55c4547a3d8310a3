"""The small kernels compute what their equations say, in real arithmetic: not what rounding makes of it."""

from __future__ import annotations

from dataclasses import replace

import proofs
import pytest
from configurations import SMALL
from equality import Argument, Part, Tensor, compare
from ptx_entries import Entry

pytestmark = pytest.mark.proof

# The parts of one image's gradients, in the order of csrc/cuda/layout.h, at one slot and with scalar gates.
C, M, D = 2, 2, 2
PARTS = {"written": M, "word_part": M, "gate": 1, "gate_sum": 1, "image_part": M, "keys": C, "values": C}
PARTS |= {"response": 1, "response_image": C, "response_bias": 1}
# In the order in which the reference returns them.
GRADIENTS = {
    "words": (D,),
    "gate_word": (1, D),
    "gate_image": (1, C),
    "write_word_weight": (M, D),
    "write_word_bias": (M,),
    "write_image_weight": (M, C),
    "write_image_bias": (M,),
    "key_weight": (C, M),
    "key_bias": (C,),
    "value_weight": (C, M),
    "value_bias": (C,),
    "response_gate_weight": (2 * C,),
    "response_gate_bias": (1,),
}


def sums(entries: dict[str, Entry], reference: str, dtype: str, channels_last: bool) -> dict:
    call = replace(SMALL, dtype=dtype, channels_last=channels_last)
    launch = proofs.launch_of("sum_chunks", call.arguments())
    image = Tensor("image", (call.N, call.C) if channels_last else (call.C, call.N), dtype)
    outputs = [Tensor("workspace", (call.C,))]
    return compare(entries[launch.kernel], launch, reference, [Argument("image", image)], outputs, 600)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("reference", ["mean_channels_last", "mean_contiguous"])
def test_the_sums_of_the_mean(entries: dict[str, Entry], prover: None, reference: str, dtype: str) -> None:
    report = sums(entries, reference, dtype, channels_last=reference == "mean_channels_last")
    assert report["result"] == "verified", report["diagnostics"]


def test_a_wrong_reference_is_refused(entries: dict[str, Entry], prover: None) -> None:
    assert sums(entries, "twice_the_mean", "float32", channels_last=True)["result"] == "equivalence_not_proven"


def test_the_products(entries: dict[str, Entry], prover: None) -> None:
    """Every gradient of the parameters and of the words, of one image and one slot."""
    call = replace(SMALL, direction="backward", dtype="float32", C=C, M=M, D=D)
    launch = proofs.launch_of("multiply_products", call.arguments())
    entry = entries[launch.kernel]
    (place,) = proofs.objects(entry, launch, "workspace")
    gradients = Tensor(place, (sum(PARTS.values()) + C,))
    first = {name: sum(list(PARTS.values())[:i]) for i, name in enumerate(PARTS)}
    kept = Tensor("memory", (2 * M + 2 + 2 * C + 1,))
    arguments = [
        *(Argument(name, gradients, first[name], count) for name, count in PARTS.items()),
        Argument("words", Tensor("words", (D,))),
        Argument("kept_values", kept, 2 * M + 2 + C, C),
        Argument("mean", Tensor("mean", (C,))),
        Argument("write_word", Tensor("write_word_weight", (M, D))),
        Argument("gate_word", Tensor("gate_word", (1, D))),
    ]
    outputs = [Tensor(f"grad of {name}", shape) for name, shape in GRADIENTS.items()]
    report = compare(entry, launch, "products", arguments, outputs, 900)
    assert report["result"] == "verified", report["diagnostics"]


# What forward keeps of an image, in the order of csrc/cuda/layout.h, at one slot and with scalar gates.
KEPT = {"word_part": M, "gate": 1, "gate_image": 1, "image_part": M, "keys": C, "values": C, "response": 1}
PLACES = {name: sum(list(KEPT.values())[:i]) for i, name in enumerate(KEPT)}
MEMORY = Tensor("memory", (sum(KEPT.values()),))
# Of every step's launch: its reference, what it reads, and what it writes beside the mean.
STEPS = (
    (
        "memory_written",
        [
            Argument("sums", Tensor("workspace", (C,))),
            Argument("words", Tensor("words", (D,))),
            Argument("gate_word", Tensor("gate_word", (1, D))),
            Argument("gate_image", Tensor("gate_image", (1, C))),
            Argument("write_word", Tensor("write_word_weight", (M, D))),
            Argument("write_word_bias", Tensor("write_word_bias", (M,))),
            Argument("write_image", Tensor("write_image_weight", (M, C))),
            Argument("write_image_bias", Tensor("write_image_bias", (M,))),
        ],
        [Tensor("mean", (C,)), Part(MEMORY, 0, PLACES["keys"])],
    ),
    (
        "memory_read_out",
        [
            *(Argument(name, MEMORY, PLACES[name], KEPT[name]) for name in list(KEPT)[:4]),
            Argument("key", Tensor("key_weight", (C, M))),
            Argument("key_bias", Tensor("key_bias", (C,))),
            Argument("value", Tensor("value_weight", (C, M))),
            Argument("value_bias", Tensor("value_bias", (C,))),
        ],
        [Part(MEMORY, PLACES["keys"], 2 * C)],
    ),
    (
        "memory_response",
        [
            Argument("values", MEMORY, PLACES["values"], C),
            Argument("weight", Tensor("response_gate_weight", (2 * C,)), C, C),
        ],
        [Part(MEMORY, PLACES["response"], 1)],
    ),
)


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_the_memory_side(entries: dict[str, Entry], prover: None, step: int) -> None:
    """Each step of the forward pass, as a launch of its own, without φ and σ, which real arithmetic doesn't have."""
    call = replace(SMALL, dtype="float32", C=C, M=M, D=D, relu=False, linear_write_gate=True)
    launch = proofs.launches_of("memory_forward_kernel", call.arguments())[step]
    reference, arguments, outputs = STEPS[step]
    report = compare(entries[launch.kernel], launch, reference, arguments, outputs, 600)
    assert report["result"] == "verified", report["diagnostics"]
