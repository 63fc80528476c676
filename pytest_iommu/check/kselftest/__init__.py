# SPDX-License-Identifier: GPL-2.0-only
"""The kernel selftest: cases compiled from scenarios, the directory for a kernel tree, and its programs."""
