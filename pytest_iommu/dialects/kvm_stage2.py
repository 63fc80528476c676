# SPDX-License-Identifier: GPL-2.0-only
"""KVM's stage2_page_tables on arm64 (arch/arm64/kvm/ptdump.c): a guest's stage 2, by the engine of ptdump.py."""

from __future__ import annotations

import re

from pytest_iommu.core.model import Prot
from pytest_iommu.dialects.ptdump import Ptdump, Words, columns

AREA = "Guest IPA"


def _prot(words: tuple[str, ...]) -> Prot:
    """Decode the columns of stage2_pte_bits[]: ``X`` of earlier kernels, ``ux`` of later ones."""
    return Prot(read=words[1] == "R", write=words[2] == "W", execute=words[3] == "X" or "ux" in words[3])


class KvmStage2(Ptdump):
    """Levels are Arm's, 3 the one of pages."""

    name = "kvm_stage2"
    about = "KVM's stage2_page_tables on arm64"
    place = "../kvm/{domain}/{file}"
    files = ("stage2_page_tables",)
    table = "a guest's stage-2 tables"
    format = "arm_64_lpae_s2"
    heading = re.compile(r"---\[ Guest IPA \]---|0x[0-9a-f]{16}-0x[0-9a-f]{16} +[0-9]+[KMGTPE] [0-9]\b")
    words = Words(
        levels={"3": 0, "2": 1, "1": 2, "0": 3},
        columns=(
            columns(" |F", "R| ", "W| ", "X| ", "AF|  ", "BLK|   "),
            columns(" |F", "R| ", "W| ", "px ux |PXNux |PXNUXN|px UXN", "AF|  ", "BLK|   "),
        ),
        prot="rwx",
        decode=_prot,
    )

    def marker(self, name: str) -> bool:
        return name == AREA


KVM_STAGE2 = KvmStage2()
