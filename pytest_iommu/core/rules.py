# SPDX-License-Identifier: GPL-2.0-only
"""The rules by id: those of the kernel's page tables (docs/tables.md) and those of the dump (docs/abi.md)."""

from __future__ import annotations

TABLES: dict[str, str] = {
    "TAB-1": "after map every IOVA of the request translates to its OA, and no other translation has changed",
    "TAB-2": "a leaf's permissions and attributes are those the format writes for the request",
    "TAB-3": "leaves have the sizes that the kernel's page-size choice gives, at the level of that size",
    "TAB-4": "unmap returns the bytes asked for, none of its IOVAs translates afterwards, neighbours are untouched",
    "TAB-5": "a request that is refused or fails half way changes nothing and returns an error",
    "TAB-6": "each table is pointed to once, unmap frees those that the format says, and accounting is back at the end",
    "TAB-7": "iova_to_phys() says what the table says",
    "TAB-8": "maps and unmaps of disjoint ranges by several CPUs leave the table as one after the other would",
    "HW-1": "after attach every field of the STE (context entry, DTE, DC) is what the domain's configuration asks for",
    "HW-2": "after attach every field of the CD (or PASID entry) is what the domain's configuration asks for",
    "HW-3": "ASIDs and VMIDs are unique among live domains, in range, and reused only after an invalidation",
    "HW-4": "while an entry changes, hardware never sees a mixture of two states",
    "HW-5": "after detach, replace, free and reset the entry says so, and no descriptor of the old domain stays valid",
    "TLB-1": "after unmap and its sync, DMA to the range faults for every device on the domain",
    "TLB-2": "after a remap DMA reaches the new memory with the new permissions",
    "TLB-3": "an id that is used again hits nothing of its last owner",
    "TLB-4": "the invalidation commands cover the whole range, for every id concerned, and end with a sync",
    "ISO-1": "a device reaches what its domain maps and nothing else",
    "ISO-2": "every refused transfer is reported once, with the right stream and IOVA",
}
"""Rules of the kernel's page tables and of what points hardware to them; no dump is needed for these."""

