# SPDX-License-Identifier: GPL-2.0-only
"""A line between two descriptors that loses, garbles and doubles characters, as a seed says."""

from __future__ import annotations

import os
import random
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass

LISTENS = 1.0
"""Seconds without a byte taken after which nobody listens."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How often a character is lost, garbled or doubled."""

    lost: float = 0.0
    garbled: float = 0.0
    doubled: float = 0.0


class Damage:
    """What becomes of characters on the way; counts what happened to them."""

    def __init__(self, noise: Noise, seed: int) -> None:
        self._noise = noise
        self._random = random.Random(seed)
        self.passed = 0
        self.damaged = 0

    def __call__(self, data: bytes) -> bytes:
        noise, out = self._noise, bytearray()
        for byte in data:
            self.passed += 1
            draw = self._random.random()
            if draw < noise.lost:
                self.damaged += 1
            elif draw < noise.lost + noise.garbled:
                self.damaged += 1
                out.append(byte ^ 1 << self._random.randrange(8))
            elif draw < noise.lost + noise.garbled + noise.doubled:
                self.damaged += 1
                out += bytes([byte, byte])
            else:
                out.append(byte)
        return bytes(out)


class Relay:
    """Passes on what comes at either of two descriptors, which it owns, until one is closed or it is.

    ``there`` and ``back`` change what goes from the first to the second, and the other way.
    """

    def __init__(self, one: int, other: int, there: Callable[[bytes], bytes], back: Callable[[bytes], bytes]) -> None:
        self._ways = {one: (other, there), other: (one, back)}
        for descriptor in self._ways:
            os.set_blocking(descriptor, False)
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.close(self._stopped)
        self._thread.join()
        for descriptor in (*self._ways, self._stop):
            os.close(descriptor)

    def _run(self) -> None:
        while True:
            readable, _, _ = select.select([*self._ways, self._stop], [], [])
            if self._stop in readable:
                return
            for descriptor in readable:
                other, damage = self._ways[descriptor]
                try:
                    data = os.read(descriptor, 4096)
                    self._write(other, damage(data))
                except OSError:
                    return
                if not data:
                    return

    def _write(self, descriptor: int, data: bytes) -> None:
        """What nobody takes is lost, as it is on a line."""
        while data and select.select([], [descriptor], [], LISTENS)[1]:
            data = data[os.write(descriptor, data) :]
