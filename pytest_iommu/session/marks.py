# SPDX-License-Identifier: GPL-2.0-only
"""The marks of tests in Python: how each is written, what is wrong with one, and what all marks of a test add up to.

A mark that is written wrongly would be ignored, and the test would pass or be skipped for the wrong reason. So every
mark whose name begins with ``iommu_`` is checked at collection. Marks that somebody else registered are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.core.boot_modes import BOOT_MODES, FUNCTIONAL
from pytest_iommu.core.rules import RULES

if TYPE_CHECKING:
    from pytest_iommu.scenario import Needs
    from pytest_iommu.session.run import Run

PREFIX = "iommu_"
WRONG_MARKS = "iommu_marks"
"""Where a worker puts its usage error."""
SHOWN = 10
"""How many problems a usage error lists."""

_CONFIG = re.compile(r"(?!CONFIG_)[A-Za-z0-9_]+")


class Known:
    """The names that marks may use: those of this installation, and of other plugins."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def flavours(self) -> Collection[str]:
        """Kernel flavours: those of qemu-images/, and what the user chose, which another plugin may build."""

        from pytest_iommu.core import flavours

        return dict.fromkeys([*flavours.names(), *self._run.settings.flavours])

    @cached_property
    def machines(self) -> Collection[str]:
        """Machines by name."""
        return list(self._run.machines)

    @cached_property
    def devices(self) -> Collection[str]:
        """The devices of any machine, by name."""
        return dict.fromkeys(device.name for machine in self._run.machines.values() for device in machine.devices)

    @cached_property
    def dialects(self) -> Collection[str]:
        """Dialects by name."""
        return dict.fromkeys(one.name for one in (*self._run.dialects.dumps, *self._run.dialects.texts))


Check = Callable[[pytest.Mark, Known], str | None]


def _rules(mark: pytest.Mark, known: Known) -> str | None:
    return (
        _no_keywords(mark)
        or (None if mark.args else "it names no rule")
        or _first(_unknown("rule", rule, RULES) for rule in mark.args)
    )


def _needs(mark: pytest.Mark, known: Known) -> str | None:
    if mark.args:
        return "it takes keyword arguments only"
    if not mark.kwargs:
        return "it names nothing"
    for name, value in mark.kwargs.items():
        if name not in _NEEDS:
            return _unknown("argument", name, _NEEDS)
        if problem := _NEEDS[name](value, known):
            return f"{name}: {problem}"
    return None


def _words(check: Callable[[str], str | None]) -> Callable[[object], str | None]:
    """A check of a list of words, each by ``check``."""

    def of_all(value: object) -> str | None:
        if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
            return f"takes a list of names, not {value!r}"
        return _first(check(word) for word in value)

    return of_all


def _symbol(word: str) -> str | None:
    if _CONFIG.fullmatch(word):
        return None
    return f"takes the kernel's configuration symbols without CONFIG_, not {word!r}"


EMULATED = "emulated"
"""What machine= takes for any machine under QEMU: the test runs on the run's first one that has the devices."""
_NEEDS: Mapping[str, Callable[[object, Known], str | None]] = {
    "machine": lambda value, known: _unknown("machine", value, [*known.machines, EMULATED]),
    "devices": lambda value, known: _words(lambda word: _unknown("device", word, known.devices))(value),
    "dialect": lambda value, known: _unknown("dialect", value, known.dialects),
    "config": lambda value, known: _words(_symbol)(value),
}


def _flavour(mark: pytest.Mark, known: Known) -> str | None:
    return _one_name(mark) or _unknown("kernel flavour", mark.args[0], known.flavours)


def _boot_mode(mark: pytest.Mark, known: Known) -> str | None:
    return _one_name(mark) or _unknown("boot mode", mark.args[0], BOOT_MODES)


def _nothing(mark: pytest.Mark, known: Known) -> str | None:
    return "it takes no arguments" if mark.args or mark.kwargs else None


def _no_keywords(mark: pytest.Mark) -> str | None:
    return _unknown("argument", next(iter(mark.kwargs)), ()) if mark.kwargs else None


def _one_name(mark: pytest.Mark) -> str | None:
    return _no_keywords(mark) or (None if len(mark.args) == 1 else "it takes exactly one name")


def _unknown(what: str, name: object, known: Collection[str]) -> str | None:
    """What is wrong with a name that is not among ``known``, and the one that was probably meant."""
    if isinstance(name, str) and name in known:
        return None
    import difflib

    close = difflib.get_close_matches(str(name), known, 1)
    told = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}" if known else ""
    return f"unknown {what} {name!r}{told}"


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)


@dataclass(frozen=True, slots=True)
class MarkSpec:
    """One of our marks: ``arguments`` as a test writes them, ``check`` says what is wrong with a mark, or None."""

    name: str
    arguments: str
    help: str
    check: Check

    @property
    def signature(self) -> str:
        """The mark as it is written."""
        return f"{self.name}({self.arguments})" if self.arguments else self.name


