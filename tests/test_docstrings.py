"""Every public docstring is valid for numpydoc, shows an example and states shapes."""

import inspect

import pytest
from numpydoc import docscrape, validate

from tests._estimators import public_estimators
from tests._public import public_methods, public_objects

# What the house does not ask for. This list only shrinks.
IGNORED = {
    "ES01",  # a summary that is the whole story needs no extended one
    "GL01",  # the summary starts on the line of the opening quotes
    "GL02",  # a docstring of one line closes on it
    "RT02",  # a returned array has a name, as its shape refers to others by name
    "SA01",  # See Also only where something is to be seen
    "SS05",  # flags nouns that end in s; ruff's D401 knows the verbs
}
# The example of a class shows its methods.
IGNORED_IN_METHODS = {"EX01"}

OBJECTS = public_objects()
METHODS = {
    f"{name}.{method}": getattr(cls, method)
    for name, cls in OBJECTS.items()
    if inspect.isclass(cls)
    for method in public_methods(cls)
}


def _problems(name, ignored):
    return [
        f"{name}: {code} {message}"
        for code, message in validate.validate(name)["errors"]
        if code not in ignored
    ]


@pytest.mark.parametrize("name", OBJECTS)
def test_public_docstring_is_valid(name):
    problems = _problems(name, IGNORED)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", METHODS)
def test_public_method_docstring_is_valid(name):
    problems = _problems(name, IGNORED | IGNORED_IN_METHODS)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", OBJECTS)
def test_example_is_a_doctest(name):
    doc = docscrape.NumpyDocString(inspect.getdoc(OBJECTS[name]))
    assert any(line.lstrip().startswith(">>> ") for line in doc["Examples"])


@pytest.mark.parametrize("name", [*OBJECTS, *METHODS])
def test_arrays_state_their_shape(name):
    doc = docscrape.NumpyDocString(inspect.getdoc({**OBJECTS, **METHODS}[name]))
    entries = [
        entry
        for section in ("Parameters", "Returns", "Attributes")
        for entry in doc[section]
        if "array" in entry.type
    ]
    bad = [f"{entry.name} : {entry.type}" for entry in entries]
    bad = [entry for entry in bad if "shape" not in entry]
    assert not bad, f"{name}: give the shape of {bad}"


CALIBRATORS = [
    name
    for name, obj in OBJECTS.items()
    if inspect.isclass(obj)
    and (
        name.startswith("uqlib.conformal.") or name.endswith("BatchPredictiveInference")
    )
]


@pytest.mark.parametrize("name", CALIBRATORS)
def test_calibrators_state_their_guarantee(name):
    notes = docscrape.NumpyDocString(inspect.getdoc(OBJECTS[name]))["Notes"]
    assert notes[0] == ".. rubric:: Guarantee"
    assert len(notes) > 5


@pytest.mark.parametrize("estimator", public_estimators())
def test_estimators_can_be_shown_in_a_notebook(estimator):
    # scikit-learn reads the docstring for it, and warns of a section it does not know.
    assert type(estimator).__name__ in estimator._repr_html_()
