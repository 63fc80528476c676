# SPDX-License-Identifier: GPL-2.0-only
"""Kernel trees: their files, their current state, and a copy by hard links with the reference implementation.

A user's tree is never written to. A link copy shares the original's files, so each changed file is written as a new
file and renamed over the link; the original keeps its content.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_iommu.core import process
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, digest, touch

_VERSION = re.compile(r"(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)")
DUMP = re.compile(r"^\s*config\s+IOMMU_PTDUMP_DEBUGFS\b", re.MULTILINE)
# Build products in a tree, which make would use through VPATH; for trees that are not in git. (Their .gitignore does
# not help: that of Debian's linux-source ignores everything.)
_LITTER = re.compile(
    r"\.(o|a|s|ko|cmd|mod|mod\.c|order|symvers|dtb|dtbo|dtb\.S|dtbo\.S|dwo|so|so\.dbg|so\.raw|tab\.[ch]|lex\.c|pyc|su|gcno)$"
    r"|^(vmlinux(\.unstripped)?|System\.map|Image(\.\w+)?|\.config(\.old)?|\.version|\.(tmp_|checked-|empty_|missing-|vmlinux).*|\..*\.d)$|^modules\.builtin"
)
_LITTER_FOLDERS = re.compile(r"^(arch/\w+/)?include/(generated|config)$|(^|/)(\.tmp_[^/]*|__pycache__)$")
# Programs for the host are built here; they have no suffix.
_TOOLS = re.compile(r"^(scripts|usr|lib|certs|tools|arch)/(?!(.*/)?(Kconfig|Makefile|Kbuild|Build|README)$)")


def has_dump(tree: Path) -> bool:
    """Whether the tree has a page-table dump of its own."""
    return bool(DUMP.search(_text(tree / "drivers/iommu/Kconfig")))


def is_kernel(tree: Path) -> bool:
    """Whether this is the top of a kernel tree."""
    return (tree / "Kconfig").is_file() and _text(tree / "Makefile").find("PATCHLEVEL") >= 0


def require_kernel(path: Path) -> None:
    """SetupError for a directory that is not a kernel tree."""
    if not is_kernel(path):
        raise SetupError(f"--iommu-kernel: {path} is not a kernel tree: no Kconfig, or no version in Makefile")


def release(tree: Path) -> str:
    """Return the version in the top Makefile, e.g. ``7.3.4`` or ``7.3.0-rc2``."""
    fields: list[tuple[str, str]] = _VERSION.findall(_text(tree / "Makefile"))
    found = dict(fields)
    numbers = ".".join(found.get(name, "0") or "0" for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return numbers + found.get("EXTRAVERSION", "")


def built_in_place(tree: Path, arch: str) -> bool:
    """Whether make would refuse O= ("not clean"): checks the same three things as its Makefile."""
    generated = tree / "arch" / arch / "include" / "generated"
    return (tree / ".config").exists() or (tree / "include/config").is_dir() or generated.is_dir()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_program(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _walk(tree: Path, litter: bool) -> Iterator[str]:
    """Return the paths of all files, without build products unless ``litter``."""
    stack = [""]
    while stack:
        folder = stack.pop()
        entries = list(os.scandir(tree / folder))
        names = {entry.name for entry in entries}
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != ".git" and (litter or not _LITTER_FOLDERS.search(path)):
                    stack.append(path)
            elif litter or not (
                _LITTER.search(entry.name)
                or (entry.name.endswith(".lds") and entry.name + ".S" in names)
                or ("." not in entry.name and _TOOLS.match(path) and _is_program(tree / path))
            ):
                yield path


def _git(tree: Path, *arguments: str) -> list[str] | None:
    """Return the output of ``git ls-files``, or None if git is absent or fails."""
    if shutil.which("git") is None:
        return None
    argv = ["git", "-c", "safe.directory=*", "-C", str(tree), *arguments]
    done = subprocess.run(argv, capture_output=True, check=False, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})
    if done.returncode != 0:
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def source_files(tree: Path, clean: bool) -> list[str]:
    """Return the tree's files as relative paths; unless it is ``clean``, without build products."""
    if not clean and (tree / ".git").exists():
        listed = _git(tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        if listed:
            # A file that is deleted but not staged is still listed.
            return sorted({path for path in listed if os.path.lexists(tree / path) and not path.endswith("/")})
    return sorted(_walk(tree, litter=clean))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The state of a tree as hashes of names, sizes and times: of everything, and of the Kconfig files alone."""

    everything: str
    kconfig: str


def fingerprint(tree: Path) -> Fingerprint:
    """Check every file's stat (0.3 s for a kernel tree); no content is read."""
    everything = hashlib.sha256()
    kconfig = hashlib.sha256()
    stack, top = [str(tree)], len(str(tree))
    while stack:
        folder = stack.pop()
        try:
            found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise SetupError(f"{folder}: {error.strerror}") from error
        for entry in found:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                if name not in (".git", "__pycache__"):
                    stack.append(entry.path)
            elif not name.endswith((".o", ".cmd", ".a", ".ko", ".pyc", ".swp")):
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                line = f"{entry.path[top:]}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape")
                everything.update(line)
                if name.startswith("Kconfig"):
                    kconfig.update(line)
    return Fingerprint(everything.hexdigest()[:24], kconfig.hexdigest()[:24])


