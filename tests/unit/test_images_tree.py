# SPDX-License-Identifier: GPL-2.0-only
"""Link copies of kernel trees: the user's tree stays as it is, and make sees exactly what changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import tree
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

QUIET = Progress(None)
HOOK = """Subject: iommu: hook

Words.
---
--- a/drivers/iommu/Makefile
+++ b/drivers/iommu/Makefile
@@ -1,3 +1,4 @@
 one
 two
+dump
 three
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    kernel = tmp_path / "linux"
    for name, text in {
        "Makefile": "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION = -rc2\n",
        "Kconfig": 'source "drivers/iommu/Kconfig"\n',
        "drivers/iommu/Kconfig": "config IOMMU_DEBUGFS\n",
        "drivers/iommu/Makefile": "one\ntwo\nthree\n",
        "drivers/iommu/iommu.c": "int x;\n",
    }.items():
        path = kernel / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1000, 1000))
    return kernel


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    reference = tmp_path / "io_ptdump"
    (reference / "hooks").mkdir(parents=True)
    (reference / "hooks/0001-hook.patch").write_text(HOOK)
    new = reference / "files/drivers/iommu/ptdump.c"
    new.parent.mkdir(parents=True)
    new.write_text("int dump;\n")
    return reference


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def copy_of(store: Store, kernel: Path, reference: Path, immutable: bool = False) -> Path:
    with store.scratch("patched") as scratch:
        changes = tree.reference_changes(kernel, [reference], scratch)
    clean = not tree.built_in_place(kernel, "arm64")
    identity = "immutable" if immutable else tree.fingerprint(kernel).everything
    with tree.LinkCopy(store, kernel, clean).held(changes, identity, "building", QUIET, immutable) as copy:
        return copy


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_the_reference_is_in_the_copy_and_the_tree_is_untouched(store: Store, kernel: Path, reference: Path) -> None:
    before = content(kernel)
    copy = copy_of(store, kernel, reference)
    assert (copy / "drivers/iommu/Makefile").read_text() == "one\ntwo\ndump\nthree\n"
    assert (copy / "drivers/iommu/ptdump.c").read_text() == "int dump;\n"
    assert os.path.samefile(copy / "drivers/iommu/iommu.c", kernel / "drivers/iommu/iommu.c")
    assert content(kernel) == before


def test_a_second_part_changes_what_the_first_one_has_made(kernel: Path, reference: Path, tmp_path: Path) -> None:
    (tmp_path / "more/hooks").mkdir(parents=True)
    (tmp_path / "more/hooks/0001-more.patch").write_text(
        "--- a/drivers/iommu/ptdump.c\n+++ b/drivers/iommu/ptdump.c\n@@ -1 +1,2 @@\n int dump;\n+int more;\n"
        "--- a/drivers/iommu/Makefile\n+++ b/drivers/iommu/Makefile\n@@ -3,2 +3,3 @@\n dump\n+more\n three\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    files = tree.reference_changes(kernel, [reference, tmp_path / "more"], scratch).files
    assert files["drivers/iommu/ptdump.c"] == b"int dump;\nint more;\n"
    assert files["drivers/iommu/Makefile"] == b"one\ntwo\ndump\nmore\nthree\n"


def test_one_edited_line_changes_one_time_stamp(store: Store, kernel: Path, reference: Path) -> None:
    copy = copy_of(store, kernel, reference)
    before = content(copy)
    (reference / "files/drivers/iommu/ptdump.c").write_text("int dump = 1;\n")
    copy_of(store, kernel, reference)
    after = content(copy)
    assert [name for name in after if after[name] != before[name]] == ["drivers/iommu/ptdump.c"]


def test_doing_it_again_changes_nothing(store: Store, kernel: Path, reference: Path) -> None:
    copy = copy_of(store, kernel, reference)
    before = content(copy)
    copy_of(store, kernel, reference)
    assert content(copy) == before


def test_a_hook_that_goes_away_is_undone_with_a_new_time(store: Store, kernel: Path, reference: Path) -> None:
    copy = copy_of(store, kernel, reference)
    (reference / "hooks/0001-hook.patch").unlink()
    (reference / "files/drivers/iommu/ptdump.c").unlink()
    copy_of(store, kernel, reference)
    assert (copy / "drivers/iommu/Makefile").read_text() == "one\ntwo\nthree\n"
    assert (copy / "drivers/iommu/Makefile").stat().st_mtime > 1000
    assert not (copy / "drivers/iommu/ptdump.c").exists()


def test_the_copy_follows_the_users_edits(store: Store, kernel: Path, reference: Path) -> None:
    copy = copy_of(store, kernel, reference)
    (kernel / "drivers/iommu/new.c").write_text("int n;\n")
    edited = kernel / "edited"  # as editors do: a new file, renamed over the old one
    edited.write_text("int y;\n")
    edited.rename(kernel / "drivers/iommu/iommu.c")
    (kernel / "Kconfig").unlink()
    copy_of(store, kernel, reference)
    assert (copy / "drivers/iommu/new.c").read_text() == "int n;\n"
    assert (copy / "drivers/iommu/iommu.c").read_text() == "int y;\n"
    assert not (copy / "Kconfig").exists()
    assert (copy / "drivers/iommu/ptdump.c").exists()


def test_an_interrupted_update_is_done_again(
    store: Store, kernel: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(store, kernel, reference)
    (reference / "files/drivers/iommu/ptdump.c").write_text("int dump = 1;\n")

    def interrupted(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tree, "_replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy_of(store, kernel, reference)
    copy_of(store, kernel, reference)
    assert (copy / "drivers/iommu/ptdump.c").read_text() == "int dump = 1;\n"


def test_a_tree_built_in_place_is_copied_without_objects(store: Store, kernel: Path, reference: Path) -> None:
    litter = ("drivers/iommu/iommu.o", ".config", "vmlinux", "include/config/auto.conf", "drivers/iommu/.iommu.o.cmd")
    for name in litter:
        path = kernel / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert tree.built_in_place(kernel, "arm64")
    copy = copy_of(store, kernel, reference)
    assert not [name for name in litter if (copy / name).exists()]
    assert not tree.built_in_place(copy, "arm64")
    assert all((kernel / name).exists() for name in litter)


def test_a_hook_that_does_not_apply_is_named(store: Store, kernel: Path, reference: Path) -> None:
    (kernel / "drivers/iommu/Makefile").write_text("quite\nother\n")
    with pytest.raises(SetupError, match=r"0001-hook.patch does not apply to Linux 7.3.4-rc2"):
        copy_of(store, kernel, reference)


def test_a_dump_of_its_own_is_seen(kernel: Path) -> None:
    assert not tree.has_dump(kernel)
    (kernel / "drivers/iommu/Kconfig").write_text('config IOMMU_PTDUMP_DEBUGFS\n\tbool "dump"\n')
    assert tree.has_dump(kernel)


def test_a_fingerprint_sees_edits_and_kconfig_apart(kernel: Path, tmp_path: Path) -> None:
    first = tree.fingerprint(kernel)
    (kernel / "drivers/iommu/iommu.c").write_text("int z;\n")
    second = tree.fingerprint(kernel)
    assert second.everything != first.everything
    assert second.kconfig == first.kconfig
    (kernel / "drivers/iommu/Kconfig").write_text("config X\n")
    assert tree.fingerprint(kernel).kconfig != second.kconfig
    moved = tmp_path / "moved"
    shutil.copytree(kernel, moved)
    assert tree.fingerprint(moved) == tree.fingerprint(kernel)
