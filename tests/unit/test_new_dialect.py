# SPDX-License-Identifier: GPL-2.0-only
"""docs/new-dialect.md: its dialect gives the verdicts that the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_iommu.cli import main

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "new-dialect"
PAGE = (DOCS / "new-dialect.md").read_text()


def judge(capsys: pytest.CaptureFixture[str], text: Path) -> tuple[int, str]:
    status = main(["judge", f"--dialect={EXAMPLE / 'pgtbl.py'}", str(text)])
    return status, capsys.readouterr().out


def test_the_first_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(capsys, EXAMPLE / "saved.txt") == (0, "pgtbl: no finding in 3 rows of 1 tables\n")
    assert "pgtbl: no finding in 3 rows of 1 tables\n" in PAGE


@pytest.mark.parametrize("name", ["saved.txt", "pgtbl.py", "conftest.py", "test_pgtbl.py"])
def test_the_page_shows_what_the_files_have(name: str) -> None:
    """All of the text; of Python what is shown of it, in that order."""
    lines = [line.strip() for line in (EXAMPLE / name).read_text().splitlines()]
    shown = [line.strip() for line in PAGE.splitlines() if line.startswith("        ")]
    common = [line for line in shown if line and line in lines]
    assert len(common) >= 3
    if name == "saved.txt":
        assert common[: len(lines)] == lines
    if name == "pgtbl.py":
        assert f"`pgtbl.py` ({len(lines)} lines)" in PAGE


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("    PTE 0x0000000000001000", "    PTE 0x0000000000003000", "5: RNG-2: 0x2000 is out of order"),
        ("  PDE 0x0000000000000000", "      PDE 0x0000000000000000", "3: ENT-1: indented deeper"),
        ("    PTE 0x0000000000002000", "    PDE 0x0000000000002000", "5: ENT-1: the item is no table of level 0"),
        ("d7d201", "d7d401", "3: ENT-1: the item is no table of level 1"),
        ("PTE 0x0000000000200000 0x7000000041200001\n", "PTE 0x00000", "6: ENT-1: the last line has no newline"),
        ("Device", "Devise", "1: ENT-1: expected `Device"),
    ],
)
def test_faults(capsys: pytest.CaptureFixture[str], tmp_path: Path, old: str, new: str, finding: str) -> None:
    text = (EXAMPLE / "saved.txt").read_text()
    if old not in text:
        pytest.fail(f"{old!r} is not in the example")
    path = tmp_path / "saved.txt"
    path.write_text(text.replace(old, new, 1))
    status, out = judge(capsys, path)
    assert (status, f"saved.txt:{finding}" in out) == (1, True), out


def test_lines_exchanged_as_on_the_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = (EXAMPLE / "saved.txt").read_text().splitlines(keepends=True)
    lines[3:5] = lines[4:2:-1]
    path = tmp_path / "saved.txt"
    path.write_text("".join(lines))
    status, out = judge(capsys, path)
    said = next(line for line in PAGE.splitlines() if line.strip().startswith("saved.txt:5: "))
    assert (status, said.strip() in out) == (1, True), out


def test_a_file_without_a_dialect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "none.py"
    path.write_text("DIALECT = 1\n")
    assert main(["judge", f"--dialect={path}", str(EXAMPLE / "saved.txt")]) == 2
    assert "DIALECT must be a TextDialect, not 1" in capsys.readouterr().err
