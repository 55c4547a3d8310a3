"""Images of any number of spatial dimensions, channels first or last, as the (B, C, H, W) that the kernels take."""

from torch import Tensor


def as_image(features: Tensor, channel_dim: int) -> Tensor:
    """Features (B, C, ...) or, with channel_dim -1, (B, ..., C) as (B, C, H, W).

    A view of contiguous features and of channels_last ones: tokens (B, N, C) are a channels_last image of one row.
    """
    first = features if channel_dim == 1 else features.movedim(-1, 1)
    if first.dim() == 4:
        return first
    return first.unsqueeze(2) if first.dim() == 3 else first.flatten(2, -2)


def like_features(image: Tensor, features: Tensor, channel_dim: int) -> Tensor:
    """The response (B, C, H, W) with the shape of the features that `as_image` took."""
    first = _unflattened(image, _spatial(features, channel_dim))
    return first if channel_dim == 1 else first.movedim(1, -1)


def like_positions(attention: Tensor, features: Tensor, channel_dim: int) -> Tensor:
    """The attention (B, T, H, W) as (B, T, ...) with the features' spatial dimensions."""
    return _unflattened(attention, _spatial(features, channel_dim))


def _spatial(features: Tensor, channel_dim: int) -> tuple[int, ...]:
    return features.shape[2:] if channel_dim == 1 else features.shape[1:-1]


def _unflattened(image: Tensor, spatial: tuple[int, ...]) -> Tensor:
    if len(spatial) == 2:
        return image
    return image.squeeze(2) if len(spatial) == 1 else image.unflatten(2, spatial[:-1])
