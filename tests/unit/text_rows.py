# SPDX-License-Identifier: GPL-2.0-only
"""A right text of any length in every dialect: what time a parser takes for a line is measured with these."""

from __future__ import annotations

from collections.abc import Callable

#: of each dialect: its heading, a row for a number, its end
ROWS: dict[str, tuple[str, Callable[[int], str], str]] = {
    "io_ptdump": (
        "",
        lambda n: f"0x{n << 13:016x}-0x{(n << 13) + 4095:016x} 0x{n << 12:016x}       4K 0       4K rw----\n",
        "",
    ),
    "vtd": (
        "Device 0000:00:02.0 @0x1000\nIOVA_PFN\tPML5E\tPML4E\tPDPE\tPDE\tPTE\n",
        lambda n: (
            f"0x{n:013x} |\t0x{0:016x}\t0x{0x2003:016x}\t0x{0x3003 + (n >> 18 << 12):016x}"
            f"\t0x{0x100000003 + (n >> 9 << 12):016x}\t0x{(n << 12) + 3:016x}\n"
        ),
        "",
    ),
    "io_page_tables": (
        "-- domain 1 --\n- group 1\n  - x\n---[ RANGE START ]---\n",
        lambda n: f"{n << 12:x} - {n + 1 << 12:x}    lvl 3  stage ARM_64_LPAE_S1 V        AF             SH_IS\n",
        "---[ RANGE END   ]---\n",
    ),
    "smmuv3_2026_05": (
        "",
        lambda n: (
            f"CD for Stream ID 8 SSID {n}\n  Valid: Yes\n  ASID: 8\n  T0SZ: 16\n  TG0: 4K\n  IPS: 44\n  EPD0: No\n"
            "  TTB0: 0x0000000040b68000\n  MAIR: 0xfffffffff404ff44\n  Raw Data:\n"
            "    CD[0]: 0x0008e204c0003510\n    CD[1]: 0x0000000040b68000\n    CD[2]: 0x0000000000000000\n"
            "    CD[3]: 0xfffffffff404ff44\n" + "".join(f"    CD[{at}]: 0x0000000000000000\n" for at in range(4, 8))
        ),
        "",
    ),
    "smmuv3_2021": (
        "SMMUv3 dump page table for device x, stage 1, ssid 0x0:\n",
        lambda n: f"va: {n << 12:x} -> pa: {n << 12:x}\n",
        "",
    ),
    "ptdump_arm64": ("---[ x ]---\n", lambda n: f"0x{n << 12:016x}-0x{n + 1 << 12:016x}           4K PTE\n", ""),
    "kvm_stage2": ("---[ Guest IPA ]---\n", lambda n: f"0x{n << 12:016x}-0x{n + 1 << 12:016x}           4K 3\n", ""),
}
ROWS["smmuv3_2026_03"] = ROWS["smmuv3_2026_05"]


def written(dialect: str, rows: int) -> str:
    """The text of that dialect with so many rows; a row of the SMMUv3 series has several lines."""
    head, row, tail = ROWS[dialect]
    return head + "".join(map(row, range(rows))) + tail
