# SPDX-License-Identifier: GPL-2.0-only
"""Which linux-source of Debian is taken: the newest with hooks, or the series of --iommu-kernel=debian:SERIES."""

from __future__ import annotations

from pathlib import Path

import bare_machine
import pytest

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import apt, source
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

OFFERS = {
    "trixie-backports": {"linux-source-7.3": "7.3.4-1~bpo13+1", "linux-source-7.2": "7.2.12-1~bpo13+1"},
    "bookworm-backports": {"linux-source-6.12": "6.12.95-1~bpo12+1"},
    "trixie": {"linux-source-6.12": "6.12.117-1"},
    "bookworm": {"linux-source-6.1": "6.1.170-1"},
}
# Answers `show --no-all-versions NAME` and `search --names-only PATTERN` for the suite of its sources file.
CACHE = """#!/bin/sh
suite=$(sed -n 's/^Suites: //p' "$(dirname "$APT_CONFIG")/suites.sources")
case $1 in
show) [ ! -f "OFFERS/$suite/$3" ] || cat "OFFERS/$suite/$3";;
search) for one in "OFFERS/$suite"/*; do echo "$(basename "$one") - Linux kernel source"; done;;
esac
"""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An apt whose mirror has OFFERS and gives nothing."""
    folder, offers = tmp_path / "bin", tmp_path / "offers"
    folder.mkdir()
    for suite, packages in OFFERS.items():
        (offers / suite).mkdir(parents=True)
        for name, version in packages.items():
            (offers / suite / name).write_text(f"Package: {name}\nVersion: {version}\nSize: 1\n")
    bare_machine.program(folder / "apt-get", '#!/bin/sh\n[ "$1" != download ] || { echo "asked for $2"; exit 100; }\n')
    bare_machine.program(folder / "apt-cache", CACHE.replace("OFFERS", str(offers)))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(apt, "machine_mirror", lambda: apt.Mirror("http://mirror.invalid/debian", "bookworm"))


def asked_for(store: Store, series: str) -> str:
    with pytest.raises(SetupError) as caught:
        source.fetch(store, Progress(None), offline=False, series=series)
    return caught.value.message


@pytest.mark.parametrize(
    ("series", "package"),
    [
        ("", "linux-source-7.3=7.3.4-1~bpo13+1"),
        ("7.2", "linux-source-7.2=7.2.12-1~bpo13+1"),
        ("6.12", "linux-source-6.12=6.12.117-1"),  # an earlier suite has an older one
        ("6.1", "linux-source-6.1=6.1.170-1"),
    ],
)
@pytest.mark.usefixtures("mirror")
def test_the_newest_package_of_all_suites_is_fetched(tmp_path: Path, series: str, package: str) -> None:
    assert f"asked for {package}" in asked_for(Store(tmp_path / "cache"), series).splitlines()


@pytest.mark.usefixtures("mirror")
def test_a_series_that_no_suite_has_any_more(tmp_path: Path) -> None:
    assert asked_for(Store(tmp_path / "cache"), "7.0") == (
        "none of trixie-backports, bookworm-backports, trixie, bookworm of this machine's mirror has linux-source-7.0; "
        "there are debian:6.1, debian:6.12, debian:7.2, debian:7.3; give --iommu-kernel=DIR"
    )


def test_a_cached_source_is_used_for_its_own_series_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("6.12_6.12.95-1~bpo12+1", "6.12_6.12.117-1", "7.2_7.2.12-1", "7.3_7.3.4-1"):
        tree = store.path("sources", f"linux-source-{name}")
        tree.mkdir(parents=True)
        (tree / "Kconfig").touch()
        (tree / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 12\n")

    def found(series: str) -> str:
        settings = Settings(target="qemu", cache=tmp_path, series=series)
        path, current = source.path(settings, store), source.current(settings, store)
        assert path == (current.path if current else None)
        return path.name if path else ""

    assert found("6.12") == "linux-source-6.12_6.12.117-1"
    assert found("7.2") == "linux-source-7.2_7.2.12-1"
    assert found("") == "linux-source-7.3_7.3.4-1"
    assert found("6.1") == ""
