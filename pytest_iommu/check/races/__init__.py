# SPDX-License-Identifier: GPL-2.0-only
"""Tests that read a dump while its table changes: how to provoke the race, and what the dump may say during it."""
