"""Figures as PNG files: sample grids, stage strips and word-attention maps."""
