"""Settings of the documentation site: ``sphinx-build -W docs build/site``."""

from importlib import metadata

project = "kvmem and kvmgan"
release = metadata.version("kvmem")
copyright = "The kvmem authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
# Headings are addresses: pages link to each other's sections.
myst_heading_anchors = 3
# Docstrings write names between single backticks as well as between double ones.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Defaults as they are written, such as BATCH_SIZE.
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
