# SPDX-License-Identifier: GPL-2.0-only
"""The cache: nothing half done is ever seen, nothing damaged is ever used."""

from __future__ import annotations

import errno
import gc
import os
import time
import warnings
from pathlib import Path

import pytest

from pytest_iommu import cli
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, digest, listing, prune

QUIET = Progress(None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_what_is_put_can_be_got(store: Store) -> None:
    store.put("kernel", "abc", {"Image": b"image", "sub/config": b"config"}, {"description": "Linux"})
    entry = store.get("kernel", "abc")
    assert entry is not None
    assert entry["Image"].read_bytes() == b"image"
    assert entry["sub/config"].read_bytes() == b"config"
    assert entry.about == {"description": "Linux"}


def test_no_file_is_left_open(tmp_path: Path) -> None:
    """Whoever makes errors of warnings would have one in a test that has nothing to do with it."""
    store = Store(tmp_path / "cache")
    store.put("kernel", "abc", {"Image": b"image"}, {})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store.get("kernel", "abc")
        store.get("kernel", "abc")
        del store
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "manifest"])
def test_a_damaged_entry_is_absent_and_replaced(store: Store, damage: str) -> None:
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
    store.put("kernel", "abc", {"Image": b"image"}, {})
    found = store.get("kernel", "abc")
    assert found is not None
    assert found["Image"].read_bytes() == b"image"


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


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError, match="--iommu-cache"):
        Store(tmp_path / "file").put("kernel", "abc", {"Image": b"image"}, {})


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
    for age, key in ((300, "old"), (200, "used"), (100, "new")):
        entry = store.put("kernel", key, {"Image": os.urandom(100_000)}, {})
        os.utime(entry.path, (time.time() - age, time.time() - age))
    store.release()
    assert [one.path.name for one in listing(tmp_path)] == ["kernel-old", "kernel-used", "kernel-new"]
    other = Store(tmp_path)
    assert other.get("kernel", "used") is not None
    os.utime(tmp_path / "artefacts/kernel-used", (time.time() - 200, time.time() - 200))
    said: list[str] = []
    prune(Store(tmp_path), 0, said.append)
    assert [path.name for path in (tmp_path / "artefacts").iterdir()] == ["kernel-used"]
    assert said == [
        "removed: artefacts/kernel-old",
        "in use, kept: artefacts/kernel-used",
        "removed: artefacts/kernel-new",
    ]


def test_a_digest_keeps_boundaries() -> None:
    assert digest("ab", "c") != digest("a", "bc")
