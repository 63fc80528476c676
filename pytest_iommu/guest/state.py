# SPDX-License-Identifier: GPL-2.0-only
"""The state of a guest after boot, and later changes: a test must leave the guest as it found it."""

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

# Counters, and values that depend on the size of memory or on load: the kernel itself changes these.
_VOLATILE = frozenset({"hung_task_detect_count", "ns_last_pid", "stat_refresh", "tainted"})
# The agent's own spinner sets the first. Reading either rebuilds the scheduling domains (sched_rt_handler()); up to 7.3
# lockdep reports that if processors are isolated.
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
    """The state of a guest at one time: path -> value as text, for each thing that a test can change."""

    values: Mapping[str, str] = field(default_factory=dict)

    def changes(self, now: Snapshot) -> list[str]:
        """Return the differences to ``now``, one sentence each."""
        found = []
        for path in sorted(self.values.keys() | now.values.keys()):
            before, after = self.values.get(path), now.values.get(path)
            if before != after:
                found.append(f"{path}: {before or 'absent'} after boot, {after or 'absent'} now")
        return found


class Touched(Flag):
    """What the operations of a test can have changed, besides the domains of the test module.

    Checking everything after each test would take longer than most tests.
    """

    NOTHING = 0
    SYSTEM = auto()
    SYSCTL = auto()


def touched_by(batch: Iterable[Op]) -> Touched:
    """Return what a batch can change."""
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
    """The state of a guest after boot. Taking it costs two round trips, look() one."""

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
        """Return the guest's current state; with ``sysctl`` including the values of /proc/sys."""
        drivers = [f"{DEVICES}/{name.rstrip('@')}/driver" for name in self._devices]
        settings = self._sysctls if sysctl else []
        batch = [
            ops.list_directory(DEVICES),
            *(ops.readlink(path) for path in drivers),
            # For each read(2) the kernel allocates the requested size.
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
        """Return the differences to the boot state, one sentence each; checks only what ``touched`` names."""
        if not touched:
            return []
        now = self.look(Touched.SYSCTL in touched)
        if Touched.SYSCTL in touched:
            return self._first.changes(now)
        before = {path: value for path, value in self._first.values.items() if path not in self._sysctls}
        return Snapshot(before).changes(now)


def _names(listed: Result) -> list[str]:
    return ops.text_of(listed).split() if listed.ok else []
