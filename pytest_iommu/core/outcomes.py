# SPDX-License-Identifier: GPL-2.0-only
"""Every way a run can end badly, as one exception each, carrying what the report must show."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Evidence

EXIT_SETUP = 6
"""Exit status of a run whose only failures are of the set-up: 0 to 5 are pytest's own."""


class Verdict(StrEnum):
    """Whose fault a failed check shows: the value is a field of the result files, ``sentence`` begins the text."""

    DUMP = "dump-wrong"
    MAPPING = "mapping-wrong"
    BOTH = "dump-and-mapping-wrong"
    UNDECIDED = "dump-differs"
    ENTRIES = "entries-wrong"
    DMA = "dma-wrong"
    LOOKUP = "lookup-wrong"
    CACHE = "invalidation-wrong"
    COMMAND = "command-wrong"
    RULE = "rule-broken"
    OTHER = "not-as-expected"

    def sentence(self, table: str = "") -> str:
        """The verdict in words; ``table`` is what the IOMMU has that leads from a device to its page table."""
        return _SENTENCES[self].format(table=table or "table of devices")


_SENTENCES = {
    Verdict.DUMP: "the dump is wrong",
    Verdict.MAPPING: "the kernel's mapping is wrong",
    Verdict.BOTH: "the dump and the kernel's mapping are wrong",
    Verdict.UNDECIDED: "the dump differs from what is expected",
    Verdict.ENTRIES: "the kernel's {table} is wrong",
    Verdict.DMA: "a device's DMA differs from what is mapped",
    Verdict.LOOKUP: "the kernel's iova_to_phys() is wrong",
    Verdict.CACHE: "the kernel's invalidation is wrong",
    Verdict.COMMAND: "a command did not do what it should",
    Verdict.RULE: "a rule is broken",
    Verdict.OTHER: "not as expected",
}

UNSEEN = "the guest's memory could not be read"
"""Why a verdict is UNDECIDED."""


class IommuError(Exception):
    """Base: ``kind`` is the outcome's name in reports; ``evidence`` what is known of the guest."""

    kind = "fail"

    def __init__(self, message: str, evidence: Evidence | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence


class SetupError(IommuError):
    """The set-up is broken: no QEMU, a kernel that does not build, a bad scenario. Not a verdict on the kernel."""

    kind = "setup-error"


class SetupLost(SetupError):
    """Something is gone that every other test of the run needs as well, such as room on a disk: the run ends."""


class BootTimeout(SetupError):
    """A kernel did not boot in all the time that it was given."""


class NoGuest(SetupError):
    """There is no guest of this key, and will be none in this run: ``reason`` is what prevented the first one."""

    def __init__(self, key: object, reason: str, evidence: Evidence | None = None) -> None:
        super().__init__(f"no guest of {key}: {reason}", evidence)
        self.key = str(key)
        self.reason = reason


class KernelCrash(IommuError):
    """The kernel printed a panic, oops, WARN, KASAN, lockdep or RCU report."""

    kind = "kernel-crash"


class KernelHang(IommuError):
    """The guest runs but its agent did not answer in time."""

    kind = "kernel-hang"


class GuestLost(IommuError):
    """QEMU or the connection went away without a word of the kernel."""

    kind = "guest-lost"


class ForeignError(IommuError):
    """Neither a verdict nor the set-up's: a mistake in a test, or another plugin that interrupted it (a time-out)."""

    kind = "test-error"


class GuestAnswered(Exception):
    """The guest answered an operation with an error that the test did not expect: it fails, but breaks no rule."""


class CheckFailed(IommuError):
    """What the kernel shows is not what it must show: ``rules`` are broken, ``related`` ones as a consequence.

    ``files`` (name -> content) go to the artefact folder: the dumps that were compared, the commands given. ``verdict``
    is whose fault it is and ``because`` how that is known, in a few words; ``domains`` are the names of the domains
    that the failure is about, and ``table`` is what the IOMMU calls its table of devices.
    """

    kind = "fail"

    def __init__(
        self,
        message: str,
        rules: tuple[str, ...] = (),
        related: tuple[str, ...] = (),
        files: dict[str, bytes] | None = None,
        *,
        verdict: Verdict | None = None,
        because: str = "",
        domains: tuple[str, ...] = (),
        table: str = "",
    ) -> None:
        super().__init__(message)
        self.rules = rules
        self.related = related
        self.files = files or {}
        self.verdict = verdict or (Verdict.RULE if rules else Verdict.OTHER)
        self.because = because or (UNSEEN if self.verdict is Verdict.UNDECIDED else "")
        self.domains = domains
        self.table = table

    def told(self, message: str, files: dict[str, bytes] | None = None, verdict: Verdict | None = None) -> CheckFailed:
        """The same failure with another text, more files, or another verdict."""
        return CheckFailed(
            message,
            self.rules,
            self.related,
            {**self.files, **(files or {})},
            verdict=verdict or self.verdict,
            because="" if verdict else self.because,
            domains=self.domains,
        )
