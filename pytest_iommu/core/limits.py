# SPDX-License-Identifier: GPL-2.0-only
"""How much memory this process and its children may have: /proc/meminfo, and the control groups that it is in.

A limit may be set on the process's own group or on any above it, in version 2 (memory.max) or 1 (limit_in_bytes).
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60
"""Version 1 says "no limit" as a number about as large as a long."""


@dataclass(frozen=True, slots=True)
class Group:
    """A control group with a limit: its directory, the limit's file, and bytes. ``cached`` of ``used`` can be dropped.

    ``killed`` counts the processes that the kernel killed for want of memory in it.
    """

    path: Path
    file: str
    limit: int
    used: int
    cached: int
    killed: int

    def __str__(self) -> str:
        return f"{self.path / self.file} {self.limit >> 20} MiB, {self.used >> 20} MiB of them in use"


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None when nothing says."""
    found = [group.limit - group.used + group.cached for group in groups()]
    free = _field(Path("/proc/meminfo"), "MemAvailable:")
    return min([*found, *([] if free is None else [free])], default=None)


def killed() -> int:
    """How many processes the kernel has killed for want of memory, on this machine or in our groups."""
    machine = _field(Path("/proc/vmstat"), "oom_kill") or 0
    return machine + sum(group.killed for group in groups())


def doubt(before: int | None = None) -> str:
    """For a process that was killed: whether it was for want of memory, and the limits found.

    ``before`` is what killed() said when it was started, where somebody asked.
    """
    surely = before is not None and killed() > before
    words = []
    left = available_memory()
    if left is not None:
        words.append(f"{left >> 20} MiB are available now")
    words += [f"limit {group}" for group in groups()]
    seconds = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if seconds != resource.RLIM_INFINITY:
        words.append(f"ulimit -t {seconds} s")
    return " ".join(["out of memory:" if surely else "out of memory?", "; ".join(words)]).rstrip(": ")


def groups(proc: Path = Path("/proc/self")) -> list[Group]:
    """The control groups that limit this process's memory, its own first; none where nothing limits it."""
    found = []
    for folder, top, version in _folders(proc):
        for path in (folder, *folder.parents):
            group = _group(path, version)
            if group is not None:
                found.append(group)
            if path == top:
                break
    return found


def _folders(proc: Path) -> Iterator[tuple[Path, Path, int]]:
    """Our own group's directory, the mount it is in, and the version of its files."""
    mounts = {1: _mount(proc, "cgroup", "memory"), 2: _mount(proc, "cgroup2", "")}
    for line in _text(proc / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        version = 2 if number == "0" and not controllers else 1 if "memory" in controllers.split(",") else 0
        mount = mounts.get(version)
        if mount is None:
            continue
        root, top = mount
        # A container may see a part of the tree only, from its own group on, and the names of the whole.
        inner = path.removeprefix(root).lstrip("/") if root != "/" and path.startswith(root) else path.lstrip("/")
        folder = top / inner
        yield (folder if ".." not in folder.parts and folder.is_dir() else top), top, version


def _mount(proc: Path, kind: str, option: str) -> tuple[str, Path] | None:
    """Which group is mounted where, of the first mount of that kind."""
    for line in _text(proc / "mountinfo").splitlines():
        words, _, rest = line.partition(" - ")
        fields, more = words.split(), rest.split()
        if len(fields) > 4 and len(more) > 2 and more[0] == kind and (not option or option in more[2].split(",")):
            return fields[3], Path(fields[4])
    return None


def _group(path: Path, version: int) -> Group | None:
    file = "memory.max" if version == 2 else "memory.limit_in_bytes"
    usage, cached = ("memory.current", "file ") if version == 2 else ("memory.usage_in_bytes", "total_cache ")
    events = "memory.events" if version == 2 else "memory.oom_control"
    try:
        limit, used = int(_text(path / file)), int(_text(path / usage))
    except ValueError:  # not there, or "max"
        return None
    if limit >= UNLIMITED:
        return None
    stat = _field(path / "memory.stat", cached) or 0
    return Group(path, file, limit, used, stat, _field(path / events, "oom_kill ") or 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _field(path: Path, name: str) -> int | None:
    """The number behind a name, in bytes where it is in kB."""
    for line in _text(path).splitlines():
        if line.startswith(name):
            words = line.split()
            return int(words[1]) << (10 if words[-1] == "kB" else 0)
    return None
