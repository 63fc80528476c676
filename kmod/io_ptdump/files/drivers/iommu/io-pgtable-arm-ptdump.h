/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table dump of the long descriptor format
 *
 * Included by io-pgtable-arm.c, whose accessors it uses. The walk is one of its
 * own: __arm_lpae_iopte_walk() stops at the first hole and loads items twice.
 */
#ifndef __IO_PGTABLE_ARM_PTDUMP_H
#define __IO_PGTABLE_ARM_PTDUMP_H

#include <linux/bitfield.h>
#include <linux/rcupdate.h>

#include "iommu-ptdump.h"

#define ARM_LPAE_PTE_SH			GENMASK_ULL(9, 8)
#define ARM_LPAE_PTE_ATTRINDX		GENMASK_ULL(4, 2)
#define ARM_LPAE_PTE_MEMATTR		GENMASK_ULL(5, 2)
#define ARM_LPAE_PTE_CONT		BIT_ULL(52)
#define ARM_LPAE_PTE_PXN		BIT_ULL(53)
#define ARM_LPAE_PTE_UXN		BIT_ULL(54)

static const struct iommu_ptd_bits arm_lpae_ptd_s1_bits[] = {
	{ ARM_LPAE_PTE_SH, ARM_LPAE_PTE_SH_NS, "SH_NS" },
	{ ARM_LPAE_PTE_SH, ARM_LPAE_PTE_SH_OS, "SH_OS" },
	{ ARM_LPAE_PTE_SH, ARM_LPAE_PTE_SH_IS, "SH_IS" },
	{ ARM_LPAE_PTE_NS, ARM_LPAE_PTE_NS, "NS" },
	{ ARM_LPAE_PTE_nG, ARM_LPAE_PTE_nG, "nG" },
	{ ARM_LPAE_PTE_ATTRINDX, U64_MAX, "ATTR", IOMMU_PTD_FIELD },
	{ ARM_LPAE_PTE_PXN, ARM_LPAE_PTE_PXN, "PXN" },
	{ ARM_LPAE_PTE_UXN, ARM_LPAE_PTE_UXN, "UXN" },
	{ ARM_LPAE_PTE_AF, ARM_LPAE_PTE_AF, "AF", IOMMU_PTD_VOLATILE },
	{ ARM_LPAE_PTE_DBM, ARM_LPAE_PTE_DBM, "DBM", IOMMU_PTD_VOLATILE },
	{ ARM_LPAE_PTE_CONT, ARM_LPAE_PTE_CONT, "CONT", IOMMU_PTD_VOLATILE },
	{ ARM_LPAE_PTE_SW_SYNC, ARM_LPAE_PTE_SW_SYNC, "SW55",
	  IOMMU_PTD_VOLATILE },
	{}
};

static const struct iommu_ptd_bits arm_lpae_ptd_s2_bits[] = {
	{ ARM_LPAE_PTE_SH, ARM_LPAE_PTE_SH_NS, "SH_NS" },
	{ ARM_LPAE_PTE_SH, ARM_LPAE_PTE_SH_OS, "SH_OS" },
	{ ARM_LPAE_PTE_SH, ARM_LPAE_PTE_SH_IS, "SH_IS" },
	{ ARM_LPAE_PTE_MEMATTR, U64_MAX, "MEMATTR", IOMMU_PTD_FIELD },
	{ ARM_LPAE_PTE_XN, 0, "XN", IOMMU_PTD_FIELD },
	{ ARM_LPAE_PTE_AF, ARM_LPAE_PTE_AF, "AF", IOMMU_PTD_VOLATILE },
	{ ARM_LPAE_PTE_DBM, ARM_LPAE_PTE_DBM, "DBM", IOMMU_PTD_VOLATILE },
	{ ARM_LPAE_PTE_CONT, ARM_LPAE_PTE_CONT, "CONT", IOMMU_PTD_VOLATILE },
	{ ARM_LPAE_PTE_SW_SYNC, ARM_LPAE_PTE_SW_SYNC, "SW55",
	  IOMMU_PTD_VOLATILE },
	{}
};

static u8 arm_lpae_ptd_s1_prot(struct arm_lpae_io_pgtable *data,
			       arm_lpae_iopte pte)
{
	struct io_pgtable_cfg *cfg = &data->iop.cfg;
	unsigned int idx = FIELD_GET(ARM_LPAE_PTE_ATTRINDX, pte);
	u8 attr = cfg->arm_lpae_s1_cfg.mair >> ARM_LPAE_MAIR_ATTR_SHIFT(idx);
	u8 prot = IOMMU_READ;

	/* With dirty tracking a clean page is read-only until it is written */
	if (!(pte & ARM_LPAE_PTE_AP_RDONLY) ||
	    (cfg->quirks & IO_PGTABLE_QUIRK_ARM_HD && pte & ARM_LPAE_PTE_DBM))
		prot |= IOMMU_WRITE;
	if (pte & ARM_LPAE_PTE_XN)
		prot |= IOMMU_NOEXEC;
	if (!(attr & 0xf0))
		prot |= IOMMU_MMIO;
	else if (attr != ARM_LPAE_MAIR_ATTR_NC)
		prot |= IOMMU_CACHE;
	if (!(pte & ARM_LPAE_PTE_AP_UNPRIV))
		prot |= IOMMU_PRIV;
	return prot;
}

