# SPDX-License-Identifier: GPL-2.0-only
"""A boot mode, a kernel flavour, and a witness that finds page tables without an SMMUv3."""

from pathlib import Path

from pytest_iommu import BootMode, InRam
from pytest_iommu.oracle.guest_memory import walk


def pytest_iommu_boot_modes(config):
    return {"one-cpu": BootMode(cpus=1, append="rcupdate.rcu_expedited=1")}


def pytest_iommu_flavours(config):
    return {"lazy": Path(__file__).with_name("lazy.config")}


class ByModule(InRam):
    """Asks the test module for the top of the table, and reads the table from memory."""

    def texts(self, config, row):
        if row.top is None:
            return None  # not known: the dump is compared with EXPECTED only
        return walk(self.memory, config, row.top, row.levels).texts()


def pytest_iommu_witness(config, guest, machine):
    return ByModule(guest.memory, machine, iommu=None) if machine.iommu is None else None
