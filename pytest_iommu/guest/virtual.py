# SPDX-License-Identifier: GPL-2.0-only
"""One running QEMU guest: sends batches to its agent, and turns every failure into one of the named outcomes."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.core.machines import DRIVERS
from pytest_iommu.core.outcomes import BootTimeout, GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.process import Child
from pytest_iommu.core.protocol import Evidence, Op, Reply
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest import ops as operations
from pytest_iommu.guest import refusal
from pytest_iommu.guest.channel import Channel, ChannelError, ChannelTimeout
from pytest_iommu.guest.console import TAINT_MASK, Console, Splat, scan, taint_words
from pytest_iommu.guest.devices import Devices
from pytest_iommu.guest.fault_trace import FaultTrace
from pytest_iommu.guest.gdb import Gdb
from pytest_iommu.guest.memory import GuestMemory
from pytest_iommu.guest.qmp import Qmp, QmpError
from pytest_iommu.guest.qtest import Qtest

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine

CONSOLE_LIMIT = 64 << 20
"""A console larger than this is a flood. It occupies host memory, so the guest is ended."""

IOMMUS = "/sys/class/iommu"
NO_GRANULE = bytes.fromhex("5f2003d5 7f2003d5 feffff17")
"""wfe; wfi; b to the first."""
STOPPED = len(NO_GRANULE)
_PC = re.compile(r"\bPC=([0-9a-f]+)")
TAIL = 16384
KEPT = 4 << 20


@dataclass(frozen=True, slots=True)
class Wires:
    """The host's ends of QEMU's connections; the guest closes them all.

    ``console`` is a memfd that QEMU writes to, ``ram`` the memfd of the guest's RAM, ``faults`` that of QEMU's trace of
    what the IOMMU refuses, None on machines without.
    """

    agent: Channel
    qmp: Qmp
    qtest: Qtest
    gdb: Gdb
    console: int
    ram: int
    faults: int | None = None

    def close(self) -> None:
        """Close all of them."""
        self.agent.close()
        self.qmp.close()
        self.qtest.close()
        self.gdb.close()
        os.close(self.console)
        os.close(self.ram)
        if self.faults is not None:
            os.close(self.faults)


class VirtualGuest:
    """A QEMU process and its connections.

    ``host_time``: the guest's clock is the host's, and continues while the host keeps the guest from running.
    """

    def __init__(self, machine: Machine, child: Child, wires: Wires, host_time: bool = False) -> None:
        self.name = machine.name
        self.machine = machine
        self.child = child
        self.qmp = wires.qmp
        self.gdb = wires.gdb
        self.memory = GuestMemory(wires.ram, machine.ram, machine.memory, wires.qtest, self._register_lost)
        self.faults = FaultTrace(wires.faults) if wires.faults is not None else None
        self.hello: dict[str, str] = {}
        self.devices = Devices(self, wires.qmp, machine)
        self._wires = wires
        self._agent = wires.agent
        self._console = Console(wires.console)
        self._host_time = host_time
        self._paused = False
        self._closed = False
        self._taint = 0
        self._splat: Splat | None = None
        self._registers = ""
        self._last = Evidence()

    def boot(self, timeout: float) -> None:
        """Wait for the agent's HELLO, ``timeout`` in seconds.

        KernelCrash if the kernel reports a fault meanwhile. SetupError if it fails to boot without one: an image for
        another machine, no init, an intended panic, no driver for the machine's IOMMU. GuestLost if QEMU ends.
        """
        try:
            self.hello = self._agent.hello(timeout, self._look_for_a_stop)
        except ChannelTimeout:
            raise self._not_booted(self._hang(f"the guest did not boot within {timeout:.0f} s")) from None
        except ChannelError as error:
            raise self._not_booted(self._ended("while booting", error)) from error
        self._taint = int(self.hello.get("taint", "0"), 0)
        splat = self._console.scan_new()
        if splat is not None:
            raise self._crash(splat, "while booting")
        if "error" in self.hello:
            reported = self.hello["error"]
            reason = refusal.why(refusal.number_of(reported), self._console.tail(KEPT))
            told = f"{reported}: {reason}" if reason else reported
            raise SetupError(f"the guest's agent reports: {told}", self.evidence())
        if self.machine.iommu is not None:
            self._look_for_iommu()

    def _not_booted(self, error: IommuError) -> IommuError:
        """Turn a failed boot without a reported fault into a SetupError: it says nothing about the kernel's quality."""
        panicked = isinstance(error, KernelCrash) and self._splat is not None and self._splat.kind == "panic"
        if panicked or isinstance(error, KernelHang):
            kind = BootTimeout if isinstance(error, KernelHang) else SetupError
            return kind(f"the kernel does not boot: {error.message}{self._silence()}", error.evidence)
        return error

    def _silence(self) -> str:
        if self._console.size:
            return ""
        return "; it printed nothing: is the image for this machine, and does the processor support its page size?"

    def _look_for_a_stop(self) -> None:
        """SetupError when a kernel that has printed nothing stands in the loop for a processor that lacks its pages.

        __no_granule_support in arch/arm64/kernel/head.S; there the MMU is off, and addresses are physical.
        """
        if self._console.size:
            return
        try:
            found = _PC.search(self.qmp.monitor("info registers", 2.0))
        except QmpError:
            return  # QEMU's end is reported by whoever waits for the agent
        here = int(found[1], 16) if found else 0
        if not self.memory.base + STOPPED <= here < self.memory.base + self.memory.size - STOPPED:
            return
        if NO_GRANULE in bytes(self.memory.read(here - STOPPED, 2 * STOPPED)):
            why = "it stopped before it could print: the processor lacks the pages that it is configured for"
            # The last one counts: the user's options come after the machine's.
            cpus = [after for word, after in pairwise(self.child.argv) if word == "-cpu"]
            raise SetupError(f"the kernel does not boot: {why} (-cpu {cpus[-1]})", self.evidence())

    def _look_for_iommu(self) -> None:
        driver = DRIVERS[self.machine.iommu_type]
        (listed,) = self.run([operations.list_directory(IOMMUS)]).results
        if listed.ok and any(name.startswith(driver.sysfs) for name in operations.text_of(listed).splitlines()):
            return
        have = " ".join(operations.text_of(listed).split()) if listed.ok and listed.data else "empty"
        what = f"the kernel drives no IOMMU of this machine: {IOMMUS} is {have}. Is there a driver for {driver.what}?"
        said = [line for line in self._console.tail(KEPT).splitlines() if re.search(driver.said, line)]
        raise SetupError("\n".join([what, *said[:8]]), self.evidence())

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """Run a batch. ``timeout`` is in seconds of host time; the guest's own clock may run faster."""
        __tracebackhide__ = True
        if self._closed:
            raise GuestLost("the guest was closed", self._last)
        try:
            if self._paused:
                self.qmp.command("cont")
                self._paused = False
            reply = self._agent.run(ops, timeout, self._look)
        except ChannelTimeout:
            raise self._hang(f"the agent did not answer within {timeout:g} s") from None
        except (ChannelError, QmpError) as error:
            raise self._ended("while it ran a batch", error) from None
        if self._host_time and self._agent.stood_still:
            raise GuestLost(self._agent.stood_still, self.evidence())
        splat = self._console.scan_new() or scan(reply.kmsg)
        bad = reply.taint & ~self._taint & TAINT_MASK
        if splat is None and bad:
            splat = self._late_splat() or Splat("taint", f"the kernel is tainted: {taint_words(bad)}", reply.kmsg)
        if splat is not None:
            self._late_splat()
            raise self._crash(splat, "while it ran a batch")
        if self._console.size > CONSOLE_LIMIT:
            raise KernelHang(f"console flood: {self._console.size >> 20} MiB", self.evidence())
        return reply

    def pause(self) -> None:
        """Stop the vCPUs: an idle guest under icount keeps a core busy."""
        if self._paused or self._closed:
            return
        try:
            self.qmp.command("stop")
            self._paused = True
        except QmpError:
            pass  # the next run() fails in the same way and reports it properly

    def close(self) -> None:
        """Kill QEMU and free everything; never raises, may be called twice."""
        if self._closed:
            return
        self._last = self.evidence()
        self._closed = True
        self.child.close()
        self.memory.close()
        self._wires.close()

    def evidence(self) -> Evidence:
        """Return all that is known about the guest; after close(), its state at that time."""
        if self._closed:
            return self._last
        files = {"console.txt": self._console.tail(KEPT).encode()}
        if self._registers:
            files["registers.txt"] = self._registers.encode()
        if stderr := self.child.stderr().strip():
            files["qemu-stderr.txt"] = stderr.encode()
        return Evidence(
            command=shlex.join(self.child.argv),
            console=self._console.tail(TAIL),
            splat=self._splat.text if self._splat else "",
            output=self._agent.output.decode("utf-8", "backslashreplace"),
            files=files,
        )

    def _look(self) -> None:
        """Look for a kernel that broke but survives: the program's further output proves nothing."""
        splat = self._console.scan_new()
        if splat is not None:
            self._late_splat()
            raise self._crash(splat, "while it ran a program")

    def _late_splat(self) -> Splat | None:
        """Wait for the console, which may lag behind the agent, and look again."""
        deadline = Deadline(0.5)
        found: Splat | None = None
        size = -1
        while not deadline.over and (found is None or self._console.size != size):
            size = self._console.size
            time.sleep(0.05)
            found = found or self._console.scan_new()
        return found

    def _crash(self, splat: Splat, when: str) -> KernelCrash:
        # The console has the whole text where the scanner saw only its beginning.
        full = self._console.scan_all()
        self._splat = full if full is not None and full.title == splat.title else splat
        return KernelCrash(f"{self._splat.kind} {when}: {self._splat.title}", self.evidence())

    def _register_lost(self, cause: Exception) -> IommuError:
        if self._closed:
            return GuestLost("the guest was closed", self._last)
        return self._ended("while a register was accessed", cause)

    def _ended(self, when: str, cause: Exception) -> IommuError:
        """Explain a broken channel: a dead kernel ends QEMU too (-no-reboot), otherwise QEMU itself ended."""
        status = self.child.wait(2.0)
        splat = self._console.scan_all()
        if splat is not None:
            return self._crash(splat, when)
        stderr = self.child.stderr().strip()
        said = f"; it said: {stderr}" if stderr else ""
        if not self.hello and status not in (None, 0) and self._console.size == 0:
            return SetupError(f"QEMU did not start: it {self.child.how_it_ended()}{said}", self.evidence())
        if status is None:
            return GuestLost(f"lost the guest's agent {when}: {cause}; QEMU is still running{said}", self.evidence())
        return GuestLost(f"QEMU {self.child.how_it_ended()} {when}{said}", self.evidence())

    def _hang(self, what: str) -> IommuError:
        splat = self._console.scan_all()
        try:
            status = self.qmp.command("query-status", 2.0)
            self._registers = f"{status}\n{self.qmp.monitor('info registers -a', 2.0)}"
        except QmpError as error:
            state = _process_state(self.child.pid)
            return GuestLost(f"{what}, and QEMU does not answer either ({state}; {error})", self.evidence())
        if splat is not None:
            return self._crash(splat, "and then hung")
        return KernelHang(f"{what}; QEMU reports that the guest is {status['status']}", self.evidence())


def _process_state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "its process is gone"
    letter = text.rpartition(")")[2].split()[0]
    return {"T": "its process is stopped", "Z": "its process is dead"}.get(letter, f"its process is in state {letter}")
