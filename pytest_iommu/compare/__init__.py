# SPDX-License-Identifier: GPL-2.0-only
"""Compares EXPECTED, DUMPED and IN RAM; each difference names the rule that it breaks."""
