"""What networks see in pictures, batch by batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kvmgan.metrics.seen import see


class _Encoder(nn.Module):
    """Gives the mean of each channel as the global feature."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images.mean(dim=(2, 3))


class _Classifier(nn.Module):
    """Says which channel is largest, and whether the last one is positive."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        means = images.mean(dim=(2, 3))
        return {"largest": means, "positive": torch.stack((-means[:, 2], means[:, 2]), dim=1)}


PICTURES = torch.eye(3)[[2, 0, 1, 1, 2]][:, :, None, None].expand(5, 3, 4, 4).clone().requires_grad_()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_are_put_together_in_order(batch_size):
    seen = see(PICTURES.split(batch_size), _Encoder(), _Classifier())
    assert torch.equal(seen.features, torch.eye(3)[[2, 0, 1, 1, 2]])
    assert not seen.features.requires_grad
    assert {name: values.tolist() for name, values in seen.attributes.items()} == {
        "largest": [2, 0, 1, 1, 2],
        "positive": [1, 0, 0, 0, 1],
    }


def test_rows_can_be_taken_in_any_order_and_repeated():
    seen = see([PICTURES], _Encoder(), _Classifier())[torch.tensor([4, 1, 1])]
    assert torch.equal(seen.features, torch.eye(3)[[2, 0, 0]])
    assert {name: values.tolist() for name, values in seen.attributes.items()} == {
        "largest": [2, 0, 0],
        "positive": [1, 0, 0],
    }


def test_nothing_but_features_without_a_classifier():
    assert see([PICTURES], _Encoder(), None).attributes == {}
