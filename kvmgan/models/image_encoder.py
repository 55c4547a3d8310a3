"""A small DAMSM image encoder for the tiny presets."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.models.blocks import halving_block


class Blur(nn.Module):
    """Each channel of (B, channels, H, W) by the binomial kernel [1, 2, 1] / 4 along both axes, borders repeated.

    Takes periods of two pixels away altogether and halves those of four (Zhang 2019, "Making convolutional networks
    shift-invariant again").
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(line, line).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # Not by F.pad: where torch 2.14 compiles it, the borders' gradient has other strides than it expects.
        rows = torch.cat([images[:, :, :1], images, images[:, :, -1:]], dim=2)
        padded = torch.cat([rows[..., :1], rows, rows[..., -1:]], dim=3)
        return F.conv2d(padded, self.kernel.to(images.dtype), groups=len(self.kernel))


class SmallImageEncoder(nn.Module):
    """Convolutional network with the outputs of the Inception encoder: region features and a global feature.

    Images of any size are resized to ``input_size``, as the Inception encoder resizes to 299 pixels, so that
    a region is the same part of the picture at every stage.

    Generators are trained by its gradients, which therefore mustn't have a grid of their own: images are blurred
    first, and every halving is by 4x4 (``docs/training.md``, "What pictures suffer from").

    Args:
        feature_dim: length D of the features, the text encoder's word_dim.
        width: channels after the first convolution.
        input_size: height and width in pixels that the network works at; a region is an eighth of it.
    """

    def __init__(self, *, feature_dim: int = 256, width: int = 32, input_size: int = 64) -> None:
        super().__init__()
        self.input_size = input_size
        self.blur = Blur(3)
        halve = partial(halving_block, kernel_size=4)
        self.local = nn.Sequential(halve(3, width), halve(width, 2 * width), halve(2 * width, 4 * width))
        self.deep = halve(4 * width, 8 * width)
        self.emb_features = nn.Conv2d(4 * width, feature_dim, kernel_size=1, bias=False)
        # The whole grid, not its mean: which part of a centred bird has a colour is what captions tell.
        self.emb_cnn_code = nn.Linear(8 * width * (input_size // 16) ** 2, feature_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return regions (B, D, 8, 8) and the global feature (B, D), for the default input size.

        Args:
            images: (B, 3, s, s) in [-1, 1], s >= 32.

        Raises:
            ValueError: ``images`` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 32:
            raise ValueError(f"images is {tuple(images.shape)}, expected (B, 3, s, s) with s >= 32")
        if images.shape[2:] != (self.input_size, self.input_size):
            size = (self.input_size, self.input_size)
            # In float32 at least: PyTorch has no antialiased resize in bfloat16 on the CPU.
            images = images.to(torch.promote_types(images.dtype, torch.float32))
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        local = self.local(self.blur(images))
        return self.emb_features(local), self.emb_cnn_code(self.deep(local).flatten(1))
