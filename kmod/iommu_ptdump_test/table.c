// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a domain's page table is, as its hardware is told: from what the driver
 * writes into registers and descriptors. The dump under test is not asked.
 */
#include <linux/bits.h>
#include <linux/io.h>
#include <linux/io-pgtable.h>
#include <linux/sizes.h>

#include "ptdump_test.h"

/* Arm ARM, TCR_EL1: TG0 and TG1 code the granules differently, VTCR.TG does as TG0 */
#define TG0_64K		1
#define TG0_16K		2
#define TG1_16K		1
#define TG1_64K		3

static unsigned int arm_granule_lg2(const struct io_pgtable_cfg *cfg, bool s1)
{
	if (s1 && cfg->quirks & IO_PGTABLE_QUIRK_ARM_TTBR1) {
		switch (cfg->arm_lpae_s1_cfg.tcr.tg) {
		case TG1_16K:
			return ilog2(SZ_16K);
		case TG1_64K:
			return ilog2(SZ_64K);
		default:
			return ilog2(SZ_4K);
		}
	}
	switch (s1 ? cfg->arm_lpae_s1_cfg.tcr.tg : cfg->arm_lpae_s2_cfg.vtcr.tg) {
	case TG0_16K:
		return ilog2(SZ_16K);
	case TG0_64K:
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

/* ptt_read_words() - of what hardware reads and the CPU has written; 0 or -EFAULT */
int ptt_read_words(phys_addr_t at, u64 *words, unsigned int nr)
{
	__le64 *from = memremap(at, nr * sizeof(*words), MEMREMAP_WB);
	unsigned int i;

	if (!from)
		return -EFAULT;
	for (i = 0; i < nr; i++)
		words[i] = le64_to_cpu(READ_ONCE(from[i]));
	memunmap(from);
	return 0;
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
	if (d->arm_cfg) {
		arm_table(d->arm_cfg, d->stage == 1, table);
		return true;
	}
	return d->table ? d->table(d, table) : ptt_generic_pt_table(d, table);
}
