# SPDX-License-Identifier: GPL-2.0-only
"""A private apt: other suites of the machine's own mirror, without root and without touching the machine's apt.

Lists, cache, state and dpkg status are ours; from the machine we take where its mirror is and how to reach it (its
Acquire settings). The mirror's address is never written into this project.
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
# Newest first; what is not there is skipped. The machine's own suite is put in front of what is older than it.
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
    """Where Debian comes from on this machine; ``signed_by`` is a keyring's path, a key block, or empty."""

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
    """The paragraphs of a deb822 file; a continued field keeps its line breaks."""
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
    """The Debian mirrors that apt's sources files name (one-line and deb822 style), without side suites."""
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
    """The machine's own Debian mirror. SetupError when it names none.

    apt knows best, but says nothing at all before its first update: then its sources files are read.
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
    """Packages of any suite of the machine's mirror, kept under ``root``. Made only when something must be fetched."""

    @classmethod
    @contextmanager
    def of(cls, store: Store, what: str, progress: Progress, offline: bool = False, arch: str = "") -> Iterator[Self]:
        """The store's, for this session alone while the block runs; ``what`` it fetches is told to who waits."""
        made = cls(store.path("apt"), progress, offline, arch)
        with store.lock(f"apt-{made.arch}", what, progress):
            yield made

    def __init__(self, root: Path, progress: Progress, offline: bool = False, arch: str = "") -> None:
        if offline:
            raise SetupError("something has to be fetched, and --iommu-offline forbids it")
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
        # An empty status: nothing counts as installed, so a download is complete in itself.
        (self.root / "status").touch()

    @property
    def suites(self) -> tuple[str, ...]:
        """Where to look, newest first."""
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
        # Proxies and the like are the machine's; its hooks (which may want root) are not read.
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
            # Downloads go below the user's cache, where the _apt user may not write.
            'APT::Sandbox::User "root";',
            'APT::Install-Recommends "false";',
            'APT::Get::List-Cleanup "false";',
        ]
        configuration = self.root / "apt.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}

    def update(self, *suites: str) -> bool:
        """Have today's lists of these suites. False when the mirror does not have one of them."""
        if any(suite in self._absent for suite in suites):
            return False
        stamps = {suite: self._stamp(suite) for suite in suites}
        if all(stamp.exists() and time.time() - stamp.stat().st_mtime < DAY for stamp in stamps.values()):
            return True
        with self.progress.step(f"reading package lists of {', '.join(suites)}") as step:
            result = self._update(suites, step.update)
            if any("NO_PUBKEY" in line for line in result) and not self._keyring:
                # An older machine does not know the keys of a newer suite; its own suite has them.
                self._keyring = self._newer_keyring()
                result = self._update(suites, step.update)
        if result:
            # Only a mirror that answered can say that it does not have a suite.
            absent = {found for line in result for found in _ABSENT.findall(line)}.intersection(suites)
            if not absent:
                raise _failure(f"apt cannot read {', '.join(suites)} of this machine's mirror", result)
            self._absent |= absent
            return False
        for stamp in stamps.values():
            stamp.touch()
        return True

    def _stamp(self, suite: str) -> Path:
        """When the list of this suite was read."""
        return self.root / "state" / f"updated-{suite}"

    def _outdated(self, suites: Sequence[str], lines: Sequence[str]) -> None:
        """Read the lists anew the next time where the mirror does not have what they name any more."""
        if any("404" in line for line in lines):
            for suite in suites:
                self._stamp(suite).unlink(missing_ok=True)

    def _update(self, suites: Sequence[str], tick: Tick) -> list[str]:
        """apt-get update; the errors it printed, none where it went well."""
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
        """The first of ``names`` that any suite has; a name goes before a suite, a suite is read only when needed."""
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

    def download(self, package: Package, tick: Tick = None) -> Path:
        """Fetch one package; the path of its .deb. SetupError when that fails."""
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
        """Fetch a package with all it depends on, down to the C library; the paths of the .debs."""
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
            raise _failure(f"apt cannot download {package.name} with what it needs", done.lines[-10:])
        return found

    def downloaded(self) -> int:
        """Bytes of what is being downloaded, for a percentage."""
        total = 0
        for folder in ("cache/download", "cache/archives", "cache/archives/partial"):
            for path in (self.root / folder).glob("*.deb*"):
                try:
                    total += path.stat().st_size
                except OSError:
                    continue
        return total


def _failure(what: str, lines: Sequence[str]) -> SetupError:
    """The error for an apt that failed, with its own words; where it reached nobody that comes first."""
    told = "\n".join(lines)
    if _NO_NETWORK.search(told):
        return SetupError(f"no network: {what}; to do without, {WITHOUT_APT}\n{told}")
    return SetupError(f"{what}:\n{told}")


def _default_keyring() -> str:
    path = Path("/usr/share/keyrings") / f"{KEYRING}.gpg"
    return str(path) if path.exists() else ""


def unpack(deb: Path, target: Path) -> None:
    """Unpack a .deb without installing it. SetupError when it is damaged or the disk is full."""
    target.mkdir(parents=True, exist_ok=True)
    done = process.run(["dpkg-deb", "--extract", str(deb), str(target)])
    if done.status != 0:
        raise SetupError(f"{deb.name} cannot be unpacked:\n" + "\n".join(done.lines[-5:]))
