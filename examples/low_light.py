"""Retinex-style low-light enhancement in stages, refined by a memory of the picture's own patches.

A picture is illumination times reflectance. Each stage estimates the illumination once more; its features read a memory
whose words are patches of the dark picture, so that dark places borrow from bright ones.
`python examples/low_light.py` trains it on drawn scenes under smooth shadows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kvmem


class Stage(nn.Module):
    """Features (B, C, H, W) and patches (B, T, D) to refined features and a gain (B, 1, H, W) of at least 1."""

    def __init__(self, channels: int, patch_channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels + 1, channels, 3, padding=1), nn.ReLU())
        self.memory = kvmem.KVMemoryLayer(channels, patch_channels, response_gate_width="vector")
        self.gain = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, features: Tensor, gain: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        features = self.memory(self.body(torch.cat((features, gain.log()), 1)), patches)
        return features, gain * F.softplus(self.gain(features)).clamp(0.2, 5)


class Enhancer(nn.Module):
    """Dark pictures (B, 3, H, W) in [0, 1] to the picture after every stage."""

    def __init__(self, channels: int = 24, stages: int = 3, patch: int = 8):
        super().__init__()
        self.patch = patch
        self.stem = nn.Conv2d(3, channels, 5, padding=2)
        self.stages = nn.ModuleList(Stage(channels, 3 * patch * patch) for _ in range(stages))

    def forward(self, dark: Tensor) -> list[Tensor]:
        patches = F.unfold(dark, self.patch, stride=self.patch).transpose(1, 2)  # (B, T, 3 patch²)
        features, gain = self.stem(dark), torch.ones_like(dark[:, :1])
        pictures = []
        for stage in self.stages:
            features, gain = stage(features, gain, patches)
            pictures.append((dark * gain).clamp(0, 1.5))
        return pictures


def draw_scenes(count: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """Reflectances of coloured blocks, and the same in a smooth shadow with noise."""
    bright = F.interpolate(0.2 + 0.8 * torch.rand(count, 3, 4, 4), size=(side, side))
    shadow = F.interpolate(torch.rand(count, 1, 2, 2), size=(side, side), mode="bilinear", align_corners=True)
    return bright, (bright * (0.1 + 0.5 * shadow) + 0.005 * torch.randn_like(bright)).clamp(0, 1)


def train(steps: int = 120) -> list[float]:
    """Mean absolute errors of the last stage's pictures, step by step."""
    torch.manual_seed(0)
    model = Enhancer()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(steps):
        bright, dark = draw_scenes(8)
        stages = [(picture - bright).abs().mean() for picture in model(dark)]
        optimizer.zero_grad()
        sum(stages).backward()
        optimizer.step()
        errors.append(stages[-1].item())
    return errors


if __name__ == "__main__":
    found = train()
    print(f"mean absolute error: {found[0]:.3f} at first, {found[-1]:.3f} at last")
