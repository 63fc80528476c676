/* SPDX-License-Identifier: GPL-2.0-only */
/* An SMMUv3's registers and tables, see smmu_v3.c. */
#ifndef __IOMMU_PTDUMP_TEST_SMMU_V3_H
#define __IOMMU_PTDUMP_TEST_SMMU_V3_H

#include <linux/types.h>

struct device;
struct io_pgtable_cfg;

#define PTT_SMMU_IDR0	0x0
#define PTT_SMMU_IDR1	0x4
#define PTT_SMMU_IDR3	0xc
#define PTT_SMMU_IDR5	0x14

void __iomem *ptt_smmu_v3_map(struct device *dev);
int ptt_smmu_v3_cfg(void __iomem *regs, u32 sid, struct io_pgtable_cfg *cfg);

#endif
