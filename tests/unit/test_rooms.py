# SPDX-License-Identifier: GPL-2.0-only
"""The import contract of docs/architecture.md: a room imports only the rooms before it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_iommu

PACKAGE = Path(pytest_iommu.__file__).parent
ROOMS = (
    *("core", "formats", "dialects", "oracle", "scenario", "compare", "guest", "images", "targets", "check"),
    *("report", "session", "conformance", "newhooks", "plugin", "commands", "cli"),
)
KNOWS_PYTEST = ("targets", "check", "report", "session", "conformance", "newhooks", "plugin", "commands")
"""Rooms that may use pytest: a target skips what it cannot do."""
IGNORES = {
    "guest": ("formats", "dialects", "oracle", "scenario", "compare"),
    "images": ("formats", "dialects", "oracle", "scenario", "compare"),
    "targets": ("formats", "dialects", "oracle", "scenario", "compare"),
}
"""Rooms before a room that it must not know all the same."""
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, also within functions and for annotations only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def broken(path: Path, text: str) -> list[str]:
    """The imports of a file, given by its path below the package, that the contract does not allow."""
    room, found = room_of(path), []
    for line, name in imported(ast.parse(text)):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "pytest_iommu" and other in ROOMS and ROOMS.index(other) > ROOMS.index(room):
            found.append(f"{path}:{line}: {room} imports {name}")
        if package == "pytest_iommu" and other in IGNORES.get(room, ()):
            found.append(f"{path}:{line}: {room} must not know {other}")
        if package in ("pytest", "_pytest") and room not in KNOWS_PYTEST:
            found.append(f"{path}:{line}: {room} knows {package}")
    return found


def test_every_file_is_in_a_room() -> None:
    assert {room_of(path) for path in FILES} == {*ROOMS, "__init__"}
    loose = [path.name for path in FILES if len(path.parts) == 1]
    assert len(loose) <= 5, loose


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_before_it(room: str) -> None:
    files = [path for path in FILES if room_of(path) == room]
    assert files
    assert [line for path in files for line in broken(path, (PACKAGE / path).read_text())] == []


def test_files_of_the_suite_do_not_import_one_another() -> None:
    files = [path for path in FILES if room_of(path) == "conformance"]
    found = {name for path in files for _, name in imported(ast.parse((PACKAGE / path).read_text()))}
    assert [name for name in sorted(found) if ".conformance.test_" in name] == []


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(path.parent.name if path.name == "__init__.py" else path.stem for path in FILES)
    assert [name for name, number in names.items() if number > 1] == []


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("core/model.py", "from pytest_iommu import formats", "core imports pytest_iommu.formats"),
        ("formats/base.py", "def f():\n    from pytest_iommu.guest.ops import stat", "formats imports"),
        ("targets/qemu.py", "import pytest_iommu.session.run", "targets imports pytest_iommu.session.run"),
        ("guest/ops.py", "import pytest", "guest knows pytest"),
        ("targets/vng.py", "from pytest_iommu.formats import get", "targets must not know formats"),
    ],
)
def test_what_the_contract_forbids_is_seen(file: str, text: str, reason: str) -> None:
    (found,) = broken(Path(file), text)
    assert reason in found
