"""A text-conditioned block for a U-Net: convolutions, then the key-value memory of the caption's words.

`python examples/unet_block.py` trains a small denoiser on pictures whose colour only the caption tells.
"""

import torch
from torch import Tensor, nn

import kvmem

COLOURS = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])


class TextBlock(nn.Module):
    """Features (B, C, H, W) and words (B, T, D) to features of the same shape."""

    def __init__(self, channels: int, word_channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.memory = kvmem.KVMemoryLayer(channels, word_channels)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        return self.memory(features + self.body(features), words, mask)


class UNet(nn.Module):
    """One level down and up again: a noisy picture (B, 3, H, W) and its caption to the noise in it."""

    def __init__(self, vocabulary: int, channels: int = 32, word_channels: int = 32):
        super().__init__()
        self.words = nn.Embedding(vocabulary, word_channels)
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.outer = TextBlock(channels, word_channels)
        self.down = nn.Conv2d(channels, channels, 4, stride=2, padding=1)
        self.inner = TextBlock(channels, word_channels)
        self.up = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        self.head = nn.Conv2d(2 * channels, 3, 3, padding=1)

    def forward(self, noisy: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        words = self.words(tokens)
        skip = self.outer(self.stem(noisy), words, mask)
        deep = self.up(self.inner(self.down(skip), words, mask))
        return self.head(torch.cat((skip, deep), 1))


def train(steps: int = 150) -> list[float]:
    """Mean squared errors of the noise, step by step."""
    torch.manual_seed(0)
    model = UNet(vocabulary=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        colour = torch.randint(len(COLOURS), (16,))
        # "a <colour> <colour>", then padding that the mask takes away.
        tokens = torch.stack((torch.full_like(colour, 5), colour, colour, torch.full_like(colour, 4)), dim=1)
        mask = torch.tensor([True, True, True, False]).expand(16, 4)
        noise = torch.randn(16, 3, 16, 16)
        noisy = 0.3 * COLOURS[colour][:, :, None, None] + noise
        loss = (model(noisy, tokens, mask) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    errors = train()
    print(f"error of the noise: {errors[0]:.3f} at first, {errors[-1]:.4f} at last")
