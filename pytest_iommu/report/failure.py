# SPDX-License-Identifier: GPL-2.0-only
"""Render the text of one failure: what, where, the broken rules, the kernel's report, and how to run it again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import CheckFailed, IommuError
from pytest_iommu.core.rules import RULES
from pytest_iommu.guest import kcsan
from pytest_iommu.report.failure_folder import INCOMPLETE

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Evidence

SLEEPING = ("sleeping function called from invalid context", "Voluntary context switch within RCU read-side")
"""Messages of kernel/sched/core.c __might_resched() and kernel/rcu/tree_plugin.h."""
CONSOLE_LINES = 20
SPLAT_LINES = 40
LINE_WIDTH = 200
CONSOLE = "console, last lines:"
QEMU = "QEMU:"
TEXT = "failure.txt"
"""Name of the file with the text of the failure."""
_ABOUT = {"command.txt": "QEMU's command line", "ram.img": "for pytest-iommu walk", INCOMPLETE: "why a file is missing"}


@dataclass(frozen=True, slots=True)
class Place:
    """Additional information in a failure's text.

    ``where`` is the test's file:line, ``rules`` are those it tests. ``again`` is the command line that runs it again.
    ``artefacts`` names the folder with its files (empty if there is none), ``names`` the files. ``fingerprint`` is the
    name of the kernel report, if any. ``verbose`` also shows what is in no file.
    """

    where: str
    rules: Sequence[str]
    again: str
    artefacts: str = ""
    names: Collection[str] = ()
    fingerprint: str = ""
    verbose: bool = False


def text(error: IommuError, place: Place) -> str:
    """Return the whole text: the verdict, the evidence, how to run it again; for a broken kernel also its console."""
    check = isinstance(error, CheckFailed)
    parts = [_headline(error), *(_rules(error) if isinstance(error, CheckFailed) else ())]
    _, _, rest = error.message.rstrip().partition("\n")
    body = error.message.rstrip() if check else rest
    parts += ["", body] if body else []
    evidence = error.evidence
    if evidence is not None and evidence.splat:
        parts += ["", f"fingerprint: {place.fingerprint}"] if place.fingerprint else []
        parts += ["", "first kernel report:", *_indented(evidence.splat.splitlines()[:SPLAT_LINES])]
    parts += ["", f"again:     {place.again}"]
    if place.artefacts:
        known = [f"{name}: {what}" for name, what in _ABOUT.items() if name in place.names]
        parts.append(f"artefacts: {place.artefacts}" + (f" ({', '.join(known)})" if known else ""))
    about = f", about {' '.join(place.rules)}" if place.rules else ""
    parts.append(f"test:      {place.where}{about}")
    if evidence is not None:
        # Lines of the report above are not shown again.
        told = set(evidence.splat.splitlines())
        console = [line for line in evidence.console.rstrip().splitlines() if line not in told]
        if console and (evidence.splat or not check):
            parts += ["", CONSOLE, *_indented(console[-CONSOLE_LINES:])]
        if evidence.command and "command.txt" not in place.names:
            parts += ["", f"{QEMU}      {evidence.command if place.verbose else 'with -v, its command line'}"]
    return "\n".join(parts)


def files(error: IommuError) -> dict[str, bytes]:
    """Return the files of the artefact folder, besides the failure's text."""
    found = dict(error.files) if isinstance(error, CheckFailed) else {}
    return found if error.evidence is None else found | evidence_files(error.evidence)


def evidence_files(evidence: Evidence) -> dict[str, bytes]:
    """Return the evidence of a guest as files of the artefact folder."""
    found = {"console.txt": evidence.console.encode()} if evidence.console else {}
    found |= {"output.txt": evidence.output.encode()} if evidence.output else {}
    found |= {"command.txt": f"{evidence.command}\n".encode()} if evidence.command else {}
    found |= {"splat.txt": f"{evidence.splat}\n".encode()} if evidence.splat else {}
    return found | dict(evidence.files)


CRASH = "crash"
"""In the place of a rule: the kernel crashed, and nothing was judged. The fingerprint says where."""
OF_CRASHES = ("CON-", "FLT-")
"""Rules about what happens beside a reader, or without memory: a crash of whatever else the kernel does breaks them."""

V1_READER, V1_TAKES = "dma_seq_", "dma_take"
"""In a report, functions of kmod/io_page_tables: its reader, and what looks at the domain of a group."""


def broken_rules(error: IommuError, declared: Sequence[str]) -> tuple[str, ...]:
    """Return the rules that a failure counts against: the broken ones, or all of the test if it hung before.

    A crash breaks the rules of readers where a reader crashed, and of the test's own only those that are about crashes.
    """
    if isinstance(error, CheckFailed):
        return tuple(dict.fromkeys([*error.rules, *error.related]))
    if error.kind not in ("kernel-crash", "kernel-hang"):
        return ()
    splat = error.evidence.splat if error.evidence is not None else ""
    if kcsan.TITLE in splat:
        return tuple(dict.fromkeys(["CON-4", *declared]))
    # A kernel report during a read breaks LAY-7, whatever the test was about; if the table is corrupt it breaks FLT-3
    # first, and if it is about sleeping where RCU forbids it, CON-7.
    slept = any(words in splat for words in SLEEPING)
    read = [*(["CON-7"] if slept else []), "LAY-7"] if "vfs_read" in splat else []
    if read and V1_READER in splat:
        read = ["V1-5" if slept else "V1-6" if V1_TAKES in splat else "V1-7", "LAY-7"]
    if error.kind == "kernel-crash" and not read and not "".join(declared[:1]).startswith(OF_CRASHES):
        return (CRASH,)
    return tuple(dict.fromkeys([*declared, *read] if "FLT-3" in declared[:1] else [*read, *declared]))


def _headline(error: IommuError) -> str:
    if not isinstance(error, CheckFailed):
        return f"{error.kind}: {error.message.splitlines()[0] if error.message else ''}"
    because = f" ({error.because})" if error.because else ""
    return f"{error.verdict.sentence(error.table)}{because}" + (f": {', '.join(error.rules)}" if error.rules else "")


def _rules(error: CheckFailed) -> list[str]:
    """List the broken rules: the primary ones with their text, the others by id."""
    lines = [f"{rule:<6} {RULES[rule]}" for rule in error.rules if rule in RULES]
    return [*lines, f"also   {' '.join(error.related)}"] if error.related else lines


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line[:LINE_WIDTH]}" for line in lines]
