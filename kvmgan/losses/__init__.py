"""The losses of KVM-GAN, section 3.3: adversarial, conditioning augmentation and DAMSM."""
