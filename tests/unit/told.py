# SPDX-License-Identifier: GPL-2.0-only
"""What a session says while it waits, for tests that go on as soon as it does."""

from __future__ import annotations

import io
from collections.abc import Callable


class Told(io.StringIO):
    """Lets somebody know as soon as a wait is spoken of."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then: Callable[[], None] | None = then

    def write(self, text: str) -> int:
        count = super().write(text)
        if "waiting for" in text and self._then is not None:
            then, self._then = self._then, None
            then()
        return count
