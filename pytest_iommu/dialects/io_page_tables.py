# SPDX-License-Identifier: GPL-2.0-only
"""v1, posted in August 2025: one file io_page_tables for all default domains (docs/io_page_tables.md).

    -- domain <pointer or id> --
    - group <number>
      - <device>
    ---[ RANGE START ]---
    <first> - <end>    lvl <level>  stage <format> <flags>
    ---[ RANGE END   ]---

``end`` is exclusive, levels are Arm's, a row is one leaf. Each flag has its column, which is blank where it is not set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from pytest_iommu.core.printed import Row, Table
from pytest_iommu.dialects.carried import LEFT_OUT, carried, fault
from pytest_iommu.dialects.text_dialect import Found, LiveFiles, LiveKernel, TextDialect
from pytest_iommu.formats.base import bits

RULE = "RNG-2"
FLAGS = ("V", "XN", "DBM", "AF", "SH_NS", "SH_OS", "SH_IS", "NS", "NST")
STAGES = {
    "ARM_32_LPAE_S1": "arm_32_lpae_s1",
    "ARM_32_LPAE_S2": "arm_32_lpae_s2",
    "ARM_64_LPAE_S1": "arm_64_lpae_s1",
    "ARM_64_LPAE_S2": "arm_64_lpae_s2",
    "ARM_V7S": None,
    "ARM_MALI_LPAE": None,
    "AMD_IOMMU_V1": "amdv1",
    "AMD_IOMMU_V2": "x86_64",
    "APPLE_DART": None,
    "APPLE_DART2": None,
}
ARM_PAGE_LEVEL = 3
START, END, FAILED = "---[ RANGE START ]---", "---[ RANGE END   ]---", "IOVA INFO DUMP FAIL..."
#: how tools that fold blanks write the end
_ENDS = (END, "---[ RANGE END ]---")
_DOMAIN = re.compile(r"-- domain (?:<)?([0-9]{1,10}|(?:0x)?[0-9a-f]{8,16}|\(_{2,4}ptrval_{2,4}\))(?:>)? --")
_GROUP = re.compile(r"- group (?:<)?[0-9]{1,10}(?:>)?")
_DEVICE = re.compile(r"  - [!-~]{1,128}")
_ROW = re.compile(r"([0-9a-f]{1,16}) - ([0-9a-f]{1,16})    lvl ([0-9])  stage ([A-Z0-9_]{4,32})(?: (.*))?")
#: without leading zeros, which a pointer may have
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,9}")
_COLUMNS = re.compile(" ".join(f"({flag}|{' ' * len(flag)})" for flag in FLAGS) + " *")
_WIDTH = sum(len(flag) + 1 for flag in FLAGS)


_XN, _DBM, _AF, _NS, _V = bits(54, 53), bits(51), bits(10), bits(5), bits(0)
_SH, _SHARED = bits(9, 8), {0: "SH_NS", 2: "SH_OS", 3: "SH_IS"}


def flags_of(raw: int, stage: int) -> tuple[str, ...]:
    """Return the flags of a leaf of an Arm table in the order of FLAGS; a leaf has no NST.

    SH is one field, and NS a bit of stage 1 alone: at stage 2 it is part of MemAttr.
    """
    held = {"V": raw & _V, "XN": raw & _XN == _XN, "DBM": raw & _DBM, "AF": raw & _AF, "NS": raw & _NS and stage == 1}
    held[_SHARED.get((raw & _SH) >> 8, "")] = True
    return tuple(flag for flag in FLAGS if held.get(flag))


@lru_cache(maxsize=1024)
def _flags(text: str) -> tuple[str, ...] | None:
    """Return the flags that are set; None if they are not in their columns."""
    match = _COLUMNS.fullmatch(text.ljust(_WIDTH))
    return None if match is None else tuple(flag for flag in match.groups() if flag.strip())


class IoPageTables(TextDialect):
    """A table a domain; its name is that of its first device, as the domain itself has only a pointer."""

    name = "io_page_tables"
    about = "v1, /sys/kernel/debug/io_page_tables, as posted in August 2025"
    place = "../{file}"
    files = ("io_page_tables",)
    heading = re.compile(r"-- domain |---\[ RANGE |[0-9a-f]+ - [0-9a-f]+ +lvl [0-9]+ +stage ")
    rules = ("V1-1", "V1-2", "V1-3", "V1-4", "RNG-1", "RNG-2", "LVL-1", "LVL-2", "PRT-3")
    # The second one is that of the patch as it was posted.
    options = ("IO_PAGE_TABLES_DEBUGFS", "IO_PTDUMP_DEBUGFS")

    def live(self, kernel: LiveKernel) -> Sequence[LiveFiles]:
        """The one file, at the top of debugfs."""
        return [LiveFiles({name: name}) for name in self.files if name in kernel.names("")]

    def file(self, name: str, text: str, found: Found) -> None:
        lines = carried(RULE, name, text)
        at = 0
        while at < len(lines):
            if not lines[at]:
                at += 1
                continue
            at = _domain(name, lines, at, found)


def _domain(name: str, lines: list[str], at: int, found: Found) -> int:
    """Read one domain that begins at index ``at``; returns where it ends."""
    begun, heading = at + 1, _DOMAIN.fullmatch(lines[at])
    if heading is None:
        raise fault(RULE, name, begun, lines[at], "expected `-- domain ID --`")
    devices: list[str] = []
    groups = 0
    at += 1
    while at < len(lines) and lines[at] != START:
        if _GROUP.fullmatch(lines[at]):
            groups += 1
        elif groups and _DEVICE.fullmatch(lines[at]):
            devices.append(lines[at].strip(" -"))
        elif lines[at]:
            raise fault(RULE, name, at + 1, lines[at], f"expected a group, a device or `{START}`")
        at += 1
    if at == len(lines):
        raise fault(RULE, name, at, lines[-1], f"the file ends before `{START}`")
    if not groups:
        raise fault(RULE, name, begun, lines[begun - 1], "a domain without a group")
    rows, end, which, whole = _rows(name, lines, at + 1)
    shown = heading[1]
    found.tables.append(
        Table(
            file=name,
            line=begun,
            name=devices[0] if devices else shown,
            rows=tuple(rows),
            format=which,
            stage={"1": 1, "2": 2}.get(which[-1]) if which and which.startswith("arm") else None,
            whole=whole,
            leaves=True,
            pointer="" if _DECIMAL.fullmatch(shown) else shown,
        )
    )
    return end + 1


def _rows(name: str, lines: list[str], at: int) -> tuple[list[Row], int, str | None, bool]:
    """Read the rows; returns them, the index of the line that ends them, their format, and whether all are there."""
    rows: list[Row] = []
    stage, whole, match_row = "", True, _ROW.fullmatch
    for index in range(at, len(lines)):
        line = lines[index]
        match = match_row(line)
        if match is None:
            if line in _ENDS:
                return rows, index, STAGES.get(stage), whole
            if not line:
                continue
            if line == LEFT_OUT:
                whole = False
                continue
            if line == FAILED:
                raise fault(RULE, name, index + 1, line, "an error sentence instead of a table")
            raise fault(RULE, name, index + 1, line, "not a row `first - end    lvl N  stage FORMAT flags`")
        first_text, end_text, level, here, rest = match.groups()
        if here != stage:
            if here not in STAGES:
                raise fault(RULE, name, index + 1, line, f"unknown stage {here}")
            if stage:
                raise fault(RULE, name, index + 1, line, f"stage {here} after {stage} in one domain")
            stage = here
        flags = _flags(rest or "")
        if flags is None:
            raise fault("PRT-3", name, index + 1, line, f"flags are not in the columns {' '.join(FLAGS)}")
        first, end = int(first_text, 16), int(end_text, 16)
        if first and not end:  # the last page of 64 bits
            end = 1 << 64
        generic = ARM_PAGE_LEVEL - int(level)
        if generic < 0:
            raise fault("LVL-1", name, index + 1, line, f"Arm has no level {level}")
        arm = here.startswith("ARM_") and here != "ARM_V7S"
        rows.append(Row(index + 1, first, end - 1, None, generic if arm else None, end - first, None, "", flags))
    raise fault(RULE, name, len(lines), lines[-1], f"the file ends before `{END}`")


IO_PAGE_TABLES = IoPageTables()
