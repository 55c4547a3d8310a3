"""A run: its folder, its progress on the screen, its end by a signal."""
