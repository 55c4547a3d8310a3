"""A classifier of drawn attributes, the judge behind attribute accuracy."""

from collections.abc import Mapping

from torch import Tensor, nn

from kvmgan.errors import UserError
from kvmgan.models.blocks import halving_block


class AttributeClassifier(nn.Module):
    """Images to one set of logits an attribute, such as the colour of the wings.

    Args:
        cardinalities: attribute name -> number of values.
        width: channels after the first convolution.

    Raises:
        UserError: no attribute, or one with fewer than two values.
    """

    def __init__(self, cardinalities: Mapping[str, int], *, width: int = 32) -> None:
        super().__init__()
        if not cardinalities or min(cardinalities.values()) < 2:
            raise UserError(f"cardinalities is {dict(cardinalities)}, expected attributes with two values or more each")
        self.width, self.cardinalities = width, dict(cardinalities)
        self.trunk = nn.Sequential(
            halving_block(3, width),
            halving_block(width, 2 * width),
            halving_block(2 * width, 4 * width),
            halving_block(4 * width, 4 * width),
        )
        # Kept as a 4x4 map, not averaged away: where a colour is tells which part of the bird it belongs to.
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Linear(4 * width * 4 * 4, sum(self.cardinalities.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return attribute name -> logits (B, values).

        Args:
            images: (B, 3, s, s) in [-1, 1], s >= 16.

        Raises:
            ValueError: ``images`` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 16:
            raise ValueError(f"images is {tuple(images.shape)}, expected (B, 3, s, s) with s >= 16")
        logits = self.head(self.pool(self.trunk(images)).flatten(1))
        parts = logits.split(list(self.cardinalities.values()), dim=1)
        return dict(zip(self.cardinalities, parts, strict=True))
