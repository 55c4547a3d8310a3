"""A run, or several over one another, on one page."""
