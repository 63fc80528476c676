# SPDX-License-Identifier: GPL-2.0-only
"""The guest's console: a file that QEMU writes, read by offset and scanned for the reports of a broken kernel.

It must be a file, not a socket: the PL011 writes single bytes, and a socket that nobody reads is full after 278 of
them. The vCPU then blocks while it holds QEMU's big lock, and guest and QMP hang forever.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_iommu.guest import kcsan

READ_LIMIT = 4 << 20
"""Maximum number of bytes per scan; more is skipped. The taint word is the second witness of a fault."""

SPLAT_LINES = 60
RACE_LINES = 160
"""A KCSAN report has two stacks of up to 64 entries each, and all entries are needed to judge it."""
RACE_BYTES = 32 << 10

# A message starts a line, after the time stamp and, with CONFIG_PRINTK_CALLER, the caller. Anchoring it there keeps the
# kernel command line ("oops=panic"), help texts and driver messages that merely contain the words from matching.
_START = r"^(?:<\d+>)?(?:\[ *\d+\.\d+\] *)?(?:\[ *[TC]\d+\] *)?"

_KINDS = (
    ("panic", r"Kernel panic - not syncing"),
    ("oops", r"Unable to handle kernel|Internal error: |Oops: |Oops - |BUG: unable to handle|kernel BUG at"),
    ("kcsan", re.escape(kcsan.TITLE)),
    ("kasan", r"BUG: K[A-Z]*SAN: "),
    ("lockdep", r"WARNING: (?:possible|inconsistent|suspicious|bad unlock|held lock|lock held|Nested lock)|"
                r"BUG: (?:MAX_LOCK|looking up|key .* has not been registered)|INFO: trying to register non-static key|"
                r"\[ BUG: "),
    ("soft-lockup", r"(?:watchdog: )?BUG: soft lockup|(?:watchdog: )?Watchdog detected hard LOCKUP"),
    ("rcu-stall", r"(?:rcu: )?INFO: rcu\w* (?:self-)?detected (?:expedited )?stall|rcu: rcu_\w+ kthread starved"),
    ("hung-task", r"INFO: task .* blocked (?:for more than|in I/O wait)"),
    ("bug", r"BUG: |UBSAN: |ODEBUG: |kmemleak: \d+ new suspected"),
    ("warning", r"WARNING: "),
)  # fmt: skip
_FIRST = re.compile(_START + "(?P<line>(?:" + "|".join(pattern for _, pattern in _KINDS) + ").*)", re.MULTILINE)
_KIND = tuple((kind, re.compile(pattern)) for kind, pattern in _KINDS)
_CUT_HERE = "------------[ cut here ]------------"
_RULER = re.compile(_START + r"={20,}\s*$")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)|" + _START + r"={20,}\s*$", re.MULTILINE)

TAINT_BITS = {4: "machine check", 5: "bad page", 7: "died", 9: "warned", 14: "soft lockup"}
"""Taint bits of a broken kernel (Documentation/admin-guide/tainted-kernels.rst)."""

TAINT_MASK = sum(1 << bit for bit in TAINT_BITS)


@dataclass(frozen=True, slots=True)
class Splat:
    """One report of a broken kernel: its kind, its title line, and the text around it."""

    kind: str
    title: str
    text: str


class RaceElsewhere(UserWarning):
    """KCSAN reported a data race outside the dump (guest/kcsan.py): listed once at the end of a run, not a failure."""


def scan(text: str) -> Splat | None:
    """Return the first splat in a console or kernel log text that fails a test, or None."""
    return next((splat for splat in splats(text) if counts(splat)), None)


def counts(splat: Splat) -> bool:
    """Whether a report fails the test: all do, except KCSAN reports of races outside the dump."""
    return splat.kind != "kcsan" or kcsan.concerns_dump(splat.text)


def splats(text: str) -> Iterator[Splat]:
    """Yield all splats of a text, in order, including further titles within a report."""
    return (_splat(text, match) for match in _FIRST.finditer(text))


def _splat(text: str, match: re.Match[str]) -> Splat:
    title = match["line"].strip()
    kind = next(kind for kind, pattern in _KIND if pattern.match(title))
    limit = RACE_LINES if kind == "kcsan" else SPLAT_LINES
    start = text.rfind("\n", 0, match.start()) + 1
    before = text[text.rfind("\n", 0, max(start - 1, 0)) + 1 : start].rstrip("\n")
    lines = text[start : start + RACE_BYTES].splitlines()[:limit]
    for number, line in enumerate(lines):
        if number and _END.search(line):
            del lines[number + 1 :]
            break
    if _CUT_HERE in before or _RULER.match(before):
        lines.insert(0, before)
    return Splat(kind, title, "\n".join(lines))


def taint_words(taint: int) -> str:
    """Return the names of the bad bits of a taint word, or the empty string."""
    return ", ".join(word for bit, word in TAINT_BITS.items() if taint >> bit & 1)


class Console:
    """Reads a console file that another process appends to. The caller keeps ownership of ``fd``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._fd).st_size

    def scan_new(self) -> Splat | None:
        """Return the first splat since the last call; an incomplete end is left for the next call.

        Warns about every data race outside the dump (RaceElsewhere).
        """
        size = self.size
        start = max(self._offset, size - READ_LIMIT)
        data = os.pread(self._fd, size - start, start)
        end = _finished(data)
        self._offset = start + end
        for splat in splats(_text(data[:end])):
            if counts(splat):
                return splat
            warnings.warn(f"{splat.title.removeprefix('BUG: ')}: not in the dump's code", RaceElsewhere, stacklevel=1)
        return None

    def scan_all(self) -> Splat | None:
        """Return the first splat of the console's last READ_LIMIT bytes, including an incomplete last line."""
        return scan(self.tail(READ_LIMIT))

    def tail(self, limit: int = 16384) -> str:
        """Return the last ``limit`` bytes as text."""
        size = self.size
        start = max(0, size - limit)
        return _text(os.pread(self._fd, size - start, start))


def _finished(data: bytes) -> int:
    """Return how much can be scanned: whole lines, and no partial KCSAN report, whose stacks are judged together."""
    end = data.rfind(b"\n") + 1
    title = data.rfind(kcsan.TITLE.encode(), 0, end)
    if title < 0 or end - title > RACE_BYTES or data.find(kcsan.RULER.encode(), title, end) >= 0:
        return end
    return data.rfind(b"\n", 0, title) + 1


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
