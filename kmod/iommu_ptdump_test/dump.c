// SPDX-License-Identifier: GPL-2.0-only
/*
 * The C interface of the reference implementation of the dump, where the kernel
 * has it. Another dump is found by what its files say alone.
 */
#include "ptdump_test.h"

#if defined(PTT_HAS_DUMP) && IS_ENABLED(CONFIG_IOMMU_PTDUMP_DEBUGFS)
#include <linux/io-pgtable.h>
#include <linux/iommu-ptdump.h>

/* ptt_dump_id() - the name of the domain's directory, 0 where there is none or it is not known */
u32 ptt_dump_id(const struct iommu_domain *domain)
{
	return iommu_ptd_id(domain);
}

/* ptt_dump_add() - show a software table, which has no driver that would */
void ptt_dump_add(struct io_pgtable_ops *ops, struct iommu_domain *domain)
{
	io_pgtable_ptd_add(ops, domain);
}

/* ptt_dump_del() - do not show it any more; before the table goes */
void ptt_dump_del(struct iommu_domain *domain)
{
	iommu_ptd_del(domain);
}
#else
u32 ptt_dump_id(const struct iommu_domain *domain)
{
	return 0;
}

void ptt_dump_add(struct io_pgtable_ops *ops, struct iommu_domain *domain)
{
}

void ptt_dump_del(struct iommu_domain *domain)
{
}
#endif
