"""How Sphinx makes these pages: ``python3 -m sphinx -W --keep-going -n docs docs/_build/html``. It needs no network."""

import rack

project = "Rack"
author = "the authors of Rack"
copyright = author
version = release = rack.__version__

extensions = ["sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Rack {release}"
html_static_path = ["_static"]
html_css_files = ["rack.css"]
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80  # then each parameter has a line of its own
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# Every name of Rack's has to lead somewhere. Names of others (Python's own, above all) do not: their inventories would
# have to be fetched. Nor do type variables.
nitpick_ignore_regex = [("py:.*", r"(?!rack\b).*"), ("py:.*", r"rack\..*\.[A-Z]")]
