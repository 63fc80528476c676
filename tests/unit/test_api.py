# SPDX-License-Identifier: GPL-2.0-only
"""The names that pytest_iommu exports are there, described in docs/api.md, and typed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pytest_iommu
from pytest_iommu.session.marks import MARKS

PACKAGE = Path(pytest_iommu.__file__).parent
DOC = (PACKAGE.parent / "docs/api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", pytest_iommu.__all__)
def test_a_name_is_what_it_says(name: str) -> None:
    found = getattr(pytest_iommu, name)
    assert found.__name__ == name
    assert found.__doc__
    assert f"`{name}`" in DOC


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert seen == set(pytest_iommu.__all__) == {name for names in pytest_iommu._HOMES.values() for name in names}
    assert (PACKAGE / "py.typed").is_file()
    assert sorted(pytest_iommu.__all__) == list(pytest_iommu.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = pytest_iommu.Nothing
    assert "Hold" in dir(pytest_iommu)


def test_hooks_are_described() -> None:
    text = (PACKAGE / "newhooks.py").read_text(encoding="utf-8")
    hooks = re.findall(r"^def (pytest_iommu_\w+)", text, re.MULTILINE)
    assert [hook for hook in hooks if f"`{hook}`" not in DOC] == []


def test_fixtures_and_marks_are_described() -> None:
    text = (PACKAGE / "session/fixtures.py").read_text(encoding="utf-8")
    fixtures = re.findall(r"^@pytest\.fixture.*\ndef (\w+)", text, re.MULTILINE)
    assert "iommu_check" in fixtures
    assert [name for name in fixtures if f"| `{name}` |" not in DOC] == []
    assert [name for name in MARKS if not re.search(rf"^\| `{name}[`(]", DOC, re.MULTILINE)] == []
