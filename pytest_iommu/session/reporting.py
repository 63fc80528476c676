# SPDX-License-Identifier: GPL-2.0-only
"""One report of a test: which outcome its exception is, the text and properties of a failure, known issues."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from subprocess import TimeoutExpired

import execnet
import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.core import known_issues
from pytest_iommu.core.outcomes import (
    CheckFailed,
    ForeignError,
    GuestLost,
    IommuError,
    KernelCrash,
    KernelHang,
    NoGuest,
    SetupError,
    SetupLost,
)
from pytest_iommu.core.process import ended
from pytest_iommu.core.rules import of_dma, of_dump, of_memory
from pytest_iommu.guest.console import Splat, scan
from pytest_iommu.report import blame, failure
from pytest_iommu.report.fingerprint import fingerprint
from pytest_iommu.report.summary import BROKEN, FINGERPRINT, KERNEL, KIND, KNOWN, NOT_RUN, RULES, SPOKEN, VERDICT
from pytest_iommu.session import again, no_guest
from pytest_iommu.session.again import near
from pytest_iommu.session.collect import GuestItem
from pytest_iommu.session.hookcalls import tell
from pytest_iommu.session.lifecycle import key_of, needs_guest
from pytest_iommu.session.marks import needs_of
from pytest_iommu.session.run import RUN, Run

STATED: pytest.StashKey[list[tuple[str, object]]] = pytest.StashKey()
"""The properties of a test that failed: kind, verdict, rules broken, fingerprint, known issue."""

UNUSABLE = (KernelCrash, KernelHang, GuestLost, ForeignError)
"""After these the state of the guest and of its channel is unknown, so the guest is discarded."""


def finish_report(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Turn an exception into the report's text, properties and artefacts; apply known issues.

    A guest that cannot be used any more is discarded here, after its evidence has been saved.
    """
    if report.when == "setup":
        item.stash[STATED] = []
    elif report.when == "teardown" and report.passed:
        # pytest's JUnit XML takes the properties of a test from its last report alone.
        stated = item.stash.setdefault(STATED, [])
        report.user_properties.extend(stated)
    elif report.when == "call" and needs_guest(item):
        _state(item, report, (KERNEL, item.config.stash[RUN].kernel_said(key_of(item))))
    if report.when != "teardown" and needs_guest(item):
        _state(item, report, (SPOKEN, item.config.stash[RUN].dialects.known_spoken(key_of(item))))
    only_judged(item, report)
    error = _error(item, call, report)
    if error is None:
        _must_fail(item, report)
        if report.when == "call" and needs_guest(item):
            _keep(item)
        return
    run = item.config.stash[RUN]
    if isinstance(error, NoGuest) and report.when != "teardown":
        _state(item, report, (KIND, NOT_RUN))
        no_guest.not_run(item, report, error, lambda: _text(item, run, error, f"no-guest-{error.key}", []))
        return
    if error.evidence is None and needs_guest(item):
        guest = run.pool.live(key_of(item))
        error.evidence = guest.evidence() if guest is not None else None
    if isinstance(error, SetupLost):
        no_guest.end_run(item.session, error)
    try:
        _describe(item, report, run, error)
    finally:
        if isinstance(error, UNUSABLE):
            _discard(item, run, error)


def worker_ended(report: pytest.TestReport) -> None:
    """xdist's report of a test whose worker ended in the middle of it.

    One that was killed is the set-up's failure; one that has exited did so by what the test has done.
    """
    gateway = getattr(getattr(report, "node", None), "gateway", None)
    if not isinstance(gateway, execnet.Gateway):
        return
    popen = getattr(gateway._io, "popen", None)
    status = None
    with suppress(TimeoutExpired):
        status = popen.wait(5) if popen is not None else None
    kind = SetupError.kind if status is None or status < 0 else ForeignError.kind
    if status is not None:
        report.longrepr = f"{report.longrepr}\nworker {gateway.id} {ended(status)}"
    report.user_properties += [(KIND, kind), (VERDICT, kind)]


def _describe(item: pytest.Item, report: pytest.TestReport, run: Run, error: IommuError) -> None:
    declared = _declared(report)
    name = fingerprint(error.evidence.splat, error.evidence.console) if error.evidence is not None else ""
    shown = _text(item, run, error, item.nodeid, declared, name)
    if isinstance(item, GuestItem):
        report.longrepr = shown
    else:
        report.sections.append(("iommu", shown))
    broken = failure.broken_rules(error, declared)
    _state(item, report, (KIND, error.kind), (VERDICT, _verdict(error)))
    _state(item, report, (BROKEN, ",".join(broken)), (FINGERPRINT, name))
    known = known_issues.met(run.settings.known, item.nodeid, error.kind, broken, name)
    if known is not None:
        _expected(item, report, known.name, known.reason)
        _state(item, report, (KNOWN, known.name))
        return
    told = _classified(item, error)
    if told is not None:
        _expected(item, report, *told)


