# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED, DUMPED and IN RAM side by side; each difference is named with the rule that it breaks."""
