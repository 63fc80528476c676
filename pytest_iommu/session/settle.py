# SPDX-License-Identifier: GPL-2.0-only
"""The end of a test: its domains are freed while it is still to blame, and the guest is compared with its boot state.

A kernel may break when domains are freed, which is after the last thing that a test asks of the guest. Without this
otherwise the next test would be blamed for it, or no test at all.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.witnesses import accounting
from pytest_iommu.check.witnesses.in_ram import forget
from pytest_iommu.core.outcomes import GuestLost, KernelCrash, KernelHang
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import MODULE, command_ops, parse_status, status_text
from pytest_iommu.session.collect import ScenarioItem
from pytest_iommu.session.lifecycle import key_of, needs_guest
from pytest_iommu.session.run import RUN, Run

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Guest

TIMEOUT = 60.0
"""Seconds of host time for freeing what a test has left."""

CALLBACKS = f"{MODULE}/rcu_barrier"


class GuestLeftChanged(pytest.PytestWarning):
    """A test has left the guest other than it found it. The next test gets a fresh one."""


def end_test(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Free what the test has left, and look whether the kernel is well. KernelCrash, KernelHang, GuestLost.

    Guests are paused afterwards unless the next test needs this one at once. With workers always: pausing costs a
    millisecond, a guest that spins while its worker compares costs the other workers a core.
    """
    if not needs_guest(item):
        return
    run, key = item.config.stash[RUN], key_of(item)
    same = nextitem is not None and needs_guest(nextitem) and key_of(nextitem) == key
    try:
        guest = run.pool.unsettled(key)
        if guest is not None and run.kind.live:
            _settle(item, run, guest)
    finally:
        if not same or hasattr(item.config, "workerinput"):
            run.pool.pause()


def _settle(item: pytest.Item, run: Run, guest: Guest) -> None:
    handle = getattr(item, "funcargs", {}).get("iommu_guest")
    if isinstance(handle, GuestHandle) and not handle.alive:
        # The test has met its end, and said so or expected it.
        run.pool.discard(guest, "the test ended it")
        return
    # Tables are freed by RCU callbacks, which may find that they are broken.
    batch = [jobs.reset_jobs(), ops.close_all(), *command_ops("reset\n"), ops.read_file(CALLBACKS)]
    try:
        _, closed, *control, _ = guest.run(batch, TIMEOUT).results
        forget(guest)
        if not isinstance(item, ScenarioItem):
            accounting.forget(guest)
        changes = run.changes(guest, handle.touched) if isinstance(handle, GuestHandle) else []
    except (KernelCrash, KernelHang, GuestLost) as error:
        error.message = f"at the end of the test, its domains being freed: {error.message}"
        raise
    if closed.value > 0:
        changes.append(f"files left open in the agent: {closed.value}")
    status = parse_status(status_text(control)).get(1) if control[0].ok else None
    if status is not None and status.errno is not None:
        changes.append(f"reset of the test module: {status.errno} {status.message}")
    if changes:
        what = f"{item.nodeid} left its guest changed, which is replaced: {'; '.join(changes)}"
        run.pool.discard(guest, what)
        warnings.warn(GuestLeftChanged(what), stacklevel=1)
    elif isinstance(handle, GuestHandle) and handle.spoilt:
        run.pool.discard(guest, handle.spoilt)
