# SPDX-License-Identifier: GPL-2.0-only
"""The interface of a page-table format, and the algorithm that all of them share.

A format file holds data: the bits of a leaf and of a table item, the order of the flags, the leaf sizes of a level.
Encoding a request, decoding a raw item and the arithmetic of levels are implemented once, here. Levels are those of the
kernel's generic_pt (level 0 holds the smallest leaves), addresses and sizes are bytes, address widths are bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pytest_iommu.core.model import Kind, Prot, TableConfig

ITEM_BYTES = 8
NO_PROT = Prot()
KEEPS_TABLES = "keeps_tables"
"""Feature of a table of which unmap() frees no part, as AMD's before generic_pt."""
INCOHERENT = "incoherent"
"""Feature of a table that hardware does not read through the CPU's caches (PT_FEAT_DMA_INCOHERENT).

An item that leads to a table has software bit 0 set when the table has been flushed (SW_BIT_CACHE_FLUSH_DONE).
"""


class ConfigError(ValueError):
    """A format does not support the configuration; the message names the parameter and the reason."""


def bits(high: int, low: int | None = None) -> int:
    """Return the mask of bits ``high`` down to ``low`` (only ``high`` without ``low``), as in a specification."""
    low = high if low is None else low
    return (1 << (high + 1)) - (1 << low)


def lg2(size: int) -> int:
    """Return the exact binary logarithm. ValueError if ``size`` is not a power of two."""
    if size <= 0 or size & (size - 1):
        raise ValueError(f"{size} is not a power of two")
    return size.bit_length() - 1


@dataclass(frozen=True, slots=True)
class Field:
    """Bits ``high`` to ``low`` of one word."""

    word: int
    high: int
    low: int

    def of(self, words: Sequence[int]) -> int:
        """Return the field's value, shifted down to bit 0."""
        return (words[self.word] & bits(self.high, self.low)) >> self.low

    def address(self, words: Sequence[int]) -> int:
        """Return the address in the field: its bits in place."""
        return words[self.word] & bits(self.high, self.low)


