# SPDX-License-Identifier: GPL-2.0-only
"""The kselftest's programs, the tests of each, and the files that a guest needs to run them.

Each program prints KTAP on its standard output and exits with 0 (passed), 1 (failed) or 4 (skipped). They run one after
the other, from their own directory, since all of them use the one test module. The list of tests is read from the
programs' sources, so that it is known without a guest; its order is the order of execution.
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

#: path in kselftest's own layout, below any directory
FOLDER = f"kselftest/{NAME}"
HELPERS = "kselftest/kselftest/ktap_helpers.sh"
#: the selected cases, if not all are to run
CHOSEN = f"{FOLDER}/cases/chosen.txt"

Tests = dict[str, tuple[str, ...]]
"""Test names as in KTAP -> the rules that each one tests."""

_RULES = r"[A-Z]{3}-\d+(?: [A-Z]{3}-\d+)*"
_VARIANT = re.compile(r"^FIXTURE_VARIANT_ADD\((\w+), (\w+)\)", re.MULTILINE)
_TEST = re.compile(r"^TEST_F(?:_TIMEOUT)?\((\w+), (\w+)", re.MULTILINE)
_ABOUT = re.compile(rf'^\t\{{ "(\w+)", "({_RULES})" \}},$', re.MULTILINE)
_TABLE = re.compile(rf'^TESTS="((?:\w+ {_RULES}\n?)+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Program:
    """One program; ``shell`` says whether it needs a shell with the usual small tools (busybox will do)."""

    name: str
    shell: bool = False


CASES, STORM, FILES = Program("ptdump_cases"), Program("ptdump_storm"), Program("ptdump_files.sh", shell=True)
PROGRAMS = (CASES, STORM, FILES)


def get(name: str) -> Program:
    """Return the program of that name. SetupError if there is none."""
    found = next((program for program in PROGRAMS if program.name == name), None)
    if found is None:
        raise SetupError(f"the kselftest has no program {name!r}; there are: {', '.join(one.name for one in PROGRAMS)}")
    return found


def tests_of(program: Program) -> Tests:
    """Return the tests of a program. SetupError if its source has no list of tests."""
    if program is CASES:
        return {case.name: case.rules for case in cases.find()}
    path = sources() / (program.name if program.shell else f"{program.name}.c")
    source = path.read_text(encoding="utf-8")
    found = _lines_of(source) if program.shell else _fixtures_of(source)
    if not found:
        raise SetupError(f"{path}: no list of tests found")
    return found


def _lines_of(source: str) -> Tests:
    table = _TABLE.search(source)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {name: tuple(rules) for name, *rules in rows}


def _fixtures_of(source: str) -> Tests:
    """Tests of kselftest_harness: each test of a fixture once per variant."""
    about = {name: tuple(rules.split()) for name, rules in _ABOUT.findall(source)}
    return {
        f"{fixture}.{variant}.{test}": about.get(test, ())
        for fixture, variant in _VARIANT.findall(source)
        for owner, test in _TEST.findall(source)
        if owner == fixture
    }


def arguments(program: Program, chosen: Collection[str], folder: str) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Return the arguments that select these tests, and the files this needs below the guest's ``folder``."""
    if program is CASES:
        text = "".join(case.text for case in cases.find() if case.name in chosen)
        return (f"{folder}/{CHOSEN}",), {CHOSEN: text.encode()}
    names = tests_of(program)
    if len(chosen) == len(names):
        return (), {}
    wanted = [name for name in names if name in chosen]
    return tuple(wanted if program.shell else [word for name in wanted for word in ("-r", name)]), {}


def time_limit() -> int:
    """Return a program's time limit in seconds. kselftest's runner reads it from `settings`; its default is 45."""
    found = re.search(r"^timeout=(\d+)$", (sources() / "settings").read_text(), re.MULTILINE)
    return int(found[1]) if found else 45


def guest_files(work: Path, tree: Path, machine: Machine, texts: dict[str, str] | None = None) -> dict[str, Path]:
    """Build for the machine in ``work``; returns relative guest path (in kselftest's layout) -> local file.

    ``tree`` is the kernel tree that provides kselftest; it is not modified. ``texts`` replace the files of cases/ if
    not all are to run. The test module is not included: the guest has it. SetupError if the build fails.
    """
    source = work / NAME
    export(source, texts)
    selftests = in_tree(tree).parent
    make_args = (f"ARCH={machine.make_arch}", f"CROSS_COMPILE={machine.cross_compile}", "USERLDFLAGS=-static", "KDIR=")
    build(source, selftests, make_args)
    files = {HELPERS: selftests / "kselftest/ktap_helpers.sh", f"{FOLDER}/settings": source / "settings"}
    files |= {f"{FOLDER}/{program.name}": source / program.name for program in PROGRAMS}
    return files | {f"{FOLDER}/cases/{path.name}": path for path in sorted(source.glob("cases/*.txt"))}