def _text(item: pytest.Item, run: Run, error: IommuError, name: str, declared: list[str], fingerprint: str = "") -> str:
    """The text of a failure, when its artefacts have been saved under that name."""
    start = item.config.invocation_params.dir
    place = failure.Place(
        where=f"{near(item.path, start)}:{(item.reportinfo()[1] or 0) + 1}",
        rules=declared,
        again=again.line(item, run.settings),
        fingerprint=fingerprint,
        verbose=item.config.get_verbosity() > 0,
    )
    draft = {failure.TEXT: failure.text(error, place).encode()}
    folder = run.folder.save(name, draft | failure.files(error), failed=True)
    if folder is not None:
        if isinstance(error, CheckFailed) and getattr(item, "as_left", True):
            run.save_memory(key_of(item), folder, error.domains)
        names = {path.name for path in folder.iterdir()}
        place = replace(place, artefacts=near(folder, start), names=names)
    shown = failure.text(error, place)
    run.folder.save(name, {failure.TEXT: f"{shown}\n".encode()}, failed=True)
    return shown


def _keep(item: pytest.Item) -> None:
    """With --iommu-keep=all: the artefacts of a test that did not fail. The folder knows whether they are wanted."""
    run = item.config.stash[RUN]
    guest = run.pool.live(key_of(item)) if run.folder.keep == "all" else None
    if guest is None:
        return
    made = getattr(item, "funcargs", {}).get("iommu")
    files = made.artefacts() if isinstance(made, Iommu) else getattr(item, "files", {})
    run.folder.save(item.nodeid, files | failure.evidence_files(guest.evidence()), failed=False)


def _verdict(error: IommuError) -> str:
    return str(error.verdict) if isinstance(error, CheckFailed) else error.kind


def _classified(item: pytest.Item, error: IommuError) -> tuple[str, str] | None:
    """Name and reason when some plugin knows the kernel report that the test met."""
    if not isinstance(error, KernelCrash) or error.evidence is None:
        return None
    splat = scan(error.evidence.splat) or Splat("unknown", error.message, error.evidence.splat)
    known = tell(item.config, item.ihook.pytest_iommu_classify_splat, splat=splat)
    return (known.name, known.reason) if known is not None else None


def _expected(item: pytest.Item, report: pytest.TestReport, name: str, reason: str) -> None:
    report.outcome = "skipped"
    report.wasxfail = f"known issue {name}: {reason}"


def _discard(item: pytest.Item, run: Run, error: IommuError) -> None:
    handle = getattr(item, "funcargs", {}).get("iommu_guest")
    if isinstance(handle, GuestHandle):
        handle.end(error)
    elif needs_guest(item):
        run.pool.discard_key(key_of(item), error.message)


def _error(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> IommuError | None:
    """The outcome of a failed report as one of our exceptions; None for a failure that is not ours."""
    if call.excinfo is None or not report.failed:
        return None
    if isinstance(call.excinfo.value, IommuError):
        return call.excinfo.value
    declared = tuple(_declared(report))
    if not declared and not needs_guest(item):
        return None
    return blame.outcome_of(item, call.excinfo, declared if call.when == "call" else ())


def _must_fail(item: pytest.Item, report: pytest.TestReport) -> None:
    """A test that a known issue says fails, and that passed, has failed."""
    if report.when != "call" or not report.passed or hasattr(report, "wasxfail"):
        return
    entry = known_issues.gone(item.config.stash[RUN].settings.known, item.nodeid)
    if entry is not None:
        report.outcome = "failed"
        report.longrepr = entry.gone
        _state(item, report, (KIND, "unexpected-pass"), (KNOWN, entry.name))


def only_judged(item: pytest.Item, report: pytest.TestReport) -> None:
    """Leave out rules that this guest cannot break: those of a dump it lacks, of memory that cannot be read, of DMA."""
    if not needs_guest(item):
        return
    run, key = item.config.stash[RUN], key_of(item)
    dialect = run.dialects.known(key)
    # Of a test of another kernel's files, the rules are those of these.
    of_text = needs_of(item).dialect in {one.name for one in run.dialects.texts}
    no_dump = dialect is not None and not dialect.files and not of_text
    no_memory = not run.sees_memory(key)
    no_dma = run.passes_dma(key)
    if not (no_dump or no_memory or no_dma):
        return

    def kept(rule: str) -> bool:
        return not ((no_dump and of_dump(rule)) or (no_memory and of_memory(rule)) or (no_dma and of_dma(rule)))

    report.user_properties = [
        (name, ",".join(filter(kept, str(value).split(","))) if name == RULES else value)
        for name, value in report.user_properties
    ]


def _declared(report: pytest.TestReport) -> list[str]:
    return [rule for name, value in report.user_properties if name == RULES for rule in str(value).split(",")]


def _state(item: pytest.Item, report: pytest.TestReport, *properties: tuple[str, str]) -> None:
    """Put properties into a report, and keep them for the test's last one."""
    stated = [(name, value) for name, value in properties if value]
    report.user_properties += stated
    item.stash.setdefault(STATED, []).extend(stated)
