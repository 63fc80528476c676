# SPDX-License-Identifier: GPL-2.0-only
"""What is executed on a guest and judged. It knows no session, no command-line option and no worker."""
