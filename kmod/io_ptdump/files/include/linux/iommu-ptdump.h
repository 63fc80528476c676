/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table dump of IOMMU domains in debugfs
 */
#ifndef __LINUX_IOMMU_PTDUMP_H
#define __LINUX_IOMMU_PTDUMP_H

#include <linux/types.h>

struct iommu_domain;

#ifdef CONFIG_IOMMU_PTDUMP_DEBUGFS
void iommu_ptd_del(struct iommu_domain *domain);
void iommu_ptd_flush(void);
u32 iommu_ptd_id(const struct iommu_domain *domain);
#else
static inline void iommu_ptd_del(struct iommu_domain *domain)
{
}

static inline void iommu_ptd_flush(void)
{
}

static inline u32 iommu_ptd_id(const struct iommu_domain *domain)
{
	return 0;
}
#endif

#endif /* __LINUX_IOMMU_PTDUMP_H */
