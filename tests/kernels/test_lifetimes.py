"""Memory whose address a kernel uses lives as long as the address.

Numba frees an array of a kernel after its last use as a variable; that its address is
used later does not count. So the statement of the body that mentions the array, or a
view of it, for the last time must be the last one that calls anything.
"""

import ast

import pytest

from tests._public import KERNELS, parse

MAKERS = {"empty", "zeros", "ones", "full", "array"}


def _kernels(path):
    """Functions that are compiled: decorated, or handed to `row_jit` by name."""
    tree = parse(path)
    handed = {
        argument.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "row_jit"
        for argument in call.args
        if isinstance(argument, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            decorators = {getattr(d, "id", "") for d in node.decorator_list}
            if "row_jit" in decorators or node.name in handed:
                yield node


def _is_made(value):
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr in MAKERS
    )


def _is_address(node):
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "data"
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "ctypes"
        and isinstance(node.value.value, ast.Name)
    )


def _assigned(function):
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _owners(function, name):
    """The array and its views: variables that keep its memory."""
    owners = {name}
    for target, value in _assigned(function):
        root = value
        while isinstance(root, ast.Subscript | ast.Attribute | ast.Call):
            if _is_address(root):
                break
            root = root.func if isinstance(root, ast.Call) else root.value
        if isinstance(root, ast.Name) and root.id in owners:
            owners.add(target)
    return owners


def _mentions(statement, names):
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(statement))


def dangling(function):
    """Names of arrays that may be freed while their addresses are in use."""
    made = {name for name, value in _assigned(function) if _is_made(value)}
    taken = {n.value.value.id for n in ast.walk(function) if _is_address(n)}
    found = []
    for name in sorted(made):
        owners = _owners(function, name)
        if not owners & taken:
            continue
        last = max(k for k, part in enumerate(function.body) if _mentions(part, owners))
        after = [node for part in function.body[last + 1 :] for node in ast.walk(part)]
        if any(isinstance(node, ast.Call) for node in after):
            found.append(name)
    return found


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda p: p.name)
def test_memory_lives_as_long_as_its_address(path):
    bad = {f"{kernel.name}: {dangling(kernel)}" for kernel in _kernels(path)}
    assert all(entry.endswith(": []") for entry in bad), sorted(bad)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("a = np.empty(3)\n    p = a.ctypes.data\n    use(p)", ["a"]),
        ("a = np.empty(3)\n    p = a.ctypes.data\n    use(p)\n    a[0] = 1", []),
        ("a = np.empty(3)\n    for i in r:\n        use(a.ctypes.data)", []),
        (
            "a = np.empty(3)\n    b = a[:2]\n    use(b.ctypes.data)\n    return b.size",
            [],
        ),
        ("a = np.empty(3)\n    p = int(a.ctypes.data)\n    use(p)", ["a"]),
        ("a = np.empty(3)\n    a[0] = 1\n    return a", []),
    ],
)
def test_the_rule_itself(body, names):
    function = ast.parse(f"def kernel():\n    {body}").body[0]
    assert dangling(function) == names