@dataclass(frozen=True, slots=True)
class Flag:
    """One word of the flags column and the bits it represents (abi.md, PRT-3).

    A single bit is shown as its name if it is set. A field (``number``) is shown as NAME<value> if it is not zero, or
    ``always``. ``names`` maps values to words; a value without one is not shown.
    """

    name: str
    mask: int
    number: bool = False
    always: bool = False
    names: Mapping[int, str] = field(default_factory=dict)

    def text(self, raw: int) -> str | None:
        """Return the word for this raw item, or None."""
        value = (raw & self.mask) >> ((self.mask & -self.mask).bit_length() - 1)
        if self.names:
            return self.names.get(value)
        if self.number:
            return f"{self.name}{value}" if value or self.always else None
        return self.name if value else None


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of one configured table.

    ``top`` is the level of a new table's top and ``highest`` the level up to which it may grow. ``vasz`` is the number
    of input address bits that the table decodes.
    """

    granule_lg2: int
    index_bits: int
    top: int
    highest: int
    vasz: int

    def item_lg2(self, level: int) -> int:
        """Return the number of address bits that one item of a table at ``level`` covers."""
        return self.granule_lg2 + self.index_bits * level

    def level_of(self, leaf: int) -> int:
        """Return the level whose items map a leaf of that many bytes."""
        return (lg2(leaf) - self.granule_lg2) // self.index_bits

    def covers_lg2(self, level: int, top: int) -> int:
        """Return the number of address bits that a whole table at ``level`` covers, while ``top`` is the top."""
        full = self.item_lg2(level + 1)
        if level < top:
            return full
        # Only a top that may still grow is a plain full table; others are as wide as the rest of the address.
        return min(full, self.vasz) if top < self.highest else self.vasz

    def items(self, level: int, top: int) -> int:
        """Return the number of items of a table at ``level``; a top may have fewer, or more (concatenated tables)."""
        return 1 << (self.covers_lg2(level, top) - self.item_lg2(level))

    def table_bytes(self, level: int, top: int) -> int:
        """Return the architectural size of a table at ``level``."""
        return self.items(level, top) * ITEM_BYTES

    def can_grow(self, top: int) -> bool:
        """Whether a table whose top is at ``top`` may get another level above it."""
        return top < self.highest and self.item_lg2(top + 1) < self.vasz


@dataclass(frozen=True, slots=True)
class Attributes:
    """The common part of all leaves that one request makes at one level: the decoded columns and the raw bits."""

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

    ``flags`` are the words that page_table shows, in order; ``volatile`` are further ones that only entries shows.
    ``signature`` are the parameters of the test module's ``domain`` command, in order (without the list of options).
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
        """Return the configuration the kernel would choose. ConfigError if it would refuse or a name is unknown."""

    def geometry(self, config: TableConfig) -> Geometry:
        """Return the geometry of the table; the default has 4K pages, 512 items per table and a fixed top."""
        return _plain_geometry(config)

    def aperture(self, config: TableConfig) -> tuple[int, int]:
        """Return first and last IOVA of the domain's aperture."""
        return 0, (1 << self.geometry(config).vasz) - 1

    @abstractmethod
    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        """Return the attribute bits that the kernel writes for a request (``execute`` False is IOMMU_NOEXEC)."""

    @abstractmethod
    def prot(self, config: TableConfig, raw: int) -> Prot:
        """Return the six columns of a leaf, from the raw item alone (PRT-2)."""

    @abstractmethod
    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        """Return the kind of the item by its bits, whatever address that has; None if it is empty."""

    @abstractmethod
    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        """Return the bits that encode "leaf of ``size`` bytes at ``level``", without address and attributes."""

    @abstractmethod
    def table_bits(self, config: TableConfig, level: int) -> int:
        """Return all bits of a table item at ``level`` except the address."""

    @abstractmethod
    def address_mask(self, config: TableConfig) -> int:
        """Return the address bits of an item."""

    def pack(self, config: TableConfig, address: int) -> int:
        """Encode an address for an item."""
        return address & self.address_mask(config)

    def unpack(self, config: TableConfig, raw: int) -> int:
        """Decode the address in an item."""
        return raw & self.address_mask(config)

    def leaf_span(self, config: TableConfig, level: int, raw: int) -> tuple[int, int]:
        """Return OA and size in bytes of the leaf entry (of the whole group, if items are contiguous)."""
        return self.unpack(config, raw), 1 << self.geometry(config).item_lg2(level)

    def leaf_fits(self, config: TableConfig, level: int, raw: int) -> bool:
        """Whether the address of a leaf is one that an item of this level can have: aligned to what it maps."""
        return not self.unpack(config, raw) & (1 << self.geometry(config).item_lg2(level)) - 1

    # What follows is the algorithm, the same for all.

    def classify(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        """Return the kind of the item; None if it is empty. A leaf whose address is not aligned is bad."""
        kind = self.kind(config, level, raw)
        return Kind.BAD if kind is Kind.LEAF and not self.leaf_fits(config, level, raw) else kind

    def attributes(self, config: TableConfig, level: int, size: int, prot: Prot) -> Attributes:
        """Return the appearance of leaves of ``size`` bytes mapped with ``prot``: encode, then decode."""
        return _attributes(self, config, level, size, prot)

    def encode(self, config: TableConfig, level: int, size: int, oa: int, prot: Prot) -> int:
        """Return the raw item for a leaf of ``size`` bytes at ``oa`` (the first item, if items are contiguous)."""
        return self.attributes(config, level, size, prot).raw | self.pack(config, oa)

    def decode(self, config: TableConfig, level: int, raw: int) -> Decoded | None:
        """Decode a raw item at ``level``; None if it is empty."""
        kind = self.classify(config, level, raw)
        if kind is None:
            return None
        if kind is not Kind.LEAF:
            return Decoded(kind, self.unpack(config, raw))
        oa, size = self.leaf_span(config, level, raw)
        return Decoded(kind, oa, size, self.prot(config, raw), words(self.flags, raw), words(self.volatile, raw))

    def cleaned(self, config: TableConfig, attributes: Attributes) -> Attributes:
        """Return what becomes of a leaf when dirty tracking makes it clean."""
        return attributes

    def encode_table(self, config: TableConfig, level: int, address: int) -> int:
        """Return the raw item at ``level`` that points to a table at the physical ``address``."""
        return self.table_bits(config, level) | self.pack(config, address)


@lru_cache(maxsize=256)
def _plain_geometry(config: TableConfig) -> Geometry:
    return Geometry(12, 9, config.levels - 1, config.levels - 1, config.ias)


def words(flags: tuple[Flag, ...], raw: int) -> tuple[str, ...]:
    """Return the words of those flags to show for ``raw``, in order."""
    return tuple(text for flag in flags if (text := flag.text(raw)) is not None)


@lru_cache(maxsize=4096)
def _attributes(fmt: Format, config: TableConfig, level: int, size: int, prot: Prot) -> Attributes:
    raw = fmt.leaf_bits(config, level, size) | fmt.request_bits(config, prot)
    return Attributes(prot, fmt.prot(config, raw), words(fmt.flags, raw), words(fmt.volatile, raw), raw)


def take(parameters: dict[str, object], name: str, default: int) -> int:
    """Remove the integer parameter ``name`` and return it. ConfigError if it is not an integer."""
    value = parameters.pop(name, default)
    if not isinstance(value, int):
        raise ConfigError(f"{name} must be a number, not {value!r}")
    return value


def take_options(
    parameters: dict[str, object], known: frozenset[str], default: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Remove ``options`` (a list of words) and return it as a set. ConfigError for a word that is not in ``known``."""
    value = parameters.pop("options", default)
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(word, str) for word in value):
        raise ConfigError("options must be a list of words")
    if not set(value) <= known:
        raise ConfigError(f"unknown option {', '.join(sorted(set(value) - known))}; known: {', '.join(sorted(known))}")
    return frozenset(value)


def no_more(parameters: dict[str, object], name: str) -> None:
    """ConfigError if parameters are left that the format does not know."""
    if parameters:
        raise ConfigError(f"{name} has no parameter {', '.join(sorted(parameters))}")


def generic_sizes(possible: int, vasz: int, oasz: int) -> tuple[int, ...]:
    """Return the page sizes of a generic_pt table: that of a whole table is hidden (iommu_pt.h, get_info: the -1)."""
    return tuple(1 << bit for bit in range(min(vasz - 1, oasz)) if possible >> bit & 1)
