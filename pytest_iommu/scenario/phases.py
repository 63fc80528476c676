# SPDX-License-Identifier: GPL-2.0-only
"""What a compiled scenario is: phases of commands, and what is compared after them.

A phase is one write to the module's control file and what is read after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_iommu.core.model import Range
from pytest_iommu.oracle import Expected
from pytest_iommu.scenario.race_words import Hold, Storm
from pytest_iommu.scenario.schema import HandLine, Instance, ReadHow

_STATUS = re.compile(r"(\d+) (?:ok\b.*|error (\w+)\s*(.*))")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a command must give: ``errno`` by name, or None for success. ``line`` is that of the scenario."""

    text: str
    errno: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Check:
    """Compare a domain's dump with ``expected``; ``hand`` are the hand-written lines, where the case has some."""

    domain: str
    expected: Expected
    line: int
    hand: tuple[HandLine, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReadCheck:
    """Read a file of a domain in that way; the pieces must be those of one plain read."""

    domain: str
    file: str
    how: ReadHow
    line: int
    same: bool = True


@dataclass(frozen=True, slots=True)
class Access:
    """Try an access; ``want`` is `ok`, an errno's name, `true` or `false` (exists), or an octal mode.

    ``path`` is absolute, or empty: then it is ``file`` of ``domain``, or without file the domain's directory.
    """

    domain: str
    file: str
    path: str
    action: str
    want: str
    line: int


@dataclass(frozen=True, slots=True)
class Plug:
    """Plug a device in (``add``) or out, and wait until the guest has it, or has let go."""

    device: str
    add: bool
    line: int


@dataclass(frozen=True, slots=True)
class StreamCheck:
    """Hold all streams against memory, and what the device's streams say against this; ``domain`` by its name."""

    device: str
    config: str | None
    domain: str | None
    present: bool
    line: int


@dataclass(frozen=True, slots=True)
class Dma:
    """One transfer of ``size`` bytes: ``event`` is what it ends in, None where it must get through to ``oa``."""

    device: str
    write: bool
    iova: int
    size: int
    event: str | None
    oa: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Sample:
    """At most ``limit`` transfers by the device, chosen from what is mapped; it may have to be attached for them.

    ``touched``: a device has been there before.
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
    """What is plugged, one write of ``script`` (may be empty) to the control file, then all that is looked at."""

    plugs: tuple[Plug, ...]
    script: str
    expect: dict[int, Expectation]
    access: tuple[Access, ...]
    checks: tuple[Check, ...]
    reads: tuple[ReadCheck, ...]
    streams: tuple[StreamCheck, ...]
    dma: tuple[Dma, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class RaceStep:
    """What is done while a reader is held: commands, one after the other, then what is looked at.

    ``after`` is what the raced domain has mapped then, None where that is as it was; ``ends``: it is freed. ``wait`` is
    a grace period, and there are no phases. ``blocked``: it is not over before the reader goes on.
    """

    line: int
    phases: tuple[Phase, ...]
    after: tuple[Range, ...] | None = None
    ends: bool = False
    wait: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class RacePlan:
    """A reader of a domain's ``file``, ``chunk`` bytes a read(2) (0: 64 KiB), held while ``steps`` are done.

    ``start`` is what the domain has mapped when it is held.
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
    """A storm over a domain, ``start`` being what stays mapped beside its cells."""

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


def verify_status(phase: Phase, text: str) -> list[str]:
    """What differs between the module's status file and the phase's expectations, a message each."""
    outcomes: dict[int, tuple[str | None, str]] = {}
    for row in text.splitlines():
        match = _STATUS.fullmatch(row)
        if match is not None:
            outcomes[int(match[1])] = (match[2], match[3] or "")
    wrong: list[str] = []
    for number, want in phase.expect.items():
        errno, message = outcomes.get(number, ("none", "was not executed"))
        if errno != want.errno:
            got = f"{errno} ({message})" if errno else "success"
            wrong.append(f"line {want.line}: `{want.text}` gives {got}, should give {want.errno or 'success'}")
    return wrong
