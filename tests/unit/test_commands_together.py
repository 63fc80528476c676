# SPDX-License-Identifier: GPL-2.0-only
"""Several commands in one round trip: the model follows as far as the kernel has done them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import CommandError, Iommu
from pytest_iommu.core.protocol import Op, Reply, Result


class Module:
    """A guest whose test module refuses the line with that number."""

    def __init__(self, refused: int = 0) -> None:
        self.refused = refused
        self.batches: list[list[str]] = []

    def run(self, batch: Sequence[Op]) -> Reply:
        lines = batch[0].data.decode().splitlines()
        self.batches.append(lines)
        done = self.refused - 1 if self.refused else len(lines)
        text = "".join(f"{number} ok\n" for number in range(1, done + 1))
        if self.refused:
            text += f"{self.refused} error EEXIST it is mapped\n"
        return Reply((Result(-17 if self.refused else 1), Result(len(text), text.encode())))


@pytest.mark.parametrize(("refused", "done"), [(0, "abc"), (1, ""), (3, "ab")])
def test_the_model_follows_as_far_as_the_kernel(refused: int, done: str) -> None:
    module, changed = Module(refused), []
    guest: GuestHandle = module  # type: ignore[assignment]
    iommu = Iommu(guest)
    tasks = [(f"map {name}", lambda name=name: changed.append(name)) for name in "abc"]
    if refused:
        with pytest.raises(CommandError, match=f"map {'abc'[refused - 1]}: EEXIST"):
            iommu.do(*tasks)
    else:
        iommu.do(*tasks)
    assert "".join(changed) == done
    assert module.batches == [["map a", "map b", "map c"]]
    assert iommu.artefacts()["commands.txt"] == b"map a\nmap b\nmap c\n"
