"""The calls whose launches are proven, and what of them is.

Sizes are small, and the device that the plans are made for has just the shared memory and the clusters that a
configuration is about: a proof takes as long as the launch has instructions of threads, and what a kernel does with its
memory doesn't change with more of the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

DTYPES = ("bfloat16", "float32", "float16")
FORMATS = (True, False)  # channels_last


@dataclass(frozen=True)
class Call:
    """One call of the layer's CUDA kernels: letters as in docs/layer.md, options, and the device."""

    direction: str
    dtype: str = "bfloat16"
    channels_last: bool = True
    wide_words: bool = False
    wide_weights: bool = False
    B: int = 1
    C: int = 64
    N: int = 64
    T: int = 1
    D: int = 1
    M: int = 1
    G: int = 1
    R: int = 1
    linear_write_gate: bool = False
    relu: bool = True
    detach_mean: bool = False
    given: bool = False
    mask: bool = False
    attention: bool = False
    all_gradients: bool = True
    general: bool = False
    block_shared: int = 232448
    largest_cluster: int = 1

    def arguments(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Proof:
    """The launch of one kernel in a call. about: what sets this configuration apart. core: plain pytest runs it.

    step: which launch of the kernel's, where its steps are launches.
    """

    kernel: str
    call: Call
    about: str
    core: bool = False
    seconds: float = 900
    step: int = 0

    @property
    def id(self) -> str:
        form = "channels_last" if self.call.channels_last else "contiguous"
        step = f", step {self.step}" if steps_of(self.kernel, self.call) > 1 else ""
        return f"{self.kernel}-{self.call.direction}-{self.call.dtype}-{form}-{self.about}{step}"


@dataclass(frozen=True)
class Unproven:
    """A configuration that the prover can't judge: its result, and why. A test sees that this is still so."""

    proof: Proof
    result: str
    reason: str = field(default="", compare=False)


# Kernels of the memory side, whose steps are launches on a device without clusters of eight blocks.
STEPS = {"memory_forward_kernel": 3, "memory_backward_kernel": 4, "given_memory_kernel": 2}
STEPS |= {"given_memory_backward_kernel": 2}


def steps_of(kernel: str, call: Call) -> int:
    """How many launches of a kernel the call has."""
    return STEPS.get(kernel, 1) if call.largest_cluster < 8 else 1


# Three tiles, the last of 8 positions, over two groups of warps of one block, and shared memory for one of the first
# group's two: by direction, bytes of a number, and whether there are more than 23 slots.
RING_POSITIONS = 136
RING_SHARED = {
    ("forward", 2, False): 30000,
    ("forward", 2, True): 48000,
    ("forward", 4, False): 68000,
    ("backward", 2, False): 68000,
    ("backward", 2, True): 84000,
    ("backward", 4, False): 138000,
}
MANY_SLOTS = 24
# As many positions as a plan wants for so many blocks an image.
CLUSTER_POSITIONS = {2: 136, 4: 264}

GENERAL_KERNELS = {
    "forward": ("sum_chunks", "memory_forward_kernel", "pack_tables", "general_forward_tiles"),
    "backward": (
        "pack_tables",
        "general_backward_chunks",
        "memory_backward_kernel",
        "multiply_products",
        "add_mean_gradient",
    ),
}
# Those that read or write the image: the others aren't told how it lies.
BY_FORMAT = ("sum_chunks", "general_forward_tiles", "general_backward_chunks", "add_mean_gradient")
GIVEN_KERNELS = {
    "forward": ("given_memory_kernel", "general_forward_tiles"),
    "backward": ("given_memory_backward_kernel", "general_backward_chunks", "multiply_products"),
}
DIRECTIONS = ("forward", "backward")

SMALL = Call("forward", C=8, M=2, D=2, N=16, general=True)
# Two images, gates that are vectors, several slots.
WIDE = replace(SMALL, B=2, T=2, G=2, R=8, N=40, attention=True)
# Rows of whole vectors of 16 bytes, which weights and words are then read by, and a memory side that is a cluster.
VECTORS = replace(SMALL, C=8, M=8, D=8, T=2, largest_cluster=8, relu=False, linear_write_gate=True)
# More sums than a tile of 128 positions has numbers: a chunk is then two tiles, the second of 8 positions.
TWO_TILES = replace(SMALL, direction="backward", T=64, N=136)
# Two tiles, and as many blocks.
GIVEN = replace(SMALL, M=0, D=0, G=0, T=2, N=136, given=True, relu=False, detach_mean=True)


# Enough numbers that several blocks of a memory side's cluster, and several warps of each, work on them.
GIVEN_CLUSTER = replace(GIVEN, C=64, T=8, N=8, largest_cluster=8)


def ring(direction: str, dtype: str, channels_last: bool, many_slots: bool = False, attention: bool = False) -> Call:
    """The cluster path in one block that holds fewer tiles than it works on."""
    item = 4 if dtype == "float32" else 2
    return Call(
        direction,
        dtype,
        channels_last,
        N=RING_POSITIONS,
        T=MANY_SLOTS if many_slots else 1,
        attention=attention,
        block_shared=RING_SHARED[direction, item, many_slots],
    )


def steps(proof: Proof) -> Iterator[Proof]:
    return (replace(proof, step=step) for step in range(steps_of(proof.kernel, proof.call)))


def general_proofs() -> Iterator[Proof]:
    """The general path: every kernel by its type, its format and whether the response gate is a vector."""
    for dtype, channels_last, direction in product(DTYPES, FORMATS, DIRECTIONS):
        for call, about in ((SMALL, "scalar gates"), (WIDE, "vector gates, attention, 2 images"), (VECTORS, "vectors")):
            made = replace(call, direction=direction, dtype=dtype, channels_last=channels_last)
            for kernel in GENERAL_KERNELS[direction]:
                if channels_last or kernel in BY_FORMAT:
                    core = (dtype, channels_last, call) == ("bfloat16", True, SMALL)
                    yield from steps(Proof(kernel, made, about, core))
        if direction == "backward":
            made = replace(TWO_TILES, dtype=dtype, channels_last=channels_last)
            yield Proof("general_backward_chunks", made, "2 tiles a chunk, 64 slots")
        if channels_last:
            made = replace(GIVEN, direction=direction, dtype=dtype)
            for kernel in GIVEN_KERNELS[direction]:
                yield from steps(Proof(kernel, made, "given memory"))
            made = replace(GIVEN_CLUSTER, direction=direction, dtype=dtype)
            yield Proof(GIVEN_KERNELS[direction][0], made, "given memory, 8 blocks", core=dtype == "bfloat16")


def cluster_proofs() -> Iterator[Proof]:
    """The cluster path: every kernel in one block with its ring of slots reused, some in larger clusters."""
    for dtype, direction, channels_last in product(DTYPES, DIRECTIONS, FORMATS):
        kernel = f"cluster_{direction}_kernel"
        for many_slots, attention in product((False, True), (False, True)):
            if many_slots and dtype == "float32":
                continue
            about = "1 block, ring reused" + ", 24 slots" * many_slots + ", attention" * attention
            yield Proof(kernel, ring(direction, dtype, channels_last, many_slots, attention), about)
    for dtype, direction, blocks in product(DTYPES[:2], DIRECTIONS, CLUSTER_POSITIONS):
        call = Call(direction, dtype, N=CLUSTER_POSITIONS[blocks], largest_cluster=blocks)
        yield Proof(f"cluster_{direction}_kernel", call, f"{blocks} blocks", seconds=1800)
    for dtype, direction in product(DTYPES[:2], DIRECTIONS):
        call = Call(direction, dtype, N=CLUSTER_POSITIONS[2], T=3, mask=True, largest_cluster=2)
        yield Proof(f"cluster_{direction}_kernel", call, "2 blocks, mask")
    for dtype, channels_last in product(("bfloat16", "float16"), FORMATS):
        for many_slots, attention in product((False, True), (False, True)):
            call = replace(ring("forward", dtype, channels_last, many_slots, attention), wide_weights=True)
            about = "1 block, ring reused, float32 weights" + ", 24 slots" * many_slots + ", attention" * attention
            yield Proof("cluster_forward_kernel", call, about)
    yield Proof("cluster_forward_kernel", Call("forward"), "1 block, 1 tile", core=True)
    yield Proof("cluster_backward_kernel", Call("backward"), "1 block, 1 tile")
    memory = Call("forward", M=8, D=8, T=2, G=8, linear_write_gate=True, relu=False)
    for direction in DIRECTIONS:
        about = "1 block, 1 tile, vectors, vector write gate"
        yield Proof(f"cluster_{direction}_kernel", replace(memory, direction=direction), about)


def wide_proofs() -> Iterator[Proof]:
    """Words and weights in float32: what one kernel chooses while it runs, read by vectors and number by number."""
    for words, direction, (call, about) in product(
        (False, True), DIRECTIONS, ((SMALL, "scalar gates"), (VECTORS, "vectors"))
    ):
        made = replace(call, direction=direction, wide_weights=True, wide_words=words)
        of = "words and weights" if words else "weights"
        for kernel in GENERAL_KERNELS[direction]:
            if kernel not in BY_FORMAT:
                yield from steps(Proof(kernel, made, f"{about}, {of} in float32"))
    for direction in DIRECTIONS:
        call = Call(direction, M=8, D=8, T=2, wide_weights=True, wide_words=True)
        yield Proof(f"cluster_{direction}_kernel", call, "1 block, 1 tile, words and weights in float32")
        made = replace(GIVEN, direction=direction, wide_weights=True, wide_words=True)
        yield from steps(Proof(GIVEN_KERNELS[direction][0], made, "given memory in float32"))


PROOFS = (*general_proofs(), *cluster_proofs(), *wide_proofs())

# A mask is data, and what is branched on by it is more than a proof for given sizes covers.
DATA_BRANCH = "branches on the mask, which is data"
UNPROVEN = tuple(
    Unproven(Proof(kernel, replace(SMALL, direction=direction, mask=True), "mask"), "unsupported", DATA_BRANCH)
    for direction, kernel in (
        ("forward", "general_forward_tiles"),
        ("backward", "general_backward_chunks"),
        ("backward", "multiply_products"),
    )
)
