# SPDX-License-Identifier: GPL-2.0-only
"""Which dialect a kernel speaks, by what is known of it: other guests of it, or its configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_iommu.core.key import Key
from pytest_iommu.core.settings import Settings
from pytest_iommu.dialects import DIALECTS, IO_PTDUMP, NO_DUMP, Dialect
from pytest_iommu.guest.ops import Code
from pytest_iommu.session.kernel_dialects import Dialects

USUAL = Key("smmuv3", "plain")
BARE = Key("smmuv3", "plain", "without-debugfs")
WITH = frozenset({"CONFIG_IOMMU_PTDUMP_DEBUGFS=y"})


def dialects(lines: frozenset[str] | None, more: tuple[Dialect, ...] = ()) -> Dialects:
    hook = SimpleNamespace(pytest_iommu_dialects=lambda config: [more, DIALECTS])
    run: Any = SimpleNamespace(
        config=SimpleNamespace(hook=hook), settings=Settings("qemu", *[cast(Any, None)] * 3), kernels={}
    )
    run.kernel_config = lambda key: lines
    return Dialects(run)


def guest(*entries: str) -> Any:
    def run(batch: Any) -> Any:
        assert [op.code for op in batch] == [Code.LIST]
        return SimpleNamespace(results=[SimpleNamespace(ok=bool(entries), data="\n".join(entries).encode())])

    return SimpleNamespace(run=run)


@pytest.mark.parametrize(("lines", "known"), [(WITH, None), (frozenset({"CONFIG_IOMMU_API=y"}), NO_DUMP), (None, None)])
def test_a_kernel_that_nobody_has_asked_is_known_by_its_configuration(
    lines: frozenset[str] | None, known: Dialect | None
) -> None:
    assert dialects(lines).known(BARE) is known


def test_a_kernel_is_the_same_however_it_was_booted() -> None:
    found = dialects(WITH)
    assert found.of(USUAL, guest("domains/")) is IO_PTDUMP
    assert found.of(BARE, guest()) is NO_DUMP
    assert found.known(BARE) is IO_PTDUMP


def test_another_dialect_may_have_a_dump_with_another_option() -> None:
    other: Any = SimpleNamespace(name="other", files=("all",), probe=lambda entries: "other" in entries)
    found = dialects(frozenset(), (other,))
    assert found.known(USUAL) is None
    assert found.of(USUAL, guest("other/")) is found.known(USUAL) is other
