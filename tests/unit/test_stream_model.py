# SPDX-License-Identifier: GPL-2.0-only
"""What an STE and a CD must hold, field by field."""

from __future__ import annotations

import pytest

from pytest_iommu.formats import configure
from pytest_iommu.oracle import stream_model
from pytest_iommu.oracle.stream_model import CD, CHOSEN, STE, Hardware, cd_fields, differing, ste_fields

#: SMMU_IDR0 and SMMU_IDR1 of QEMU 10's SMMUv3 with both stages
QEMU = Hardware.of(0x0D44101B, 0x02730010)
S1 = configure("arm_64_lpae_s1", granule=4096, ias=48, oas=44)
S2 = configure("arm_64_lpae_s2", granule=4096, ias=44, oas=44)
TOP = 0x41234000
# As Linux 7.3 writes them on that SMMU.
STE_S1 = [0xB | 0x41000000, 0x2 | 1 << 2 | 1 << 4 | 3 << 6, 0, 0, 0, 0, 0, 0]
VTCR = 20 | 2 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 4 << 16
STE_S2 = [0xD, 0, 5 | VTCR << 32 | 1 << 51 | 1 << 54 | 1 << 58, TOP, 0, 0, 0, 0]
CD_S1 = [
    16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 7 << 45 | 9 << 48,
    TOP,
    0,
    0xF404FF44,
]
CD_S1 += [0] * 4


def wrong(words: list[int]) -> list[str]:
    if words[0] & 0xF == 0xB:
        return differing(words, ste_fields(S1, TOP, QEMU), STE)
    if words[0] & 0xF == 0xD:
        return differing(words, ste_fields(S2, TOP, QEMU), STE)
    return differing(words, cd_fields(S1, TOP, 0xF404FF44), CD)


@pytest.mark.parametrize("words", [STE_S1, STE_S2, CD_S1], ids=["ste-s1", "ste-s2", "cd"])
def test_what_linux_writes_is_right(words: list[int]) -> None:
    assert wrong(words) == []


@pytest.mark.parametrize("words", [STE_S1, STE_S2, CD_S1], ids=["ste-s1", "ste-s2", "cd"])
def test_every_other_bit_is_seen(words: list[int]) -> None:
    """All but the ids and pointers that are the kernel's to choose, and what says which descriptor it is."""
    fields = CD if words is CD_S1 else STE
    free = {
        (fields[name].word, bit)
        for name in CHOSEN
        if name in fields
        for bit in range(fields[name].low, fields[name].high + 1)
    }
    free |= {(0, bit) for bit in range(4) if words is not CD_S1}
    unseen = []
    for word in range(8):
        for bit in range(64):
            changed = list(words)
            changed[word] ^= 1 << bit
            if (word, bit) not in free and not wrong(changed):
                unseen.append((word, bit))
    assert unseen == []


def test_a_field_is_named_with_both_values() -> None:
    changed = list(STE_S2)
    changed[2] ^= 1 << 44
    assert wrong(changed) == ["S2SH0 is 0x2, must be 0x3"]
    changed = list(CD_S1)
    changed[1] += 0x1000
    assert wrong(changed) == [f"TTB0 is {TOP + 0x1000:#x}, must be {TOP:#x}"]
    assert wrong([*STE_S1[:5], 1, 0, 0]) == ["word 5 has bits that no field allows: 0x1"]


def test_the_hardware_decides_what_is_asked_for() -> None:
    assert (QEMU.stalls, QEMU.overrides, QEMU.vmid_bits, QEMU.asid_bits) == (False, False, 16, 16)
    stalls = Hardware.of(0, 1 << 27)
    assert ste_fields(S1, TOP, stalls)["S1STALLD"] == 1
    assert ste_fields(S2, TOP, stalls)["SHCFG"] == stream_model.INCOMING
    big = configure("arm_64_lpae_s2", granule=65536, ias=44, oas=44)
    assert ste_fields(big, TOP, QEMU)["S2SL0"] == big.levels - 1
