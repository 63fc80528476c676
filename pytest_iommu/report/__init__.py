# SPDX-License-Identifier: GPL-2.0-only
"""Output for the user: comparisons, failures, artefact folders, the summary by rule."""
