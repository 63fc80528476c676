# SPDX-License-Identifier: GPL-2.0-only
"""What plugin.py's hooks do, in the order of a run: configure, prepare kernels, run, report."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_iommu import formats
from pytest_iommu.check.witnesses import in_ram
from pytest_iommu.core import boot_modes, flavours
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import EXIT_SETUP, SetupError
from pytest_iommu.core.settings import RELEASE_SEED
from pytest_iommu.core.signals import Signals, Terminated
from pytest_iommu.report.failure_folder import run_folder
from pytest_iommu.report.summary import GUEST, RULES
from pytest_iommu.report.terminal import Reporter
from pytest_iommu.report.watch import HANDED_BACK, Watch, known_of
from pytest_iommu.session import marks, options
from pytest_iommu.session.collect import GuestItem
from pytest_iommu.session.hookcalls import KeptErrors
from pytest_iommu.session.kselftest_nodes import KselftestItem
from pytest_iommu.session.run import RUN, Run, uncaptured

if TYPE_CHECKING:
    from pytest_iommu.session.scheduler import GuestScheduling


def without_workers(config: pytest.Config) -> None:
    """Undo -n for a listing; xdist's own hook has run already, or runs next."""
    if options.listing(config) and hasattr(config.option, "numprocesses"):
        config.option.numprocesses = 0
        config.option.dist = "no"
        config.option.tx = []


def configure(config: pytest.Config) -> None:
    """Make this process's Run. A wrong option ends pytest as a usage error."""
    _register(config)
    config.pluginmanager.register(KeptErrors(), "iommu-hook-errors")
    worker = getattr(config, "workerinput", None)
    if worker is not None and options.HANDOVER in worker:
        config.stash[RUN] = Run.taken_over(config, worker[options.HANDOVER])
        # Ctrl-C is the controller's to handle.
        _handle(config, Signals(lambda error: None), ctrl_c=False)
        return
    try:
        run = _made(config)
        if run.settings.target is not None:
            run.check_names()
            assert run.kind
    except SetupError as error:
        raise pytest.UsageError(error.message) from error
    if worker is not None:
        return
    watch = Watch()
    config.pluginmanager.register(watch, "iommu-watch")
    signals = Signals(watch.signalled)
    _handle(config, signals, ctrl_c=not config.getoption("usepdb"))
    config.pluginmanager.register(Reporter(run.settings, run.kernels, watch, signals), "iommu-reporter")


def run_of(config: pytest.Config) -> Run:
    """The Run of a command that is no session. SetupError on a wrong option."""
    _register(config)
    options.check_keys(config)
    run = _made(config)
    run.check_names()
    return run


def _made(config: pytest.Config) -> Run:
    run = config.stash[RUN] = Run(config, options.load(config, run_folder(config.rootpath)))
    return run


def _register(config: pytest.Config) -> None:
    """Make known what other plugins bring."""
    hook = config.hook
    for found in hook.pytest_iommu_formats(config=config):
        for one in found:
            formats.register(one)
    for modes in hook.pytest_iommu_boot_modes(config=config):
        boot_modes.register(modes)
    for fragments in hook.pytest_iommu_flavours(config=config):
        flavours.register(fragments)
    if hook.pytest_iommu_witness.get_hookimpls():
        forget = in_ram.register(
            lambda guest, machine: hook.pytest_iommu_witness(config=config, guest=guest, machine=machine)
        )
        config.add_cleanup(forget)


def _handle(config: pytest.Config, signals: Signals, ctrl_c: bool) -> None:
    signals.install(ctrl_c)
    config.add_cleanup(signals.restore)


def header(config: pytest.Config) -> list[str]:
    """Lines of pytest's header."""
    settings = config.stash[RUN].settings
    if settings.target is None:
        return []
    what = f"iommu: target {settings.target}, machine {','.join(settings.machines)}"
    lines = [f"{what}, flavour {','.join(settings.flavours)}", *kernel_lines(config.stash[RUN])]
    if note := config.stash[RUN].kind.note:
        lines.append(f"iommu: {note}")
    if ignored := config.stash[RUN].ignored:
        lines.append(f"iommu: no effect here: {', '.join(ignored)}")
    if settings.seed != RELEASE_SEED:
        lines.append(f"iommu: --iommu-seed={settings.seed}")
    return lines


def kernel_lines(run: Run) -> list[str]:
    """What is tested: kernel and QEMU of every prepared guest."""
    lines = []
    for key, kernel in run.kernels.items():
        lines.append(f"iommu: {key}: {kernel.describe()}")
        if told := run.dialects.configured(key):
            lines.append(f"iommu: {key}: dialects by its configuration: {told}")
    return lines


