# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel was told to make of default domains, and which Config a device on one has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from pytest_iommu.check.owners.default_domains import (
    DMA,
    configured,
    group_of,
    group_types,
    require_dma_domains,
    type_of,
)
from pytest_iommu.check.witnesses.streams import Streams
from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.guest.ops import Code

STRICT, LAZY, PASS = (f"CONFIG_IOMMU_DEFAULT_{word}=y" for word in ("DMA_STRICT", "DMA_LAZY", "PASSTHROUGH"))
EDU0 = "/sys/bus/pci/devices/0000:00:01.0"
ENOENT = -2


class Guest:
    """Files of sysfs and /proc; links are those whose text begins with ->."""

    def __init__(self, files: dict[str, str], config: frozenset[str] | None = None) -> None:
        self._files = files
        self.kernel_config = config

    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply:
        return Reply(tuple(self._one(op) for op in batch))

    def read(self, path: str) -> bytes:
        return self._files[path].encode()

    def _one(self, op: Op) -> Result:
        if op.code == Code.LIST:
            names = {name.removeprefix(f"{op.path}/").partition("/")[0] for name in self._files if op.path in name}
            return Result(len(names), "\n".join(f"{name}/" for name in sorted(names)).encode())
        text = self._files.get(op.path)
        if text is None:
            return Result(ENOENT)
        return Result(len(text), text.removeprefix("->").encode())


@pytest.mark.parametrize(
    ("command_line", "config", "kind"),
    [
        ("quiet", {STRICT}, "DMA"),
        ("quiet", {LAZY}, "DMA-FQ"),
        ("quiet", {PASS}, "identity"),
        ("quiet iommu.passthrough=1", {STRICT}, "identity"),
        ("iommu.passthrough=on iommu.strict=0", {STRICT}, "identity"),
        ("iommu.passthrough=1 iommu.passthrough=0", {STRICT}, "DMA"),
        ("iommu.passthrough=0 iommu.strict=0", {PASS}, "DMA-FQ"),
        ("iommu.strict=1", {LAZY}, "DMA"),
        ("iommu.strict=maybe", {LAZY}, "DMA-FQ"),
        ("xiommu.passthrough=1", {STRICT}, "DMA"),
        # nobody knows the configuration of a ready image
        ("quiet", None, None),
        ("iommu.strict=0", None, None),
        ("iommu.passthrough=1", None, "identity"),
        ("iommu.passthrough=0 iommu.strict=0", None, "DMA-FQ"),
    ],
)
def test_what_default_domains_must_be(command_line: str, config: set[str] | None, kind: str | None) -> None:
    lines = None if config is None else frozenset({*config, DMA})
    guest = Guest({"/proc/cmdline": f"{command_line}\n"}, lines)
    assert configured(cast(Any, guest)) == kind


def test_what_they_are() -> None:
    guest: Any = Guest(
        {
            "/sys/kernel/iommu_groups/0/type": "identity\n",
            "/sys/kernel/iommu_groups/1/type": "DMA\n",
            f"{EDU0}/iommu_group": "->../../../kernel/iommu_groups/1",
        }
    )
    assert group_types(guest) == {"0": "identity", "1": "DMA"}
    assert group_of(guest, EDU0) == "/sys/kernel/iommu_groups/1"
    assert type_of(guest, EDU0) == "DMA"
    with pytest.raises(SetupError, match=r"0000:00:02.0 has no IOMMU group: ENOENT"):
        type_of(guest, "/sys/bus/pci/devices/0000:00:02.0")


def test_an_architecture_without_dma_domains() -> None:
    guest = cast(Any, Guest({"/proc/cmdline": "iommu.passthrough=0\n"}, frozenset({STRICT})))
    assert configured(guest) == "identity"
    with pytest.raises(pytest.skip.Exception, match="CONFIG_IOMMU_DMA"):
        require_dma_domains(guest)


@pytest.mark.parametrize(
    ("machine", "kind", "config"),
    [
        ("smmuv3", "identity", "BYPASS"),
        ("smmuv3", "DMA", "only S1_TRANS"),
        ("smmuv3s1", "DMA-FQ", "only S1_TRANS"),
        ("smmuv3s2", "DMA", "only S2_TRANS"),
        ("smmuv3s2", "identity", "BYPASS"),
    ],
)
def test_the_config_of_a_device_on_its_default_domain(machine: str, kind: str, config: str) -> None:
    guest = Guest({f"{EDU0}/iommu_group/type": f"{kind}\n"})
    assert Streams(guest.run, machines.get(machine), None).default_config("edu0") == config


def test_a_device_without_a_group_is_no_verdict() -> None:
    with pytest.raises(SetupError, match="cannot read .*iommu_group/type: ENOENT"):
        Streams(Guest({}).run, machines.get("smmuv3"), None).default_config("edu0")
