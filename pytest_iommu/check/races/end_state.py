# SPDX-License-Identifier: GPL-2.0-only
"""What a storm leaves in the table: as if its changes had been made one after the other (TAB-8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_iommu.check.witnesses.in_ram import ranges_of
from pytest_iommu.core.model import Range, TableConfig
from pytest_iommu.core.outcomes import CheckFailed, SetupError, Verdict
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE, parse_domains
from pytest_iommu.oracle.expected import merge

if TYPE_CHECKING:
    from pytest_iommu.check.races.storm_log import StormLog
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.core.protocol import Op, Reply
    from pytest_iommu.oracle import TableModel

SHOWN = 4
_OWN = ("ENOMEM", "EINTR")
"""How a storm may end early without a fault of the page table."""


def final_states(log: StormLog) -> dict[int, int]:
    """Return the last state of every cell that was changed."""
    return {one.cell: one.state for one in log.done}


def apply(log: StormLog, model: TableModel) -> None:
    """Make the changes of a storm in a model, one after the other."""
    states: dict[int, int] = {}
    for one in log.done:
        place, before = log.place(one.cell), states.get(one.cell, 0)
        if one.state == 0:
            model.unmap(place, log.states[before - 1].size)
        else:
            shape = log.states[one.state - 1]
            model.map(place, shape.pa + one.cell * log.cell, shape.size, shape.prot)
        states[one.cell] = one.state


def ended_early(log: StormLog) -> CheckFailed:
    """Return the failure of a storm that a call of the kernel ended. SetupError if the kernel is not to blame."""
    name = ops.errno_name(-log.error)
    if name in _OWN or not log.done:
        raise SetupError(f"the storm over {log.name} ended with {name}")
    last = log.done[-1]
    what = f"map or unmap of a cell fails with {name} while other threads change other cells; the last change is "
    what += f"cell {last.cell} to state {last.state}"
    return CheckFailed(what, ("TAB-8",), verdict=Verdict.MAPPING, because="disjoint changes do not fail")


def judge_end(
    log: StormLog, config: TableConfig, sentinels: Sequence[Range], memory: Sequence[Range]
) -> list[CheckFailed]:
    """Compare the lines of the table in memory with the last state of every cell, and the mappings beside them."""
    rows = [row for cell, state in final_states(log).items() for row in log.ranges(config, cell, state)]
    wanted = merge(sorted((*sentinels, *rows), key=lambda row: row.first))
    missing = [row for row in wanted if row not in set(memory)]
    extra = [row for row in memory if row not in set(wanted)]
    if not missing and not extra:
        return []
    text = [f"after the storm over {log.name} its table in memory is not what the changes leave"]
    for title, found in (("expected", missing), ("in RAM  ", extra)):
        text += [f"  {title}  {render_range(row)}" for row in found[:SHOWN]]
        text += [f"  {title}  ... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    because = "memory is not what the changes leave"
    return [CheckFailed("\n".join(text), ("TAB-8",), verdict=Verdict.MAPPING, because=because, domains=(log.name,))]


def in_memory(
    send: Callable[[Sequence[Op]], Reply], witness: InRam | None, name: str, config: TableConfig
) -> Callable[[], Sequence[Range] | None]:
    """Return a function that finds the lines of a domain's table in memory; it returns None if that is not possible."""

    def find() -> Sequence[Range] | None:
        (listed,) = send([ops.read_file(f"{MODULE}/domains")]).results
        row = parse_domains(ops.text_of(listed)).get(name) if listed.ok else None
        texts = witness.texts(config, row) if witness is not None and row is not None else None
        return None if texts is None else ranges_of(texts)

    return find
