// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a domain's page table is, as its hardware is told: from what the driver
 * writes into registers and descriptors. The dump under test is not asked.
 */
#include <linux/bits.h>
#include <linux/generic_pt/iommu.h>
#include <linux/io-pgtable.h>
#include <linux/sizes.h>

#include "io-pgtable-arm.h"
#include "ptdump_test.h"

/* TCR.TG0 and TG1 code the granules differently, VTCR.TG does as TG0 */
static unsigned int arm_granule_lg2(const struct io_pgtable_cfg *cfg, bool s1)
{
	if (s1 && cfg->quirks & IO_PGTABLE_QUIRK_ARM_TTBR1) {
		switch (cfg->arm_lpae_s1_cfg.tcr.tg) {
		case ARM_LPAE_TCR_TG1_16K:
			return ilog2(SZ_16K);
		case ARM_LPAE_TCR_TG1_64K:
			return ilog2(SZ_64K);
		default:
			return ilog2(SZ_4K);
		}
	}
	switch (s1 ? cfg->arm_lpae_s1_cfg.tcr.tg : cfg->arm_lpae_s2_cfg.vtcr.tg) {
	case ARM_LPAE_TCR_TG0_16K:
		return ilog2(SZ_16K);
	case ARM_LPAE_TCR_TG0_64K:
		return ilog2(SZ_64K);
	default:
		return ilog2(SZ_4K);
	}
}

/*
 * Stage 1 begins where the input size needs it, stage 2 where VTCR.SL0 says:
 * its first table may be several, one after the other.
 */
static void arm_table(const struct io_pgtable_cfg *cfg, bool s1, struct ptt_table *table)
{
	unsigned int bits, start;

	table->granule_lg2 = arm_granule_lg2(cfg, s1);
	table->index_bits = table->granule_lg2 - ilog2(sizeof(u64));
	if (s1) {
		bits = 64 - cfg->arm_lpae_s1_cfg.tcr.tsz;
		table->top = cfg->arm_lpae_s1_cfg.ttbr;
		table->levels = DIV_ROUND_UP(bits - table->granule_lg2, table->index_bits);
	} else {
		bits = 64 - cfg->arm_lpae_s2_cfg.vtcr.tsz;
		table->top = cfg->arm_lpae_s2_cfg.vttbr;
		start = ~cfg->arm_lpae_s2_cfg.vtcr.sl & 3;
		if (table->granule_lg2 == ilog2(SZ_4K))
			start--;
		table->levels = 4 - start;
	}
	table->bits = bits;
	table->coherent = cfg->coherent_walk;
	table->grows = false;
}

/* Every format's table begins with its pt_common, behind the pt_iommu */
static void generic_table(struct pt_iommu *iommu, struct ptt_table *table)
{
	const struct pt_common *common = (struct pt_common *)(iommu + 1);
	uintptr_t top = READ_ONCE(common->top_of_table);

	table->top = virt_to_phys((void *)(top & ~(uintptr_t)PT_TOP_LEVEL_MASK));
	table->levels = (top & PT_TOP_LEVEL_MASK) + 1;
	table->bits = common->max_vasz_lg2;
	table->granule_lg2 = ilog2(SZ_4K);
	table->index_bits = ilog2(SZ_4K / sizeof(u64));
	table->coherent = !(common->features & BIT(PT_FEAT_DMA_INCOHERENT));
	table->grows = common->features & BIT(PT_FEAT_DYNAMIC_TOP);
}

/**
 * ptt_get_table() - where a domain's page table is now
 * @d: domain
 * @table: filled
 *
 * Return: false for a kind of page table that is not known.
 */
bool ptt_get_table(const struct ptt_domain *d, struct ptt_table *table)
{
	struct pt_iommu *iommu = iommupt_from_domain(d->domain);

	if (d->arm_cfg)
		arm_table(d->arm_cfg, d->stage == 1, table);
	else if (iommu)
		generic_table(iommu, table);
	else
		return false;
	return true;
}
