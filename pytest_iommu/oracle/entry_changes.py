# SPDX-License-Identifier: GPL-2.0-only
"""HW-4: what an IOMMU can see of its entries while the kernel changes them, store by store.

An SMMU reads the eight words of a structure one by one, in any order, and keeps what it has read until it is told
(IHI 0070, 3.21.3 "Configuration structures and configuration invalidation completion"). Between two invalidations it
may thus see any mixture of the words that were there meanwhile. Each mixture must be the state of before or of after,
or not valid, in all that the SMMU looks at: which fields those are depends on V and Config (5.2, 5.4).

The others read their entries in units of a few words. Software may rely on the unit with the bit that says that the
entry is valid being read first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, product
from typing import TypeVar

from pytest_iommu.formats.smmuv3 import CONFIGS, UNKNOWN, WITH_STAGE1, WITH_STAGE2
from pytest_iommu.oracle import stream_model
from pytest_iommu.oracle.entry_words import Seen, values
from pytest_iommu.oracle.iommu import Command

Words = tuple[int, ...]

_STAGE1 = ("S1Fmt", "S1ContextPtr", "S1CDMax", "S1DSS", "S1CIR", "S1COR", "S1CSH", "S1STALLD", "STRW", "EATS")
_STAGE2 = tuple(name for name in stream_model.STE if name.startswith("S2"))
Given = TypeVar("Given", bound=Command)


def seen_of_ste(words: Words) -> Seen:
    """Return what an SMMU looks at in a stream table entry."""
    fields = stream_model.STE
    if not fields["V"].of(words):
        return ()
    config = CONFIGS.get(fields["Config"].of(words), UNKNOWN)
    names = ["Config"]
    if config in WITH_STAGE1:
        names += _STAGE1
    if config in WITH_STAGE2:
        names += (*_STAGE2, "SHCFG", "EATS")
    if config == "BYPASS":
        names += ["SHCFG"]
    return values(words, fields, names)


def seen_of_cd(words: Words) -> Seen:
    """Return what an SMMU looks at in a context descriptor."""
    fields = stream_model.CD
    return values(words, fields, tuple(fields)) if fields["V"].of(words) else ()


def announced(commands: Sequence[Given], concerns: Callable[[Given], bool]) -> bool:
    """Whether a command that ``concerns`` an entry ends what is kept of it, and has completed."""
    named = [number for number, one in enumerate(commands) if concerns(one)]
    return bool(named) and any(one.waits for one in commands[named[-1] :])


def mixture(runs: Sequence[Sequence[Words]], seen: Callable[[Words], Seen], unit: int = 0) -> str | None:
    """Return what an IOMMU could see that is neither of before nor of after; None if there is no such thing.

    ``runs`` are the states between two invalidations, each state after one store; a run begins with the last of the
    run before it. ``unit``: the words that are read at once, the first of them first; 0 for one by one in any order.
    """
    before, after = seen(runs[0][0]), seen(runs[-1][-1])
    for run in runs:
        for words in _first_before_others(run, unit) if unit else _mixtures(run):
            found = seen(words)
            if found and found not in (before, after):
                return "; ".join(_differing(found, dict(before), dict(after)))
    return None


def _mixtures(run: Sequence[Words]) -> Iterator[Words]:
    """All that a reader of single words may come to see of the states of a run."""
    return product(*(tuple(dict.fromkeys(values)) for values in zip(*run, strict=True)))


def _first_before_others(run: Sequence[Words], unit: int) -> Iterator[Words]:
    """All that a reader of units may come to see that reads the first one before all others."""
    for number, state in enumerate(run):
        later = [[words[at : at + unit] for words in run[number:]] for at in range(unit, len(state), unit)]
        for rest in product(*(tuple(dict.fromkeys(states)) for states in later)):
            yield (*state[:unit], *chain.from_iterable(rest))


def _differing(found: Seen, before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    """The fields that tell it from the one and from the other."""
    for name, value in found:
        was, becomes = before.get(name), after.get(name)
        if not value == was == becomes:
            yield f"{name} {value:#x} (before {_text(was)}, after {_text(becomes)})"


def _text(value: int | None) -> str:
    return "none" if value is None else f"{value:#x}"
