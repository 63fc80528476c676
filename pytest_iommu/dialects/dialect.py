# SPDX-License-Identifier: GPL-2.0-only
"""What a dialect is: one parser from the text that some kernel prints to the words of model.py."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

from pytest_iommu.core.model import Dump


class DumpSyntaxError(ValueError):
    """A line that does not follow the grammar, and the rule of abi.md that it breaks.

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
    """Where a file of a domain is, below the IOMMU's debugfs directory: ``{domain}`` is its id, ``{file}`` the file."""

    def probe(self, names: Set[str]) -> bool:
        """Whether a directory of the guest with these names in it speaks this dialect."""

    def parse(self, texts: Mapping[str, str]) -> Dump:
        """All files of one domain, by name; files that are absent stay None. DumpSyntaxError at the first bad line."""

    def read(self, texts: Mapping[str, str]) -> tuple[Dump, list[DumpSyntaxError]]:
        """Like parse, but keeps what can be understood of bad lines and returns every error, in order of the files."""
