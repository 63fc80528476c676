# SPDX-License-Identifier: GPL-2.0-only
"""The witnesses that are not the kernel, on a live guest: IN RAM reads its memory, DONE is a device's DMA."""
