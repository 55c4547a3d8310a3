"""Metrics of generated pictures: R-precision and attribute accuracy."""
