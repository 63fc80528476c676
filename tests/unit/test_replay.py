# SPDX-License-Identifier: GPL-2.0-only
"""Recordings: what is written is what is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import KernelCrash, SetupError
from pytest_iommu.core.protocol import Evidence, Op, Reply, Result
from pytest_iommu.targets.recording import Recorder, begin, current_test, pack_reply, unpack_reply
from pytest_iommu.targets.replay import ReplayTarget

KEY = Key("smmuv3", "plain")
READ = [Op(1, path="/proc/version")]
WRITE = [Op(2, path="/control", data=b"reset\n")]


class Scripted:
    """A guest that gives these answers in turn; a text is why it cannot."""

    memory = None
    name = "scripted"

    def __init__(self, *answers: Reply | KernelCrash | str) -> None:
        self.answers = list(answers)

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        answer = self.answers.pop(0)
        if isinstance(answer, KernelCrash):
            raise answer
        if isinstance(answer, str):
            pytest.skip(answer)
        return answer

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass

    def evidence(self) -> Evidence:
        return Evidence()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of a recording that has begun."""
    begin(tmp_path)
    return tmp_path


def reply(text: str) -> Reply:
    return Reply((Result(len(text), text.encode()), Result(-2)), 4096, "kmsg\n")


def test_a_reply_survives_packing() -> None:
    assert unpack_reply(pack_reply(reply("hello"))) == reply("hello")


@pytest.mark.parametrize("cut", [1, 9, 14])
def test_a_cut_reply_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="recorded reply"):
        unpack_reply(pack_reply(reply("hello"))[:-cut])


def test_answers_come_in_order_and_the_last_one_stays(directory: Path) -> None:
    recorder = Recorder(directory, "main")
    guest = recorder.watch(Scripted(reply("one"), reply("two"), reply("done")), KEY)
    for batch in (READ, READ, WRITE):
        guest.run(batch)
    recorder.close()
    again = ReplayTarget(directory, KEY).start()
    assert [again.run(READ) for _ in range(3)] == [reply("one"), reply("two"), reply("two")]
    assert again.run(WRITE) == reply("done")


def test_the_commands_before_tell_equal_questions_apart(directory: Path) -> None:
    recorder = Recorder(directory, "main")
    scripts = [[Op(2, path="/control", data=data)] for data in (b"reset\ndomain a\n", b"reset\ndomain b\n")]
    answers = [reply("made"), reply("a's"), reply("made"), reply("b's")]
    guest = recorder.watch(Scripted(*answers), KEY)
    for script in scripts:
        guest.run(script)
        guest.run(READ)
    recorder.close()
    again = ReplayTarget(directory, KEY).start()
    for script, said in zip(reversed(scripts), ("b's", "a's"), strict=True):
        again.run(script)
        assert again.run(READ) == reply(said)


def test_a_bad_end_is_replayed_with_its_evidence(directory: Path) -> None:
    recorder = Recorder(directory, "main")
    crash = KernelCrash("panic while it ran a batch", Evidence("qemu -x", "console\n", "splat"))
    with pytest.raises(KernelCrash):
        recorder.watch(Scripted(crash), KEY).run(READ)
    recorder.close()
    with pytest.raises(KernelCrash, match="panic while") as caught:
        ReplayTarget(directory, KEY).start().run(READ)
    assert caught.value.evidence == crash.evidence


def test_what_was_not_recorded_is_said(directory: Path) -> None:
    recorder = Recorder(directory, "main")
    recorder.watch(Scripted(reply("one")), KEY).run(READ)
    recorder.close()
    with pytest.raises(SetupError, match=r"no answer to this batch.*op 2 /control"):
        ReplayTarget(directory, KEY).start().run(WRITE)
    with pytest.raises(SetupError, match="no recording of a guest smmuv3/debug"):
        ReplayTarget(directory, Key("smmuv3", "debug"))
    with pytest.raises(pytest.skip.Exception, match="no recording of this test"):
        ReplayTarget(directory, Key("smmuv3", "plain", "races")).start().run(READ)


class Running:
    """The test that is running, by name."""

    def __init__(self) -> None:
        self.name = ""

    def __call__(self) -> str:
        return self.name


def recorded(directory: Path, *told: tuple[str, list[Op], str], worker: str = "main") -> None:
    """A recording: (test, batch, answer) after each other on one guest."""
    running = Running()
    recorder = Recorder(directory, worker, running)
    guest = recorder.watch(Scripted(*(reply(said) for _, _, said in told)), KEY)
    for running.name, batch, _ in told:
        guest.run(batch)
    recorder.close()


