# SPDX-License-Identifier: GPL-2.0-only
"""Intel VT-d, as every kernel with its debugfs prints it (drivers/iommu/intel/debugfs.c).

    intel/<bdf>[/<pasid hex>]/domain_translation_struct    a row a leaf, with the items that lead to it
    intel/dmar_translation_struct                          root, context and PASID entries

A superpage has no lower columns; older kernels print zeros there. PML5E is 0 with four levels. With the reference the
heading of a table names the domain, too (abi.md, GRP-4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_iommu import formats
from pytest_iommu.core.model import Kind, TableConfig
from pytest_iommu.core.printed import Context, Row, Table
from pytest_iommu.dialects.carried import PCI_NAME, carried, device_of, fault
from pytest_iommu.dialects.grid import Grid
from pytest_iommu.dialects.text_dialect import Found, LiveFiles, LiveKernel, TextDialect
from pytest_iommu.formats.base import bits

COLUMNS = ("IOVA_PFN", "PML5E", "PML4E", "PDPE", "PDE", "PTE")
CONTEXT_COLUMNS = ("B.D.F", "Root_entry", "Context_entry", "PASID", "PASID_table_entry")
LEVELS = 5
RULE, CONTEXT_RULE = "ENT-1", "STE-2"
_WORD = "0x[0-9a-f]{16}"
_DEVICE = re.compile(
    rf"Device ({PCI_NAME})(?: with pasid ([0-9a-f]{{1,5}}))? @0x([0-9a-f]{{1,16}})"
    r"(?: domain ([1-9][0-9]*))?"
)
_BDF_OF = re.compile(PCI_NAME)
_PASID = re.compile(r"[0-9a-f]{1,5}")
_ROW = re.compile(rf"0x([0-9a-f]{{13}}) \|[ \t]+({_WORD}(?:[ \t]+{_WORD}){{0,4}})")
_ITEMS = re.compile(rf"[ \t]*({_WORD}(?:[ \t]+{_WORD}){{0,4}})")
_IOMMU = re.compile(r"IOMMU (\S+): Root Table Address: 0x([0-9a-f]{1,16})")
_BDF = re.compile(r"([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:[ \t]+(\S.*))?")
_NOT_ENABLED = re.compile(r"DMA Remapping is not enabled on \S+")
_CONTEXT_WORDS = (rf"{_WORD}:{_WORD}", rf"{_WORD}:{_WORD}", r"-1|0|[1-9][0-9]{0,6}", rf"{_WORD}:{_WORD}:{_WORD}")
#: set by Linux in each item of a first-stage table (accessed), reserved in items that lead to second-stage tables
_FIRST_STAGE = bits(5)
_LOW = ~bits(51, 12)


class Vtd(TextDialect):
    """Both files; a text may have several devices or IOMMUs, as older kernels print them."""

    name = "vtd"
    blank = True
    about = "VT-d's domain_translation_struct and dmar_translation_struct"
    place = "intel/{domain}/{file}"
    files = ("domain_translation_struct", "dmar_translation_struct")
    heading = re.compile(r"Device \S+ (with pasid \S+ )?@0x|IOVA_PFN\b|IOMMU \S+: Root|B\.D\.F\b|DMA Remapping is")

    rules = ("ENT-1", "RNG-1", "RNG-2", "RNG-4", "LVL-1", "LVL-2", "PRT-1", "PRT-3", "INF-3", "STE-2")
    options = ("INTEL_IOMMU_DEBUGFS",)

    def live(self, kernel: LiveKernel) -> Sequence[LiveFiles]:
        """Both files, and the first one of every device and PASID, are one dump: entries lead to tables."""
        paths = {path: f"iommu/intel/{path}" for path in _paths(kernel)}
        return [LiveFiles(paths)] if paths else []

    def file(self, name: str, text: str, found: Found) -> None:
        lines = carried(RULE, name, text)
        start = next(line for line in lines if line)
        if start.startswith("B.D.F") or any(line.startswith("IOMMU ") for line in lines):
            _contexts(name, lines, found)
        elif _NOT_ENABLED.fullmatch(start):
            raise fault(RULE, name, lines.index(start) + 1, start, "an error sentence instead of a table")
        else:
            _tables(name, lines, found)


def _paths(kernel: LiveKernel) -> Iterator[str]:
    """The files below intel/, those of a device in a directory of its name, of a PASID in one below."""
    tables, contexts = Vtd.files
    there = kernel.names("iommu/intel")
    if contexts in there:
        yield contexts
    for device in sorted(filter(_BDF_OF.fullmatch, there)):
        names = kernel.names(f"iommu/intel/{device}")
        if tables in names:
            yield f"{device}/{tables}"
        for pasid in sorted(filter(_PASID.fullmatch, names)):
            if tables in kernel.names(f"iommu/intel/{device}/{pasid}"):
                yield f"{device}/{pasid}/{tables}"


def _tables(name: str, lines: list[str], found: Found) -> None:
    """Read domain_translation_struct."""
    device: re.Match[str] | None = None
    place = device_of(name)
    begun, grid = 0, Grid(RULE, name, COLUMNS)
    match_row = _ROW.fullmatch

    def end(number: int) -> None:
        if device is not None:
            grid.end(number)
            found.tables.append(_table(name, begun, device, grid))

    for number, line in enumerate(lines, 1):
        row = match_row(line)
        if row is not None and device is not None:
            grid.row(number, line, row[1], row[2].split())
            continue
        if not line or grid.left_out(line):
            continue
        heading = _DEVICE.fullmatch(line)
        if heading is not None:
            end(number)
            if place not in (None, heading[1]):
                raise fault(RULE, name, number, line, f"not of {place}, whose directory the file is in")
            device, begun, grid = heading, number, Grid(RULE, name, COLUMNS)
        elif device is None:
            raise fault(RULE, name, number, line, "expected `Device BDF [with pasid N] @0x...`")
        elif not grid.names(number, line):
            rest = _ITEMS.fullmatch(line)
            if rest is None or not grid.headed:
                raise fault(RULE, name, number, line, "not a row `IOVA_PFN | PML5E PML4E PDPE [PDE [PTE]]`")
            grid.rest(number, line, rest[1].split())
    end(len(lines) + 1)


def _table(name: str, begun: int, device: re.Match[str], grid: Grid) -> Table:
    """Decode the rows. The stage is told by the items that lead to tables: the text does not say it."""
    paths = [(number, int(pfn, 16) << 12, [int(word, 16) for word in words]) for number, pfn, words in grid.rows]
    for _, _, path in paths:
        while len(path) > 1 and not path[-1]:
            path.pop()
    levels = next((LEVELS - at for at in range(2) if any(path[at : at + 1] > [0] for _, _, path in paths)), 3)
    first = any(item & _FIRST_STAGE for _, _, path in paths[:1] for item in path[:-1]) and levels > 3
    which = "x86_64" if first else "vtdss"
    rows = _rows(name, which, levels, paths)
    return Table(
        file=name,
        line=begun,
        name=device[1],
        rows=tuple(rows),
        format=which,
        top=int(device[3], 16),
        levels=levels,
        pasid=None if device[2] is None else int(device[2], 16),
        stage=1 if first else 2,
        whole=grid.whole,
        leaves=True,
        domain=None if device[4] is None else int(device[4]),
    )


def config_of(which: str, levels: int) -> TableConfig:
    """Return the configuration of a table of the format ``vtdss`` or ``x86_64``, which its rows determine."""
    options: dict[str, object] = {"options": []} if which == "x86_64" else {}
    return formats.configure(which, levels=levels, **options)


def _rows(name: str, which: str, levels: int, paths: list[tuple[int, int, list[int]]]) -> list[Row]:
    fmt, config = formats.get(which), config_of(which, levels)
    columns = "rw" if which == "vtdss" else "rwxcp"
    looks: dict[tuple[int, int], tuple[formats.Decoded | None, int]] = {}
    rows: list[Row] = []
    for number, iova, path in paths:
        level, item = LEVELS - len(path), path[-1]
        key = level, item & _LOW
        if key not in looks:
            # Without its address, which the rows are compared by, and which may be wrong.
            looks[key] = fmt.decode(config, level, item & ~fmt.address_mask(config)), 1 << 12 + 9 * level
        look, size = looks[key]
        if look is None or look.kind is not Kind.LEAF:
            table = look is not None and look.kind is Kind.TABLE
            kind = "a table" if table else "no valid item" if item else "nothing"
            shown = f"0x{iova >> 12:013x} | ... 0x{item:016x}"
            raise fault(RULE, name, number, shown, f"the row ends with {COLUMNS[len(path)]}, which is {kind}: no leaf")
        oa = fmt.unpack(config, item)
        rows.append(
            Row(
                number,
                iova,
                iova + size - 1,
                oa,
                level,
                size,
                look.prot,
                columns,
                look.flags,
                None,
                tuple(path[LEVELS - levels :]),
            )
        )
    return rows


def _contexts(name: str, lines: list[str], found: Found) -> None:
    """Read dmar_translation_struct."""
    iommu, grid = "", Grid(CONTEXT_RULE, name, CONTEXT_COLUMNS)

    def end(number: int) -> None:
        if iommu:
            grid.end(number)
            found.contexts += [_context(name, iommu, *row) for row in grid.rows]

    for number, line in enumerate(lines, 1):
        if not line or grid.left_out(line):
            continue
        heading = _IOMMU.fullmatch(line)
        if heading is not None:
            end(number)
            iommu, grid = heading[1], Grid(CONTEXT_RULE, name, CONTEXT_COLUMNS)
            continue
        if _NOT_ENABLED.fullmatch(line):  # of one IOMMU among several
            continue
        if not iommu:
            raise fault(CONTEXT_RULE, name, number, line, "expected `IOMMU NAME: Root Table Address: 0x...`")
        if grid.names(number, line):
            continue
        row = _BDF.fullmatch(line)
        if row is not None:
            grid.row(number, line, row[1], (row[2] or "").split())
        else:
            grid.rest(number, line, line.split())
    end(len(lines) + 1)


def _context(name: str, iommu: str, number: int, device: str, words: list[str]) -> Context:
    shown = " ".join((device, *words))
    if len(words) != len(_CONTEXT_WORDS):
        raise fault(CONTEXT_RULE, name, number, shown, f"expected the columns {' '.join(CONTEXT_COLUMNS)}")
    for word, pattern, column in zip(words, _CONTEXT_WORDS, CONTEXT_COLUMNS[1:], strict=True):
        if not re.fullmatch(pattern, word):
            raise fault(CONTEXT_RULE, name, number, shown, f"not a valid {column}")
    root, context, pasid, entry = words
    return Context(name, number, iommu, device, _split(root), _split(context), int(pasid), _split(entry))


def _split(word: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in word.split(":"))


VTD = Vtd()
