# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu judge FILE...``: saved dumps of any known dialect, judged without a guest.

Each file is checked by itself: grammar, order, overlap, alignment and sizes of rows, raw items and words beside the
columns decoded from them. With --ram it is also compared with a saved memory image, with --expect with a scenario.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.commands.cmd_walk import number, parameter
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.paths import user_path

if TYPE_CHECKING:
    from pytest_iommu.compare.printed_rules import Finding
    from pytest_iommu.core.model import Range
    from pytest_iommu.core.printed import PrintedDump, Stream, Table
    from pytest_iommu.dialects import TextDialect
    from pytest_iommu.oracle.saved_memory import SavedMemory

EPILOG = """\
Each finding is a line FILE:LINE: RULE: WHY.

exit status:
  0  the files are right, as far as they could be judged
  1  a rule is broken: a finding was printed
  2  nothing could be judged: no such file, no dialect reads it, no such table in the image or the scenario

  pytest-iommu judge domain_translation_struct
  pytest-iommu judge --dialect=vtd saved.txt --ram ram.img
  pytest-iommu judge --dialect=io_page_tables saved.txt --expect maps.iommu.yaml --case two-pages
  pytest-iommu judge --dialect=kvm_stage2 s2.txt --ram ram.img --format arm_64_lpae_s2 --top 0x41000000
"""
RIGHT, WRONG = 0, 1


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``judge``."""
    parser = commands.add_parser(
        "judge",
        help="Judge saved dumps of page tables and stream tables, also those of other kernels.",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=user_path, metavar="FILE", help="Saved text of one dump.")
    parser.add_argument(
        "--dialect",
        metavar="NAME",
        help="Form of the text, or FILE.py that has a DIALECT (default: the one that reads it).",
    )
    parser.add_argument("--dialects", action=_List, help="List the dialects and exit.")
    witness = parser.add_argument_group("witnesses")
    witness.add_argument("--ram", type=user_path, metavar="IMAGE", help="Memory image to compare with, as for walk.")
    witness.add_argument("--expect", type=user_path, metavar="YAML", help="Scenario whose last state is expected.")
    witness.add_argument("--case", metavar="NAME", help="Case of the scenario, if it has several.")
    witness.add_argument("--domain", metavar="NAME", help="Domain of the image or the scenario, if there are several.")
    table = parser.add_argument_group("the table in the image, where the text does not say where it is")
    table.add_argument("--base", type=number, metavar="ADDR", help="Start of RAM, of an image without a description.")
    table.add_argument("--stream", type=number, metavar="SID", help="Stream that leads to it.")
    table.add_argument("--ssid", type=number, default=0, metavar="SSID", help="Its substream (default: 0).")
    table.add_argument("--format", metavar="NAME", help="Its format, with --top.")
    table.add_argument("--top", type=number, metavar="ADDR", help="Address of its top.")
    table.add_argument("--levels", type=number, metavar="N", help="Levels in use, where the top grows.")
    table.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="Parameters of the format.")
    parser.set_defaults(run=run)


class _List(argparse.Action):
    """Print the names of all dialects and end."""

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help=str(rest.get("help")))

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from pytest_iommu.dialects import TEXTS

        print("\n".join(f"{one.name:<15} {one.about}" for one in TEXTS))
        parser.exit()


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; the exit status. SetupError if nothing could be judged."""
    from pytest_iommu.compare.printed_rules import Finding, findings
    from pytest_iommu.dialects import DumpSyntaxError

    texts = {str(path): _text(path) for path in arguments.files}
    dialect = _dialect(arguments.dialect, texts)
    try:
        dump = dialect.parse(texts)
    except DumpSyntaxError as error:
        # Nothing else is certain of a text whose grammar is broken.
        shown = f": {error.line!r}" if error.line else ""
        return _print(dialect, [Finding(error.rule, error.file, error.number, f"{error.why}{shown}")], None)
    found = findings(dump)
    if arguments.ram is not None:
        found += _with_memory(arguments, dump)
    if arguments.expect is not None:
        found += _with_scenario(arguments, dump)
    return _print(dialect, found, dump)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from None


def _dialect(name: str | None, texts: dict[str, str]) -> TextDialect:
    """The dialect of that name, or the one that reads the texts; else the one whose heading they have."""
    from pytest_iommu.dialects import TEXTS

    known = {one.name: one for one in TEXTS}
    if name is not None and name.endswith(".py"):
        return _own(name)
    if name is not None:
        if name not in known:
            raise SetupError(f"unknown dialect {name!r}; known: {', '.join(known)}")
        return known[name]
    claiming = [one for one in TEXTS if any(one.claims(text) for text in texts.values())]
    reading = [one for one in claiming if not one.read(texts)[1]]
    if not claiming:
        raise SetupError(f"no dialect knows {', '.join(texts)}; --dialect=NAME is one of {', '.join(known)}")
    chosen, *others = reading or claiming
    also = f" (also {', '.join(one.name for one in others)})" if others else ""
    print(f"dialect {chosen.name}: {chosen.about}{also}", file=sys.stderr)
    return chosen


def _own(path: str) -> TextDialect:
    """The DIALECT of a file in Python (docs/new-dialect.md)."""
    import runpy

    from pytest_iommu.dialects import TextDialect

    try:
        found = runpy.run_path(str(user_path(path))).get("DIALECT")
    except (OSError, SyntaxError, ImportError) as error:
        raise SetupError(f"{path}: {error}") from None
    if not isinstance(found, TextDialect):
        raise SetupError(f"{path}: DIALECT must be a TextDialect, not {found!r}")
    return found


