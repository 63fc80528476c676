# SPDX-License-Identifier: GPL-2.0-only
"""A second guest beside a test's own: the same machine, booted the same way, with another flavour of the kernel."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from pytest_iommu.check.handles import GuestHandle, Iommu
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS
from pytest_iommu.images import Progress
from pytest_iommu.session.run import RUN


def beside(item: pytest.Item, guest: GuestHandle, flavour: str) -> GuestHandle:
    """A guest of that flavour; the pool keeps two. Skips where the run does not have the flavour."""
    run = item.config.stash[RUN]
    key = replace(guest.key, flavour=flavour)
    if key.kernel not in run.allowed:
        pytest.skip(f"needs {key} beside {guest.key}: --iommu-flavour={flavour},{guest.key.flavour}")
    run.prepare([key.kernel], Progress(sys.stdout))
    return GuestHandle(run, key)


def without_and_with(item: pytest.Item, guest: GuestHandle) -> tuple[Iommu, Iommu]:
    """Makers of domains in this guest, whose kernel has no dump, and in one whose kernel has: what differs is its cost.

    Skips where the kernels are not that: a ready image is the same whatever flavour it is called.
    """
    other = beside(item, guest, "plain")
    for one, has in ((guest, False), (other, True)):
        if one.run([ops.stat(f"{DEBUGFS}/domains")]).results[0].ok != has:
            pytest.skip(f"the kernel of {one.key} has {'no' if has else 'a'} dump")
    made = Iommu(guest), Iommu(other)
    for iommu in made:
        iommu.reset()
    return made