def test_each_test_is_told_what_it_was_told(directory: Path) -> None:
    """Whatever the order, and whoever recorded it."""
    recorded(directory, ("a", READ, "one"), ("a", READ, "two"), ("b", READ, "three"))
    recorded(directory, ("c", READ, "four"), worker="gw1")
    running = Running()
    again = ReplayTarget(directory, KEY, running).start()
    for running.name, said in (("c", "four"), ("b", "three"), ("b", "three"), ("a", "one"), ("a", "two"), ("a", "two")):
        assert again.run(READ) == reply(said)
    running.name = "b"
    again.run(READ)
    running.name = "a"
    assert again.run(READ) == reply("one"), "a test that is run again does not begin anew"


def test_commands_of_the_test_before_do_not_matter(directory: Path) -> None:
    recorded(directory, ("a", WRITE, "done"), ("b", READ, "one"))
    running = Running()
    running.name = "b"
    assert ReplayTarget(directory, KEY, running).start().run(READ) == reply("one")


def test_what_another_test_had_asked_before(directory: Path) -> None:
    """And was kept by the process that recorded: told again where nobody was told otherwise."""
    other = [Op(3, path="/sys")]
    recorded(directory, ("a", other, "same"), ("a", READ, "one"), ("b", WRITE, "done"), ("c", READ, "two"))
    running = Running()
    running.name = "b"
    again = ReplayTarget(directory, KEY, running).start()
    again.run(WRITE)
    assert again.run(other) == reply("same")
    with pytest.raises(SetupError, match="no answer to this batch"):
        again.run(READ)
    running.name = "d"
    with pytest.raises(pytest.skip.Exception, match="no recording of this test"):
        again.run(WRITE)


def test_what_was_plugged_tells_equal_questions_apart(directory: Path) -> None:
    class Slots:
        def add(self, device: str) -> None:
            pass

    class Pluggable(Scripted):
        devices = Slots()

    running = Running()
    running.name = "a"
    recorder = Recorder(directory, "main", running)
    guest = recorder.watch(Pluggable(reply("without"), reply("with")), KEY)
    guest.run(READ)
    guest.devices.add("edu6")  # type: ignore[attr-defined]
    guest.run(READ)
    recorder.close()
    again = ReplayTarget(directory, KEY, running).start()
    assert [again.run(READ), again.run(READ)] == [reply("without")] * 2
    again.devices.add("edu6")
    assert again.run(READ) == reply("with")


def test_a_recorded_guest_has_what_it_has(directory: Path) -> None:
    recorder = Recorder(directory, "main")
    guest = recorder.watch(Scripted(), KEY)
    assert guest.name == "scripted"
    assert getattr(guest, "answers") == []  # noqa: B009
    assert not hasattr(guest, "gdb")
    recorder.close()


def test_an_earlier_recording_is_cleared_and_nothing_else(directory: Path) -> None:
    recorded(directory, ("a", READ, "one"), worker="gw7")
    (directory / "notes.txt").write_text("mine")
    (directory / "replies" / "notes.txt").write_text("mine")
    begin(directory)
    assert sorted(path.name for path in directory.rglob("*")) == ["notes.txt", "notes.txt", "replies"]


def test_a_worker_removes_nothing(directory: Path) -> None:
    """Not even what looks like another run's: the controller has cleared the directory."""
    recorded(directory, ("a", READ, "one"), worker="gw0")
    Recorder(directory, "main").close()
    assert ReplayTarget(directory, KEY, lambda: "a").start().run(READ) == reply("one")


def test_a_recording_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="--iommu-record: cannot prepare the directory"):
        begin(tmp_path / "file" / "recording")


def test_a_test_is_named_from_its_file_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directories before it are another place's where the recording is replayed."""
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "../a/b/test_x.py::test_y[s1 (4k)/x] (setup)")
    assert current_test() == "test_x.py::test_y[s1 (4k)/x]"
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    assert current_test() == ""


def test_a_directory_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is not a recording"):
        ReplayTarget(tmp_path, KEY)
    (tmp_path / "index-main.jsonl").write_text("{nonsense\n")
    with pytest.raises(SetupError, match=r"index-main.jsonl:1: malformed line in the recording"):
        ReplayTarget(tmp_path, KEY)


def test_what_the_guest_cannot_do_is_skipped_again(directory: Path) -> None:
    """Though the test had answers before that."""
    recorder = Recorder(directory, "main", lambda: "test")
    guest = recorder.watch(Scripted(reply("hello"), "needs edu0"), KEY)
    guest.run(READ)
    with pytest.raises(pytest.skip.Exception):
        guest.run(WRITE)
    recorder.close()
    again = ReplayTarget(directory, KEY, lambda: "test").start()
    assert again.run(READ) == reply("hello")
    with pytest.raises(pytest.skip.Exception, match="needs edu0"):
        again.run(WRITE)
