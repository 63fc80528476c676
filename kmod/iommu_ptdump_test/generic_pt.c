// SPDX-License-Identifier: GPL-2.0-only
/* What a page table of generic_pt says of itself, whoever made it. See no_generic_pt.c. */
#include <linux/generic_pt/iommu.h>
#include <linux/sizes.h>

#include "ptdump_test.h"

/* Every format's table begins with its pt_common, behind the pt_iommu */
static const struct pt_common *common_of(const struct ptt_domain *d)
{
	struct pt_iommu *iommu = iommupt_from_domain(d->domain);

	return iommu ? (struct pt_common *)(iommu + 1) : NULL;
}

/* ptt_is_generic_pt() - whether that is what the domain's page table is */
bool ptt_is_generic_pt(const struct iommu_domain *domain)
{
	return domain->is_iommupt;
}

/* ptt_describe_generic_pt() - fill in format and sizes; false for another page table */
bool ptt_describe_generic_pt(struct ptt_domain *d)
{
	const struct pt_common *common = common_of(d);

	if (!common)
		return false;
	d->format = "generic_pt";
	d->ias = common->max_vasz_lg2;
	d->oas = common->max_oasz_lg2;
	return true;
}

/* ptt_generic_pt_table() - where it is now; false for another page table */
bool ptt_generic_pt_table(const struct ptt_domain *d, struct ptt_table *table)
{
	const struct pt_common *common = common_of(d);
	uintptr_t top;

	if (!common)
		return false;
	top = READ_ONCE(common->top_of_table);
	table->top = virt_to_phys((void *)(top & ~(uintptr_t)PT_TOP_LEVEL_MASK));
	table->levels = (top & PT_TOP_LEVEL_MASK) + 1;
	table->bits = common->max_vasz_lg2;
	table->granule_lg2 = ilog2(SZ_4K);
	table->index_bits = ilog2(SZ_4K / sizeof(u64));
	table->coherent = !(common->features & BIT(PT_FEAT_DMA_INCOHERENT));
	table->grows = common->features & BIT(PT_FEAT_DYNAMIC_TOP);
	return true;
}
