# SPDX-License-Identifier: GPL-2.0-only
"""Kernel flavours as data: a name, and the configuration fragment that makes the kernel differ from the others.

The fragments are in qemu-images/config; plugins add theirs with pytest_iommu_flavours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pytest_iommu.core import machines, paths
from pytest_iommu.core.outcomes import SetupError

_PAGES = re.compile(r"^CONFIG_\w+_(\d+)K_PAGES=y$", re.MULTILINE)
_VA_BITS = re.compile(r"^CONFIG_\w+_VA_BITS_(\d+)=y$", re.MULTILINE)
_ADDED: dict[str, Path] = {}
"""The fragments of flavours that plugins add."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of a kernel shapes its hardware domains: bytes of a page, bits of a virtual address.

    ``own_tables``: their tables are the driver's own, as VT-d's before generic_pt.
    """

    page: int = 4096
    va_bits: int = 48
    own_tables: bool = False

    @classmethod
    def of(cls, text: str) -> Sizes:
        """From a configuration or a fragment; the defaults are those of arm64.config."""
        page, bits = _PAGES.search(text), _VA_BITS.search(text)
        return cls(int(page[1]) << 10 if page else cls().page, int(bits[1]) if bits else cls().va_bits)


def register(fragments: Mapping[str, Path]) -> None:
    """Add kernel flavours: name -> fragment. SetupError for a name that is already taken."""
    for name, path in fragments.items():
        if _ADDED.setdefault(name, path) != path or shipped(name).is_file():
            raise SetupError(f"there are two kernel flavours {name!r}")
    sizes.cache_clear()
    names.cache_clear()


def shipped(name: str) -> Path:
    """The fragment of that name in qemu-images/config."""
    return paths.qemu_images() / "config" / f"{name}.config"


def fragment(name: str) -> Path:
    """The fragment of a flavour. SetupError, with the known names, for an unknown one."""
    found = _ADDED.get(name, shipped(name))
    if not found.is_file():
        raise SetupError(f"no kernel flavour {name!r}; there are: {', '.join(names())}")
    return found


@cache
def names() -> tuple[str, ...]:
    """The kernel flavours there are, the default one first: fragments that no machine uses by itself."""
    shared = {name for machine in machines.names() for name in machines.get(machine).config}
    found = {path.stem for path in (paths.qemu_images() / "config").glob("*.config")}
    return tuple(sorted((found - shared) | set(_ADDED), key=lambda name: (name != "plain", name)))


@cache
def sizes(flavour: str) -> Sizes:
    """The sizes of that flavour's kernel, as its fragment says."""
    path = _ADDED.get(flavour, shipped(flavour))
    return Sizes.of(path.read_text(encoding="utf-8") if path.is_file() else "")


def page_size(flavour: str) -> int:
    """Bytes of a page of that flavour's kernel, which is the granule of its hardware domains."""
    return sizes(flavour).page
