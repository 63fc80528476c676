# SPDX-License-Identifier: GPL-2.0-only
"""The lines of a text that was saved, mailed or copied from a log, without what carrying it has added.

Accepted, if it is on every line: quotation marks of a mail, time stamps of the kernel log. Blanks at the end of a line
are removed. Everything else that no kernel prints is an error: CR LF, characters other than ASCII, control characters
other than a tab, a line as long as no row can be, a last line without its end, and an empty file.
"""

from __future__ import annotations

import re

from pytest_iommu.dialects.dialect import DumpSyntaxError

LONGEST = 4096
"""Characters of the longest line; rows of all known dialects have less than 200."""
SHOWN = 160
"""Characters of a wrong line that an error shows."""
LEFT_OUT = "[...]"
"""Stands for rows that somebody has left out."""
PCI_NAME = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
_DIRECTORY = re.compile(rf"(?:^|/)({PCI_NAME})/(?:[0-9a-f]{{1,5}}/)?[^/]*$")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_QUOTED = re.compile(r"(?:> ?)+")
_STAMP = re.compile(r"\[ {0,12}[0-9]{1,12}\.[0-9]{6}\](?:\[ *[TC][0-9]+\])? ?")


def fault(rule: str, file: str, number: int, line: str, why: str) -> DumpSyntaxError:
    """Return the error, with a line that can be shown."""
    return DumpSyntaxError(rule, file, number, line if len(line) <= SHOWN else f"{line[:SHOWN]}...", why)


def device_of(name: str) -> str | None:
    """Return the PCI device in whose directory, or in one below of a PASID, a file is; None if it is elsewhere."""
    found = _DIRECTORY.search(name)
    return None if found is None else found[1]


def carried(rule: str, file: str, text: str) -> list[str]:
    """Return the lines; number N has index N - 1. DumpSyntaxError, with the given rule, for the first bad one."""
    if not text:
        raise fault(rule, file, 1, "", "the file is empty")
    lines = text.split("\n")
    last = lines.pop()
    _characters(rule, file, text, [*lines, last])
    if last:
        raise fault(rule, file, len(lines) + 1, last, "the last line has no newline: the file is truncated")
    start = next((line for line in lines if line.strip()), "")
    quoted, stamped = start.startswith(">"), _STAMP.match(_QUOTED.sub("", start, count=1)) is not None
    if quoted or stamped or "[" in text:
        lines = [_bare(rule, file, number, line, quoted, stamped) for number, line in enumerate(lines, 1)]
    lines = [line.rstrip(" \t") for line in lines]
    if not any(lines):
        raise fault(rule, file, 1, lines[0], "the file is blank")
    return lines


def _characters(rule: str, file: str, text: str, lines: list[str]) -> None:
    if len(text) > LONGEST and max(map(len, lines)) > LONGEST:
        number = next(number for number, line in enumerate(lines, 1) if len(line) > LONGEST)
        raise fault(rule, file, number, lines[number - 1], f"a line of {len(lines[number - 1])} characters")
    if "\r" in text:
        number = next(number for number, line in enumerate(lines, 1) if "\r" in line)
        raise fault(rule, file, number, lines[number - 1], "a carriage return: a kernel ends lines with LF alone")
    if not text.isascii():
        number = next(number for number, line in enumerate(lines, 1) if not line.isascii())
        raise fault(rule, file, number, lines[number - 1], "characters that are not ASCII")
    # Python takes some of them for blanks.
    if (control := _CONTROL.search(text)) is not None:
        number = text.count("\n", 0, control.start()) + 1
        raise fault(rule, file, number, lines[number - 1], f"a control character, {control[0]!r}")


def _bare(rule: str, file: str, number: int, line: str, quoted: bool, stamped: bool) -> str:
    if quoted:
        match = _QUOTED.match(line)
        if match is None and line.strip():
            raise fault(rule, file, number, line, "not quoted, unlike the lines above")
        line = line[match.end() :] if match else ""
    stamp = _STAMP.match(line)
    if stamped:
        if stamp is None and line.strip() not in ("", LEFT_OUT):
            raise fault(rule, file, number, line, "no time stamp, unlike the lines above")
        return line[stamp.end() :] if stamp else line
    if stamp is not None:
        raise fault(rule, file, number, line, "a message of the kernel log between the lines")
    return line
