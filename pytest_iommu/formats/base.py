# SPDX-License-Identifier: GPL-2.0-only
"""What a page-table format is, and the algorithm that all of them share.

A format file holds data: the bits of a leaf and of a table item, the order of the flags, which sizes a level can
map. Encoding a request, decoding a raw item and the arithmetic of levels are written once, here. Levels are those of
the kernel's generic_pt (level 0 holds the smallest leaves), addresses and sizes are bytes, address widths are bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pytest_iommu.core.model import Kind, Prot, TableConfig

ITEM_BYTES = 8
NO_PROT = Prot()


class ConfigError(ValueError):
    """A format cannot be configured like that; the message says which parameter and why."""


def bits(high: int, low: int | None = None) -> int:
    """The mask of bits ``high`` down to ``low`` (only bit ``high`` without ``low``), as a specification writes it."""
    low = high if low is None else low
    return (1 << (high + 1)) - (1 << low)


def lg2(size: int) -> int:
    """The exact binary logarithm. ValueError when ``size`` is not a power of two."""
    if size <= 0 or size & (size - 1):
        raise ValueError(f"{size} is not a power of two")
    return size.bit_length() - 1


@dataclass(frozen=True, slots=True)
class Flag:
    """One word of the flags column and the bits it stands for (abi.md, PRT-3).

    A single bit is shown as its name when it is set. A field (``number``) is shown as NAME<value>, when it is not
    zero or ``always``. With ``names`` a value has its own word; a value without one is not shown.
    """

    name: str
    mask: int
    number: bool = False
    always: bool = False
    names: Mapping[int, str] = field(default_factory=dict)

    def text(self, raw: int) -> str | None:
        """The word for this raw item, or None where it has none."""
        value = (raw & self.mask) >> ((self.mask & -self.mask).bit_length() - 1)
        if self.names:
            return self.names.get(value)
        if self.number:
            return f"{self.name}{value}" if value or self.always else None
        return self.name if value else None


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of one configured table.

    ``top`` is the level of the top at birth and ``highest`` the level it may grow to; ``vasz`` the bits of input
    address that the table decodes.
    """

    granule_lg2: int
    index_bits: int
    top: int
    highest: int
    vasz: int

    def item_lg2(self, level: int) -> int:
        """How many bits of address one item of a table at ``level`` covers."""
        return self.granule_lg2 + self.index_bits * level

    def level_of(self, leaf: int) -> int:
        """The level whose items map a leaf of that many bytes."""
        return (lg2(leaf) - self.granule_lg2) // self.index_bits

    def covers_lg2(self, level: int, top: int) -> int:
        """How many bits of address a whole table at ``level`` covers, while ``top`` is the top."""
        full = self.item_lg2(level + 1)
        if level < top:
            return full
        # Only a top that may still grow is a plain full table; others are as wide as the rest of the address.
        return min(full, self.vasz) if top < self.highest else self.vasz

    def items(self, level: int, top: int) -> int:
        """The number of items of a table at ``level``; a top may have fewer, or more (concatenated tables)."""
        return 1 << (self.covers_lg2(level, top) - self.item_lg2(level))

    def table_bytes(self, level: int, top: int) -> int:
        """The architectural size of a table at ``level``."""
        return self.items(level, top) * ITEM_BYTES

    def can_grow(self, top: int) -> bool:
        """Whether a table whose top is at ``top`` may get another level above it."""
        return top < self.highest and self.item_lg2(top + 1) < self.vasz


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is the same for all leaves that one request makes at one level: the decoded columns and the raw bits."""

    requested: Prot
    prot: Prot
    flags: tuple[str, ...]
    volatile: tuple[str, ...]
    raw: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """One raw item, decoded. ``size`` is the leaf size in bytes, 0 for tables and bad items."""

    kind: Kind
    oa: int
    size: int = 0
    prot: Prot = NO_PROT
    flags: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()


class Format(ABC):
    """A page-table format; each is a subclass with its bits, in a file of its own.

    ``flags`` are the words that page_table shows, in order; ``volatile`` those that only entries shows, after them.
    ``signature`` are the parameters of the test module's ``domain`` command, in order (but the list of options).
    """

    name: str = ""
    flags: tuple[Flag, ...] = ()
    volatile: tuple[Flag, ...] = ()
    signature: tuple[str, ...] = ()
    #: the word for a list of options in that command, and the options that are on when none are named
    options_word = "features"
    default_options: frozenset[str] = frozenset()
    #: generic_pt frees a table when an unmap covers it; io-pgtable only by an unmap step of the item's block size
    frees_covered_tables = True

    @abstractmethod
    def configure(self, **parameters: object) -> TableConfig:
        """The configuration the kernel would come to. ConfigError when it would refuse, or for unknown parameters."""

    def geometry(self, config: TableConfig) -> Geometry:
        """The shape of the table: 4K pages, 512 items a table and a top that stays, where a format does not differ."""
        return _plain_geometry(config)

    def aperture(self, config: TableConfig) -> tuple[int, int]:
        """First and last IOVA of the domain's aperture."""
        return 0, (1 << self.geometry(config).vasz) - 1

    @abstractmethod
    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        """The attribute bits that the kernel writes for a request (no ``execute`` is IOMMU_NOEXEC)."""

    @abstractmethod
    def prot(self, config: TableConfig, raw: int) -> Prot:
        """The six columns of a leaf, from the raw item alone (PRT-2)."""

    @abstractmethod
    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        """What the item is; None when it is empty."""

    @abstractmethod
    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        """The bits that say "leaf of ``size`` bytes at ``level``", without address and attributes."""

    @abstractmethod
    def table_bits(self, config: TableConfig, level: int) -> int:
        """All bits of a table item at ``level`` but the address."""

    @abstractmethod
    def address_mask(self, config: TableConfig) -> int:
        """The bits of an item that hold an address."""

    def pack(self, config: TableConfig, address: int) -> int:
        """An address as it stands in an item."""
        return address & self.address_mask(config)

    def unpack(self, config: TableConfig, raw: int) -> int:
        """The address that stands in an item."""
        return raw & self.address_mask(config)

    def leaf_span(self, config: TableConfig, level: int, raw: int) -> tuple[int, int]:
        """OA and size in bytes of the leaf entry (of the whole group, where items are contiguous)."""
        return self.unpack(config, raw), 1 << self.geometry(config).item_lg2(level)

    # What follows is the algorithm, the same for all.

    def attributes(self, config: TableConfig, level: int, size: int, prot: Prot) -> Attributes:
        """What leaves of ``size`` bytes mapped with ``prot`` look like: encode, then decode."""
        return _attributes(self, config, level, size, prot)

    def encode(self, config: TableConfig, level: int, size: int, oa: int, prot: Prot) -> int:
        """The raw item for a leaf of ``size`` bytes at ``oa`` (of the first item, where items are contiguous)."""
        return self.attributes(config, level, size, prot).raw | self.pack(config, oa)

    def decode(self, config: TableConfig, level: int, raw: int) -> Decoded | None:
        """What a raw item at ``level`` says; None when it is empty."""
        kind = self.kind(config, level, raw)
        if kind is None:
            return None
        if kind is not Kind.LEAF:
            return Decoded(kind, self.unpack(config, raw))
        oa, size = self.leaf_span(config, level, raw)
        return Decoded(kind, oa, size, self.prot(config, raw), words(self.flags, raw), words(self.volatile, raw))

    def encode_table(self, config: TableConfig, level: int, address: int) -> int:
        """The raw item at ``level`` that points to a table at the physical ``address``."""
        return self.table_bits(config, level) | self.pack(config, address)


