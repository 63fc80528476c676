# SPDX-License-Identifier: GPL-2.0-only
"""Sessions beside each other in one cache: nobody waits but for the thing he needs, and who waits says for whom."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_images_parts import unpacked
from told import Told

from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import progress as watching
from pytest_iommu.images import qemu_binary
from pytest_iommu.images.locks import Locks, sweep
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, prune

QUIET = Progress(None)
NOBODY = 65534
# Does something with the cache, says so, and goes on when it is told to.
OTHER = """
import sys
from pathlib import Path
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store
store, quiet = Store(Path(sys.argv[1])), Progress(None)
with {what}:
    print("there", flush=True)
    sys.stdin.readline()
"""


class Other:
    """Another session, in the middle of ``what``."""

    def __init__(self, cache: Path, what: str) -> None:
        argv = [sys.executable, "-c", OTHER.format(what=what), str(cache)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "there\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[str], Other]]:
    """Starts other sessions on the test's cache; they are ended with the test."""
    started: list[Other] = []

    def start(what: str) -> Other:
        started.append(Other(tmp_path, what))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        for stream in (one.process.stdin, one.process.stdout):
            assert stream is not None
            stream.close()


def test_nobody_waits_for_another_thing(tmp_path: Path, other: Callable[[str], Other]) -> None:
    other('store.lock("builds-plain", "building plain", quiet)')
    said = io.StringIO()
    with Store(tmp_path).lock("builds-debug", "building debug", Progress(said)):
        assert said.getvalue() == ""


def test_who_waits_says_for_whom_and_for_what(tmp_path: Path, other: Callable[[str], Other]) -> None:
    there = other('store.lock("builds-plain", "building kernel arm64 plain", quiet)')
    said = Told(there.go_on)
    with Store(tmp_path).lock("builds-plain", "building kernel arm64 plain", Progress(said)):
        pass
    first, *_ = said.getvalue().splitlines()
    assert first.startswith(f"iommu: waiting for pid {there.pid} since ")
    assert first.endswith(": building kernel arm64 plain")
    assert " done in " in said.getvalue().splitlines()[-1]


