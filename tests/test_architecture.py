"""The house: what may import what, what is public, and what may lie where."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from sklearn.base import BaseEstimator

import uqlib
from tests._public import KERNELS, PACKAGE, ROOT, families, family_names, parse

# ---------------------------------------------------------------------------
# Import direction. A part of uqlib imports parts of lower layers only; the shared
# modules of layer 2 may also import one another.

LAYERS = {
    "exceptions": 0,
    "_typing": 0,
    "_core": 1,
    "_validation": 2,
    "_fitting": 2,
    "_predictions": 2,
    "_binomial": 2,
    "_class_predictions": 2,
    "_quantile_models": 2,
    "_compat": 2,
    "metrics": 3,
    "quantile": 3,
    "conformal": 3,
    "batch": 3,
    "spa": 3,
    "quantized": 3,
    "datasets": 3,
    "inspection": 4,
    "distributed": 4,
    "__init__": 5,
}
SHARED_LAYER = 2
# A library that only modules of this prefix may import.
OWNERS = {"torch": "_torch_", "matplotlib": "_mpl_", "dask": "_dask_"}
LAZY_PREFIXES = tuple(OWNERS.values())


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, and when the import happens."""

    module: str
    line: int
    in_function: bool
    for_typing: bool


class _Imports(ast.NodeVisitor):
    def __init__(self):
        self.found, self._in_function, self._for_typing = [], False, False

    def _add(self, module, node):
        self.found.append(
            Import(module, node.lineno, self._in_function, self._for_typing)
        )

    def visit_Import(self, node):
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node):
        # `from a import b` may import the module a.b: the name b stays attached.
        base = "." * node.level + (node.module or "")
        for alias in node.names:
            self._add(f"{base}.{alias.name}", node)

    def _visit_function(self, node):
        outer, self._in_function = self._in_function, True
        self.generic_visit(node)
        self._in_function = outer

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_function

    def visit_If(self, node):
        outer = self._for_typing
        self._for_typing = outer or ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body:
            self.visit(child)
        self._for_typing = outer
        for child in node.orelse:
            self.visit(child)


def imports_of(path):
    visitor = _Imports()
    visitor.visit(parse(path))
    return visitor.found


