# SPDX-License-Identifier: GPL-2.0-only
"""Extracts the errors from the output of a failed build, with the paths of the files that the user edits.

Kernels are built from a link copy in the cache, test modules from a copy of our sources. An editor that opened a copy
would change it and not the original, so messages must not name copies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

SHOWN = 15
_ERROR = re.compile(r"\berror\b:|undefined reference|No space left|Killed|not found|cannot find", re.IGNORECASE)
_MAKE = re.compile(r"\*\*\* ")
_QUOTED = re.compile(r"^ *\d* \| ")
"""A source line quoted by the compiler, or the line with the caret below it."""
_INCLUDED = re.compile(r"^(In file included| +) from ")


_NAMED = re.compile(r"^(?P<before>(?:In file included| +) from )?(?P<file>[\w-][\w./+-]*\.\w+):\d+")
"""A message about a file with a relative path."""


class Originals:
    """Replaces paths in copies by the originals' paths: ``copies`` maps a copy's directory to a function.

    The function gets the path within the copy, and returns the original's, or None if unknown. ``relative`` is the
    function for paths without a copy's directory.
    """

    def __init__(
        self, copies: Mapping[Path, Callable[[str], Path | None]], relative: Callable[[str], Path | None]
    ) -> None:
        self._relative = relative
        # kbuild names files by absolute paths, or by relative ones that lead out of the build directory.
        names = "|".join(re.escape(path.name) for path in copies)
        self._path = re.compile(rf"(?<![\w.-])[\w./~+-]*/(?P<copy>{names})/(?P<file>[^\s:,'\"`()\]]+)")
        self._origin = {path.name: origin for path, origin in copies.items()}

    def __call__(self, line: str) -> str:
        """Return the line with the originals' paths."""
        found = _NAMED.match(line)
        original = self._relative(found["file"]) if found else None
        if found and original is not None:
            return f"{found['before'] or ''}{original}{line[found.end('file') :]}"
        return self._path.sub(self._of, line)

    def _of(self, found: re.Match[str]) -> str:
        original = self._origin[found["copy"]](found["file"])
        return found[0] if original is None else str(original)


def shown(lines: Sequence[str], originals: Callable[[str], str]) -> list[str]:
    """Return the useful lines of a failed build's output, at most SHOWN.

    These are errors with their quoted source; without any, make's own errors; otherwise the last lines.
    """
    chosen = list(_errors(lines)) or [line for line in lines if _MAKE.search(line)] or list(lines[-SHOWN:])
    return [originals(line) for line in chosen[:SHOWN]]


def _errors(lines: Sequence[str]) -> Iterator[str]:
    included: list[str] = []
    quoting = False
    for line in lines:
        if _INCLUDED.match(line):
            included.append(line)
        elif _ERROR.search(line) and not _MAKE.search(line):
            yield from included
            yield line
            included, quoting = [], True
        elif quoting and _QUOTED.match(line):
            yield line
        else:
            included, quoting = [], False
