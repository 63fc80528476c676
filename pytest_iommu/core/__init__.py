# SPDX-License-Identifier: GPL-2.0-only
"""The words and contracts that every other room uses. It imports none of them, and knows nothing of pytest."""