static u8 arm_lpae_ptd_s2_prot(struct arm_lpae_io_pgtable *data,
			       arm_lpae_iopte pte)
{
	bool fwb = data->iop.cfg.quirks & IO_PGTABLE_QUIRK_ARM_S2FWB;
	u64 memattr = pte & ARM_LPAE_PTE_MEMATTR;
	u8 prot = 0;

	if (pte & ARM_LPAE_PTE_HAP_READ)
		prot |= IOMMU_READ;
	if (pte & ARM_LPAE_PTE_HAP_WRITE)
		prot |= IOMMU_WRITE;
	/* XN[1]; with it set XN[0] tells who may not execute */
	if (pte & ARM_LPAE_PTE_UXN)
		prot |= IOMMU_NOEXEC;
	if (!(memattr >> 4))
		prot |= IOMMU_MMIO;
	else if (memattr == (fwb ? ARM_LPAE_PTE_MEMATTR_FWB_WB :
				   ARM_LPAE_PTE_MEMATTR_OIWB))
		prot |= IOMMU_CACHE;
	return prot;
}

static bool arm_lpae_ptd_is_s1(struct arm_lpae_io_pgtable *data)
{
	return data->iop.fmt == ARM_64_LPAE_S1 ||
	       data->iop.fmt == ARM_32_LPAE_S1;
}

/* Everything but where it is, from the one value that was loaded */
static void arm_lpae_ptd_decode(struct arm_lpae_io_pgtable *data, int lvl,
				arm_lpae_iopte pte, struct iommu_ptd_item *item)
{
	item->raw = pte;
	item->oa = iopte_to_paddr(pte, data);
	item->level = ARM_LPAE_MAX_LEVELS - 1 - lvl;
	item->any = pte;
	item->lg2sz = ARM_LPAE_LVL_SHIFT(lvl, data);
	item->prot = 0;

	if (!pte) {
		item->type = IOMMU_PTD_EMPTY;
		item->oa = 0;
	} else if (iopte_table(pte, lvl) &&
		   iommu_ptd_table_ok(item->oa, ARM_LPAE_GRANULE(data))) {
		item->type = IOMMU_PTD_TABLE;
	} else if (iopte_leaf(pte, lvl, data->iop.fmt) &&
		   data->iop.cfg.pgsize_bitmap & BIT_ULL(item->lg2sz) &&
		   !(item->oa & (BIT_ULL(item->lg2sz) - 1))) {
		item->type = IOMMU_PTD_LEAF;
		item->prot = arm_lpae_ptd_is_s1(data) ?
				     arm_lpae_ptd_s1_prot(data, pte) :
				     arm_lpae_ptd_s2_prot(data, pte);
	} else {
		item->type = IOMMU_PTD_BAD;
	}
}

static int arm_lpae_ptd_walk(void *table, struct iommu_ptd_cursor *c,
			     struct iommu_ptd_item *item, int n, int budget)
{
	struct arm_lpae_io_pgtable *data = io_pgtable_to_data(table);
	struct io_pgtable_cfg *cfg = &data->iop.cfg;
	u64 prefix = cfg->quirks & IO_PGTABLE_QUIRK_ARM_TTBR1 ?
			     ~(BIT_ULL(cfg->ias) - 1) : 0;
	int top = data->start_level, lvl = top, count = 0;
	arm_lpae_iopte *tables[ARM_LPAE_MAX_LEVELS];

	lockdep_assert_in_rcu_read_lock();
	if (c->path) {
		u64 iova = c->pos;

		c->pos = iova & (BIT_ULL(cfg->ias) - 1);
		c->end = (c->pos | prefix) != iova;
		if (c->end)
			return 0;
	}
	tables[top] = data->pgd;
	while (count < n && budget-- > 0) {
		u64 size = ARM_LPAE_BLOCK_SIZE(lvl, data);
		u64 start = c->pos & ~(size - 1);
		struct iommu_ptd_item *it = &item[count];
		arm_lpae_iopte pte;

		pte = READ_ONCE(tables[lvl][ARM_LPAE_LVL_IDX(c->pos, lvl, data)]);
		if (pte || c->path) {
			arm_lpae_ptd_decode(data, lvl, pte, it);
			it->iova = (c->path ? start : c->pos) | prefix;
			if (it->type == IOMMU_PTD_TABLE) {
				tables[++lvl] = phys_to_virt(it->oa);
				if (c->path || (start == c->pos &&
						it->level <= c->level)) {
					c->level = it->level - 1;
					count++;
				}
				continue;
			}
			if (it->type == IOMMU_PTD_LEAF && !c->path)
				it->oa += c->pos - start;
			count++;
		}

		c->pos = start + size;
		c->level = U8_MAX;
		if (c->path || c->pos >> cfg->ias) {
			c->end = true;
			break;
		}
		while (lvl > top &&
		       !(c->pos & (ARM_LPAE_BLOCK_SIZE(lvl - 1, data) - 1)))
			lvl--;
	}
	return count;
}

static void arm_lpae_ptd_info(void *table, struct iommu_ptd_info *info)
{
	struct arm_lpae_io_pgtable *data = io_pgtable_to_data(table);

	info->top = virt_to_phys(data->pgd);
	info->top_bytes = ARM_LPAE_PGD_SIZE(data);
	info->table_bytes = ARM_LPAE_GRANULE(data);
	info->levels = ARM_LPAE_MAX_LEVELS - data->start_level;
}

#define ARM_LPAE_PTD_OPS(fmt, stage)					\
static const struct iommu_ptd_ops fmt##_ptd_ops = {			\
	.format = #fmt,							\
	.bits = arm_lpae_ptd_##stage##_bits,				\
	.walk = arm_lpae_ptd_walk,					\
	.info = arm_lpae_ptd_info,					\
}

ARM_LPAE_PTD_OPS(arm_32_lpae_s1, s1);
ARM_LPAE_PTD_OPS(arm_32_lpae_s2, s2);
ARM_LPAE_PTD_OPS(arm_64_lpae_s1, s1);
ARM_LPAE_PTD_OPS(arm_64_lpae_s2, s2);

#endif /* __IO_PGTABLE_ARM_PTDUMP_H */
