# SPDX-License-Identifier: GPL-2.0-only
"""The debugfs directory of a domain, where the test module does not know it: on a kernel with another dump than ours.

The dump is then found by the address of the top table, which both the module and `info` report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, MODULE, parse_domains

if TYPE_CHECKING:
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.guest.testmodule import DomainRow

NONE = "-"
UNKNOWN = "?"
"""What the module says of a directory that it does not know; after find(), that the dump was not offered the table."""
NOT_OFFERED = "the dump of this kernel is not offered software tables of io-pgtable"

_TOP = re.compile(r"^top:\s*(0x[0-9a-f]+)\s*$", re.MULTILINE)

Send = Callable[[Sequence[Op]], Sequence[Result]]


def find(send: Send, dialect: Dialect, ids: Mapping[str, str]) -> dict[str, str]:
    """Return the ids of domains, by name, with those that the module does not know looked up in the guest.

    NONE is a domain that must have a directory and has none. UNKNOWN remains of a table that no driver and no format
    offers to a dump.
    """
    unknown = [name for name, number in ids.items() if number == UNKNOWN]
    if not unknown or not dialect.files:
        return {name: NONE if number == UNKNOWN else number for name, number in ids.items()}
    folder = dialect.place.partition("{domain}")[0].rstrip("/")
    module, listed = send([ops.read_file(f"{MODULE}/domains"), ops.list_directory(f"{DEBUGFS}/{folder}")])
    rows = parse_domains(ops.text_of(module)) if module.ok else {}
    there = [name.rstrip("/") for name in ops.text_of(listed).split()] if listed.ok else []
    paths = [f"{DEBUGFS}/{dialect.place.format(domain=number, file='info')}" for number in there]
    by_top: dict[int, str] = {}
    for number, info in zip(there, send([ops.read_file(path) for path in paths]) if paths else (), strict=True):
        top = _TOP.search(ops.text_of(info)) if info.ok else None
        if top is not None:
            by_top[int(top[1], 16)] = number
    return {**ids, **{name: _number(rows.get(name), by_top) for name in unknown}}


def _number(row: DomainRow | None, by_top: Mapping[int, str]) -> str:
    found = by_top.get(row.top) if row is not None and row.top is not None else None
    return found or (UNKNOWN if row is not None and row.unoffered else NONE)
