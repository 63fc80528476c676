# SPDX-License-Identifier: GPL-2.0-only
"""Talking to a guest: framed channel, operations, console scanner, QMP, processes."""
