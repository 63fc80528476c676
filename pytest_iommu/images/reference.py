# SPDX-License-Identifier: GPL-2.0-only
"""Whether a kernel is built with the reference implementation of the dump: --iommu-reference."""

from __future__ import annotations

import re

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import tree
from pytest_iommu.images.source import Source
from pytest_iommu.images.store import Store, digest, tree_digest

ALWAYS, NEVER = "always", "never"
_REFUSED = re.compile(r"FAILED|can't find file|malformed patch|which already exists")


def reference_digest() -> str:
    """What the reference implementation is like: a digest of its files and hooks."""
    return digest(*(tree_digest(part / name) for part in paths.additions() for name in ("files", "hooks")))


def decide(store: Store, source: Source, mode: str) -> tuple[bool, str]:
    """Whether the reference implementation is put into a tree, and why it is not, in words.

    A tree that has a dump of its own keeps it. With ``auto``, a tree in which a hook does not apply gets no dump.
    SetupError with ALWAYS, where that is not possible.
    """
    if tree.has_dump(source.path):
        if mode == ALWAYS:
            raise SetupError(f"--iommu-reference=always: {source.path} has a dump of its own")
        return False, ""
    if mode == NEVER:
        return False, "no dump: --iommu-reference=never"
    problem = "" if mode == ALWAYS else _problem(store, source)
    return not problem, problem and f"no dump: {problem}"


def _short(message: str) -> str:
    """Return which hook does not apply and the first reason that patch(1) gives, with the file, in a line."""
    first, *rest = (line.strip() for line in message.splitlines())
    file = ""
    for line in rest:
        if line.startswith("patching file "):
            file = f"{line.removeprefix('patching file ')}: "
        elif _REFUSED.search(line):
            return f"{first} {file}{line}"
    return first.removesuffix(":")


def _problem(store: Store, source: Source) -> str:
    """Why the hooks do not apply to a tree, in a line; empty if they do. Remembered until the tree changes."""
    note = store.path("state", f"hooks-{digest(2, source.identity, reference_digest())}")
    if note.exists():
        return note.read_text(encoding="utf-8")
    problem = ""
    with store.scratch("hooks") as scratch:
        try:
            tree.reference_changes(source.path, paths.additions(), scratch)
        except SetupError as error:
            problem = _short(error.message)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(problem, encoding="utf-8")
    return problem
