# SPDX-License-Identifier: GPL-2.0-only
"""Page-table formats by name. A new one is a new file here with a FORMATS tuple, or register() from elsewhere."""

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
    """Make a format known under its name, replacing one of the same name."""
    _FORMATS[fmt.name] = fmt


def get(name: str) -> Format:
    """The format of that name. ConfigError when there is none."""
    try:
        return _FORMATS[name]
    except KeyError:
        raise ConfigError(f"unknown format {name!r}; known: {', '.join(names())}") from None


def names() -> tuple[str, ...]:
    """All known formats, sorted."""
    return tuple(sorted(_FORMATS))


def configure(name: str, **parameters: object) -> TableConfig:
    """The configuration of a table of that format; parameters are the format's own. ConfigError when refused."""
    return get(name).configure(**parameters)


for _module in pkgutil.iter_modules(__path__):
    for _format in getattr(importlib.import_module(f"{__name__}.{_module.name}"), "FORMATS", ()):
        register(_format)
