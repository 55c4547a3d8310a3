"""Judging generators: which metrics by which networks, on which pictures, and the tables of the figures."""
