# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu doctor``: what a run needs of this machine, found or missing, and what it would fetch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from pytest_iommu.commands import with_pytest
from pytest_iommu.core import flavours, needs
from pytest_iommu.core.needs import Need, Tools
from pytest_iommu.core.outcomes import SetupError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pytest_iommu.core.settings import Settings
    from pytest_iommu.images import Machine
    from pytest_iommu.images.store import Store
    from pytest_iommu.session.run import Run

DESCRIPTION = (
    "List the commands, headers and libraries that a run needs, with the Debian packages that bring them, and what a "
    "run would fetch. The exit status is 0 only when nothing is missing."
)


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="List what a run needs, found or missing.", description=DESCRIPTION)
    with_pytest.add_options(
        parser,
        *(*with_pytest.KERNEL, "machine", "flavour", "image", "qemu"),
        machine="Machines, separated by commas (default: all with the kernel of the default machine).",
        flavour="Kernel flavours, separated by commas (default: all).",
        image="Ready kernel image: then only the guest's programs are built.",
    )
    parser.set_defaults(run=lambda arguments: with_pytest.call(arguments, partial(examine, arguments)))


class Report:
    """Prints one line for each thing, and collects what is missing."""

    def __init__(self) -> None:
        self.missing: list[Need] = []
        self.wrong = 0

    def title(self, text: str) -> None:
        print(f"\n{text}:")

    def line(self, state: str, what: str, detail: str = "") -> None:
        print(f"  {state:8} {what:44} {detail}".rstrip())

    def need(self, need: Need, tools: Tools, only: str = "") -> None:
        """One command, header or library; ``only`` says for which flavours."""
        where = needs.locate(need, tools)
        detail = f"package {need.package}" if need.package else "no Debian package"
        if where:
            detail = where if need.kind == "command" else ""
        about = ", ".join(filter(None, [need.why, only]))
        self.line(
            "found" if where else "MISSING",
            f"{need.kind:8} {need.name}",
            f"{detail}  ({about})".strip() if about else detail,
        )
        if not where:
            self.missing.append(need)

    def problem(self, what: str, error: SetupError) -> None:
        """Something that no package brings."""
        first, *more = error.message.splitlines()
        self.line("MISSING", what, first)
        for one in more:
            print(f"           {one}")
        self.wrong += 1


def examine(arguments: argparse.Namespace, run: Run) -> int:
    """Print the list; 0 when nothing is missing, else 1."""
    from pytest_iommu.images.artefacts import store_at

    settings = run.settings
    store = store_at(settings.cache)
    chosen = [run.machine(name) for name in settings.machines]
    if not arguments.iommu_machine:
        every = [run.machine(name) for name in run.machines]
        chosen = [one for one in every if one.make_arch == chosen[0].make_arch]
    names_of_flavours = settings.flavours if arguments.iommu_flavour else flavours.names()
    report = Report()
    fetches = _fetched(settings, store, chosen, report)
    for arch, same in _by_arch(chosen).items():
        _compiled(settings, store, arch, same, names_of_flavours, report)
    report.title("To run guests")
    for need in needs.needed(["guest"], Tools()):
        report.need(need, Tools())
    if fetches:
        report.title("To fetch")
        for need in needs.needed(["fetch"], Tools()):
            report.need(need, Tools())
    lacking = list(dict.fromkeys(report.missing))
    print()
    if lacking:
        print(f"missing: {', '.join(dict.fromkeys(map(str, lacking)))}")
        line = needs.install_line(lacking)
        print(f"install with: {line}" if line else "no Debian package is known for that")
    elif not report.wrong:
        print("nothing is missing")
    return 1 if lacking or report.wrong else 0


def _by_arch(chosen: Iterable[Machine]) -> dict[str, list[Machine]]:
    found: dict[str, list[Machine]] = {}
    for machine in chosen:
        found.setdefault(machine.make_arch, []).append(machine)
    return found


def _compiled(
    settings: Settings,
    store: Store,
    arch: str,
    same: list[Machine],
    names_of_flavours: Iterable[str],
    report: Report,
) -> None:
    """What compiling for one architecture takes."""
    from pytest_iommu.images import config, source, toolchain

    machine = same[0]
    tools = toolchain.tools(machine, settings.make_args)
    who = f"{arch} ({', '.join(one.name for one in same)})"
    if settings.image is None:
        symbols = {
            flavour: needs.symbols_of(config.text(config.merged(machine, flavour, settings.config)))
            for flavour in names_of_flavours
        }
        report.title(f"To build kernels for {who}, flavours {', '.join(symbols)}")
        for need in needs.needed(["kernel"], tools, set().union(*symbols.values())):
            report.need(need, tools, _only(need, symbols))
        tree = source.path(settings, store)
        try:
            toolchain.require_version(tools, tree)
        except SetupError as error:
            report.problem("LLVM", error)
        else:
            if tools.llvm is not None:
                report.line("note", toolchain.wanted(tools, tree))
    report.title(f"To build the guest's programs for {who}")
    for need in needs.needed(["program"], tools):
        report.need(need, tools)


def _only(need: Need, symbols: Mapping[str, set[str]]) -> str:
    """The flavours that need it, where not all do."""
    some = [flavour for flavour, have in symbols.items() if not need.config or have.intersection(need.config)]
    return "" if len(some) == len(symbols) else f"flavours {', '.join(some)}"


def _fetched(settings: Settings, store: Store, chosen: Iterable[Machine], report: Report) -> bool:
    """Kernel source and QEMU, in the cache or not; whether a run would fetch something."""
    from pytest_iommu.images import qemu_binary, source

    print(f"cache: {store.root}")
    report.title("Kernel source and QEMU")
    fetches = False

    def absent(what: str, name: str) -> None:
        nonlocal fetches
        fetches = True
        if settings.offline:
            report.problem(what, SetupError(f"{name} is not in the cache, and with --offline it is not fetched"))
        else:
            report.line("fetch", what, f"{name} from this machine's Debian mirror")

    try:
        if settings.image is not None:
            report.line("found", "kernel", f"{settings.image} as given")
        elif (found := source.current(settings, store)) is not None:
            report.line("found", "kernel source", found.description)
        else:
            absent("kernel source", f"linux-source-{settings.series or source.SUPPORTED[0]}, about 2 GB unpacked,")
    except SetupError as error:
        report.problem("kernel source", error)
    for binary, machine in {machine.qemu_binary: machine for machine in chosen}.items():
        try:
            emulator = qemu_binary.find(store, machine, settings.qemu)
        except SetupError as error:
            report.problem(binary, error)
            continue
        if emulator is not None:
            report.line("found", binary, str(emulator))
        else:
            absent(binary, machine.qemu_package)
    return fetches
