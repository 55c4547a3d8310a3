"""Nearest enlargement and convolution as one operation: the generator's way to twice the size."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Below this, adding the weights of a 3x3 convolution up costs more than the products that it spares.
FEW_POSITIONS = 256
# Positions of features that the weight's gradient takes at a time, where it is taken in strips of rows.
STRIP_POSITIONS = 2048


def enlarging_conv(features: Tensor, weight: Tensor) -> Tensor:
    """Nearest-neighbour x2, then a 3x3 convolution: (B, in, H, W) -> (B, out, 2H, 2W).

    From ``FEW_POSITIONS`` positions B*H*W on, both are one transposed convolution. Each of the 2x2 copies of a pixel
    meets some of the nine weights, so weights that meet the same pixel are added beforehand: 4 products an output
    instead of 9, and no enlarged copy of the features.

    Args:
        features: (B, in, H, W).
        weight: (out, in, 3, 3).
    """
    batch, _, height, width = features.shape
    if batch * height * width < FEW_POSITIONS:
        return F.conv2d(F.interpolate(features, scale_factor=2.0, mode="nearest"), weight, padding=1)
    kernel = enlarging_kernel(weight)
    if height * width > 2 * STRIP_POSITIONS and _strips_are_faster(features):
        return _StripwiseTransposedConv.apply(features, kernel)
    return F.conv_transpose2d(features, kernel, stride=2, padding=1)


def enlarging_kernel(weight: Tensor) -> Tensor:
    """The kernel (in, out, 4, 4) of the transposed convolution that a 3x3 ``weight`` (out, in, 3, 3) becomes."""
    flipped = weight.flip(2, 3).transpose(0, 1)
    return F.avg_pool2d(flipped, kernel_size=2, stride=1, padding=1, divisor_override=1)


def _strips_are_faster(features: Tensor) -> bool:
    """On CPUs in more than 16 bits, where a strip of rows is one stretch of memory; compiled graphs stay small."""
    return (
        features.device.type == "cpu"
        and features.dtype in (torch.float32, torch.float64)
        and not features.is_contiguous()
        and features.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _StripwiseTransposedConv(torch.autograd.Function):
    """Transposed 4x4 convolution of stride 2 and padding 1 in channels_last; the kernel's gradient strip by strip.

    oneDNN's gradient of the kernel reads large features and their larger gradient out of memory again and again; a
    strip of both stays in the caches.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(features, kernel)
        return F.conv_transpose2d(features, kernel, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, kernel = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        by_features = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_features = F.conv2d(gradient, kernel, stride=2, padding=1)
        if ctx.needs_input_grad[1]:
            by_kernel = _kernel_gradient(features, gradient, kernel)
        return by_features, by_kernel


def _kernel_gradient(features: Tensor, gradient: Tensor, kernel: Tensor) -> Tensor:
    """Gradient by the kernel (in, out, 4, 4) of (B, in, H, W) features, from that by the output (B, out, 2H, 2W)."""
    total = torch.zeros_like(kernel)
    rows = max(1, STRIP_POSITIONS // features.shape[3])
    for image in range(len(features)):
        strips = features[image : image + 1].split(rows, dim=2)
        for number, strip in enumerate(strips):
            # Row i of the features takes part in rows 2i - 1 to 2i + 2 of the output.
            first, last = 2 * number * rows - 1, 2 * number * rows + 2 * strip.shape[2] + 1
            met = _rows(gradient[image : image + 1], first, last)
            # As the gradient by the weight of the convolution that goes from the output to the features.
            arguments = ([2, 2], [0, 1], [1, 1], False, [0, 0], 1, [False, True, False])
            total += torch.ops.aten.convolution_backward(strip, met, kernel, None, *arguments)[1]
    return total


def _rows(gradient: Tensor, first: int, last: int) -> Tensor:
    """Rows ``first`` to before ``last``, zeros where they lie outside; copied only there."""
    height = gradient.shape[2]
    inside = gradient[:, :, max(first, 0) : min(last, height)]
    above, below = max(-first, 0), max(last - height, 0)
    return F.pad(inside, (0, 0, above, below)) if above or below else inside
