# SPDX-License-Identifier: GPL-2.0-only
"""The file groups: which device is in which group, and on which domain (abi.md, GRP-1 to GRP-3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import split_lines

KINDS = ("dma", "dma-fq", "unmanaged", "identity", "blocked", "sva", "nested", "platform", "none")
_LINE = re.compile(rf"(0|[1-9]\d*) (\S+) (-|[1-9]\d*) ({'|'.join(KINDS)}) (-|[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class GroupLine:
    """One line of groups. ``pasid`` is None for DMA without one, ``domain`` the id in domains/ or ``-``."""

    group: int
    device: str
    pasid: int | None
    kind: str
    domain: str


def parse_groups(text: str) -> tuple[GroupLine, ...]:
    """Parse the file groups. DumpSyntaxError (GRP-1) at the first malformed line, or if the last one is cut off."""
    errors: list[DumpSyntaxError] = []
    lines = split_lines("groups", "GRP-1", text, errors)
    if errors:
        raise errors[0]
    rows: list[GroupLine] = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DumpSyntaxError("GRP-1", "groups", number, line, "not `group device PASID kind domain`")
        group, device, pasid, kind, domain = match.groups()
        rows.append(GroupLine(int(group), device, None if pasid == "-" else int(pasid), kind, domain))
    return tuple(rows)
