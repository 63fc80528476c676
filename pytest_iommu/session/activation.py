# SPDX-License-Identifier: GPL-2.0-only
"""Registers the rest of the plugin, for a run that has to do with guests."""

from __future__ import annotations

import pytest

ACTIVE = "iommu-active"
"""The name of active.py among pytest's plugins."""


def activate(config: pytest.Config) -> None:
    """Have everything that a run with guests needs, from now on. A wrong option ends pytest as a usage error."""
    if not config.pluginmanager.has_plugin(ACTIVE):
        from pytest_iommu.session import active, lifecycle

        lifecycle.configure(config)
        config.pluginmanager.register(active, ACTIVE)
