# SPDX-License-Identifier: GPL-2.0-only
"""Scenario files as pytest nodes: file -> suite -> one item per variant, selectable by their ids and by --lf.

The suite has to be a real Collector: ``ranges::case[...]`` as the name of one item cannot be selected. The node id of
an item is passed explicitly: with pytest 9.2 one computed from a name with brackets never equals the one --lf reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_iommu.core.boot_modes import FUNCTIONAL
from pytest_iommu.core.key import Key
from pytest_iommu.session.hookcalls import listener
from pytest_iommu.session.run import RUN

if TYPE_CHECKING:
    from pytest_iommu.scenario import Instance, Suite


def guest_of(nodeid: str) -> str:
    """The part of a scenario's node id that names its guest: machine, and flavour where it asks for one."""
    variant = nodeid.partition("[")[2].rstrip("]")
    machine, _, flavour = variant.partition("@")
    return f"{machine.partition('-')[0]}@{flavour}" if flavour else machine.partition("-")[0]


class ScenarioFile(pytest.File):
    """One ``*.iommu.yaml``."""

    def collect(self) -> Iterator[pytest.Collector]:
        """The file's one suite. A mistake in the file is a collection error that says file and line.

        A scenario that contradicts the model fails when it runs; where nothing runs, it is a mistake here.
        """
        from pytest_iommu.scenario import ScenarioError, contradictions, load

        # Scenarios may name machines that another plugin brings.
        _ = self.config.stash[RUN].machines
        try:
            suite = load(Path(self.path))
        except ScenarioError as error:
            raise self.CollectError(str(error)) from error
        dialects = [dialect.name for dialect in self.config.stash[RUN].dialects.dumps]
        for case in suite.cases:
            if case.needs.dialect not in (None, *dialects):
                problem = f"unknown dialect {case.needs.dialect!r}; known: {', '.join(dialects)}"
                raise self.CollectError(f"{case.path}:{case.line}: {problem}")
        wrong = contradictions(suite) if self.config.option.collectonly else []
        if wrong:
            raise self.CollectError("\n".join(wrong))
        yield SuiteNode.from_parent(self, name=suite.name, suite=suite)


class SuiteNode(pytest.Collector):
    """The suite of a file."""

    def __init__(self, *, suite: Suite, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.suite = suite

    def collect(self) -> Iterator[pytest.Item]:
        """An item for every variant of every case, in the file's order; then those of the run's other IOMMUs."""
        for instance in [*self.suite.instances, *self._elsewhere()]:
            name = instance.id if instance.kernel == "plain" else f"{instance.id.removesuffix(']')}@{instance.kernel}]"
            yield ScenarioItem.from_parent(self, name=name, nodeid=f"{self.nodeid}::{name}", instance=instance)

    def _elsewhere(self) -> Iterator[Instance]:
        """What the run's machines with other IOMMUs than the default machine's can do of each case."""
        from pytest_iommu.scenario.variants import DEFAULT_MACHINE, elsewhere

        run = self.config.stash[RUN]
        usual = run.machine(DEFAULT_MACHINE).iommu_type
        for name in run.settings.machines:
            if run.machine(name).iommu_type != usual:
                for case in self.suite.cases:
                    yield from elsewhere(case, name)


class GuestItem(pytest.Item):
    """A test that is no Python function and runs on a guest; its failures are shown as our text alone."""

    #: whether the guest is still as the test left it when its failure is reported
    as_left = True
    #: whether it is run once more when its guest was lost
    retried = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: what it read and wrote when it passed, by file name, for the artefact folder
        self.files: dict[str, bytes] = {}

    @abstractmethod
    def key(self) -> Key:
        """The guest it runs on."""


class ScenarioItem(GuestItem):
    """One variant of one case."""

    def __init__(self, *, instance: Instance, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.instance = instance
        self.add_marker(pytest.mark.iommu_rules(*instance.rules))
        if instance.boot_mode != FUNCTIONAL:
            self.add_marker(pytest.mark.iommu_boot_mode(instance.boot_mode))
        self.extra_keyword_matches.update(instance.rules)

    def setup(self) -> None:
        """Skip, with the reason, what cannot be checked here."""
        reason = self.config.stash[RUN].why_not(self.instance)
        if reason:
            pytest.skip(reason)

    def key(self) -> Key:
        """The guest it runs on."""
        return self.config.stash[RUN].key(self.instance)

    def runtest(self) -> None:
        """Run it on a guest; raises the exceptions of pytest_iommu.core.outcomes."""
        from pytest_iommu.check.runner import Scenario
        from pytest_iommu.check.witnesses.accounting import page_of
        from pytest_iommu.session.settle import end_test

        run = self.config.stash[RUN]
        for number in range(self.instance.guests):
            if number:
                # What was made in this guest is freed while it is watched, as at the end of a test.
                end_test(self, self)
            guest = run.pool.take(self.key(), fresh=self.instance.fresh)
            dialect, machine = run.dialect(self.key(), guest), run.machine(self.key().machine)
            accounted = page_of(self.key().flavour, run.sizes(self.key()))
            scenario = Scenario(self.instance, guest, machine, dialect, listener(self), accounted)
            scenario.execute()
            self.files |= scenario.artefacts()

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """File, 0-based line, and the name in headlines."""
        parent = self.parent.name if self.parent is not None else ""
        return self.path, self.instance.line - 1, f"{parent}::{self.name}"
