# SPDX-License-Identifier: GPL-2.0-only
"""Executes scenarios on a guest and judges the results. Knows nothing of sessions, command-line options or workers."""
