# SPDX-License-Identifier: GPL-2.0-only
"""Addresses of functions in a guest's kernel, from its /proc/kallsyms; read once a guest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from pytest_iommu.guest import ops
from pytest_iommu.targets.protocol import Memory, Op, Reply

_KNOWN: WeakKeyDictionary[Memory, bytes] = WeakKeyDictionary()


def address(run: Callable[[Sequence[Op]], Reply], memory: Memory, name: str) -> int | None:
    """Where a function is; None where the kernel has none of that name, or does not tell.

    ``memory`` is that of the guest, which ``run`` runs batches on: what is known is known as long as that lives.
    """
    if memory not in _KNOWN:
        (result,) = run([ops.read_file("/proc/kallsyms")]).results
        _KNOWN[memory] = result.data
    match = re.search(rb"(?m)^([0-9a-f]{16}) [tT] %s$" % re.escape(name.encode()), _KNOWN[memory])
    return int(match[1], 16) or None if match is not None else None
