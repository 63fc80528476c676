# SPDX-License-Identifier: GPL-2.0-only
"""What pytest loads in every project where this package is installed: options, marks, fixtures, collection.

All else is imported and registered by activate(), when there is a target, a file to write or a test of ours: a project
that does not use the plugin must not notice it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_iommu import newhooks
from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.session import again, marks, nodeids, options
from pytest_iommu.session.activation import ACTIVE, activate

if TYPE_CHECKING:
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.images import Artefacts, Machine, Progress
    from pytest_iommu.targets.registry import TargetKind

pytest_plugins = ("pytest_iommu.session.fixtures",)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Options and their ini twins."""
    options.add_options(parser)
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
    if options.listing(config):
        from pytest_iommu.session import lifecycle

        lifecycle.without_workers(config)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, check the options, and see whether they want anything of us."""
    for mark in marks.MARKS.values():
        config.addinivalue_line("markers", f"{mark.signature}: {mark.help}")
    try:
        options.check(config)
    except SetupError as error:
        raise pytest.UsageError(error.message) from error
    if options.wanted(config):
        activate(config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Scenario files, and lists of the kselftest's programs."""
    if not file_path.name.endswith((paths.SCENARIOS, paths.PROGRAMS)):
        return None
    activate(parent.config)
    from pytest_iommu.session.collect import ScenarioFile
    from pytest_iommu.session.kselftest_nodes import KselftestFile

    kind = ScenarioFile if file_path.name.endswith(paths.SCENARIOS) else KselftestFile
    return kind.from_parent(parent, path=file_path, nodeid=nodeids.of_suite(file_path))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Test files of the suite, which have the same node ids everywhere."""
    nodeid = nodeids.of_suite(module_path)
    return pytest.Module.from_parent(parent, path=module_path, nodeid=nodeid) if nodeid is not None else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check our marks, let the rules of every test travel with its report, and begin with what is quick."""
    if any(marks.ours(item) for item in items):
        activate(config)
    if config.pluginmanager.has_plugin(ACTIVE):
        from pytest_iommu.session import lifecycle

        lifecycle.check_marks(config, items)
        lifecycle.order(items)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker that ended because of a wrong mark ends the run."""
    marks.worker_ended(getattr(node, "workeroutput", {}))


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """With -n auto no more workers than there is memory for their guests."""
    cores = yield
    if options.target(config) != "qemu":
        return cores
    from pytest_iommu.session.scheduler import auto_workers

    return auto_workers(config, cores)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain an assertion about the words of model.py with addresses in hexadecimal."""
    if "pytest_iommu.core.model" not in sys.modules:
        return None
    from pytest_iommu.report.asserted import differing

    return differing(op, left, right)


def pytest_iommu_machines(config: pytest.Config) -> Sequence[Machine]:
    """Those of qemu-images/."""
    from pytest_iommu.core import machines

    return [machines.get(name) for name in machines.names()]


def pytest_iommu_dialects(config: pytest.Config) -> Sequence[Dialect]:
    """Those of dialects/."""
    from pytest_iommu.dialects import DIALECTS, LIVE_TEXTS

    return [*DIALECTS, *LIVE_TEXTS]


def pytest_iommu_targets(config: pytest.Config) -> Mapping[str, TargetKind]:
    """Those of targets/."""
    from pytest_iommu.targets.registry import BUILTIN

    return BUILTIN


@pytest.hookimpl(trylast=True)
def pytest_iommu_kernel(config: pytest.Config, machine: Machine, flavour: str, progress: Progress) -> Artefacts:
    """Built from a tree, or as given with --iommu-image."""
    from pytest_iommu import images
    from pytest_iommu.session.run import RUN

    return images.prepare(config.stash[RUN].settings, machine, flavour, progress)