def test_a_session_that_says_nothing_says_that_it_waits(
    tmp_path: Path, other: Callable[[str], Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = other('store.lock("artefacts-agent-abc", "compiling the guest agent for smmuv3", quiet)')
    said = Told(there.go_on)
    monkeypatch.setattr(watching, "_session", Progress(said))
    with Store(tmp_path).lock("artefacts-agent-abc", "compiling", QUIET):
        pass
    assert f"waiting for pid {there.pid} since " in said.getvalue()
    assert "compiling the guest agent for smmuv3" in said.getvalue()


def test_several_read_together_and_who_changes_waits_for_all(tmp_path: Path, other: Callable[[str], Other]) -> None:
    first = other('store.lock("trees-abc", "building plain", quiet, shared=True)')
    second = other('store.lock("trees-abc", "building debug", quiet, shared=True)')
    here = Store(tmp_path)
    silent = io.StringIO()
    with here.lock("trees-abc", "building 64k", Progress(silent), shared=True):
        assert silent.getvalue() == ""
        with pytest.raises(RuntimeError, match="held shared"), here.lock("trees-abc", "copying", QUIET):
            pass

    def both() -> None:
        first.go_on()
        second.go_on()

    said = Told(both)
    with here.lock("trees-abc", "copying the kernel tree", Progress(said)):
        assert first.process.wait(60) == second.process.wait(60) == 0
    for one in (first, second):
        assert f"pid {one.pid} since " in said.getvalue().splitlines()[0]


def test_a_lock_dies_with_its_holder(tmp_path: Path, other: Callable[[str], Other]) -> None:
    there = other('store.lock("sources", "fetching", quiet)')
    there.kill()
    said = io.StringIO()
    with Store(tmp_path).lock("sources", "fetching", Progress(said)):
        assert said.getvalue() == ""


def test_a_session_may_take_a_lock_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock("sources", "one", QUIET), store.lock("sources", "two", QUIET):
        with store.lock("sources", "three", QUIET, shared=True):
            pass
        assert not _free(tmp_path, "sources")
    assert _free(tmp_path, "sources")


def _free(cache: Path, name: str) -> bool:
    with Locks(cache / "locks").try_alone(name, "a look") as alone:
        return alone


def test_a_cache_where_nothing_can_be_locked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    with (
        pytest.raises(SetupError, match=rf"{tmp_path}: flock\(2\) fails: No locks available"),
        Locks(tmp_path / "locks").hold("a", "x", QUIET),
    ):
        pass


def test_nothing_is_left_of_a_lock(tmp_path: Path) -> None:
    with Store(tmp_path).lock("sources", "fetching", QUIET):
        assert [path.name for path in sorted((tmp_path / "locks").iterdir())] == [
            f"sources.holder-{os.getpid()}",
            "sources.lock",
        ]
    assert list((tmp_path / "locks").iterdir()) == []


# Everybody adds one to a number, and nobody may do it at the same time as another one.
COUNTING = """
import sys
from pathlib import Path
from pytest_iommu.images.locks import Locks
from pytest_iommu.images.progress import Progress
number = Path(sys.argv[1], "number")
locks = Locks(Path(sys.argv[1], "locks"))
for _ in range(100):
    with locks.hold("number", "counting", Progress(None)):
        number.write_text(str(int(number.read_text()) + 1))
"""


def test_a_lock_whose_file_comes_and_goes_keeps_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "number").write_text("0")
    code = COUNTING.replace("for _", "import pytest_iommu.images.locks as l; l.POLL = 0.001\nfor _")
    counting = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [one.wait(120) for one in counting] == [0] * 4
    assert (tmp_path / "number").read_text() == "400"


def test_what_is_half_made_is_removed_only_where_its_maker_is_gone(
    tmp_path: Path, other: Callable[[str], Other]
) -> None:
    busy = other('store.scratch("busy")')
    gone = other('store.scratch("gone")')
    gone.kill()
    assert len(list((tmp_path / "tmp").iterdir())) == 2
    with Store(tmp_path).scratch("ours"):
        names = {path.name.split("-", 2)[2]: int(path.name.split("-")[0]) for path in (tmp_path / "tmp").iterdir()}
        assert names == {"busy": busy.pid, "ours": os.getpid()}
        sweep(tmp_path / "tmp")
        assert len(list((tmp_path / "tmp").iterdir())) == 2


def test_prune_keeps_what_somebody_makes(tmp_path: Path, other: Callable[[str], Other]) -> None:
    for name in ("arm64-plain-abc", "arm64-plain-abc-iommu_ptdump_test", "arm64-debug-def"):
        (tmp_path / "builds" / name).mkdir(parents=True)
        (tmp_path / "builds" / name / "vmlinux").write_bytes(bytes(10_000))
    other('store.lock("builds-arm64-plain-abc", "building plain", quiet)')
    said: list[str] = []
    prune(Store(tmp_path), 0, said.append)
    assert sorted(said) == [
        "in use, kept: builds/arm64-plain-abc",
        "in use, kept: builds/arm64-plain-abc-iommu_ptdump_test",
        "removed: builds/arm64-debug-def",
    ]


def as_nobody(look: Callable[[], list[str]]) -> list[str]:
    """What a function returns in a process that root's rights do not help."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(theirs, "\n".join(look()).encode())
        except BaseException as error:
            os.write(theirs, repr(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        told = stream.read().splitlines()
    os.waitpid(child, 0)
    return told


def test_a_cache_that_may_only_be_read_serves() -> None:
    machine = machines.get("smmuv3")

    def look() -> list[str]:
        store = Store(cache)
        entry = store.get("kernel", "abc")
        found = qemu_binary.find(store, machine, "fetched")
        assert entry is not None
        assert found is not None
        try:
            store.put("kernel", "def", {}, {})
        except SetupError as error:
            return [entry["Image"].read_text(), found.version, error.message]
        return ["it could be written to"]

    # pytest's own directories are not for everybody to read.
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name, "cache")
        Store(cache).put("kernel", "abc", {"Image": b"image"}, {})
        unpacked(cache, "10.0.2")
        for path in [cache.parent, cache, *cache.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            told = as_nobody(look)
        finally:
            for path in [cache.parent, cache, *(path for path in cache.rglob("*") if path.is_dir())]:
                path.chmod(0o755)
    assert told == ["image", "10.0.2", f"--iommu-cache: {cache}: Permission denied"]
