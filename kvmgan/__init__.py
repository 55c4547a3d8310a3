"""Text-to-image synthesis with key-value memory GANs (KVM-GAN), built on :mod:`kvmem`."""
