# SPDX-License-Identifier: GPL-2.0-only
"""What the dumps of other kernels say, with the line of the file that says it.

These kernels show less than abi.md asks for, and each of them something else: what a text does not say is None.
Levels are those of generic_pt, ``last`` is inclusive, addresses and sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_iommu.core.model import Cd, Dump, Prot, Ste


class Row(NamedTuple):
    """One row of a page table. A tuple, because there may be millions.

    ``columns`` are the letters of ``prot`` that the text can show; ``size`` is the size as printed; ``raw`` are the
    items on the path to the leaf, the top's first. ``mapped`` is False for a hole, None if the row does not say.
    """

    line: int
    first: int
    last: int
    oa: int | None = None
    level: int | None = None
    leaf: int | None = None
    prot: Prot | None = None
    columns: str = ""
    flags: tuple[str, ...] = ()
    size: int | None = None
    raw: tuple[int, ...] = ()
    mapped: bool | None = True


@dataclass(frozen=True, slots=True)
class Table:
    """One page table of a text, from ``line`` on. ``name`` is that of the device or domain, as printed.

    ``format`` is a name of formats/ if the text says which one; ``top`` a physical address. ``whole`` is False where
    rows were left out (``[...]``). ``points``: rows are single addresses, whose extent is unknown. ``leaves``: a row is
    one leaf. ``by_columns``: attributes are those of arm64's dumps, where BLK tells blocks from pages. ``pointer`` is
    what looks like a kernel pointer in the heading. ``domain`` is the id in domains/ that the heading names.
    """

    file: str
    line: int
    name: str
    rows: tuple[Row, ...] = ()
    format: str | None = None
    top: int | None = None
    levels: int | None = None
    pasid: int | None = None
    stage: int | None = None
    whole: bool = True
    points: bool = False
    leaves: bool = False
    by_columns: bool = False
    pointer: str = ""
    domain: int | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream table entry or context descriptor of a text; ``lines`` has the line of each field that it shows.

    ``name`` is the device's, empty where the text has stream ids.
    """

    file: str
    line: int
    entry: Ste | Cd
    lines: Mapping[str, int] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """One row of VT-d's dmar_translation_struct. Entries are words, the highest first, as printed."""

    file: str
    line: int
    iommu: str
    device: str
    root: tuple[int, ...]
    context: tuple[int, ...]
    pasid: int
    entry: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrintedDump(Dump):
    """A dump in the text form of another kernel."""

    tables: tuple[Table, ...] = ()
    streams: tuple[Stream, ...] = ()
    contexts: tuple[Context, ...] = ()
