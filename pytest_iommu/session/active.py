# SPDX-License-Identifier: GPL-2.0-only
"""The hooks of a run that has to do with guests. plugin.py registers them when it sees that a run has.

What they need takes a tenth of a second to import, which a project that does not use the plugin should not pay.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_iommu.core.outcomes import GuestLost
from pytest_iommu.session import lifecycle, options, reporting, settle
from pytest_iommu.session.run import RUN


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the guests of this process, however the run ended."""
    config.stash[RUN].close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Target, machine, flavour; and the kernel where it is known by now."""
    return lifecycle.header(config)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """With workers: have the kernels ready before they start."""
    lifecycle.prepare_before_workers(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """List, or have the kernels ready that the collected tests need."""
    return lifecycle.before_tests(session)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of a worker: what the controller has to know of tests that did not run."""
    lifecycle.hand_back(session)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the settings and the kernels over to a worker."""
    node.workerinput[options.HANDOVER] = node.config.stash[RUN].handover()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: pytest.TestReport) -> None:
    """Report how a worker of xdist ended. Its end is not a verdict on the kernel."""
    reporting.worker_ended(report)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute by guest and shard, unless another --dist was asked for."""
    return lifecycle.scheduler(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Set a test up once more when its guest was lost meanwhile."""
    try:
        return (yield)
    except GuestLost as error:
        from pytest_iommu.session import lost

        lost.set_up_again(item, error)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Run a test once more, from its set-up on, when its guest was lost."""
    try:
        return (yield)
    except GuestLost as error:
        from pytest_iommu.session import lost

        lost.run_again(item, error)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Free what the test has left in its guest, and look whether the kernel is well."""
    try:
        return (yield)
    finally:
        settle.end_test(item, nextitem)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The text, properties and artefacts of a failure."""
    report = yield
    reporting.finish_report(item, call, report)
    return report
