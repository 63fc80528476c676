# SPDX-License-Identifier: GPL-2.0-only
"""The text of one failure: what, where, by which rule, what the kernel said, and how to run it again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.guest import kcsan
from pytest_iommu.outcomes import CheckFailed, IommuError

if TYPE_CHECKING:
    from pytest_iommu.targets.protocol import Evidence

SLEEPING = ("sleeping function called from invalid context", "Voluntary context switch within RCU read-side")
"""What the kernel says of it: kernel/sched/core.c __might_resched(), kernel/rcu/tree_plugin.h."""
CONSOLE_LINES = 20
SPLAT_LINES = 40
LINE_WIDTH = 200


def rerun_line(path: Path, nodeid: str, given: Sequence[str], where: Path) -> str:
    """The command line that runs one test again from the directory ``where``."""
    relative = os.path.relpath(path, where)
    shown = str(path) if relative.startswith(os.pardir + os.sep + os.pardir) else relative
    _, colons, rest = nodeid.partition("::")
    return shlex.join(["pytest", f"{shown}{colons}{rest}", *given])


def text(
    error: IommuError, where: str, rules: Sequence[str], folder: Path | None, again: str, fingerprint: str = ""
) -> str:
    """The whole text. ``where`` is the scenario's file:line, ``rules`` those that the test is about.

    ``fingerprint`` is the name of the kernel report in it, if there is one.
    """
    parts = [_headline(error), f"scenario: {where}"]
    if rules:
        parts.append(f"rules:    {' '.join(rules)}")
    _, _, rest = error.message.rstrip().partition("\n")
    body = error.message.rstrip() if isinstance(error, CheckFailed) else rest
    parts += ["", body] if body else []
    evidence = error.evidence
    if evidence is not None:
        if evidence.splat:
            parts += ["", f"fingerprint: {fingerprint}"] if fingerprint else []
            parts += ["", "first kernel report:", *_indented(evidence.splat.splitlines()[:SPLAT_LINES])]
        console = evidence.console.rstrip().splitlines()
        if console and (evidence.splat or not isinstance(error, CheckFailed)):
            parts += ["", "console, last lines:", *_indented(console[-CONSOLE_LINES:])]
        if evidence.command:
            parts += ["", f"QEMU:      {evidence.command}"]
    parts += [] if folder is None else [f"artefacts: {folder}"]
    parts.append(f"again:     {again}")
    return "\n".join(parts)


def files(error: IommuError, shown: str) -> dict[str, bytes]:
    """What goes to the artefact folder; ``shown`` is the failure's text."""
    found = {"failure.txt": f"{shown}\n".encode()}
    if isinstance(error, CheckFailed):
        found |= error.files
    return found if error.evidence is None else found | evidence_files(error.evidence)


def evidence_files(evidence: Evidence) -> dict[str, bytes]:
    """What is known of a guest, as files of the artefact folder."""
    found = {"console.txt": evidence.console.encode()} if evidence.console else {}
    found |= {"output.txt": evidence.output.encode()} if evidence.output else {}
    found |= {"command.txt": f"{evidence.command}\n".encode()} if evidence.command else {}
    found |= {"splat.txt": f"{evidence.splat}\n".encode()} if evidence.splat else {}
    return found | dict(evidence.files)


def broken_rules(error: IommuError, declared: Sequence[str]) -> tuple[str, ...]:
    """The rules that a failure counts against: those broken, or all that the test is about when it never got so far."""
    if isinstance(error, CheckFailed):
        return tuple(dict.fromkeys([*error.rules, *error.related]))
    if error.kind not in ("kernel-crash", "kernel-hang"):
        return ()
    splat = error.evidence.splat if error.evidence is not None else ""
    if kcsan.TITLE in splat:
        return tuple(dict.fromkeys(["CON-4", *declared]))
    # A report out of a read is what LAY-7 forbids, whatever the test was about; of a corrupt table, FLT-3 before it,
    # and of one that sleeps where RCU forbids it, CON-7.
    slept = any(words in splat for words in SLEEPING)
    read = [*(["CON-7"] if slept else []), "LAY-7"] if "vfs_read" in splat else []
    return tuple(dict.fromkeys([*declared, *read] if "FLT-3" in declared[:1] else [*read, *declared]))


def _headline(error: IommuError) -> str:
    if isinstance(error, CheckFailed):
        return f"{error.kind}: " + (f"{', '.join(error.rules)} broken" if error.rules else "not as expected")
    return f"{error.kind}: {error.message.splitlines()[0] if error.message else ''}"


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line[:LINE_WIDTH]}" for line in lines]
