# SPDX-License-Identifier: GPL-2.0-only
"""CON-6: readers that are stuck in their own user buffer hold nobody up, and get their text or EIO when it comes.

A page of their buffer comes when the test says so (userfaultfd): until then they stand in the kernel's copy of the
text. One reader of every file of a domain and, on an SMMUv3, of its device's stream, and of each directory above them,
stands there at once. A reader of a directory holds the lock of that directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.owners.directories import DOMAINS
from pytest_iommu.conformance.helpers import FILES, await_stuck
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Read, Signal
from pytest_iommu.guest.testmodule import MODULE, settled

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", devices=("edu0",)),
    pytest.mark.iommu_boot_mode("held"),
]

DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
CONTROL = f"{MODULE}/control"
BASE, BLOCKS = 0x40000000, 0x80000000
OA = 0x912340000
COUNT = 200
"""Lines of page_table: more than a page of text, so that a reader is not through when it is released."""
WRITER = 15
SLOT = 0
LONG = 10_000
"""Milliseconds that an operation may take that waits for nobody; it takes a few."""


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """What is done while readers are stuck: module commands before it, one write(2), and how to undo that.

    ``{d}`` is the domain they read, ``{e}`` another one, ``{edu0}`` the device's PCI address. ``dead`` are files that
    must be gone afterwards.
    """

    write: tuple[str, str]
    before: tuple[str, ...] = ()
    undo: tuple[str, str] | None = None
    dead: tuple[str, ...] = ()


def command(*lines: str) -> tuple[str, str]:
    """A batch of the module's."""
    return CONTROL, "".join(f"{line}\n" for line in lines)


ATTACH, OTHER = "attach {d} edu0", "attach {e} edu0"
STREAM = ("ste", "cd")
RESCAN = ("/sys/bus/pci/rescan", "1")
MEANWHILE = {
    "map": Meanwhile(
        command("map {d} {free} {oa} {page} rw", "map {d} {empty} {oa} {span} rw leaf={span}"), before=(OTHER,)
    ),
    "unmap": Meanwhile(command("unmap {d} {blocks} {span}", "unmap {d} {base} {page}"), before=(OTHER,)),
    "map-and-unmap-attached": Meanwhile(
        command(
            "unmap {d} {blocks} {span}", "map {d} {blocks} {oa} {span} rw leaf={span}", "unmap {d} {blocks} {span}"
        ),
        before=(ATTACH,),
    ),
    "attach": Meanwhile(command(ATTACH)),
    "detach": Meanwhile(command("detach edu0"), before=(ATTACH,)),
    "replace": Meanwhile(command("replace {e} edu0"), before=(ATTACH,)),
    "create": Meanwhile(command("domain new dev=edu0", "domain newer format=amdv1"), before=(OTHER,)),
    "destroy": Meanwhile(command("destroy {d}"), before=(OTHER,), dead=FILES),
    "detach-and-destroy": Meanwhile(command("detach edu0", "destroy {d}"), before=(ATTACH,), dead=FILES),
    "reset": Meanwhile(command("reset"), before=(ATTACH,), dead=FILES),
    "unbind": Meanwhile((f"{DRIVER}/unbind", "{edu0}"), before=(ATTACH,), undo=(f"{DRIVER}/bind", "{edu0}")),
    "remove": Meanwhile(("/sys/bus/pci/devices/{edu0}/remove", "1"), before=(ATTACH,), undo=RESCAN, dead=STREAM),
}


