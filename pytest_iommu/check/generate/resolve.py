# SPDX-License-Identifier: GPL-2.0-only
"""Turn drawn actions into the steps of a scenario, for a table of a given configuration.

A model of the table is kept. Impossible steps are changed into possible ones, and invalid ones get their errno.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pytest_iommu.check.generate.anchors import anchors, window_of, windows
from pytest_iommu.check.generate.drawn import (
    COUNTS,
    FAULTS,
    MULTIPLES,
    ODD,
    OUTPUTS,
    PLACES,
    PORTIONS,
    PROTS,
    SLOTS,
    Action,
    Destination,
    Map,
    Refused,
    Remap,
    Unmap,
)
from pytest_iommu.core.model import Prot, TableConfig
from pytest_iommu.oracle import MappingError, TableModel
from pytest_iommu.oracle.expected import LeafRun
from pytest_iommu.oracle.tables import cut

LEAVES = 720
"""Maximum number of leaves per scenario: a full table of 4K and some batches."""


@dataclass(frozen=True, slots=True)
class DrawnStep:
    """A step; ``word`` is map, unmap or remap, sizes and addresses are in bytes. Keys that are None are not written."""

    word: str
    iova: int
    size: int
    pa: int | None = None
    prot: str | None = None
    leaf: int | None = None
    count: int = 1
    istep: int | None = None
    pstep: int | None = None
    errno: str | None = None

    def calls(self) -> Iterator[tuple[int, int]]:
        """Yield IOVA and OA of every repetition."""
        istep = self.size if self.istep is None else self.istep
        pstep = self.size if self.pstep is None else self.pstep
        for index in range(self.count):
            yield self.iova + index * istep, (self.pa or 0) + index * pstep


def resolve(config: TableConfig, actions: Iterable[Action]) -> list[DrawnStep]:
    """Return the steps of these actions. An action that finds nothing to act on is left out."""
    table = _Table(config)
    for action in actions:
        table.act(action)
    return table.steps


class _Table:
    def __init__(self, config: TableConfig) -> None:
        self.steps: list[DrawnStep] = []
        self._config = config
        self._model = TableModel(config)
        self._sizes = tuple(sorted(config.page_sizes))
        self._page = self._sizes[0]
        self._before: tuple[int, int, int] | None = None
        self._end = 1 << config.oas

    def act(self, action: Action) -> None:
        if isinstance(action, Map):
            self._map(action)
        elif action is None or not self._runs:
            return
        elif isinstance(action, Refused):
            self._refused(action)
        else:
            self._change(action)

    @property
    def _runs(self) -> tuple[LeafRun, ...]:
        return self._model.snapshot().runs

    def _map(self, action: Map) -> None:
        fitting = [size for size in self._sizes if size * 2 <= self._end and window_of(self._config, 0, size)]
        leaf = fitting[action.size % len(fitting)]
        size = leaf * MULTIPLES[action.multiple % len(MULTIPLES)]
        uneven, gap, jump = ODD[action.odd % len(ODD)]
        if not action.forced:
            size += self._page * uneven
        room = max(end - begin for begin, end in windows(self._config))
        if not 0 < size <= min(self._end, room):
            size = leaf
        count = COUNTS[action.count % len(COUNTS)]
        unit = leaf if action.forced else self._page
        istep = size + unit * gap
        if istep * (count - 1) + size > room:
            count = 1
        iova = self._place(action, istep * (count - 1) + size, unit)
        pa, pstep = self._output(action.target, iova, size, size + unit * jump, unit, count)
        span = istep * (count - 1) + size
        if self._overlaps(iova, span):
            # repetitions that overlap a mapping are reduced to one, which may be refused
            count, span = 1, size
        step = DrawnStep("map", iova, size, pa, _prot(action.target), leaf if action.forced else None, count)
        if count > 1:
            step = replace(step, istep=istep if istep != size else None, pstep=pstep if pstep != size else None)
        if not self._affordable(step):
            return
        self._do(step)
        self._before = iova, span, pa

    def _place(self, action: Map, span: int, unit: int) -> int:
        """Return the IOVA, moved so that the whole mapping is in the aperture."""
        if action.next and self._before is not None:
            iova = self._before[0] + self._before[1]
        else:
            known = anchors(self._config)
            iova = known[action.anchor % len(known)] + SLOTS[action.slot % len(SLOTS)] * self._page
            place = PLACES[action.place % len(PLACES)]
            iova += {"ends at": -span, "over": -(span // 2), "page before": -self._page, "page after": self._page}.get(
                place, 0
            )
        window = window_of(self._config, iova, span)
        assert window is not None
        iova = max(window[0], min(iova, window[1] - span))
        return iova & -unit

    def _output(self, target: Destination, iova: int, size: int, pstep: int, unit: int, count: int) -> tuple[int, int]:
        """Return OA and its step, moved down to a multiple of ``unit`` if they exceed the output addresses."""
        kind = OUTPUTS[target.output % len(OUTPUTS)]
        span = pstep * (count - 1) + size
        if span > self._end:
            pstep, span = 0, size
        pa = self._plain(iova, kind)
        if kind == "end of output" or pa + span > self._end:
            pa = self._end - span
        return pa & -unit, pstep

    def _plain(self, iova: int, kind: str) -> int:
        if kind == "same as before" and self._before is not None:
            return self._before[2]
        pa = (iova + (1 << 31)) % self._end
        if kind == "page further":
            pa = (pa + self._page) % self._end
        return pa ^ self._end >> 1 if kind == "half of it" else pa

    def _affordable(self, step: DrawnStep) -> bool:
        """Whether the live leaves plus those of a map or remap stay within the limit."""
        left = LEAVES - sum(run.count for run in self._runs)
        if step.leaf is not None:
            return step.size // step.leaf * step.count <= left
        for iova, pa in step.calls():
            for piece in cut(iova, pa, step.size, self._sizes):
                left -= piece.count
                if left < 0:
                    return False
        return True

    def _overlaps(self, iova: int, span: int) -> bool:
        return any(run.iova < iova + span and iova <= run.last for run in self._runs)

    def _change(self, action: Unmap | Remap) -> None:
        iova, size, leaf = self._portion(action.which, PORTIONS[action.portion % len(PORTIONS)], action.leaves)
        if isinstance(action, Unmap):
            self._do(DrawnStep("unmap", iova, size, leaf=leaf if action.single and leaf else None))
            return
        kind = OUTPUTS[action.target.output % len(OUTPUTS)]
        pa = self._plain(iova, kind)
        if kind == "end of output" or pa + size > self._end:
            pa = self._end - size
        pa &= -self._page
        step = DrawnStep("remap", iova, size, pa, _prot(action.target))
        if size <= self._end and self._affordable(step):
            self._do(step)

    def _portion(self, which: int, portion: str, leaves: int) -> tuple[int, int, int]:
        """Return IOVA, size and leaf size (0: mixed) of part of one live mapping, or of several adjacent ones."""
        runs = self._runs
        at = which % len(runs)
        run = runs[at]
        if portion == "with neighbours":
            low = high = at
            while low and runs[low - 1].last + 1 == runs[low].iova:
                low -= 1
            while high + 1 < len(runs) and runs[high].last + 1 == runs[high + 1].iova:
                high += 1
            size = runs[high].last + 1 - runs[low].iova
            return runs[low].iova, size, run.leaf if low == high else 0
        number = min(1 + leaves, run.count)
        skip = {"first": 0, "last": run.count - number, "middle": (run.count - number) // 2}.get(portion, 0)
        if portion == "all":
            number = run.count
        return run.iova + skip * run.leaf, number * run.leaf, run.leaf

    def _refused(self, action: Refused) -> None:
        """Add a command that must fail; the model gives the errno."""
        runs = self._runs
        run = runs[action.which % len(runs)]
        fault = FAULTS[action.fault % len(FAULTS)]
        page = self._page
        if fault == "over":
            self._do(DrawnStep("map", run.iova, page, self._plain(run.iova, "page further"), "rw"))
        elif fault == "hole":
            if run.last + 1 < windows(self._config)[-1][1] and not self._overlaps(run.last + 1, page):
                self._do(DrawnStep("unmap", run.last + 1, page))
        elif fault == "part":
            if run.leaf > page:
                self._do(DrawnStep("unmap", run.iova, run.leaf // 2))
        elif windows(self._config)[0][1] + page < 1 << 64:
            self._do(DrawnStep("map", windows(self._config)[0][1], page, page, "rw"))

    def _do(self, step: DrawnStep) -> None:
        """Record the step with its errno, if any, and apply it to the model."""
        model = self._model
        prot = Prot.from_letters(step.prot or "")
        errno = None
        try:
            for iova, pa in step.calls():
                if step.word != "map":
                    model.unmap(iova, step.size, step.leaf)
                if step.word != "unmap":
                    model.map(iova, pa, step.size, prot, step.leaf)
        except MappingError as refused:
            if step.count > 1 or step.word == "remap":
                raise  # the drawn command is invalid, and what it would leave behind is unknown
            errno = refused.errno
        self.steps.append(replace(step, errno=errno))


def _prot(target: Destination) -> str:
    return PROTS[target.prot % len(PROTS)]
