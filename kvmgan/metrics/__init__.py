"""Metrics of generated pictures: their arithmetic, and the networks that look at the pictures."""
