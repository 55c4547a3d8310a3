"""The weights that the field already has: released AttnGAN and DM-GAN files to networks of this package, and back."""

from kvmgan.interop.released import load_discriminator, load_generator, load_image_encoder, load_text_encoder

__all__ = ["load_discriminator", "load_generator", "load_image_encoder", "load_text_encoder"]
