# SPDX-License-Identifier: GPL-2.0-only
"""What apt says when it cannot fetch, and what we make of it; a program that prints it stands for apt-get."""

from __future__ import annotations

from pathlib import Path

import bare_machine
import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import apt, qemu_binary, source
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

QUIET = Progress(None)
URI = "http://mirror.invalid/debian"
UNREACHED = """\
Ign:1 {uri} {suite} InRelease
Err:1 {uri} {suite} InRelease
  {why}
E: Failed to fetch {uri}/dists/{suite}/InRelease  {why}
E: Some index files failed to download. They have been ignored, or old ones used instead.
"""
NO_SUITE = """\
Err:2 {uri} {suite} Release
  404  Not Found [IP: 192.0.2.1 80]
E: The repository '{uri} {suite} Release' does not have a Release file.
"""
# What the real one prints for the suites of its sources file, from files named after what it is asked to do.
FAKE = """#!/bin/sh
here=$(dirname "$0")
echo "$*" >> "$here/asked"
suite=$(sed -n 's/^Suites: //p' "$(dirname "$APT_CONFIG")/suites.sources")
[ -f "$here/$1-$suite" ] || exit 0
cat "$here/$1-$suite"
exit 100
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the fake apt-get lies in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    bare_machine.program(folder / "apt-get", FAKE)
    bare_machine.program(folder / "apt-cache", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(apt, "machine_mirror", lambda: apt.Mirror(URI, "bookworm"))
    return folder


def says(fake: Path, command: str, text: str, suites: tuple[str, ...] = (), why: str = "") -> None:
    for suite in suites or ("bookworm", "bookworm-backports", "trixie", "trixie-backports"):
        (fake / f"{command}-{suite}").write_text(text.format(uri=URI, suite=suite, why=why))


@pytest.mark.parametrize(
    "why",
    [
        "Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
        "Temporary failure resolving 'mirror.invalid'",
        "Cannot initiate the connection to mirror.invalid:80 (192.0.2.1). - connect (101: Network is unreachable)",
    ],
)
def test_a_machine_without_network_is_not_told_that_the_mirror_lacks_things(
    tmp_path: Path, fake: Path, why: str
) -> None:
    says(fake, "update", UNREACHED, why=why)
    store = Store(tmp_path / "cache")
    with pytest.raises(SetupError) as caught:
        qemu_binary.fetch(store, machines.get("smmuv3"), QUIET, offline=False)
    assert caught.value.message.startswith("no network: apt cannot read bookworm of this machine's mirror")
    assert why in caught.value.message
    with pytest.raises(SetupError, match="^no network: "):
        source.fetch(store, QUIET, offline=False)
    # It did not go on to ask for every other suite, each for many seconds.
    assert len((fake / "asked").read_text().splitlines()) == 2


def test_an_error_of_another_kind_is_told_as_it_is(tmp_path: Path, fake: Path) -> None:
    told = "E: Release file for {uri}/dists/{suite}/InRelease is expired (invalid since 9d)."
    says(fake, "update", told)
    with pytest.raises(SetupError, match=r"^apt cannot read trixie of this machine's mirror:\nE: Release .* expired"):
        apt.Apt(tmp_path, QUIET).update("trixie")


def test_a_suite_that_the_mirror_does_not_have_is_passed_over(tmp_path: Path, fake: Path) -> None:
    says(fake, "update", NO_SUITE, ("trixie-backports",))
    found = apt.Apt(tmp_path, QUIET)
    assert found.update("trixie-backports") is False
    assert found.update("trixie") is True


def test_a_suite_of_a_similar_name_is_not_taken_for_absent(tmp_path: Path, fake: Path) -> None:
    (fake / "update-trixie").write_text(NO_SUITE.format(uri=URI, suite="trixie-backports"))
    with pytest.raises(SetupError, match="cannot read trixie "):
        apt.Apt(tmp_path, QUIET).update("trixie")


def test_a_download_without_network_says_so(tmp_path: Path, fake: Path) -> None:
    says(fake, "download", "E: Failed to fetch {uri}/x.deb  {why}\n", why="Could not connect to mirror.invalid:80")
    says(fake, "install", "E: Failed to fetch {uri}/x.deb  {why}\n", why="Could not connect to mirror.invalid:80")
    found, package = apt.Apt(tmp_path, QUIET), apt.Package("qemu-system-arm", "1:10", "trixie")
    with pytest.raises(SetupError, match="^no network: apt cannot download qemu-system-arm=1:10"):
        found.download(package)
    with pytest.raises(SetupError, match="^no network: apt cannot download qemu-system-arm and its dependencies"):
        found.download_closure(package)


def test_lists_that_name_what_is_gone_are_read_anew_the_next_time(tmp_path: Path, fake: Path) -> None:
    found, package = apt.Apt(tmp_path, QUIET), apt.Package("qemu-system-arm", "1:10", "trixie")
    assert found.update("trixie")
    says(fake, "download", "E: Failed to fetch {uri}/x.deb  404  Not Found [IP: 192.0.2.1 80]\n")
    with pytest.raises(SetupError, match="404"):
        found.download(package)
    asked = len((fake / "asked").read_text().splitlines())
    assert apt.Apt(tmp_path, QUIET).update("trixie")
    assert (fake / "asked").read_text().splitlines()[asked:] == ["update --error-on=any"]
