# SPDX-License-Identifier: GPL-2.0-only
"""A private apt: other suites of the machine's own mirror, without root and without changing the machine's apt.

Lists, cache, state and dpkg status are private. The machine's configuration provides the mirror and how to reach it
(its Acquire settings). The mirror's address is never stored in this project.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_iommu.core import process
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

Tick = Callable[[], None] | None

WITHOUT_APT = "give --iommu-kernel=DIR and have QEMU 10.0 or newer on PATH"
DAY = 86400.0
BACKPORTS = "-backports"
KEYRING = "debian-archive-keyring"
# Newest first; missing suites are skipped. The machine's own suite is inserted before older ones.
CODENAMES = ("trixie", "bookworm")
_FIELDS = ("REPO_URI", "ORIGIN", "CODENAME", "SUITE", "CREATED_BY")
_NO_NETWORK = re.compile(
    r"Temporary failure resolving|Could not resolve|Name or service not known|Could not connect|Unable to connect|"
    r"Cannot initiate the connection|Connection (refused|timed out|failed|reset)|Network is unreachable|No route to"
)
_ABSENT = re.compile(
    r"The repository '\S+ (\S+) Release' (?:does not have|no longer has|does no longer have) a Release"
)


@dataclass(frozen=True, slots=True)
class Mirror:
    """The Debian mirror of this machine; ``signed_by`` is a keyring's path, a key block, or empty."""

    uri: str
    codename: str
    signed_by: str = ""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Package:
    """One package of one suite."""

    name: str
    version: str
    suite: str
    size: int = 0


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Split a deb822 file into paragraphs; a continued field keeps its line breaks."""
    for block in re.split(r"\n[ \t]*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t") and key:
                fields[key] += "\n" + line
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields:
            yield fields


def _from_deb822(text: str) -> Iterator[tuple[str, str, str, str, bool]]:
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                trusted = fields.get("trusted", "no").lower() in ("yes", "true")
                yield uri, suite, fields.get("components", ""), fields.get("signed-by", ""), trusted


def _from_list(text: str) -> Iterator[tuple[str, str, str, str, bool]]:
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<rest>[^#]*)", line)
        if found:
            options = dict(one.partition("=")[::2] for one in (found["options"] or "").split())
            signed = options.get("signed-by", "").replace(",", " ")
            yield found["uri"], found["suite"], found["rest"], signed, options.get("trusted") == "yes"


def parse_sources(files: Sequence[Path]) -> list[Mirror]:
    """Return the Debian mirrors that apt's sources files name (one-line and deb822 style), without side suites."""
    mirrors = []
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        lines = _from_deb822(text) if path.suffix == ".sources" else _from_list(text)
        for uri, suite, components, signed_by, trusted in lines:
            side = re.search(r"[-/](security|updates|backports)", suite)
            if "main" in components.split() and not side and not uri.startswith("cdrom:"):
                mirrors.append(Mirror(uri, suite, signed_by, trusted))
    return mirrors


