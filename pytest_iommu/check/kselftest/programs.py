# SPDX-License-Identifier: GPL-2.0-only
"""What a run of the kselftest consists of: its programs, the tests of each, and the files of a guest that runs them.

Each program prints KTAP on its standard output and ends with 0 passed, 1 failed or 4 skipped. They are run one after
the other, from the directory they lie in: all drive the one test module. Which tests there are is read from what the
programs are made of, so that it is known without a guest; the order is the one in which they run.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.check.kselftest import cases
from pytest_iommu.check.kselftest.export import NAME, build, export, in_tree, sources
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError

#: where kselftest's own layout has it, below a directory of one's choice
FOLDER = f"kselftest/{NAME}"
HELPERS = "kselftest/kselftest/ktap_helpers.sh"
#: the cases that were chosen, where not all are to be run
CHOSEN = f"{FOLDER}/cases/chosen.txt"

Tests = dict[str, tuple[str, ...]]
"""Names as KTAP has them -> the rules that each is about."""

_RULES = r"[A-Z]{3}-\d+(?: [A-Z]{3}-\d+)*"
_VARIANT = re.compile(r"^FIXTURE_VARIANT_ADD\((\w+), (\w+)\)", re.MULTILINE)
_TEST = re.compile(r"^TEST_F(?:_TIMEOUT)?\((\w+), (\w+)", re.MULTILINE)
_ABOUT = re.compile(rf'^\t\{{ "(\w+)", "({_RULES})" \}},$', re.MULTILINE)
_TABLE = re.compile(rf'^TESTS="((?:\w+ {_RULES}\n?)+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``shell`` says that it needs one, with the usual small tools (busybox will do)."""

    name: str
    shell: bool = False


CASES, STORM, FILES = Program("ptdump_cases"), Program("ptdump_storm"), Program("ptdump_files.sh", shell=True)
PROGRAMS = (CASES, STORM, FILES)


def get(name: str) -> Program:
    """The program of that name. SetupError when there is none."""
    found = next((program for program in PROGRAMS if program.name == name), None)
    if found is None:
        raise SetupError(f"the kselftest has no program {name!r}; there are: {', '.join(one.name for one in PROGRAMS)}")
    return found


def tests_of(program: Program) -> Tests:
    """The tests of a program. SetupError when its source has no list of them."""
    if program is CASES:
        return {case.name: case.rules for case in cases.find()}
    path = sources() / (program.name if program.shell else f"{program.name}.c")
    source = path.read_text(encoding="utf-8")
    found = _lines_of(source) if program.shell else _fixtures_of(source)
    if not found:
        raise SetupError(f"{path}: no list of its tests is found there")
    return found


def _lines_of(source: str) -> Tests:
    table = _TABLE.search(source)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {name: tuple(rules) for name, *rules in rows}


def _fixtures_of(source: str) -> Tests:
    """Of kselftest_harness: all tests of a fixture for each of its variants."""
    about = {name: tuple(rules.split()) for name, rules in _ABOUT.findall(source)}
    return {
        f"{fixture}.{variant}.{test}": about.get(test, ())
        for fixture, variant in _VARIANT.findall(source)
        for owner, test in _TEST.findall(source)
        if owner == fixture
    }


def arguments(program: Program, chosen: Collection[str], folder: str) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """How to have a program run these of its tests: its arguments, and files for that below the guest's ``folder``."""
    if program is CASES:
        text = "".join(case.text for case in cases.find() if case.name in chosen)
        return (f"{folder}/{CHOSEN}",), {CHOSEN: text.encode()}
    names = tests_of(program)
    if len(chosen) == len(names):
        return (), {}
    wanted = [name for name in names if name in chosen]
    return tuple(wanted if program.shell else [word for name in wanted for word in ("-r", name)]), {}


def time_limit() -> int:
    """Seconds that one program gets, as kselftest's runner reads them from `settings`; 45 by default there."""
    found = re.search(r"^timeout=(\d+)$", (sources() / "settings").read_text(), re.MULTILINE)
    return int(found[1]) if found else 45


def guest_files(work: Path, tree: Path, machine: Machine, texts: dict[str, str] | None = None) -> dict[str, Path]:
    """Build for the machine in ``work``; path in the guest (relative, in kselftest's layout) -> file here.

    ``tree`` is the kernel tree whose kselftest is taken; it is not written to. ``texts`` are the files of cases/ where
    these are not to be all. The test module is not among the files: the guest has it. SetupError when the programs do
    not build.
    """
    source = work / NAME
    export(source, texts)
    selftests = in_tree(tree).parent
    make_args = (f"ARCH={machine.make_arch}", f"CROSS_COMPILE={machine.cross_compile}", "USERLDFLAGS=-static", "KDIR=")
    build(source, selftests, make_args)
    files = {HELPERS: selftests / "kselftest/ktap_helpers.sh", f"{FOLDER}/settings": source / "settings"}
    files |= {f"{FOLDER}/{program.name}": source / program.name for program in PROGRAMS}
    return files | {f"{FOLDER}/cases/{path.name}": path for path in sorted(source.glob("cases/*.txt"))}
