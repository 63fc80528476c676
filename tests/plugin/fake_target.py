# SPDX-License-Identifier: GPL-2.0-only
"""A target without a kernel, whose guests a test scripts: what a batch ends with, and what files contain.

A test's conftest.py gets it by CONFTEST; it defines ``behave(guest, batch)``, which is called before each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytest_iommu.core.outcomes import IommuError
from pytest_iommu.core.protocol import Evidence, Op, Reply, Result
from pytest_iommu.guest.ops import Code
from pytest_iommu.guest.testmodule import MODULE
from pytest_iommu.targets.registry import TargetKind

CONFTEST = f"""
import sys
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
import fake_target
from pytest_iommu.guest import ops
from pytest_iommu.core.outcomes import *
from pytest_iommu.core.protocol import Evidence

def pytest_iommu_targets(config):
    return {{"fake": fake_target.kind(behave)}}

def pytest_iommu_guest_lost(guest, reason):
    print(f"LOST {{guest.name}}: {{reason}}")

def writes(batch, text):
    return any(op.data.startswith(text.encode()) for op in batch)

"""

FILES = {
    "/proc/modules": "iommu_ptdump_test 1 0 - Live 0x0\n",
    "/proc/mounts": "none / rootfs rw 0 0\n",
    "/proc/sys/vm/swappiness": "60\n",
}
LISTS = {
    "/sys/bus/pci/devices": "0000:00:01.0@",
    "/proc/sys/kernel": "panic\ntainted",
    "/proc/sys/vm": "swappiness",
    "/sys/kernel/debug/iommu": "domains/",
}


class Guest:
    """Answers every command of the test module with ok, and remembers what is written."""

    memory = None
    count = 0

    def __init__(self, behave: Callable[[Any, Sequence[Op]], None]) -> None:
        Guest.count += 1
        self.number = Guest.count
        self.name = f"guest {self.number}"
        self.closed = False
        self.dead: IommuError | None = None
        self.files = dict(FILES)
        self.lists = dict(LISTS)
        self.driver = "edu"
        self.open = 0
        self._behave = behave
        self._status = ""
        self._domains = 0

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        if self.dead is not None:
            raise self.dead
        try:
            self._behave(self, ops)
        except IommuError as error:
            self.dead = error
            raise
        return Reply(tuple(self._one(op) for op in ops))

    def pause(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def evidence(self) -> Evidence:
        return Evidence(command=f"qemu of {self.name}")

    def _one(self, op: Op) -> Result:
        if op.code == Code.WRITE_FILE:
            return self._write(op)
        if op.code == Code.LIST:
            return _text(self.lists.get(op.path))
        if op.code == Code.READLINK:
            return _text(f"../drivers/{self.driver}" if self.driver else None)
        if op.code == Code.READ_FILE:
            return _text(self._status if op.path == f"{MODULE}/status" else self.files.get(op.path))
        if op.code in (Code.OPEN, Code.CLOSE):
            self.open += 1 if op.code == Code.OPEN else -1
        elif op.code == Code.CLOSE_ALL:
            return Result(self.open)
        elif op.code == Code.RMMOD:
            self.files["/proc/modules"] = ""
        elif op.code == Code.RUN:  # whatever it is, it pulls the device out
            self.lists["/sys/bus/pci/devices"] = ""
        return Result(-2) if op.code == Code.STAT else Result(0)

    def _write(self, op: Op) -> Result:
        text = op.data.decode()
        if op.path.endswith("/unbind"):
            self.driver = ""
        elif op.path != f"{MODULE}/control":
            self.files[op.path] = text
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            self._domains += line.startswith("domain")
            rows.append(f"{number} ok id={self._domains}\n" if line.startswith("domain") else f"{number} ok\n")
        self._status = "".join(rows)
        return Result(len(op.data))


class Target:
    name = "fake"

    def __init__(self, behave: Callable[[Any, Sequence[Op]], None]) -> None:
        self._behave = behave

    def start(self) -> Guest:
        return Guest(self._behave)


def kind(behave: Callable[[Any, Sequence[Op]], None]) -> TargetKind:
    """The kind of target for pytest_iommu_targets."""
    return TargetKind(lambda *_: Target(behave), needs_kernel=False)


def _text(text: str | None) -> Result:
    return Result(-2) if text is None else Result(len(text), text.encode())
