# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios that nobody wrote: hypothesis draws actions, they become the text of a scenario, the runner's checks judge.

What is drawn are small numbers (drawn.py) that mean something only in a given table (resolve.py): so any of them can be
left out or made smaller, and what fails shrinks to the few steps that matter. What is executed is the text that is
shown. hypothesis is an optional dependency, imported by strategies.py alone, and late: it costs a second.
"""

from __future__ import annotations
