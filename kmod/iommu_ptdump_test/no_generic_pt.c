// SPDX-License-Identifier: GPL-2.0-only
/* In the place of generic_pt.c, for kernels without generic_pt. */
#include "ptdump_test.h"

bool ptt_is_generic_pt(const struct iommu_domain *domain)
{
	return false;
}

bool ptt_describe_generic_pt(struct ptt_domain *d)
{
	return false;
}

bool ptt_generic_pt_table(const struct ptt_domain *d, struct ptt_table *table)
{
	return false;
}
