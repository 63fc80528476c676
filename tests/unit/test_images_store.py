# SPDX-License-Identifier: GPL-2.0-only
"""The cache: nothing half done is ever seen, nothing damaged is ever used."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_iommu import cli
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import NeedsWork, Store, digest, listing, prune
from pytest_iommu.outcomes import SetupError

QUIET = Progress(None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "cache")
    with store.locked(QUIET):
        yield store


def test_what_is_put_can_be_got(store: Store) -> None:
    store.put("kernel", "abc", {"Image": b"image", "sub/config": b"config"}, {"description": "Linux"})
    entry = store.get("kernel", "abc")
    assert entry is not None
    assert entry["Image"].read_bytes() == b"image"
    assert entry["sub/config"].read_bytes() == b"config"
    assert entry.about == {"description": "Linux"}


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "manifest"])
def test_a_damaged_entry_is_absent_and_removed(store: Store, damage: str) -> None:
    entry = store.put("kernel", "abc", {"Image": b"image"}, {})
    if damage == "changed":
        entry["Image"].write_bytes(b"imagE")
    elif damage == "shortened":
        entry["Image"].write_bytes(b"")
    elif damage == "removed":
        entry["Image"].unlink()
    else:
        entry["manifest.json"].write_text('{"files": ')
    assert store.get("kernel", "abc") is None
    assert not entry.path.exists()


def test_an_interruption_leaves_nothing(store: Store) -> None:
    final = store.path("sources", "linux")
    with pytest.raises(KeyboardInterrupt), store.making(final) as work:
        (work / "half").write_bytes(b"x")
        raise KeyboardInterrupt
    assert not final.exists()
    assert list(store.path("tmp").iterdir()) == []


def test_a_full_disk_is_a_setup_error_and_leaves_nothing(store: Store) -> None:
    final = store.path("sources", "linux")
    with pytest.raises(SetupError, match="No space left on device.*prune"), store.making(final):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not final.exists()
    assert list(store.path("tmp").iterdir()) == []


def test_what_a_killed_session_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "tmp" / "1-linux"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    with Store(tmp_path).locked(QUIET):
        assert not left.exists()
    assert not (tmp_path / "lock.holder").exists()


def test_without_the_lock_nothing_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(NeedsWork), store.making(tmp_path / "x"):
        pass


def test_a_second_session_says_whom_it_waits_for(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pytest_iommu.images.store import Store;"
        "from pytest_iommu.images.progress import Progress\n"
        "with Store(Path(sys.argv[1])).locked(Progress(None)): print('locked', flush=True); time.sleep(1.5)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        said = io.StringIO()
        began = time.monotonic()
        with Store(tmp_path).locked(Progress(said)):
            assert time.monotonic() - began > 0.5
        assert f"waiting for pid {other.pid} since " in said.getvalue()


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pytest_iommu.images.store import Store;"
        "from pytest_iommu.images.progress import Progress\n"
        "with Store(Path(sys.argv[1])).locked(Progress(None)): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    began = time.monotonic()
    with Store(tmp_path).locked(QUIET):
        assert time.monotonic() - began < 1.0


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError, match="--iommu-cache"), Store(tmp_path / "file").locked(QUIET):
        pass


@pytest.mark.parametrize("name", ["my cache", "a:b", "it's"])
def test_a_cache_at_a_path_that_make_does_not_take_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SetupError, match=f"^--iommu-cache: .*{name}.*make takes no path.*--iommu-cache=DIR"):
        Store(tmp_path / name)
    for command in (["cache", "list"], ["build"], ["doctor"], ["export", str(tmp_path / "out")]):
        assert cli.main(["--cache", str(tmp_path / name), *command]) == 2
        assert "make takes no path" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_prune_removes_the_oldest_first_and_keeps_what_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.locked(QUIET):
        for age, key in ((300, "old"), (200, "used"), (100, "new")):
            entry = store.put("kernel", key, {"Image": os.urandom(100_000)}, {})
            os.utime(entry.path, (time.time() - age, time.time() - age))
    store.release()
    assert [one.path.name for one in listing(tmp_path)] == ["kernel-old", "kernel-used", "kernel-new"]
    other = Store(tmp_path)
    assert other.get("kernel", "used") is not None
    os.utime(tmp_path / "artefacts/kernel-used", (time.time() - 200, time.time() - 200))
    said: list[str] = []
    prune(tmp_path, 0, said.append)
    assert [path.name for path in (tmp_path / "artefacts").iterdir()] == ["kernel-used"]
    assert said == [
        "removed: artefacts/kernel-old",
        "in use, kept: artefacts/kernel-used",
        "removed: artefacts/kernel-new",
    ]


def test_a_digest_keeps_boundaries() -> None:
    assert digest("ab", "c") != digest("a", "bc")