def check_marks(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Refuse wrong marks; note what the others say of the tests, where it travels with the reports."""
    marks.check(items, config.stash[RUN])
    note_rules(items)


def order(items: list[pytest.Item]) -> None:
    """Leave the kselftest's programs for later: one of them runs for seconds before its first case has a verdict."""
    items.sort(key=lambda item: isinstance(item, KselftestItem))


def note_rules(items: Iterable[pytest.Item]) -> None:
    """Put the rules that a test is about, and the guest it runs on, into its properties."""
    for item in items:
        rules = [str(rule) for mark in item.iter_markers("iommu_rules") for rule in mark.args]
        if rules:
            item.user_properties.append((RULES, ",".join(dict.fromkeys(rules))))
        if needs_guest(item):
            item.user_properties.append((GUEST, str(key_of(item))))
        _hold_machine(item)


def _hold_machine(item: pytest.Item) -> None:
    """A test in Python that names its machine means the one of qemu-images/: on another it is skipped."""
    run = item.config.stash[RUN]
    if run.settings.target is None or run.kind.emulated or item.get_closest_marker("iommu_needs") is None:
        return
    machine = marks.needs_of(item).machine
    if machine is not None:
        which = "a machine" if machine == marks.EMULATED else f"machine {machine}"
        item.add_marker(pytest.mark.skip(reason=f"needs {which} under QEMU, this one is not emulated"))


def _workers(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("dsession")


def prepare_before_workers(session: pytest.Session) -> None:
    """The controller of workers collects nothing: it prepares whatever the settings allow."""
    config = session.config
    run = config.stash[RUN]
    if run.settings.target is not None and _workers(config) and not config.option.collectonly:
        _prepare(run, run.allowed, selftest=True)


def before_tests(session: pytest.Session) -> bool | None:
    """True when --iommu-list was given: no test runs."""
    config = session.config
    run = config.stash[RUN]
    if options.listing(config):
        _list(session)
        return True
    if run.settings.target is None or _workers(config) or config.option.collectonly or hasattr(config, "workerinput"):
        return None
    wanted = {key_of(item).kernel for item in session.items if needs_guest(item)}
    if wanted and not (session.testsfailed and not config.option.continue_on_collection_errors):
        selftest = any(isinstance(item, KselftestItem) for item in session.items)
        _prepare(run, [key for key in run.allowed if key in wanted], show=True, selftest=selftest)
    return None


def needs_guest(item: pytest.Item) -> bool:
    """Whether a test runs on a guest."""
    return isinstance(item, GuestItem) or "iommu_guest" in getattr(item, "fixturenames", ())


def key_of(item: pytest.Item) -> Key:
    """The guest a test runs on."""
    if isinstance(item, GuestItem):
        return item.key()
    run = item.config.stash[RUN]
    settings, needs = run.settings, marks.needs_of(item)
    machine = settings.machine if needs.machine is None else needs.machine
    if machine == marks.EMULATED:
        wanted = set(needs.devices)
        having = (name for name in settings.machines if wanted <= {one.name for one in run.machine(name).devices})
        machine = next(having, settings.machine)
    return Key(machine, marks.flavour_of(item) or settings.flavour, marks.boot_mode_of(item))


def _prepare(run: Run, keys: Iterable[Key], show: bool = False, selftest: bool = False) -> None:
    """Have ready what the tests need: the kernels, the user watching, and the directory of a recording.

    ``selftest``: the programs of the kselftest, too. A set-up that is broken ends the run with its own exit status.
    """
    with uncaptured(run.config):
        try:
            if run.kind.needs_kernel:
                from pytest_iommu.images import Progress

                run.prepare(keys, Progress(sys.stdout))
                if selftest:
                    run.prepare_selftest(Progress(sys.stdout))
            run.begin_recording()
        except SetupError as error:
            print(f"\nsetup-error: {error.message}", file=sys.stderr)
            pytest.exit(f"setup-error: {error.message.splitlines()[0]}", returncode=EXIT_SETUP)
        except Terminated as error:
            # pytest calls no hook for the exit status before the session has begun.
            pytest.exit(str(error), returncode=128 + error.number)
        if show and run.kernels:
            print("\n".join(kernel_lines(run)), flush=True)


def _list(session: pytest.Session) -> None:
    from pytest_iommu.core import rules
    from pytest_iommu.report.listing import lines

    with uncaptured(session.config):
        print("\n".join(["", *lines(session.items, rules.RULES)]), flush=True)


def scheduler(config: pytest.Config, log: Any) -> GuestScheduling | None:
    """Our scheduler, when there are guests and -n alone chose the distribution."""
    if config.stash[RUN].settings.target is None or config.getoption("dist") != "load":
        return None
    from pytest_iommu.session.scheduler import GuestScheduling

    return GuestScheduling(config, log)


def hand_back(session: pytest.Session) -> None:
    """Tell the controller what this worker knows of the tests, when some of them will not run."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and (session.shouldfail or session.shouldstop):
        output[HANDED_BACK] = known_of(session.items)
