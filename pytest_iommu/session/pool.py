# SPDX-License-Identifier: GPL-2.0-only
"""The live guests of one worker: a few, reused between tests, replaced after a crash, hang or taint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack

from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import BootTimeout, IommuError, KernelCrash, NoGuest, SetupError
from pytest_iommu.core.protocol import Guest

LIMIT = 2
"""Live guests of a worker; with fewer, a test that needs two kinds in turn would boot one each time."""

MOST = 4
"""Live guests of a worker where there is memory: a boot takes as long as dozens of tests. Paused ones cost no time."""


class Pool:
    """Hands out guests. ``start`` boots one, ``started`` and ``lost`` are told about its life.

    ``room`` says whether there is memory for more than LIMIT of them.
    """

    def __init__(
        self,
        start: Callable[[Key], Guest],
        started: Callable[[Guest], None],
        lost: Callable[[Guest, str], None],
        room: Callable[[], bool] = lambda: False,
    ) -> None:
        self._start = start
        self._started = started
        self._lost = lost
        self._room = room
        self._guests: OrderedDict[Key, Guest] = OrderedDict()
        self._broken: dict[Key, IommuError] = {}
        self._booted: set[str] = set()
        self._unsettled: set[Key] = set()
        self.boots = 0

    def take(self, key: Key, fresh: bool = False) -> Guest:
        """The live guest of that key, else a new one; with ``fresh`` always a new one.

        NoGuest when it does not start. A key that failed once is not tried again: three hundred tests would wait for
        it. A KernelCrash while it booted is raised once, it is a verdict on the kernel.
        """
        if fresh:
            self._close(key)
        guest = self._guests.get(key)
        if guest is None:
            guest = self._boot(key)
        self._guests.move_to_end(key)
        self._unsettled.add(key)
        return guest

    def live(self, key: Key) -> Guest | None:
        """The guest of that key if there is one; none is booted."""
        return self._guests.get(key)

    def unsettled(self, key: Key) -> Guest | None:
        """The guest of that key, when a test has had it since this was last asked; else None."""
        guest = self._guests.get(key) if key in self._unsettled else None
        self._unsettled.discard(key)
        return guest

    def discard(self, guest: Guest, reason: str) -> None:
        """Throw a guest away; the next take() of its key boots a new one."""
        for key, live in list(self._guests.items()):
            if live is guest:
                del self._guests[key]
        try:
            self._lost(guest, reason)
        finally:
            guest.close()

    def discard_key(self, key: Key, reason: str) -> None:
        """Throw the guest of that key away, if there is one."""
        guest = self._guests.get(key)
        if guest is not None:
            self.discard(guest, reason)

    def pause(self) -> None:
        """No guest is needed for a while."""
        for guest in self._guests.values():
            guest.pause()

    def close(self) -> None:
        """End all guests."""
        with ExitStack() as ends:
            while self._guests:
                _, guest = self._guests.popitem()
                ends.callback(guest.close)

    def _close(self, key: Key) -> None:
        guest = self._guests.pop(key, None)
        if guest is not None:
            guest.close()

    def _boot(self, key: Key) -> Guest:
        prevented = self._not_to_be_had(key)
        if prevented is not None:
            raise NoGuest(key, prevented.message, prevented.evidence)
        for live in self._guests.values():
            live.pause()
        if len(self._guests) >= LIMIT:
            limit = MOST if self._room() else LIMIT
            while len(self._guests) >= limit:
                self._close(next(iter(self._guests)))
        try:
            guest = self._start_twice(key)
            self._tell(guest)
        except IommuError as error:
            self._broken[key] = error
            if isinstance(error, KernelCrash):
                raise
            raise NoGuest(key, error.message, error.evidence) from error
        self.boots += 1
        self._booted.add(key.flavour)
        self._guests[key] = guest
        return guest

    def _not_to_be_had(self, key: Key) -> IommuError | None:
        """What prevented the guest of that key before.

        One that has not booted in time has had minutes. Other machines and boot modes of its kernel are not given as
        much, unless one of them has booted.
        """
        found = self._broken.get(key)
        if found is None and key.flavour not in self._booted:
            same = (error for other, error in self._broken.items() if other.flavour == key.flavour)
            found = next((error for error in same if isinstance(error, BootTimeout)), None)
        return found

    def broken(self, key: Key) -> bool:
        """Whether take() would raise NoGuest."""
        return key not in self._guests and self._not_to_be_had(key) is not None

    def _tell(self, guest: Guest) -> None:
        """Report a new guest to the hooks. If a hook raises an exception, the guest is closed."""
        try:
            self._started(guest)
        except BaseException:
            guest.close()
            raise

    def _start_twice(self, key: Key) -> Guest:
        try:
            try:
                return self._start(key)
            except SetupError:  # the same command line fails the same way
                raise
            except IommuError:
                return self._start(key)
        except OSError as error:
            # No descriptors left, files that may not grow: ours to have, and no fault of the kernel.
            raise SetupError(f"this machine refuses a guest: {error}") from error