class Held:
    """A domain with a reader stuck in each file of it and of edu0's stream: job number ``i`` reads ``files[i]``."""

    def __init__(self, guest: GuestHandle, iommu: Iommu) -> None:
        self._guest = guest
        self._iommu = iommu
        self._readers: dict[int, str] = {}
        stage = next(iter(guest.machine.stages))
        self.domain = iommu.domain(stage=stage, device="edu0")
        self.other = iommu.domain(stage=stage, device="edu0")
        self._words = words(self.domain, self.other) | {"edu0": f"0000:{guest.machine.device('edu0').address}"}
        page, span = self.domain.page, self._words["span"]
        self.tell(
            f"map {{d}} {{base}} {{oa}} {page} rw count={COUNT} pstep={3 * page}",
            f"map {{d}} {{blocks}} {{oa}} {{span}} rw leaf={page}",
            "map {d} {empty} {oa} {page} rw",
            "unmap {d} {empty} {page}",
        )
        assert span == page * page // 8
        self.directories = {"domains/": DOMAINS, "domains/id/": self.domain.path()}
        self.paths = {name: self.domain.path(name) for name in FILES}
        if guest.machine.iommu_type == "smmuv3":
            stream = f"{guest.streams.path}/{guest.streams.sid('edu0')}"
            self.directories["stream_table/"] = guest.streams.path
            self.paths |= {name: f"{stream}/{name}" for name in STREAM}

    def tell(self, *lines: str) -> None:
        """Give the module commands, in the words of this domain."""
        for line in lines:
            self._iommu.command(line.format(**self._words))

    def filled(self, write: tuple[str, str]) -> tuple[str, str]:
        """A write in the words of this domain."""
        path, text = (word.format(**self._words) for word in write)
        return path, text

    def texts(self) -> dict[str, list[str]]:
        """Every file's lines as they are now; none of a file that is not there."""
        results = self._guest.run([ops.read_file(path) for path in self.paths.values()]).results
        return {name: ops.text_of(result).splitlines() for name, result in zip(self.paths, results, strict=True)}

    def gone(self) -> set[str]:
        """The files that cannot be opened because they are not there."""
        batch = [op for path in self.paths.values() for op in (ops.open_file(SLOT, path), ops.close(SLOT))]
        opened = self._guest.run(batch).results[::2]
        return {
            name for name, result in zip(self.paths, opened, strict=True) if ops.errno_name(result.value) == "ENOENT"
        }

    def directories_left(self) -> list[str]:
        """The directories of what has ended that are there when the kernel has had the time to remove them."""
        results = self._guest.run([settled(), *(ops.stat(path) for path in self.paths.values())]).results[1:]
        return [path for path, result in zip(self.paths.values(), results, strict=True) if result.ok]

    def start(self, names: Iterable[str]) -> None:
        """Start a reader of each of these files. AssertionError when one does not get stuck."""
        self._readers = dict(enumerate(names))
        started = self._guest.run(
            [
                jobs.start_reader(job, (self.paths | self.directories)[name], held=True)
                for job, name in self._readers.items()
            ]
        )
        for job, result in enumerate(started.results):
            assert result.ok, f"the reader of {self._readers[job]}: {ops.errno_name(result.value)}"
            await_stuck(self._guest, job, self._readers[job])

    def run(self, path: str, text: str) -> int:
        """One write(2) by a process of its own while the readers are stuck: what it returns.

        One that does not come back is waited for while one reader after the other is released. AssertionError then.
        """
        begun, waited = self._guest.run(
            [jobs.start_writer(WRITER, path, text.encode()), jobs.wait_job(WRITER, LONG)], timeout=60
        ).results
        assert begun.ok, begun
        if ops.errno_name(waited.value) != "ETIMEDOUT":
            return waited.value
        where = ops.text_of(self._guest.run([jobs.job_state(WRITER)]).results[0])
        for job, name in self._readers.items():
            self._guest.run([jobs.signal_job(job, Signal.RELEASE)])
            (waited,) = self._guest.run([jobs.wait_job(WRITER, 1000)]).results
            if ops.errno_name(waited.value) != "ETIMEDOUT":
                raise AssertionError(
                    f"waits for the reader of {name}, which is stuck in its own buffer; it was {where}"
                )
        raise AssertionError(f"does not end, whichever reader is released: {where}")

    def release(self) -> dict[str, list[Read]]:
        """Let all readers go on to their end: the reads of each."""
        ends = {}
        for job, name in self._readers.items():
            _, end = self._guest.run(
                [jobs.signal_job(job, Signal.RELEASE), jobs.wait_job(job, LONG)], timeout=60
            ).results
            assert ops.errno_name(end.value) != "ETIMEDOUT", f"the reader of {name} does not end"
            ends[name] = jobs.split_reads(end.data)
        return ends


def words(domain: Domain, other: Domain) -> dict[str, str | int]:
    """What stands in the commands of MEANWHILE."""
    page = domain.page
    span = page * page // 8
    return {
        "d": domain.name,
        "e": other.name,
        "base": BASE,
        "free": BASE + 2 * COUNT * page,
        "blocks": BLOCKS,
        "empty": BLOCKS + span,
        "oa": OA & -span,
        "page": page,
        "span": span,
    }


@pytest.fixture
def held(iommu_guest: GuestHandle, iommu: Iommu) -> Iterator[Held]:
    """A domain for readers to be stuck in; they are gone at the end."""
    yield Held(iommu_guest, iommu)
    if iommu_guest.alive:
        iommu_guest.run([jobs.reset_jobs()], timeout=60)