@dataclass(frozen=True, slots=True)
class Changes:
    """The reference implementation's changes to a tree: new content by in-tree path."""

    files: Mapping[str, bytes]


def reference_changes(tree: Path, parts: Sequence[Path], scratch: Path) -> Changes:
    """Apply ``files/`` and ``hooks/*.patch`` of each part, in order, to copies of the affected files.

    SetupError if a hook does not apply.
    """
    touched: set[str] = set()
    new, hooks = {}, []
    for part in parts:
        for path in sorted((part / "files").rglob("*")):
            if path.is_file():
                new[str(path.relative_to(part / "files"))] = path.read_bytes()
        hooks += sorted((part / "hooks").glob("*.patch"))
    for hook in hooks:
        touched.update(re.findall(r"(?m)^(?:---|\+\+\+) [ab]/(\S+)", hook.read_text()))
    for name in touched | set(new):
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in new:
            target.write_bytes(new[name])
        elif (tree / name).exists():
            shutil.copyfile(tree / name, target)
    for hook in hooks:
        argv = ["patch", "-p1", "--batch", "--forward", "--no-backup-if-mismatch", "--fuzz=1", "-i", str(hook)]
        done = process.run(argv, cwd=scratch)
        if done.status != 0:
            what = "\n".join(line for line in done.lines if "succeeded" not in line)
            raise SetupError(f"{hook.name} does not apply to Linux {release(tree)} in {tree}:\n{what}")
    results = {name: scratch / name for name in sorted(touched | set(new))}
    return Changes({name: path.read_bytes() for name, path in results.items() if path.exists()})


def _hashes(changes: Changes) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in changes.files.items()}


