# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of target that --iommu-target can name; other plugins add theirs with pytest_iommu_targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_iommu.outcomes import SetupError
from pytest_iommu.targets.protocol import Target

if TYPE_CHECKING:
    from pytest_iommu.images import Artefacts, Machine
    from pytest_iommu.pool import Key
    from pytest_iommu.settings import Settings


@dataclass(frozen=True, slots=True)
class TargetKind:
    """``make(settings, machine, key, kernel)`` makes the target of one machine and flavour.

    With ``needs_kernel`` a kernel is built (or fetched) on the controller before the first test; without, ``kernel``
    is None.
    """

    make: Callable[[Settings, Machine, Key, Artefacts | None], Target]
    needs_kernel: bool = True


def _qemu(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.qemu import QemuTarget, boot_of

    assert kernel is not None
    return QemuTarget(boot_of(settings, machine, kernel, key.manner))


def _replay(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.replay import ReplayTarget

    if not settings.target_argument:
        raise SetupError("--iommu-target=replay:DIR takes the directory of a recording")
    return ReplayTarget(settings.where / settings.target_argument, key)


BUILTIN: Mapping[str, TargetKind] = {
    "qemu": TargetKind(_qemu),
    "replay": TargetKind(_replay, needs_kernel=False),
}
