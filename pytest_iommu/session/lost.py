# SPDX-License-Identifier: GPL-2.0-only
"""A test whose guest was lost runs once more: a lost guest is not a verdict on the kernel.

The whole test is repeated, with a new guest and new fixtures: what a fixture has made in the old guest does not exist
in the new one.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from pytest_iommu.core.outcomes import GuestLost, IommuError
from pytest_iommu.report.summary import RETRIED
from pytest_iommu.session.lifecycle import key_of, needs_guest
from pytest_iommu.session.run import RUN


def set_up_again(item: pytest.Item, error: GuestLost) -> None:
    """Tear the test down and set it up on a fresh guest. Raises ``error`` for a test that was retried already."""
    if not needs_guest(item) or not getattr(item, "retried", True) or RETRIED in dict(item.user_properties):
        raise error
    item.user_properties.append((RETRIED, error.message))
    state = item.session._setupstate
    # What cleans up in the guest that is gone fails in the same way.
    with suppress(IommuError):
        state.teardown_exact(item.parent)  # type: ignore[arg-type]  # it wants what is to stay set up
    item.config.stash[RUN].pool.discard_key(key_of(item), error.message)
    if isinstance(item, pytest.Function):
        item._initrequest()
    state.setup(item)


def run_again(item: pytest.Item, error: GuestLost) -> None:
    """Set the test up on a fresh guest and run it. Raises ``error`` for a test that was retried already."""
    set_up_again(item, error)
    item.runtest()
