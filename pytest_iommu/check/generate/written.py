# SPDX-License-Identifier: GPL-2.0-only
"""Steps -> the text of a scenario file with one case, ready for scenarios/."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_iommu.check.generate.resolve import Step
from pytest_iommu.core.model import format_size


@dataclass(frozen=True, slots=True)
class Variant:
    """Where generated scenarios run: ``where`` is the line of a case that says so."""

    id: str
    where: str


VARIANTS = (
    Variant("s1", "stages: [s1]"),
    Variant("s2", "stages: [s2]"),
    Variant("amdv1", "formats: [amdv1]"),
    Variant("vtdss", "formats: [vtdss]"),
    Variant("x86_64", "formats: [x86_64]"),
    Variant("riscv_64", "formats: [riscv_64]"),
    Variant("arm_64_lpae_s1-16k", "table: {format: arm_64_lpae_s1, granule: 16K}"),
    Variant("arm_64_lpae_s1-64k", "table: {format: arm_64_lpae_s1, granule: 64K, ias: 48, oas: 52}"),
    Variant("arm_64_lpae_s1-ttbr1", "table: {format: arm_64_lpae_s1, quirks: [ttbr1]}"),
    Variant("arm_64_lpae_s2-4k", "table: {format: arm_64_lpae_s2, granule: 4K, ias: 40, oas: 40}"),
    Variant("arm_64_lpae_s2-16k", "table: {format: arm_64_lpae_s2, granule: 16K}"),
    Variant("arm_64_lpae_s2-64k", "table: {format: arm_64_lpae_s2, granule: 64K}"),
    Variant("arm_32_lpae_s1", "table: {format: arm_32_lpae_s1}"),
    Variant("arm_32_lpae_s2", "table: {format: arm_32_lpae_s2}"),
)
TWICE = ("s1", "s2")
"""Variants that get two shares of the examples: what the SMMU itself uses, in the guest's memory too."""


def shares(examples: int) -> dict[str, int]:
    """How many of ``examples`` each variant gets; they add up."""
    dealt = [*TWICE, *(variant.id for variant in VARIANTS)]
    each, rest = divmod(examples, len(dealt))
    hands = [each + (place < rest) for place in range(len(dealt))]
    return {
        variant.id: sum(hand for hand, name in zip(hands, dealt, strict=True) if name == variant.id)
        for variant in VARIANTS
    }


def written(variant: Variant, machine: str, rules: Sequence[str], steps: Iterable[Step]) -> str:
    """The file. Its case is named after what it does, so that several fit into one file."""
    lines = [f"      - {_line(step)}" for step in steps] or ["      - check: {}"]
    name = hashlib.sha256("\n".join([variant.where, *lines]).encode()).hexdigest()[:8]
    return "\n".join(
        [
            "suite: generated",
            "cases:",
            f"  - name: generated-{name}",
            f"    rules: [{', '.join(rules)}]",
            f"    machines: [{machine}]",
            f"    {variant.where}",
            "    do:",
            *lines,
            "",
        ]
    )


def _line(step: Step) -> str:
    words = {
        "iova": f"0x{step.iova:x}",
        "pa": None if step.pa is None else f"0x{step.pa:x}",
        "size": format_size(step.size),
        "prot": step.prot,
        "leaf": None if step.leaf is None else format_size(step.leaf),
        "count": None if step.count == 1 else str(step.count),
        "istep": None if step.istep is None else format_size(step.istep),
        "pstep": None if step.pstep is None else format_size(step.pstep),
        "errno": step.errno,
    }
    return f"{step.word}: {{{', '.join(f'{key}: {text}' for key, text in words.items() if text is not None)}}}"