MARKS = {
    spec.name: spec
    for spec in (
        MarkSpec("iommu_rules", '"RNG-3", ...', "rules of docs/abi.md that the test checks", _rules),
        MarkSpec(
            "iommu_needs",
            'machine="smmuv3", devices=["edu0", ...], dialect="io_ptdump", config=["MEMCG", ...]',
            "skip the test where one of these is missing, naming it; the test runs on machine=, "
            "or with machine=\"emulated\" on the run's first one with these devices, which must be QEMU's",
            _needs,
        ),
        MarkSpec("iommu_flavour", '"debug"', "kernel flavour that the test runs on", _flavour),
        MarkSpec("iommu_fresh", "", "run the test on a freshly booted guest", _nothing),
        MarkSpec("iommu_boot_mode", '"races"', f"how the test's guest is booted: {', '.join(BOOT_MODES)}", _boot_mode),
        MarkSpec("iommu_manner", '"races"', "old name of iommu_boot_mode, for one release", _boot_mode),
    )
}


def ours(item: pytest.Item) -> bool:
    """Whether a test has one of our marks or fixtures, or what looks like one."""
    fixtures = getattr(item, "fixturenames", ())
    return any(name == "iommu" or name.startswith(PREFIX) for name in fixtures) or any(
        mark.name.startswith(PREFIX) for mark in item.iter_markers()
    )


def problems(items: Iterable[pytest.Item], run: Run) -> list[str]:
    """What is wrong with the marks of these tests, a text each; a mark that many tests have is told once."""
    known = Known(run)
    registered = {line.partition(":")[0].partition("(")[0].strip() for line in run.config.getini("markers")}
    found: dict[str, list[str]] = {}
    for item in items:
        for mark in item.iter_markers():
            if not mark.name.startswith(PREFIX):
                continue
            spec = MARKS.get(mark.name)
            if spec is None:
                wrong = None if mark.name in registered else _unknown("mark", mark.name, MARKS)
            else:
                wrong = spec.check(mark, known)
            if wrong:
                text = f"@pytest.mark.{_written(mark)}: {wrong}"
                if spec is not None:
                    text += f"\n  it is written: @pytest.mark.{spec.signature}"
                found.setdefault(text, []).append(item.nodeid)
    return [_told(text, nodeids) for text, nodeids in found.items()]


def _written(mark: pytest.Mark) -> str:
    words = [repr(value) for value in mark.args] + [f"{name}={value!r}" for name, value in mark.kwargs.items()]
    return f"{mark.name}({', '.join(words)})" if words else mark.name


def _told(text: str, nodeids: list[str]) -> str:
    more = f" (and {len(nodeids) - 1} more tests)" if len(nodeids) > 1 else ""
    return f"{nodeids[0]}{more}: {text}"


def check(items: Iterable[pytest.Item], run: Run) -> None:
    """End pytest with a usage error where a mark is wrong."""
    wrong = problems(items, run)
    if not wrong:
        return
    more = [f"... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    text = "\n".join([*wrong[:SHOWN], *more])
    output = getattr(run.config, "workeroutput", None)
    if output is not None:
        output[WRONG_MARKS] = text
    raise pytest.UsageError(text)


def worker_ended(output: Mapping[str, object]) -> None:
    """On the controller: end pytest with the usage error that ended a worker; xdist would call it an internal one."""
    if WRONG_MARKS in output:
        raise pytest.UsageError(str(output[WRONG_MARKS]))


def needs_of(item: pytest.Item) -> Needs:
    """What all ``iommu_needs`` of a test ask for: every device and symbol of them, the closest machine and dialect."""
    from pytest_iommu.scenario import Needs

    found = [mark.kwargs for mark in item.iter_markers("iommu_needs")]
    return Needs(
        devices=tuple(dict.fromkeys(name for one in found for name in one.get("devices", ()))),
        dialect=next((one["dialect"] for one in found if "dialect" in one), None),
        machine=next((one["machine"] for one in found if "machine" in one), None),
        config=tuple(dict.fromkeys(name for one in found for name in one.get("config", ()))),
    )


def flavour_of(item: pytest.Item) -> str | None:
    """The kernel flavour that a test asks for."""
    mark = item.get_closest_marker("iommu_flavour")
    return str(mark.args[0]) if mark is not None else None


def boot_mode_of(item: pytest.Item) -> str:
    """How the guest of a test is booted."""
    mark = item.get_closest_marker("iommu_boot_mode") or item.get_closest_marker("iommu_manner")
    return str(mark.args[0]) if mark is not None else FUNCTIONAL


def fresh(item: pytest.Item) -> bool:
    """Whether a test wants a freshly booted guest."""
    return item.get_closest_marker("iommu_fresh") is not None
