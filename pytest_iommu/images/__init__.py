# SPDX-License-Identifier: GPL-2.0-only
"""Kernels, initramfs and QEMU for guests: taken from the cache, or fetched and built with a progress display."""

from pytest_iommu.core.machines import Device, Machine
from pytest_iommu.images.artefacts import Artefacts, prepare
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.qemu_binary import Qemu

__all__ = ["Artefacts", "Device", "Machine", "Progress", "Qemu", "prepare"]
