/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table dump in debugfs: between the domains and their files
 */
#ifndef __IOMMU_PTDUMP_DOMAIN_H
#define __IOMMU_PTDUMP_DOMAIN_H

#include <linux/container_of.h>

#include "iommu-ptdump.h"

/**
 * struct iommu_ptd - The dump of one domain
 * @node: domains/<id>
 * @domain: Whose page table it is
 * @ops: How to read it
 * @table: What @ops take
 * @merge_mask: Bits that must be equal for neighbours to be one range
 * @id: Name of the directory, never 0
 */
struct iommu_ptd {
	struct iommu_ptd_node node;
	struct iommu_domain *domain;
	const struct iommu_ptd_ops *ops;
	void *table;
	u64 merge_mask;
	u32 id;
};

static inline struct iommu_ptd *node_to_ptd(struct iommu_ptd_node *node)
{
	return container_of(node, struct iommu_ptd, node);
}

void ptd_create_files(struct iommu_ptd_node *node);

#endif /* __IOMMU_PTDUMP_DOMAIN_H */
