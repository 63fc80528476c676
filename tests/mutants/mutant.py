# SPDX-License-Identifier: GPL-2.0-only
"""What a mutant is: a patch with a sentence on what it breaks and the rule that is to be reported for it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.core import machines

HERE = Path(__file__).resolve().parent
TREE, V1 = HERE / "kernel", HERE / "io_page_tables"
MACHINES = "smmuv3,smmuv3s1,smmuv3s2,smmuv3topo,smmuv3ids"
"""All with an SMMUv3, the default one first: one kernel for all, and some rules are seen on one of them only."""
LOST = ("kernel-crash", "kernel-hang")
"""Stand for a rule: a report in the kernel's log, or a kernel that answers no more, is what must be seen."""
_RULE = re.compile(rf"[A-Z][A-Z0-9]{{1,2}}-[0-9]+|{'|'.join(LOST)}")


def first_named(kind: str, rules: Sequence[str]) -> str:
    """What a failed test names first: a rule; for a crash or hang its kind, for the report's word comes with it."""
    return kind if kind in LOST or not rules else rules[0]


class MutantError(Exception):
    """A patch file that is none, or does not apply any more."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One patch. ``rule`` must be named first by a failing test; ``also`` may be by others. A parser's has no rule.
    Instead of a rule it may be one of LOST.

    ``flavours`` are the kernels that it needs and ``machines`` those it is run on, by comma, which share one kernel;
    ``tests`` are those that are run, as pytest's -k has it. One of the kernel itself (``of_tree``) is applied to a
    kernel without a dump; ``model`` is the fix or the class of bugs that it is modelled on, ``seen`` the witness that
    sees it.
    """

    path: Path
    what: str
    rule: str = ""
    also: tuple[str, ...] = ()
    flavours: str = "plain"
    machines: str = MACHINES
    tests: str = ""
    model: str = ""
    seen: str = ""

    @property
    def of_tree(self) -> bool:
        """Whether it is a bug of the kernel itself, not of the dump."""
        return self.path.parent == TREE

    @property
    def arch(self) -> str:
        """The architecture of its machines, whose kernel it is planted in."""
        return machines.get(self.machines.partition(",")[0]).arch

    @property
    def part(self) -> str:
        """What of kmod/ it is planted in."""
        return "io_page_tables" if self.path.parent == V1 else "io_ptdump"

    @property
    def name(self) -> str:
        """The file's name without its ending, e.g. ``06-flag-lost``."""
        return self.path.stem

    def apply(self, root: Path) -> None:
        """Patch the tree below ``root``, which the patch's paths are relative to. MutantError when it does not fit."""
        argv = ["patch", "-p1", "--batch", "--forward", "--no-backup-if-mismatch", "-i", str(self.path)]
        done = subprocess.run(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise MutantError(f"{self.path.name} does not apply to {root.name}:\n{done.stdout.rstrip()}")


def read(path: Path, rules: Iterable[str]) -> Mutant:
    """Parse a patch's head; ``rules`` are those there are. MutantError for what is no mutant of the kernel."""
    head, line, _ = path.read_text().partition("\n---\n")
    fields = dict(re.findall(r"(?m)^(Rule|Also|Flavour|Machines|Tests|Model|Seen): (.+)$", head))
    sentence, blank, _ = head.partition("\n\n")
    named = [*_RULE.findall(fields.get("Rule", "")), *_RULE.findall(fields.get("Also", ""))]
    if not line or not blank or not named or " " in fields.get("Rule", " "):
        raise MutantError(f"{path.name}: not a sentence, an empty line, `Rule: ...`, `Also: ...`, `---`, a patch")
    unknown = sorted(set(named) - {*LOST, *rules})
    if unknown:
        raise MutantError(f"{path.name}: no such rule: {' '.join(unknown)}")
    for name in ("Model", "Seen"):
        if (name in fields) is not (path.parent == TREE):
            raise MutantError(f"{path.name}: `{name}: ...` belongs in the head of kernel/*.patch, and nowhere else")
    listed = fields.get("Machines", MACHINES)
    if strangers := sorted(set(listed.split(",")) - set(machines.names())):
        raise MutantError(f"{path.name}: no such machine: {' '.join(strangers)}")
    if len(arches := {machines.get(name).arch for name in listed.split(",")}) > 1:
        raise MutantError(f"{path.name}: machines of several architectures: {' '.join(sorted(arches))}")
    return Mutant(
        path,
        " ".join(sentence.split()),
        named[0],
        tuple(named[1:]),
        fields.get("Flavour", "plain"),
        listed,
        fields.get("Tests", ""),
        fields.get("Model", ""),
        fields.get("Seen", ""),
    )


def of_tree(rules: Iterable[str]) -> list[Mutant]:
    """The mutants of the kernel itself, in order."""
    return [read(path, rules) for path in sorted(TREE.glob("*.patch"))]


def of_dump(rules: Iterable[str]) -> list[Mutant]:
    """The mutants of the reference implementation, in order."""
    return [read(path, rules) for path in sorted(HERE.glob("*.patch"))]


def of_v1(rules: Iterable[str]) -> list[Mutant]:
    """The mutants of v1's file on top of it, in order."""
    return [read(path, rules) for path in sorted(V1.glob("*.patch"))]


def of_parser() -> list[Mutant]:
    """The mutants of our own reading and modelling, in order."""
    found = sorted((HERE / "parser").glob("*.patch"))
    return [Mutant(path, " ".join(path.read_text().partition("\n---\n")[0].split())) for path in found]
