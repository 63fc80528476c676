# SPDX-License-Identifier: GPL-2.0-only
"""The test module's files in the guest: control takes commands, status and domains report their results.

kmod/iommu_ptdump_test/README describes the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import ops

DEBUGFS = "/sys/kernel/debug/iommu"
MODULE = "/sys/kernel/debug/iommu_ptdump_test"
HARDWARE = f"{MODULE}/hardware"
OCCUPY = f"{MODULE}/occupy"
"""A read(2) of it occupies the processor, waiting for interrupts, until a signal arrives."""
_STATUS = re.compile(r"^(?P<line>\d+) (?:ok(?P<values>.*)|error (?P<errno>\w+) ?(?P<message>.*))$")


@dataclass(frozen=True, slots=True)
class Status:
    """The result of one command: ``errno`` is None if it succeeded, else the errno's name."""

    line: int
    errno: str | None = None
    message: str = ""
    values: dict[str, str] = field(default_factory=dict)


def parse_status(text: str) -> dict[int, Status]:
    """Parse the module's status file, by command line. SetupError for a malformed line."""
    found: dict[int, Status] = {}
    for row in text.splitlines():
        match = _STATUS.match(row)
        if match is None:
            raise SetupError(f"malformed line in the test module's status file: {row!r}")
        values = dict(word.partition("=")[::2] for word in (match["values"] or "").split())
        found[int(match["line"])] = Status(int(match["line"]), match["errno"], match["message"] or "", values)
    return found


def lacks(command: str, errno: str | None, message: str) -> str:
    """Return why the kernel cannot execute a command of the module: it has no such table, or no such operation.

    Empty for a success, and for a refusal that a test has to judge.
    """
    words = command.lstrip("? ").split()
    if errno != "EOPNOTSUPP" or not (words[:1] == ["domain"] or message.startswith("this kernel")):
        return ""
    return f"this kernel cannot execute it: {' '.join(words)}: {message}"


def command_ops(script: str) -> list[Op]:
    """Give the test module a batch of commands and read their status."""
    return [ops.write_file(f"{MODULE}/control", script.encode()), ops.read_file(f"{MODULE}/status")]


def settled() -> Op:
    """Wait until the dump's directories are those of the domains and devices that exist (abi.md, LAY-4).

    The module waits for the reference implementation, whose work items make and remove them. Ignore the result: with
    another dump, or without the module, there is nothing to wait for.
    """
    return ops.read_file(f"{MODULE}/status")


def status_text(results: Sequence[Result]) -> str:
    """Return the text of status, from the results of command_ops(). SetupError if the module is not loaded."""
    written, status = results
    if not status.ok:
        name = ops.errno_name(status.value)
        raise SetupError(f"the test module iommu_ptdump_test is not loaded: reading its status failed with {name}")
    if not written.ok and not status.data:
        raise SetupError(f"the test module refused the whole batch: {ops.errno_name(written.value)}")
    return ops.text_of(status)


@dataclass(frozen=True, slots=True)
class DomainRow:
    """One line of the module's `domains` file. ``top`` and ``levels`` are those given to the hardware, not the dump's.

    ``top`` is None if the module does not know it; ``attached`` are the devices, by name. ``id`` is ``?`` if the module
    does not know it, and ``unoffered`` is a table that only the module itself can offer to a dump.
    """

    name: str
    id: str
    attached: tuple[str, ...] = ()
    top: int | None = None
    levels: int | None = None
    unoffered: bool = False


def parse_domains(text: str) -> dict[str, DomainRow]:
    """Parse the module's `domains` file, by domain."""
    rows: dict[str, DomainRow] = {}
    for line in text.splitlines():
        name, *words = line.split()
        values = dict(word.partition("=")[::2] for word in words)
        attached = values.get("attached", "-")
        rows[name] = DomainRow(
            name,
            values.get("id", "-"),
            () if attached == "-" else tuple(attached.split(",")),
            _number(values.get("top", "-")),
            _number(values.get("levels", "-")),
            values.get("kind") == "sw" and values.get("format", "").startswith("arm_"),
        )
    return rows


@dataclass(frozen=True, slots=True)
class HardwareRows:
    """The module's `hardware` file: bytes of a page, bits of VA; base address -> ID registers by name.

    ``linear`` is what the kernel's linear map adds to a physical address, modulo 2^64. ``own_tables``: domains have
    page tables of the driver's own.
    """

    page: int
    va_bits: int
    linear: int
    smmus: dict[int, dict[str, int]]
    own_tables: bool = False


def parse_hardware(text: str) -> HardwareRows:
    """Parse the module's `hardware` file. SetupError for a malformed one."""
    page = va_bits = linear = own = 0
    smmus: dict[int, dict[str, int]] = {}
    try:
        for line in text.splitlines():
            kind, *words = line.split()
            values = {key: int(value, 0) for key, _, value in (word.partition("=") for word in words)}
            if kind == "kernel":
                page, va_bits, linear = values["page"], values["va_bits"], values["linear"]
                own = values.get("own_tables", 0)  # recordings of an older module have no such word
            elif kind == "smmuv3":
                smmus[values.pop("base")] = values
    except (ValueError, KeyError) as error:
        raise SetupError(f"malformed line in the test module's hardware file: {line!r}") from error
    if not page or not va_bits:
        raise SetupError(f"the test module's hardware file does not describe the kernel: {text!r}")
    return HardwareRows(page, va_bits, linear, smmus, bool(own))


def parse_groups(text: str) -> dict[str, str]:
    """Parse the module's `devices` file: PCI address (``00:01.0``) -> IOMMU group, without devices that have none."""
    found = {}
    for line in text.splitlines():
        _, address, *words = line.split()
        group = dict(word.partition("=")[::2] for word in words).get("group", "-")
        if group != "-":
            found[address.partition(":")[2]] = group
    return found


def _number(text: str) -> int | None:
    return None if text == "-" else int(text, 0)
