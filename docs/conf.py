"""Configuration of Sphinx; the theme and the layout of each step are those of jwst's own pages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
from jwst_tvbadpix import __version__

project = "jwst_tvbadpix"
author = project_copyright = "The jwst_tvbadpix developers"
version = release = __version__

# intersphinx is left out on purpose: it needs the network, and its absence would be a warning.
extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "tvbadpix_sphinx",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute"]  # the last is made by myst_nb
source_suffix = {".rst": "restructuredtext", ".ipynb": "myst-nb"}
# Notebooks are kept with their outputs; a test runs them.
nb_execution_mode = "off"
default_role = "obj"
# Two dashes are an option.
smartquotes = False

autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Members are chosen by autodoc.
numpydoc_show_class_members = False

# Examples are those marked as such, and say themselves what they import.
doctest_test_doctest_blocks = ""

html_theme = "sphinx_rtd_theme"
html_theme_options = {"collapse_navigation": True, "navigation_depth": 3}
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sourcelink = False
html_copy_source = False
