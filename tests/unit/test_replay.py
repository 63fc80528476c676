# SPDX-License-Identifier: GPL-2.0-only
"""Recordings: what is written is what is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_iommu.outcomes import KernelCrash, SetupError
from pytest_iommu.pool import Key
from pytest_iommu.targets.protocol import Evidence, Op, Reply, Result
from pytest_iommu.targets.replay import Recorder, ReplayTarget, pack_reply, unpack_reply

KEY = Key("smmuv3", "plain")
READ = [Op(1, path="/proc/version")]
WRITE = [Op(2, path="/control", data=b"reset\n")]


class Scripted:
    """A guest that gives these answers in turn."""

    memory = None
    name = "scripted"

    def __init__(self, *answers: Reply | KernelCrash) -> None:
        self.answers = list(answers)

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        answer = self.answers.pop(0)
        if isinstance(answer, KernelCrash):
            raise answer
        return answer

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass

    def evidence(self) -> Evidence:
        return Evidence()


def reply(text: str) -> Reply:
    return Reply((Result(len(text), text.encode()), Result(-2)), 4096, "kmsg\n")


def test_a_reply_survives_packing() -> None:
    assert unpack_reply(pack_reply(reply("hello"))) == reply("hello")


@pytest.mark.parametrize("cut", [1, 9, 14])
def test_a_cut_reply_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="recorded reply"):
        unpack_reply(pack_reply(reply("hello"))[:-cut])


def test_answers_come_in_order_and_the_last_one_stays(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "main")
    guest = recorder.watch(Scripted(reply("one"), reply("two"), reply("done")), KEY)
    for batch in (READ, READ, WRITE):
        guest.run(batch)
    recorder.close()
    again = ReplayTarget(tmp_path, KEY).start()
    assert [again.run(READ) for _ in range(3)] == [reply("one"), reply("two"), reply("two")]
    assert again.run(WRITE) == reply("done")


def test_the_commands_before_tell_equal_questions_apart(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "main")
    scripts = [[Op(2, path="/control", data=data)] for data in (b"reset\ndomain a\n", b"reset\ndomain b\n")]
    answers = [reply("made"), reply("a's"), reply("made"), reply("b's")]
    guest = recorder.watch(Scripted(*answers), KEY)
    for script in scripts:
        guest.run(script)
        guest.run(READ)
    recorder.close()
    again = ReplayTarget(tmp_path, KEY).start()
    for script, said in zip(reversed(scripts), ("b's", "a's"), strict=True):
        again.run(script)
        assert again.run(READ) == reply(said)


def test_a_bad_end_is_replayed_with_its_evidence(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "main")
    crash = KernelCrash("panic while it ran a batch", Evidence("qemu -x", "console\n", "splat"))
    with pytest.raises(KernelCrash):
        recorder.watch(Scripted(crash), KEY).run(READ)
    recorder.close()
    with pytest.raises(KernelCrash, match="panic while") as caught:
        ReplayTarget(tmp_path, KEY).start().run(READ)
    assert caught.value.evidence == crash.evidence


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "main")
    recorder.watch(Scripted(reply("one")), KEY).run(READ)
    recorder.close()
    with pytest.raises(SetupError, match=r"no answer to this batch.*op 2 /control"):
        ReplayTarget(tmp_path, KEY).start().run(WRITE)
    with pytest.raises(SetupError, match="no recording of a guest smmuv3/debug"):
        ReplayTarget(tmp_path, Key("smmuv3", "debug"))


def test_a_directory_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is no recording"):
        ReplayTarget(tmp_path, KEY)
    (tmp_path / "index-main.jsonl").write_text("{nonsense\n")
    with pytest.raises(SetupError, match=r"index-main.jsonl:1: not a line of a recording"):
        ReplayTarget(tmp_path, KEY)
