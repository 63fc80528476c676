# SPDX-License-Identifier: GPL-2.0-only
"""What a guest looks like once it has booted, and what differs later: a test must leave it as it found it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto

from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.ops import Code
from pytest_iommu.guest.testmodule import MODULE

DEVICES = "/sys/bus/pci/devices"
SYSCTL = ("/proc/sys/kernel", "/proc/sys/vm")
LOADED = "/proc/modules"
MOUNTS = "/proc/mounts"

# Counters, and what follows from the size of memory or from load: the kernel writes these itself.
_VOLATILE = frozenset({"hung_task_detect_count", "ns_last_pid", "stat_refresh", "tainted"})
# The agent's own spinner sets the one, and who reads either rebuilds the scheduling domains (sched_rt_handler(); up to
# 7.3 lockdep reports that where processors are isolated).
_LEFT_ALONE = frozenset({"sched_rt_period_us", "sched_rt_runtime_us"})

_CHANGING = frozenset(
    {
        *(Code.WRITE_FILE, Code.WRITE, Code.PWRITE, Code.IOCTL, Code.START_WRITER),
        *(Code.INSMOD, Code.RMMOD, Code.MOUNT),
    }
)

Send = Callable[["Sequence[Op]"], "Reply"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a guest: each thing that a test can change, by its path -> what it is, as text."""

    values: Mapping[str, str] = field(default_factory=dict)

    def changes(self, now: Snapshot) -> list[str]:
        """What differs in ``now``, a sentence each; empty when nothing does."""
        found = []
        for path in sorted(self.values.keys() | now.values.keys()):
            before, after = self.values.get(path), now.values.get(path)
            if before != after:
                found.append(f"{path}: {before or 'absent'} after boot, {after or 'absent'} now")
        return found


class Touched(Flag):
    """What the operations of a test can have changed, besides the domains of the test module.

    To look at everything after each test would cost more than most tests take.
    """

    NOTHING = 0
    SYSTEM = auto()
    SYSCTL = auto()


def touched_by(batch: Iterable[Op]) -> Touched:
    """What a batch can change."""
    found = Touched.NOTHING
    for op in batch:
        if op.code == Code.RUN or (op.code == Code.OPEN and op.path.startswith("/proc/sys/")):
            found |= Touched.SYSTEM | Touched.SYSCTL
        elif op.code in _CHANGING and not op.path.startswith(MODULE):
            found |= Touched.SYSTEM
            if op.path.startswith("/proc/sys/"):
                found |= Touched.SYSCTL
    return found


class BootState:
    """Remembers what a guest looked like when it was booted. Taking it costs two round trips, look() one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        devices, *sysctls = send([ops.list_directory(path) for path in (DEVICES, *SYSCTL)]).results
        self._devices = _names(devices)
        self._sysctls = [
            f"{folder}/{name}"
            for folder, listed in zip(SYSCTL, sysctls, strict=True)
            for name in _names(listed)
            if not name.endswith("/") and name not in _VOLATILE | _LEFT_ALONE
        ]
        self._first = self.look(sysctl=True)

    def look(self, sysctl: bool) -> Snapshot:
        """The guest as it is now; with ``sysctl`` the values of /proc/sys, too."""
        drivers = [f"{DEVICES}/{name.rstrip('@')}/driver" for name in self._devices]
        settings = self._sysctls if sysctl else []
        batch = [
            ops.list_directory(DEVICES),
            *(ops.readlink(path) for path in drivers),
            # For each read(2) the kernel allocates as much as is asked for.
            *(ops.read_file(path, chunk=512) for path in (LOADED, MOUNTS, *settings)),
        ]
        devices, *rest = self._send(batch).results
        values = {f"device {name.rstrip('@')}": "there" for name in _names(devices)}
        for path, result in zip(drivers, rest[: len(drivers)], strict=True):
            values[path] = ops.text_of(result).rpartition("/")[2] if result.ok else "not bound"
        modules, mounts, *others = rest[len(drivers) :]
        values |= {f"module {line.split()[0]}": "loaded" for line in ops.text_of(modules).splitlines()}
        values |= {f"mount {line.split()[1]}": "mounted" for line in ops.text_of(mounts).splitlines()}
        for path, result in zip(settings, others, strict=True):
            values[path] = ops.text_of(result).strip() if result.ok else ops.errno_name(result.value)
        return Snapshot(values)

    def changes(self, touched: Touched) -> list[str]:
        """What differs from the boot state now, a sentence each; looks only where ``touched`` says that it may."""
        if not touched:
            return []
        now = self.look(Touched.SYSCTL in touched)
        if Touched.SYSCTL in touched:
            return self._first.changes(now)
        before = {path: value for path, value in self._first.values.items() if path not in self._sysctls}
        return Snapshot(before).changes(now)


def _names(listed: Result) -> list[str]:
    return ops.text_of(listed).split() if listed.ok else []
