# SPDX-License-Identifier: GPL-2.0-only
"""Dumps that are read while the table changes: what may be said then, and how it is brought about."""
