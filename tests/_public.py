"""The public names of uqlib, as the architecture and docstring tests need them."""

import ast
import importlib
import inspect
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "uqlib"
KERNELS = ROOT / "kernels" / "uqlib_kernels"


def family_names():
    """The public packages of uqlib: each re-exports what its private modules define."""
    return sorted(
        folder.name
        for folder in PACKAGE.iterdir()
        if (folder / "__init__.py").is_file() and not folder.name.startswith("_")
    )


def families():
    return {name: importlib.import_module(f"uqlib.{name}") for name in family_names()}


def public_objects():
    """Every public class and function, as ``{"uqlib.family.name": object}``."""
    modules = {**families(), "exceptions": importlib.import_module("uqlib.exceptions")}
    return {
        f"uqlib.{family}.{name}": getattr(module, name)
        for family, module in modules.items()
        for name in module.__all__
        if callable(getattr(module, name))
    }


def public_methods(cls):
    """Names of the public methods that uqlib itself, not scikit-learn, gives a class.

    The ``set_{method}_request`` methods are made by scikit-learn in our classes' name.
    """
    return sorted(
        name
        for base in cls.__mro__
        if base.__module__.startswith("uqlib")
        for name, member in vars(base).items()
        if not name.startswith("_")
        and not name.endswith("_request")
        and not isinstance(member, property)
        and callable(getattr(cls, name, None))
        and not inspect.isclass(member)
    )


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
