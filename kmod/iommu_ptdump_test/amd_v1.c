// SPDX-License-Identifier: GPL-2.0-only
/* AMD's domains with page tables of the driver's own: amd/io_pgtable.c before generic_pt */
#include <linux/bits.h>
#include <linux/io.h>
#include <linux/seqlock.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "amd/amd_iommu_types.h"
#include "told.h"

static struct protection_domain *own_of(const struct ptt_domain *d)
{
	return container_of(d->domain, struct protection_domain, domain);
}

static bool amd_v1_table(const struct ptt_domain *d, struct ptt_table *table)
{
	struct amd_io_pgtable *pgtable = &own_of(d)->iop;
	unsigned int seq;

	/* The table grows while it is in use */
	do {
		seq = read_seqcount_begin(&pgtable->seqcount);
		table->top = virt_to_phys(pgtable->root);
		table->levels = pgtable->mode;
	} while (read_seqcount_retry(&pgtable->seqcount, seq));
	table->bits = d->ias;
	table->granule_lg2 = ilog2(SZ_4K);
	table->index_bits = ilog2(SZ_4K / sizeof(u64));
	table->coherent = true;
	table->grows = true;
	return true;
}

/**
 * ptt_describe_amd_v1() - fill in format and sizes
 * @d: new domain
 * @dev: device that it was made for
 *
 * Return: false for another IOMMU, or another format of AMD's.
 */
bool ptt_describe_amd_v1(struct ptt_domain *d, struct ptt_device *dev)
{
	struct device *unit = dev->pdev->dev.iommu->iommu_dev->dev;
	struct protection_domain *domain = own_of(d);

	if (!strstarts(dev_name(unit), "ivhd") || domain->pd_mode != PD_MODE_V1)
		return false;
	d->format = "amdv1";
	/* cfg.ias says 52, which nobody heeds: the aperture has them all, and six levels */
	d->ias = BITS_PER_TYPE(u64);
	d->oas = domain->iop.pgtbl.cfg.oas;
	d->table = amd_v1_table;
	return true;
}
