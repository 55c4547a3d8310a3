"""The weights that the field already has: released AttnGAN and DM-GAN files to networks of this package, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmgan.interop.released import load_discriminator, load_generator, load_image_encoder, load_text_encoder

__all__ = ["load_discriminator", "load_generator", "load_image_encoder", "load_text_encoder"]


def __getattr__(name: str) -> Any:
    # They need torch, for which a mistyped command shouldn't wait.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kvmgan.interop import released

    return getattr(released, name)
