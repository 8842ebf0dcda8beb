"""Sphinx: `make docs` builds these pages into docs/_build."""

project = "etude"
author = "the etude authors"
copyright = "the etude authors"

extensions = ["myst_parser"]
html_theme = "furo"
html_title = "etude"
exclude_patterns = ["_build", "figures"]

myst_heading_anchors = 3
# "text" and "sh" blocks may hold anything
suppress_warnings = ["misc.highlighting_failure"]
