# SPDX-License-Identifier: GPL-2.0-only
"""What a run of the kselftest consists of, and its files for a guest: static programs for the machine.

Each program prints KTAP on its standard output and ends with 0 passed, 1 failed or 4 skipped. They are run one after
the other, from the directory they lie in: all drive the one test module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.images.machines import Machine
from pytest_iommu.kselftest.export import NAME, build, export, in_tree

#: where kselftest's own layout has it, below a directory of one's choice
FOLDER = f"kselftest/{NAME}"
HELPERS = "kselftest/kselftest/ktap_helpers.sh"
#: seconds that kselftest gives one program (kselftest/settings)
TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``shell`` says that it needs one, with the usual small tools (busybox will do)."""

    name: str
    shell: bool = False


PROGRAMS = (Program("ptdump_cases"), Program("ptdump_storm"), Program("ptdump_files.sh", shell=True))


def guest_files(work: Path, tree: Path, machine: Machine, cases: dict[str, str] | None = None) -> dict[str, Path]:
    """Build for the machine in ``work``; path in the guest (relative, in kselftest's layout) -> file here.

    ``tree`` is the kernel tree whose kselftest is taken; it is not written to. The test module is not among the files:
    the guest has it. SetupError when it does not build.
    """
    source = work / NAME
    export(source, cases)
    selftests = in_tree(tree).parent
    make_args = (f"ARCH={machine.make_arch}", f"CROSS_COMPILE={machine.cross_compile}", "USERLDFLAGS=-static", "KDIR=")
    build(source, selftests, make_args)
    files = {HELPERS: selftests / "kselftest/ktap_helpers.sh", f"{FOLDER}/settings": source / "settings"}
    files |= {f"{FOLDER}/{program.name}": source / program.name for program in PROGRAMS}
    return files | {f"{FOLDER}/cases/{path.name}": path for path in sorted(source.glob("cases/*.txt"))}