def _ask(argv: Sequence[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout
    except OSError:
        return ""


def _sources_files() -> list[Path]:
    etc = Path("/etc/apt")
    parts = etc / "sources.list.d"
    return [*sorted(parts.glob("*.sources")), etc / "sources.list", *sorted(parts.glob("*.list"))]


def machine_mirror() -> Mirror:
    """Return the machine's own Debian mirror. SetupError if there is none.

    apt knows it best, but reports nothing before its first update; in that case its sources files are read.
    """
    written = parse_sources(_sources_files())
    known = []
    text = _ask(["apt-get", "indextargets", "--format", "|".join(f"$({name})" for name in _FIELDS)])
    for line in text.splitlines():
        value = dict(zip(_FIELDS, line.split("|"), strict=False))
        packages = value.get("ORIGIN") == "Debian" and value.get("CREATED_BY") == "Packages"
        if packages and "-" not in value["CODENAME"]:
            known.append(Mirror(value["REPO_URI"], value["CODENAME"]))
    for mirror in known:
        same = [one for one in written if one.uri.rstrip("/") == mirror.uri.rstrip("/")]
        if same:
            return Mirror(mirror.uri, mirror.codename, same[0].signed_by, same[0].trusted)
    release = dict(line.partition("=")[::2] for line in _read(Path("/etc/os-release")).splitlines())
    own = release.get("VERSION_CODENAME", "").strip('"')
    for one in [*known, *(m for m in written if m.codename == own), *(m for m in written if m.codename in CODENAMES)]:
        return Mirror(one.uri, own or one.codename, one.signed_by, one.trusted)
    raise SetupError(
        f"apt's sources name no Debian mirror, so neither kernel source nor QEMU can be fetched; {WITHOUT_APT}"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Apt:
    """Packages of any suite of the machine's mirror, kept under ``root``. Created only to fetch something."""

    @classmethod
    @contextmanager
    def of(cls, store: Store, what: str, progress: Progress, offline: bool = False, arch: str = "") -> Iterator[Self]:
        """Lock the store's apt for this session during the block; sessions that wait are shown ``what`` it fetches."""
        made = cls(store.path("apt"), progress, offline, arch)
        with store.lock(f"apt-{made.arch}", what, progress):
            yield made

    def __init__(self, root: Path, progress: Progress, offline: bool = False, arch: str = "") -> None:
        if offline:
            raise SetupError("something must be fetched, but --iommu-offline forbids it")
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise SetupError(f"this machine has no apt, so nothing can be fetched; {WITHOUT_APT}")
        self.progress = progress
        self.mirror = machine_mirror()
        self.arch = arch or _ask(["dpkg", "--print-architecture"]).strip()
        self.root = root / self.arch
        self._keyring = ""
        self._absent: set[str] = set()
        for name in ("lists/partial", "cache/archives/partial", "state", "none"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        # An empty status: nothing counts as installed, so a download includes all dependencies.
        (self.root / "status").touch()

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites to search, newest first."""
        own = self.mirror.codename
        names = [f"{name}{BACKPORTS}" for name in dict.fromkeys((*CODENAMES, own))]
        return tuple(dict.fromkeys([*names, *CODENAMES, own]))

    def _configuration(self, suites: Sequence[str]) -> dict[str, str]:
        """Write sources and apt.conf for these suites; returns the environment that selects them."""
        fields = [
            "Types: deb",
            f"URIs: {self.mirror.uri}",
            f"Suites: {' '.join(suites)}",
            "Components: main",
            f"Architectures: {self.arch}",
        ]
        signed_by = self._keyring or self.mirror.signed_by or _default_keyring()
        if signed_by:
            fields.append(f"Signed-By: {signed_by}")
        if self.mirror.trusted:
            fields.append("Trusted: yes")
        sources = self.root / "suites.sources"
        sources.write_text("\n".join(fields) + "\n")
        # Proxy settings and the like are taken from the machine. Its hooks, which may want root, are not read.
        acquire = [line for line in _ask(["apt-config", "dump"]).splitlines() if line.startswith("Acquire::")]
        lines = [
            *(line for line in acquire if not line.startswith(("Acquire::IndexTargets", "Acquire::Languages"))),
            'Acquire::Languages "none";',
            'Acquire::Retries "3";',
            'Dir::Etc::main "/dev/null";',
            f'Dir::Etc::parts "{self.root}/none";',
            f'Dir::Etc::sourcelist "{sources}";',
            f'Dir::Etc::sourceparts "{self.root}/none";',
            'Dir::Etc::preferences "/dev/null";',
            f'Dir::Etc::preferencesparts "{self.root}/none";',
            f'Dir::State "{self.root}/state";',
            f'Dir::State::lists "{self.root}/lists";',
            f'Dir::State::status "{self.root}/status";',
            f'Dir::Cache "{self.root}/cache";',
            f'Dir::Log "{self.root}/state";',
            f'APT::Architecture "{self.arch}";',
            f'APT::Architectures {{ "{self.arch}"; }};',
            # Downloads are stored in the user's cache, where the _apt user may not write.
            'APT::Sandbox::User "root";',
            'APT::Install-Recommends "false";',
            'APT::Get::List-Cleanup "false";',
        ]
        configuration = self.root / "apt.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}

    def update(self, *suites: str) -> bool:
        """Fetch today's lists of these suites. False if the mirror lacks one of them."""
        if any(suite in self._absent for suite in suites):
            return False
        stamps = {suite: self._stamp(suite) for suite in suites}
        if all(stamp.exists() and time.time() - stamp.stat().st_mtime < DAY for stamp in stamps.values()):
            return True
        with self.progress.step(f"reading package lists of {', '.join(suites)}") as step:
            result = self._update(suites, step.update)
            if any("NO_PUBKEY" in line for line in result) and not self._keyring:
                # An older machine does not have the keys of a newer suite; its own suite provides them.
                self._keyring = self._newer_keyring()
                result = self._update(suites, step.update)
        if result:
            # Only the answer of a mirror proves that it lacks a suite.
            absent = {found for line in result for found in _ABSENT.findall(line)}.intersection(suites)
            if not absent:
                raise _failure(f"apt cannot read {', '.join(suites)} of this machine's mirror", result)
            self._absent |= absent
            return False
        for stamp in stamps.values():
            stamp.touch()
        return True

    def _stamp(self, suite: str) -> Path:
        """Return when the list of this suite was fetched."""
        return self.root / "state" / f"updated-{suite}"

    def _outdated(self, suites: Sequence[str], lines: Sequence[str]) -> None:
        """Fetch the lists again next time, because the mirror no longer has what they name."""
        if any("404" in line for line in lines):
            for suite in suites:
                self._stamp(suite).unlink(missing_ok=True)

    def _update(self, suites: Sequence[str], tick: Tick) -> list[str]:
        """Run apt-get update; returns its error messages, empty if it succeeded."""
        argv = ["apt-get", "update", "--error-on=any"]
        done = process.run(argv, env=self._configuration(suites), on_tick=tick)
        if done.status == 0:
            return []
        return [line for line in done.lines if line[:2] in ("E:", "W:", "Er")] or ["apt-get update failed"]

    def _newer_keyring(self) -> str:
        own = self.mirror.codename
        self._update([own], None)
        folder = self.root / "keyring"
        for deb in self._download([KEYRING], [own], None):
            unpack(deb, folder)
        return str(folder / "usr/share/keyrings" / f"{KEYRING}.gpg")

    def find(self, names: Sequence[str], suites: Sequence[str] = ()) -> Package | None:
        """Return the first of ``names`` in any suite; names precede suites, and suites are read only when needed."""
        for name in names:
            for suite in suites or self.suites:
                if not self.update(suite):
                    continue
                text = subprocess.run(
                    ["apt-cache", "show", "--no-all-versions", name],
                    capture_output=True,
                    text=True,
                    check=False,
                    env=self._configuration([suite]),
                ).stdout
                for fields in _stanzas(text):
                    if fields.get("package") == name:
                        return Package(name, fields["version"], suite, int(fields.get("size", "0")))
        return None

    def names(self, pattern: str, suite: str) -> list[str]:
        """Return the packages of a suite whose names match a regular expression; none where there is no such suite."""
        if not self.update(suite):
            return []
        done = subprocess.run(
            ["apt-cache", "search", "--names-only", pattern],
            capture_output=True,
            text=True,
            check=False,
            env=self._configuration([suite]),
        )
        return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]

    def download(self, package: Package, tick: Tick = None) -> Path:
        """Fetch one package; returns the path of its .deb. SetupError if that fails."""
        archives = self._download([f"{package.name}={package.version}"], [package.suite], tick)
        return archives[0]

    def _download(self, names: Sequence[str], suites: Sequence[str], tick: Tick) -> list[Path]:
        folder = self.root / "cache" / "download"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        env = self._configuration(suites)
        done = process.run(["apt-get", "download", *names], cwd=folder, env=env, on_tick=tick)
        found = sorted(folder.glob("*.deb"))
        if done.status != 0 or not found:
            self._outdated(suites, done.lines)
            raise _failure(f"apt cannot download {', '.join(names)}", done.lines[-10:])
        return found

    def download_closure(self, package: Package, tick: Tick = None) -> list[Path]:
        """Fetch a package with all its dependencies, down to the C library; returns the paths of the .debs."""
        archives = self.root / "cache" / "archives"
        for old in archives.glob("*.deb"):
            old.unlink()
        base = package.suite.removesuffix(BACKPORTS)
        self.update(*dict.fromkeys([base, package.suite]))
        env = self._configuration(list(dict.fromkeys([base, package.suite])))
        argv = ["apt-get", "install", "--download-only", "--yes", "-t", package.suite]
        argv.append(f"{package.name}={package.version}")
        done = process.run([*argv, "-o", "Debug::NoLocking=true"], env=env, on_tick=tick)
        found = sorted(archives.glob("*.deb"))
        if done.status != 0 or not found:
            self._outdated([base, package.suite], done.lines)
            raise _failure(f"apt cannot download {package.name} and its dependencies", done.lines[-10:])
        return found

    def downloaded(self) -> int:
        """Return the number of bytes of the current download, for a percentage."""
        total = 0
        for folder in ("cache/download", "cache/archives", "cache/archives/partial"):
            for path in (self.root / folder).glob("*.deb*"):
                try:
                    total += path.stat().st_size
                except OSError:
                    continue
        return total


def _failure(what: str, lines: Sequence[str]) -> SetupError:
    """Return the error for a failed apt, with its output; a network failure is named first."""
    told = "\n".join(lines)
    if _NO_NETWORK.search(told):
        return SetupError(f"no network: {what}; to do without, {WITHOUT_APT}\n{told}")
    return SetupError(f"{what}:\n{told}")


def _default_keyring() -> str:
    path = Path("/usr/share/keyrings") / f"{KEYRING}.gpg"
    return str(path) if path.exists() else ""


def unpack(deb: Path, target: Path) -> None:
    """Unpack a .deb without installing it. SetupError if it is damaged or the disk is full."""
    target.mkdir(parents=True, exist_ok=True)
    done = process.run(["dpkg-deb", "--extract", str(deb), str(target)])
    if done.status != 0:
        raise SetupError(f"cannot unpack {deb.name}:\n" + "\n".join(done.lines[-5:]))
