# SPDX-License-Identifier: GPL-2.0-only
"""The rules of the contract, by id. The contract itself, with reasons and tables, is design/abi.md."""

from __future__ import annotations

RULES: dict[str, str] = {
    "LAY-1": "domains/ exists with the option and debugfs on, and no trace of it without",
    "LAY-2": "one directory for each live domain whose page table offers a dump, from birth to death",
    "LAY-3": "the name is a decimal id from 1 up, handed out cyclically, never a pointer",
    "LAY-4": "the directory is there when the allocating call returns, and gone when the free returns",
    "LAY-5": "files are 0400 root: write EINVAL, ioctl ENOTTY, readable under lockdown",
    "LAY-6": "no kernel virtual address in any output",
    "LAY-7": "reading prints nothing to the kernel log and triggers no WARN",
    "INF-1": "format is the name of the page-table format",
    "INF-2": "type, aperture and page_sizes are those of the iommu_domain now",
    "INF-3": "levels in use now and the physical address of the top, both from one load",
    "RNG-1": "every mapped IOVA is in exactly one line, every unmapped one in none",
    "RNG-2": "first and last are inclusive, 16 lower-case hex digits; lines ascend and never overlap",
    "RNG-3": "a line is maximal: what continues and looks the same is one line, any difference starts a new one",
    "RNG-4": "OA is the translation of first; sizes are exact, in the largest of K M G T P",
    "RNG-5": "IOVAs are as a device issues them (sign-extended where the format does)",
    "RNG-6": "an empty page table is an empty file, without error",
    "LVL-1": "level is that of the table that holds the entry, in generic_pt numbering",
    "LVL-2": "leaf is what one leaf entry translates; a contiguous group is one leaf",
    "PRT-1": "prot is six columns rwxcmp as the format's table says",
    "PRT-2": "prot is decoded from the leaf entry and the configuration alone, not from the request",
    "PRT-3": "flags in the table's order, only those set, fields as NAME<value>, one value a field",
    "ENT-1": "every non-zero entry reachable from the top is listed once, raw as in memory",
    "ENT-2": "page_table is exactly entries' leaves merged, stats exactly entries counted",
    "STE-1": "a directory for each distinct stream id of a device, as long as the driver knows the device",
    "STE-2": "Config and addresses decoded from the STE in memory, in single loads",
    "STE-3": "Domain is the id of the domain whose top the STE or CD points to",
    "STE-4": "after attach, replace, detach, reset the files show the new state when the call returns",
    "STE-5": "several stream ids have a directory each; two devices on one domain show one id",
    "STE-6": "cd lists valid CDs in SSID order; none for a stream without a CD table",
    "CON-1": "no reader touches freed memory",
    "CON-2": "an IOVA whose mapping does not change during a read is reported right in it",
    "CON-3": "an IOVA that was mapped at no time during the read is not reported",
    "CON-4": "level, OA and flags of an entry are of one load, at some time during the read",
    "CON-5": "lines ascend and never overlap in a read that races, too",
    "CON-6": "readers take no lock that map, unmap or attach takes; frees wait one batch at most",
    "CON-7": "a read is bounded between reschedules; a killed reader goes away; a dying domain ends the read",
    "CON-8": "memory for an open file does not grow with the table",
    "CON-9": "an open file does not keep a domain alive: then read EIO, open ENOENT",
    "CON-10": "any read size works, and pread and lseek: the pieces add up to the one read",
    "CON-11": "reachable tables are freed after a grace period; operations that free none cost nothing",
    "FLT-1": "no memory: ENOMEM, no splat, nothing leaked; making a domain never fails for its directory",
    "FLT-2": "a format without a dump, or without RCU-freed tables, has no directory",
    "FLT-3": "a bad table item is not followed and shown as `bad`; the read goes on",
    "FLT-4": "reloading the module that owns the domains leaves domains/ as it was",
}

LATER: dict[str, str] = {}
"""Rules that no test is about yet, and the work that owns them. `pytest-iommu rules --check` holds this list."""
