"""One discriminator a stage, with an unconditional and a conditional verdict (DM-GAN, released code)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.errors import UserError
from kvmgan.models.fine_details import FineDetails
from kvmgan.models.initialisation import initialise_weights
from kvmgan.models.recomputation import recomputed
from kvmgan.models.spectral_norm import spectral_norm

# DM-GAN's deepest discriminator without reducing convolutions works on 64 pixels: four halvings down to 4x4.
PLAIN_HALVINGS = 4


def _layer(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=1)
    return [spectral_norm(conv), nn.LeakyReLU(0.2)]


class Discriminator(nn.Module):
    """Images of one size to 4x4 features, and features to real-or-fake logits.

    Halving convolutions (4x4, stride 2) lead to 4x4 features; channels start so that 8 * width are
    reached at 4x4 for 16 to 64 pixels, and go on doubling for larger images, whose surplus channels
    3x3 convolutions halve back to 8 * width. All convolutions but the two last ones have spectral
    normalisation, and all start orthogonal. For 64, 128 and 256 pixels every shape is that of DM-GAN's released
    discriminators.

    Args:
        size: height and width of the images in pixels, a power of two >= 16.
        width: channels after the first convolution at 64 pixels and above; there are 8 * width at the end.
        sentence_dim: length of the sentence feature.
        detail_gain: if above 0, fine details are seen beside the pictures, see
            :class:`kvmgan.models.fine_details.FineDetails`; DM-GAN's see the pictures alone.
        checkpoint_activations: in training mode compute the activations between images and features again in
            backward instead of keeping them: less memory for more time, the same gradients. Can be set at any time.

    Raises:
        UserError: ``size`` isn't a power of two >= 16.
    """

    def __init__(
        self,
        size: int,
        *,
        width: int = 32,
        sentence_dim: int = 256,
        detail_gain: float = 0.0,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if size < 16 or size & (size - 1):
            raise UserError(f"size is {size}, expected a power of two, 16 or more")
        self.size = size
        self.checkpoint_activations = checkpoint_activations
        self.channels = 8 * width
        # size is 4 * 2**halvings.
        halvings = size.bit_length() - 3
        first = self.channels // 2 ** (min(halvings, PLAIN_HALVINGS) - 1)
        self.sight = FineDetails(detail_gain) if detail_gain > 0 else nn.Identity()
        widths = [6 if detail_gain > 0 else 3, *(first * 2**i for i in range(halvings))]
        layers = [layer for pair in pairwise(widths) for layer in _layer(*pair, kernel_size=4, stride=2)]
        surplus = widths[-1]
        while surplus > self.channels:
            layers += _layer(surplus, surplus // 2, kernel_size=3, stride=1)
            surplus //= 2
        self.trunk = nn.Sequential(*layers)
        self.joint = spectral_norm(nn.Conv2d(self.channels + sentence_dim, self.channels, kernel_size=3, padding=1))
        self.unconditional_head = nn.Conv2d(self.channels, 1, kernel_size=4)
        self.conditional_head = nn.Conv2d(self.channels, 1, kernel_size=4)
        self.apply(initialise_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 8 * width, 4, 4) of images (B, 3, size, size) in [-1, 1].

        Raises:
            ValueError: ``images`` has another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (3, self.size, self.size):
            raise ValueError(f"images is {tuple(images.shape)}, expected (B, 3, {self.size}, {self.size})")
        if not (self.checkpoint_activations and self.training):
            return self.plain_features(images)
        # Read here: a read in backward would move the power iteration on, and give weights that forward didn't use.
        weights = [conv.weight for conv in self.trunk[::2]]
        return recomputed(self._features, images, *weights, module=self.trunk)

    def plain_features(self, images: Tensor) -> Tensor:
        """What ``forward`` returns, by a way that isn't compiled or computed again: with second derivatives."""
        return self.trunk(self.sight(images))

    def _features(self, images: Tensor, *weights: Tensor) -> Tensor:
        """The trunk with the weights of its convolutions given."""
        features = self.sight(images)
        for conv, activation, weight in zip(self.trunk[::2], self.trunk[1::2], weights, strict=True):
            features = activation(F.conv2d(features, weight, conv.bias, conv.stride, conv.padding))
        return features

    def unconditional(self, features: Tensor) -> Tensor:
        """Logits (B,): is it a real image? From features (B, 8 * width, 4, 4)."""
        return self.unconditional_head(features).flatten()

    def conditional(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Logits (B,): is it a real image of this sentence? From features and sentence (B, sentence_dim)."""
        tiled = sentence.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        joined = torch.cat((features, tiled), dim=1)
        return self.conditional_head(F.leaky_relu(self.joint(joined), 0.2)).flatten()
