# SPDX-License-Identifier: GPL-2.0-only
"""The words everything shares: entries, ranges, permissions and what a dump file says.

Terms are those of the kernel's generic_pt glossary (drivers/iommu/generic_pt/pt_defs.h, "Generic Page Table
Language"): level 0 is the table whose leaves are the smallest pages, OA is the output address. All addresses and
sizes are in bytes; ``last`` is always inclusive, so the last page of a 64-bit space is representable.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_ADDRESSES = {
    *("address", "aperture", "first", "iova", "last", "mair", "oa", "origin", "raw", "s1_context_ptr", "s2ttb"),
    *("top", "ttb0", "words"),
}
_SIZES = {"bytes", "granule", "leaf", "page_sizes", "size", "tg0"}


def readable(name: str, value: Any) -> str:
    """The value of a field as a reader compares it: addresses in hexadecimal, sizes as ``4K``, prot as ``rw-c--``."""
    if isinstance(value, tuple) and name in _ADDRESSES | _SIZES:
        return f"({', '.join(readable(name, one) for one in value)})"
    if isinstance(value, (Prot, StrEnum)):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if name in _ADDRESSES:
            return f"{value:#x}"
        if name in _SIZES:
            return format_size(value)
    return repr(value)


class Readable:
    """A dataclass whose repr, which pytest shows of an assertion that failed, is written by readable()."""

    __slots__ = ()

    def __repr__(self: DataclassInstance) -> str:
        shown = ", ".join(f"{one.name}={readable(one.name, getattr(self, one.name))}" for one in fields(self))
        return f"{type(self).__name__}({shown})"


class Kind(StrEnum):
    """What one entry of a table is (abi.md, ENT-1). Only the path of a lookup ends at an EMPTY one (LKP-2)."""

    TABLE = "table"
    LEAF = "leaf"
    PART = "part"
    BAD = "bad"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Prot:
    """The six permission columns of a leaf entry (abi.md, PRT-1)."""

    read: bool = False
    write: bool = False
    execute: bool = False
    cacheable: bool = False
    device: bool = False
    privileged: bool = False

    COLUMNS = "rwxcmp"

    def __repr__(self) -> str:
        return f"Prot({str(self)!r})"

    def __str__(self) -> str:
        bits = (self.read, self.write, self.execute, self.cacheable, self.device, self.privileged)
        return "".join(letter if bit else "-" for letter, bit in zip("rwxcmp", bits, strict=True))

    @classmethod
    def parse(cls, text: str) -> Prot:
        """Read the six columns, e.g. ``rw-c--``. ValueError when the text is not exactly that."""
        if len(text) != 6 or any(have not in (want, "-") for have, want in zip(text, "rwxcmp", strict=False)):
            raise ValueError(f"not a prot column: {text!r}")
        return cls(*(have != "-" for have in text))

    @classmethod
    def from_letters(cls, letters: str) -> Prot:
        """Read a set of letters in any order, e.g. ``rwc``; a scenario's ``prot``. ValueError on others or doubles."""
        if len(set(letters)) != len(letters) or not set(letters) <= set("rwxcmp"):
            raise ValueError(f"prot takes each of r w x c m p at most once, not {letters!r}")
        return cls(*(letter in letters for letter in "rwxcmp"))


@dataclass(frozen=True, slots=True, repr=False)
class Leaf(Readable):
    """One leaf entry: ``leaf`` bytes from ``iova`` translate to ``oa`` (a contiguous group is one leaf, LVL-2).

    ``flags`` are those that page_table shows, in the format's order; ``volatile`` those that only entries shows.
    """

    iova: int
    oa: int
    level: int
    leaf: int
    prot: Prot
    flags: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()
    raw: int | None = None

    @property
    def last(self) -> int:
        return self.iova + self.leaf - 1


@dataclass(frozen=True, slots=True, repr=False)
class Range(Readable):
    """One line of page_table: neighbouring leaves merged by RNG-3."""

    first: int
    last: int
    oa: int
    level: int
    leaf: int
    prot: Prot
    flags: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, repr=False)
class Entry(Readable):
    """One line of entries. ``size`` is the leaf size in bytes (None for all that are no leaves)."""

    level: int
    iova: int
    kind: Kind
    size: int | None
    oa: int
    raw: int
    prot: Prot | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class LevelStats(Readable):
    """One line of stats."""

    level: int
    tables: int
    leaves: int
    bytes: int


