// SPDX-License-Identifier: GPL-2.0-only
/*
 * In the place of sw_generic_pt.c, for kernels without generic_pt, and for headers without
 * those of drivers/iommu, as distributions have them.
 */
#include <linux/string.h>

#include "ptdump_test.h"

bool ptt_is_generic_pt_format(const char *name)
{
	static const char *const names[] = { "amdv1", "vtdss", "x86_64", "riscv_64" };

	return match_string(names, ARRAY_SIZE(names), name) >= 0;
}

int ptt_sw_generic_pt(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply)
{
	return ptt_fail(reply, -EOPNOTSUPP, "no generic_pt in the headers of this kernel, so no %s",
			args->value[PTT_FORMAT]);
}
