"""Build the site: ``make docs``.

Sphinx, because it is maintained today (MkDocs 1 is not, Material for MkDocs ends, and its successor does not
render notebooks yet), reads the docstrings as they are, and checks every reference. MyST-NB renders the
notebooks with their stored outputs. Furo ships its fonts and scripts, so that no page asks another host.
"""

from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
TUTORIALS = HERE / "tutorials"
"""Copies of the notebooks, in which links into ``docs`` are relative to it."""

TUTORIALS.mkdir(exist_ok=True)
for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
    text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
    (TUTORIALS / notebook.name).write_text(text, encoding="utf-8")

project = "t2i_pipelines"
author = copyright = "the developers of t2i_pipelines"
release = version = installed("t2i-pipelines")
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
smartquotes = False  # a message that is searched for keeps its quotes

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are run by their tests, and keep their outputs
nb_ipywidgets_js = {}  # would be fetched from another host
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False

html_theme = "furo"
html_title = "t2i_pipelines"
html_static_path = []
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
