# SPDX-License-Identifier: GPL-2.0-only
"""The kselftest as pytest nodes: file -> program -> one item a line of its KTAP.

A program is run once, by the first of its items that was selected, with these tests alone; the others have their result
from that run. Which items there are is known without a guest: all workers collect the same, and what the program prints
beyond that, or does not print, fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.outcomes import Skipped

from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.guest.capabilities import capabilities
from pytest_iommu.report.summary import KIND, NOT_RUN, RETRIED
from pytest_iommu.session.collect import GuestItem
from pytest_iommu.session.run import NO_TARGET, RUN

if TYPE_CHECKING:
    from pytest_iommu.check.kselftest.built import Selftest
    from pytest_iommu.check.kselftest.programs import Program, Tests
    from pytest_iommu.check.kselftest.verdict import Ran, Verdict
    from pytest_iommu.core.protocol import Guest

DIALECT = "io_ptdump"
"""What the kselftest is written for."""


class KselftestFile(pytest.File):
    """One ``*.iommu-ksft``: names of programs, a line each; ``#`` begins a comment."""

    def collect(self) -> Iterator[pytest.Collector]:
        """A node a program. A line that names none is a collection error."""
        from pytest_iommu.check.kselftest import programs

        for number, line in enumerate(Path(self.path).read_text(encoding="utf-8").splitlines(), 1):
            name = line.partition("#")[0].strip()
            if not name:
                continue
            try:
                program = programs.get(name)
            except SetupError as error:
                raise self.CollectError(f"{self.path}:{number}: {error.message}") from error
            yield ProgramNode.from_parent(self, name=name, program=program, line=number)


class ProgramNode(pytest.Collector):
    """A program, and the one run of it."""

    def __init__(self, *, program: Program, line: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.program = program
        self.line = line
        self._verdicts: dict[str, Verdict] = {}
        self._failure: BaseException | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each of its tests."""
        from pytest_iommu.check.kselftest import programs

        # Cases may name machines that another plugin brings.
        _ = self.config.stash[RUN].machines
        try:
            tests = programs.tests_of(self.program)
        except SetupError as error:
            raise self.CollectError(error.message) from error
        for name, rules in tests.items():
            yield KselftestItem.from_parent(self, name=name, nodeid=f"{self.nodeid}::{name}", rules=rules, node=self)

    def key(self) -> Key:
        """The guest it runs on: the run's default one."""
        settings = self.config.stash[RUN].settings
        return Key(settings.machine, settings.flavour)

    def why_not(self) -> str | None:
        """Why it cannot be run here, or None."""
        run = self.config.stash[RUN]
        if run.settings.target is None:
            return NO_TARGET
        if not run.kind.programs:
            return f"needs a guest that runs programs: {run.settings.target} has none"
        # Of a machine that is not ours it takes a connection to know what it is.
        return self._lacks(run.selftest(run.machine(self.key().machine))) if run.kind.emulated else None

    def _lacks(self, selftest: Selftest) -> str | None:
        return selftest.lacks or (selftest.no_shell if self.program.shell else "") or None

    def verdict(self, item: KselftestItem) -> Verdict:
        """What became of one of its tests; runs the program if it has not been. Whatever prevents that is raised."""
        if not self._verdicts and self._failure is None:
            try:
                self._verdicts = self._run(item)
            except (IommuError, Skipped) as error:
                self._failure = error
        if self._failure is not None:
            raise self._failure
        return self._verdicts[item.name]

    def _run(self, item: KselftestItem) -> dict[str, Verdict]:
        from pytest_iommu.check.kselftest.verdict import judge

        chosen: Tests = {
            one.name: one.rules for one in item.session.items if isinstance(one, KselftestItem) and one.node is self
        }
        ran = self._on_guest(list(chosen))
        if isinstance(ran.error, GuestLost):
            # A lost guest is not a verdict on the kernel: run it once more, on a fresh guest.
            item.user_properties.append((RETRIED, ran.error.message.partition("\n")[0]))
            ran = self._on_guest(list(chosen))
        return judge(self.name, chosen, ran)

    def _selftest(self, guest: Guest) -> Selftest:
        """The programs for a guest. Skips where there are none."""
        from pytest_iommu.targets.running import with_arch

        run = self.config.stash[RUN]
        machine = run.machine(self.key().machine)
        if not run.kind.emulated:
            hello = capabilities(guest).hello
            machine = with_arch(machine, hello.get("machine", machine.arch))
        found = run.selftest(machine)
        reason = self._lacks(found)
        if reason:
            pytest.skip(reason)
        return found

    def _on_guest(self, chosen: list[str]) -> Ran:
        from pytest_iommu.check.kselftest import execution
        from pytest_iommu.check.kselftest.verdict import Ran

        run = self.config.stash[RUN]
        guest = run.pool.take(self.key())
        try:
            dialect = run.dialect(self.key(), guest)
            if dialect.name != DIALECT:
                pytest.skip(f"needs dialect {DIALECT}, this kernel speaks {dialect.name}")
            ran = execution.run(guest, self._selftest(guest), self.program, chosen)
        except (KernelCrash, KernelHang, GuestLost) as error:
            ran = Ran("", error=error)
        if ran.error is not None:
            run.pool.discard(guest, ran.error.message)
        elif ran.status is not None and (ran.status < 0 or ran.status > 128):
            # It was killed before it could clean up.
            run.pool.discard(guest, f"{self.name} was killed")
        return ran


class KselftestItem(GuestItem):
    """One test of a program."""

    #: the guest is not as the test left it: the tests behind it have run on it, too
    as_left = False
    #: the program has had its second guest, see ProgramNode
    retried = False

    def __init__(self, *, rules: tuple[str, ...], node: ProgramNode, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rules = rules
        self.node = node
        if rules:
            self.add_marker(pytest.mark.iommu_rules(*rules))
        self.extra_keyword_matches.update(rules)

    def key(self) -> Key:
        """The guest it runs on."""
        return self.node.key()

    def setup(self) -> None:
        """Skip, with the reason, what cannot be run here."""
        reason = self.node.why_not()
        if reason:
            pytest.skip(reason)

    def runtest(self) -> None:
        """Tell what became of it; raises the exceptions of pytest_iommu.core.outcomes."""
        verdict = self.node.verdict(self)
        if verdict.outcome == "skipped":
            pytest.skip(verdict.reason)
        if verdict.outcome == "xfailed":
            pytest.xfail(verdict.reason)
        if verdict.outcome == "not-run":
            self.user_properties.append((KIND, NOT_RUN))
            pytest.skip(verdict.reason)
        if verdict.error is not None:
            raise verdict.error

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """File, 0-based line of the program in it, and the name in headlines."""
        return self.path, self.node.line - 1, f"{self.node.name}::{self.name}"
