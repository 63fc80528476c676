# SPDX-License-Identifier: GPL-2.0-only
"""Artefact folders: names, what is kept, the link, a full disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_iommu.report.failure_folder import Folder, folder_name, run_folder

NODE = "pytest_iommu/conformance/scenarios/ranges.iommu.yaml::ranges::two-pages[smmuv3-s1-4k@debug]"


def test_a_name_says_which_test() -> None:
    assert folder_name(NODE) == "ranges-ranges-two-pages-smmuv3-s1-4k@debug"


def test_long_names_stay_apart() -> None:
    one, two = (folder_name(f"a.py::test[{'x' * 300}{end}]") for end in "ab")
    assert one != two
    assert len(one) < 140


@pytest.mark.parametrize(
    ("keep", "failed", "kept"),
    [
        ("failed", True, True),
        ("failed", False, False),
        ("all", False, True),
        ("none", True, False),
    ],
)
def test_what_is_kept(tmp_path: Path, keep: str, failed: bool, kept: bool) -> None:
    folder = Folder(run_folder(tmp_path), keep).save(NODE, {"failure.txt": b"x"}, failed)
    assert (folder is not None) is kept
    assert (tmp_path / ".pytest-iommu").exists() is kept


def test_latest_leads_to_the_last_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Folder(tmp_path / ".pytest-iommu" / name, "failed").save(NODE, {"failure.txt": name.encode()}, True)
    latest = tmp_path / ".pytest-iommu" / "latest"
    assert os.readlink(latest) == "two"
    assert (latest / folder_name(NODE) / "failure.txt").read_text() == "two"
    assert (tmp_path / ".pytest-iommu" / ".gitignore").read_text() == "*\n"


def test_a_disk_that_is_full_does_not_hide_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is whole."""

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    folder = Folder(tmp_path / ".pytest-iommu" / "one", "failed").save(NODE, {"failure.txt": b"x"}, True)
    assert folder is not None
    assert [path.name for path in folder.iterdir()] == ["incomplete"]
    assert "No space left" in (folder / "incomplete").read_text()
