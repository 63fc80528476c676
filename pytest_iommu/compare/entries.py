# SPDX-License-Identifier: GPL-2.0-only
"""Compare entries, stats and info with the expected ones; each difference names the rule it breaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from pytest_iommu.compare.difference import Difference, Rank
from pytest_iommu.compare.ranges import flags_rule_text, prot_rule
from pytest_iommu.compare.side_by_side import ANY
from pytest_iommu.core.model import Dump, Entry, Info, Kind, Stats, format_size
from pytest_iommu.dialects.io_ptdump import render_entry
from pytest_iommu.dialects.io_ptdump_small import INFO_KEYS, render_info, render_stats
from pytest_iommu.oracle import Expected, count, merge_entries

FILE = "entries"


def entry_differences(expected: Expected, dumped: Sequence[Entry]) -> Iterator[Difference]:
    """Compare entries, matched by kind and place: a wrong column is one difference, not a lost and a new line."""
    pairs, extra, lost = _match(expected.entries, dumped)
    for entry in lost:
        yield Difference("ENT-1", Rank.ENTRY, FILE, "an entry is missing", expected_entry(entry), None)
    for entry, again in extra:
        text = render_entry(entry)
        if again:
            yield Difference(
                "ENT-1", Rank.ENTRY, FILE, "a second entry for this level and IOVA", dumped=text, alone=True
            )
        else:
            yield Difference("ENT-1", Rank.ENTRY, FILE, "this entry should not be there", None, text)
    for want, have in pairs:
        yield from _leaf(expected, want, have) if want.kind is Kind.LEAF else _table(expected, want, have)
    order = [(have.iova, -want.level) for want, have in pairs]
    if order != sorted(order):
        place = next(i for i, pair in enumerate(pairwise(order), 1) if pair[1] < pair[0])
        have, above = pairs[place][1], pairs[place - 1][1]
        why = f"after level {above.level} 0x{above.iova:x}: not depth first and ascending, tables before entries"
        yield Difference("ENT-1", Rank.ENTRY, FILE, why, dumped=render_entry(have), alone=True)
    tables = Counter(entry.oa for entry in dumped if entry.kind is Kind.TABLE)
    for address, number in tables.items():
        if number > 1:
            yield Difference("ENT-1", Rank.ENTRY, FILE, f"{number} table items point to 0x{address:x}")


def _match(
    want: Sequence[Entry], have: Sequence[Entry]
) -> tuple[list[tuple[Entry, Entry]], list[tuple[Entry, bool]], list[Entry]]:
    """Return the matching pairs in dump order, the extra lines and whether they are duplicates, the missing lines."""
    waiting: dict[tuple[int, Kind], list[Entry]] = defaultdict(list)
    for entry in want:
        waiting[entry.iova, entry.kind].append(entry)
    # Match equal levels first: a duplicate entry must not be paired with the next table under its IOVA.
    partner: dict[int, Entry] = {}
    left: dict[tuple[int, Kind], list[int]] = defaultdict(list)
    for place, entry in enumerate(have):
        same = waiting.get((entry.iova, entry.kind), ())
        exact = next((one for one in same if one.level == entry.level), None)
        if exact is None:
            left[entry.iova, entry.kind].append(place)
        else:
            partner[place] = exact
            waiting[entry.iova, entry.kind].remove(exact)
    extra: list[tuple[Entry, bool]] = []
    known = {(entry.iova, entry.kind, entry.level) for entry in want}
    for key, places in left.items():
        strange = [place for place in places if (*key, have[place].level) not in known]
        for place, entry in zip(strange, waiting.get(key, ()), strict=False):
            partner[place] = entry
        waiting[key] = waiting.get(key, [])[len(strange) :]
        for place in places:
            if place not in partner:
                extra.append((have[place], place not in strange))
    pairs = [(partner[place], have[place]) for place in sorted(partner)]
    return pairs, extra, [entry for entries in waiting.values() for entry in entries]


def _leaf(expected: Expected, want: Entry, have: Entry) -> Iterator[Difference]:
    if want == have:
        return
    shown = render_entry(want), render_entry(have)
    if have.level != want.level:
        yield Difference("LVL-1", Rank.LEVEL, FILE, f"level is {have.level}, not {want.level}", *shown)
    if have.size != want.size:
        sizes = (format_size(size or 0) for size in (have.size, want.size))
        yield Difference("LVL-2", Rank.LEAF, FILE, "leaf size is {}, not {}".format(*sizes), *shown)
    if have.oa != want.oa:
        why = f"OA is 0x{have.oa:x}, not 0x{want.oa:x}"
        yield Difference("RNG-4", Rank.ADDRESS, FILE, why, *shown, ("ENT-1",))
    if have.prot != want.prot and have.prot is not None and want.prot is not None:
        rule = prot_rule(have.prot, want.prot, expected.requested(want.iova))
        why = f"prot is {have.prot}, not {want.prot}"
        yield Difference(rule, Rank.PROT, FILE, why, *shown, ("PRT-1",) if rule == "PRT-2" else ())
    if have.flags != want.flags:
        yield Difference("PRT-3", Rank.FLAGS, FILE, flags_rule_text(have.flags, want.flags), *shown)
    if have.raw != want.raw:
        yield Difference("ENT-1", Rank.BITS, FILE, f"raw is 0x{have.raw:x}, not 0x{want.raw:x}", *shown)


def _table(expected: Expected, want: Entry, have: Entry) -> Iterator[Difference]:
    fmt, config = expected.format, expected.config
    mask = fmt.address_mask(config)
    inside = fmt.unpack(config, have.raw)
    # The dump itself chooses the table's address; the expected line is rendered for that address.
    placed = replace(want, oa=inside, raw=want.raw & ~mask | have.raw & mask)
    shown = render_entry(placed), render_entry(have)
    if have.level != want.level:
        yield Difference("LVL-1", Rank.LEVEL, FILE, f"level is {have.level}, not {want.level}", *shown)
    elif have.raw != placed.raw:
        why = f"raw is 0x{have.raw:x}, but a table item for that address is 0x{placed.raw:x}"
        yield Difference("ENT-1", Rank.BITS, FILE, why, *shown)
    if have.oa != inside:
        why = f"the address is 0x{have.oa:x}, but the one in raw is 0x{inside:x}"
        yield Difference("ENT-1", Rank.ENTRY, FILE, why, *shown)
    elif have.oa == 0:
        yield Difference("ENT-1", Rank.ENTRY, FILE, "a table at address 0", dumped=shown[1])


def expected_entry(entry: Entry) -> str:
    """Render an expected entry; the address of a table is unknown."""
    text = render_entry(entry)
    return text if entry.kind is not Kind.TABLE else text.replace(f"0x{0:016x} raw", f"{ANY} raw")


def stats_differences(expected: Expected, dump: Dump) -> Iterator[Difference]:
    """Compare stats with the dumped entries (ENT-2) and with the expected numbers."""
    if dump.stats is None:
        return
    want, have = _rows(expected.stats), _rows(dump.stats)
    entries = None if dump.entries is None else _rows(counted(expected, dump.entries))
    for level in {**want, **have}:
        wanted, dumped = want.get(level), have.get(level)
        if wanted == dumped:
            continue
        if dumped is None:
            why = f"the line of {level} is missing"
        elif entries is None:
            why = "differs from the expected numbers"
        elif entries.get(level) == dumped:
            why = "differs from the expected numbers, but matches the dumped entries"
        else:
            why = "does not match the sums of the dumped entries"
        yield Difference("ENT-2", Rank.FILES, "stats", why, wanted, dumped)


def _rows(stats: Stats) -> dict[str, str]:
    """Return the lines of stats without its header, by subject: ``level 2``, ``total``."""
    lines = render_stats(stats).splitlines()[1:]
    return {word if word == "total" else f"level {word}": line for line in lines for word in line.split()[:1]}


def counted(expected: Expected, entries: Sequence[Entry]) -> Stats:
    """Return the stats that follow from a dump's own entries."""
    leaves = Counter(entry.level for entry in entries if entry.kind is Kind.LEAF)
    tables = Counter(entry.level - 1 for entry in entries if entry.kind is Kind.TABLE)
    tables[expected.top] += 1
    return count(expected.config, expected.top, tables, leaves)


