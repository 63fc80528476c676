# SPDX-License-Identifier: GPL-2.0-only
"""Page-table formats by name. Add a format as a new file here with a FORMATS tuple, or with register()."""

from __future__ import annotations

import importlib
import pkgutil

from pytest_iommu.core.model import TableConfig
from pytest_iommu.formats.base import Attributes, ConfigError, Decoded, Flag, Format, Geometry

__all__ = [
    "Attributes",
    "ConfigError",
    "Decoded",
    "Flag",
    "Format",
    "Geometry",
    "configure",
    "get",
    "names",
    "register",
]

_FORMATS: dict[str, Format] = {}


def register(fmt: Format) -> None:
    """Register a format under its name, replacing one of the same name."""
    _FORMATS[fmt.name] = fmt


def get(name: str) -> Format:
    """Return the format of that name. ConfigError if there is none."""
    try:
        return _FORMATS[name]
    except KeyError:
        raise ConfigError(f"unknown format {name!r}; known: {', '.join(names())}") from None


def names() -> tuple[str, ...]:
    """Return all known formats, sorted."""
    return tuple(sorted(_FORMATS))


def configure(name: str, **parameters: object) -> TableConfig:
    """Return the configuration of a table of that format; parameters depend on it. ConfigError if invalid."""
    return get(name).configure(**parameters)


for _module in pkgutil.iter_modules(__path__):
    for _format in getattr(importlib.import_module(f"{__name__}.{_module.name}"), "FORMATS", ()):
        register(_format)