class LinkCopy:
    """A copy of a tree by hard links, updated in place: unchanged files keep their time stamps."""

    def __init__(self, store: Store, tree: Path, clean: bool) -> None:
        self.tree = tree
        self.clean = clean
        self.path = store.path("trees", digest(tree))
        self._store = store
        self._lock = f"trees-{self.path.name}"
        self._state_file = self.path.with_name(self.path.name + ".json")

    def _read(self) -> dict[str, Any]:
        """The recorded state of the copy; empty if there is no complete one yet."""
        try:
            state = json.loads(self._state_file.read_text())
            return dict(state) if self.path.is_dir() and isinstance(state["ours"], dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @contextmanager
    def held(
        self, changes: Changes, identity: str, what: str, progress: Progress, immutable: bool = False
    ) -> Iterator[Path]:
        """The copy with ``changes``, locked against modification during the block; ``what`` it is used for.

        ``identity`` identifies the state of the tree; if it is the same, the copy is up to date. Sessions that want the
        same copy share it. ``immutable``: the tree cannot have changed since the copy was made.
        """
        while True:
            with self._store.lock(self._lock, what, progress, shared=True):
                if self._is_current(changes, identity):
                    touch(self.path)
                    yield self.path
                    return
            with self._store.lock(self._lock, "copying the kernel tree", progress):
                if not self._is_current(changes, identity):
                    self._update(changes, progress, immutable)
                    self._save(_hashes(changes), identity)

    def _is_current(self, changes: Changes, identity: str) -> bool:
        state = self._read()
        return bool(state) and state["ours"] == _hashes(changes) and state.get("identity") == identity

    def _update(self, changes: Changes, progress: Progress, immutable: bool) -> None:
        """Create or update the copy, with ``changes`` in it."""
        ours: dict[str, str] | None = self._read().get("ours")
        if ours is None:
            with progress.step("copying the tree by links") as step:
                self._state_file.unlink(missing_ok=True)
                with self._store.making(self.path) as work:
                    files = source_files(self.tree, self.clean)
                    for number, name in enumerate(files):
                        _link(self.tree / name, work / name)
                        if number % 1000 == 0:
                            step.update(number / len(files))
                ours = {}
                self._save(ours)
        elif not immutable:
            self._save(ours)  # whatever it was a copy of before
            self._follow(set(ours))
        wanted = _hashes(changes)
        if wanted != ours:
            # Recorded first: after an interruption, every one of these is checked again.
            both = ours.keys() | wanted.keys()
            self._save({name: wanted[name] if ours.get(name) == wanted.get(name) else "" for name in both})
        for name in ours.keys() - wanted.keys():
            self._restore(name)
        for name, data in changes.files.items():
            if ours.get(name) != wanted[name]:
                _replace(self.path / name, data)

    def drop(self, progress: Progress) -> None:
        """Discard the copy: its original tree was damaged."""
        with self._store.lock(self._lock, "removing the copy of a damaged kernel tree", progress):
            self._state_file.unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)

    def _save(self, ours: Mapping[str, str], identity: str = "") -> None:
        """Record which files are ours, and the tree's state for the others; no state while it changes."""
        partial = self._state_file.with_name(self._state_file.name + ".new")
        partial.write_text(json.dumps({"tree": str(self.tree), "ours": dict(ours), "identity": identity}))
        os.replace(partial, self._state_file)

    def _restore(self, name: str) -> None:
        """Restore the tree's content of a file, as a new file: make would not notice a link's old time stamp."""
        if (self.tree / name).exists():
            _replace(self.path / name, (self.tree / name).read_bytes())
        else:
            (self.path / name).unlink(missing_ok=True)

    def _follow(self, ours: set[str]) -> None:
        """Copy the user's changes to the tree since the last time."""
        wanted = set(source_files(self.tree, self.clean))
        for name in wanted - ours:
            source, target = self.tree / name, self.path / name
            try:
                have = os.lstat(target)
            except OSError:
                _link(source, target)
                continue
            want = os.lstat(source)
            same = (have.st_ino, have.st_dev) == (want.st_ino, want.st_dev)
            if not same and (have.st_mtime_ns, have.st_size) != (want.st_mtime_ns, want.st_size):
                target.unlink()
                _link(source, target)
        for folder, _, files in os.walk(self.path):
            for file in files:
                name = os.path.relpath(os.path.join(folder, file), self.path)
                if name not in wanted and name not in ours:
                    os.unlink(self.path / name)


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy with the same times if links are impossible (another disk, another owner)."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _replace(path: Path, data: bytes) -> None:
    """Write a new file under this name, never through the link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    partial.write_bytes(data)
    if path.exists():
        shutil.copymode(path, partial)
    os.replace(partial, path)
