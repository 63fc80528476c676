# SPDX-License-Identifier: GPL-2.0-only
"""CONTRIBUTING.md names what there is: commands of the Makefile, rooms in their order, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_rooms import ROOMS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_command_of_the_makefile_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", PAGE, re.MULTILINE))
    assert set(phony.split()) == named


def test_variables_of_the_makefile_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in ("ARGS", "JOBS", "FLAVOURS", "MACHINES", "QUICK"):
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE)
        assert name in PAGE


def test_rooms_are_in_their_order() -> None:
    block = re.search(r"^    core .*\n    report .*$", PAGE, re.MULTILINE)
    assert block is not None
    assert tuple(block[0].split()) == ROOMS


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:docs|tests|pytest_iommu)/[\w./-]+\.(?:md|py)", PAGE))))
def test_files_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_lines_fit_a_page() -> None:
    assert [line for line in PAGE.splitlines() if len(line) > 100 and not line.startswith("|")] == []
