# SPDX-License-Identifier: GPL-2.0-only
"""Where kernels run: one small file a target."""