DUMP: dict[str, str] = {
    "LAY-1": "domains/ exists if the option and debugfs are on; otherwise there is no trace of it",
    "LAY-2": "one directory for each live domain whose page table offers a dump, from birth to death",
    "LAY-3": "the name is a decimal id from 1 up, allocated cyclically, never a pointer",
    "LAY-4": "the directory appears soon after the allocation; after the free its files fail at once and it goes soon",
    "LAY-5": "files are 0400 root: write EINVAL, ioctl ENOTTY, readable under lockdown",
    "LAY-6": "no kernel virtual address in any output",
    "LAY-7": "reading prints nothing to the kernel log and triggers no WARN",
    "INF-1": "format is the name of the page-table format",
    "INF-2": "type, aperture and page_sizes are the current ones of the iommu_domain",
    "INF-3": "levels (in use now) and top (its physical address) come from one load",
    "RNG-1": "every mapped IOVA is in exactly one line, every unmapped one in none",
    "RNG-2": "first and last are inclusive, 16 lower-case hex digits; lines ascend and never overlap",
    "RNG-3": "lines are maximal: matching neighbours are one line, any difference starts a new one",
    "RNG-4": "OA is the translation of first; sizes are exact, in the largest of K M G T P",
    "RNG-5": "IOVAs are shown as a device issues them (sign-extended if the format sign-extends)",
    "RNG-6": "an empty page table gives an empty file, not an error",
    "LVL-1": "level is the level of the table that holds the entry, in generic_pt numbering",
    "LVL-2": "leaf is the size that one leaf entry translates; a contiguous group is one leaf",
    "PRT-1": "prot has six columns, rwxcmp, as the format's table says",
    "PRT-2": "prot is decoded from the leaf entry and the configuration alone, not from the request",
    "PRT-3": "flags are in the table's order, only those set; fields are NAME<value>, one value per field",
    "ENT-1": "every non-zero entry reachable from the top is listed once, raw as in memory",
    "ENT-2": "page_table is exactly the leaves of entries, merged; stats is exactly entries, counted",
    "STE-1": "one directory per distinct stream id of a device, for as long as the driver knows the device",
    "STE-2": "Config and addresses are decoded from the STE in memory, read with single loads",
    "STE-3": "Domain is the id of the domain whose top the STE or CD points to",
    "STE-4": "after attach, replace, detach or reset, the files show the new state when the call returns",
    "STE-5": "each stream id of a device has its own directory; two devices on one domain show the same id",
    "STE-6": "cd lists valid CDs in SSID order; none for a stream without a CD table",
    "GRP-1": "groups has a line for every device of every group, and for every PASID in use",
    "GRP-2": "the kind in groups is that of the domain that the device is on",
    "GRP-3": "the id in groups is the directory of that domain, or `-`",
    "GRP-4": "VT-d's and AMD's own debugfs name the domain that groups has for the device",
    "LKP-1": "lookup shows the entries that translate an IOVA from the top down, as entries has them",
    "LKP-2": "the path ends at what is no table; output is the OA of the IOVA, or `-` where no leaf maps it",
    "LKP-3": "each open file has an IOVA of its own; what is no number is EINVAL, and changes nothing",
    "CON-1": "no reader touches freed memory",
    "CON-2": "an IOVA whose mapping does not change during a read is reported correctly in it",
    "CON-3": "an IOVA that was not mapped at any time during the read is not reported",
    "CON-4": "level, OA and flags of an entry come from one load at some time during the read",
    "CON-5": "lines ascend and never overlap, also in a read that races with changes",
    "CON-6": "readers take no lock that map, unmap or attach takes; frees wait for at most one batch",
    "CON-7": "a read is bounded between reschedules; a killed reader goes away; a dying domain ends the read",
    "CON-8": "memory for an open file does not grow with the table",
    "CON-9": "an open file does not keep a domain alive; afterwards read fails EIO, open ENOENT",
    "CON-10": "any read size works, and so do pread and lseek: the pieces add up to one whole read",
    "CON-11": "reachable tables are freed after a grace period; operations that free none cost nothing",
    "FLT-1": "no memory: ENOMEM, no splat, no leak; making a domain never fails because of its directory",
    "FLT-2": "a format without a dump, or without RCU-freed tables, has no directory",
    "FLT-3": "a bad table item is shown as `bad` and not followed; the read goes on",
    "FLT-4": "reloading the module that owns the domains leaves domains/ as it was",
}

V1: dict[str, str] = {
    "V1-1": "a field has one value: exactly one of SH_NS, SH_OS and SH_IS is shown",
    "V1-2": "flags are those of the stage: NS is shown at stage 1 alone",
    "V1-3": "IOVAs of a single page are shown like all others",
    "V1-4": "a domain is shown as a decimal number, never as a pointer",
    "V1-5": "nothing sleeps under a lock or in an RCU section while the file is read",
    "V1-6": "a default domain without a table, or of a format without rows, does no harm",
    "V1-7": "a domain and its tables may go while the file is read",
}
"""Rules of the file io_page_tables, as posted in August 2025 and mended (docs/io_page_tables.md)."""

RULES: dict[str, str] = {**TABLES, **DUMP, **V1}

LATER: dict[str, str] = {}
"""Rules without a test yet, and the work that will add one. `pytest-iommu rules --check` checks this list."""


def of_dump(rule: str) -> bool:
    """Whether a rule is about the dump, so that a kernel without one cannot break it."""
    return rule in DUMP or rule in V1


def of_dma(rule: str) -> bool:
    """Whether a device's DMA says whether a rule is kept, so that none says it where all DMA is passed."""
    return rule in ("ISO-1", "ISO-2", "TLB-1", "TLB-2", "TLB-3")


def of_memory(rule: str) -> bool:
    """Whether a rule is judged in the guest's memory, so that a recording or a board says nothing of it."""
    return rule in TABLES
