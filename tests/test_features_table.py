"""Every test that the table of features names exists."""

import ast
import re

import pytest

from tests._public import ROOT

TABLE = ROOT / "docs" / "features.rst"
CLAIMS = re.findall(r"``(tests/[\w/]+\.py)::(\w+)``", TABLE.read_text("utf-8"))


@pytest.mark.parametrize(("path", "name"), sorted(set(CLAIMS)))
def test_the_named_test_exists(path, name):
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if hasattr(node, "name")}


def test_every_cell_names_a_test_or_says_no():
    rows = TABLE.read_text("utf-8").split("   * - ")[2:]
    cells = [re.findall(r"^     - (.+)$", row, re.MULTILINE)[-1] for row in rows]
    assert len(cells) > 40
    assert all(c == "no" or c.startswith(("``tests/", "Test")) for c in cells)
