# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of target that --iommu-target can name; other plugins add theirs with pytest_iommu_targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.protocol import Target

if TYPE_CHECKING:
    from pytest_iommu.core.key import Key
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.images import Artefacts, Machine
    from pytest_iommu.targets.running import Host


@dataclass(frozen=True, slots=True)
class TargetKind:
    """``make(settings, machine, key, kernel)`` makes the target of one machine and flavour.

    With ``needs_kernel`` a kernel is built (or fetched) on the controller before the first test; without, ``kernel``
    is None. ``emulated`` says that guests are the machines of qemu-images/, or answer as those; what a test in Python
    says of a machine it needs is then true. ``programs``: programs of ours can be put on its guests. ``live``: a kernel
    runs there, so a test is not over before what it made is freed. ``note`` is for the header: what cannot be seen.
    ``ignores`` are the options, without --iommu-, that have no effect there. ``takes_argument``: something may follow
    the name of the target, behind a colon. ``arch`` is the architecture of its machines; empty for any.
    """

    make: Callable[[Settings, Machine, Key, Artefacts | None], Target]
    needs_kernel: bool = True
    emulated: bool = True
    programs: bool = True
    live: bool = True
    note: str = ""
    ignores: tuple[str, ...] = ()
    takes_argument: bool = True
    arch: str = ""


def _qemu(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.qemu import QemuTarget, boot_of

    assert kernel is not None
    return QemuTarget(boot_of(settings, machine, kernel, key.boot_mode))


def _replay(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.replay import ReplayTarget

    if not settings.target_argument:
        raise SetupError("--iommu-target=replay:DIR takes the directory of a recording")
    directory = settings.where / settings.target_argument
    if settings.record is not None and settings.record.resolve() == directory.resolve():
        raise SetupError(f"{directory} cannot be replayed and recorded at the same time")
    return ReplayTarget(directory, key)


def _local(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.local import LocalHost

    return _running(LocalHost(), settings, machine, key)


def _ssh(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.ssh import SshHost

    return _running(SshHost(settings.target_argument), settings, machine, key)


def _serial(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.serial import SerialHost

    return _running(SerialHost(settings, machine), settings, machine, key)


def _vng(settings: Settings, machine: Machine, key: Key, kernel: Artefacts | None) -> Target:
    from pytest_iommu.targets.qemu import boot_of
    from pytest_iommu.targets.vng import VngHost

    assert kernel is not None
    boot = boot_of(settings, machine, kernel, key.boot_mode)
    return _running(VngHost(settings, boot, kernel), settings, machine, key)


def _running(host: Host, settings: Settings, machine: Machine, key: Key) -> Target:
    from pytest_iommu.core.flavours import page_size
    from pytest_iommu.targets.running import RunningTarget

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return RunningTarget(host, settings, machine, key, page_size(key.flavour), workers)


_NO_MEMORY = "a recording has no memory: EXPECTED is judged, IN RAM and DONE are not"
_NOT_OURS = "nobody sees its memory: EXPECTED is judged, IN RAM is not, DONE where there is an edu (test_buffers.py)"

# What is built for a guest, or how QEMU is started, is of no use where nothing is built or started.
BUILD_OPTIONS = ("config", "make-arg")
_START_OPTIONS = ("append", "qemu", "qemu-arg", "image")

BUILTIN: Mapping[str, TargetKind] = {
    "qemu": TargetKind(_qemu, takes_argument=False),
    "replay": TargetKind(
        _replay,
        needs_kernel=False,
        programs=False,
        live=False,
        note=_NO_MEMORY,
        ignores=(*BUILD_OPTIONS, *_START_OPTIONS, "kernel", "modules", "cache", "offline"),
    ),
    "local": TargetKind(
        _local,
        needs_kernel=False,
        emulated=False,
        note=_NOT_OURS,
        ignores=(*BUILD_OPTIONS, *_START_OPTIONS),
        takes_argument=False,
    ),
    "vng": TargetKind(_vng, arch="x86_64", takes_argument=False),
    "ssh": TargetKind(
        _ssh, needs_kernel=False, emulated=False, note=_NOT_OURS, ignores=(*BUILD_OPTIONS, *_START_OPTIONS)
    ),
    "serial": TargetKind(
        _serial, needs_kernel=False, emulated=False, note=_NOT_OURS, ignores=(*BUILD_OPTIONS, *_START_OPTIONS)
    ),
}