def judge(name: str, reads: Sequence[Read], before: Sequence[str], after: Sequence[str], dead: bool) -> None:
    """What a released reader got: of a file that lives its text, of a dead one EIO, after what was read before.

    Of a directory its names; one that was removed between two calls has none any more.
    """
    last = ops.errno_name(reads[-1].value)
    if name.endswith("/"):
        assert last == "ok" or (dead and last == "ENOENT"), f"reading the directory {name} fails with {last}"
        return
    text = b"".join(read.data for read in reads).decode()
    lines = text.splitlines()
    if dead:
        assert last == "EIO", f"{name} is dead, and reading on ends with {last}"
        assert "\n".join(before).startswith(text.removesuffix("\n")), f"{name} is not what it was"
        return
    assert last == "ok", f"reading {name} on fails with {last}"
    if len(before) < 20:
        assert lines == before, f"{name} is not what it was when its reader was stopped"
        return
    known = {*before, *after}
    assert known.issuperset(lines), f"{name}: {next(line for line in lines if line not in known)} was never so"
    missing = {*before}.intersection(after).difference(lines)
    assert not missing, f"{name} lacks what was there all the time: {min(missing)}"


@pytest.mark.iommu_rules("CON-6", "CON-9", "CON-2", "CON-3", "STE-1")
@pytest.mark.parametrize("name", MEANWHILE)
def test_nobody_waits_for_readers_that_are_stuck(name: str, held: Held, iommu_guest: GuestHandle) -> None:
    what = MEANWHILE[name]
    held.tell(*what.before)
    before = held.texts()
    # What is empty has nothing to copy: the CDs of a device that was never attached.
    held.start([*(file for file, lines in before.items() if lines), *held.directories])
    path, text = held.filled(what.write)
    value = held.run(path, text)
    assert value == len(text), f"{text!r} to {path}: {ops.errno_name(value)}"
    after = held.texts()
    gone = held.gone()
    dead_files = set(what.dead) & set(held.paths)
    assert gone == dead_files, f"gone are {sorted(gone)}"
    ends = held.release()
    left = {held.paths[file] for file in dead_files} & set(held.directories_left())
    assert not left, f"still there after the readers of the directories have gone on: {sorted(left)}"
    if what.undo:
        iommu_guest.write(*held.filled(what.undo))
    for file, reads in ends.items():
        dead = file in what.dead or (file == "domains/id/" and "info" in what.dead)
        judge(file, reads, before.get(file, ()), after.get(file, ()), dead)


@pytest.mark.iommu_rules("CON-6", "CON-7")
def test_grace_periods_and_readers_go_on(held: Held, iommu_guest: GuestHandle) -> None:
    """Who is stuck is in no RCU section, and in nobody's way who reads the same."""
    held.tell(ATTACH)
    before = held.texts()
    held.start(held.paths)
    grace = [f"{MODULE}/{name}" for name in ("grace_period", "grace_period_expedited")]
    for path in (*grace, *held.paths.values()):
        begun, end = iommu_guest.run([jobs.start_reader(WRITER, path), jobs.wait_job(WRITER, LONG)], timeout=60).results
        assert begun.ok, f"{path}: {ops.errno_name(begun.value)}"
        assert end.ok, f"{path} beside readers that are stuck: {ops.errno_name(end.value)}"
    assert held.texts() == before
    for file, reads in held.release().items():
        judge(file, reads, before[file], before[file], dead=False)


@pytest.mark.iommu_rules("CON-7", "CON-9")
@pytest.mark.parametrize("dead", [False, True], ids=["alive", "freed"])
def test_a_stuck_reader_is_killed(dead: bool, held: Held, iommu_guest: GuestHandle) -> None:
    held.tell(OTHER)
    held.start(held.paths)
    if dead:
        held.tell("destroy {d}")
    for job, file in enumerate(held.paths):
        killed, end = iommu_guest.run([jobs.signal_job(job, Signal.KILL), jobs.wait_job(job, 1)], timeout=60).results
        assert killed.ok, f"the reader of {file} does not go: {ops.errno_name(killed.value)}"
        assert ops.errno_name(end.value) == "EINTR"
        assert jobs.split_time(killed.data) < LONG * 1_000_000
    if not dead:
        held.tell("destroy {d}")
    assert held.gone() == set(FILES)
