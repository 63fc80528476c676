# SPDX-License-Identifier: GPL-2.0-only
"""The guest's console: a file that QEMU writes, read by offset and scanned for what a kernel says when it breaks.

A file and never a socket: the PL011 writes single bytes, and an unread socket is full after 278 of them; then the
vCPU blocks holding QEMU's big lock, and guest and QMP are dead for good.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_iommu.guest import kcsan

READ_LIMIT = 4 << 20
"""Most bytes looked at by one scan; a flood beyond that is skipped, the taint word is the second witness."""

SPLAT_LINES = 60
RACE_LINES = 160
"""KCSAN's two stacks have up to 64 entries each, and none of them can be left out when it is judged."""
RACE_BYTES = 32 << 10

# A message starts a line: after the time stamp and, with CONFIG_PRINTK_CALLER, the caller. Anchoring keeps the kernel
# command line ("oops=panic"), help texts and driver messages that merely contain the words from being splats.
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
"""Taint bits that say that the kernel broke (Documentation/admin-guide/tainted-kernels.rst)."""

TAINT_MASK = sum(1 << bit for bit in TAINT_BITS)


@dataclass(frozen=True, slots=True)
class Splat:
    """One report of a broken kernel: its kind, the line that names it, and the text around it."""

    kind: str
    title: str
    text: str


class RaceElsewhere(UserWarning):
    """KCSAN saw a data race that is not the dump's (guest/kcsan.py): said once at the end of a run, and no failure."""


def scan(text: str) -> Splat | None:
    """The first splat in a console or kernel log text that fails a test, or None."""
    return next((splat for splat in splats(text) if counts(splat)), None)


def counts(splat: Splat) -> bool:
    """Whether a report fails the test: all do, but of KCSAN's only those that are the dump's."""
    return splat.kind != "kcsan" or kcsan.concerns_dump(splat.text)


def splats(text: str) -> Iterator[Splat]:
    """All splats in a text, in order; further titles within a report are given, too."""
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
    """The names of the bad bits of a taint word, or the empty string."""
    return ", ".join(word for bit, word in TAINT_BITS.items() if taint >> bit & 1)


class Console:
    """Reads a console file that another process appends to. ``fd`` stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._fd).st_size

    def scan_new(self) -> Splat | None:
        """The first splat in what was written since the last call; an unfinished end is left for the next.

        Warns of every race elsewhere on the way (RaceElsewhere).
        """
        size = self.size
        start = max(self._offset, size - READ_LIMIT)
        data = os.pread(self._fd, size - start, start)
        end = _finished(data)
        self._offset = start + end
        for splat in splats(_text(data[:end])):
            if counts(splat):
                return splat
            warnings.warn(f"{splat.title.removeprefix('BUG: ')}: not the dump's", RaceElsewhere, stacklevel=1)
        return None

    def scan_all(self) -> Splat | None:
        """The first splat of the whole console's last READ_LIMIT bytes, unfinished line included."""
        return scan(self.tail(READ_LIMIT))

    def tail(self, limit: int = 16384) -> str:
        """The last ``limit`` bytes as text."""
        size = self.size
        start = max(0, size - limit)
        return _text(os.pread(self._fd, size - start, start))


def _finished(data: bytes) -> int:
    """How much can be scanned: whole lines, and no part of a race, which is judged by all of its stacks."""
    end = data.rfind(b"\n") + 1
    title = data.rfind(kcsan.TITLE.encode(), 0, end)
    if title < 0 or end - title > RACE_BYTES or data.find(kcsan.RULER.encode(), title, end) >= 0:
        return end
    return data.rfind(b"\n", 0, title) + 1


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
