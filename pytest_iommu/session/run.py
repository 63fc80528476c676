# SPDX-License-Identifier: GPL-2.0-only
"""What one pytest process needs to run tests on guests: settings, machines, kernels, the pool, the artefact folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.core import flavours
from pytest_iommu.core.flavours import Sizes
from pytest_iommu.core.key import Key
from pytest_iommu.core.limits import available_memory
from pytest_iommu.core.outcomes import IommuError, SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.dialects.text_dialect import TextDialect
from pytest_iommu.guest.capabilities import capabilities
from pytest_iommu.guest.state import BootState, Touched
from pytest_iommu.report.failure_folder import Folder, give_up
from pytest_iommu.session import handover
from pytest_iommu.session.hookcalls import of_plugin, tell
from pytest_iommu.session.kernel_dialects import Dialects
from pytest_iommu.session.pool import MOST, Pool
from pytest_iommu.targets.registry import BUILD_OPTIONS, TargetKind

if TYPE_CHECKING:
    from pytest_iommu.check.kselftest.built import Selftest
    from pytest_iommu.core.protocol import Guest, Target
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.images import Artefacts, Machine, Progress
    from pytest_iommu.scenario import Instance
    from pytest_iommu.targets.recording import Recorder

RUN: pytest.StashKey[Run] = pytest.StashKey()

NO_TARGET = "no --iommu-target given: nothing to run on (try --iommu-target=qemu)"


class Run:
    """One process's part of a run: the controller prepares kernels, every worker has its own guests."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.folder = Folder(settings.folder, settings.keep)
        self.kernels: dict[Key, Artefacts] = {}
        self.selftests: dict[str, Selftest | SetupError] = {}
        self.pool = Pool(self._start, self._started, self._lost, self._room)
        self._recorder: Recorder | None = None
        self._targets: dict[Key, Target] = {}
        self.dialects = Dialects(self)
        self._states: dict[Guest, BootState] = {}
        self._sighted: dict[Key, bool] = {}
        self._passing: dict[Key, bool] = {}

    @property
    def worker(self) -> str:
        """The xdist worker's name, or ``main``."""
        # Not from the environment: a pytest that a test of a worker starts inherits that.
        given: dict[str, str] = getattr(self.config, "workerinput", {})
        return given.get("workerid", "main")

    @cached_property
    def machines(self) -> dict[str, Machine]:
        """All machines there are, by name."""
        from pytest_iommu.scenario import variants

        found = self.config.hook.pytest_iommu_machines(config=self.config)
        known = {machine.name: machine for machines in reversed(found) for machine in machines}
        for machine in known.values():
            variants.register(machine)
        return known

    @cached_property
    def kind(self) -> TargetKind:
        """The chosen kind of target. SetupError for an unknown name."""
        kinds: dict[str, TargetKind] = {}
        for found in reversed(self.config.hook.pytest_iommu_targets(config=self.config)):
            kinds.update(found)
        name = self.settings.target
        if name not in kinds:
            raise SetupError(f"no target {name!r}; there are: {', '.join(sorted(kinds))}")
        argument = self.settings.target_argument
        if argument and not kinds[name].takes_argument:
            raise SetupError(f"--iommu-target={name}:{argument}: {name} takes no argument")
        return kinds[name]

    @property
    def ignored(self) -> list[str]:
        """The options of the command line that have no effect with this target, or with a ready image."""
        given = dict.fromkeys(word.partition("=")[0].removeprefix("--iommu-") for word in self.settings.given)
        unused = {*self.kind.ignores, *(BUILD_OPTIONS if self.settings.image is not None else ())}
        return [f"--iommu-{name}" for name in given if name in unused]

    def machine(self, name: str) -> Machine:
        """The machine of that name. SetupError for an unknown name."""
        try:
            return self.machines[name]
        except KeyError:
            raise SetupError(f"no machine {name!r}; there are: {', '.join(sorted(self.machines))}") from None

    def check_names(self) -> None:
        """SetupError for a machine of --iommu-machine that there is not, or not on this target, and for a dialect of
        --iommu-dialect that there is not.
        """
        arch = self.kind.arch if self.settings.target is not None else ""
        for name in self.settings.machines:
            machine = self.machine(name)
            if arch not in ("", machine.arch):
                able = ", ".join(one.name for one in self.machines.values() if one.arch == arch)
                what = f"--iommu-target={self.settings.target} has {arch} machines: {able}"
                raise SetupError(f"--iommu-machine={name} is an {machine.arch} machine; {what}")
        self.dialects.check_names()

    @property
    def allowed(self) -> list[Key]:
        """Every guest that this run's settings allow, the default one first."""
        return [Key(machine, flavour) for machine in self.settings.machines for flavour in self.settings.flavours]

    def prepare(self, keys: Iterable[Key], progress: Progress) -> None:
        """Have the kernels of these guests ready; on the controller, before workers start."""
        if not self.kind.needs_kernel:
            return
        for key in keys:
            if key not in self.kernels:
                machine = self.machine(key.machine)
                self.kernels[key] = self.config.hook.pytest_iommu_kernel(
                    config=self.config, machine=machine, flavour=key.flavour, progress=progress
                )

    def begin_recording(self) -> None:
        """Clear the directory of --iommu-record; on the process that reports, before the first test."""
        if self.settings.record is None:
            return
        from pytest_iommu.targets import recording

        recording.begin(self.settings.record)

    def prepare_selftest(self, progress: Progress) -> None:
        """Have the kselftest's programs ready for the default machine; what goes wrong is their tests' to say."""
        with suppress(SetupError):
            self.selftest(self.machine(self.settings.machine), progress)

    def selftest(self, machine: Machine, progress: Progress | None = None) -> Selftest:
        """The kselftest's programs for a machine. SetupError when they do not build."""
        from pytest_iommu.check.kselftest import built
        from pytest_iommu.images import Progress

        if machine.name not in self.selftests:
            try:
                made = built.prepare(self.settings, machine, progress or Progress(None), self.kind.emulated)
                self.selftests[machine.name] = made
            except SetupError as error:
                self.selftests[machine.name] = error
        found = self.selftests[machine.name]
        if isinstance(found, SetupError):
            raise found
        return found

    def handover(self) -> bytes:
        """What a worker needs of the controller."""
        return handover.dumps((self.settings, self.kernels, self.selftests))

    @classmethod
    def taken_over(cls, config: pytest.Config, data: bytes) -> Run:
        """A worker's Run, from what the controller handed over."""
        settings, kernels, selftests = handover.loads(data)
        run = cls(config, settings)
        run.kernels, run.selftests = kernels, selftests
        return run

    def why_not(self, instance: Instance) -> str | None:
        """Why a scenario cannot be run with these settings, or None."""
        from pytest_iommu.scenario.variants import other_granule

        settings = self.settings
        if settings.target is None:
            return NO_TARGET
        if self.key(instance).machine not in settings.machines:
            return f"needs machine {instance.machine}: --iommu-machine={instance.machine}"
        if instance.kernel not in ("plain", *settings.flavours):
            return f"needs kernel flavour {instance.kernel}: --iommu-flavour=plain,{instance.kernel}"
        if instance.needs.machine is not None and not self.kind.emulated:
            return f"needs machine {instance.needs.machine} under QEMU, this one is not emulated"
        key = self.key(instance)
        return other_granule(instance.domains.values(), key.flavour, self.sizes(key).page) or self.lacks(
            key, instance.needs.devices, instance.needs.config
        )

    def key(self, instance: Instance) -> Key:
        """The guest a scenario runs on: its machine and flavour, or the run's default ones."""
        named = self.settings.machines
        machine = instance.machine if instance.machine in named or not instance.anywhere else named[0]
        flavour = self.settings.flavour if instance.kernel == "plain" else instance.kernel
        return Key(machine, flavour, instance.boot_mode)

    def lacks(self, key: Key, devices: Sequence[str] = (), config: Sequence[str] = ()) -> str | None:
        """What a test needs and the machine or the kernel's configuration does not have, or None.

        A configuration that is not known (a ready image, a recording) is not held against the test.
        """
        machine, kernel = self.machine(key.machine), self.kernels.get(key.kernel)
        have = machine.devices if kernel is None else machine.on(kernel.qemu.number[0]).devices
        missing = [name for name in devices if name not in {device.name for device in have}]
        if missing:
            newer = f" with {kernel.qemu}" if kernel is not None and len(have) < len(machine.devices) else ""
            return f"machine {key.machine} has no {', '.join(missing)}{newer}"
        lines = self.kernel_config(key) if config else None
        if lines is not None:
            absent = [name for name in config if not lines & {f"CONFIG_{name}=y", f"CONFIG_{name}=m"}]
            if absent:
                return f"this kernel is built without {', '.join(absent)}"
        return None

    def dialect(self, key: Key, guest: Guest) -> Dialect:
        """As Dialects.of()."""
        return self.dialects.of(key, guest)

    def spoken(self, key: Key, guest: Guest) -> tuple[TextDialect, ...]:
        """As Dialects.spoken()."""
        return self.dialects.spoken(key, guest)

    def take(self, key: Key, fresh: bool = False) -> Guest:
        """As Pool.take()."""
        return self.pool.take(key, fresh)

    def discard(self, guest: Guest, reason: str) -> None:
        """As Pool.discard()."""
        self.pool.discard(guest, reason)

    def kernel_config(self, key: Key) -> frozenset[str] | None:
        """The lines of a kernel's configuration; None if it is unknown, as for a ready image or a recording."""
        kernel = self.kernels.get(key.kernel)
        return None if kernel is None or kernel.config is None else _configuration(kernel.config)

    def sizes(self, key: Key) -> Sizes:
        """The sizes of a kernel by its configuration, or by its flavour if that is unknown."""
        lines = self.kernel_config(key)
        return flavours.sizes(key.flavour) if lines is None else _sizes(lines)

    def sees_memory(self, key: Key) -> bool:
        """Whether the memory of that key's guests can be read, as far as is known: true until one has booted."""
        return self._sighted.get(key, True)

    def passes_dma(self, key: Key) -> bool:
        """Whether QEMU passes the DMA of that key's guests, so that none is judged; false until one has booted."""
        return self._passing.get(key, False)

    def kernel_said(self, key: Key) -> str:
        """The live guest's own description of its kernel; empty if the kernel was prepared here."""
        return "" if key.kernel in self.kernels else capabilities(self.pool.live(key)).kernel

    def remember(self, guest: Guest) -> None:
        """Note what a guest that is ours looks like, for changes(); the first time only."""
        if self.kind.live and self.kind.emulated and guest not in self._states:
            self._states[guest] = BootState(guest.run)

    def changes(self, guest: Guest, touched: Touched) -> list[str]:
        """What a guest is left with that it was not booted with, a sentence each."""
        state = self._states.get(guest)
        return state.changes(touched) if state is not None else []

    def save_memory(self, key: Key, folder: Path, failed: Sequence[str] = ()) -> None:
        """Put what the IOMMU of the live guest reads into a folder; nothing where there is no guest, or no room.

        ``failed`` are the names of the domains that the test failed by.
        """
        from pytest_iommu.check.witnesses.in_ram import IMAGE, in_ram

        guest = self.pool.live(key)
        witness = in_ram(guest, self.machine(key.machine)) if guest is not None else None
        if witness is None:
            return
        try:
            witness.save(folder, failed)
        except (OSError, IommuError) as error:
            # the failure that it is for must not be hidden by this
            give_up(folder, IMAGE, error)

    def close(self) -> None:
        """End all guests and finish the recording."""
        try:
            self.pool.close()
        finally:
            if self._recorder is not None:
                self._recorder.close()

    def _room(self) -> bool:
        """Whether there is memory for as many guests as a worker may keep, in every worker."""
        from pytest_iommu.targets.qemu import HEADROOM

        available = available_memory()
        if not self.kind.emulated or available is None:
            return False
        workers = getattr(self.config, "workerinput", {}).get("workercount", 1)
        largest = max(self.machine(name).memory for name in self.settings.machines) + HEADROOM
        return available >= int(workers) * MOST * largest

    def _start(self, key: Key) -> Guest:
        from pytest_iommu.check.witnesses.passed import passing

        if key not in self._targets:
            self._tell_of_waits()
            kernel = self.kernels.get(key.kernel)
            if kernel is None and self.kind.needs_kernel:
                raise SetupError(f"no kernel was prepared for {key}; --iommu-machine and --iommu-flavour choose")
            self._targets[key] = self.kind.make(self.settings, self.machine(key.machine), key, kernel)
        guest = self._targets[key].start()
        self._sighted[key] = guest.memory is not None
        if key not in self._passing:
            try:
                self._passing[key] = passing(guest, self.machine(key.machine))
            except BaseException:
                guest.close()
                raise
        return self._watched(guest, key)

    def _watched(self, guest: Guest, key: Key) -> Guest:
        """The guest, with its answers recorded if --iommu-record was given.

        The recorder is made with this process's first guest: the controller of workers has none and must not record.
        """
        if self.settings.record is None:
            return guest
        from pytest_iommu.targets.recording import Recorder

        if self._recorder is None:
            try:
                self._recorder = Recorder(self.settings.record, self.worker)
            except OSError as error:
                guest.close()
                raise SetupError(f"--iommu-record: cannot write to {self.settings.record}: {error}") from error
        return self._recorder.watch(guest, key)

    def _tell_of_waits(self) -> None:
        """Show what a target waits for if it has to build something in the middle of the tests."""
        from pytest_iommu.images import progress

        with uncaptured(self.config):
            progress.use(progress.Progress(sys.stderr, around=partial(uncaptured, self.config)))

    def _started(self, guest: Guest) -> None:
        hook = self.config.hook.pytest_iommu_guest_started
        try:
            hook(guest=guest)
        except (IommuError, pytest.exit.Exception):
            raise
        except (Exception, pytest.fail.Exception) as error:
            raise of_plugin(hook, error) from error

    def _lost(self, guest: Guest, reason: str) -> None:
        self._states.pop(guest, None)
        hook = self.config.hook.pytest_iommu_guest_lost
        tell(self.config, hook, guest=guest, reason=reason, evidence=guest.evidence())


@lru_cache(maxsize=16)
def _configuration(path: Path) -> frozenset[str]:
    """The lines of a .config, which does not change in a run; every item asks."""
    return frozenset(path.read_text(encoding="utf-8").splitlines())


@lru_cache(maxsize=16)
def _sizes(lines: frozenset[str]) -> Sizes:
    return Sizes.of("\n".join(lines))


@contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Output goes to the user, not into pytest's capture."""
    manager = config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        yield
        return
    with manager.global_and_fixture_disabled():
        yield
