# SPDX-License-Identifier: GPL-2.0-only
"""The ssh target: a machine that the user's ssh reaches without a prompt. All options are in ssh_config."""

from __future__ import annotations

import re
import shlex
import shutil

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.targets.stdio import RunningHost

# Detects after 15 s that a machine is gone without notice.
OPTIONS = ("-T", "-oBatchMode=yes", "-oConnectTimeout=15", "-oServerAliveInterval=5", "-oServerAliveCountMax=3")

_WHERE = re.compile(r"//(?P<host>(?:[^@/:\[\]]+@)?(?:[^@/:\[\]-][^@/:\[\]]*|\[[0-9a-fA-F:.]+\]))(?::(?P<port>\d+))?/?")


class SshHost(RunningHost):
    """``//[user@]host[:port]``, the part after ``ssh:`` in --iommu-target. SetupError if it is malformed."""

    def __init__(self, where: str) -> None:
        found = _WHERE.fullmatch(where)
        if found is None:
            raise SetupError(f"--iommu-target=ssh://[user@]host[:port], not ssh:{where}")
        if shutil.which("ssh") is None:
            raise SetupError("ssh is not on PATH")
        self.name = f"ssh:{where.rstrip('/')}"
        self._host = found["host"].replace("[", "").replace("]", "")
        self._port = found["port"]

    def argv(self, command: str) -> list[str]:
        """Run a shell command there, whatever the user's login shell."""
        port = ["-p", self._port] if self._port else []
        return ["ssh", *OPTIONS, *port, "--", self._host, f"sh -c {shlex.quote(command)}"]
