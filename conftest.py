# SPDX-License-Identifier: GPL-2.0-only
"""For the project's own tests. The plugin comes from its entry point; named here as well, pytest refuses it."""

from __future__ import annotations

pytest_plugins = ("pytester",)
