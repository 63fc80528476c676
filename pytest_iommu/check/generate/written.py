# SPDX-License-Identifier: GPL-2.0-only
"""Render steps as the text of a scenario file with one case, ready for scenarios/."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_iommu.check.generate.resolve import DrawnStep
from pytest_iommu.core.model import format_size


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of generated scenarios; ``where`` is the line of a case that selects it."""

    id: str
    where: str

    @property
    def attached(self) -> bool:
        """Whether a device is on its domain."""
        return self.where.startswith("stages")


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
DEVICE = "edu0"
TWICE = ("s1", "s2")
"""Variants that get a double share of the examples: those of the SMMU itself, also checked in guest memory."""


def shares(examples: int) -> dict[str, int]:
    """Return how many of ``examples`` each variant gets; they add up."""
    dealt = [*TWICE, *(variant.id for variant in VARIANTS)]
    each, rest = divmod(examples, len(dealt))
    hands = [each + (place < rest) for place in range(len(dealt))]
    return {
        variant.id: sum(hand for hand, name in zip(hands, dealt, strict=True) if name == variant.id)
        for variant in VARIANTS
    }


def written(variant: Variant, machine: str, rules: Sequence[str], steps: Iterable[DrawnStep]) -> str:
    """Return the file. The case is named after a hash of its steps, so that several fit into one file."""
    lines = [f"      - {_line(step)}" for step in steps] or ["      - check: {}"]
    if variant.attached:
        # The check ends a phase: what the IOMMU was told before the device was there does not count.
        lines = [f"      - attach: {{domain: d, devices: [{DEVICE}]}}", "      - check: {}", *lines]
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


def _line(step: DrawnStep) -> str:
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
