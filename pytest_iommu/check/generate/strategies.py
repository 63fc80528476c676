# SPDX-License-Identifier: GPL-2.0-only
"""The hypothesis strategies. The only file that imports hypothesis."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, configuration, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, PrimitiveProvider

from pytest_iommu.check.generate import drawn
from pytest_iommu.check.generate.drawn import Action, Destination, Map, Refused, Remap, Unmap

LEAST, MOST = 6, 12
"""Actions per scenario; fewer rarely interact."""
BACKEND = "pytest-iommu"
T = TypeVar("T")


def _often(first: int, choices: Sequence[object]) -> tuple[int, ...]:
    """Indices of ``choices``; the first one is ``first`` times as frequent as all others together."""
    return (0,) * max(1, first * (len(choices) - 1)) + tuple(range(1, len(choices)))


_KINDS = (None, *[Map] * 12, *[Unmap] * 3, *[Remap] * 2, Refused)
_SLOTS, _MULTIPLES, _COUNTS = (_often(1, choices) for choices in (drawn.SLOTS, drawn.MULTIPLES, drawn.COUNTS))
_OUTPUTS, _PROTS, _ODD = (_often(1, choices) for choices in (drawn.OUTPUTS, drawn.PROTS, drawn.ODD))
_PLACES, _PORTIONS, _FAULTS = (range(len(choices)) for choices in (drawn.PLACES, drawn.PORTIONS, drawn.FAULTS))
_LEAVES, _NUMBERS, _FLAGS = _often(1, range(64)), range(64), (False, True)
_UP_TO = {
    len(choices): st.integers(0, len(choices) - 1)
    for choices in (_KINDS, _SLOTS, _MULTIPLES, _COUNTS, _OUTPUTS, _PROTS, _ODD, _PLACES, _PORTIONS, _FAULTS)
} | {len(choices): st.integers(0, len(choices) - 1) for choices in (_LEAVES, _NUMBERS, _FLAGS)}


@st.composite
def _action(draw: st.DrawFn) -> Action:
    # Few plain numbers: hypothesis' own choices and builds cost more time than a guest's answer.
    def one(choices: Sequence[T]) -> T:
        return choices[draw(_UP_TO[len(choices)])]

    def target() -> Destination:
        return Destination(one(_OUTPUTS), one(_PROTS))

    kind = one(_KINDS)
    if kind is Map:
        return Map(
            one(_NUMBERS),
            one(_PLACES),
            one(_SLOTS),
            one(_FLAGS),
            one(_NUMBERS),
            one(_MULTIPLES),
            one(_FLAGS),
            one(_COUNTS),
            one(_ODD),
            target(),
        )
    if kind is Unmap:
        return Unmap(one(_NUMBERS), one(_PORTIONS), one(_LEAVES), one(_FLAGS))
    if kind is Remap:
        return Remap(one(_NUMBERS), one(_PORTIONS), one(_LEAVES), target())
    return Refused(one(_FAULTS), one(_NUMBERS)) if kind is Refused else None


ACTIONS: st.SearchStrategy[list[Action]] = st.lists(_action(), min_size=LEAST, max_size=MOST)


class _Plain(PrimitiveProvider):
    """Draws numbers evenly, and nothing else.

    hypothesis' default generator repeats parts of examples, too often for a few hundred of them. It also mixes in
    constants of the imported modules, which differ between processes.
    """

    numbers: ClassVar[random.Random]

    def draw_boolean(self, p: float = 0.5) -> bool:
        return self.numbers.random() < p

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        assert min_value is not None
        assert max_value is not None
        assert weights is None
        return self.numbers.randint(min_value, max_value)

    def _none_of_ours(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError("only numbers and booleans can be drawn")

    draw_float = draw_string = draw_bytes = _none_of_ours


def search(body: Callable[[list[Action]], None], examples: int, number: int, folder: Path) -> None:
    """Call ``body`` with ``examples`` lists of actions. If it raises, shrink the list and raise the last exception.

    Prints nothing; hypothesis may write to ``folder``. ``number`` is the seed.
    """
    AVAILABLE_PROVIDERS[BACKEND] = type("_Seeded", (_Plain,), {"numbers": random.Random(number)})
    configuration.set_hypothesis_home_dir(folder)
    chosen = settings(
        max_examples=examples,
        backend=BACKEND,
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )

    def example(actions: list[Action]) -> None:
        body(actions)

    try:
        seed(number)(chosen(given(ACTIONS)(example)))()
    finally:
        configuration.set_hypothesis_home_dir(None)
        del AVAILABLE_PROVIDERS[BACKEND]
