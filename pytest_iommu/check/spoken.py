# SPDX-License-Identifier: GPL-2.0-only
"""The dialects of other kernels on a guest: which of their files its kernel has, and what those hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from functools import cache
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS

if TYPE_CHECKING:
    from pytest_iommu.dialects import LiveFiles, TextDialect

GROUPS = "/sys/kernel/iommu_groups"
ROOT = DEBUGFS.rpartition("/")[0]
"""Where debugfs is mounted."""

Send = Callable[[Sequence[Op]], Sequence[Result]]


class Asked:
    """A guest as the dialects see it (dialects.LiveKernel); each directory is listed once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.names = cache(self._names)

    def _names(self, path: str) -> Set[str]:
        return self._listed(f"{ROOT}/{path}".rstrip("/"))

    def devices(self) -> Sequence[str]:
        """The devices of all IOMMU groups, in the order of their names."""
        groups = sorted(self._listed(GROUPS))
        return sorted(name for group in groups for name in self._listed(f"{GROUPS}/{group}/devices"))

    def _listed(self, path: str) -> Set[str]:
        (listed,) = self._send([ops.list_directory(path)])
        return {name.rstrip("/@") for name in ops.text_of(listed).splitlines()} if listed.ok else frozenset()


def spoken(send: Send, known: Iterable[TextDialect]) -> tuple[TextDialect, ...]:
    """Return those of the dialects of which the guest's kernel has files."""
    kernel = Asked(send)
    return tuple(one for one in known if one.live(kernel))


def read(send: Send, dialect: TextDialect) -> list[dict[str, str]]:
    """Return the texts of each dump that the guest's kernel has in this dialect, by the names that parse() takes.

    CheckFailed if a file that is there cannot be read.
    """
    return [_read(send, files) for files in dialect.live(Asked(send))]


def _read(send: Send, files: LiveFiles) -> dict[str, str]:
    first = [ops.write_file(f"{ROOT}/{path}", text.encode()) for path, text in files.first]
    results = send([*first, *(ops.read_file(f"{ROOT}/{path}") for path in files.paths.values())])
    written, found = results[: len(first)], results[len(first) :]
    if files.optional and not all(result.ok for result in written):
        return {}
    texts: dict[str, str] = {}
    for path, result in zip([path for path, _ in files.first], written, strict=True):
        if not result.ok:
            raise _failed("writing", path, result)
    for (name, path), result in zip(files.paths.items(), found, strict=True):
        if result.ok:
            texts[name] = ops.text_of(result)
        elif not files.optional:
            raise _failed("reading", path, result)
    return texts


def _failed(what: str, path: str, result: Result) -> CheckFailed:
    return CheckFailed(f"{what} {ROOT}/{path}: {ops.errno_name(result.value)}", verdict=Verdict.DUMP)
