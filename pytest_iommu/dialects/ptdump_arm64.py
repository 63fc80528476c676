# SPDX-License-Identifier: GPL-2.0-only
"""arm64's kernel_page_tables: the CPU's own tables, by the engine of ptdump.py."""

from __future__ import annotations

import re

from pytest_iommu.core.model import Prot
from pytest_iommu.dialects.kvm_stage2 import AREA
from pytest_iommu.dialects.ptdump import Ptdump, Words, columns

_MEMORY = "DEVICE/nGnRnE|DEVICE/nGnRE|MEM/NORMAL-NC|MEM/NORMAL-TAGGED|MEM/NORMAL"
_COMMON = (" |F", "USR|   ", "ro|RW", "NX|x ", "SHD|   ", "AF|  ", "NG|  ", "CON|   ", "BLK|   ", "UXN|   ", "GP|  ")


def _prot(words: tuple[str, ...]) -> Prot:
    """Decode the columns of pte_bits[]."""
    memory = words[-1].strip()
    return Prot(
        read=True,
        write=words[2] == "RW",
        execute=words[3] == "x ",
        cacheable=memory.startswith("MEM/") and memory != "MEM/NORMAL-NC",
        device=memory.startswith("DEVICE/"),
        privileged=words[1] != "USR",
    )


class PtdumpArm64(Ptdump):
    """Levels are the kernel's names; PGD and P4D stand for several, as tables may be folded."""

    name = "ptdump_arm64"
    about = "arm64's /sys/kernel/debug/kernel_page_tables"
    place = "../{file}"
    files = ("kernel_page_tables",)
    table = "the CPU's page tables"
    heading = re.compile(
        r"0x[0-9a-f]{16}-0x[0-9a-f]{16} +[0-9]+[KMGTPE] (?:PGD|P4D|PUD|PMD|PTE)\b|"
        r"---\[ (?:Linear Mapping|Modules|vmalloc|Fixmap|PCI I/O|vmemmap|Kasan)"
    )
    words = Words(
        levels={"PTE": 0, "PMD": 1, "PUD": 2, "P4D": 3, "PGD": 4},
        columns=(columns(*_COMMON, _MEMORY), columns(*_COMMON)),
        prot="rwxcmp",
        decode=_prot,
    )

    def marker(self, name: str) -> bool:
        return name != AREA and not name.startswith("RANGE ")


PTDUMP_ARM64 = PtdumpArm64()
