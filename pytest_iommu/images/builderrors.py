# SPDX-License-Identifier: GPL-2.0-only
"""What is shown of a build that failed: the compiler's errors, with the paths of the files that the user edits.

Kernels are built of a link copy in the cache, test modules of a copy of our sources. An editor that opens a copy would
change it and not the original, so no message names one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

SHOWN = 15
_ERROR = re.compile(r"\berror\b:|undefined reference|No space left|Killed|not found|cannot find", re.IGNORECASE)
_MAKE = re.compile(r"\*\*\* ")
_QUOTED = re.compile(r"^ *\d* \| ")
"""A line of the source that the compiler quotes, and the one with the caret below it."""
_INCLUDED = re.compile(r"^(In file included| +) from ")


_NAMED = re.compile(r"^(?P<before>(?:In file included| +) from )?(?P<file>[\w-][\w./+-]*\.\w+):\d+")
"""A message about a file, by a relative path."""


class Originals:
    """Names the originals of files in copies: ``copies`` maps a copy's directory to what its files are copied from.

    The function gets the path within the copy, and gives the original's, or None where that is not known. ``relative``
    is that for names without a directory of a copy before them.
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
        """The line with the originals' paths in it."""
        found = _NAMED.match(line)
        original = self._relative(found["file"]) if found else None
        if found and original is not None:
            return f"{found['before'] or ''}{original}{line[found.end('file') :]}"
        return self._path.sub(self._of, line)

    def _of(self, found: re.Match[str]) -> str:
        original = self._origin[found["copy"]](found["file"])
        return found[0] if original is None else str(original)


def shown(lines: Sequence[str], originals: Callable[[str], str]) -> list[str]:
    """The lines worth reading of what a failed build printed, at most SHOWN.

    Errors with the source that the compiler quotes; where there are none make's own, else the last lines.
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
