# SPDX-License-Identifier: GPL-2.0-only
"""Domains that do not belong to the test module: what creates them in the guest, and whether their dump is right."""