def part_of(path):
    """The part of uqlib that a file belongs to: its package or its module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_part(module):
    """The part of uqlib that an import names; None for a foreign module."""
    top, *rest = module.split(".")
    if top != "uqlib":
        return None
    # A flat name (`from uqlib import ConformalQuantiles`) comes from uqlib/__init__.
    return rest[0] if rest and rest[0] in LAYERS else "__init__"


def root_of(module):
    return module.split(".")[0]


PACKAGE_FILES = sorted(PACKAGE.rglob("*.py"))
KERNEL_FILES = sorted(KERNELS.rglob("*.py"))


def _relative(path):
    return path.relative_to(ROOT).as_posix()


def in_package(function):
    return pytest.mark.parametrize("path", PACKAGE_FILES, ids=_relative)(function)


def in_kernels(function):
    return pytest.mark.parametrize("path", KERNEL_FILES, ids=_relative)(function)


def in_both(function):
    files = PACKAGE_FILES + KERNEL_FILES
    return pytest.mark.parametrize("path", files, ids=_relative)(function)


def assert_none(path, bad, rule):
    lines = [f"{_relative(path)}:{found.line} imports {found.module}" for found in bad]
    assert not lines, "\n".join([rule, *lines])


@in_package
def test_every_file_has_a_layer(path):
    assert part_of(path) in LAYERS, (
        f"{_relative(path)}: give {part_of(path)!r} its place in LAYERS"
    )


@in_package
def test_imports_point_downwards(path):
    part = part_of(path)

    def allowed(other):
        below = LAYERS[other] < LAYERS[part]
        return below or other == part or LAYERS[other] == LAYERS[part] == SHARED_LAYER

    bad = [
        found
        for found in imports_of(path)
        if (other := imported_part(found.module)) is not None and not allowed(other)
    ]
    assert_none(path, bad, f"{part!r} may import lower layers only")


@in_both
def test_imports_are_absolute(path):
    bad = [found for found in imports_of(path) if found.module.startswith(".")]
    assert_none(path, bad, "imports are absolute")


@in_package
def test_uqlib_compiles_nothing(path):
    bad = [found for found in imports_of(path) if root_of(found.module) == "numba"]
    assert_none(path, bad, "whatever is compiled lives in uqlib_kernels")


@in_package
def test_kernels_are_imported_on_first_use(path):
    bad = [
        found
        for found in imports_of(path)
        if root_of(found.module) == "uqlib_kernels"
        and not (found.in_function or found.for_typing)
    ]
    assert_none(path, bad, "uqlib_kernels is imported inside functions")


@in_kernels
def test_kernels_know_only_numpy_and_numba(path):
    # llvmlite is Numba's own compiler, in which micro-kernels are written.
    known = {"numpy", "numba", "llvmlite", "uqlib_kernels", "torch"}
    known |= set(sys.stdlib_module_names)
    known |= {"triton"} if path.parent.name == "triton_twins" else set()
    bad = [found for found in imports_of(path) if root_of(found.module) not in known]
    assert_none(path, bad, "uqlib_kernels imports numpy and numba, never uqlib")


@in_kernels
def test_kernels_import_torch_where_they_own_a_torch_op(path):
    bad = [
        found
        for found in imports_of(path)
        if root_of(found.module) == "torch"
        and not path.name.startswith("_torch_")
        and not (found.in_function or found.for_typing)
    ]
    assert_none(path, bad, "torch is imported inside functions or in _torch_*.py")


# Factorizations that NumPy lacks: pivoted QR, and a Cholesky factor that is applied.
SCIPY_IN_CORE = {"quantile_interior_point.py": {"scipy"}}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "_core").rglob("*.py")), ids=_relative
)
def test_core_knows_only_numpy(path):
    known = {"numpy", "uqlib", "uqlib_kernels", *sys.stdlib_module_names}
    known |= SCIPY_IN_CORE.get(path.name, set())
    bad = [found for found in imports_of(path) if root_of(found.module) not in known]
    assert_none(path, bad, "_core is NumPy only")


@in_package
@pytest.mark.parametrize("library", OWNERS)
def test_optional_libraries_have_owners(path, library):
    if path.name.startswith(OWNERS[library]):
        return
    bad = [
        found
        for found in imports_of(path)
        if root_of(found.module) == library and not found.for_typing
    ]
    assert_none(path, bad, f"only {OWNERS[library]}*.py imports {library}")


@in_package
def test_owners_are_imported_inside_functions(path):
    if path.name.startswith(LAZY_PREFIXES):
        return  # an owner may import its like: it is itself imported lazily
    bad = [
        found
        for found in imports_of(path)
        if root_of(found.module) == "uqlib"
        and any(name.startswith(LAZY_PREFIXES) for name in found.module.split("."))
        and not (found.in_function or found.for_typing)
    ]
    assert_none(path, bad, "so that classes stay picklable and the import stays lean")


def test_the_visitor_sees_every_kind_of_import(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import a.b\n"
        "from c import d\n"
        "from .e import f\n"
        "if TYPE_CHECKING:\n    import g\n"
        "def function():\n    import h\n"
        "class Class:\n    import i\n"
    )
    assert imports_of(path) == [
        Import("a.b", 1, False, False),
        Import("c.d", 2, False, False),
        Import(".e.f", 3, False, False),
        Import("g", 5, False, True),
        Import("h", 7, True, False),
        Import("i", 9, False, False),
    ]


# ---------------------------------------------------------------------------
# Lean import.

HEAVY = ("torch", "numba", "matplotlib", "dask", "polars")


def _loaded_after(code):
    """The heavy libraries that a fresh interpreter has loaded after ``code``."""
    report = f"import sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    path = [str(ROOT), str(KERNELS.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_is_lean():
    assert _loaded_after("import uqlib") == []


def test_looking_at_every_public_name_is_lean():
    code = "import uqlib\nfor name in uqlib.__all__:\n    getattr(uqlib, name)"
    assert _loaded_after(code) == []


def test_the_flat_package_loads_no_family_until_asked():
    code = (
        "import sys, uqlib\n"
        f"early = [m for m in {family_names()!r} if f'uqlib.{{m}}' in sys.modules]\n"
        "assert not early, early"
    )
    _loaded_after(code)


# ---------------------------------------------------------------------------
# Public names.


def test_flat_names_are_sorted_and_unique():
    assert list(uqlib.__all__) == sorted(set(uqlib.__all__))


@pytest.mark.parametrize("name", uqlib.__all__)
def test_flat_name_resolves_and_is_listed(name):
    assert getattr(uqlib, name) is not None
    assert name in dir(uqlib)


def test_unknown_flat_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        uqlib.no_such_name  # noqa: B018


@pytest.mark.parametrize("family", family_names())
def test_family_names_are_sorted_and_unique(family):
    names = families()[family].__all__
    assert list(names) == sorted(set(names))


def _is_meant_for_users(obj):
    """Estimators, displays and metrics; not the helpers that private modules share."""
    if inspect.isclass(obj):
        base = obj.__name__.startswith("Base") or obj.__name__.endswith("Mixin")
        estimator = issubclass(obj, BaseEstimator) and not base
        return estimator or obj.__name__.endswith("Display")
    return inspect.isfunction(obj) and obj.__module__.startswith("uqlib.metrics")


@pytest.mark.parametrize("family", family_names())
def test_family_exports_all_that_it_defines(family):
    defined = {
        name
        for path in (PACKAGE / family).glob("_*.py")
        if not path.name.startswith(("__", *LAZY_PREFIXES))
        for module in [importlib.import_module(f"uqlib.{family}.{path.stem}")]
        for name, obj in vars(module).items()
        if not name.startswith("_")
        and getattr(obj, "__module__", None) == module.__name__
        and _is_meant_for_users(obj)
    }
    assert defined <= set(families()[family].__all__)


@pytest.mark.parametrize("family", family_names())
def test_family_modules_are_private(family):
    public = [
        path.name
        for path in (PACKAGE / family).iterdir()
        if path.suffix == ".py" and not path.name.startswith("_")
    ]
    assert not public, "users never import a path with a module in it"


def test_every_family_name_is_flat_and_the_same_object():
    owner = {}
    for family, module in families().items():
        for name in module.__all__:
            assert name not in owner, f"{name} is in {owner.get(name)} and in {family}"
            owner[name] = family
            assert name in uqlib.__all__, f"uqlib.{family}.{name} is not in uqlib"
            assert getattr(uqlib, name) is getattr(module, name)


# ---------------------------------------------------------------------------
# Files.

TOP_LEVEL = {
    "LICENSE",
    "Makefile",
    "README.md",
    "docs",
    "examples",
    "kernels",
    "pyproject.toml",
    "tests",
    "uqlib",
}
MAX_LINES = 600


def _tracked():
    """Paths that git tracks; skips outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: there are no tracked files to look at")
    return [name for name in done.stdout.split("\0") if name]


def test_top_level_holds_only_what_it_should():
    top = {name.split("/")[0] for name in _tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_no_file_is_longer_than_a_reader_bears():
    folders = ("uqlib", "kernels", "tests", "docs", "examples")
    long = {
        _relative(path): lines
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines: which second idea has moved in?"


def test_kernels_is_a_folder_and_no_package():
    # An installed package named `kernels` exists elsewhere and must keep working.
    assert not list((ROOT / "kernels").glob("*.py"))


def test_typed_packages_say_so():
    assert (PACKAGE / "py.typed").is_file()
    assert (KERNELS / "py.typed").is_file()
