# SPDX-License-Identifier: GPL-2.0-only
"""The witnesses on a live guest that are independent of the kernel: IN RAM reads its memory, DONE is a device's DMA."""
