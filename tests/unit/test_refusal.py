# SPDX-License-Identifier: GPL-2.0-only
"""Why a kernel does not take the test module."""

from __future__ import annotations

import errno
import os

import pytest

from pytest_iommu.core.protocol import Result
from pytest_iommu.guest import refusal

NONE = (Result(-errno.ENOENT), Result(-errno.ENOENT))
MAGIC = "iommu_ptdump_test: version magic '7.2.0 SMP' should be '7.3.4 SMP preempt'"


@pytest.mark.parametrize(
    ("number", "said", "answers", "reason"),
    [
        (errno.EKEYREJECTED, "", NONE, "only modules signed"),
        (errno.ENOKEY, "Loading of unsigned module is rejected", NONE, "only modules signed"),
        (errno.EPERM, "", (Result(0, b"none [integrity] confidentiality"), NONE[1]), "is locked down (integrity)"),
        (errno.EPERM, "Lockdown: agent: unsigned module loading is restricted", NONE, "is locked down:"),
        (errno.EPERM, "", (Result(0, b"[none] integrity confidentiality"), Result(0, b"1\n")), "modules_disabled is 1"),
        (errno.ENOEXEC, MAGIC, NONE, "was built for another kernel"),
        (errno.ENOENT, "iommu_ptdump_test: Unknown symbol iommu_ptd_add (err -2)", (), "was built for another kernel"),
        (errno.EPERM, "", NONE, ""),
        (errno.EEXIST, "", NONE, ""),
        (errno.ENOENT, "", NONE, ""),
    ],
)
def test_the_reason_is_named(number: int, said: str, answers: tuple[Result, ...], reason: str) -> None:
    told = refusal.why(number, said, answers)
    assert reason in told
    assert bool(told) == bool(reason)


def test_the_errno_of_what_init_reports() -> None:
    reported = f"insmod /lib/iommu_ptdump_test.ko: {os.strerror(errno.EKEYREJECTED)}"
    assert refusal.number_of(f"mount debugfs: x\n{reported}") == errno.EKEYREJECTED
    assert refusal.number_of("mount debugfs: No such device") == 0
