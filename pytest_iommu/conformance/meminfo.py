# SPDX-License-Identifier: GPL-2.0-only
"""What the guest says of its memory."""

from __future__ import annotations

import re

PATH = "/proc/meminfo"


def meminfo(text: bytes) -> dict[str, int]:
    """The fields of PATH's text that are sizes, in bytes."""
    return {name.decode(): int(size) << 10 for name, size in re.findall(rb"(?m)^(\w+):\s+(\d+) kB$", text)}
