# SPDX-License-Identifier: GPL-2.0-only
"""Generated scenarios: hypothesis draws actions, these become the text of a scenario, and the runner's checks judge it.

The drawn actions are small numbers (drawn.py) that get a meaning only in a given table (resolve.py). So any of them can
be left out or made smaller, and a failure shrinks to the few steps that matter. The reported text is the text that was
executed. hypothesis is an optional dependency; only strategies.py imports it, and late, because it takes a second.
"""

from __future__ import annotations
