# SPDX-License-Identifier: GPL-2.0-only
"""Domains that the test module does not own: who makes them in the guest, and whether what they show is right."""
