# SPDX-License-Identifier: GPL-2.0-only
"""Communication with a guest: framed channel, operations, console scanner, QMP, processes."""
