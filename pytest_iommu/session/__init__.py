# SPDX-License-Identifier: GPL-2.0-only
"""A pytest run: options, nodes, fixtures, the pool of guests, workers."""
