"""The GPUs that the model knows, from their makers' data sheets and architecture white papers.

NVIDIA: A100 Tensor Core GPU data sheet and Ampere white paper (SXM, 80 GB); H100 and H200 data sheets and Hopper white
paper (SXM); HGX B200 data sheet; Ada white paper (GeForce RTX 4090). Throughputs of instructions: CUDA C++ Programming
Guide, "Arithmetic Instructions".
"""

from __future__ import annotations

from dataclasses import dataclass

# Of the data sheet's bandwidth, what a long copy reaches: refresh, and turning round between reads and writes, cost
# about a tenth. Taken alike for the copy that bounds the kernels and for the kernels: it hardly moves their ratio.
ACHIEVED = 0.90


@dataclass(frozen=True)
class Chip:
    """One GPU: what it has and what its units do a clock.

    clock: hertz, boost. bandwidth, l2_bandwidth: bytes a second. shared, block_shared, l2: bytes. tensor_16, tensor_32:
    multiply-adds a clock of a multiprocessor in 16-bit types and in tf32, by mma instructions. float_lanes: float32
    operations a clock. processing_clusters: multiprocessors in each; a cluster of blocks lies within one; empty: no
    clusters. code: the architecture of the machine code that it runs.
    """

    name: str
    capability: int
    code: str
    multiprocessors: int
    clock: float
    bandwidth: float
    l2: int
    l2_bandwidth: float
    shared: int
    block_shared: int
    warps: int
    float_lanes: int
    tensor_16: int
    tensor_32: int
    processing_clusters: tuple[int, ...] = ()
    registers: int = 65536
    largest_cluster: int = 16

    @property
    def copy_bandwidth(self) -> float:
        """Bytes a second that a long copy reads and writes."""
        return ACHIEVED * self.bandwidth

    def clusters(self, cluster: int, blocks: int) -> int:
        """Clusters of so many blocks that run at a time, where `blocks` of them share a multiprocessor."""
        return sum(size * blocks // cluster for size in self.processing_clusters)

    def device(self) -> tuple[int, int, int, int, int, int]:
        """As kvmem_simt.set_device takes it."""
        return self.capability, self.multiprocessors, self.block_shared, self.shared, self.largest_cluster, self.l2


# Which processing clusters have 18 multiprocessors and which 16 differs from part to part. The cache's bandwidth is no
# data sheet's number: about 0.6 of 5120 bytes a clock (Ampere white paper), as others measured.
HOPPER, UNEVEN = (18, 18, 16, 16, 16, 16, 16, 16), (18, 18, 18, 16, 16, 16, 16, 14)
BLACKWELL = (20, 18, 18, 18, 20, 18, 18, 18)
KIB, MIB = 1 << 10, 1 << 20
CHIPS = (
    Chip("A100", 80, "sm_80", 108, 1.41e9, 2.039e12, 40 * MIB, 4.3e12, 164 * KIB, 163 * KIB, 64, 64, 1024, 512),
    Chip("H100", 90, "sm_90", 132, 1.98e9, 3.35e12, 50 * MIB, 6e12, 228 * KIB, 227 * KIB, 64, 128, 2048, 1024, HOPPER),
    Chip("H200", 90, "sm_90", 132, 1.98e9, 4.8e12, 50 * MIB, 6e12, 228 * KIB, 227 * KIB, 64, 128, 2048, 1024, HOPPER),
    Chip(
        "B200", 100, "sm_90", 148, 1.965e9, 8e12, 126 * MIB, 10e12, 228 * KIB, 227 * KIB, 64, 128, 2048, 1024, BLACKWELL
    ),
    Chip("RTX 4090", 89, "sm_80", 128, 2.52e9, 1.008e12, 72 * MIB, 5e12, 100 * KIB, 99 * KIB, 48, 128, 256, 128),
)


def chip_of(device: str) -> Chip | None:
    """The chip of a device's name, as "NVIDIA H100 80GB HBM3"."""
    return next((chip for chip in CHIPS if chip.name in device), None)
