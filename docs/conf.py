"""Configuration of the documentation; warnings are errors when it is built."""

import importlib
import inspect
import os
import pkgutil

import uqlib

project = "uqlib"
author = "the uqlib developers"
copyright = "2026, the uqlib developers"
version = release = uqlib.__version__

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
# `include` takes the tables into pages: they are no pages of their own.
exclude_patterns = ["_build", "_templates", "*_table.rst"]
templates_path = ["_templates"]
default_role = "literal"

# Links into other projects need the network, and a build without it must not fail.
if os.environ.get("UQLIB_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
    }

# ---------------------------------------------------------------------------
# Pages of classes and functions.

autosummary_generate = True
autodoc_typehints = "none"
# The class template lists the methods: numpydoc need not.
numpydoc_show_class_members = False
doctest_global_setup = "import numpy as np"


def methods_of_uqlib(cls):
    """Public methods that uqlib gives a class, in the order of the source.

    scikit-learn's own methods (`get_params`, `score`, ...) are left to its pages.
    """
    methods = [
        method
        for base in reversed(cls.__mro__)
        if base.__module__.startswith("uqlib")
        for method, member in vars(base).items()
        if not method.startswith("_")
        and not method.endswith("_request")
        and not isinstance(member, property)
        and inspect.isroutine(getattr(cls, method))
    ]
    return list(dict.fromkeys(methods))


def public_classes():
    """Every public class by the full name under which its page is made."""
    families = [
        name
        for _, name, package in pkgutil.iter_modules(uqlib.__path__)
        if package and not name.startswith("_")
    ]
    for name in [*families, "exceptions"]:
        module = importlib.import_module(f"uqlib.{name}")
        for public in module.__all__:
            if inspect.isclass(cls := getattr(module, public)):
                yield f"{module.__name__}.{public}", cls


# What templates/autosummary/class.rst lists.
autosummary_context = {
    "methods_by_class": {name: methods_of_uqlib(cls) for name, cls in public_classes()}
}

# ---------------------------------------------------------------------------
# Gallery.

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("uqlib",),
    "reference_url": {"uqlib": None},
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib",),
    "min_reported_time": 10,
    "plot_gallery": os.environ.get("UQLIB_PLOT_GALLERY", "True"),
    "download_all_examples": False,
    "show_memory": False,
}

# ---------------------------------------------------------------------------
# Page style.

html_theme = "pydata_sphinx_theme"
html_title = f"uqlib {version}"
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}
# Prompts and outputs are not copied with the code.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
