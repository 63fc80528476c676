# SPDX-License-Identifier: GPL-2.0-only
"""Storms without a guest: the log, the windows of lines, what is counted, and that each lie fails with its rule."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from pytest_iommu.check.races import lifetimes, storm
from pytest_iommu.check.races.history import Interval
from pytest_iommu.check.races.lifetimes import WatchedFile, same
from pytest_iommu.check.races.storm import Reader, Storm, StormTable
from pytest_iommu.check.races.storm_log import StormLog, parse_storm
from pytest_iommu.core.model import Prot, Range
from pytest_iommu.core.outcomes import CheckFailed, SetupError
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.dialects.io_ptdump import render, render_range
from pytest_iommu.formats import configure
from pytest_iommu.guest.jobs import Read
from pytest_iommu.guest.ops import Code
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.expected import merge

K, M = 1 << 10, 1 << 20
S1 = configure("arm_64_lpae_s1", ias=48, oas=44)
BASE, PA = 0x40000000, 1 << 43
HEAD = f"storm d0 iova={BASE:#x} cell={2 * M:#x} gap={4 * M:#x} round=0x0 cells=2 threads=1 changes=%d error=0\n"
STATES = f"""\
state 1 pa={PA + 4 * K:#x} size={2 * M:#x} leaf=0x1000 prot=rw
state 2 pa={PA + 32 * M + 4 * K:#x} size={2 * M:#x} leaf=0x1000 prot=r
state 3 pa={PA + 64 * M:#x} size={2 * M:#x} leaf={2 * M:#x} prot=rw
state 4 pa={PA + 96 * M + 4 * K:#x} size={M:#x} leaf=0x1000 prot=rwx
"""
#: cell 0: pages from 1000 to 3000, nothing, a block from 4000 on; cell 1: half a cell from 2000 on
CHANGES = ("0 1 1000 1010", "1 4 2000 2020", "0 0 3000 3030", "0 3 4000 4040")
LOG = HEAD % len(CHANGES) + STATES + "".join(f"{line}\n" for line in CHANGES)


def one_line(iova: int, oa: int, size: int, prot: str, leaf: int) -> Range:
    model = TableModel(S1)
    model.map(iova, oa, size, Prot.from_letters(prot), leaf)
    (row,) = model.snapshot().ranges
    return row


SENTINEL = one_line(BASE - 2 * M, 0x12340000, 8 * K, "rw", 4 * K)
PAGES = one_line(BASE, PA + 4 * K, 2 * M, "rw", 4 * K)
BLOCK = one_line(BASE, PA + 64 * M, 2 * M, "rw", 2 * M)
HALF = one_line(BASE + 4 * M, PA + 98 * M + 4 * K, M, "rwx", 4 * K)


def test_a_log_is_a_history() -> None:
    log = parse_storm(LOG)
    assert (log.name, log.cells, log.gap, log.error, len(log.done)) == ("d0", 2, 4 * M, 0, 4)
    assert [log.ranges(S1, 0, state) for state in (0, 1, 3)] == [(), (PAGES,), (BLOCK,)]
    assert log.ranges(S1, 1, 4) == (HALF,)
    history = log.history(S1, [SENTINEL])
    epochs = history.segment(BASE).epochs
    assert [(epoch.begin, epoch.end) for epoch in epochs[1:3]] == [(1000, 3030), (3000, 4040)]
    assert [epoch.look is None for epoch in epochs] == [True, False, True, False]
    assert epochs[1].what == "cell 0 to state 1"
    assert log.during(Interval(0, 10000)) == 4
    assert log.during(Interval(1001, 3000)) == 2
    assert log.during(Interval(4001, 9000)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense\n",
        LOG[:-1],
        LOG.replace("changes=4", "changes=5"),
        LOG.replace("state 2", "state 7"),
        LOG.replace("1 4 2000 2020", "1 4 2000"),
        LOG.replace("1 4 2000 2020", "1 5 2000 2020"),
        LOG.replace("1 4 2000 2020", "2 4 2000 2020"),
        LOG.replace("1 4 2000 2020", "one 4 2000 2020"),
    ],
)
def test_a_log_that_is_none(text: str) -> None:
    with pytest.raises(SetupError, match="log"):
        parse_storm(text)


def test_a_log_that_contradicts_itself() -> None:
    log = parse_storm(LOG.replace("0 0 3000 3030", "0 0 1005 3030"))
    with pytest.raises(SetupError, match="at the same time"):
        log.history(S1, [])


def dumped(*rows: Range) -> bytes:
    return "".join(f"{render_range(row)}\n" for row in merge(rows)).encode()


def cut_up(text: bytes, size: int, times: Sequence[int], number: int = 0) -> list[Read]:
    """A round of reads of ``size`` bytes; each lasts from one of the times to the next, the last is the end."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)] + [b""]
    assert len(times) == len(pieces) + 1
    return [
        Read(number, len(piece), begin, end - 1, piece)
        for piece, begin, end in zip(pieces, times, times[1:], strict=False)
    ]


def data_of(reads: Sequence[Read]) -> bytes:
    """As an agent gives it."""
    records = b"".join(struct.pack("<IiQQ", read.round, read.value, read.begin, read.end) for read in reads)
    return struct.pack("<I", len(reads)) + records + b"".join(read.data for read in reads)


def judged(pieces: Sequence[Read], file: str = "page_table", log: StormLog | None = None) -> list[CheckFailed]:
    judge = storm.Judge(IO_PTDUMP, StormTable("d0", "/d", S1, (SENTINEL,)), log or parse_storm(LOG))
    return judge.round(file, pieces)


def broken(failures: Sequence[CheckFailed]) -> list[str]:
    return [failure.rules[0] for failure in failures]


def test_a_line_belongs_to_the_read_that_returned_its_end() -> None:
    text = dumped(SENTINEL, PAGES, HALF)
    lines = text.splitlines(keepends=True)
    # The half came at 2000: it cannot be in a read that ended before, though its line began there.
    both = len(lines[0] + lines[1]) + 5
    assert judged(cut_up(text, both, [900, 1500, 2500, 2600])) == []
    assert broken(judged(cut_up(text, both, [900, 1500, 1900, 2600]))) == ["CON-4"]
    assert broken(judged(cut_up(text, len(text), [900, 1900, 2600]))) == ["CON-4"]
    # The pages went at 3000; a reader may have had them in hand from the begin of its round on, and no longer.
    assert judged(cut_up(text, both, [2900, 3500, 9000, 9100])) == []
    assert broken(judged(cut_up(text, both, [3100, 3500, 9000, 9100]))) == ["CON-4"]
    assert broken(judged(cut_up(text, both, [5000, 5100, 5200, 5300]))) == ["CON-2"]


def test_entries_and_info_are_judged_too() -> None:
    model = TableModel(S1)
    model.map(SENTINEL.first, SENTINEL.oa, 8 * K, Prot.from_letters("rw"))
    model.map(BASE, PA + 64 * M, 2 * M, Prot.from_letters("rw"), 2 * M)
    texts = render(model.snapshot().dump())
    whole = [4500, 4600, 4700]
    assert broken(judged(cut_up(texts["entries"].encode(), 1 << 16, whole), "entries")) == ["CON-2"]  # no half cell
    entries = texts["entries"].encode()
    assert judged(cut_up(entries, 1 << 16, [0, 100, 200]), "entries")[0].rules[0] == "CON-3"
    torn = texts["entries"].replace(" raw 0x0060080004", " raw 0x0060080006").encode()
    assert torn != entries
    assert judged(cut_up(torn, 1 << 16, whole), "entries")[0].rules == ("CON-4",)
    judge = storm.Judge(IO_PTDUMP, StormTable("d0", "/d", S1, (SENTINEL,)), parse_storm(LOG))
    info = texts["info"].encode()
    assert judge.round("info", cut_up(info, 1 << 16, whole)) == []
    assert judge.round("info", cut_up(info, 1 << 16, whole)) == []
    other = info.replace(b"levels: 4", b"levels: 3")
    assert broken(judge.round("info", cut_up(other, 1 << 16, whole))) == ["INF-3"]


STATS = "level tables leaves bytes\n3 1 0 4096\n2 1 0 4096\n1 1 {blocks} 4096\n0 2 {pages} 8192\ntotal 5 {sum} 20480\n"


@pytest.mark.parametrize(
    ("blocks", "pages", "times", "want"),
    [
        (0, 2, (0, 100, 200), []),
        (0, 1, (0, 100, 200), ["CON-2"]),
        (0, 3, (0, 100, 200), ["CON-3"]),
        (1, 2, (0, 100, 200), ["CON-3"]),
        (0, 2 + 512, (1500, 1600, 1700), []),
        (0, 2, (1500, 1600, 1700), ["CON-2"]),
        (0, 2 + 300, (900, 1005, 1700), []),  # while it is being mapped
        (1, 2 + 512 + 256, (2900, 4100, 4200), []),  # cut: pages first, then the block
        (0, 2 + 512 + 257, (2900, 4100, 4200), ["CON-3"]),
        (1, 2 + 256, (5000, 5100, 5200), []),
        (0, 2 + 256, (5000, 5100, 5200), ["CON-2"]),
    ],
)
def test_counting(blocks: int, pages: int, times: tuple[int, int, int], want: list[str]) -> None:
    text = STATS.format(blocks=blocks, pages=pages, sum=blocks + pages).encode()
    assert broken(judged(cut_up(text, 1 << 16, times), "stats")) == want


def test_sums_that_are_none() -> None:
    good = STATS.format(blocks=0, pages=2, sum=2)
    for wrong in (good.replace("total 5", "total 6"), good.replace("0 2 2 8192", "0 2 2 4096")):
        assert broken(judged(cut_up(wrong.encode(), 1 << 16, (0, 100, 200)), "stats")) == ["ENT-2"]


@dataclass
class FakeGuest:
    """Answers what storm.run() and lifetimes.run() ask, with reads made beforehand."""

    reads: Sequence[Read] = ()
    value: int = 1000
    log: str = LOG
    status: str = "1 ok\n"
    written: Result = field(default_factory=lambda: Result(9, data_of([Read(0, 0, 1000, 5000)])))
    asked: list[Op] = field(default_factory=list)

    def send(self, batch: Sequence[Op], timeout: float) -> Reply:
        return Reply(tuple(map(self._answer, batch)))

    def _answer(self, op: Op) -> Result:
        self.asked.append(op)
        if op.code == Code.READ_FILE:
            return Result(0, (self.status if op.path.endswith("status") else self.log).encode())
        if op.code == Code.WAIT_JOB:
            writers = [one.a for one in self.asked if one.code == Code.START_WRITER]
            return self.written if op.a in writers else Result(self.value, data_of(self.reads))
        return Result(0, b"S job0 reader" if op.code == Code.JOB_STATE else b"")


STORM = Storm(BASE, 2 * M, 2, 4 * M, 1, 4, 77)
TABLE = StormTable("d0", "/domains/3", S1, (SENTINEL,))
GOOD = cut_up(dumped(SENTINEL, PAGES, HALF), 1 << 16, [1500, 2500, 2600])


def test_a_storm_that_is_sound() -> None:
    guest = FakeGuest(GOOD)
    outcome = storm.run(guest.send, IO_PTDUMP, TABLE, replace(STORM, readers=(Reader(chunk=100, cpu=1),)))
    assert outcome.failures == []
    assert (outcome.changes, outcome.rounds, outcome.lines) == (4, 1, 3)
    commands = [op.data.decode() for op in guest.asked if op.code == Code.WRITE_FILE]
    stormed = "storm d0 0x40000000 2M cells=2 gap=4M threads=1 ops=4 more=100000 seed=77\n"
    assert commands == [stormed, "enough d0\n", "calm d0\n"]
    codes = [op.code for op in guest.asked]
    # The reader has read once before the storm begins, and ROUNDS times more before it may end.
    order = (Code.START_READER, Code.AWAIT_ROUNDS, Code.WRITE_FILE, Code.READ_FILE, Code.AWAIT_ROUNDS, Code.WRITE_FILE)
    assert tuple(codes[: len(order)]) == order
    assert [op.b for op in guest.asked if op.code == Code.AWAIT_ROUNDS] == [0, storm.ROUNDS]
    assert Code.RESET_JOBS in codes
    (started,) = (op for op in guest.asked if op.code == Code.START_READER)
    assert (started.path, started.b) == ("/domains/3/page_table", 100)


def test_a_violation_says_where_and_of_which_storm() -> None:
    torn = replace(PAGES, prot=HALF.prot)
    reads = [*GOOD, *cut_up(dumped(SENTINEL, torn, HALF), 1 << 16, [2600, 2700, 2800], 1)]
    (failure,) = storm.run(FakeGuest(reads).send, IO_PTDUMP, TABLE, STORM).failures
    assert failure.rules == ("CON-2",)  # nothing changed in that round
    assert "page_table of d0, 65536 bytes per read(2), round 1" in failure.message
    assert render_range(torn) in failure.message
    assert "cell 0 to state 1" in failure.message
    assert "seed=77" in failure.message
    assert set(failure.files) == {"page_table.1.txt", "storm.txt"}
    reads = cut_up(dumped(SENTINEL, torn, HALF), 1 << 16, [900, 3700, 3800])
    (failure,) = storm.run(FakeGuest(reads).send, IO_PTDUMP, TABLE, STORM).failures
    assert failure.rules == ("CON-4",)


def test_what_goes_wrong_with_a_storm() -> None:
    full = [*GOOD, Read(1, 10, 2600, 2700, b"0x00000000")]
    assert storm.run(FakeGuest(full, value=-90).send, IO_PTDUMP, TABLE, STORM).failures == []
    (failure,) = storm.run(FakeGuest(GOOD, value=-5).send, IO_PTDUMP, TABLE, STORM).failures
    assert "read failed: EIO" in failure.message
    with pytest.raises(CheckFailed, match="does not stop") as caught:
        storm.run(FakeGuest(GOOD, value=-110).send, IO_PTDUMP, TABLE, STORM)
    assert caught.value.rules == ("CON-7",)
    with pytest.raises(SetupError, match="ended with ENOMEM"):
        storm.run(FakeGuest(GOOD, log=LOG.replace("error=0", "error=12")).send, IO_PTDUMP, TABLE, STORM)
    with pytest.raises(SetupError, match="EBUSY there is one"):
        storm.run(FakeGuest(GOOD, status="1 error EBUSY there is one\n").send, IO_PTDUMP, TABLE, STORM)


def storms(guest: FakeGuest) -> list[str]:
    """The storms that a guest was told to make."""
    told = (op.data.decode() for op in guest.asked if op.code == Code.WRITE_FILE)
    return [line for line in told if line.startswith("storm ")]


def test_a_storm_in_which_nothing_races_says_nothing_of_the_kernel() -> None:
    """Each time it is tried it lasts for more reads."""
    guest = FakeGuest(cut_up(dumped(SENTINEL, BLOCK, HALF), 1 << 16, [5000, 5100, 5200]))
    with pytest.raises(pytest.skip.Exception, match="none of 4 changes began during one of 1 reads, 3 times"):
        storm.run(guest.send, IO_PTDUMP, TABLE, replace(STORM, readers=(Reader(cpu=1),)))
    assert len(storms(guest)) == len(set(storms(guest))) == storm.TRIES
    assert [op.b for op in guest.asked if op.code == Code.AWAIT_ROUNDS] == [0, 2, 0, 8, 0, 32]


def test_a_storm_in_which_nothing_raced_is_tried_again() -> None:
    """The host had kept the reader's processor off its cores all the time."""
    quiet = cut_up(dumped(SENTINEL, BLOCK, HALF), 1 << 16, [5000, 5100, 5200])
    guest = FakeGuest(quiet)
    send = guest.send

    def later(batch: Sequence[Op], timeout: float) -> Reply:
        if any(op.data == b"calm d0\n" for op in guest.asked):
            guest.reads = GOOD
        return send(batch, timeout)

    assert storm.run(later, IO_PTDUMP, TABLE, STORM).failures == []
    assert len(storms(guest)) == 2


def watched(reads: Sequence[Read], value: int, ends: tuple[str, ...] = ()) -> list[CheckFailed]:
    guest = FakeGuest(reads, value)
    watch = WatchedFile("/f", same("line 1\nline 2\n"), ("CON-9",), ends=ends)
    failures = lifetimes.run(guest.send, [watch], "destroy d0\n")
    codes = [op.code for op in guest.asked]
    # All have read once before the first command, and each ROUNDS times between two runs of the commands.
    rounds = [Code.AWAIT_ROUNDS] * 3
    assert codes[:7] == [Code.START_READER, Code.AWAIT_ROUNDS, Code.START_WRITER, *rounds, Code.SIGNAL_JOB]
    awaited = [(op.b, list(op.data[4:])) for op in guest.asked if op.code == Code.AWAIT_ROUNDS]
    assert awaited == [(0, [0]), (0, [1]), (lifetimes.ROUNDS, [0]), (0, [1])]
    stopped = [op.a for op in guest.asked if op.code == Code.SIGNAL_JOB]
    assert stopped == ([1] if ends else [1, 0])
    return failures


def test_files_that_go() -> None:
    whole = [Read(0, 14, 900, 1100, b"line 1\nline 2\n"), Read(0, 0, 1200, 1300)]
    cut = [*whole, Read(1, 7, 1400, 1500, b"line 1\n"), Read(1, -5, 1600, 1700)]
    assert watched(cut, -5, ("EIO", "ENOENT")) == []
    assert watched(whole, 14) == []
    assert broken(watched(whole, 14, ("EIO",))) == ["CON-9"]
    assert broken(watched(cut, -5)) == ["CON-9"]
    assert broken(watched(cut, -12, ("EIO",))) == ["CON-9"]
    short = [whole[0], Read(0, 0, 1200, 1300), Read(1, 7, 1400, 1500, b"line 1\n"), Read(1, 0, 1600, 1700)]
    assert "round 1: first difference at byte 7" in watched(short, 21)[0].message
    wrong = [replace(whole[0], data=b"line 1\nline 3\n"), whole[1]]
    assert "in line 'line 3'" in watched(wrong, 14)[0].message
    late = [replace(read, begin=read.begin + 9000, end=read.end + 9000) for read in whole]
    with pytest.raises(pytest.skip.Exception, match=r"no read\(2\) overlapped the commands"):
        watched(late, 14)


def test_a_command_that_fails_is_a_broken_test() -> None:
    guest = FakeGuest(GOOD, status="1 ok\n2 error ENOENT no domain d1\n")
    with pytest.raises(SetupError, match="destroy d1: ENOENT"):
        lifetimes.run(guest.send, [WatchedFile("/f", same(""), ("CON-9",))], "destroy d0\ndestroy d1\n")
