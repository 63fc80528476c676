# SPDX-License-Identifier: GPL-2.0-only
"""The pytest hooks, and nothing else: options, collection, preparation on the controller, reports, the summary."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_iommu import again, lifecycle, marks, newhooks, nodeids, reporting, settings, settle
from pytest_iommu.collect import SUFFIX, ScenarioFile
from pytest_iommu.kselftest import nodes
from pytest_iommu.outcomes import GuestLost
from pytest_iommu.run import RUN
from pytest_iommu.targets.registry import BUILTIN, TargetKind

if TYPE_CHECKING:
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.images import Artefacts, Machine, Progress

pytest_plugins = ("pytest_iommu.fixtures",)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Options and their ini twins."""
    settings.add_options(parser)
    again.remember(parser, pluginmanager)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """The hooks of newhooks.py."""
    pluginmanager.add_hookspecs(newhooks)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> Generator[None]:
    """Take node ids of the suite as arguments, in whatever directory they are pasted."""
    nodeids.take_pasted(early_config, args)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A listing needs no workers."""
    lifecycle.without_workers(config)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, or take them over from the controller."""
    for mark in marks.MARKS.values():
        config.addinivalue_line("markers", f"{mark.signature}: {mark.help}")
    lifecycle.configure(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the guests of this process, however the run ended."""
    if RUN in config.stash:
        config.stash[RUN].close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Target, machine, flavour; and the kernel where it is known by now."""
    return lifecycle.header(config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Scenario files, and lists of the kselftest's programs."""
    if file_path.name.endswith(SUFFIX):
        return ScenarioFile.from_parent(parent, path=file_path, nodeid=nodeids.of_suite(file_path))
    if file_path.name.endswith(nodes.SUFFIX):
        return nodes.KselftestFile.from_parent(parent, path=file_path, nodeid=nodeids.of_suite(file_path))
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Test files of the suite, which have the same node ids everywhere."""
    nodeid = nodeids.of_suite(module_path)
    return pytest.Module.from_parent(parent, path=module_path, nodeid=nodeid) if nodeid is not None else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check our marks, and let the rules of every test travel with its report."""
    marks.check(items, config.stash[RUN])
    lifecycle.note_rules(items)


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
    node.workerinput[lifecycle.HANDOVER] = node.config.stash[RUN].handover()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: pytest.TestReport) -> None:
    """Say how a worker of xdist ended: that says nothing of the kernel."""
    reporting.worker_ended(report)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker that ended because of a wrong mark ends the run."""
    marks.worker_ended(getattr(node, "workeroutput", {}))


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """With -n auto no more workers than there is memory for their guests."""
    from pytest_iommu.scheduler import auto_workers

    return auto_workers(config, (yield))


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
        from pytest_iommu import lost

        lost.set_up_again(item, error)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Run a test once more, from its set-up on, when its guest was lost."""
    try:
        return (yield)
    except GuestLost as error:
        from pytest_iommu import lost

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


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain an assertion about the words of model.py with addresses in hexadecimal."""
    if "pytest_iommu.model" not in sys.modules:
        return None
    from pytest_iommu.report.asserted import differing

    return differing(op, left, right)


def pytest_iommu_machines(config: pytest.Config) -> Sequence[Machine]:
    """Those of qemu-images/."""
    from pytest_iommu.images import machines

    return [machines.get(name) for name in machines.names()]


def pytest_iommu_dialects(config: pytest.Config) -> Sequence[Dialect]:
    """Those of dialects/."""
    from pytest_iommu.dialects import DIALECTS

    return list(DIALECTS)


def pytest_iommu_targets(config: pytest.Config) -> Mapping[str, TargetKind]:
    """Those of targets/."""
    return BUILTIN


@pytest.hookimpl(trylast=True)
def pytest_iommu_kernel(config: pytest.Config, machine: Machine, flavour: str, progress: Progress) -> Artefacts:
    """Built from a tree, or as given with --iommu-image."""
    from pytest_iommu import images

    return images.prepare(config.stash[RUN].settings, machine, flavour, progress)
