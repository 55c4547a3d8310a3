"""Procedural birds: drawings whose every attribute is known, with captions that name some of them."""
