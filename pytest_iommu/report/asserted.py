# SPDX-License-Identifier: GPL-2.0-only
"""Explains a failed ``assert left == right`` for two objects of model.py: lists the fields that differ.

pytest's own explanation would show addresses in decimal.
"""

from __future__ import annotations

from dataclasses import fields

from pytest_iommu.core.model import Readable, readable


def differing(operator: str, left: object, right: object) -> list[str] | None:
    """Return the lines of the explanation, the first one being the summary. None to use pytest's own."""
    if operator != "==" or not isinstance(left, Readable) or type(left) is not type(right):
        return None
    lines = [f"{left!r} == {right!r}", ""]
    for one in fields(left):  # type: ignore[arg-type]
        have, want = getattr(left, one.name), getattr(right, one.name)
        if have != want:
            lines.append(f"{one.name}: {readable(one.name, have)} != {readable(one.name, want)}")
    return lines