def agreement(expected: Expected, dump: Dump) -> Iterator[Difference]:
    """Check that page_table has the leaves of entries, merged (ENT-2)."""
    if dump.ranges is None or dump.entries is None:
        return
    merged = merge_entries(dump.entries, expected.format)
    if merged != dump.ranges:
        yield Difference("ENT-2", Rank.FILES, "page_table", "page_table does not match the merged leaves of entries")


def info_differences(expected: Expected, dump: Dump) -> Iterator[Difference]:
    """Compare info, key by key; of the top it is only known that it must be a possible address of a table."""
    have = dump.info
    if have is None:
        return
    want = expected.info
    placed = Info(want.format, want.type, want.aperture, want.page_sizes, want.levels, have.top)
    rows = zip(INFO_KEYS.items(), render_info(placed).splitlines(), render_info(have).splitlines(), strict=True)
    for (key, rule), left, right in rows:
        if left != right:
            # With another format, columns and flags would differ for that reason alone.
            rank = Rank.FORMAT if key == "format" else Rank.INFO
            yield Difference(rule, rank, "info", f"{key} is wrong", left, right)
    size = max(64, expected.format.geometry(expected.config).table_bytes(expected.top, expected.top))
    top = f"top: 0x{have.top:016x}"
    if have.top == 0 or have.top % size:
        why = f"no table can be at 0x{have.top:x}: a top is aligned to {size} bytes and not at 0"
        yield Difference("INF-3", Rank.INFO, "info", why, dumped=top)
    if any(entry.kind is Kind.TABLE and entry.oa == have.top for entry in dump.entries or ()):
        # or entries contains it as one: the wording of the line takes precedence
        why = "top has the address of a lower table in entries"
        yield Difference("INF-3", Rank.TOP, "info", why, dumped=top)
