# SPDX-License-Identifier: GPL-2.0-only
"""Tests whose guest cannot be started do not run; the reporting process gives the reason once.

A broken set-up (ssh is refused, QEMU rejects an argument, the kernel rejects the test module) is the same for every
test of a key, and is not a verdict on the kernel. The run goes on with the guests that do start, and ends when none
does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.report.no_guests import NO_GUEST
from pytest_iommu.report.watch import SETUP
from pytest_iommu.session.lifecycle import key_of, needs_guest
from pytest_iommu.session.run import RUN

if TYPE_CHECKING:
    from pytest_iommu.core.key import Key
    from pytest_iommu.core.outcomes import NoGuest, SetupError

_TOLD: pytest.StashKey[set[str]] = pytest.StashKey()
_WANTED: pytest.StashKey[set[Key]] = pytest.StashKey()


def not_run(item: pytest.Item, report: pytest.TestReport, error: NoGuest, text: Callable[[], str]) -> None:
    """Make the report that of a test that did not run, and end the run when no other test has a guest, either.

    ``text`` is the text that a failure would have; it is asked for once for a guest.
    """
    reason = f"not run: {error.message.splitlines()[0]}"
    report.outcome = "skipped"
    report.longrepr = (str(item.path), (item.reportinfo()[1] or 0) + 1, f"Skipped: {reason}")
    run = item.config.stash[RUN]
    told = item.config.stash.setdefault(_TOLD, set())
    if error.key not in told:
        told.add(error.key)
        report.__dict__[NO_GUEST] = (error.key, error.reason, text())
    if all(run.pool.broken(key) for key in _wanted(item.session)):
        end_run(item.session, error)


def end_run(session: pytest.Session, error: SetupError) -> None:
    """Run no other test: it would meet the same error."""
    session.shouldstop = f"{SETUP}{error.message.splitlines()[0]}"


def _wanted(session: pytest.Session) -> set[Key]:
    """The guests that the tests of this run are for, as far as its options allow them."""
    if _WANTED not in session.stash:
        allowed = set(session.config.stash[RUN].allowed)
        keys = {key_of(item) for item in session.items if needs_guest(item)}
        session.stash[_WANTED] = {key for key in keys if key.kernel in allowed}
    return session.stash[_WANTED]
