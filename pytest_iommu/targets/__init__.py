# SPDX-License-Identifier: GPL-2.0-only
"""Targets, the places where kernels run: one small file each."""