@dataclass(frozen=True, slots=True, repr=False)
class Stats(Readable):
    """The whole stats file, levels from the top down, and its ``total`` line (whose level is -1)."""

    levels: tuple[LevelStats, ...]
    total: LevelStats


@dataclass(frozen=True, slots=True, repr=False)
class Info(Readable):
    """The info file (abi.md, INF-1 to INF-3)."""

    format: str
    type: str
    aperture: tuple[int, int]
    page_sizes: tuple[int, ...]
    levels: int
    top: int


@dataclass(frozen=True, slots=True)
class Dump:
    """All that one domain's directory says, parsed; a part is None when its file was not read."""

    info: Info | None = None
    ranges: tuple[Range, ...] | None = None
    entries: tuple[Entry, ...] | None = None
    stats: Stats | None = None
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class Mapping(Readable):
    """One live mapping of a domain as the mapping list says it: what EXPECTED is computed from.

    ``leaf`` is the leaf size asked for, or None where the kernel chooses; ``origin`` is the (iova, oa, size) of the
    map call it is part of, which decides how the kernel cut it into leaves.
    """

    iova: int
    oa: int
    size: int
    prot: Prot
    leaf: int | None = None
    origin: tuple[int, int, int] | None = None

    @property
    def last(self) -> int:
        return self.iova + self.size - 1


@dataclass(frozen=True, slots=True, repr=False)
class TableConfig(Readable):
    """The configuration of one page table, enough to encode and decode it.

    ``granule`` and ``page_sizes`` in bytes, ``ias`` and ``oas`` in bits (input and output address size),
    ``features`` are words a format knows (e.g. ``hd`` for hardware dirty, ``fwb``, ``force_coherence``).
    """

    format: str
    granule: int
    ias: int
    oas: int
    page_sizes: tuple[int, ...]
    levels: int
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, repr=False)
class Ste(Readable):
    """A stream table entry of an SMMUv3, as the file ``ste`` says it or as decoded from its ``words`` (abi.md, STE-2).

    ``config`` is the word that the file has for it; an address that Config gives no meaning is 0; ``words`` are the
    eight 64-bit words; ``domain`` the id of the domain whose top ``s2ttb`` is, None where there is none. ``without``
    says what it means that there is none, such as ``identity``.
    """

    sid: int
    valid: bool
    config: str
    s1_context_ptr: int
    s2ttb: int
    words: tuple[int, ...]
    domain: int | None = None
    without: str = "unknown"


@dataclass(frozen=True, slots=True, repr=False)
class Cd(Readable):
    """A context descriptor of an SMMUv3, as the file ``cd`` says it or as decoded from its ``words`` (abi.md, STE-6).

    ``tg0`` is the granule in bytes, None for the reserved value; ``ips`` in bits; ``words`` are the eight 64-bit words;
    ``domain`` the id of the domain whose top ``ttb0`` is, None where there is none or ``epd0`` is set; ``without`` as
    in Ste.
    """

    sid: int
    ssid: int
    valid: bool
    asid: int
    t0sz: int
    tg0: int | None
    ips: int
    epd0: bool
    ttb0: int
    mair: int
    words: tuple[int, ...]
    domain: int | None = None
    without: str = "unknown"


@dataclass(frozen=True, slots=True, repr=False)
class Event(Readable):
    """One record of an SMMUv3's event queue: what went wrong for which stream.

    ``name`` is the specification's, e.g. ``F_TRANSLATION``. ``ssid``, ``iova``, ``write``, ``stage`` (1 or 2) and
    ``access`` (what the SMMU was reading: ``CD``, ``TTD`` a table, ``IN`` the device's own access) are None where this
    kind of record does not have them; ``address`` is the IPA of a stage-2 fault or what could not be fetched.
    """

    name: str
    sid: int
    words: tuple[int, ...]
    ssid: int | None = None
    iova: int | None = None
    write: bool | None = None
    stage: int | None = None
    access: str | None = None
    address: int | None = None


SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


def parse_size(text: str) -> int:
    """Bytes of ``4K``, ``2M``, ``0x1000`` or ``4096``. ValueError for any other text."""
    text = text.strip()
    if text and text[-1].upper() in SUFFIXES:
        return int(text[:-1], 0) * SUFFIXES[text[-1].upper()]
    return int(text, 0)


def format_size(size: int) -> str:
    """The size in the largest of K M G T P that divides it (abi.md, RNG-4); bytes when none does."""
    for suffix in "PTGMK":
        if size and size % SUFFIXES[suffix] == 0:
            return f"{size // SUFFIXES[suffix]}{suffix}"
    return str(size)
