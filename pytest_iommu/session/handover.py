# SPDX-License-Identifier: GPL-2.0-only
"""Settings, kernels and programs on their way from the controller to a worker, whose Python may be of another version.

Only this package's own dataclasses and builtin types travel. pathlib keeps its classes in another module from Python
3.13 on, so paths travel as text.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path, PurePath
from typing import Any

PROTOCOL = 5
"""Every supported Python reads it."""


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        return (_path, (str(obj),)) if isinstance(obj, PurePath) else NotImplemented


class _Unpickler(pickle.Unpickler):
    """Takes nothing but what dumps() gives."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in ("pytest_iommu", "builtins", "copyreg"):
            raise pickle.UnpicklingError(f"{module}.{name} does not travel to workers")
        return super().find_class(module, name)


def _path(text: str) -> Path:
    return Path(text)


def dumps(what: object) -> bytes:
    """As bytes."""
    stream = io.BytesIO()
    _Pickler(stream, PROTOCOL).dump(what)
    return stream.getvalue()


def loads(data: bytes) -> Any:
    """What dumps() was given. pickle.UnpicklingError for classes of other packages."""
    return _Unpickler(io.BytesIO(data)).load()
