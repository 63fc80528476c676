# SPDX-License-Identifier: GPL-2.0-only
"""HW-4: what an SMMU can see of an STE or a CD while the kernel changes it, store by store.

The SMMU reads the eight words of a structure one by one, in any order, and keeps what it has read until it is told
(IHI 0070, 3.21.3 "Configuration structures and configuration invalidation completion"). Between two invalidations it
may thus see any mixture of the words that were there meanwhile. Each mixture must be the state of before or of after,
or not valid, in all that the SMMU looks at: which fields those are depends on V and Config (5.2, 5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from pytest_iommu.formats.base import Field
from pytest_iommu.formats.smmuv3 import CONFIGS, UNKNOWN, WITH_STAGE1, WITH_STAGE2
from pytest_iommu.formats.smmuv3_commands import SYNC, Command
from pytest_iommu.oracle import stream_model

Words = tuple[int, ...]
Seen = tuple[tuple[str, int], ...]
"""The fields that count, by name; none where the structure is not valid."""

_STAGE1 = ("S1Fmt", "S1ContextPtr", "S1CDMax", "S1DSS", "S1CIR", "S1COR", "S1CSH", "S1STALLD", "STRW", "EATS")
_STAGE2 = tuple(name for name in stream_model.STE if name.startswith("S2"))
_CONFIGURATION = ("CFGI_STE", "CFGI_STE_RANGE", "CFGI_CD", "CFGI_CD_ALL")


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
    return _values(words, names, fields)


def seen_of_cd(words: Words) -> Seen:
    """Return what an SMMU looks at in a context descriptor."""
    fields = stream_model.CD
    return _values(words, tuple(fields), fields) if fields["V"].of(words) else ()


def told(commands: Sequence[Command], sid: int) -> bool:
    """Whether these commands end what the SMMU has kept of a stream's configuration: they name it, and then sync."""
    named = [
        number
        for number, one in enumerate(commands)
        if one.name in _CONFIGURATION and one.sids is not None and one.sids[0] <= sid <= one.sids[1]
    ]
    return bool(named) and any(one.name == SYNC for one in commands[named[-1] :])


def mixture(runs: Sequence[Sequence[Words]], seen: Callable[[Words], Seen]) -> str | None:
    """Return what an SMMU could see that is neither of before nor of after; None if there is no such thing.

    ``runs`` are the states between two invalidations, each state after one store; a run begins with the last of the
    run before it.
    """
    before, after = seen(runs[0][0]), seen(runs[-1][-1])
    for run in runs:
        for words in _mixtures(run):
            found = seen(words)
            if found and found not in (before, after):
                return "; ".join(_differing(found, dict(before), dict(after)))
    return None


def _mixtures(run: Sequence[Words]) -> Iterator[Words]:
    """All that a reader of single words may come to see of the states of a run."""
    return product(*(tuple(dict.fromkeys(values)) for values in zip(*run, strict=True)))


def _values(words: Words, names: Sequence[str], fields: dict[str, Field]) -> Seen:
    return tuple((name, fields[name].of(words)) for name in names)


def _differing(found: Seen, before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    """The fields that tell it from the one and from the other."""
    for name, value in found:
        was, becomes = before.get(name), after.get(name)
        if not value == was == becomes:
            yield f"{name} {value:#x} (before {_text(was)}, after {_text(becomes)})"


def _text(value: int | None) -> str:
    return "none" if value is None else f"{value:#x}"
