"""Pretraining of what judges and guides the generator: the DAMSM encoders and the attribute classifier."""
