# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-reference: which trees get the reference implementation of the dump."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import source
from pytest_iommu.images.reference import decide
from pytest_iommu.images.store import Store

HOOK = """\
--- a/drivers/iommu/iommu.c
+++ b/drivers/iommu/iommu.c
@@ -1,3 +1,4 @@
 int first;
 int second;
+int hook;
 int third;
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree in which the hook applies."""
    linux, kmod = tmp_path / "linux", tmp_path / "kmod/io_ptdump"
    (linux / "drivers/iommu").mkdir(parents=True)
    (linux / "Kconfig").write_text("")
    (linux / "Makefile").write_text("VERSION = 7\nPATCHLEVEL = 4\n")
    (linux / "drivers/iommu/Kconfig").write_text("")
    (linux / "drivers/iommu/iommu.c").write_text("int first;\nint second;\nint third;\n")
    (kmod / "files/drivers/iommu").mkdir(parents=True)
    (kmod / "files/drivers/iommu/ptdump.c").write_text("int dump;\n")
    (kmod / "hooks").mkdir()
    (kmod / "hooks/0001-hook.patch").write_text(HOOK)
    monkeypatch.setenv("PYTEST_IOMMU_KMOD", str(kmod.parent))
    return linux


def decided(tree: Path, mode: str) -> tuple[bool, str]:
    return decide(Store(tree.parent / "cache"), source.user_tree(tree), mode)


def test_a_tree_in_which_the_hooks_apply(tree: Path) -> None:
    assert decided(tree, "auto") == (True, "")
    assert decided(tree, "always") == (True, "")
    assert decided(tree, "never") == (False, "no dump: --iommu-reference=never")


def test_a_tree_in_which_a_hook_does_not_apply(tree: Path) -> None:
    (tree / "drivers/iommu/iommu.c").write_text("int other;\n")
    for _ in range(2):  # the second answer is a remembered one
        put_in, why = decided(tree, "auto")
        assert not put_in
        which = f"no dump: 0001-hook.patch does not apply to Linux 7.4.0 in {tree}"
        assert why.startswith(f"{which}: drivers/iommu/iommu.c: Hunk #1 FAILED at 1")
    assert decided(tree, "always") == (True, "")  # building it says which hook
    (tree / "drivers/iommu/iommu.c").write_text("int first;\nint second;\nint third;\n")
    assert decided(tree, "auto") == (True, "")


def test_a_tree_with_a_dump_of_its_own(tree: Path) -> None:
    (tree / "drivers/iommu/Kconfig").write_text("config IOMMU_PTDUMP_DEBUGFS\n")
    assert decided(tree, "auto") == decided(tree, "never") == (False, "")
    with pytest.raises(SetupError, match="has a dump of its own"):
        decided(tree, "always")
