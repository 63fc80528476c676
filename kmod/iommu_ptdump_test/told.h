/* SPDX-License-Identifier: GPL-2.0-only */
/* Domains whose driver tells nothing of their page table, see told.c. */
#ifndef __IOMMU_PTDUMP_TEST_TOLD_H
#define __IOMMU_PTDUMP_TEST_TOLD_H

#include <linux/io-pgtable.h>

#include "hw.h"

/**
 * struct ptt_told - what hardware was told of a domain's page table
 * @arm: of an SMMUv3
 * @table: of another IOMMU
 */
struct ptt_told {
	struct io_pgtable_cfg arm;
	struct ptt_table table;
};

/* told.c */
bool ptt_describe_told(struct ptt_domain *d, struct ptt_device *dev);

/* hw_domain.c */
void ptt_describe_arm(struct ptt_domain *d, unsigned int stage, const struct io_pgtable_cfg *cfg);

/* amd_v1.c */
#ifdef PTT_HAS_AMD_V1
bool ptt_describe_amd_v1(struct ptt_domain *d, struct ptt_device *dev);
#else
static inline bool ptt_describe_amd_v1(struct ptt_domain *d, struct ptt_device *dev)
{
	return false;
}
#endif

/* vtd.c */
#ifdef CONFIG_INTEL_IOMMU
void __iomem *ptt_vtd_map(struct device *unit);
int ptt_vtd_table(void __iomem *regs, struct pci_dev *pdev, struct ptt_table *table);
#else
static inline void __iomem *ptt_vtd_map(struct device *unit)
{
	return NULL;
}

static inline int ptt_vtd_table(void __iomem *regs, struct pci_dev *pdev, struct ptt_table *table)
{
	return -ENODEV;
}
#endif

#endif
