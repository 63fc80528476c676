# SPDX-License-Identifier: GPL-2.0-only
"""The interface of a dialect: a parser from the text that a kernel prints to the objects of model.py."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

from pytest_iommu.core.model import Dump


class DumpSyntaxError(ValueError):
    """A line that breaks the grammar, and the broken rule of abi.md.

    ``number`` counts lines from 1; ``line`` is the text without its newline.
    """

    def __init__(self, rule: str, file: str, number: int, line: str, why: str) -> None:
        super().__init__(f"{rule}: {file}:{number}: {why}: {line!r}")
        self.rule = rule
        self.file = file
        self.number = number
        self.line = line
        self.why = why


class Dialect(Protocol):
    """One text form of a page-table dump."""

    name: str
    files: tuple[str, ...]
    place: str
    """Path of a domain's file below the IOMMU's debugfs directory: ``{domain}`` is its id, ``{file}`` the file."""

    def probe(self, names: Set[str]) -> bool:
        """Whether a guest directory with these names uses this dialect."""

    def parse(self, texts: Mapping[str, str]) -> Dump:
        """Parse all files of one domain, by name; absent files stay None. DumpSyntaxError at the first bad line."""

    def read(self, texts: Mapping[str, str]) -> tuple[Dump, list[DumpSyntaxError]]:
        """Like parse(), but keeps the readable parts of bad lines and returns every error, in order of the files."""
