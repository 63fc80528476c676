# SPDX-License-Identifier: GPL-2.0-only
"""The data of a compiled scenario: phases of commands, each followed by comparisons.

A phase is one write to the module's control file, and the reads after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_iommu.core.model import Range
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.oracle import Expected
from pytest_iommu.oracle.invalidation import Gone
from pytest_iommu.scenario.race_words import Hold, Storm
from pytest_iommu.scenario.schema import HandLine, Instance, ReadHow

_STATUS = re.compile(r"(\d+) (?:ok\b.*|error (\w+)\s*(.*))")


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expected result of a command: ``errno`` by name, or None for success. ``line`` is its scenario line."""

    text: str
    errno: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Check:
    """Compare a domain's dump with ``expected``; ``hand`` has the hand-written lines, if the case has some."""

    domain: str
    expected: Expected
    line: int
    hand: tuple[HandLine, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReadCheck:
    """Read a file of a domain in pieces, which must match one plain read."""

    domain: str
    file: str
    how: ReadHow
    line: int
    same: bool = True


@dataclass(frozen=True, slots=True)
class Access:
    """Try an access; ``want`` is `ok`, an errno's name, `true` or `false` (exists), or an octal mode.

    ``path`` is absolute, or empty for ``file`` of ``domain``; without ``file`` it is the domain's directory.
    """

    domain: str
    file: str
    path: str
    action: str
    want: str
    line: int


@dataclass(frozen=True, slots=True)
class Plug:
    """Plug (``add``) or unplug a device, and wait until the guest has bound or released it."""

    device: str
    add: bool
    line: int


@dataclass(frozen=True, slots=True)
class StreamCheck:
    """Compare all streams with memory, and the device's streams with these values; ``domain`` is a name."""

    device: str
    config: str | None
    domain: str | None
    present: bool
    line: int


@dataclass(frozen=True, slots=True)
class Place:
    """An IOVA, and the output address that it leads to."""

    iova: int
    oa: int


@dataclass(frozen=True, slots=True)
class Dma:
    """One transfer of ``size`` bytes: ``event`` is the expected fault, None if it must reach ``oa``.

    With ``seed`` nothing is moved for it: the device's buffer holds the pattern of that seed, and what a read returns
    goes ``to`` another place. ``stale`` are output addresses that the IOVA led to before; a transfer that does what
    it did then breaks the rule ``blame``.
    """

    device: str
    write: bool
    iova: int
    size: int
    event: str | None
    oa: int | None
    line: int
    seed: int | None = None
    stale: tuple[int, ...] = ()
    blame: str = ""
    to: Place | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Leaves and tables of a domain that are gone while ``device`` is using it.

    ``ends``: the device is on that domain when the phase ends, otherwise it was when the phase began.
    """

    domain: str
    device: str
    ends: bool
    gone: Gone
    line: int


@dataclass(frozen=True, slots=True)
class Sample:
    """At most ``limit`` transfers by the device, chosen from the mappings; it may have to be attached for them.

    ``touched``: a device has accessed the domain before.
    """

    domain: str
    device: str
    expected: Expected
    attached: bool
    limit: int
    line: int
    touched: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """Hotplug, one write of ``script`` (may be empty) to the control file, then all reads and checks.

    ``attached`` has device and domain of every attachment after the commands.
    """

    plugs: tuple[Plug, ...]
    script: str
    expect: dict[int, Expectation]
    access: tuple[Access, ...]
    checks: tuple[Check, ...]
    reads: tuple[ReadCheck, ...]
    streams: tuple[StreamCheck, ...]
    dma: tuple[Dma, ...]
    samples: tuple[Sample, ...]
    lost: tuple[Lost, ...] = ()
    attached: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RaceStep:
    """A step while a reader is held: commands, one after the other, then reads and checks.

    ``after`` lists the mappings of the raced domain after the step, None if they do not change; ``ends``: the step
    frees the domain. ``wait`` is a grace period, without phases. ``blocked``: it must not end before the reader is
    released.
    """

    line: int
    phases: tuple[Phase, ...]
    after: tuple[Range, ...] | None = None
    ends: bool = False
    wait: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class RacePlan:
    """A reader of a domain's ``file``, ``chunk`` bytes per read(2) (0: 64 KiB), held during ``steps``.

    ``start`` lists the mappings of the domain at the hold.
    """

    line: int
    domain: str
    file: str
    chunk: int
    hold: Hold
    start: tuple[Range, ...]
    steps: tuple[RaceStep, ...]


@dataclass(frozen=True, slots=True)
class StormPlan:
    """A storm over a domain; ``start`` lists the mappings that stay beside its cells."""

    line: int
    domain: str
    storm: Storm
    start: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All phases of an instance, in order. The first begins with `reset`; race or storm comes before ``after``."""

    instance: Instance
    phases: tuple[Phase, ...]
    race: RacePlan | None = None
    storm: StormPlan | None = None
    after: tuple[Phase, ...] = ()


def command_failure(phase: Phase, text: str, files: dict[str, bytes] | None = None) -> CheckFailed | None:
    """Return the failure of the commands of a phase, if any; ``text`` is the module's status file."""
    wrong = _wrong(phase, text)
    if not wrong:
        return None
    message = "\n".join(message for _, message in wrong)
    broken = next((broken for broken, _ in wrong if broken is not None), None)
    if broken is None:
        return CheckFailed(message, files=files, verdict=Verdict.COMMAND)
    rule, because = broken
    verdict = Verdict.ENTRIES if rule.startswith("HW-") else Verdict.MAPPING
    return CheckFailed(message, (rule,), files=files, verdict=verdict, because=because)


def broken_rule(command: str, errno: str | None, message: str) -> tuple[str, str] | None:
    """Return the rule that the kernel breaks by the result of a command of the test module, and how that is known.

    ``errno`` is None for a success that should be an error. None if the module itself refused the command, or if the
    error says nothing of the page table.
    """
    words = command.lstrip("? ").split()
    if errno is None:
        return ("TAB-5", "a map that must be refused succeeded") if words[:1] == ["map"] else None
    if words[:1] == ["domain"] and message.endswith("has no IOMMU"):
        return "HW-1", "the kernel left a device without its IOMMU"
    if words[:1] in (["unmap"], ["split"]) and message.startswith("iommu_unmap("):
        return "TAB-4", "iommu_unmap() returned another number of bytes than it was asked to unmap"
    if words[:1] == ["map"] and message.startswith(_KERNEL_REFUSED) and errno not in ("ENOMEM", "EINTR"):
        return "TAB-1", "the kernel refused a map that it must make"
    if words[:1] == ["clean"] and message.startswith("read_and_clear_dirty("):
        return "TAB-2", "the kernel does not make clean what is mapped"
    if words[:1] == ["share"] and message == "the DMA API refused":
        return "TAB-1", "the DMA API refused a mapping that it must make"
    return None


_KERNEL_REFUSED = "the kernel refused"


def _wrong(phase: Phase, text: str) -> list[tuple[tuple[str, str] | None, str]]:
    """Return every command with another result than expected: the rule that this breaks, if any, and a message."""
    outcomes: dict[int, tuple[str | None, str]] = {}
    for row in text.splitlines():
        match = _STATUS.fullmatch(row)
        if match is not None:
            outcomes[int(match[1])] = (match[2], match[3] or "")
    wrong: list[tuple[tuple[str, str] | None, str]] = []
    for number, want in phase.expect.items():
        errno, message = outcomes.get(number, ("none", "was not executed"))
        if errno != want.errno:
            got = f"{errno} ({message})" if errno else "success"
            broken = broken_rule(want.text, errno, message)
            text = f"line {want.line}: `{want.text}`: got {got}, expected {want.errno or 'success'}"
            wrong.append((broken, text))
    return wrong
