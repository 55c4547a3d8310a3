"""Small calls of the CUDA kernels, on both of their paths, and of the Triton kernels, to run under compute-sanitizer.

Forward and backward. Nearly every kernel that runs is one of kvmem: data is drawn and compared on the CPU. Ends with an
error where a result is wrong. `PYTORCH_NO_CUDA_MEMORY_CACHING=1` gives every tensor memory of its own, so that its
bounds are seen.
"""

import argparse
from itertools import product

import torch

import kvmem

# batch, channels, (height, width), slots, word channels, gates' width, and the path of CUDA
CUDA_CASES = (
    (2, 64, (16, 24), 18, 24, "scalar", "auto"),
    (1, 64, (9, 13), 31, 13, "scalar", "auto"),
    (3, 64, (1, 1), 1, 8, "scalar", "auto"),
    (2, 64, (64, 64), 12, 16, "scalar", "auto"),
    (2, 64, (16, 24), 18, 24, "scalar", "general"),
    (2, 13, (5, 7), 6, 9, "vector", "general"),
    (1, 40, (9, 13), 77, 13, "vector", "general"),
)
# One for the tuned kernels and one for the general ones: every one is compiled first.
TRITON_CASES = (
    (2, 64, (9, 13), 18, 13, "scalar", None),
    (2, 70, (5, 7), 77, 9, "vector", None),
)
CASES = {"cuda": CUDA_CASES, "triton": TRITON_CASES}
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def results(layer: kvmem.KVMemoryLayer, inputs: list[torch.Tensor], mask: torch.Tensor, grads: list[torch.Tensor]):
    """Both outputs and the gradients of the inputs and of the parameters, on the CPU, in float64."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = layer(*leaves, mask, return_attention=True)
    gradients = torch.autograd.grad(outputs, [*leaves, *layer.parameters()], grads)
    return [tensor.detach().cpu().double() for tensor in (*outputs, *gradients)]


def run(backend: str, case: tuple, dtype: torch.dtype, channels_last: bool) -> None:
    batch, channels, (height, width), slots, word_channels, gates, path = case
    if path is not None:
        torch.ops.kvmem.cuda_path(path)
    torch.manual_seed(0)
    options = {"write_gate_width": gates, "response_gate_width": gates}
    reference = kvmem.KVMemoryLayer(channels, word_channels, backend="eager", dtype=dtype, **options)
    layer = kvmem.KVMemoryLayer(channels, word_channels, backend=backend, dtype=dtype, **options)
    layer.load_state_dict(reference.state_dict())
    layer.cuda()
    image = torch.randn(batch, channels, height, width).to(dtype)
    image = image.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    inputs = [image, torch.randn(batch, slots, word_channels).to(dtype)]
    mask = torch.rand(batch, slots) < 0.7
    grads = [torch.randn_like(image), torch.randn(batch, slots, height, width).to(dtype)]
    found = results(layer, [tensor.cuda() for tensor in inputs], mask.cuda(), [grad.cuda() for grad in grads])
    expected = results(reference.double(), [x.double() for x in inputs], mask, [g.double() for g in grads])
    for i, (result, exact) in enumerate(zip(found, expected, strict=True)):
        assert (result - exact).norm() <= TOLERANCES[dtype] * exact.norm() + 1e-6, (
            backend,
            case,
            dtype,
            channels_last,
            i,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=CASES, action="append", help="only this one; may be repeated")
    for backend in parser.parse_args().backend or CASES:
        for case, dtype, channels_last in product(CASES[backend], TOLERANCES, (False, True)):
            run(backend, case, dtype, channels_last)
            print(backend, case, dtype, "channels_last" if channels_last else "contiguous", "ok", flush=True)


if __name__ == "__main__":
    main()
