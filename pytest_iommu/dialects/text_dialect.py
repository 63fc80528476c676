# SPDX-License-Identifier: GPL-2.0-only
"""What the dialects of other kernels share: one parser for all of their files, told apart by their headings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from pytest_iommu.core.printed import Context, PrintedDump, Stream, Table
from pytest_iommu.dialects.dialect import DumpSyntaxError

_BEGINNING = 65536
"""Characters in which the heading of a text must be."""


class LiveKernel(Protocol):
    """A kernel that runs, as far as dialects ask for its files. Paths are relative to debugfs."""

    def names(self, path: str) -> Set[str]:
        """Return the names in a directory; none if there is no such directory."""

    def devices(self) -> Sequence[str]:
        """Return the names of the devices that have an IOMMU, e.g. ``0000:00:02.0``."""


@dataclass(frozen=True, slots=True)
class LiveFiles:
    """The files of one dump in a kernel that runs. Paths are relative to debugfs.

    ``paths``: the names that parse() is given -> where the files are. ``first``: what is written before they are read,
    path and text. ``optional``: one that cannot be read says that there is nothing to show.
    """

    paths: Mapping[str, str]
    first: tuple[tuple[str, str], ...] = ()
    optional: bool = False


class Found:
    """What the files of one dump hold, as they are read."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.streams: list[Stream] = []
        self.contexts: list[Context] = []

    def dump(self, texts: Mapping[str, str]) -> PrintedDump:
        """Return it as a dump."""
        return PrintedDump(
            texts=dict(texts),
            tables=tuple(self.tables),
            streams=tuple(self.streams),
            contexts=tuple(self.contexts),
        )


class TextDialect:
    """A dialect with the method ``file``; the names of files are free, because a saved text may have any.

    ``about`` says where the text comes from. ``heading`` matches a line by which the dialect is known. ``rules`` are
    those that a text can break, ``options`` the kernel configuration's symbols that bring its files.
    """

    name = ""
    about = ""
    place = "{domain}/{file}"
    files: tuple[str, ...] = ()
    heading: re.Pattern[str]
    blank = False
    """Whether the file of a device without a table is empty on a kernel that runs."""
    rules: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def probe(self, names: Set[str]) -> bool:
        """Whether one of the dialect's files is in the directory."""
        return any(file in names for file in self.files)

    def live(self, kernel: LiveKernel) -> Sequence[LiveFiles]:
        """Return the dumps of a kernel that runs, none if it does not speak this dialect."""
        return ()

    def claims(self, text: str) -> bool:
        """Whether the text has a line by which this dialect is known, right or wrong as the text may be."""
        beginning = text[:_BEGINNING]
        lines = re.sub(r"^(?:> ?)*(?:\[[ 0-9.]{1,24}\] ?)?", "", beginning, flags=re.MULTILINE).split("\n")
        return any(self.heading.match(line) for line in lines)

    def file(self, name: str, text: str, found: Found) -> None:
        """Add what one file holds to ``found``. DumpSyntaxError at the first bad line."""
        raise NotImplementedError

    def parse(self, texts: Mapping[str, str]) -> PrintedDump:
        """Parse the files of one dump, by name. DumpSyntaxError at the first bad line."""
        found = Found()
        for name, text in texts.items():
            self.file(name, text, found)
        return found.dump(texts)

    def read(self, texts: Mapping[str, str]) -> tuple[PrintedDump, list[DumpSyntaxError]]:
        """Parse them, without those that have a bad line; the first one of each file is returned."""
        found, errors = Found(), []
        for name, text in texts.items():
            try:
                self.file(name, text, found)
            except DumpSyntaxError as error:
                errors.append(error)
        return found.dump(texts), errors
