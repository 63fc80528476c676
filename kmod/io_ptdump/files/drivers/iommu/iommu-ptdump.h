/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table dump of IOMMU domains: between the directories and their files
 */
#ifndef __IOMMU_PTDUMP_H
#define __IOMMU_PTDUMP_H

struct iommu_ptd;

int ptd_create_files(struct iommu_ptd *ptd);

#endif /* __IOMMU_PTDUMP_H */