def _print(dialect: TextDialect, found: Iterable[Finding], dump: PrintedDump | None) -> int:
    from pytest_iommu.compare.printed_rules import unsaid

    wrong = list(dict.fromkeys(found))
    for one in wrong:
        print(one)
    rules = dict.fromkeys(one.rule for one in wrong)
    if wrong:
        print(f"{dialect.name}: {len(wrong)} finding{'s' * (len(wrong) > 1)}, broken: {' '.join(rules)}")
    elif dump is not None:
        rows = sum(len(table.rows) for table in dump.tables)
        parts = [f"{rows} rows of {len(dump.tables)} tables"] * bool(dump.tables)
        parts += [f"{len(dump.streams)} stream entries"] * bool(dump.streams)
        parts += [f"{len(dump.contexts)} context entries"] * bool(dump.contexts)
        silent = "; ".join(unsaid(dump))
        more = f" (not judged: {silent})" if silent else ""
        print(f"{dialect.name}: no finding in {', '.join(parts) or 'the files'}{more}")
    return WRONG if wrong else RIGHT


def _with_memory(arguments: argparse.Namespace, dump: PrintedDump) -> list[Finding]:
    """Compare all tables and stream entries with the image."""
    from pytest_iommu import formats
    from pytest_iommu.compare.printed_against import against
    from pytest_iommu.core.protocol import OutsideMemory
    from pytest_iommu.oracle.saved_memory import SavedMemoryError, open_image

    try:
        memory = open_image(arguments.ram, None, arguments.base)
        found = []
        for table in dump.tables:
            found += against(table, _in_memory(arguments, memory, table), "in memory")
        for stream in dump.streams:
            found += _stream(arguments, memory, stream)
        return found
    except (SavedMemoryError, formats.ConfigError) as error:
        raise SetupError(str(error)) from None
    except OutsideMemory as error:
        raise SetupError(f"the top of the table is not in the image: {error}") from None


def _in_memory(arguments: argparse.Namespace, memory: SavedMemory, table: Table) -> Sequence[Range]:
    """The ranges of the table that the text says it is, or that the options name."""
    from pytest_iommu import formats
    from pytest_iommu.compare.printed_rules import config_of
    from pytest_iommu.oracle.guest_memory import walk
    from pytest_iommu.oracle.stream_table import SmmuV3

    config = config_of(table)
    if arguments.format is not None:
        if arguments.top is None:
            raise SetupError("--format goes with --top=ADDR")
        chosen = formats.configure(arguments.format, **dict(map(parameter, arguments.set)))
        return walk(memory, chosen, arguments.top, arguments.levels).ranges
    if config is not None and table.top is not None and arguments.domain is None:
        return walk(memory, config, table.top, table.levels).ranges
    if arguments.stream is not None:
        found = None if memory.smmu is None else SmmuV3(memory, memory.smmu).table(arguments.stream, arguments.ssid)
        if found is None:
            raise SetupError(f"stream {arguments.stream} has no page table in the image")
        return walk(memory, *found).ranges
    domains = [one for one in memory.domains.values() if arguments.domain in (None, one.name)]
    if len(domains) != 1:
        names = ", ".join(memory.domains) or "none"
        raise SetupError(f"which table is {table.name}? --domain (of {names}), --stream, or --format and --top")
    return walk(memory, domains[0].config, domains[0].top, domains[0].levels).ranges


def _stream(arguments: argparse.Namespace, memory: SavedMemory, stream: Stream) -> list[Finding]:
    """Compare the words of an STE or CD with those in the image."""
    from pytest_iommu.compare.printed_memory import stream_against
    from pytest_iommu.oracle.stream_table import SmmuV3

    sid = arguments.stream if stream.entry.sid < 0 else stream.entry.sid
    if memory.smmu is None or sid is None:
        raise SetupError(f"which stream is {stream.name}? --stream=SID" if memory.smmu else "the image has no SMMU")
    return stream_against(stream, SmmuV3(memory, memory.smmu), sid)


def _with_scenario(arguments: argparse.Namespace, dump: PrintedDump) -> list[Finding]:
    """Compare all tables with the last state of a domain of the scenario."""
    from pytest_iommu.compare.printed_against import against
    from pytest_iommu.scenario import compile_plan, load

    found: list[Finding] = []
    states: dict[str, dict[tuple[Range, ...], str]] = {}
    for instance in load(arguments.expect).instances:
        if arguments.case not in (None, instance.case.name):
            continue
        plan = compile_plan(instance)
        last = {one.domain: one.expected for phase in (*plan.phases, *plan.after) for one in phase.checks}
        for domain, expected in last.items():
            if arguments.domain in (None, domain):
                key = f"--case={instance.case.name} --domain={domain}"
                states.setdefault(expected.config.format, {})[expected.ranges] = key
    for table in dump.tables:
        fitting = [one for which, one in states.items() if table.format in (None, which)]
        every = {ranges: name for one in fitting for ranges, name in one.items()}
        if len(every) != 1:
            names = ", ".join(dict.fromkeys(every.values())) or f"none has format {table.format or 'of the text'}"
            raise SetupError(f"{arguments.expect}: which domain is {table.name}? there are: {names}")
        found += against(table, next(iter(every)), "in the scenario")
    return found
