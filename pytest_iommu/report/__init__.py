# SPDX-License-Identifier: GPL-2.0-only
"""What the user is told: comparison, failures, artefact folders, the summary by rule."""
