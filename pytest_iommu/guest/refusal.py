# SPDX-License-Identifier: GPL-2.0-only
"""Explains why a kernel refuses the test module, and what to do about it."""

from __future__ import annotations

import errno
import os
import re

from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import ops

LOCKDOWN = "/sys/kernel/security/lockdown"
DISABLED = "/proc/sys/kernel/modules_disabled"

_UNSIGNED = (errno.EKEYREJECTED, errno.ENOKEY, errno.EBADMSG)
_LEVEL = re.compile(r"\[(integrity|confidentiality)\]")
_FOREIGN = re.compile(r"version magic|disagrees about version of symbol|Unknown symbol|exports duplicate symbol")


def asked() -> list[Op]:
    """Operations that read what why() needs to know about the machine."""
    return [ops.read_file(LOCKDOWN), ops.read_file(DISABLED)]


def why(number: int, said: str, answers: tuple[Result, ...] = ()) -> str:
    """Return the reason, or an empty text. ``number`` is insmod's errno, ``said`` the kernel's messages meanwhile.

    ``answers`` are the results of asked(), if the machine could still answer.
    """
    lockdown, disabled = (ops.text_of(one) if one.ok else "" for one in answers) if answers else ("", "")
    if number in _UNSIGNED:
        return (
            "its kernel accepts only modules signed with a key it knows (module.sig_enforce, or "
            "CONFIG_MODULE_SIG_FORCE): sign the module with the kernel's scripts/sign-file, or boot without that"
        )
    level = _LEVEL.search(lockdown)
    if number == errno.EPERM and (level or "Lockdown:" in said):
        how = f" ({level[1]})" if level else ""
        return f"its kernel is locked down{how}: boot without lockdown= and without secure boot, or sign the module"
    if number == errno.EPERM and disabled.strip() == "1":
        return "module loading is disabled until the next boot (kernel.modules_disabled is 1)"
    if number in (errno.ENOEXEC, errno.ENOENT, errno.EINVAL) and _FOREIGN.search(said):
        return "the module was built for another kernel: build it with the tree of the running one"
    return ""


def number_of(errors: str) -> int:
    """Return insmod's errno from the errors of the guest's init, which reports it as text; 0 if there is none."""
    for line in errors.splitlines():
        if line.startswith("insmod "):
            return next((one for one in errno.errorcode if line.endswith(f": {os.strerror(one)}")), 0)
    return 0