@lru_cache(maxsize=256)
def _plain_geometry(config: TableConfig) -> Geometry:
    return Geometry(12, 9, config.levels - 1, config.levels - 1, config.ias)


def words(flags: tuple[Flag, ...], raw: int) -> tuple[str, ...]:
    """The words of those flags that are to be shown for ``raw``, in order."""
    return tuple(text for flag in flags if (text := flag.text(raw)) is not None)


@lru_cache(maxsize=4096)
def _attributes(fmt: Format, config: TableConfig, level: int, size: int, prot: Prot) -> Attributes:
    raw = fmt.leaf_bits(config, level, size) | fmt.request_bits(config, prot)
    return Attributes(prot, fmt.prot(config, raw), words(fmt.flags, raw), words(fmt.volatile, raw), raw)


def take(parameters: dict[str, object], name: str, default: int) -> int:
    """Remove the integer parameter ``name`` and return it. ConfigError when it is no integer."""
    value = parameters.pop(name, default)
    if not isinstance(value, int):
        raise ConfigError(f"{name} takes a number, not {value!r}")
    return value


def take_options(
    parameters: dict[str, object], known: frozenset[str], default: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Remove ``options`` (a list of words) and return it as a set. ConfigError for a word that is not in ``known``."""
    value = parameters.pop("options", default)
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(word, str) for word in value):
        raise ConfigError("options takes a list of words")
    if not set(value) <= known:
        raise ConfigError(f"unknown option {', '.join(sorted(set(value) - known))}; known: {', '.join(sorted(known))}")
    return frozenset(value)


def no_more(parameters: dict[str, object], name: str) -> None:
    """ConfigError when parameters are left that the format does not know."""
    if parameters:
        raise ConfigError(f"{name} has no parameter {', '.join(sorted(parameters))}")


def generic_sizes(possible: int, vasz: int, oasz: int) -> tuple[int, ...]:
    """The page sizes of a generic_pt table: a whole-table size is hidden (iommu_pt.h, get_info: the -1)."""
    return tuple(1 << bit for bit in range(min(vasz - 1, oasz)) if possible >> bit & 1)
