"""The networks: generator, discriminator, DAMSM encoders and the attribute classifier."""
