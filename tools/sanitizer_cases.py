"""Small calls of the CUDA kernels, forward and backward on both paths, to run under compute-sanitizer.

Nearly every kernel that runs is one of kvmem: data is drawn and compared on the CPU. Ends with an error where a result
is wrong. `PYTORCH_NO_CUDA_MEMORY_CACHING=1` gives every tensor memory of its own, so that its bounds are seen.
"""

from itertools import product

import torch

import kvmem

# batch, channels, (height, width), slots, word channels, gates' width, path
CASES = (
    (2, 64, (16, 24), 18, 24, "scalar", "auto"),
    (1, 64, (9, 13), 31, 13, "scalar", "auto"),
    (3, 64, (1, 1), 1, 8, "scalar", "auto"),
    (2, 64, (64, 64), 12, 16, "scalar", "auto"),
    (2, 64, (16, 24), 18, 24, "scalar", "general"),
    (2, 13, (5, 7), 6, 9, "vector", "general"),
    (1, 40, (9, 13), 77, 13, "vector", "general"),
)
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def results(layer: kvmem.KVMemoryLayer, inputs: list[torch.Tensor], mask: torch.Tensor, grads: list[torch.Tensor]):
    """Both outputs and the gradients of the inputs and of the parameters, on the CPU, in float64."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = layer(*leaves, mask, return_attention=True)
    gradients = torch.autograd.grad(outputs, [*leaves, *layer.parameters()], grads)
    return [tensor.detach().cpu().double() for tensor in (*outputs, *gradients)]


def run(case: tuple, dtype: torch.dtype, channels_last: bool) -> None:
    batch, channels, (height, width), slots, word_channels, gates, path = case
    torch.ops.kvmem.cuda_path(path)
    torch.manual_seed(0)
    options = {"write_gate_width": gates, "response_gate_width": gates}
    reference = kvmem.KVMemoryLayer(channels, word_channels, backend="eager", dtype=dtype, **options)
    layer = kvmem.KVMemoryLayer(channels, word_channels, backend="cuda", dtype=dtype, **options)
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
        assert (result - exact).norm() <= TOLERANCES[dtype] * exact.norm() + 1e-6, (case, dtype, channels_last, i)


def main() -> None:
    for case, dtype, channels_last in product(CASES, TOLERANCES, (False, True)):
        run(case, dtype, channels_last)
        print(case, dtype, "channels_last" if channels_last else "contiguous", "ok", flush=True)


if __name__ == "__main__":
    main()
